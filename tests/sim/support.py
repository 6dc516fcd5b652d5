"""What the tests here share: a tiny base and its data, and weft-sim called on scenarios."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("WEFT_SIM", ROOT / "bazel-bin/simulation/weft-sim"))
WIDTH, HIDDEN, CLASSES = 12, 16, 4


def write_base(folder, rng):
    folder.mkdir()
    sizes = [WIDTH, HIDDEN, HIDDEN, CLASSES]
    (folder / "config.json").write_text(json.dumps({"model_type": "mlp", "sizes": sizes, "activation": "relu"}))
    tensors = {}
    for name, (i, o) in zip(["layers.0", "layers.1", "head"], zip(sizes, sizes[1:])):
        tensors[f"{name}.weight"] = (rng.standard_normal((o, i)) / np.sqrt(i)).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(o, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return tensors


def write_data(folder, rng, train=240, test=120, clients=12):
    """Four classes around centres of their own; group client: one in `clients`, of unequal size."""
    folder.mkdir()
    centres, splits, written = rng.standard_normal((CLASSES, WIDTH)), {}, {}
    for split, rows in (("train", train), ("test", test)):
        labels = rng.integers(CLASSES, size=rows)
        features = (centres[labels] + 0.7 * rng.standard_normal((rows, WIDTH))).astype(np.float32)
        group = np.minimum(rng.integers(clients, size=rows), rng.integers(clients, size=rows))
        written[split] = (features, labels, group)
        save_file({"features": features, "labels": labels.astype(np.int32), "group.client": group.astype(np.int32)}, folder / f"{split}.safetensors")
        splits[split] = {"file": f"{split}.safetensors", "rows": rows}
    (folder / "manifest.json").write_text(json.dumps({"format": "weft-data", "version": 1, "task": "sequence_classification",
                                                     "labels": list("abcd"), "splits": splits,
                                                     "groups": {"client": [f"c{i:02}" for i in range(clients)]}}))
    return written


class SimTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.shared = pathlib.Path(scratch.name)
        rng = np.random.default_rng(5)
        cls.base = write_base(cls.shared / "base", rng)
        cls.data = write_data(cls.shared / "data", rng)

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)

    def scenario(self, **sections):
        """Path of a scenario file; `sections` take the place of whole sections, and dotted names with __ of single keys."""
        scenario = {
            "job": {"name": "small", "base": {"path": str(self.shared / "base")},
                    "adapter": {"form": "lora", "config": {"rank": 2, "alpha": 4, "target_modules": ["layers.0", "layers.1"]}},
                    "selection": {"rule": "uniform", "clients": 5}, "training": {"batch_size": 4, "optimizer": "sgd", "learning_rate": 0.1},
                    "evaluation": {"every": 2}, "stop": {"rounds": 6}},
            "population": {"data": str(self.shared / "data"), "partition": "iid", "clients": 40, "rows_per_client": 6},
            "run": {"out": str(self.root / "out"), "threads": 2},
        }
        for path, value in sections.items():
            *parents, key = path.split("__")
            section = scenario
            for parent in parents:
                section = section.setdefault(parent, {})
            section[key] = value
        file = self.root / "scenario.yaml"
        file.write_text(json.dumps(scenario))
        return file

    def sim(self, *arguments, code=0, **options):
        done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def run_scenario(self, file, *sets, code=0, out="out"):
        words = [word for setting in (f"run.out={self.root / out}", *sets) for word in ("--set", setting)]
        return self.sim(file, "--quiet", *words, code=code)

    def rounds(self, out="out", name="small"):
        """rounds.jsonl without what depends on the machine."""
        lines = (self.root / out / name / "rounds.jsonl").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if key != "real_seconds"} for line in lines]

    def adapter(self, out="out", name="small"):
        return (self.root / out / name / "adapter/adapter_model.safetensors").read_bytes()

    def summary(self, out="out", name="small"):
        return json.loads((self.root / out / name / "summary.json").read_text())
