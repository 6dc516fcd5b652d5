"""Simulated rounds beside Flower's and pfl-research's, and what more clients, threads and ranks cost or gain.

    tests/bench/run.sh sim [--repeats 3] [--rounds 6] [--only empty,train,accuracy,population,speedup]

empty       100 clients whose updates of 400 kB cost nothing to compute: sim_bench.cc beside Flower, in turn; medians.
train       minilm_task.py under both peers and here, each in f32 and bf16, in turn, from the same first values, over the same cohorts and batches;
            seconds of a round, medians over rounds and repeats; the f32 adapters are compared with the peers'.
accuracy    the same at a higher rate, for longer: accuracy of the last adapter, all three evaluated by transformers and peft; fails where that in bf16
            is more than half a point behind.
population  1,000 clients a round out of a thousand to a million, in one process each, in turn: seconds of a round, medians; the largest peak memory.
speedup     the MiniLM task in f32 with two threads, and with two ranks of one thread, over one; digits likewise.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/bench/sim"
SECTIONS = ROOT / ".weft/scenarios/debian-sections"
PEER = ROOT / ".weft/peers/bin/python"
COHORT, CLIENTS, KILOBYTES = 20, 100, 400
RATE = 0.25  # of the long comparison: the largest of 0.1, 0.25, 0.5 that stays stable
BEHIND = 0.005  # in accuracy, at most
TOLERANCE = 1e-4  # of the change since the first values, L2


def call(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"sim.py: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-3000:]}{done.stdout[-1000:]}")
    return done.stdout


def values(text):
    """Of the name=value lines."""
    return {name: float(value) for name, value in re.findall(r"^(\w+)=([-+.\de]+)$", text, re.MULTILINE)}


def weft_sim(scenario, out, *sets, ranks=1):
    """Seconds of each round, and the summary of a run."""
    words = [ROOT / "bazel-bin/simulation/weft-sim", scenario, "--quiet"]
    for setting in (f"run.out={out}", *sets):
        words += ["--set", setting]
    if ranks == 1:
        call(*words)
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        running = [subprocess.Popen([str(word) for word in words], env={**env, "RANK": str(rank)}, stdout=subprocess.DEVNULL) for rank in range(ranks)]
        if any([process.wait() for process in running]):
            sys.exit("sim.py: a rank failed")
    (folder,) = pathlib.Path(out).iterdir()
    rounds = [json.loads(line)["real_seconds"] for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return rounds, json.loads((folder / "summary.json").read_text())


def show(**figures):
    for name, value in figures.items():
        print(f"{name}={value:.4g}", flush=True)


def empty(args, scratch):
    ours, flower, wrong = [], [], 0
    for repeat in range(args.repeats):
        line = json.loads(call(ROOT / "bazel-bin/simulation/sim_bench", CLIENTS, KILOBYTES, 40, 2, scratch / f"empty-{repeat}"))
        ours.append(line["client_rounds_per_second"])
        wrong += line["wrong"]
        flower.append(values(call(PEER, HERE / "flower_empty.py", CLIENTS, KILOBYTES, 5))["client_rounds_per_second"])
    if wrong:
        sys.exit(f"sim.py: {wrong} values of the sum are wrong")
    show(sim_empty_client_rounds_per_second=statistics.median(ours), flower_empty_client_rounds_per_second=statistics.median(flower),
         sim_empty_over_flower=statistics.median(ours) / statistics.median(flower))


def minilm(start, out, rounds, *sets, **options):
    files = {"job.base.path": SECTIONS / "base", "population.data": SECTIONS / "data", "job.warm_start": start, "behaviour.cohorts": start / "cohorts.txt",
             "job.stop.rounds": rounds, "run.threads": 2}  # as the peers
    return weft_sim(HERE / "minilm.yaml", out, *[f"{name}={value}" for name, value in files.items()], *sets, **options)


def make_start(folder, rounds):
    call(PEER, HERE / "minilm_task.py", SECTIONS / "sections.tsv", SECTIONS / "base", COHORT, rounds, "--start", folder)
    return folder


def peer(name, rounds, out, *more):
    return values(call(PEER, HERE / f"{name}_minilm.py", SECTIONS / "sections.tsv", SECTIONS / "base", COHORT, rounds, "--out", out, *more))


def apart(one, other, start):
    """L2 distance of two adapters over how far the second has moved."""
    one, other, start = (load_file(folder / "adapter_model.safetensors") for folder in (one, other, start))
    if one.keys() != other.keys():
        sys.exit(f"sim.py: tensors of one adapter only: {sorted(one.keys() ^ other.keys())}")

    def distance(a, b):
        return np.sqrt(sum(np.square(a[name].astype(np.float64) - b[name]).sum() for name in a))

    return distance(one, other) / distance(other, start)


def train(args, scratch):
    start = make_start(scratch / "start", args.rounds)
    seconds = {"flower": [], "pfl": [], "flower_bf16": [], "pfl_bf16": [], "f32": [], "bf16": []}
    memory = {}
    for repeat in range(args.repeats):
        for name in ("pfl", "flower", "pfl_bf16", "flower_bf16"):
            which, bf16 = name.removesuffix("_bf16"), ["--bf16"] if name.endswith("_bf16") else []
            figures = peer(which, args.rounds, scratch / name, *bf16)
            seconds[name].append(figures[f"{which}_round_seconds"])
            memory[name] = figures[f"{which}_peak_memory_MB"]
        for compute in ("f32", "bf16"):
            rounds, summary = minilm(start, scratch / f"{compute}-{repeat}", args.rounds + 1, f"job.training.compute={compute}")
            seconds[compute].append(statistics.median(rounds[1:]))
            memory[compute] = summary["peak_memory_mb"]
    for name, all_ in seconds.items():
        show(**{f"{name}_round_seconds": statistics.median(all_), f"{name}_peak_memory_MB": memory[name]})
    best = min(statistics.median(seconds[name]) for name in ("flower", "pfl"))
    best_bf16 = min(statistics.median(seconds[name]) for name in ("flower_bf16", "pfl_bf16"))
    for name in ("pfl", "flower"):
        difference = apart(scratch / "f32-0/minilm/adapter", scratch / name, start)
        show(**{f"sim_f32_adapter_apart_from_{name}": difference})
        if not difference < TOLERANCE:
            sys.exit(f"sim.py: the adapters differ by {difference} of their change, expected at most {TOLERANCE}")
    show(sim_train_fp32_over_best_peer=best / statistics.median(seconds["f32"]), sim_train_over_best_peer=best / statistics.median(seconds["bf16"]),
         sim_train_bf16_over_best_peer_in_bf16=best_bf16 / statistics.median(seconds["bf16"]))


def accuracy(args, scratch):
    rounds = args.accuracy_rounds
    start = make_start(scratch / "start-long", rounds)
    seconds = {"pfl": peer("pfl", rounds, scratch / "pfl-long", "--learning-rate", RATE)["pfl_round_seconds"]}
    folders = {"pfl": scratch / "pfl-long"}
    for compute in ("f32", "bf16"):
        out = scratch / f"{compute}-long"
        each, _ = minilm(start, out, rounds + 1, f"job.training.compute={compute}", f"job.training.learning_rate={RATE}")
        seconds[compute], folders[compute] = statistics.median(each[1:]), out / "minilm/adapter"
    reached = {}
    for name, folder in folders.items():
        line = call(PEER, HERE / "minilm_task.py", SECTIONS / "sections.tsv", SECTIONS / "base", COHORT, rounds, "--accuracy", folder)
        reached[name] = values(line)["accuracy"]
        show(**{f"{name}_long_round_seconds": seconds[name], f"{name}_accuracy": reached[name]})
    if reached["bf16"] < reached["pfl"] - BEHIND:
        sys.exit(f"sim.py: the accuracy in bf16 is more than {BEHIND} behind pfl-research's")


def population(args, scratch):
    sizes = (1000, 10_000, 100_000, 1_000_000)
    seconds, peaks = {size: [] for size in sizes}, {}
    for repeat in range(3 * args.repeats):  # of less than a second each
        for size in sizes:
            rounds, summary = weft_sim(HERE / "population.yaml", scratch / f"population-{size}-{repeat}", f"population.clients={size}")
            seconds[size].append(statistics.median(rounds[1:]))
            peaks[size] = max(peaks.get(size, 0), summary["peak_memory_mb"])
    for size in sizes:
        show(**{f"population_{size}_round_seconds": statistics.median(seconds[size]), f"population_{size}_peak_memory_MB": peaks[size]})
    show(sim_bytes_per_further_client=(peaks[1_000_000] - peaks[100_000]) * 1e6 / 900_000,
         sim_round_of_a_million_over_a_thousand=statistics.median(seconds[1_000_000]) / statistics.median(seconds[1000]))


def speedup(args, scratch):
    start = make_start(scratch / "start-speedup", args.rounds)

    def digits(out, *sets, **options):
        return weft_sim(HERE / "population.yaml", out, "population.clients=100000", *sets, **options)

    def sections(out, *sets, **options):
        return minilm(start, out, args.rounds + 1, *sets, **options)

    for task, go, repeats in (("minilm", sections, args.repeats), ("digits", digits, 3 * args.repeats)):  # of less than a second each
        ways = {"one": (1, 1), "threads": (2, 1), "ranks": (1, 2)}
        seconds, adapters = {way: [] for way in ways}, {}
        for repeat in range(repeats):
            for way, (threads, ranks) in ways.items():
                out = scratch / f"speedup-{task}-{way}-{repeat}"
                rounds, _ = go(out, f"run.threads={threads}", ranks=ranks)
                seconds[way].append(statistics.median(rounds[1:]))
                (folder,) = out.iterdir()
                adapters[way] = (folder / "adapter/adapter_model.safetensors").read_bytes()
        if len(set(adapters.values())) != 1:
            sys.exit("sim.py: the adapters of one, two threads and two ranks differ")
        one = statistics.median(seconds["one"])
        for way in ("threads", "ranks"):
            show(**{f"sim_{task}_two_{way}_over_one": one / statistics.median(seconds[way])})


def main():
    parts = {part.__name__: part for part in (empty, train, accuracy, population, speedup)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6, help="timed rounds of the MiniLM task")
    parser.add_argument("--accuracy-rounds", type=int, default=120)
    parser.add_argument("--only", default=",".join(parts))
    args = parser.parse_args()
    for name in args.only.split(","):
        if name not in parts:
            parser.error(f"--only: found {name}, expected of {', '.join(parts)}")
        with tempfile.TemporaryDirectory() as scratch:
            parts[name](args, pathlib.Path(scratch))


if __name__ == "__main__":
    main()
