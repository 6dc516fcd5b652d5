"""What `weft prepare` writes is what the daemons read: training/data/describe_data opens it as they do."""

import json
import os
import pathlib
import subprocess
import unittest

from learn_test import PLAIN, TALK, write_byte_base
from readers_test import idx
from support import ROOT, PrepareTestCase

DESCRIBE = pathlib.Path(os.environ.get("WEFT_BIN", ROOT / "bazel-bin")) / "training/data/describe_data"
NO_TEST = ("--test-fraction", "0")


class RoundTripTest(PrepareTestCase):
    def setUp(self):
        super().setUp()
        if not DESCRIBE.exists():
            self.skipTest(f"{DESCRIBE} is not built; bazel build //training/data:describe_data")

    def describe(self, folder=None):
        done = subprocess.run([DESCRIBE, folder or self.out], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def test_text(self):
        self.prepare()
        found = self.describe()
        self.assertEqual((found["task"], found["labels"]), ("sequence_classification", ["blue", "green", "red"]))
        self.assertEqual(found["splits"]["train"], {"kind": "rows of tokens", "rows": 2, "tokens": 7, "longest_row": 4,
                                                    "learnt": 0, "rows_of_labels": {"0": 1, "2": 1}})

    def test_chat(self):
        write_byte_base(self.base, PLAIN)
        data = self.write("rows.jsonl", json.dumps({"messages": TALK}) + "\n")
        summary = self.prepare(*NO_TEST, "--task", "causal_lm", "--max-length", "512", data=data)
        found = self.describe()
        learnt = sum(len(f"{m['content'].replace('<s>', '.')}.\n".encode()) for m in TALK if m["role"] == "assistant")
        self.assertEqual(found["task"], "causal_lm")
        self.assertEqual(found["splits"]["train"], {"kind": "rows of tokens to learn", "rows": 1, "learnt": learnt,
                                                    "tokens": summary["tokens"], "longest_row": summary["tokens"],
                                                    "rows_of_labels": {}})

    def test_pairs(self):
        data = self.write("rows.csv", "text,partner\none,two three\nthree,one\n")
        self.prepare(*NO_TEST, "--task", "sentence_embedding", data=data)
        found = self.describe()["splits"]["train"]
        self.assertEqual((found["kind"], found["rows"], found["tokens"], found["longest_row"]),
                         ("pairs of rows of tokens", 2, 13, 4))

    def test_images_of_many_clients(self):
        folder = self.root / "idx"
        folder.mkdir()
        labels = [i % 2 for i in range(40)]
        (folder / "train-images-idx3-ubyte").write_bytes(idx(range(240), 40, 2, 3))
        (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels, 40))
        self.prepare("--image-size", "4", "--partition", "iid", "--num-clients", "4", data=folder)
        rows = 0
        for client in (self.out / "clients").iterdir():
            found = self.describe(client)
            self.assertEqual(found["splits"]["train"]["kind"], "images of 3 x 4 x 4")
            rows += found["splits"]["train"]["rows"]
        self.assertEqual(rows, 40)

    def test_damage_is_found(self):
        self.prepare()
        content = (self.out / "train.safetensors").read_bytes()
        (self.out / "train.safetensors").write_bytes(content[:-4] + b"\3\0\0\0")
        done = subprocess.run([DESCRIBE, self.out], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("row 1 has label 3", done.stderr)


if __name__ == "__main__":
    unittest.main()
