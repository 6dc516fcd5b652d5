"""Jobs over gRPC with all processes real but the trainer, undisturbed and with a coordinator that is killed."""

import json
import unittest

from cluster import Cluster, wait_until


class JobTest(Cluster):
    def undisturbed(self, *overrides):
        """The exported bits of the job that the other tests disturb."""
        self.start_coordinator(state="undisturbed")
        clients = self.start_clients("abc")
        job = self.submit(*overrides, rounds=4)
        self.assertEqual(self.watch(job)["state"], "finished")
        bits = self.export(job)
        for process in [*clients, self.processes[0]]:
            self.assertEqual(self.stop(process), 0)
        return bits

    def test_runs_to_the_end(self):
        self.start_coordinator()
        self.start_clients("abc")
        job = self.submit(rounds=3)
        status = self.watch(job)
        self.assertEqual(status["state"], "finished")
        self.assertEqual(status["round"], 3)
        self.assertEqual([r["updates"] for r in status["rounds"]], [3, 3, 3])
        self.assertEqual([r["examples"] for r in status["rounds"]], [24, 24, 24])
        self.assertEqual([r["evaluated_examples"] for r in status["rounds"]], [24, 24, 24])
        # Accuracy grows with the adapter's values: each round went on from the one before.
        accuracies = [r["accuracy"] for r in status["rounds"]]
        self.assertEqual(accuracies, sorted(accuracies))
        self.assertLess(accuracies[0], accuracies[2])
        self.assertEqual(status["best_round"], 3)
        self.assertGreater(status["bytes_up"], 0)
        self.assertEqual(self.export(job, "best"), self.export(job, "last"))
        self.assertEqual(self.weft_json("list")["jobs"][0]["job_id"], job)

    def test_each_encoding_to_the_end(self):
        """The loss falls under each; what travels up is as small as the encoding says."""
        self.start_coordinator()
        self.start_clients("ab")
        up = {}
        for encoding in ("f32", "bf16", "f16", "int8", "int4", "topk"):
            with self.subTest(encoding):
                density = ["encoding.density=0.25"] if encoding == "topk" else []
                job = self.submit(f"encoding.values={encoding}", "training.steps=20", *density, clients=2, rounds=3)
                status = self.watch(job)
                self.assertEqual(status["state"], "finished", status["message"])
                self.assertEqual([r["updates"] for r in status["rounds"]], [2, 2, 2])
                self.assertLess(status["rounds"][2]["loss"], status["rounds"][0]["loss"])
                self.assertEqual(status["rounds"][1]["bytes_up"], status["rounds"][2]["bytes_up"])
                up[encoding] = status["bytes_up"]
        self.assertEqual(up["bf16"], up["f32"] / 2)
        self.assertEqual(up["f16"], up["f32"] / 2)
        self.assertLess(up["int4"], up["int8"])
        self.assertLess(up["int8"], up["bf16"])
        self.assertLess(up["topk"], up["f32"])

    def test_job_whose_encoding_makes_no_sense_is_refused(self):
        self.start_coordinator()
        done = self.weft("submit", self.job_file(), "--set", "encoding.values=int8", "--set", "encoding.density=0.5", code=2)
        self.assertIn("encoding.density", done.stderr)
        done = self.weft("submit", self.job_file(), "--set", "privacy.secure_aggregation=true", code=2)
        self.assertIn("not available yet", done.stderr)

    def test_next_job_runs_on_the_same_clients(self):
        self.start_coordinator()
        self.start_clients("ab")
        first = self.submit(clients=2, rounds=1)
        second = self.submit(clients=2, rounds=2)
        self.assertEqual(self.watch(first)["state"], "finished")
        self.assertEqual(self.watch(second)["round"], 2)

    def test_coordinator_killed_between_rounds(self):
        bits = self.undisturbed()
        self.port = None
        coordinator = self.start_coordinator()
        self.start_clients("abc")
        job = self.submit(rounds=4)
        self.watch(job, until=lambda status: status["round"] >= 2)
        coordinator.kill()
        coordinator.wait()
        self.start_coordinator()
        self.assertEqual(self.watch(job)["state"], "finished")
        self.assertEqual(self.export(job), bits)

    def killed_mid_round(self, *overrides):
        bits = self.undisturbed(*overrides)
        self.port = None
        coordinator = self.start_coordinator()
        self.hold("c", 2)
        clients = self.start_clients("abc")
        job = self.submit(*overrides, rounds=4)
        self.wait_until_held("c")
        # Two updates are in and journaled, the third is being trained.
        self.watch(job, until=lambda status: status["phase"] == "training" and status["phase_done"] == 2)
        coordinator.kill()
        coordinator.wait()
        self.start_coordinator()
        self.release("c")
        status = self.watch(job)
        self.assertEqual(status["state"], "finished")
        self.assertEqual([r["updates"] for r in status["rounds"]], [3, 3, 3, 3])
        self.assertEqual(self.export(job), bits)
        for client in clients:
            self.assertEqual(self.stop(client), 0)

    def test_coordinator_killed_mid_round(self):
        self.killed_mid_round()

    def test_coordinator_killed_mid_round_with_int8_updates(self):
        self.killed_mid_round("encoding.values=int8")

    def test_rule_that_changes_the_base_reaches_late_clients_and_the_export(self):
        """The trainer takes the steps of the base in order only, so a client that came late has asked for those it missed."""
        self.start_coordinator()
        self.hold("a", 3)
        self.start_clients("ab")
        job = self.submit("aggregator.name=flora", "round.min_updates=2", clients=2, rounds=4)
        self.wait_until_held("a")
        self.start_client("c")
        wait_until("client c", lambda: (self.client_status("c") or {}).get("connected"))
        self.release("a")
        status = self.watch(job)
        self.assertEqual(status["state"], "finished", status["message"])
        self.assertEqual([r["updates"] for r in status["rounds"]], [2, 2, 2, 3])
        self.export(job)
        folder = self.root / f"export-{job}-last"
        config = json.loads((folder / "adapter_config.json").read_text())
        # The steps have more components than a 4 x 4 module has directions; alpha / rank stays 16 / 2.
        self.assertEqual((config["r"], config["lora_alpha"]), (4, 32))

    def test_central_privacy_ends_with_its_budget(self):
        self.start_coordinator()
        self.start_clients("ab")
        private = ("aggregator:\n  name: dp\n  config: {rule: {name: ffa_lora}, clip_norm: 1, noise_multiplier: 3, epsilon_budget: 2, delta: 0.01, "
                   "clients: 2}\n")
        job = self.submit(clients=2, rounds=200, extra=private)
        status = self.watch(job)
        self.assertEqual(status["state"], "finished", status["message"])
        self.assertIn("privacy budget spent", status["message"])
        self.assertTrue(0 < status["round"] < 200)
        epsilons = [r["epsilon"] for r in status["rounds"]]
        self.assertEqual(epsilons, sorted(epsilons))
        self.assertLessEqual(epsilons[-1], 2)
        privacy = status["privacy"]
        self.assertEqual((privacy["epsilon"], privacy["epsilon_budget"], privacy["sampling_rate"]), (epsilons[-1], 2, 1))
        self.assertIn("train_loss", privacy["unprotected"])
        text = self.weft("status", job).stdout
        self.assertIn("of 2, delta 0.01", text)
        self.assertIn("shown without noise", text)
        self.assertIn("epsilon_budget=2", self.log("coordinator"))

    def test_coordinator_stopped_by_a_signal_goes_on_later(self):
        coordinator = self.start_coordinator()
        self.hold("a", 2)
        self.start_clients("ab")
        job = self.submit(clients=2, rounds=3)
        self.wait_until_held("a")
        self.assertEqual(self.stop(coordinator), 0)
        self.release("a")
        self.start_coordinator()
        self.assertEqual(self.watch(job)["state"], "finished")

    def test_warm_start_goes_on_from_an_export(self):
        self.start_coordinator()
        self.start_clients("ab")
        first = self.submit(clients=2, rounds=2)
        accuracy = self.watch(first)["best_accuracy"]
        self.export(first)
        warm = self.submit(f"warm_start={self.root / f'export-{first}-last'}", clients=2, rounds=1)
        self.assertGreater(self.watch(warm)["best_accuracy"], accuracy)

    def test_stopped_job(self):
        self.start_coordinator()
        self.hold("a", 2)
        self.start_clients("ab")
        job = self.submit(clients=2, rounds=3)
        self.wait_until_held("a")
        self.assertEqual(self.weft_json("stop", job)["job"]["state"], "stopped")
        self.watch(job, code=7)
        self.weft("stop", job, code=5)
        self.export(job)


if __name__ == "__main__":
    unittest.main()
