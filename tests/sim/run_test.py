"""weft-sim as a process: what it writes, and that it gives the same bits however it is run, killed and gone on with."""

import contextlib
import csv
import json
import os
import pty
import resource
import shutil
import signal
import struct
import subprocess
import time
import unittest

import numpy as np
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from support import BINARY, SimTestCase, write_base

STORM = {
    "job__encoding": {"values": "int8"}, "job__selection": {"rule": "uniform", "clients": 4, "over_select": 1.5},
    "job__round": {"min_updates": 2}, "job__stop": {"rounds": 12},
    "behaviour": {"speed": {"rows_per_second": 2, "sigma": 1, "stragglers": 0.2}, "link": {"up_bytes_per_second": 500},
                  "dropout": {"in_training": 0.1, "in_upload": 0.1, "hang": 0.05}, "hostile": [{"part": 0.1, "attack": "nan"}]},
}


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def tensorboard_records(data):
    """The records of an event file, their checksums checked by an implementation of its own."""
    def masked(crc):
        return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff

    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked(crc32c(data[:8]))
        record = data[12:12 + length]
        assert struct.unpack("<I", data[12 + length:16 + length])[0] == masked(crc32c(record))
        yield record
        data = data[16 + length:]


class RunTest(SimTestCase):
    def test_writes_everything(self):
        self.run_scenario(self.scenario(behaviour={"ranks": []}, population__partition="dirichlet", population__alpha=0.3))
        folder, rounds = self.root / "out/small", self.rounds()
        self.assertEqual([r["round"] for r in rounds], [1, 2, 3, 4, 5, 6])
        self.assertEqual([("accuracy" in r) for r in rounds], [False, True] * 3)
        self.assertGreater(rounds[-1]["accuracy"], rounds[1]["accuracy"])
        with open(folder / "rounds.csv", encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        self.assertEqual([float(row["train_loss"]) for row in table], [r["train_loss"] for r in rounds])
        records = list(tensorboard_records((folder / "events.out.tfevents.weft").read_bytes()))
        self.assertEqual(len(records), 7)
        self.assertIn(b"evaluation/accuracy", records[2])
        self.assertNotIn(b"evaluation/accuracy", records[1])
        summary = self.summary()
        self.assertEqual((summary["state"], summary["population"], summary["final_accuracy"]), ("finished", 40, rounds[-1]["accuracy"]))
        self.assertEqual(summary["bytes_up"], sum(r["bytes_up"] for r in rounds))
        clients = json.loads((folder / "clients.json").read_text())
        self.assertEqual(len(clients), 40)
        accuracies = sorted(client["accuracy"] for client in clients)
        self.assertAlmostEqual(summary["clients"]["worst_tenth"], sum(accuracies[:4]) / 4)
        page = (folder / "report.html").read_text()
        self.assertIn('"population":40', page)
        self.assertNotIn("http://www.w3.org/1999", page)
        config = json.loads((folder / "adapter/adapter_config.json").read_text())
        self.assertEqual(config["r"], 2)

    def test_progress_on_a_terminal_and_elsewhere(self):
        file = self.scenario()
        done = self.sim(file, "--set", f"run.out={self.root / 'lines'}")
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 6)
        self.assertRegex(lines[1], r"^small  round 2 of 6  loss \d\.\d{4}  accuracy 0\.\d{4}  \S+ left$")
        ours, theirs = pty.openpty()
        process = subprocess.Popen([BINARY, file, "--set", f"run.out={self.root / 'bar'}"], stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        self.assertEqual(process.wait(), 0)
        bars = [line for line in shown.decode().split("\r\x1b[K") if line]
        self.assertEqual([line.count("#") for line in bars], [4, 8, 12, 16, 20, 24])
        self.assertTrue(all("left" in line for line in bars), bars)
        self.assertTrue(bars[-1].endswith("\n"))

    def test_same_bits_for_any_number_of_threads(self):
        # Clients of one to three rows, whose passes are smallest.
        file = self.scenario(population__rows_per_client=2, population__max_rows=3, population__size_sigma=0.8, **STORM)
        for threads in (1, 2, 3):
            self.run_scenario(file, f"run.threads={threads}", "run.tokens_per_pass=8", out=f"t{threads}")
        self.assertEqual(self.adapter("t1"), self.adapter("t2"))
        self.assertEqual(self.adapter("t1"), self.adapter("t3"))
        self.assertEqual(self.rounds("t1"), self.rounds("t3"))

    def test_another_seed_is_another_run(self):
        file = self.scenario()
        self.run_scenario(file, out="a")
        self.run_scenario(file, "job.seed=7", out="b")
        self.assertNotEqual(self.adapter("a"), self.adapter("b"))

    def test_killed_and_gone_on_with_ends_with_the_same_bits(self):
        file = self.scenario(**{**STORM, "job__aggregator": {"name": "fedsa_lora"}, "job__stop": {"rounds": 60}})
        self.run_scenario(file, out="whole")
        kills = 0
        for attempt in range(40):
            # In another way each time, and with next to nothing of what clients keep in memory.
            sets = [f"run.out={self.root / 'killed'}", f"run.threads={attempt % 3 + 1}", f"run.kept_bytes={1000 * (attempt % 2)}"]
            process = subprocess.Popen([BINARY, file, "--quiet", *(word for each in sets for word in ("--set", each))], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            try:
                process.wait(0.15 + 0.05 * attempt)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                continue
            self.assertEqual(process.returncode, 0)
            break
        self.assertGreater(kills, 1)
        self.assertEqual(self.rounds("whole"), self.rounds("killed"))
        self.assertEqual(self.adapter("whole"), self.adapter("killed"))

    def test_a_second_process_leaves_the_first_one_alone(self):
        file = self.scenario(job__stop={"rounds": 2000})
        process = subprocess.Popen([BINARY, file, "--set", f"run.out={self.root / 'out'}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        process.stderr.readline()  # a round is done
        done = self.run_scenario(file, code=5)
        self.assertIn("another process", done.stderr)
        process.send_signal(signal.SIGINT)
        process.communicate()
        self.assertEqual(process.returncode, 7)
        rounds = self.rounds()
        self.assertEqual([r["round"] for r in rounds], list(range(1, len(rounds) + 1)))

    def test_another_base_leaves_what_there_is(self):
        base = self.root / "base"
        shutil.copytree(self.shared / "base", base)
        file = self.scenario(job__base={"path": str(base)}, job__stop={"rounds": 2000})
        process = subprocess.Popen([BINARY, file, "--set", f"run.out={self.root / 'out'}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate()
        before = (self.root / "out/small/rounds.jsonl").read_bytes()
        write_base(self.root / "other", np.random.default_rng(6))
        shutil.copy(self.root / "other/model.safetensors", base)
        done = self.run_scenario(file, code=5)
        self.assertIn("another job", done.stderr)
        self.assertEqual((self.root / "out/small/rounds.jsonl").read_bytes(), before)

    def test_privacy_spent(self):
        dp = {"clip_norm": 0.3, "noise_multiplier": 1, "epsilon_budget": 1000, "delta": 1e-4, "clients": 40, "noise": "seeded", "for_tests": True}
        adapter = {"form": "lora", "head": False, "config": {"rank": 2, "alpha": 4, "target_modules": ["layers.0", "layers.1"]}}
        self.run_scenario(self.scenario(job__adapter=adapter, job__aggregator={"name": "dp", "config": dp}, job__selection={"rule": "poisson", "rate": 0.2},
                                        job__round={"min_updates": 0}))
        epsilons = [r["epsilon"] for r in self.rounds()]
        self.assertEqual(epsilons, sorted(epsilons))
        # The same six rounds as dp-accounting has them.
        accountant = RdpAccountant(orders=range(2, 64))
        accountant.compose(PoissonSampledDpEvent(0.2, GaussianDpEvent(1)), 6)
        self.assertAlmostEqual(epsilons[-1], accountant.get_epsilon(1e-4), delta=0.02 * epsilons[-1])
        summary = self.summary()
        self.assertEqual((summary["epsilon"], summary["delta"]), (epsilons[-1], 1e-4))
        folder = self.root / "out/small"
        with open(folder / "rounds.csv", encoding="utf-8", newline="") as file:
            self.assertEqual([float(row["epsilon"]) for row in csv.DictReader(file)], epsilons)
        self.assertIn(f'"epsilon":{epsilons[-1]}', (folder / "report.html").read_text())

    def test_interrupted_stops_after_a_round_and_goes_on(self):
        file = self.scenario(job__stop={"rounds": 400})
        self.run_scenario(file, out="whole")
        process = subprocess.Popen([BINARY, file, "--set", f"run.out={self.root / 'out'}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        process.stderr.readline()  # a round is done
        process.send_signal(signal.SIGINT)
        problems = process.stderr.read()
        self.assertEqual(process.wait(), 7)
        self.assertIn("the same command goes on", problems)
        process.stderr.close()
        self.assertLess(len(self.rounds()), 400)
        self.run_scenario(file)
        self.assertEqual(self.adapter(), self.adapter("whole"))
        self.assertEqual(self.rounds(), self.rounds("whole"))

    def test_full_disk_stops_cleanly_and_goes_on(self):
        file = self.scenario(**{**STORM, "job__aggregator": {"name": "fedsa_lora"}, "job__stop": {"rounds": 40}})
        self.run_scenario(file, out="whole")

        def little_room():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))

        done = self.sim(file, "--quiet", "--set", f"run.out={self.root / 'out'}", code=6, preexec_fn=little_room)
        self.assertRegex(done.stderr, "free (some )?space")
        self.assertLess(len(self.rounds()), 40)
        self.run_scenario(file)
        self.assertEqual(self.adapter(), self.adapter("whole"))
        self.assertEqual(self.rounds(), self.rounds("whole"))


class SweepTest(SimTestCase):
    def test_all_combinations_one_table_and_nothing_twice(self):
        file = self.scenario(sweep={"job.aggregator.name": ["fedavg", "rolora"], "job.seed": [1, 2]})
        done = self.run_scenario(file)
        self.assertIn("aggregator=rolora", done.stdout)
        folder = self.root / "out/small"
        table = json.loads((folder / "table.json").read_text())
        self.assertEqual([(line["settings"]["job.aggregator.name"], line["runs"]) for line in table], [("fedavg", 2), ("rolora", 2)])
        runs = sorted(path for path in folder.iterdir() if path.is_dir())
        self.assertEqual(len(runs), 4)
        finals = [json.loads((run / "summary.json").read_text())["final_accuracy"] for run in runs[:2]]
        self.assertAlmostEqual(table[0]["final_accuracy"]["mean"], sum(finals) / 2)
        self.assertAlmostEqual(table[0]["final_accuracy"]["sd"], abs(finals[0] - finals[1]) / 2**0.5)
        before = {run: os.stat(run / "summary.json").st_mtime_ns for run in runs}
        (runs[3] / "summary.json").unlink()  # as if it had been cut off
        time.sleep(0.01)
        self.run_scenario(file)
        after = {run: os.stat(run / "summary.json").st_mtime_ns for run in runs}
        self.assertEqual([before[run] == after[run] for run in runs], [True, True, True, False])
        self.assertIn(runs[3].name, (folder / "report.html").read_text())
        comparison = self.root / "both.html"
        self.sim("compare", *runs[:2], "--out", comparison)
        self.assertIn(runs[1].name, comparison.read_text())
        self.sim("compare", f"{runs[0]}/", "--out", comparison)
        self.assertIn(f'"name":"{runs[0].name}"', comparison.read_text())
        self.sim("compare", self.root, "--out", comparison, code=3)
        self.assertIn("is a sweep", self.sim("compare", folder, "--out", comparison, code=3).stderr)

    def test_a_sweep_grows_without_running_anything_twice(self):
        sweep = {"job.aggregator.name": ["fedavg", "rolora"], "job.seed": [1, 2]}
        self.run_scenario(self.scenario(sweep=sweep))
        runs = sorted((self.root / "out/small").glob("*/summary.json"))
        before = [os.stat(run).st_mtime_ns for run in runs]
        self.run_scenario(self.scenario(sweep={**sweep, "job.seed": [1, 2, 3]}))
        self.assertEqual([os.stat(run).st_mtime_ns for run in runs], before)
        self.assertEqual(len(list((self.root / "out/small").glob("*/summary.json"))), 6)

    def test_a_run_that_is_refused_is_named(self):
        file = self.scenario(sweep={"job.aggregator": [{"name": "fedavg"}, {"name": "scaffold"}]})
        done = self.run_scenario(file, code=2)
        self.assertIn("run 2 of 2", done.stderr)
        self.assertIn("aggregator=scaffold", done.stderr)


class BadInputTest(SimTestCase):
    def refused(self, words, code=2, **sections):
        done = self.run_scenario(self.scenario(**sections), code=code)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertFalse((self.root / "out/small").exists(), "a folder that the mended scenario would find in its way")

    def test_refusals(self):
        self.refused(["aggregator", "fedavg"], job__aggregator={"name": "fedavgg"})
        self.refused(["population.column", "columns client"], population={"data": str(self.shared / "data"), "partition": "column", "column": "town"})
        self.refused(["job.selection.clients: found 50, expected at most 40"], job__selection={"rule": "uniform", "clients": 50})
        self.refused(["no client has 500 rows"], population={"data": str(self.shared / "data"), "partition": "iid", "clients": 4, "min_rows": 500})
        self.refused(["found 241, expected at most 240"], population={"data": str(self.shared / "data"), "partition": "iid", "clients": 241})
        self.refused(["behaviour.hostile", "1.2"], behaviour={"hostile": [{"part": 0.6, "attack": "nan"}, {"part": 0.6, "attack": "scale"}]})
        self.refused(["expected images"], population__shifts=[{"kind": "invert"}])
        self.refused(["alfa", "alpha"], population__alfa=3)
        self.refused(["evaluation.clients", "evaluation.central: false"], evaluation={"clients": 3})
        self.refused(["job.evaluation.split: found validation", "test, train"], job__evaluation={"split": "validation"})
        self.refused(["evaluation.clients: missing"], evaluation={"central": False, "target_accuracy": 0.5})
        self.refused(["behaviour.ranks: found rank 1", "flexlora"], behaviour={"ranks": [{"part": 0.5, "rank": 1}]})
        self.refused(["no manifest.json"], code=3, population__data=str(self.root))
        self.refused(["no/base"], code=3, job__base={"path": "/no/base"})
        self.refused(["the machine has to spare", "lower job.selection.clients"], code=6,
                     job__adapter={"form": "lora", "config": {"rank": 16, "alpha": 4, "target_modules": ["layers.0", "layers.1"]}},
                     job__encoding={"values": "int8"}, run__kept_bytes=2**40,
                     population={"data": str(self.shared / "data"), "partition": "iid", "clients": 100_000_000, "rows_per_client": 1})
        self.refused(["run.memory_bytes allows 1 MB", "lower job.selection.clients"], code=6, run__memory_bytes=1_000)

    def test_set_takes_one_word(self):
        file = self.scenario()
        self.sim("--quiet", "--set", "job.stop.rounds=2", "--set", f"run.out={self.root / 'out'}", file)
        self.assertEqual(len(self.rounds()), 2)

    def test_a_folder_of_another_scenario_is_left_alone(self):
        file = self.scenario()
        self.run_scenario(file)
        before = self.adapter()
        done = self.run_scenario(file, "job.training.learning_rate=0.2", code=5)
        self.assertIn("another scenario", done.stderr)
        self.assertEqual(self.adapter(), before)
        self.assertEqual(len(self.rounds()), 6)


if __name__ == "__main__":
    unittest.main()
