"""`weft generate`: text into a base's tokens, the binary's tokens back into text; what it refuses.

The real weft-generate is bazel-bin/training/generate/weft-generate, or $WEFT_GENERATE.
"""

import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools/generate"), str(ROOT / "tools/prepare"), str(ROOT / "tests/golden/families")]

import make_fixtures  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402
from weft_generate.cli import main  # noqa: E402

BINARY = os.environ.get("WEFT_GENERATE", str(ROOT / "bazel-bin/training/generate/weft-generate"))
BEGIN, END, ROLE = 1, 2, 3  # special tokens
TEMPLATE = ("{{ bos_token }}{% for message in messages %}<role>{{ message.role }} {{ message.content }}{% endfor %}"
            "{% if add_generation_prompt %}<role>assistant{% endif %}")
# Writes its command line and its stdin to files, then tokens as told.
FAKE = """#!/bin/sh
echo "$*" > {folder}/arguments
cat > {folder}/stdin
printf '{tokens}'
{end}
"""


def write_tokenizer(folder):
    """Words w4, w5, ... are tokens 4, 5, ...; [BEGIN] in front of a text."""
    vocabulary = {"[PAD]": 0, "[BEGIN]": BEGIN, "[END]": END, "<role>": ROLE} | {f"w{i}": i for i in range(4, 94)}
    vocabulary |= {"system": 94, "user": 95, "assistant": 96}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("[BEGIN] $A", special_tokens=[("[BEGIN]", BEGIN)])
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.add_special_tokens(["[PAD]", "[BEGIN]", "[END]", "<role>"])
    tokenizer.enable_truncation(4)  # which generation takes off
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "[BEGIN]", "eos_token": "[END]", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


class GenerateTestCase(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)
        self.base = self.root / "base"
        self.base.mkdir()
        write_tokenizer(self.base)
        self.binary = self.fake("4 5 6\\n")

    def fake(self, tokens, end=""):
        path = self.root / "fake"
        path.write_text(FAKE.format(folder=self.root, tokens=tokens, end=end))
        path.chmod(0o755)
        return path

    def run_generate(self, *options, base=None):
        """Exit code, stdout, stderr."""
        arguments = ["--binary", self.binary, "--base", base or self.base, *options]
        output, problems = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(problems):
            code = main([str(argument) for argument in arguments])
        return code, output.getvalue(), problems.getvalue()

    def ids(self, *options):
        """What the binary was given to go on from."""
        # What goes on from a text begins with a space here, an answer does not.
        self.assertEqual(self.run_generate(*options), (0, "w4 w5 w6\n" if "--chat" in options else " w4 w5 w6\n", ""))
        return list(map(int, (self.root / "stdin").read_text().split()))

    def assert_refused(self, code, line_begins, *words, options, base=None):
        found, output, problems = self.run_generate(*options, base=base)
        self.assertEqual((found, output, problems.count("\n")), (code, "", 1), problems)
        self.assertTrue(problems.startswith(f"weft generate: {line_begins}: "), problems)
        for word in words:
            self.assertIn(word, problems)


class PromptTest(GenerateTestCase):
    def test_text_becomes_tokens_and_tokens_text(self):
        self.assertEqual(self.ids("--prompt", "w10 w11 w12 w13 w14 w15"), [BEGIN, 10, 11, 12, 13, 14, 15])

    def test_file_is_the_prompt(self):
        (self.root / "prompt.txt").write_text("w10\nw11\n")
        self.assertEqual(self.ids("--prompt-file", self.root / "prompt.txt"), [BEGIN, 10, 11])

    def test_options_reach_the_binary(self):
        self.run_generate("--prompt", "w10", "--adapter", "there", "--max-new-tokens", "9", "--compute", "bf16", "--device", "cuda")
        self.assertEqual((self.root / "arguments").read_text().strip(),
                         f"--base {self.base} --max-new-tokens 9 --compute bf16 --device cuda --threads 0 --adapter there --stop {END}")

    def test_stops_are_all_that_the_base_names(self):
        (self.base / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
        (self.base / "config.json").write_text('{"eos_token_id": 9}')
        self.run_generate("--prompt", "w10")
        self.assertIn(f"--stop {END} --stop 7 --stop 8\n", (self.root / "arguments").read_text())

    def test_special_tokens_are_not_shown(self):
        self.binary = self.fake(f"4 {END}\\n")
        self.assertEqual(self.run_generate("--prompt", "w10"), (0, " w4\n", ""))

    def test_code_of_the_binary(self):
        self.binary = self.fake("", "exit 6")
        self.assertEqual(self.run_generate("--prompt", "w10"), (6, "", ""))


class ChatTest(GenerateTestCase):
    def test_message(self):
        self.assertEqual(self.ids("--chat", "--message", "w10"), [BEGIN, ROLE, 95, 10, ROLE, 96])

    def test_turns_behind_the_system(self):
        options = ["--chat", "--system", "w20", "--message", "w10", "--message", "w11", "--message", "w12"]
        self.assertEqual(self.ids(*options), [BEGIN, ROLE, 94, 20, ROLE, 95, 10, ROLE, 96, 11, ROLE, 95, 12, ROLE, 96])

    def test_no_user_last(self):
        for messages in ([], ["--message", "w1", "--message", "w2"]):
            self.assert_refused(2, "INVALID_ARGUMENT", "--message", "user's last", options=["--chat", *messages])

    def test_message_without_chat(self):
        self.assert_refused(2, "INVALID_ARGUMENT", "--chat", options=["--prompt", "w10", "--message", "w1"])

    def test_no_template(self):
        (self.base / "tokenizer_config.json").unlink()
        self.assert_refused(3, "NOT_FOUND", "chat template", options=["--chat", "--message", "w1"])

    def test_template_that_refuses(self):
        (self.base / "chat_template.jinja").write_text("{{ raise_exception('no system here') }}")
        self.assert_refused(2, "INVALID_ARGUMENT", "no system here", options=["--chat", "--system", "w1", "--message", "w1"])


class RefusalsTest(GenerateTestCase):
    def test_command_line(self):
        for options in ([], ["--prompt", "w1", "--chat"], ["--prompt", "w1", "--max-new-tokens", "0"], ["--prompt", "w1", "--compute", "f16"]):
            self.assert_refused(2, "INVALID_ARGUMENT", "weft generate --help", options=options)

    def test_no_base(self):
        self.assert_refused(3, "NOT_FOUND", "nowhere", "--base", options=["--prompt", "w1"], base=self.root / "nowhere")

    def test_no_tokenizer(self):
        (self.base / "tokenizer.json").unlink()
        self.assert_refused(3, "NOT_FOUND", "tokenizer.json", "AutoTokenizer", options=["--prompt", "w1"])

    def test_tokenizer_that_is_none(self):
        (self.base / "tokenizer.json").write_text("{}")
        self.assert_refused(2, "INVALID_ARGUMENT", "not a tokenizer", options=["--prompt", "w1"])

    def test_empty_prompt(self):
        self.binary = self.fake("")
        (self.root / "empty").write_text("")
        tokenizer = Tokenizer.from_file(str(self.base / "tokenizer.json"))
        tokenizer.post_processor = processors.TemplateProcessing("$A", special_tokens=[])
        tokenizer.save(str(self.base / "tokenizer.json"))
        self.assert_refused(2, "INVALID_ARGUMENT", "no token", options=["--prompt-file", self.root / "empty"])

    def test_no_prompt_file(self):
        self.assert_refused(3, "NOT_FOUND", "nothing.txt", options=["--prompt-file", self.root / "nothing.txt"])

    def test_prompt_file_that_is_no_text(self):
        (self.root / "bytes").write_bytes(b"\xff\xfe")
        self.assert_refused(2, "INVALID_ARGUMENT", "UTF-8", options=["--prompt-file", self.root / "bytes"])

    def test_no_binary(self):
        self.binary = self.root / "nowhere"
        self.assert_refused(3, "NOT_FOUND", "nowhere", options=["--prompt", "w1"])


class RealBinaryTest(GenerateTestCase):
    """Its own refusals are lines of its own."""

    def setUp(self):
        super().setUp()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.binary = BINARY

    def real_base(self, name):
        folder = make_fixtures.make(name, self.root)
        write_tokenizer(folder)
        return folder

    def test_text_is_that_of_transformers(self):
        base = self.real_base("llama")
        model = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
        ids = torch.tensor([[BEGIN, 10, 11, 12]])
        new = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)[0, 4:]
        expected = Tokenizer.from_file(str(base / "tokenizer.json")).decode(new.tolist())
        self.assertEqual(self.run_real("--prompt", "w10 w11 w12", "--max-new-tokens", "20", base=base), (0, f" {expected}\n", ""))
        self.assertNotEqual(self.run_real("--prompt", "w10 w11 w13", "--max-new-tokens", "20", base=base)[1], f" {expected}\n")

    def run_real(self, *options, base):
        """As run_generate, with the binary's stderr."""
        with tempfile.TemporaryFile() as file:
            kept = os.dup(2)
            os.dup2(file.fileno(), 2)
            try:
                code, output, problems = self.run_generate(*options, base=base)
            finally:
                os.dup2(kept, 2)
                os.close(kept)
            file.seek(0)
            return code, output, problems + file.read().decode()

    def assert_binary_refuses(self, base, *words, options=()):
        code, output, problems = self.run_real("--prompt", "w10 w11", *options, base=base)
        self.assertEqual((code, output), (2, ""), problems)
        self.assertTrue(problems.startswith("weft-generate: INVALID_ARGUMENT: "), problems)
        for word in words:
            self.assertIn(word, problems)

    def test_base_that_is_no_language_model(self):
        self.assert_binary_refuses(self.real_base("bert"), "causal_lm")

    def test_more_tokens_than_positions(self):
        self.assert_binary_refuses(self.real_base("llama"), "66 positions", options=["--max-new-tokens", "64"])

    def test_adapter_of_another_task(self):
        adapter = self.root / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        self.assert_binary_refuses(self.real_base("llama"), "adapter_config.json", options=["--adapter", adapter])


if __name__ == "__main__":
    unittest.main()
