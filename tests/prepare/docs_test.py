"""The examples of docs/data.md, in their order."""

import json
import re
import subprocess
import sys
import unittest

from learn_test import PLAIN, write_byte_base
from readers_test import idx
from support import REAL_BASE, ROOT, PrepareTestCase


class DocsTest(PrepareTestCase):
    def test_examples(self):
        write_byte_base(self.root / "llama", PLAIN)
        (self.root / "minilm").symlink_to(REAL_BASE)
        (self.root / "vit").mkdir()
        (self.root / "vit/preprocessor_config.json").write_text('{"size": {"height": 32, "width": 32}}')
        (self.root / "idx").mkdir()
        for split, rows in (("train", 30), ("t10k", 10)):
            (self.root / f"idx/{split}-images-idx3-ubyte").write_bytes(idx([7] * rows * 4, rows, 2, 2))
            (self.root / f"idx/{split}-labels-idx1-ubyte").write_bytes(idx([i % 2 for i in range(rows)], rows))
        examples = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
        script = (f"set -e\nexport PYTHONPATH={ROOT / 'tools/prepare'}\n"
                  f'weft() {{ shift; "{sys.executable}" -m weft_prepare "$@"; }}\n' + "".join(examples))
        done = subprocess.run(["bash", "-c", script], cwd=self.root, capture_output=True, text=True, timeout=300)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertNotIn("dropped", done.stdout)
        rows = {path.parent.name: sum(split["rows"] for split in json.loads(path.read_text())["splits"].values())
                for path in self.root.glob("*/manifest.json") if path.parent.name != "digits-of-five"}
        self.assertEqual(rows, {"letters": 3, "sums": 2, "talks": 1, "pairs": 2, "digits": 40, "digits-vit": 40})
        self.assertEqual(len(list((self.root / "digits-of-five/clients").iterdir())), 5)


if __name__ == "__main__":
    unittest.main()
