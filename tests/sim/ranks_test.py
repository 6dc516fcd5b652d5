"""weft-sim as several ranks of torch.distributed, on loopback: the same bits as one, and what happens when a rank is lost."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest

import numpy as np
from run_test import STORM
from support import BINARY, SimTestCase, write_base, write_data

FEW_ROWS = {"population__rows_per_client": 2, "population__max_rows": 3, "population__size_sigma": 0.8}


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RanksTestCase(SimTestCase):
    def start(self, count, arguments, names=("RANK", "WORLD_SIZE"), **others):
        """The processes of so many ranks; `others`: arguments of a rank by r1 and so on, in place of all."""
        port = str(free_port())
        processes = []
        for rank in range(count):
            environment = {**os.environ, names[0]: str(rank), names[1]: str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                           "GLOO_SOCKET_IFNAME": "lo"}
            processes.append(subprocess.Popen([BINARY, *map(str, others.get(f"r{rank}", arguments))], env=environment, text=True,
                                              stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        self.addCleanup(lambda: [(process.kill(), process.communicate()) for process in processes if process.poll() is None])
        return processes

    def end(self, processes):
        """Exit codes and what each said on stderr."""
        texts = [process.communicate(timeout=120)[1] for process in processes]
        return [process.returncode for process in processes], texts

    def arguments(self, file, *sets, out="out"):
        return [file, "--quiet", *(word for setting in (f"run.out={self.root / out}", *sets) for word in ("--set", setting))]

    def run_ranks(self, count, file, *sets, out, **options):
        codes, texts = self.end(self.start(count, self.arguments(file, *sets, out=out), **options))
        self.assertEqual(codes, [0] * count, texts)

    def same_as_one(self, file, *sets, counts=(2,)):
        self.run_scenario(file, *sets, out="one")
        for count in counts:
            self.run_ranks(count, file, *sets, out=f"of{count}")
            self.assertEqual(self.adapter("one"), self.adapter(f"of{count}"), count)
            self.assertEqual(self.rounds("one"), self.rounds(f"of{count}"), count)


class RanksTest(RanksTestCase):
    def test_same_bits_for_any_number_of_ranks(self):
        # Clients of one to three rows, which drop out, lie and keep what their encoding lost.
        file = self.scenario(**FEW_ROWS, **STORM)
        self.same_as_one(file, "run.tokens_per_pass=8", counts=(2, 4))

    def test_same_bits_for_rules_that_keep_states_change_the_base_or_add_noise(self):
        adapter = {"form": "lora", "config": {"rank": 2, "alpha": 4, "target_modules": ["layers.0", "layers.1"]}}
        factors = {**adapter, "head": False}
        for name, sections in {
            "scaffold": {"job__aggregator": {"name": "scaffold", "config": {"clients": 40}}, "job__training": {"batch_size": 4, "optimizer": "sgd", "learning_rate": 0.1, "clip_grad_norm": 0}},
            "fedsa_lora": {"job__aggregator": {"name": "fedsa_lora"}},
            "flora": {"job__aggregator": {"name": "flora"}},
            "fedex_lora": {"job__aggregator": {"name": "fedex_lora"}},
            "median": {"job__aggregator": {"name": "median", "config": {"rule": {"name": "ffa_lora"}}}},
            "krum": {"job__aggregator": {"name": "krum", "config": {"f": 1}}, "job__round": {"min_updates": 5}},
            "flexlora": {"job__aggregator": {"name": "flexlora"}, "behaviour": {"ranks": [{"part": 0.5, "rank": 1}]}},
            "dp": {"job__aggregator": {"name": "dp", "config": {"clip_norm": 0.3, "noise_multiplier": 1, "epsilon_budget": 1000, "delta": 1e-4, "clients": 40,
                                                                "noise": "seeded", "for_tests": True}},
                   "job__adapter": factors, "job__selection": {"rule": "poisson", "rate": 0.2}, "job__round": {"min_updates": 0}},
        }.items():
            with self.subTest(name):
                self.root = self.root.parent / f"{self.root.name}-{name}"
                self.root.mkdir()
                self.addCleanup(shutil.rmtree, self.root)
                self.same_as_one(self.scenario(**FEW_ROWS, **sections))

    def test_a_sweep_goes_on_over_its_runs(self):
        file = self.scenario(sweep={"job.aggregator.name": ["fedavg", "rolora"]})
        self.run_scenario(file, out="one")
        self.run_ranks(2, file, out="two", names=("SLURM_PROCID", "SLURM_NTASKS"))
        one, two = ((self.root / out / "small/table.csv").read_text() for out in ("one", "two"))
        self.assertEqual(one.splitlines()[0], two.splitlines()[0])
        self.assertEqual([line.split(",")[:4] for line in one.splitlines()], [line.split(",")[:4] for line in two.splitlines()])

    def test_torchrun_starts_it(self):
        file = self.scenario()
        self.run_scenario(file, out="one")
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}",
             BINARY, *map(str, self.arguments(file, out="two"))],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.adapter("one"), self.adapter("two"))


class LostRankTest(RanksTestCase):
    def lose(self, rank):
        """Kills a rank in mid-run; what the others say. The run then goes on to the bits it would have had."""
        file = self.scenario(**{**STORM, "job__aggregator": {"name": "fedsa_lora"}, "job__stop": {"rounds": 400}})
        self.run_scenario(file, out="whole")
        processes = self.start(3, self.arguments(file))
        table = self.root / "out/small/rounds.jsonl"
        deadline = time.monotonic() + 60
        while not (table.exists() and table.read_bytes().count(b"\n") > 2) and time.monotonic() < deadline:
            time.sleep(0.01)
        processes[rank].send_signal(signal.SIGKILL)
        codes, texts = self.end(processes)
        self.assertEqual(codes.pop(rank), -signal.SIGKILL)
        texts.pop(rank)
        self.assertLess(len(self.rounds()), 400)
        self.run_ranks(2, file, out="out")
        self.assertEqual(self.rounds("whole"), self.rounds())
        self.assertEqual(self.adapter("whole"), self.adapter())
        return codes, texts

    def test_a_killed_rank_ends_the_run_and_all_goes_on_later(self):
        codes, texts = self.lose(2)
        self.assertEqual(codes, [4, 4], texts)
        self.assertEqual(texts[1], "")
        self.assertIn("rank 2 has gone", texts[0])
        self.assertIn("start all ranks again", texts[0])

    def test_the_others_end_with_rank_0(self):
        codes, texts = self.lose(0)
        self.assertEqual(codes, [4, 4], texts)
        self.assertIn("rank 0 has gone", texts[0])


class BadInputTest(RanksTestCase):
    def test_a_rank_of_another_scenario_is_refused(self):
        # A client a group: every rank is asked to train, and none may wait for the one that can't.
        file, all_ = self.scenario(), "run.tokens_per_pass=1"
        codes, texts = self.end(self.start(3, self.arguments(file, all_), r1=self.arguments(file, all_, "job.training.learning_rate=0.2")))
        self.assertEqual(codes, [2, 2, 2], texts)
        self.assertIn("rank 1: has another scenario", texts[0])
        self.assertFalse((self.root / "out/small/summary.json").exists())

    def test_a_rank_of_other_data_or_another_base_is_refused(self):
        rng = np.random.default_rng(6)
        write_base(self.root / "base", rng)
        write_data(self.root / "data", rng)
        file = self.scenario()
        for setting, word in [(f"population.data={self.root / 'data'}", "other data"), (f"job.base.path={self.root / 'base'}", "another base")]:
            codes, texts = self.end(self.start(2, self.arguments(file, out=word), r1=self.arguments(file, setting, out=word)))
            self.assertEqual(codes, [2, 2], texts)
            self.assertIn(word, texts[0])
        same = self.root / "elsewhere"
        shutil.copytree(self.shared / "data", same)
        codes, texts = self.end(self.start(2, self.arguments(file), r1=self.arguments(file, f"population.data={same}")))
        self.assertEqual(codes, [0, 0], texts)

    def test_a_scenario_that_rank_0_refuses_ends_all(self):
        file = self.scenario(job__selection={"rule": "uniform", "clients": 50})
        codes, texts = self.end(self.start(2, self.arguments(file)))
        self.assertEqual(codes, [2, 2], texts)
        self.assertIn("found 50, expected at most 40", texts[0])

    def test_a_wrong_environment(self):
        file = self.scenario()
        for environment, word in [({"WORLD_SIZE": "2"}, "RANK"), ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE: found \"two\""),
                                  ({"WORLD_SIZE": "2", "RANK": "2"}, "less than WORLD_SIZE"), ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR"),
                                  ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "MASTER_PORT")]:
            done = self.sim(*self.arguments(file), code=2, env={**os.environ, **environment})
            self.assertIn(word, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.run_scenario(file)  # none of it has left anything behind


if __name__ == "__main__":
    unittest.main()
