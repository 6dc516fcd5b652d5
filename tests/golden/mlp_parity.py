"""The trainer's multilayer perceptron beside plain PyTorch: same logits, same gradients, same step of SGD.

    .venv/bin/python tests/golden/mlp_parity.py [path of model_logits]

Weights, adapter and rows are random. Cases: LoRA on every hidden layer with the base's own head frozen; on one layer only, with the head
trained; a network of one hidden layer. Prints the largest differences and fails where one is over its tolerance, or where a perturbed case is
not.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

ROWS = 32
# Measured on an AVX-512 CPU: logits 6e-8 apart, gradients 2e-7 of a tensor's largest element, values after a step 5e-8 of it.
LOGITS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 5e-6
STEP_TOLERANCE = 1e-6
# bf16 with fp32 adapters against the fp32 reference: logits 0.02 apart; gradients 0.34 of a tensor's largest element, where relu bends between the two.
BF16_LOGITS_TOLERANCE = 0.1
BF16_GRADIENT_TOLERANCE = 0.45
RATE = 0.1

# name: sizes, modules with LoRA, rank, alpha, whether the head is the adapter's
CASES = {
    "digits": ([64, 96, 96, 10], ["layers.0", "layers.1"], 4, 8, False),
    "last_layer": ([64, 96, 96, 10], ["layers.1"], 4, 8, True),
    "shallow": ([5, 7, 3], ["layers.0"], 2, 6, True),
}


def write_features(path, features, labels):
    """One split of a data folder whose rows are features."""
    save_file({"features": features.astype(np.float32), "labels": labels.astype(np.int32)}, path)


def write_base(folder, sizes, weights):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mlp", "sizes": sizes, "activation": "relu"}))
    save_file({name: tensor.numpy() for name, tensor in weights.items()}, folder / "model.safetensors")


def linear_names(sizes):
    return [f"layers.{i}" for i in range(len(sizes) - 2)] + ["head"]


def random_case(sizes, modules, rank, head):
    """The base's weights, and the adapter's values by name."""
    weights, adapter = {}, {}
    for name, fan_in, fan_out in zip(linear_names(sizes), sizes, sizes[1:]):
        weights[f"{name}.weight"] = torch.randn(fan_out, fan_in) / fan_in**0.5
        weights[f"{name}.bias"] = torch.randn(fan_out) * 0.1
        if name in modules:
            adapter[f"{name}.lora_A.weight"] = torch.randn(rank, fan_in) * 0.2
            adapter[f"{name}.lora_B.weight"] = torch.randn(fan_out, rank) * 0.2
    if head:
        adapter["head.weight"] = torch.randn(sizes[-1], sizes[-2]) * 0.2
        adapter["head.bias"] = torch.randn(sizes[-1]) * 0.2
    return weights, adapter


def reference(sizes, weights, adapter, scale, features, labels):
    """Logits, gradients of the mean cross-entropy, and the values after one step of torch.optim.SGD."""
    trained = {name: torch.nn.Parameter(value.clone()) for name, value in adapter.items()}
    x = torch.from_numpy(features)
    for name in linear_names(sizes):
        weight, bias = (trained.get(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        y = torch.nn.functional.linear(x, weight, bias)
        if f"{name}.lora_A.weight" in trained:
            y = y + scale * (x @ trained[f"{name}.lora_A.weight"].T) @ trained[f"{name}.lora_B.weight"].T
        x = y if name == "head" else torch.relu(y)
    torch.nn.functional.cross_entropy(x, torch.from_numpy(labels)).backward()
    gradients = {name: value.grad.clone().numpy() for name, value in trained.items()}
    torch.optim.SGD(trained.values(), lr=RATE).step()
    return x.detach().numpy(), gradients, {name: value.detach().numpy() for name, value in trained.items()}


def run_weft(helper, folder, case, adapter, alpha, features, labels, compute="f32"):
    """Logits, and gradients by name, of the trainer's network with these adapter values."""
    sizes, modules, rank, _, head = case
    form = {"rank": rank, "alpha": alpha, "target_modules": modules}
    task = {"type": "sequence_classification", "labels": [f"label {i}" for i in range(sizes[-1])]}
    job = {"job_id": "parity", "adapter": {"form": "lora", "config": form, "head": head}, "task": task}
    (folder / "job.json").write_text(json.dumps(job))
    save_file({name: value.numpy() for name, value in adapter.items()}, folder / "adapter.safetensors")
    write_features(folder / "rows.safetensors", features, labels)
    names = [folder / name for name in ("base", "job.json", "rows.safetensors", "out.safetensors", "adapter.safetensors")]
    subprocess.run([helper, *names[:4], compute, *names[4:]], check=True)
    out = load_file(folder / "out.safetensors")
    return out.pop("outputs"), out


def relative_difference(found, expected):
    """Largest difference of a tensor relative to its largest element, over all tensors."""
    if found.keys() != expected.keys():
        sys.exit(f"mlp_parity: tensors differ: {sorted(found.keys() ^ expected.keys())}")
    return max(float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in expected)


def main():
    helper = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bazel-bin/training/model_logits").resolve()
    torch.manual_seed(0)
    failures = []

    def check(name, value, tolerance, within=True):
        good = (value <= tolerance) == within
        print(f"{name}={value:.3g} {'at most' if within else 'must be over'} {tolerance:.3g} {'ok' if good else 'FAILED'}")
        if not good:
            failures.append(name)

    for name, case in CASES.items():
        sizes, modules, rank, alpha, head = case
        weights, adapter = random_case(sizes, modules, rank, head)
        features = torch.randn(ROWS, sizes[0]).numpy()
        labels = np.arange(ROWS) % sizes[-1]
        logits, gradients, stepped = reference(sizes, weights, adapter, alpha / rank, features, labels)
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            write_base(folder / "base", sizes, weights)
            for perturbed, used in (("", alpha), ("perturbed_", alpha * 1.001)):
                found, found_gradients = run_weft(helper, folder, case, adapter, used, features, labels)
                # The trainer's plain step, in fp32 as it computes it.
                step = {n: adapter[n].numpy() - np.float32(RATE) * g for n, g in found_gradients.items()}
                check(f"{perturbed}{name}_logits_max_difference", float(np.abs(found - logits).max()), LOGITS_TOLERANCE, not perturbed)
                check(f"{perturbed}{name}_gradient_max_relative_difference", relative_difference(found_gradients, gradients), GRADIENT_TOLERANCE, not perturbed)
                check(f"{perturbed}{name}_step_max_relative_difference", relative_difference(step, stepped), STEP_TOLERANCE, not perturbed)
            for perturbed, used in (("", alpha), ("perturbed_", alpha * 2)):
                found, found_gradients = run_weft(helper, folder, case, adapter, used, features, labels, compute="bf16")
                check(f"{perturbed}{name}_bf16_logits_max_difference", float(np.abs(found - logits).max()), BF16_LOGITS_TOLERANCE, not perturbed)
                check(f"{perturbed}{name}_bf16_gradient_max_relative_difference", relative_difference(found_gradients, gradients), BF16_GRADIENT_TOLERANCE, not perturbed)
    if failures:
        sys.exit(f"mlp_parity: FAILED: {', '.join(failures)}")
    print("mlp_parity: passed")


if __name__ == "__main__":
    main()
