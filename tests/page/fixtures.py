"""Statuses as the coordinator would send them (proto/status.proto as JSON), made up but plausible."""

import copy
import math

NOW_MS = 1_760_000_000_000
LABELS = ["admin", "cli-mono", "comm", "database", "debug", "devel", "doc", "editors", "education", "electronics", "fonts", "games"]

CLIENTS = [
    ("hospital-north", "cpu (2 threads)", 8214, 911),
    ("hospital-south", "cuda NVIDIA L4", 14920, 1660),
    ("clinic-7", "cpu (4 threads)", 2310, 256),
    ("lab.archive_02", "cpu (8 threads)", 5127, 570),
]


def job_config(rounds):
    return {
        "name": "debian-sections", "base": {"path": "/srv/models/all-MiniLM-L6-v2", "hash": "9c1f" * 16},
        "task": {"type": "sequence_classification", "labels": LABELS},
        "adapter": {"form": "lora", "config": {"rank": 8, "alpha": 16, "target_modules": ["query", "value"]}, "head": True},
        "aggregator": {"name": "fedavg"}, "selection": {"rule": "all", "min_ready": 4},
        "training": {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "learning_rate": 0.002, "clip_grad_norm": 1},
        "round": {"min_updates": 3, "progress_timeout": "60s"}, "evaluation": {"every": 1, "split": "test", "rows": 256},
        "stop": {"rounds": rounds, "target_accuracy": 0.7}, "seed": "42",
    }


def round_status(t):
    wobble = 0.012 * math.sin(2.1 * t) + 0.006 * math.cos(5 * t)
    accuracy = 0.66 - 0.47 * math.exp(-t / 4.5) + wobble
    return {
        "round": str(t), "selected": "4", "updates": "3" if t == 5 else "4", "examples": "22357" if t == 5 else "30571",
        "train_loss": 0.92 + 2.3 * math.exp(-t / 4.0) - wobble, "accuracy": accuracy, "f1": 0.9 * accuracy,
        "loss": 1.18 + 2.0 * math.exp(-t / 4.2) - 2 * wobble,
        "evaluated_examples": "3397", "train_seconds": 14.2 + wobble * 40, "evaluation_seconds": 2.1,
        "bytes_up": str(4 * 378_216), "bytes_down": str(4 * 378_216 + 9000),
    }


def job(rounds_done, rounds_total, **changes):
    rounds = [round_status(t) for t in range(1, rounds_done + 1)]
    best = max(rounds, key=lambda r: r["accuracy"], default={"round": "0", "accuracy": 0})
    return {
        "job_id": "j-7f3a", "name": "debian-sections", "state": "RUNNING", "message": "", "round": str(rounds_done),
        "rounds_total": str(rounds_total), "phase": "training", "best_round": best["round"], "best_accuracy": best["accuracy"],
        "bytes_up": str(rounds_done * 4 * 378_216), "bytes_down": str(rounds_done * 4 * 380_466),
        "submitted_ms": str(NOW_MS - 230_000), "started_ms": str(NOW_MS - 214_000), "ended_ms": "0", "seconds_left": 127.0,
        "rounds": rounds, "adapter_parameters": "94554", "layout_hash": "5be1" * 16, "config": job_config(rounds_total),
        "phase_done": "2", "phase_total": "4", **changes,
    }


def client(row, activity="idle", done=0, total=0, connected=True, seen_ms=300):
    name, device, train, test = CLIENTS[row]
    return {
        "client_id": name, "connected": connected, "device": device, "train_examples": str(train), "test_examples": str(test),
        "activity": activity, "steps_done": str(done), "steps_total": str(total), "tokens_per_second": [2410.0, 21877.4, 3933.2, 5120.9][row],
        "bytes_up": str(12 * 378_216), "bytes_down": str(12 * 380_000), "last_seen_ms": str(NOW_MS - seen_ms), "version": "0.1.0",
    }


def coordinator(jobs, clients, **changes):
    return {"version": "0.1.0", "now_ms": str(NOW_MS), "started_ms": str(NOW_MS - 900_000), "insecure": False, "jobs": jobs,
            "clients": clients, **changes}


def running():
    return coordinator([job(12, 20)], [client(0, "training", 171, 257), client(1, "idle"), client(2, "uploading", 262_144, 378_216),
                                       client(3, "training", 44, 161)])


def private(sampling_rate=0.1):
    """A job under central differential privacy that has spent most of its budget."""
    status = running()
    job_ = status["jobs"][0]
    job_["config"]["aggregator"] = {"name": "dp", "config": {"rule": {"name": "ffa_lora"}}}
    job_["privacy"] = {"epsilon": 6.4183, "epsilon_budget": 8, "delta": 1e-5, "noise_multiplier": 1.1, "sampling_rate": sampling_rate,
                       "unprotected": ["updates", "examples", "train_loss", "accuracy", "loss", "evaluated_examples", "f1"]}
    for round_ in job_["rounds"]:
        round_["epsilon"] = 6.4183 * math.sqrt(int(round_["round"]) / 12)
    return status


def language_model():
    """Counts are of tokens; the last round is not evaluated yet."""
    status = running()
    job_ = status["jobs"][0]
    job_["config"]["task"] = {"type": "causal_lm"}
    for round_ in job_["rounds"]:
        del round_["f1"]
        round_.update(perplexity=math.exp(round_["loss"]), evaluated_tokens="191020")
    for name in ("accuracy", "loss", "perplexity"):
        del job_["rounds"][-1][name]
    return status


def next_round():
    status = running()
    status["jobs"][0] = job(13, 20)
    return status


def finished():
    return coordinator([job(20, 20, state="FINISHED", phase="", message="all 20 rounds done", ended_ms=str(NOW_MS - 5000), phase_done="0",
                            phase_total="0", seconds_left=0)], [client(i) for i in range(4)])


def many_rounds():
    other = job(0, 5, job_id="j-80aa", name="second-job", state="WAITING", message="waits for debian-sections to end", phase="",
                started_ms="0", phase_total="0")
    return coordinator([job(240, 300), other], [client(0, "evaluating", 100, 256), client(3, connected=False, seen_ms=410_000)])


def empty(clients=0):
    return coordinator([], [client(i) for i in range(clients)])


def failed():
    return coordinator([job(3, 20, state="FAILED", phase="", phase_total="0", ended_ms=str(NOW_MS), message="round 4 was abandoned 10 times in a "
                            "row: found 1 update, expected at least 3; start more clients or lower round.min_updates")],
                       [client(0, "refused: found base 77aa, expected 9c1f; point base: at the job's model"), client(2)])


HOSTILE = "<img src=x onerror=\"alert('owned')\"><script>alert(1)</script>"


def hostile():
    status = copy.deepcopy(running())
    status["insecure"] = True
    status["clients"][0].update(client_id=HOSTILE, device=HOSTILE, activity=HOSTILE)
    status["jobs"][0].update(name=HOSTILE, message=HOSTILE, phase=HOSTILE, state="WAITING")
    status["jobs"][0]["config"]["base"]["path"] = HOSTILE
    status["jobs"][0]["config"]["aggregator"]["name"] = HOSTILE
    status["jobs"][0]["privacy"] = {"epsilon": 1, "epsilon_budget": 8, "delta": 1e-5, "unprotected": [HOSTILE]}
    status["jobs"].append(dict(status["jobs"][0], job_id=HOSTILE))
    status["version"] = HOSTILE
    return status
