"""Adapters of other forms than LoRA over gRPC, under every rule that makes sense for them: all processes real but the trainer."""

import json
import unittest

from cluster import Cluster

CONFIGS = {"ssf": {"target_modules": ["query", "LayerNorm"]}, "prompt": {"tokens": 3}}
RULE = "{name: fedavg}"
# Rules that sum or choose among deltas of any tensors, and their configs.
FITTING = {
    "fedavg": "",
    "fedprox": "",
    "scaffold": "config: {clients: 3}",
    "fedopt": f"config: {{optimizer: adam, rule: {RULE}}}",
    "median": f"config: {{rule: {RULE}}}",
    "trimmed_mean": f"config: {{rule: {RULE}}}",
    "krum": f"config: {{f: 0, rule: {RULE}}}",
    "geometric_median": f"config: {{rule: {RULE}}}",
    "norm_bound": f"config: {{max_norm: 1, rule: {RULE}}}",
}
# Rules on the two factors of LoRA.
REFUSED = ("ffa_lora", "rolora", "fedsa_lora", "lora_fair", "fedex_lora", "flora", "flexlora", "hetlora")


class FormsTest(Cluster):
    def job_of(self, form, rule, config=""):
        path = self.job_file(clients=3, rounds=2, extra=f"aggregator:\n  name: {rule}\n" + (f"  {config}\n" if config else ""))
        adapter = f"adapter: {json.dumps({'form': form, 'config': CONFIGS[form]})}\n"
        lines = path.read_text().splitlines(keepends=True)
        start = lines.index("adapter:\n")
        path.write_text("".join([*lines[:start], adapter, *lines[start + 3:]]))
        return path

    def test_each_form_under_each_rule_that_fits(self):
        self.start_coordinator()
        self.start_clients("abc")
        for form in CONFIGS:
            for rule, config in FITTING.items():
                with self.subTest(form=form, rule=rule):
                    plain = ["--set", "training.optimizer=sgd", "--set", "training.clip_grad_norm=0"] if rule == "scaffold" else []
                    job = self.weft("submit", self.job_of(form, rule, config), *plain).stdout.strip()
                    status = self.watch(job)
                    self.assertEqual(status["state"], "finished", status["message"])
                    self.assertEqual([r["updates"] for r in status["rounds"]], [3, 3])
                    self.assertGreater(len(self.export(job)), 200)
                    config = json.loads((self.root / f"export-{job}-last" / "adapter_config.json").read_text())
                    self.assertEqual(config["peft_type"], {"ssf": "WEFT_SSF", "prompt": "PROMPT_TUNING"}[form])

    def test_rules_on_factors_are_refused(self):
        self.start_coordinator()
        for form in CONFIGS:
            for rule in REFUSED:
                with self.subTest(form=form, rule=rule):
                    done = self.weft("submit", self.job_of(form, rule), code=2)
                    self.assertIn("lora", done.stderr)


if __name__ == "__main__":
    unittest.main()
