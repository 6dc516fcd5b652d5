"""Texts into token ids, by the tokenizer of the base."""

import hashlib
import json
import os

from weft_prepare.errors import PrepareError

FILE = "tokenizer.json"


def read_json(folder, name):
    """A file of the base as a dict; empty where there is none: the daemon judges the base."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def check_base(base):
    if not os.path.isdir(base):
        raise PrepareError("NOT_FOUND", f"{base}: no such folder; give --base the Hugging Face folder of the base")


class Encoder:
    """Special tokens are in, padding is not; longer texts are cut at `max_length`, whatever tokenizer.json says."""

    def __init__(self, base, max_length):
        check_base(base)
        self.max_length = max_length
        self._path = path = os.path.join(base, FILE)
        if not os.path.isfile(path):
            raise PrepareError("NOT_FOUND", f"{base}: no {FILE} there; save the base's fast tokenizer into it "
                               "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(folder))")
        with open(path, "rb") as file:
            content = file.read()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._tokenizer = _load(path, content)
        self._check_max_length(base)
        self.special_tokens = special_tokens_of(base)
        self.end = self._end_token(base)
        self._tokenizer.no_padding()

    def encode(self, texts):
        """One list of ids for each text; a cut text keeps its last special tokens."""
        self._tokenizer.enable_truncation(self.max_length)
        return [encoding.ids for encoding in self._encode(self._tokenizer.encode_batch_fast, texts)]

    def encode_whole(self, texts, special):
        """(ids, offsets in characters) for each text, not cut; `special`: with special tokens."""
        self._tokenizer.no_truncation()
        encodings = self._encode(self._tokenizer.encode_batch, texts, add_special_tokens=special)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def _encode(self, encode, texts, **how):
        try:
            return encode(texts, **how)
        except Exception as error:  # the library raises nothing narrower
            raise PrepareError("INVALID_ARGUMENT", f"{self._path}: cannot encode a text ({error}); fetch "
                               "the base again") from None

    def _check_max_length(self, base):
        special = self._tokenizer.num_special_tokens_to_add(False)
        if self.max_length <= special:
            raise PrepareError("INVALID_ARGUMENT", f"--max-length {self.max_length} leaves no room beside the "
                               f"{special} special tokens of {base}; give at least {special + 1}")
        positions = _positions(base)
        if positions is not None and self.max_length > positions:
            raise PrepareError("INVALID_ARGUMENT", f"--max-length {self.max_length} is more than the {positions} "
                               f"positions of {base}; give at most {positions}")

    def _end_token(self, base):
        """Id of the token that ends a text, or None where the base names none."""
        if "eos_token" in self.special_tokens:
            return self._tokenizer.token_to_id(self.special_tokens["eos_token"])
        found = read_json(base, "config.json").get("eos_token_id")
        found = found[0] if isinstance(found, list) and found else found
        return found if isinstance(found, int) else None


def _load(path, content):
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise PrepareError("INVALID_ARGUMENT", f"{path}: not a tokenizer ({error}); expected the {FILE} of a fast "
                           "tokenizer; fetch the base again") from None


def special_tokens_of(base):
    """bos_token, eos_token and the like -> their text, as chat templates name them."""
    tokens = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in read_json(base, name).items():
            value = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(value, str):
                tokens[key] = value
    return tokens


def _positions(base):
    """How many tokens the base's config.json allows, or None where it does not say."""
    config = read_json(base, "config.json")
    value = config.get("max_position_embeddings", config.get("n_positions"))
    if not isinstance(value, int):
        return None
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert"):  # count positions from behind the padding's
        value -= config.get("pad_token_id", 1) + 1
    return value
