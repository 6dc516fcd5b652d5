"""What each task makes of a row of input: which columns it reads, and what it writes."""

import json
from typing import Any, NamedTuple

import numpy as np

from weft_prepare.chat import ChatTemplate
from weft_prepare.readers.record import Dropped

EMPTY = Dropped("empty text")
NO_TOKENS = Dropped("text without tokens")
TOO_SHORT = Dropped("too short: no token behind the first to learn")
CUT_AWAY = Dropped("nothing to learn within --max-length")


class Column(NamedTuple):
    name: str
    option: str  # that names it


def _text(fields, column):
    value = fields.get(column)
    if isinstance(value, Dropped):
        return value
    if value is None:
        return EMPTY
    if not isinstance(value, str):
        value = str(value) if isinstance(value, (int, float)) else None
    return Dropped("text that is none") if value is None else value if value.strip() else EMPTY


class TextTask:
    """A text and its label."""

    name = "sequence_classification"
    labelled = True
    texts_per_row = 1
    learns = False

    def __init__(self, encoder, text):
        self.encoder = encoder
        self.columns = [Column(text, "--text-column")]
        self._text = text

    def content(self, fields):
        """What encode takes, or Dropped."""
        return _text(fields, self._text)

    def key(self, content, place):
        """Rows of the same key are in the same split."""
        return content.encode("utf-8", "surrogatepass")

    def characters(self, content):
        return len(content)

    def encode(self, contents):
        """For each the texts of its row, as lists of ids, or Dropped."""
        return [[ids] if ids else NO_TOKENS for ids in self.encoder.encode(contents)]


class PairsTask:
    """Two texts that belong together."""

    name = "sentence_embedding"
    labelled = False
    texts_per_row = 2
    learns = False

    def __init__(self, encoder, text, partner):
        self.encoder = encoder
        self.columns = [Column(text, "--text-column"), Column(partner, "--partner-column")]

    def content(self, fields):
        texts = [_text(fields, column.name) for column in self.columns]
        return next((text for text in texts if isinstance(text, Dropped)), texts)

    def key(self, content, place):
        return content[0].encode("utf-8", "surrogatepass")

    def characters(self, content):
        return len(content[0]) + len(content[1])

    def encode(self, contents):
        ids = self.encoder.encode([text for pair in contents for text in pair])
        return [pair if all(pair) else NO_TOKENS for pair in zip(ids[::2], ids[1::2])]


class Learnt(NamedTuple):
    """A text to learn from."""

    text: str
    spans: Any  # [start, end) in characters of what is to be learnt
    special: bool  # special tokens of the tokenizer around it
    end: bool  # the token that ends a text behind it, to be learnt


class _LearnTask:
    name = "causal_lm"
    labelled = False
    texts_per_row = 1
    learns = True

    def __init__(self, encoder):
        self.encoder = encoder

    def encode(self, contents):
        """For each [(ids, which are to be learnt)], or Dropped."""
        rows = [self.learnt(content) for content in contents]
        for special in (False, True):
            chosen = [i for i, row in enumerate(rows) if isinstance(row, Learnt) and row.special == special]
            if chosen:
                encoded = self.encoder.encode_whole([rows[i].text for i in chosen], special)
                for i, (ids, offsets) in zip(chosen, encoded):
                    rows[i] = self._cut(ids, _mask(offsets, rows[i].spans), rows[i].end)
        return rows

    def _cut(self, ids, learn, end):
        if end and self.encoder.end is not None:
            if not ids or ids[-1] != self.encoder.end:
                ids, learn = [*ids, self.encoder.end], [*learn, 0]
            learn[-1] = 1
        if 1 not in learn[1:]:
            return TOO_SHORT if ids else NO_TOKENS
        ids, learn = ids[:self.encoder.max_length], learn[:self.encoder.max_length]
        return [(ids, learn)] if 1 in learn[1:] else CUT_AWAY


def _mask(offsets, spans):
    """1 for each token that overlaps one of the spans, which ascend."""
    mask, span = [0] * len(offsets), 0
    for i, (start, end) in enumerate(offsets):
        while span < len(spans) and start >= spans[span][1]:
            span += 1
        if span == len(spans):
            break
        if end > spans[span][0]:
            mask[i] = 1
    return mask


class PlainTask(_LearnTask):
    """A text, all of it to be learnt."""

    def __init__(self, encoder, text):
        super().__init__(encoder)
        self.columns = [Column(text, "--text-column")]
        self._text = text

    def content(self, fields):
        return _text(fields, self._text)

    def key(self, content, place):
        return content.encode("utf-8", "surrogatepass")

    def characters(self, content):
        return len(content)

    def learnt(self, content):
        return Learnt(content, [(0, len(content))], special=True, end=True)


class PromptTask(_LearnTask):
    """A prompt and its completion, which follows it as it is, and alone is to be learnt."""

    def __init__(self, encoder, prompt, completion):
        super().__init__(encoder)
        self.columns = [Column(prompt, "--prompt-column"), Column(completion, "--completion-column")]

    def content(self, fields):
        texts = [_text(fields, column.name) for column in self.columns]
        return next((text for text in texts if isinstance(text, Dropped)), texts)

    def key(self, content, place):
        return content[0].encode("utf-8", "surrogatepass")

    def characters(self, content):
        return len(content[0]) + len(content[1])

    def learnt(self, content):
        prompt, completion = content
        return Learnt(prompt + completion, [(len(prompt), len(prompt) + len(completion))], special=True, end=True)


class ChatTask(_LearnTask):
    """Messages, of which the assistant's are to be learnt; `last_only` counts those of which only the last one is."""

    def __init__(self, encoder, base, messages):
        super().__init__(encoder)
        self.columns = [Column(messages, "--messages-column")]
        self.last_only = 0
        self._messages = messages
        self._template = ChatTemplate(base, encoder.special_tokens)

    def content(self, fields):
        messages = fields.get(self._messages)
        if not messages:
            return Dropped("conversation without messages")
        if not isinstance(messages, list) or not all(isinstance(m, dict) and isinstance(m.get("role"), str)
                                                     for m in messages):
            return Dropped("conversation that is no list of messages with a role")
        return messages

    def key(self, content, place):
        return json.dumps(content, sort_keys=True, default=str).encode()

    def characters(self, content):
        return sum(len(str(message.get("content", ""))) for message in content)

    def learnt(self, content):
        found = self._template.learnt(content)
        if isinstance(found, Dropped):
            return found
        text, spans, last_only = found
        self.last_only += last_only
        return Learnt(text, spans, special=False, end=False)


class ImageTask:
    """An image and its label."""

    name = "image_classification"
    labelled = True
    texts_per_row = 0
    learns = False
    encoder = None

    def __init__(self, image_format, image):
        self.format = image_format
        self.columns = [Column(image, "--image-column")]
        self._image = image

    def content(self, fields):
        image = fields.get(self._image)
        if isinstance(image, (Dropped, np.ndarray)):
            return image
        if isinstance(image, str):
            image = {"path": image, "bytes": None}
        if not isinstance(image, dict) or (image.get("path") is None and image.get("bytes") is None):
            return Dropped("missing image")
        return image

    def key(self, content, place):
        return place.encode("utf-8", "surrogatepass")

    def characters(self, content):
        return self.format.channels * self.format.height * self.format.width

    def encode(self, contents):
        """For each its pixels, or Dropped."""
        return [self.format.decode(image) for image in contents]
