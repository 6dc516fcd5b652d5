"""Columns that rows keep."""

import json
import unittest

from safetensors.numpy import load_file
from support import PrepareTestCase

ROWS = ("split\tclient\ttown\tlabel\ttext\n"
        "train\tcid\trome\tred\tone two\n"
        "train\tann\toslo\tblue\tthree\n"
        "train\t\toslo\tblue\ttwo\n"
        "train\tbob\toslo\tblue\t\n"
        "test\tann\trome\tgreen\ttwo two three one\n")


class GroupsTest(PrepareTestCase):
    def test_rows_keep_their_group(self):
        data = self.write("grouped.tsv", ROWS)
        summary = self.prepare("--group", "client", "--group", "town", data=data)
        manifest = json.loads((self.out / "manifest.json").read_text())
        self.assertEqual(manifest["groups"], {"client": ["ann", "cid"], "town": ["oslo", "rome"]}, "of rows that were kept")
        train, test = load_file(self.out / "train.safetensors"), load_file(self.out / "test.safetensors")
        self.assertEqual(train["group.client"].tolist(), [1, 0])
        self.assertEqual(train["group.town"].tolist(), [1, 0])
        self.assertEqual(test["group.client"].tolist(), [0])
        self.assertEqual(train["group.client"].dtype, "int32")
        self.assertEqual(summary["dropped"], {"missing client": 1, "empty text": 1})

    def test_without_groups_nothing_changes(self):
        self.prepare()
        self.assertNotIn("groups", json.loads((self.out / "manifest.json").read_text()))

    def test_refusals(self):
        for words, options in (("no column \"city\"", ("--group", "city")),
                               ("leave one of them out", ("--group", "client", "--partition", "column")),
                               ("named twice", ("--group", "client", "--group", "client")),
                               ("expected a name of letters", ("--group", "a b"))):
            self.assert_refused("INVALID_ARGUMENT", words, options=options)


if __name__ == "__main__":
    unittest.main()
