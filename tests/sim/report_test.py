"""The report of a run and of several, opened from disk in headless Chromium."""

import json
import pathlib
import sys
import unittest

from support import ROOT, SimTestCase

sys.path.insert(0, str(ROOT / "tests/page"))
from browser import Browser  # noqa: E402

STORM = {"speed": {"rows_per_second": 2, "sigma": 1, "stragglers": 0.2}, "dropout": {"in_training": 0.1, "in_upload": 0.1},
         "hostile": [{"part": 0.1, "attack": "nan"}]}


class ReportTest(SimTestCase):
    def setUp(self):
        super().setUp()
        self.browser = Browser()
        self.addCleanup(self.browser.close)
        self.browser.look(1180, 900)

    def show(self, path):
        self.browser.open(pathlib.Path(path).as_uri())
        self.browser.wait_for("document.querySelector('#rounds tr td')")

    def run_js(self, expression):
        return self.browser.run(expression)

    def text(self, selector):
        return self.run_js(f"document.querySelector({json.dumps(selector)}).textContent")

    def count(self, selector):
        return self.run_js(f"document.querySelectorAll({json.dumps(selector)}).length")

    def choose(self, selector, value):
        self.run_js(f"(() => {{ const s = document.querySelector({json.dumps(selector)}); s.value = {json.dumps(value)};"
                    " s.dispatchEvent(new Event(s.tagName === 'INPUT' ? 'input' : 'change')); })()")

    def assert_clean(self):
        """Nothing but the file was asked for, nothing was complained about, nothing sticks out sideways."""
        self.assertEqual([url for url in self.browser.requests if not url.startswith("file://")], [])
        self.assertEqual(self.browser.problems, [])
        self.assertLessEqual(self.run_js("document.documentElement.scrollWidth - innerWidth"), 0)

    def test_one_run(self):
        self.run_scenario(self.scenario(behaviour=STORM, evaluation={"target_accuracy": 0.3}))
        summary, rounds = self.summary(), self.rounds()
        self.show(self.root / "out/small/report.html")
        self.assertEqual(self.text("#title"), "small")
        self.assertIn("40 virtual clients tuned", self.text("#lead"))
        self.assertIn(f"{100 * summary['final_accuracy']:.2f} %accuracy at the end", self.text("#tiles"))
        self.assertEqual(self.count("#rounds tr"), 7)
        self.assertEqual(self.count("#curve circle.point"), 3)
        self.choose("#metric", "train_loss")
        self.assertEqual(self.count("#curve circle.point"), 6)
        for axis in ("simulated_seconds", "real_total", "bytes_total"):
            self.choose("#axis", axis)
            self.assertEqual(self.count("#curve circle.point"), 6)
        self.choose("#metric", "bytes_up")
        self.assertIn("wire", self.text("#metric-note"))
        self.assertGreaterEqual(self.count("#fates rect"), 6)
        self.assertGreater(self.count("#histogram rect.bin"), 0)
        self.assertIn("clients: mean", self.text("#fairness"))
        self.assertEqual(self.run_js("document.querySelector('#target').value"), "30.0")
        reached = next(r for r in rounds if r.get("accuracy", 0) >= 0.3)
        self.assertEqual(self.text("#targets td:nth-child(2)"), str(reached["round"]))
        self.assertEqual(summary["to_target"]["round"], reached["round"])
        self.choose("#target", "100")
        self.assertEqual(self.text("#targets td:nth-child(2)"), "not reached")
        self.assertFalse(self.run_js("document.querySelector('#runs-section').checkVisibility()"))
        self.assert_clean()
        self.browser.look(400, 860, dark=True)
        self.assert_clean()

    def test_a_sweep(self):
        self.run_scenario(self.scenario(sweep={"job.aggregator.name": ["fedavg", "rolora"], "job.seed": [1, 2], "population.seed": [1, 2]}))
        self.show(self.root / "out/small/report.html")
        self.assertEqual(self.text("#title"), "8 simulated runs")
        self.assertEqual(self.count("#runs tr"), 3)
        self.assertIn("aggregator rolora", self.text("#runs"))
        self.assertIn("±", self.text("#runs"))
        self.assertEqual(self.count("#curve path"), 8)
        legend = self.text("#legend")
        self.assertIn("aggregator fedavg, job.seed 1, population.seed 2", legend)
        before = self.text("#rounds")
        self.choose("#run", "5")
        self.assertNotEqual(self.text("#rounds"), before)
        self.assertIn("rolora", self.text("#scenario"))
        self.assert_clean()

    def test_figures_that_are_no_numbers_or_missing(self):
        self.run_scenario(self.scenario(job__evaluation={"every": 0}, evaluation={"final_clients": 0, "central": False}))
        folder = self.root / "out/small"
        lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
        lines[3]["train_loss"] = None
        (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.sim("compare", folder, "--out", self.root / "page.html")
        self.show(self.root / "page.html")
        self.choose("#metric", "train_loss")
        self.assertEqual(self.count("#curve circle.point"), 5)
        self.assertFalse(self.run_js("document.querySelector('#target-section').checkVisibility()"))
        self.assertFalse(self.run_js("document.querySelector('#fairness-section').checkVisibility()"))
        self.assert_clean()


if __name__ == "__main__":
    unittest.main()
