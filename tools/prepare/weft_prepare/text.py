"""Texts into token ids, by the tokenizer of the base."""

import hashlib
import json
import os

from weft_prepare.errors import PrepareError

FILE = "tokenizer.json"


class Encoder:
    """Special tokens are in, padding is not; longer texts are cut at `max_length`, whatever tokenizer.json says."""

    def __init__(self, base, max_length):
        self.max_length = max_length
        self._path = path = os.path.join(base, FILE)
        if not os.path.isdir(base):
            raise PrepareError("NOT_FOUND", f"{base}: no such folder; give --base the Hugging Face folder of the base")
        if not os.path.isfile(path):
            raise PrepareError("NOT_FOUND", f"{base}: no {FILE} there; save the base's fast tokenizer into it "
                               "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(folder))")
        with open(path, "rb") as file:
            content = file.read()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._tokenizer = _load(path, content)
        self._check_max_length(base)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    def encode(self, texts):
        """One list of ids for each text."""
        try:
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
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


def _load(path, content):
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise PrepareError("INVALID_ARGUMENT", f"{path}: not a tokenizer ({error}); expected the {FILE} of a fast "
                           "tokenizer; fetch the base again") from None


def _positions(base):
    """max_position_embeddings of the base's config.json, or None where it names none."""
    try:
        with open(os.path.join(base, "config.json"), encoding="utf-8") as file:
            value = json.load(file).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None  # the daemon judges the base; only the tokenizer is needed here
    return value if isinstance(value, int) else None
