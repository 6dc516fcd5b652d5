"""Each refusal of `weft prepare`: its code, one line that says what was found and what to do, nothing left behind."""

import errno
import json
import os
import unittest
from unittest import mock

from support import ROWS, PrepareTestCase, write_tiny_base
from weft_prepare import data_folder, selection
from weft_prepare.encoder import Encoder
from weft_prepare.readers import delimited

NO_TEST = ("--test-fraction", "0")


class FileRefusalsTest(PrepareTestCase):
    def refused_data(self, content, *words, options=()):
        self.assert_refused("INVALID_ARGUMENT", "bad.tsv", *words, data=self.write("bad.tsv", content), options=options)

    def test_file_missing(self):
        self.assert_refused("NOT_FOUND", "nosuch.tsv", "no such file", data=self.root / "nosuch.tsv")

    def test_file_is_a_folder(self):
        for kind in ("tsv", "csv", "jsonl"):
            self.assert_refused("INVALID_ARGUMENT", "not a regular file", data=self.base, options=("--kind", kind))

    def test_kind_that_cannot_be_told(self):
        self.assert_refused("INVALID_ARGUMENT", "cannot tell", "--kind", "tsv, csv, jsonl", data=self.base)
        self.assert_refused("INVALID_ARGUMENT", "cannot tell", "--kind", data=self.write("data.xyz", ROWS))
        self.prepare("--kind", "tsv", data=self.root / "data.xyz")

    def test_file_empty(self):
        self.refused_data("", "empty file", "header line")

    def test_file_with_header_only(self):
        self.refused_data("label\ttext\n", "no rows")

    def test_column_missing(self):
        self.refused_data("label\tbody\nred\tone\n", 'no column "text"', "label, body", "--text-column")
        self.refused_data("class\ttext\nred\tone\n", 'no column "label"', "class, text", "--label-column")
        self.refused_data(ROWS, 'no column "part"', "--split-column", options=("--split-column", "part"))
        self.refused_data("label\ttext\nred\tone\n", 'no column "client"', "--client-column",
                          options=("--client", "ann"))

    def test_column_twice(self):
        self.refused_data("label\ttext\ttext\nred\tone\ttwo\n", '2 columns "text"')

    def test_header_line_empty(self):
        self.refused_data("\nred\tone\n", "an empty line")

    def test_fields_too_few_too_many_none(self):
        self.refused_data(ROWS + "train\tann\tred\n", "line 5", "found 3 fields", "expected 4")
        self.refused_data(ROWS + "train\tann\tred\tone\ttwo\n", "line 5", "found 5 fields", "expected 4")
        self.refused_data(ROWS + "\n", "line 5", "an empty line", "expected 4")

    def test_carriage_return_within_a_line(self):
        self.refused_data("label\ttext\nred\tone\rtwo\n", "line 2", "one row a line")

    def test_not_utf8(self):
        self.refused_data(b"label\ttext\nred\tone\nred\tcaf\xe9\n", "line 3", "not UTF-8", "byte 8", "0xe9")

    def test_line_too_long(self):
        with mock.patch.object(delimited, "MAX_LINE_BYTES", 1 << 20):
            self.refused_data(b"label\ttext\nred\t" + b"x" * (1 << 20) + b"\n", "line 2", "longer than 1 MiB")

    def test_file_changed_between_the_two_readings(self):
        data = self.write("changing.tsv", "label\ttext\nred\tone\nblue\ttwo\n")
        read = selection.Selection.read
        for changed in ("black\tone\nblue\ttwo\n", "red\tone\n", "red\tone\nblue\ttwo\nred\ttwo\n", "red\t\nblue\ttwo\n"):

            def read_then_change(self, labels):
                found = read(self, labels)
                data.write_text("label\ttext\n" + changed)
                return found

            data.write_text("label\ttext\nred\tone\nblue\ttwo\n")
            with mock.patch.object(selection.Selection, "read", read_then_change):
                self.assert_refused("FAILED_PRECONDITION", "changed while it was read", data=data, options=NO_TEST)


class LabelRefusalsTest(PrepareTestCase):
    def refused_labels(self, content, *words):
        self.assert_refused("INVALID_ARGUMENT", *words, options=("--labels", self.write("labels.txt", content)))

    def test_label_outside_the_set(self):
        self.refused_labels("red\ngreen\n", "line 3", 'label "blue"', "2 labels")

    def test_label_outside_the_set_of_rows_not_wanted_is_let_be(self):
        self.prepare("--labels", self.write("labels.txt", "red\ngreen\n"), "--client", "ann")

    def test_labels_of_a_task_without_labels(self):
        labels = self.write("labels.txt", "red\nblue\n")
        self.assert_refused("INVALID_ARGUMENT", "--labels for task causal_lm",
                            options=("--labels", labels, "--task", "causal_lm"))

    def test_labels_one(self):
        data = self.write("bad.tsv", "label\ttext\nred\tone\n")
        self.assert_refused("INVALID_ARGUMENT", 'only the label "red"', "at least 2", data=data, options=NO_TEST)

    def test_labels_file_missing(self):
        self.assert_refused("NOT_FOUND", "nosuch", "one label a line", options=("--labels", self.root / "nosuch"))

    def test_labels_file_empty(self):
        self.refused_labels("", "no label", "at least 2")

    def test_labels_file_with_a_label_twice(self):
        self.refused_labels("red\nblue\nred\n", '"red" is there twice')

    def test_labels_file_with_an_empty_line(self):
        self.refused_labels("red\n\nblue\n", "label 2 is empty")

    def test_labels_file_not_utf8(self):
        self.refused_labels(b"red\nbl\xfce\n", "not UTF-8")


class SelectionRefusalsTest(PrepareTestCase):
    def test_split_empty_for_the_clients_named(self):
        self.assert_refused("INVALID_ARGUMENT", 'split "test" is empty', "--splits train", options=("--client", "bob"))

    def test_split_named_that_is_not_there(self):
        self.assert_refused("INVALID_ARGUMENT", 'split "dev" is empty', options=("--splits", "train,dev"))

    def test_split_train_missing(self):
        data = self.write("bad.tsv", "split\tlabel\ttext\ntest\tred\tone\ntest\tblue\tone\n")
        self.assert_refused("INVALID_ARGUMENT", 'split "train" is empty', "--splits test", data=data)

    def test_split_test_drawn_empty(self):
        data = self.write("bad.tsv", "label\ttext\nred\tone\nblue\tone\n")
        self.assert_refused("INVALID_ARGUMENT", 'split "test" is empty', data=data, options=("--test-fraction", "1e-9"))

    def test_split_name_unfit_for_a_file(self):
        for name in ("", "../x", "a b", ".hidden"):
            data = self.write("bad.tsv", f"split\tlabel\ttext\n{name}\tred\tone\n")
            self.assert_refused("INVALID_ARGUMENT", "line 2", f'split "{name}"', data=data)

    def test_splits_too_many(self):
        data = self.write("bad.tsv", "split\tlabel\ttext\n" + "".join(f"s{i}\tred\tone\n" for i in range(17)))
        self.assert_refused("INVALID_ARGUMENT", "line 18", "more than 16 splits", "--split-column", data=data)

    def test_client_without_rows(self):
        self.assert_refused("INVALID_ARGUMENT", 'client "zoe"', "2 clients", '"ann"', options=("--client", "ann,zoe"))

    def test_clients_file_missing_empty_not_utf8(self):
        self.assert_refused("NOT_FOUND", "nosuch", options=("--clients-file", self.root / "nosuch"))
        empty = self.write("clients", "\n")
        self.assert_refused("INVALID_ARGUMENT", "names no client", options=("--clients-file", empty))
        latin = self.write("clients", b"\xe9\n")
        self.assert_refused("INVALID_ARGUMENT", "not UTF-8", options=("--clients-file", latin))

    def test_client_column_alone(self):
        self.assert_refused("INVALID_ARGUMENT", "--client-column without", options=("--client-column", "client"))


class PartitionRefusalsTest(PrepareTestCase):
    def test_options_that_do_not_fit_the_rule(self):
        for options in (["--num-clients", "2"], ["--alpha", "1"], ["--min-rows", "2"],
                        ["--partition", "column", "--num-clients", "2"],
                        ["--partition", "iid", "--num-clients", "2", "--alpha", "1"], ["--partition", "iid"],
                        ["--partition", "dirichlet", "--alpha", "1"], ["--partition", "dirichlet", "--num-clients", "2"]):
            self.assert_refused("INVALID_ARGUMENT", "--partition", options=options)

    def test_too_few_rows(self):
        self.assert_refused("INVALID_ARGUMENT", "2 rows to train on for 3 clients",
                            options=("--partition", "iid", "--num-clients", "3"))
        self.assert_refused("INVALID_ARGUMENT", "largest of 2 clients has 1 rows",
                            options=("--partition", "column", "--min-rows", "2"))

    def test_client_that_cannot_name_a_folder(self):
        data = self.write("bad.tsv", "split\tclient\tlabel\ttext\ntrain\t../x\tred\tone\ntrain\ta\tblue\tone\n")
        self.assert_refused("INVALID_ARGUMENT", 'client "../x"', "rename", data=data, options=("--partition", "column"))

    def test_label_column_missing_for_dirichlet(self):
        data = self.write("bad.tsv", "text\none\n")
        self.assert_refused("INVALID_ARGUMENT", 'no column "label"', "--label-column", data=data,
                            options=("--task", "causal_lm", "--partition", "dirichlet", "--num-clients", "1", "--alpha", "1"))


class BaseRefusalsTest(PrepareTestCase):
    def test_base_missing(self):
        self.assert_refused("NOT_FOUND", "nosuch", "--base", base=self.root / "nosuch")

    def test_tokenizer_missing(self):
        (self.base / "tokenizer.json").unlink()
        self.assert_refused("NOT_FOUND", "no tokenizer.json", "save_pretrained")

    def test_tokenizer_damaged(self):
        for content in (b"{}", b"not json", b"\xff\xfe"):
            (self.base / "tokenizer.json").write_bytes(content)
            self.assert_refused("INVALID_ARGUMENT", "tokenizer.json", "not a tokenizer")

    def test_tokenizer_that_cannot_encode_a_text(self):
        content = json.loads((self.base / "tokenizer.json").read_text())
        del content["model"]["vocab"]["[UNK]"]
        (self.base / "tokenizer.json").write_text(json.dumps(content))
        data = self.write("bad.tsv", "label\ttext\nred\tone\nblue\tunknown\n")
        self.assert_refused("INVALID_ARGUMENT", "tokenizer.json", "cannot encode", data=data, options=NO_TEST)

    def test_max_length_without_room_for_a_word(self):
        self.assert_refused("INVALID_ARGUMENT", "--max-length 2", "at least 3", options=("--max-length", "2"))

    def test_max_length_beyond_the_positions(self):
        (self.base / "config.json").write_text('{"max_position_embeddings": 16}')
        self.assert_refused("INVALID_ARGUMENT", "--max-length 17", "at most 16", options=("--max-length", "17"))
        self.prepare("--max-length", "16")
        (self.base / "config.json").write_text('{"n_positions": 12}')
        self.assert_refused("INVALID_ARGUMENT", "at most 12", options=("--max-length", "16"))
        roberta = {"model_type": "roberta", "max_position_embeddings": 18, "pad_token_id": 1}
        (self.base / "config.json").write_text(json.dumps(roberta))
        self.assert_refused("INVALID_ARGUMENT", "at most 16", options=("--max-length", "17"))

    def test_base_left_out(self):
        code, _, problems = self.run_without_base()
        self.assertEqual(code, 2)
        self.assertIn("--base", problems)


class OutputRefusalsTest(PrepareTestCase):
    def test_folder_that_is_no_data_folder(self):
        self.out.mkdir()
        (self.out / "thesis.txt").write_text("mine")
        self.assert_refused("ALREADY_EXISTS", str(self.out), "another --out")
        (self.out / "manifest.json").write_text('{"format": "other"}')
        self.assert_refused("ALREADY_EXISTS", str(self.out), "another --out")

    def test_data_folder_with_something_else_in_it(self):
        self.prepare()
        (self.out / "notes.md").write_text("mine")
        self.assert_refused("ALREADY_EXISTS", "notes.md", "would be lost")

    def test_clients_with_something_else_among_them(self):
        self.prepare("--partition", "column")
        (self.out / "clients/ann/notes.md").write_text("mine")
        self.assert_refused("ALREADY_EXISTS", "notes.md", "would be lost")
        (self.out / "clients/ann/notes.md").unlink()
        (self.out / "clients/thesis").mkdir()
        (self.out / "clients/thesis/thesis.txt").write_text("mine")
        self.assert_refused("ALREADY_EXISTS", "clients/thesis", "another --out")

    def test_file_in_the_place_of_the_folder(self):
        self.out.write_text("mine")
        self.assert_refused("ALREADY_EXISTS", "found a file")

    def test_file_in_the_place_of_a_parent(self):
        self.assert_refused("INVALID_ARGUMENT", "Not a directory", out=self.data / "deep" / "out")

    def test_disk_full(self):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch.object(data_folder.RowStore, "write", side_effect=full):
            self.assert_refused("RESOURCE_EXHAUSTED", "No space left", "free some space")

    def test_permission_denied(self):
        denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.root))
        with mock.patch.object(data_folder.tempfile, "mkdtemp", side_effect=denied):
            self.assert_refused("PERMISSION_DENIED", str(self.root))

    def test_memory_exhausted(self):
        with mock.patch.object(Encoder, "encode", side_effect=MemoryError):
            self.assert_refused("RESOURCE_EXHAUSTED", "out of memory")

    def test_bug_is_one_line_too(self):
        with mock.patch.object(Encoder, "encode", side_effect=KeyError("a\nb")):
            self.assert_refused("INTERNAL", "KeyError")


class UsageRefusalsTest(PrepareTestCase):
    def test_mistakes_of_the_command_line(self):
        for options in (["--nosuch"], ["--format", "xml"], ["--max-length", "0"], ["--max-length", "x"],
                        ["--splits", ","], ["--test-fraction", "1"], ["--test-fraction", "-0.1"],
                        ["--test-fraction", "nan"], ["--kind", "xml"], ["--task", "regression"],
                        ["--seed", "-1"], ["--alpha", "0"], ["--image-size", "2x3x4"], ["--image-mean", "x"],
                        ["--image-size", "5000"], ["--channels", "2"], ["--test-fraction", "0.1", "--split-column", "split"],
                        ["another.tsv"]):
            self.assert_refused("INVALID_ARGUMENT", "weft prepare --help", options=options)


if __name__ == "__main__":
    unittest.main()
