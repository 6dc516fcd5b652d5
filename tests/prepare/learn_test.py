"""Texts to learn, conversations, pairs: which tokens are written, and which of them are to be learnt."""

import json
import unittest

from safetensors.numpy import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from support import PrepareTestCase, rows_of, write_tiny_base
from weft_prepare.chat import ChatTemplate
from weft_prepare.encoder import Encoder
from weft_prepare.readers.record import Dropped

NO_TEST = ("--test-fraction", "0")
SPECIAL = ["<s>", "</s>", "<|start|>", "<|end|>"]
PLAIN = ("{% for m in messages %}{{ '<|start|>' + m.role + '\\n' + m['content'] + '<|end|>' + '\\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}")
MARKED = """{{ bos_token }}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|start|>assistant\\n' }}
        {%- generation %}{{ m.content | trim }}{{ '<|end|>' }}{% endgeneration %}
    {%- else %}
        {{- '<|start|>' + m.role + '\\n' + m.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}"""
STRICT = """{{ bos_token }}{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% if m.role == 'user' %}[Q] {{ m.content }} [/Q]{% elif m.tool_calls is defined %}{{ m.tool_calls | tojson }}
{%- else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"""
# Leaves the reasoning of all turns but the last one out, as Qwen3's does.
FORGETFUL = """{% for m in messages %}{{ '<|start|>' + m.role + '\\n' }}
{%- if m.reasoning_content and loop.last %}{{ '[' + m.reasoning_content + ']' }}{% endif %}
{{- m.content + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"""


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


TALK = [turn("user", "Grüße, how?"), turn("assistant", "So: 日本"), turn("user", "x"), turn("assistant", "fine <s> y")]


def write_byte_base(folder, template=None, bos=False, end="</s>"):
    """Every byte a token, behind it the special ones; a tokenizer that transformers loads too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 256)])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "chat_template": template}
    if end:
        config["eos_token"] = {"__type": "AddedToken", "content": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


class LearnTestCase(PrepareTestCase):
    def jsonl(self, *rows):
        return self.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def learn(self, *rows, options=()):
        """(the text of all tokens, that of those to learn) of each row, and the summary."""
        summary = self.prepare(*NO_TEST, "--task", "causal_lm", "--max-length", "512", *options, data=self.jsonl(*rows))
        tensors = load_file(self.out / "train.safetensors")
        ids, _ = rows_of(self.out / "train.safetensors")
        self.assertEqual(tensors["learn"].shape, tensors["input_ids"].shape)
        found, start = [], 0
        tokenizer = Tokenizer.from_file(str(self.base / "tokenizer.json"))
        for row in ids:
            learn = tensors["learn"][start:start + len(row)]
            start += len(row)
            found.append(tuple(tokenizer.decode(part, skip_special_tokens=False)
                               for part in (row, [token for token, one in zip(row, learn) if one])))
        return found, summary


class PlainTest(LearnTestCase):
    def test_whole_text_and_its_end(self):
        write_byte_base(self.base, bos=True)
        rows, summary = self.learn({"text": "Grüße"}, {"text": ""}, {"text": "b"})
        self.assertEqual(rows, [("<s>Grüße</s>", "Grüße</s>"), ("<s>b</s>", "b</s>")])
        self.assertEqual(summary["dropped"], {"empty text": 1})
        self.assertEqual((self.manifest()["task"], self.manifest()["labels"]), ("causal_lm", []))
        self.assertFalse((self.out / "labels.txt").exists())

    def test_end_is_not_written_twice(self):
        write_byte_base(self.base)
        self.assertEqual(self.learn({"text": "ab</s>"})[0], [("ab</s>", "ab</s>")])

    def test_end_of_the_config_or_none(self):
        write_byte_base(self.base, end=None)
        self.assertEqual(self.learn({"text": "ab"})[0], [("ab", "ab")])
        for end in ("257", "[257, 258]"):
            (self.base / "config.json").write_text(f'{{"eos_token_id": {end}}}')
            self.assertEqual(self.learn({"text": "ab"})[0], [("ab</s>", "ab</s>")])

    def test_too_short(self):
        write_byte_base(self.base, end=None)
        rows, summary = self.learn({"text": "ab"}, {"text": "c"})
        self.assertEqual(rows, [("ab", "ab")])
        self.assertEqual(summary["dropped"], {"too short: no token behind the first to learn": 1})

    def test_long_text_keeps_its_first_tokens(self):
        write_byte_base(self.base, bos=True)
        rows, summary = self.learn({"text": "abcdef"}, options=("--max-length", "4"))
        self.assertEqual(rows, [("<s>abc", "abc")])
        self.assertEqual(summary["rows_at_max_length"], 1)


class PromptTest(LearnTestCase):
    def test_completion_alone_is_learnt(self):
        write_byte_base(self.base, bos=True)
        rows, summary = self.learn({"prompt": "Q é ", "completion": "日 A"}, {"prompt": "Q", "completion": None})
        self.assertEqual(rows, [("<s>Q é 日 A</s>", "日 A</s>")])
        self.assertEqual(summary["dropped"], {"empty text": 1})

    def test_other_columns(self):
        write_byte_base(self.base)
        options = ("--prompt-column", "q", "--completion-column", "a")
        self.assertEqual(self.learn({"q": "1", "a": "2", "text": "x"}, options=options)[0], [("12</s>", "2</s>")])
        self.assert_refused("INVALID_ARGUMENT", 'no column "b"', "--completion-column", data=self.root / "rows.jsonl",
                            options=("--task", "causal_lm", "--prompt-column", "q", "--completion-column", "b"))

    def test_completion_behind_the_longest_length(self):
        write_byte_base(self.base)
        rows, summary = self.learn({"prompt": "long prompt", "completion": "x"}, {"prompt": "p", "completion": "xyz"},
                                   options=("--max-length", "3"))
        self.assertEqual(rows, [("pxy", "xy")])
        self.assertEqual(summary["dropped"], {"nothing to learn within --max-length": 1})

    def test_token_over_the_border_is_learnt(self):
        write_tiny_base(self.base)
        self.prepare(*NO_TEST, "--task", "causal_lm", data=self.jsonl({"prompt": "one tw", "completion": "o three"}))
        tensors = load_file(self.out / "train.safetensors")
        self.assertEqual(tensors["input_ids"].tolist(), [1, 3, 4, 5, 2])
        self.assertEqual(tensors["learn"].tolist(), [0, 0, 1, 1, 0])


class ChatTest(LearnTestCase):
    def chat(self, template, *talks):
        write_byte_base(self.base, template)
        return self.learn(*({"messages": talk} for talk in talks))

    def test_turns_of_the_assistant_are_learnt(self):
        rows, summary = self.chat(PLAIN, TALK)
        self.assertEqual(rows[0][1], "So: 日本<|end|>\nfine <s> y<|end|>\n")
        self.assertEqual(rows[0][0], "".join(f"<|start|>{m['role']}\n{m['content']}<|end|>\n" for m in TALK))
        self.assertNotIn("conversations_with_only_the_last_turn_learnt", summary)

    def test_generation_blocks_say_what_is_learnt(self):
        self.assertEqual(self.chat(MARKED, TALK)[0][0][1], "So: 日本<|end|>fine <s> y<|end|>")

    def test_template_file_and_named_templates(self):
        write_byte_base(self.base, "no")
        (self.base / "chat_template.jinja").write_text(PLAIN)
        self.assertIn("fine", self.learn({"messages": TALK})[0][0][1])
        (self.base / "chat_template.jinja").unlink()
        named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": PLAIN}]
        self.assertIn("fine", self.chat(named, TALK)[0][0][1])

    def test_turns_that_are_written_otherwise_later(self):
        talk = [TALK[0], turn("assistant", "A", thinking="hm"), TALK[2], turn("assistant", "B", reasoning="so")]
        rows, summary = self.chat(FORGETFUL, talk, TALK)
        self.assertEqual([learnt for _, learnt in rows], ["[so]B<|end|>", "So: 日本<|end|>fine <s> y<|end|>"])
        self.assertEqual(summary["conversations_with_only_the_last_turn_learnt"], 1)
        self.assertIn("of 1 conversations only the last turn is learnt",
                      self.run_prepare(*NO_TEST, "--task", "causal_lm", data=self.root / "rows.jsonl")[1])

    def test_dropped(self):
        talks = [[turn("user", "a")], [turn("assistant", "a")], [turn("user", "a"), turn("user", "b"), TALK[1]], [], "text",
                 [{"content": "x"}], TALK, [turn("user", 3), TALK[1]]]
        rows, summary = self.chat(STRICT, *talks)
        self.assertEqual([learnt for _, learnt in rows], [" So: 日本</s> fine <s> y</s>", " So: 日本</s>"])
        self.assertEqual(summary["dropped"], {
            "conversation without a turn of the assistant": 1, "conversation without messages": 1,
            "conversation refused by the chat template: roles must alternate": 2,
            "conversation that is no list of messages with a role": 2})

    def test_refusals(self):
        data = self.jsonl({"messages": TALK})
        for template, code, words in ((None, "NOT_FOUND", "no chat template"), ("{% if", "INVALID_ARGUMENT", "jinja2"),
                                      ([{"name": "tool_use", "template": "x"}], "NOT_FOUND", "no chat template")):
            write_byte_base(self.base, template)
            self.assert_refused(code, words, data=data, options=("--task", "causal_lm"))

    def test_template_has_no_way_out_of_the_sandbox(self):
        write_byte_base(self.base, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
        template = ChatTemplate(self.base, {})
        self.assertIn("refused by the chat template", template.learnt(TALK).reason)
        write_byte_base(self.base, "{{ messages.append(1) }}")
        self.assertIsInstance(ChatTemplate(self.base, {}).learnt(TALK), Dropped)


class TransformersTest(PrepareTestCase):
    def test_chat_is_that_of_transformers(self):
        try:
            from transformers import AutoTokenizer
        except ImportError:
            self.skipTest("transformers is not installed; tests/requirements.txt has it")
        called = [TALK[0], turn("assistant", None, tool_calls=[{"name": "f<>&", "arguments": {"ä": 1}}], weight=None)]
        reasoned = [TALK[0], turn("assistant", "A", thinking="hm")]
        for template in (PLAIN, MARKED, STRICT, FORGETFUL):
            write_byte_base(self.base, template)
            theirs = AutoTokenizer.from_pretrained(self.base)
            encoder = Encoder(self.base, 512)
            ours = ChatTemplate(self.base, encoder.special_tokens)
            for talk in (TALK, TALK[:2], TALK[:1], reasoned) + ((called,) if template == STRICT else ()):
                for prompt in (False, True):
                    text = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt)
                    self.assertEqual(ours.render(talk, prompt), text)
            text, _, _ = ours.learnt(TALK)
            ids = theirs.apply_chat_template(TALK)["input_ids"]
            self.assertEqual(encoder.encode_whole([text], special=False)[0][0], ids)

    def test_what_is_learnt_is_the_assistants_mask_of_transformers(self):
        try:
            from transformers import AutoTokenizer
        except ImportError:
            self.skipTest("transformers is not installed; tests/requirements.txt has it")
        write_byte_base(self.base, MARKED)
        data = self.write("rows.jsonl", json.dumps({"messages": TALK}) + "\n")
        self.prepare(*NO_TEST, "--task", "causal_lm", "--max-length", "512", data=data)
        tensors = load_file(self.out / "train.safetensors")
        found = AutoTokenizer.from_pretrained(self.base).apply_chat_template(TALK, return_assistant_tokens_mask=True)
        self.assertEqual(tensors["input_ids"].tolist(), found["input_ids"])
        self.assertEqual(tensors["learn"].tolist(), found["assistant_masks"])
        self.assertIn(1, found["assistant_masks"])


class PairsTest(PrepareTestCase):
    def test_pairs(self):
        data = self.write("rows.csv", "text,partner\none,two three\nthree,\none two three,one\n")
        summary = self.prepare(*NO_TEST, "--task", "sentence_embedding", "--max-length", "4", data=data)
        self.assertEqual(rows_of(self.out / "train.safetensors"),
                         ([[1, 3, 2], [1, 4, 5, 2], [1, 3, 4, 2], [1, 3, 2]], None))
        self.assertEqual((summary["rows"], summary["rows_at_max_length"], summary["dropped"]), (2, 2, {"empty text": 1}))
        self.assertEqual(self.manifest()["splits"]["train"]["rows"], 2)

    def test_other_columns(self):
        data = self.write("rows.csv", "a,b\none,two\n")
        options = (*NO_TEST, "--task", "sentence_embedding", "--text-column", "a")
        self.prepare(*options, "--partner-column", "b", data=data)
        self.assert_refused("INVALID_ARGUMENT", 'no column "partner"', "--partner-column", data=data, options=options)


if __name__ == "__main__":
    unittest.main()
