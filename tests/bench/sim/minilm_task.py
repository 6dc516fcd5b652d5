"""The federated task of the peers flower_minilm.py and pfl_minilm.py, so that they differ in the framework only.

Debian's package index as text (a package's description -> its section), a client for each maintainer with at least MIN_ROWS rows, of which the
first MAX_ROWS count, tokenized before anything is timed, and padded to the longest row of a batch. MiniLM-L6 with LoRA r=8 alpha=16 on query and
value and the head; one local epoch in file order; no dropout. Round r trains the clients drawn by default_rng(r); round 0 warms up.

    minilm_task.py SECTIONS BASE COHORT ROUNDS --start FOLDER      writes the first adapter there, and the cohorts as FOLDER/cohorts.txt
    minilm_task.py SECTIONS BASE COHORT ROUNDS --accuracy FOLDER   prints the accuracy of the adapter in FOLDER
"""

import argparse
import collections
import csv
import functools
import math
import pathlib
import resource

import numpy as np
import psutil
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

MIN_ROWS, MAX_ROWS, MAX_LENGTH, BATCH, TEST_STRIDE = 8, 64, 64, 8, 6


def parse_args(doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", help="tab-separated file with the columns split, client, label, text")
    parser.add_argument("base", help="Hugging Face folder")
    parser.add_argument("cohort", type=int, help="clients of a round")
    parser.add_argument("rounds", type=int, help="rounds that are timed")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="of the clients' SGD")
    parser.add_argument("--bf16", action="store_true", help="products in bf16, by torch's autocast")
    parser.add_argument("--out", help="folder for the last adapter")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--accuracy", help=argparse.SUPPRESS)
    return parser.parse_args()


def labels_and_rows(sections):
    with open(sections, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {label: i for i, label in enumerate(sorted({row["label"] for row in rows}))}, rows


def make_base(base, labels):
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def make_model(base, labels):
    """The same first values wherever it is called."""
    torch.manual_seed(0)
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"])
    return get_peft_model(make_base(base, labels), lora).train()


@functools.cache
def load(sections, base, threads):
    """The task and its model; made once in a process."""
    torch.set_num_threads(threads)
    task = Task(sections, base)
    return task, make_model(base, len(task.labels))


def collate(rows):
    ids = torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)  # BERT's [PAD] is token 0
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([row[1] for row in rows])}


class Task:
    def __init__(self, sections, base):
        self.labels, rows = labels_and_rows(sections)
        by_client = collections.defaultdict(list)
        for row in rows:
            if row["split"] == "train":
                by_client[row["client"]].append(row)
        tokenizer = AutoTokenizer.from_pretrained(base)

        def encode(rows):
            ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_LENGTH)["input_ids"]
            return [(torch.tensor(i), self.labels[row["label"]]) for i, row in zip(ids, rows)]

        self.clients = {name: encode(own[:MAX_ROWS]) for name, own in sorted(by_client.items()) if len(own) >= MIN_ROWS}
        self.test = encode([row for row in rows if row["split"] == "test"][::TEST_STRIDE])

    def cohort(self, round_, size):
        """Names of the clients that train in this round."""
        names = list(self.clients)
        return [names[i] for i in np.random.default_rng(round_).choice(len(names), size, replace=False)]

    @torch.no_grad()
    def accuracy(self, model):
        model.eval()
        batches = torch.utils.data.DataLoader(self.test, batch_size=64, collate_fn=collate)
        correct = sum((model(**b).logits.argmax(-1) == b["labels"]).sum().item() for b in batches)
        return correct / len(self.test)


def report(name, task, model, args, round_ends):
    """Prints name=value lines; round_ends: when the warm-up and each timed round ended."""
    seconds = np.diff(round_ends)
    trained = [task.clients[client] for r in range(1, args.rounds + 1) for client in task.cohort(r, args.cohort)]
    steps = sum(math.ceil(len(rows) / BATCH) for rows in trained)
    tokens = sum(len(ids) for rows in trained for ids, _ in rows)
    children = 0
    for child in psutil.Process().children(recursive=True):
        try:
            status = pathlib.Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        children += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + children) * 1024 / 1e6
    if args.out:
        model.save_pretrained(args.out)
    print(f"{name}_round_seconds={np.median(seconds):.3f}\n{name}_steps_per_second={steps / seconds.sum():.2f}\n"
          f"{name}_tokens_per_second={tokens / seconds.sum():.0f}\n{name}_peak_memory_MB={memory:.0f}")


def main():
    args = parse_args(__doc__)
    task, model = load(args.sections, args.base, threads=2)
    if args.start:
        model.save_pretrained(args.start)
        cohorts = [",".join(task.cohort(r, args.cohort)) for r in range(args.rounds + 1)]
        pathlib.Path(args.start, "cohorts.txt").write_text("\n".join(cohorts) + "\n", encoding="utf-8")
    if args.accuracy:
        trained = PeftModel.from_pretrained(make_base(args.base, len(task.labels)), args.accuracy)
        if not load_file(f"{args.accuracy}/adapter_model.safetensors"):
            raise SystemExit(f"{args.accuracy} holds no tensors")
        print(f"accuracy={task.accuracy(trained):.4f}")


if __name__ == "__main__":
    main()
