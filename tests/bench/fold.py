"""How fast updates are folded: beside the copy bandwidth of this machine and beside Flower, and in how much memory.

    tests/bench/run.sh fold [--repeats 5]

fold_bench says what its lines mean. fold_over_flower: both sides go from 20 updates of 40 MB in memory to their weighted mean, in turn; the
median of our rates over the median of Flower's fastest way.
"""

import argparse
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / "bazel-bin/aggregators/core/fold_bench"
CLIENTS, ELEMENTS = 20, 10_000_000  # as in fold_bench


def numbers(*command):
    """What a command prints as name=value lines."""
    text = subprocess.run([str(word) for word in command], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name: float(value) for name, value in (line.split("=") for line in text.split())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    for clients in (10, 1000):
        for name, value in numbers(BENCH, "peak", clients).items():
            print(f"{name}={value:.0f}", flush=True)
    subprocess.run([BENCH], check=True)

    ours, flower = [], {}
    for _ in range(args.repeats):
        ours.append(numbers(BENCH, "total")["fold_total_GBps"])
        for name, rate in numbers(".weft/peers/bin/python", "tests/bench/flower_fold.py", CLIENTS, ELEMENTS).items():
            flower.setdefault(name, []).append(rate)
    for name, rates in flower.items():
        print(f"flower_{name}={statistics.median(rates):.2f}")
    print(f"fold_total_GBps={statistics.median(ours):.2f}")
    print(f"fold_over_flower={statistics.median(ours) / max(statistics.median(rates) for rates in flower.values()):.2f}")


if __name__ == "__main__":
    main()
