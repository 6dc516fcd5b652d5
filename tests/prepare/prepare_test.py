"""What `weft prepare` writes: tokens, labels, splits, and the files of training/data/shard.h."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import unittest
from unittest import mock

import numpy as np
from safetensors.numpy import save
from tokenizers import Tokenizer

from support import REAL_BASE, ROOT, ROWS, PrepareTestCase, rows_of, write_tiny_base
from weft_prepare import data_folder, pipeline
from weft_prepare.progress import progress

SENTENCES = ["tool to draw bits by counter", "Préparation des données: 5 Größen, 2 µs",
             "日本語 fonts for the X Window System", "a" * 300, "unaffable antidisestablishmentarianism", "x",
             "  spaces  around  ", "e-mail (SMTP/IMAP) server & client", "word " * 300]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TokensTest(PrepareTestCase):
    def sentences(self, sentences):
        lines = [f"train\tc\t{'ab'[i % 2]}\t{text}\n" for i, text in enumerate(sentences)]
        return self.write("sentences.tsv", "split\tclient\tlabel\ttext\n" + "".join(lines))

    def expected(self, sentences, max_length):
        tokenizer = Tokenizer.from_file(str(REAL_BASE / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        return [tokenizer.encode(text).ids for text in sentences]

    def prepared(self, sentences, *options):
        self.prepare(*options, data=self.sentences(sentences), base=REAL_BASE)
        return rows_of(self.out / "train.safetensors")[0]

    def test_tokens_are_those_of_the_real_tokenizer(self):
        rows = self.prepared(SENTENCES)
        self.assertEqual(rows, self.expected(SENTENCES, 128))
        self.assertTrue(all(row[0] == 101 and row[-1] == 102 for row in rows))
        self.assertEqual(max(map(len, rows)), 128)

    def test_tokens_differ_for_another_text(self):
        perturbed = [SENTENCES[0] + "s", *SENTENCES[1:]]
        rows, expected = self.prepared(perturbed), self.expected(SENTENCES, 128)
        self.assertNotEqual(rows[0], expected[0])
        self.assertEqual(rows[1:], expected[1:])

    def test_max_length_cuts_and_keeps_the_last_special_token(self):
        rows = self.prepared(SENTENCES, "--max-length", "7")
        self.assertEqual(rows, self.expected(SENTENCES, 7))
        self.assertEqual(max(map(len, rows)), 7)
        self.assertNotEqual(rows, self.expected(SENTENCES, 8))

    def test_many_chunks_keep_the_order(self):
        sentences = [f"package number {i}" for i in range(50)]
        with mock.patch.object(pipeline, "CHUNK_ROWS", 7), mock.patch.object(pipeline, "CHUNK_CHARACTERS", 60):
            self.assertEqual(self.prepared(sentences), self.expected(sentences, 128))

    def test_tokens_are_those_of_transformers(self):
        try:
            from transformers import AutoTokenizer
        except ImportError:
            self.skipTest("transformers is not installed; tests/requirements.txt has it")
        ids = AutoTokenizer.from_pretrained(REAL_BASE)(SENTENCES, truncation=True, max_length=128)["input_ids"]
        self.assertEqual(self.prepared(SENTENCES), ids)

    def test_padding_and_truncation_of_the_tokenizer_file_are_not_used(self):
        self.prepare()
        self.assertEqual(rows_of(self.out / "test.safetensors")[0], [[1, 4, 4, 5, 3, 2]])


class FolderTest(PrepareTestCase):
    def test_files_and_manifest(self):
        summary = self.prepare("--max-length", "64")
        self.assertEqual(sorted(path.name for path in self.out.iterdir()),
                         ["labels.txt", "manifest.json", "test.safetensors", "train.safetensors"])
        self.assertEqual(rows_of(self.out / "train.safetensors"), ([[1, 3, 4, 2], [1, 5, 2]], [2, 0]))
        manifest = self.manifest()
        digests = {name: sha256(self.out / f"{name}.safetensors") for name in ("train", "test")}
        self.assertEqual(manifest, {
            "format": "weft-data", "version": 1, "task": "sequence_classification", "labels": ["blue", "green", "red"],
            "tokenizer_sha256": sha256(self.base / "tokenizer.json"), "max_length": 64, "dropped": {},
            "splits": {"test": {"file": "test.safetensors", "rows": 1, "tokens": 6, "sha256": digests["test"]},
                       "train": {"file": "train.safetensors", "rows": 2, "tokens": 7, "sha256": digests["train"]}}})
        self.assertEqual(summary["splits"], {"test": {"rows": 1, "tokens": 6}, "train": {"rows": 2, "tokens": 7}})
        self.assertEqual(summary["labels"], {"blue": 1, "green": 1, "red": 1})
        self.assertEqual((summary["rows"], summary["tokens"]), (3, 13))

    def test_split_has_the_bytes_that_the_safetensors_library_writes(self):
        self.prepare()
        tensors = {"input_ids": np.array([1, 3, 4, 2, 1, 5, 2], np.int32), "row_offsets": np.array([0, 4, 7], np.int64),
                   "labels": np.array([2, 0], np.int32)}
        self.assertEqual((self.out / "train.safetensors").read_bytes(), save(tensors))

    def test_same_bytes_on_every_run_and_the_old_folder_is_replaced(self):
        self.prepare()
        first = {path.name: path.read_bytes() for path in self.out.iterdir()}
        self.prepare()
        self.assertEqual({path.name: path.read_bytes() for path in self.out.iterdir()}, first)
        self.prepare("--splits", "train")
        self.assertFalse((self.out / "test.safetensors").exists())
        self.assertEqual(sorted(path.name for path in self.root.iterdir()), ["base", "data.tsv", "out"])

    def test_folder_is_readable_as_the_umask_says(self):
        previous = os.umask(0o022)
        self.addCleanup(os.umask, previous)
        self.prepare(out=self.root / "new" / "deep")
        for path in [self.root / "new/deep", *(self.root / "new/deep").iterdir()]:
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o755 if path.is_dir() else 0o644, path)

    def test_empty_folder_is_taken(self):
        self.out.mkdir()
        self.prepare()
        self.assertTrue((self.out / "manifest.json").exists())

    def test_link_to_a_data_folder_stays_a_link(self):
        self.prepare(out=self.root / "real")
        self.out.symlink_to(self.root / "real")
        self.prepare("--splits", "train")
        self.assertTrue(self.out.is_symlink())
        self.assertFalse((self.root / "real/test.safetensors").exists())

    def test_summary_as_text(self):
        code, output, _ = self.run_prepare("--max-length", "4")
        self.assertEqual(code, 0)
        self.assertEqual(output, f"{self.out}: 3 rows, 11 tokens, 3 of 3 labels present\n"
                                 "  test: 1 rows, 4 tokens, 4.0 a row\n"
                                 "  train: 2 rows, 7 tokens, 3.5 a row\n"
                                 "  2 rows have 4 tokens, the most allowed\n")


class DroppedTest(PrepareTestCase):
    def test_rows_dropped_are_counted_by_reason(self):
        write_tiny_base(self.base, special=False)
        data = self.write("some.tsv", "label\ttext\nred\tone\nblue\ttwo\nblue\t  \n\ttwo\nred\t\nred\t\u2028\n")
        self.prepare("--test-fraction", "0", data=data)
        self.assertEqual(rows_of(self.out / "train.safetensors"), ([[3], [4]], [1, 0]))
        self.assertEqual(self.manifest()["dropped"], {"empty text": 3, "missing label": 1})
        output = self.run_prepare("--test-fraction", "0", data=data)[1]
        self.assertIn("  3 rows dropped: empty text\n  1 rows dropped: missing label\n", output)

    def test_only_rows_that_were_wanted_are_counted(self):
        data = self.write("some.tsv", ROWS + "train\tbob\tred\t\ntrain\tann\tred\t\ntest\tann\tred\t\n")
        summary = self.prepare("--client", "ann", "--splits", "train", data=data)
        self.assertEqual((summary["rows"], summary["dropped"]), (1, {"empty text": 1}))

    def test_text_without_tokens(self):
        write_tiny_base(self.base, special=False)
        content = json.loads((self.base / "tokenizer.json").read_text())
        content["normalizer"] = {"type": "Replace", "pattern": {"String": "gone"}, "content": ""}
        (self.base / "tokenizer.json").write_text(json.dumps(content))
        data = self.write("some.tsv", "label\ttext\nred\tone\nblue\ttwo\nblue\tgone\n")
        self.assertEqual(self.prepare("--test-fraction", "0", data=data)["dropped"], {"text without tokens": 1})

    def test_split_of_which_every_row_is_dropped(self):
        data = self.write("some.tsv", ROWS.replace("two two three one", ""))
        self.assert_refused("INVALID_ARGUMENT", 'split "test" is empty', "1 dropped (empty text)", data=data)


class LabelsTest(PrepareTestCase):
    def test_labels_file_fixes_the_class_ids(self):
        labels = self.write("labels.txt", "green\r\nred\r\nnever\r\nblue\r\n")
        summary = self.prepare("--labels", labels)
        self.assertEqual(rows_of(self.out / "train.safetensors")[1], [1, 3])
        self.assertEqual(self.manifest()["labels"], ["green", "red", "never", "blue"])
        self.assertEqual((self.out / "labels.txt").read_text(), "green\nred\nnever\nblue\n")
        self.assertEqual(summary["labels"]["never"], 0)

    def test_derived_labels_are_those_of_all_clients_sorted(self):
        self.prepare("--client", "bob", "--splits", "train")
        self.assertEqual((self.out / "labels.txt").read_text(), "blue\ngreen\nred\n")
        self.assertEqual(rows_of(self.out / "train.safetensors"), ([[1, 5, 2]], [0]))

    def test_written_labels_file_gives_the_same_folder(self):
        self.prepare()
        self.prepare("--labels", self.out / "labels.txt", out=self.root / "again")
        self.assertEqual(self.manifest(), self.manifest(self.root / "again"))


class SelectionTest(PrepareTestCase):
    def test_other_column_names(self):
        data = self.write("own.tsv", ROWS.replace("split\tclient\tlabel\ttext", "part\twho\tclass\tsentence"))
        self.prepare("--label-column", "class", "--text-column", "sentence", "--split-column", "part",
                     "--client-column", "who", "--client", "ann", data=data)
        self.assertEqual(rows_of(self.out / "train.safetensors"), ([[1, 3, 4, 2]], [2]))
        self.assertEqual(rows_of(self.out / "test.safetensors")[1], [1])

    def test_clients_of_a_file(self):
        clients = self.write("clients", "ann\n\nbob\n")
        self.assertEqual(self.prepare("--clients-file", clients)["rows"], 3)
        self.assertEqual(self.prepare("--client", "ann,bob")["rows"], 3)
        self.assertEqual(self.prepare("--client", "ann")["rows"], 2)

    def many(self):
        lines = [f"{'ab'[i % 2]}\tone two {i // 2}\n" for i in range(2000)]
        return self.write("many.tsv", "label\ttext\n" + "".join(lines))

    def test_test_fraction_is_drawn_by_the_text(self):
        summary = self.prepare("--test-fraction", "0.25", data=self.many())
        # 1,000 texts: six standard deviations of a fair draw.
        self.assertLess(abs(summary["splits"]["test"]["rows"] / 2 - 250), 6 * (1000 * 0.25 * 0.75) ** 0.5)
        labels = rows_of(self.out / "test.safetensors")[1]
        self.assertEqual(labels, [0, 1] * (len(labels) // 2), "the two rows of a text are in one split")

    def test_test_fraction_without_split_column_is_a_tenth(self):
        self.prepare(data=self.many())
        self.prepare("--test-fraction", "0.1", data=self.many(), out=self.root / "tenth")
        self.assertEqual(self.manifest(), self.manifest(self.root / "tenth"))

    def test_test_fraction_zero_is_all_train(self):
        self.assertEqual(list(self.prepare("--test-fraction", "0", data=self.many())["splits"]), ["train"])

    def test_another_seed_draws_other_test_rows(self):
        folders = []
        data = self.write("many.tsv", "label\ttext\n" + "".join(f"{'ab'[i % 2]}\t{'one ' * i}\n" for i in range(1, 100)))
        for name, seed in (("a", 0), ("b", 1), ("c", 1), ("d", 2)):
            self.prepare("--test-fraction", "0.25", "--seed", seed, data=data, out=self.root / name)
            folders.append((self.root / name / "test.safetensors").read_bytes())
        self.assertEqual(folders[1], folders[2])
        self.assertEqual(len(set(folders)), 3)

    def test_test_fraction_stands_above_a_split_column(self):
        self.assertEqual(self.prepare("--test-fraction", "0")["splits"]["train"]["rows"], 3)

    def test_file_with_byte_order_mark_windows_lines_and_quotes(self):
        data = self.write("w.tsv", b'\xef\xbb\xbflabel\ttext\r\nred\t"one\r\nblue\tone" two\r\n')
        self.assertEqual(self.prepare("--test-fraction", "0", data=data)["rows"], 2)
        self.assertEqual(rows_of(self.out / "train.safetensors")[0], [[1, 0, 3, 2], [1, 3, 0, 4, 2]])

    def test_text_longer_than_csv_takes_by_itself(self):
        data = self.write("long.tsv", "label\ttext\nred\t" + "one " * 50_000 + "\nblue\ttwo\n")
        self.assertEqual(self.prepare("--test-fraction", "0", data=data)["tokens"], 128 + 3)


class ProcessTest(PrepareTestCase):
    """The package as `weft prepare` starts it."""

    def start(self, *options, **environment):
        command = [sys.executable, "-m", "weft_prepare", self.data, "--base", self.base, "--out", self.out, *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "PYTHONPATH": str(ROOT / "tools/prepare"), **environment})

    def finish(self, process):
        output, problems = process.communicate(timeout=60)
        return process.returncode, output, problems

    def test_run_as_module(self):
        code, output, problems = self.finish(self.start("--format", "json"))
        self.assertEqual((code, problems), (0, ""))
        self.assertEqual(json.loads(output)["rows"], 3)

    def test_help(self):
        code, output, _ = self.finish(self.start("--help"))
        self.assertEqual(code, 0)
        for word in ("weft prepare", "--labels", "--test-fraction", "Exit codes"):
            self.assertIn(word, output)

    def test_interpreter_without_tokenizers(self):
        shadow = self.root / "shadow"
        shutil.copytree(ROOT / "tools/prepare/weft_prepare", shadow / "weft_prepare")
        (shadow / "tokenizers.py").write_text("raise ImportError('No module named tokenizers')\n")
        code, _, problems = self.finish(self.start(PYTHONPATH=str(shadow)))
        self.assertEqual(code, 5)
        self.assertRegex(problems, r"^weft prepare: FAILED_PRECONDITION: .*tokenizers.*deploy/requirements.txt.*\n$")

    def test_stopped_while_it_writes(self):
        """SIGTERM comes when the temporary folder is there: told by a FIFO, read where encoding would be."""
        fifo = self.root / "fifo"
        os.mkfifo(fifo)
        script = ("import sys; from weft_prepare import cli, encoder\n"
                  f"encoder.Encoder.encode = lambda *_: open({str(fifo)!r}).read()\n"
                  "sys.exit(cli.main(sys.argv[1:]))")
        process = subprocess.Popen([sys.executable, "-c", script, self.data, "--base", self.base, "--out", self.out],
                                   stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "PYTHONPATH": str(ROOT / "tools/prepare")})
        with open(fifo, "w"):  # opens once the other side does
            self.assertTrue(list(self.root.glob(".out.*.new")))
            process.send_signal(signal.SIGTERM)
            _, problems = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 7, problems)
        self.assertRegex(problems, r"^weft prepare: CANCELLED: .*\n$")
        self.assertEqual(sorted(path.name for path in self.root.iterdir()), ["base", "data.tsv", "fifo"])


class ProgressTest(PrepareTestCase):
    def test_bars_are_for_terminals_alone(self):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        for stderr, shown in ((Terminal(), True), (io.StringIO(), False)):
            with contextlib.redirect_stderr(stderr):
                rows = list(progress(range(3), "encoding", total=3))
            self.assertEqual(rows, [0, 1, 2])
            self.assertEqual("weft prepare: encoding" in stderr.getvalue(), shown)


class ReplaceTest(PrepareTestCase):
    def test_old_folder_stays_when_the_new_one_cannot_take_its_place(self):
        self.prepare()
        before = self.manifest()
        rename = os.rename

        def refuse_new(source, target):
            if str(source).endswith(".new"):
                raise OSError(28, "No space left on device", str(target))
            rename(source, target)

        with mock.patch.object(data_folder.os, "rename", refuse_new):
            self.assert_refused("RESOURCE_EXHAUSTED", "No space left", "free some space", options=("--splits", "train"))
        self.assertEqual(self.manifest(), before)


if __name__ == "__main__":
    unittest.main()
