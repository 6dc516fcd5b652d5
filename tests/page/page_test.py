#!/usr/bin/env python3
"""Opens the status page in headless Chromium and checks what a visitor sees.

usage: page_test.py PAGE_FIXTURE [--out FOLDER]

PAGE_FIXTURE is the binary //tests/page:page_fixture. Screenshots go to FOLDER (default: a temporary one, printed).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import unittest

import fixtures
from browser import Browser

ARGS = None


class Page(unittest.TestCase):
    def setUp(self):
        self.fixture = subprocess.Popen([ARGS.fixture], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.origin = f"http://127.0.0.1:{int(self.fixture.stdout.readline())}"
        self.browser = Browser()
        self.browser.look(1180, 900)

    def tearDown(self):
        self.browser.close()
        self.fixture.stdin.close()
        self.fixture.stdout.close()
        self.fixture.wait(10)

    def serve(self, status):
        """Puts a status behind the page; open pages get it pushed."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(status, file)
            file.flush()
            self.fixture.stdin.write(file.name + "\n")
            self.fixture.stdin.flush()
            self.assertEqual(self.fixture.stdout.readline(), "shown\n")

    def open(self, status):
        self.serve(status)
        self.browser.open(self.origin + "/")
        self.browser.wait_for("document.querySelector('#live.on')")

    def text(self, selector):
        return self.browser.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def visible(self, selector):
        return self.browser.run(f"document.querySelector({json.dumps(selector)}).checkVisibility()")

    def shoot(self, name):
        self.browser.screenshot(os.path.join(ARGS.out, name + ".png"))

    def assert_clean(self):
        """Nothing left the origin, nothing was complained about, nothing sticks out sideways."""
        foreign = [url for url in self.browser.requests if not url.startswith(self.origin + "/")]
        self.assertEqual(foreign, [])
        self.assertEqual(self.browser.problems, [])
        self.assertLessEqual(self.browser.run("document.documentElement.scrollWidth - innerWidth"), 0)

    def test_running_job(self):
        self.open(fixtures.running())
        self.assertEqual(self.text("#job-name"), "debian-sections")
        self.assertEqual(self.text("#state"), "running")
        self.assertIn("all-MiniLM-L6-v2", self.text("#job-title"))
        self.assertIn("12 labels (admin, ", self.text("#how"))
        self.assertIn("4 clients", self.text("#job-title"))
        self.assertIn("rank 8", self.text("#how"))
        self.assertEqual(self.text("#round-text"), "Round 13 of 20")
        self.assertEqual(self.text("#phase-text"), "Training: 2 of 4 updates in")
        self.assertIn("about 2 minutes left", self.text("#left"))
        self.assertEqual(self.browser.run("document.querySelectorAll('.thread').length"), 20)
        self.assertIn("18.2\u202fMB", self.text("#tiles"))
        f1 = f"{90 * fixtures.running()['jobs'][0]['rounds'][-1]['accuracy']:.1f}\u202f%"
        self.assertIn(f"F1{f1}mean over labels", self.text("#tiles"))
        self.assertTrue(self.visible("#f1-head"))
        self.assertEqual(self.text("#rounds tbody tr td:nth-child(3)"), f1)
        self.assertFalse(self.visible("#perplexity-head"))
        self.assertFalse(self.visible("#rounds tbody tr td:nth-child(5)"))
        self.assertEqual(self.browser.run("document.querySelectorAll('#clients tbody tr').length"), 4)
        self.assertIn("training 67\u202f%", self.text("#clients"))
        self.assertFalse(self.visible("#insecure"))
        self.assertFalse(self.visible("#empty"))
        self.assertEqual(self.browser.run("document.title.split('round')[1]"), " 12/20 \u00b7 debian-sections")
        self.shoot("running-light")
        self.browser.look(1180, 900, dark=True)
        self.shoot("running-dark")
        self.assert_clean()

    def test_privacy(self):
        self.open(fixtures.running())
        self.assertFalse(self.visible("#privacy"))
        self.assertFalse(self.visible("#epsilon-head"))
        self.serve(fixtures.private())
        self.browser.wait_for("!document.querySelector('#privacy').hidden")
        line = self.text("#privacy")
        for part in ("epsilon 6.42 of 8 spent", "delta 0.00001", "noise multiplier 1.1", "sampling rate 0.1 claimed",
                     "not covered: updates, examples, train_loss, accuracy, loss, evaluated_examples, f1."):
            self.assertIn(part, line)
        self.assertTrue(self.visible("#epsilon-head"))
        self.assertEqual(self.text("#rounds tbody tr td:last-child"), "6.42")
        self.shoot("privacy-light")
        self.browser.look(400, 860, dark=True)
        self.shoot("privacy-narrow-dark")
        self.serve(fixtures.private(sampling_rate=1))
        self.browser.wait_for("document.querySelector('#privacy').textContent.includes('no amplification by sampling claimed')")
        self.assert_clean()

    def test_language_model(self):
        self.open(fixtures.language_model())
        self.assertIn("The task: predict each next token.", self.text("#how"))
        rounds = fixtures.language_model()["jobs"][0]["rounds"]
        perplexity = f"{rounds[-2]['perplexity']:.2f}"
        self.assertIn(f"Perplexity{perplexity}lower is better", self.text("#tiles"))
        self.assertNotIn("F1", self.text("#tiles"))
        self.assertFalse(self.visible("#f1-head"))
        self.assertTrue(self.visible("#perplexity-head"))
        self.assertEqual(self.text("#rounds tbody tr td:nth-child(5)"), "\u2013", "not evaluated")
        self.assertEqual(self.text("#rounds tbody tr:nth-child(2) td:nth-child(5)"), perplexity)
        for chart, unit in (("#accuracy-chart", "tokens predicted right, %"), ("#loss-chart", "nats per token")):
            titles = self.browser.run(f"[...document.querySelectorAll('{chart} text.title')].map(t => t.textContent)")
            self.assertEqual(titles, ["round", unit])
        self.shoot("language-model-light")
        self.browser.look(400, 860)
        self.shoot("language-model-narrow-light")
        self.assert_clean()

    def test_curves(self):
        self.open(fixtures.running())
        self.assertEqual(self.browser.run("document.querySelectorAll('#accuracy-chart .series circle').length"), 12)
        self.assertGreater(self.browser.run("document.querySelector('#accuracy-chart .curve').getTotalLength()"), 200)
        self.assertEqual(self.browser.run("document.querySelectorAll('#loss-chart .curve').length"), 2)
        self.assertGreaterEqual(self.browser.run("document.querySelectorAll('#accuracy-chart text.y').length"), 3)
        self.assertIn("target 70", self.text("#accuracy-chart"))
        for chart, unit, first in (("#accuracy-chart", "rows answered right, %", "0\u202f%"), ("#loss-chart", "nats per row", "1.0")):
            titles = self.browser.run(f"[...document.querySelectorAll('{chart} text.title')].map(t => t.textContent)")
            self.assertEqual(titles, ["round", unit])
            self.assertEqual(self.text(f"{chart} text.y"), first)
            self.assertEqual(self.text(f"{chart} text.x"), "1")
        label = self.browser.run("document.querySelector('#accuracy-chart svg').getAttribute('aria-label')")
        self.assertIn("in round 12", label)
        box = self.browser.run("(() => { const b = document.querySelector('#accuracy-chart .series circle:nth-of-type(6)')"
                               ".getBoundingClientRect(); return {x: b.x + b.width / 2, y: b.y}; })()")
        self.browser.move_mouse(box["x"] + 2, box["y"])
        self.browser.wait_for("document.querySelector('#accuracy-chart .tip').textContent.includes('Round 6')")
        self.shoot("hover")
        self.browser.run("document.querySelector('#loss-chart svg').focus()")
        for key in ("End", "ArrowLeft"):
            self.browser.press(key)
        self.browser.wait_for("document.querySelector('#loss-chart .tip').textContent.includes('Round 11')")
        self.assert_clean()

    def test_pushes(self):
        self.open(fixtures.running())
        before = len(self.browser.requests)
        self.serve(fixtures.next_round())
        self.browser.wait_for("document.querySelector('#round-text').textContent === 'Round 14 of 20'")
        self.assertEqual(self.browser.run("document.querySelectorAll('#accuracy-chart .series circle').length"), 13)
        self.serve(fixtures.finished())
        self.browser.wait_for("document.querySelector('#state').textContent === 'finished'")
        self.assertEqual(self.text("#round-text"), "20 of 20 rounds")
        self.assertIn("took 3\u202fmin", self.text("#left"))
        self.assertEqual(len(self.browser.requests), before, "pushed, not asked for")
        self.shoot("finished-light")
        self.assert_clean()

    def test_rounds_table(self):
        self.open(fixtures.many_rounds())
        self.assertEqual(self.browser.run("document.querySelectorAll('#rounds tbody tr').length"), 12)
        self.assertTrue(self.browser.run("document.querySelector('#rounds tbody th').textContent.startsWith('240')"))
        self.browser.run("document.querySelector('#more').click()")
        self.assertEqual(self.browser.run("document.querySelectorAll('#rounds tbody tr').length"), 240)
        self.browser.run("document.querySelector('#more').click()")
        self.assertIn("6\u202fmin ago", self.text("#clients tbody tr.off"))
        self.shoot("many-rounds-light")
        self.browser.run("[...document.querySelectorAll('#jobs button')].find(b => b.textContent === 'second-job').click()")
        self.assertEqual(self.text("#round-text"), "Not started")
        self.assertIn("waits for debian-sections", self.text("#message"))
        self.shoot("waiting-light")
        self.assert_clean()

    def test_empty(self):
        self.open(fixtures.empty())
        self.assertTrue(self.visible("#empty"))
        self.assertFalse(self.visible("#job"))
        self.assertIn("weft-client --config", self.text("#empty"))
        self.assertIn("weft submit", self.text("#empty"))
        self.assertIn("None has connected", self.text("#so-far"))
        self.shoot("empty-light")
        self.serve(fixtures.empty(clients=2))
        self.browser.wait_for("document.querySelector('#so-far').textContent.includes('2 clients connected')")
        self.browser.look(1180, 900, dark=True)
        self.shoot("empty-dark")
        self.assert_clean()

    def test_glossary(self):
        self.open(fixtures.running())
        self.assertFalse(self.visible(".words"))
        self.browser.run("document.querySelector('#words-card summary').click()")
        self.assertTrue(self.visible(".words"))
        self.assertIn("Only adapters travel", self.text(".words"))
        self.shoot("glossary-light")
        self.assert_clean()

    def test_failed(self):
        self.open(fixtures.failed())
        self.assertEqual(self.text("#state"), "failed")
        self.assertIn("abandoned 10 times", self.text("#message"))
        self.assertIn("refused: found base", self.text("#clients"))
        self.assertEqual(self.browser.run("document.querySelector('#clients tbody tr').className"), "on refused")
        self.shoot("failed-light")
        self.assert_clean()

    def test_hostile_texts_stay_text(self):
        self.open(fixtures.hostile())
        self.assertEqual(self.text("#clients tbody .id"), fixtures.HOSTILE)
        self.assertEqual(self.text("#job-name"), fixtures.HOSTILE)
        self.assertEqual(self.browser.run("document.querySelectorAll('main img, main script, header script').length"), 0)
        self.assertTrue(self.visible("#insecure"))
        self.shoot("hostile-light")
        self.assert_clean()

    def test_narrow(self):
        self.browser.look(400, 860)
        self.open(fixtures.running())
        self.shoot("running-narrow-light")
        self.assert_clean()
        self.browser.look(400, 860, dark=True)
        self.serve(fixtures.empty(clients=1))
        self.browser.wait_for("!document.querySelector('#empty').hidden")
        self.shoot("empty-narrow-dark")
        self.assert_clean()

    def test_coordinator_gone(self):
        self.open(fixtures.running())
        self.fixture.stdin.close()
        self.fixture.wait(10)
        self.browser.wait_for("document.querySelector('#live.off')")
        self.assertEqual(self.text("#round-text"), "Round 13 of 20")

    def test_everything_has_a_name(self):
        self.open(fixtures.many_rounds())
        nodes = self.browser._call("Accessibility.getFullAXTree")["nodes"]
        for node in nodes:
            role = node.get("role", {}).get("value")
            if role in ("button", "link", "image", "table", "progressbar", "region") and not node.get("ignored"):
                self.assertTrue(node.get("name", {}).get("value"), f"{role} without a name: {node}")


def main():
    global ARGS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixture")
    parser.add_argument("--out", default=os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR"))
    ARGS, rest = parser.parse_known_args()
    ARGS.fixture = os.path.abspath(ARGS.fixture)
    ARGS.out = ARGS.out or tempfile.mkdtemp(prefix="weft-page-shots-")
    os.makedirs(ARGS.out, exist_ok=True)
    print(f"screenshots: {ARGS.out}", flush=True)
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
