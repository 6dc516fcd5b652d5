"""Rows dealt to clients."""

import collections
import unittest

import numpy as np

from support import PrepareTestCase, rows_of
from weft_prepare import partition as rules
from weft_prepare.selection import UNWANTED, Selected

NAMES = [str(i) for i in range(10)]


def selected(rows=20000, seed=3, unwanted=0):
    """Rows of ten classes, a fifth of them to test."""
    rng = np.random.default_rng(seed)
    splits = (rng.random(rows) < 0.2).astype(np.int16)
    splits[:unwanted] = UNWANTED
    return Selected(splits, rng.integers(10, size=rows).astype(np.int32), np.full(rows, UNWANTED, np.int32),
                    ["train", "test"], NAMES, [], collections.Counter())


def shares_of_classes(chosen, codes, split, clients):
    """[clients, classes], each row summing to 1."""
    of_split = chosen.splits == split
    counts = np.stack([np.bincount(chosen.labels[of_split & (codes == i)], minlength=10) for i in range(clients)])
    return counts / counts.sum(1, keepdims=True)


class RulesTest(unittest.TestCase):
    def deal(self, rule, chosen, **options):
        codes, names, left_out = rules.partition(rule, chosen, "data", clients=20, **options)
        self.assertEqual((len(names), left_out), (20, 0))
        np.testing.assert_array_equal(codes == UNWANTED, chosen.splits == UNWANTED)
        for split in range(2):
            sizes = np.bincount(codes[chosen.splits == split], minlength=20)
            self.assertLessEqual(sizes.max() - sizes.min(), 1, "clients have equal shares of each split")
        return codes

    def test_dirichlet_of_large_alpha_is_alike_and_of_small_alpha_is_not(self):
        chosen = selected()
        distance = {}
        for alpha in (0.1, 1, 1000):
            codes = self.deal("dirichlet", chosen, alpha=alpha)
            shares = shares_of_classes(chosen, codes, 0, 20)
            distance[alpha] = np.abs(shares - 0.1).sum(1).mean() / 2
        # Total variation from equal shares; of a fresh draw of Dirichlet(.1) it is .72, of Dirichlet(1) .35.
        self.assertLess(distance[1000], 0.08)
        self.assertGreater(distance[1], 0.2)
        self.assertGreater(distance[0.1], 0.55)

    def test_test_rows_have_the_classes_of_the_client(self):
        chosen = selected()
        codes = self.deal("dirichlet", chosen, alpha=0.3)
        train, test = (shares_of_classes(chosen, codes, split, 20) for split in range(2))
        own = np.abs(train - test).sum(1).mean() / 2
        others = np.abs(train - np.roll(test, 1, 0)).sum(1).mean() / 2
        self.assertLess(own, 0.15)
        self.assertGreater(others, 0.4)

    def test_first_clients_have_the_shares_drawn(self):
        """Before any class has run out, counts are a multinomial draw from the client's shares."""
        chosen = selected(200000)
        codes = self.deal("dirichlet", chosen, alpha=1)
        expected = np.random.default_rng(0).dirichlet([1] * 10, 20)[0]
        found = shares_of_classes(chosen, codes, 0, 20)[0]
        self.assertLess(np.abs(found - expected).max(), 6 * (0.25 / 8000) ** 0.5)

    def test_iid_is_alike(self):
        chosen = selected()
        shares = shares_of_classes(chosen, self.deal("iid", chosen), 0, 20)
        self.assertLess(np.abs(shares - 0.1).max(), 6 * (0.1 * 0.9 / 800) ** 0.5)

    def test_same_seed_same_partition(self):
        chosen = selected(unwanted=100)
        for rule, options in (("iid", {}), ("dirichlet", {"alpha": 0.5})):
            first, again, other = (self.deal(rule, chosen, seed=seed, **options) for seed in (1, 1, 2))
            np.testing.assert_array_equal(first, again)
            self.assertGreater(np.count_nonzero(first != other), 10000)


class FoldersTest(PrepareTestCase):
    def many(self):
        lines = [f"{'test' if i % 5 == 0 else 'train'}\tu{i % 3}\t{'ab'[i % 2]}\tone two {i}\n" for i in range(60)]
        return self.write("many.tsv", "split\tclient\tlabel\ttext\n" + "".join(lines) + "train\tsmall\ta\tone\n")

    def clients(self):
        return sorted(path.name for path in (self.out / "clients").iterdir())

    def test_natural_clients(self):
        summary = self.prepare("--partition", "column", "--min-rows", "2", data=self.many())
        self.assertEqual(self.clients(), ["u0", "u1", "u2"])
        self.assertEqual(summary["clients"], {"count": 3, "min_rows": 20, "max_rows": 20})
        self.assertEqual(summary["dropped"], {"of a client with fewer than --min-rows rows": 1})
        self.prepare("--client", "u1", data=self.many(), out=self.root / "alone")
        self.assertEqual(rows_of(self.out / "clients/u1/train.safetensors"), rows_of(self.root / "alone/train.safetensors"))
        self.assertEqual((self.out / "clients/u1/labels.txt").read_text(), "a\nb\n")

    def test_manifest_of_clients(self):
        self.prepare("--partition", "dirichlet", "--num-clients", "12", "--alpha", "0.5", "--seed", "7", "--min-rows", "4",
                     data=self.many())
        manifest = self.manifest()
        self.assertEqual((manifest["format"], manifest["labels"]), ("weft-clients", ["a", "b"]))
        self.assertEqual(manifest["partition"], {"rule": "dirichlet", "clients": 12, "alpha": 0.5, "min_rows": 4, "seed": 7})
        self.assertEqual(self.clients(), [f"client-{i:02}" for i in range(1, 13)])
        self.assertEqual(sorted(manifest["clients"]), self.clients())
        for name, rows in manifest["clients"].items():
            own = self.manifest(self.out / "clients" / name)
            self.assertEqual({split: entry["rows"] for split, entry in own["splits"].items()}, rows)
            self.assertEqual(rows, {"test": 1, "train": rows["train"]})
            self.assertGreaterEqual(rows["train"], 4)

    def test_every_row_is_dealt_once_and_again_the_same(self):
        for rule in (("iid",), ("dirichlet", "--alpha", "0.2")):
            trees = []
            for _ in range(2):
                self.prepare("--partition", *rule, "--num-clients", "5", data=self.many())
                trees.append({path.relative_to(self.out): path.read_bytes() for path in self.out.rglob("*") if path.is_file()})
            self.assertEqual(*trees)
            for split in ("train", "test"):
                dealt = [row for path in self.out.glob(f"clients/*/{split}.safetensors") for row in zip(*rows_of(path))]
                self.prepare(data=self.many(), out=self.root / "whole")
                self.assertEqual(sorted(dealt), sorted(zip(*rows_of(self.root / f"whole/{split}.safetensors"))))

    def test_clients_take_the_place_of_a_data_folder_and_back(self):
        self.prepare("--partition", "column")
        self.assertFalse((self.out / "train.safetensors").exists())
        self.assertEqual(self.clients(), ["ann", "bob"])
        self.assertFalse((self.out / "clients/bob/test.safetensors").exists(), "bob has no test rows")
        self.prepare()
        self.assertFalse((self.out / "clients").exists())

    def test_dirichlet_over_a_column_of_a_task_without_labels(self):
        self.prepare("--task", "causal_lm", "--partition", "dirichlet", "--label-column", "client", "--num-clients", "2",
                     "--alpha", "1", data=self.many())
        self.assertEqual(self.manifest()["labels"], [])
        self.assertFalse((self.out / "labels.txt").exists())

    def test_summary_as_text(self):
        _, output, _ = self.run_prepare("--partition", "column", data=self.many())
        self.assertIn("\n  4 clients of 1 to 20 rows\n", output)


if __name__ == "__main__":
    unittest.main()
