"""Text into a base's tokens, and tokens back into text as they come."""

import os

from weft_prepare.chat import ChatTemplate
from weft_prepare.encoder import FILE, read_json, special_tokens_of
from weft_prepare.errors import PrepareError


class Text:
    def __init__(self, base):
        from tokenizers import Tokenizer

        if not os.path.isdir(base):
            raise PrepareError("NOT_FOUND", f"{base}: no such folder; give --base the Hugging Face folder of the base")
        path = os.path.join(base, FILE)
        if not os.path.isfile(path):
            raise PrepareError("NOT_FOUND", f"{base}: no {FILE} there; save the base's fast tokenizer into it "
                               "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(folder))")
        try:
            self._tokenizer = Tokenizer.from_file(path)
        except Exception as error:  # the library raises nothing narrower
            raise PrepareError("INVALID_ARGUMENT", f"{path}: not a tokenizer ({error}); fetch the base again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._base = base
        self._special_tokens = special_tokens_of(base)

    def prompt(self, text):
        """With the special tokens that the tokenizer puts around a text."""
        return self._encode(text, True)

    def conversation(self, messages):
        """By the base's chat template, up to where the assistant is to answer. The template writes special tokens."""
        try:
            text = ChatTemplate(self._base, self._special_tokens).render(messages, prompt=True)
        except PrepareError:
            raise
        except Exception as error:  # the template's own refusals, and what its code meets in the messages
            raise PrepareError("INVALID_ARGUMENT", f"{self._base}: the chat template refuses the conversation ({error}); "
                               "give other messages, or --prompt") from None
        return self._encode(text, False)

    def stops(self):
        """Tokens that end a text: those of generation_config.json, else of config.json; and the tokenizer's own."""
        found = []
        for file in ("generation_config.json", "config.json"):
            value = read_json(self._base, file).get("eos_token_id")
            found += value if isinstance(value, list) else [] if value is None else [value]
            if found:
                break
        if "eos_token" in self._special_tokens:
            found.append(self._tokenizer.token_to_id(self._special_tokens["eos_token"]))
        return sorted({token for token in found if isinstance(token, int)})

    def decoder(self, ids):
        """A function from the next token to the text that it completes, possibly none. `ids`: what the text goes on from;
        none: it stands alone."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(ids=ids, skip_special_tokens=True)
        return lambda token: stream.step(self._tokenizer, token) or ""

    def _encode(self, text, special):
        ids = self._tokenizer.encode(text, add_special_tokens=special).ids
        if not ids:
            raise PrepareError("INVALID_ARGUMENT", "the prompt has no token; give some text to go on from")
        return ids
