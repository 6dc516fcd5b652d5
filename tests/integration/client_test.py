"""Clients that leave, fail, come twice or do not fit: the job goes on for the others."""

import time
import unittest

from cluster import Cluster, wait_until, write_base, write_data


class ClientTest(Cluster):
    def test_sigterm_mid_round_loses_nothing_for_the_others(self):
        self.start_coordinator()
        self.hold("c", 1)
        *_, leaver = self.start_clients("abc")
        job = self.submit("selection.min_ready=3", "round.min_updates=2", rounds=1)
        self.wait_until_held("c")
        started = time.monotonic()
        self.assertEqual(self.stop(leaver), 0)
        self.assertLess(time.monotonic() - started, 5)
        status = self.watch(job)
        self.assertEqual(status["state"], "finished")
        self.assertEqual(status["rounds"][0]["updates"], 2)

    def test_killed_client_comes_back_and_trains_again(self):
        self.start_coordinator()
        self.hold("b", 1)
        _, killed = self.start_clients("ab")
        job = self.submit(clients=2, rounds=2)
        self.wait_until_held("b")
        killed.kill()
        killed.wait()
        self.release("b")
        self.start_client("b")
        status = self.watch(job)
        self.assertEqual(status["state"], "finished")
        self.assertEqual([r["updates"] for r in status["rounds"]], [2, 2])

    def test_two_clients_with_one_id(self):
        self.start_coordinator()
        self.start_client("a")
        wait_until("client a", lambda: (self.client_status("a") or {}).get("connected"))
        second = self.start_client("a", log="second")
        self.assertEqual(second.wait(60), 5)
        self.assertIn("ALREADY_EXISTS", self.log("second").strip().split("\n")[-1])
        self.assertEqual(self.watch(self.submit(clients=1, rounds=1))["state"], "finished")

    def test_wrong_base_is_refused_and_the_others_go_on(self):
        self.start_coordinator()
        other = self.root / "other"
        write_base(other, seed=2.0)
        self.start_client("c", base=other)
        self.start_clients("ab")
        self.assertEqual(self.watch(self.submit(clients=2, rounds=2))["state"], "finished")
        # Asked while the next job waits for clients that never come.
        self.submit(clients=9)
        wait_until("the refusal", lambda: "refused" in (self.client_status("c") or {}).get("activity", ""))
        self.assertIn("base", self.client_status("c")["activity"])

    def test_wrong_labels_are_refused_by_name(self):
        self.start_coordinator()
        write_data(self.root / "grey", labels=["red", "grey", "blue"])
        client = self.start_client("c", data=self.root / "grey")
        self.submit(clients=9)
        wait_until("the refusal", lambda: "refused" in (self.client_status("c") or {}).get("activity", ""))
        self.assertIn('"grey", expected "green"', self.client_status("c")["activity"])
        self.assertEqual(self.stop(client), 0)

    def test_nan_update_is_refused_and_the_others_go_on(self):
        self.start_coordinator()
        self.start_clients("ab")
        self.start_client("c", fault="nan")
        status = self.watch(self.submit("round.min_updates=2", rounds=2))
        self.assertEqual(status["state"], "finished")
        self.assertEqual([r["updates"] for r in status["rounds"]], [2, 2])
        self.assertIn("NaN", self.log("c"))
        self.assertIn("lora_A", self.log("c"))

    def test_failing_trainer_is_left_out(self):
        self.start_coordinator()
        self.start_clients("ab")
        self.start_client("c", fault="error")
        status = self.watch(self.submit("round.min_updates=2", rounds=2))
        self.assertEqual([r["updates"] for r in status["rounds"]], [2, 2])

    def test_job_that_nobody_can_train_fails(self):
        self.start_coordinator()
        self.start_client("a", fault="error")
        status = self.watch(self.submit("round.max_attempts=2", clients=1), code=9)
        self.assertEqual(status["state"], "failed")
        self.assertNotEqual(status["message"], "")

    def test_stops_on_sigterm_while_nobody_answers(self):
        self.port = 1  # nothing listens there
        client = self.start_client("a")
        wait_until("an attempt", lambda: "event=disconnected" in self.log("a"), client)
        self.assertEqual(self.stop(client), 0)


if __name__ == "__main__":
    unittest.main()
