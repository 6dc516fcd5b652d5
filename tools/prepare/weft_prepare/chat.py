"""Conversations into text by the tokenizer's chat template, and which parts of it the assistant says.

Templates are untrusted: they run in jinja2's sandbox. Options, filters and functions are those that templates are
written for (transformers, "Chat templates").
"""

import datetime
import json
import os
import re
import uuid

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from weft_prepare.encoder import read_json
from weft_prepare.errors import PrepareError
from weft_prepare.readers.record import Dropped

ASSISTANT = "assistant"
# Names for what a model thinks before it answers; templates read the first, some the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: what is in it is the assistant's, and comes out between two marks."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller):
        opening, closing = self.environment.marks
        return f"{opening}{caller()}{closing}"


def _raise(message):
    raise jinja2.TemplateError(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment(marks):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.marks = marks
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _template_of(base):
    """The text of the base's template."""
    path = os.path.join(base, "chat_template.jinja")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            return file.read()
    found = read_json(base, "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # named ones
        found = next((entry.get("template") for entry in found if entry.get("name") == "default"), None)
    if not isinstance(found, str):
        raise PrepareError("NOT_FOUND", f"{base}: no chat template: neither chat_template.jinja nor a chat_template in "
                           "tokenizer_config.json; save the base's tokenizer there, or prepare a prompt and a "
                           "completion column instead")
    return found


class ChatTemplate:
    def __init__(self, base, special_tokens):
        self._special_tokens = special_tokens
        # Marks that no text holds by chance.
        self._marks = tuple(f"\0{uuid.uuid4().hex}{sign}" for sign in "<>")
        text = _template_of(base)
        self._marked = re.search(r"\{%-?\s*generation\s*-?%\}", text) is not None
        try:
            self._template = _environment(self._marks).from_string(text)
        except jinja2.TemplateError as error:
            raise PrepareError("INVALID_ARGUMENT", f"{base}: the chat template is not one of jinja2 ({error}); fetch "
                               "the base again") from None

    def render(self, messages, prompt=False):
        """The text; `prompt`: up to where the assistant is to go on."""
        return self._parts(self._render(messages, prompt))[0]

    def learnt(self, messages):
        """(text, the assistant's spans [start, end) in it, whether those of earlier turns are missing), or Dropped.

        A template without {% generation %} is rendered up to each turn of the assistant and with it. Some write an
        earlier turn otherwise once there is a later one (Qwen3 leaves its reasoning out): then only the last one is
        known.
        """
        turns = [i for i, message in enumerate(messages) if message["role"] == ASSISTANT]
        if not turns:
            return Dropped("conversation without a turn of the assistant")
        try:
            text, spans = self._parts(self._render(messages))
        except Exception as error:  # the template's own refusals, and what its code meets in the data
            why = f": {' '.join(str(error).split())[:120]}" if type(error) is jinja2.TemplateError else ""
            return Dropped(f"conversation refused by the chat template{why}")
        if self._marked:
            return (text, spans, False) if spans else Dropped("conversation without a turn of the assistant")
        spans = [self._span(messages, turn, text) for turn in turns]
        if spans[-1] is None:
            return Dropped("conversation of which the chat template tells no turns apart")
        known = [span for span in spans if span is not None]
        return text, known, len(known) < len(spans)

    def _span(self, messages, turn, text):
        """None when what comes before the turn, or with it, is not how `text` begins."""
        try:
            before = self.render(messages[:turn], prompt=True)
            if not text.startswith(before):
                before = self.render(messages[:turn])
            after = text if turn + 1 == len(messages) else self.render(messages[:turn + 1])
        except Exception:  # as above: some templates refuse a part of what they take whole
            return None
        if text.startswith(before) and text.startswith(after) and len(before) < len(after):
            return len(before), len(after)
        return None

    def _render(self, messages, prompt=False):
        return self._template.render(messages=[_message(message) for message in messages], tools=None, documents=None,
                                     add_generation_prompt=prompt, **self._special_tokens)

    def _parts(self, marked):
        """The text without marks, and the spans that were between them."""
        opening, closing = self._marks
        text, spans, length = [], [], 0
        for part in re.split(f"({re.escape(opening)}|{re.escape(closing)})", marked):
            if part == opening:
                spans.append([length, length])
            elif part == closing:
                spans[-1][1] = length
            else:
                text.append(part)
                length += len(part)
        return "".join(text), [tuple(span) for span in spans]


def _message(message):
    """As templates expect it: no name without a value, and reasoning under the names that they read."""
    message = {key: value for key, value in message.items() if value is not None}
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message
