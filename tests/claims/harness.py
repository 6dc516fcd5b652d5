"""Runs experiments in simulation and keeps what they gave: the same run is not run again while binary and run stay the same.

A run is a dict: task, job, and, if wanted, behaviour (as in a scenario), evaluate_every, dump (rounds_main.cc). Results lie in
.weft/claims/results/<hash>.json, one file a run, so that a sweep that was cut off goes on where it was. Two processes share the machine's two cores.
"""

import concurrent.futures
import copy
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import tasks

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(os.environ.get("WEFT_CLAIMS_DIR", ROOT / ".weft/claims"))
BINARY = pathlib.Path(os.environ.get("WEFT_CLAIMS_ROUNDS", ROOT / "bazel-bin/tests/claims/rounds"))
PROCESSES = 2


@functools.cache
def binary_hash():
    return hashlib.sha256(BINARY.read_bytes()).hexdigest()


@functools.cache
def task(kind, seed, **options):
    """Folder of a task of tasks.py, made once."""
    name = "-".join([kind, str(seed)] + [f"{key}={value}" for key, value in sorted(options.items())])
    source = hashlib.sha256((pathlib.Path(__file__).parent / "tasks.py").read_bytes()).hexdigest()[:8]
    folder = WORK / "tasks" / f"{name}-{source}"
    if not (folder / "done").exists():
        getattr(tasks, f"make_{kind}")(folder, seed, **options)
        (folder / "done").touch()
    return str(folder)


def job(rule, config=None, *, rounds, steps, lr, seed, rank=4, alpha=8, optimizer="sgd", form="lora", batch=32, head=False, **sections):
    """A job of the claims' set-up: MLP, LoRA on the hidden layers, plain SGD without clipping, all clients alike."""
    config = copy.deepcopy(config or {})
    # Clients weigh alike; rules that know no weights, and what stands inside a wrapper that counts clients alike, take none.
    if rule == "fedopt":
        config.setdefault("rule", {"name": "fedavg"}).setdefault("config", {}).setdefault("weights", {"by": "uniform"})
    elif rule not in WITHOUT_WEIGHTS:
        config.setdefault("weights", {"by": "uniform"})
    form_config = {"rank": rank, "target_modules": ["layers.0", "layers.1"], **({"scale": 1.0} if form == "lora_sb" else {"alpha": alpha})}
    result = {
        "adapter": {"form": form, "head": head, "config": form_config},
        "aggregator": {"name": rule, "config": config},
        "training": {"optimizer": optimizer, "learning_rate": lr, "steps": steps, "batch_size": batch, "clip_grad_norm": 0, "weight_decay": 0},
        "evaluation": {"every": 1},
        "stop": {"rounds": rounds},
        "seed": seed,
    }
    result.update(sections)
    return result


WITHOUT_WEIGHTS = {"hetlora", "scaffold", "dp", "norm_bound", "median", "trimmed_mean", "krum", "geometric_median"}


def key_of(run):
    content = {name: value for name, value in run.items() if name != "name"}
    return hashlib.sha256((binary_hash() + json.dumps(content, sort_keys=True)).encode()).hexdigest()[:24]


def run_all(runs):
    """{name: {"status", "rounds"}} of every run; names must be unique."""
    store = WORK / "results"
    store.mkdir(parents=True, exist_ok=True)
    names = [run["name"] for run in runs]
    assert len(set(names)) == len(names), "two runs of one name"
    missing = {}
    for run in runs:
        if not (store / f"{key_of(run)}.json").exists():
            missing.setdefault(key_of(run), run)
    # Runs of one task lie together, so that a process loads each base once.
    queue = sorted(missing.items(), key=lambda item: item[1]["task"])
    parts = [queue[i * len(queue) // PROCESSES:(i + 1) * len(queue) // PROCESSES] for i in range(PROCESSES)]
    with concurrent.futures.ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(lambda part: run_part(part, store), [part for part in parts if part]))
    return {run["name"]: json.loads((store / f"{key_of(run)}.json").read_text()) for run in runs}


def line_of(key, run):
    """What the binary reads. The key is the run's name there: job names allow neither blanks nor brackets."""
    job, clients = copy.deepcopy(run["job"]), pathlib.Path(run["task"], "clients")
    job.update(name=key, base={"path": str(pathlib.Path(run["task"], "base"))})
    job["evaluation"] = {"every": run.get("evaluate_every", job["stop"]["rounds"])}
    scenario = {"job": job, "population": {"data": str(clients), "partition": "folders"}, "behaviour": run.get("behaviour", {}),
                "evaluation": {"central": False, "clients": sum(1 for _ in clients.iterdir())}, "run": {"threads": 1}}
    return {"name": key, "scenario": scenario, **({"dump": run["dump"]} if "dump" in run else {})}


def run_part(part, store):
    with tempfile.TemporaryDirectory(dir=WORK) as scratch:
        lines, out = pathlib.Path(scratch, "runs.jsonl"), pathlib.Path(scratch, "results.jsonl")
        lines.write_text("".join(json.dumps(line_of(key, run)) + "\n" for key, run in part))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([BINARY, lines, "--out", out], env=environment, check=False, capture_output=True, text=True)
        results = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        for result in results:
            (store / f"{result['name']}.json").write_text(json.dumps(result))
        if done.returncode != 0 or len(results) != len(part):
            sys.exit(f"{BINARY.name} ended with {done.returncode} after {len(results)} of {len(part)} runs:\n{done.stderr[-3000:]}")


def final(result, default=float("nan")):
    """Accuracy of the last round; nan for a run that diverged."""
    if result["status"] != "OK":
        # Losses that are no number, or deltas so large that they are refused.
        if "was abandoned" not in result["status"]:
            sys.exit(f"run {result['name']}: {result['status']}")
        return default
    return result["rounds"][-1].get("accuracy", default)


def mean_se(values):
    values = np.asarray(values, float)
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")


class Search:
    """Accuracy by (method, seed) at each method's own best learning rate: the one of the best mean over all seeds, on the figures reported
    (the search is not held out; all methods get the same grid). A run that diverges counts as 0."""

    def __init__(self, methods, learning_rates, seeds, make_run):
        runs, self.names = [], {}
        for method in methods:
            for lr in learning_rates:
                for seed in seeds:
                    name = f"{method}|{lr}|{seed}"
                    runs.append({"name": name, **make_run(method, lr, seed)})
                    self.names[method, lr, seed] = name
        self.results = run_all(runs)
        self.seeds, self.learning_rates = list(seeds), list(learning_rates)
        self.best = {}
        for method in methods:
            self.best[method] = max(learning_rates, key=lambda lr: np.mean([self.at(method, lr, seed) for seed in seeds]))

    def at(self, method, lr, seed):
        return final(self.results[self.names[method, lr, seed]], 0.0)

    def accuracies(self, method):
        return np.array([self.at(method, self.best[method], seed) for seed in self.seeds])

    def gap(self, method, other):
        """Mean and standard error of the paired difference, in points."""
        return mean_se(100 * (self.accuracies(method) - self.accuracies(other)))

    def row(self, method):
        mean, error = mean_se(self.accuracies(method))
        return f"{100 * mean:.1f} ± {100 * error:.1f} (lr {self.best[method]:g})"
