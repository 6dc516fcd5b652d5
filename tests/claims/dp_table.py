"""LoRA, FFA-LoRA and FedSVD under central differential privacy of clients: a table, not a claim, since public evidence is mixed.

    .venv/bin/python tests/claims/dp_table.py [--write]

Digits-6D with 120 clients (20 a domain, 5 or 6 images each), each drawn with probability 1/2 a round, 30 rounds of 5 steps, clip .3 on the whole
delta, three noise levels and a reference with next to none, 5 seeds, the learning rate searched for each rule and level on the figures that are
reported (no epsilon is paid for the search, as in the papers; so the epsilons are those of one run). Gaps are paired by seed. Resumable: see
harness.py. --write renews tests/claims/DP_TABLE.md.
"""

import argparse
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import ROOT, Search, job, task  # noqa: E402

RULES = {"LoRA": {"name": "fedavg"}, "FFA-LoRA": {"name": "ffa_lora"}, "FedSVD": {"name": "fedsvd"}}
NOISE = [0.01, 1.0, 4.0, 16.0]
RATES = [0.1, 0.3, 1.0, 3.0]
SEEDS = range(5)
CLIENTS, RATE, ROUNDS, DELTA, CLIP = 120, 0.5, 30, 1e-3, 0.3
LONGEST_SECONDS = 20


def epsilon(noise):
    done = subprocess.run([ROOT / "bazel-bin/privacy/weft-epsilon", str(DELTA), str(RATE), str(noise), str(ROUNDS)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[0].split("=")[-1])


def search(noise):
    def make(method, lr, seed):
        config = {"rule": RULES[method], "clip_norm": CLIP, "noise_multiplier": noise, "epsilon_budget": 1e6, "delta": DELTA, "clients": CLIENTS, "noise": "seeded",
                  "for_tests": True}
        return {"task": task("digits", seed, clients_per_domain=20),
                "job": job("dp", config, rounds=ROUNDS, steps=5, lr=lr, seed=seed, batch=8, selection={"rule": "poisson", "rate": RATE},
                           round={"min_updates": 0})}
    return Search(list(RULES), RATES, SEEDS, make)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    lines = ["| noise multiplier | epsilon | " + " | ".join(f"{rule}, %" for rule in RULES) + " | FFA-LoRA - LoRA, points | FedSVD - FFA-LoRA, points |",
             "| --- " * (len(RULES) + 4) + "|"]
    slowest = 0
    for noise in NOISE:
        found = search(noise)
        slowest = max([slowest] + [sum(round_["real_seconds"] for round_ in result["rounds"]) for result in found.results.values()])
        gaps = [f"{mean:+.1f} ± {error:.1f}" for mean, error in (found.gap("FFA-LoRA", "LoRA"), found.gap("FedSVD", "FFA-LoRA"))]
        lines.append(f"| {noise:g} | {epsilon(noise):.2f} | " + " | ".join([found.row(rule) for rule in RULES] + gaps) + " |")
        print(lines[-1], flush=True)
    print("\n".join(lines) + f"\nslowest run: {slowest:.1f} s")
    if slowest > LONGEST_SECONDS:
        sys.exit(f"a run took {slowest:.1f} s, expected at most {LONGEST_SECONDS}")
    if arguments.write:
        text = __doc__.strip().split("\n\n")
        page = ["# Under central differential privacy", "", text[0], "", " ".join(text[2].split()), "", f"delta = {DELTA:g}.", "", *lines, "",
                f"The slowest run took {slowest:.1f} s."]
        pathlib.Path(__file__).with_name("DP_TABLE.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
