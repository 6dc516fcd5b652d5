"""The two tasks of the claims: small, real enough to show a rule's direction, made from a seed.

    synthetic  10 classes, each a mixture of 3 Gaussians in R^32, noise .8; base: MLP 32-64-64-10 trained on the source; client k sees
               T_k x + b_k with T_k = expm(S_k) times random scales per axis: a domain shift of its own.
    digits     scikit-learn's digits (1,797 images of 8x8); base: MLP 64-96-96-10 trained on 700 of them; six clients, one domain each:
               rotated by +40 and -40 degrees, inverted, mirrored, blurred, transposed; pixel noise .08; 110 training images per client.

A task is a folder: base/ (config.json, model.safetensors), clients/<id>/ (manifest.json, train.safetensors, test.safetensors).
"""

import json
import pathlib

import numpy as np
import scipy.linalg
import scipy.ndimage
import torch
from safetensors.numpy import save_file
from sklearn.datasets import load_digits


def train_base(features, labels, sizes, steps, seed):
    """Weights of an MLP with relu, by Adam on the whole source set."""
    torch.manual_seed(seed)
    linears = [torch.nn.Linear(i, o) for i, o in zip(sizes, sizes[1:])]
    optimizer = torch.optim.Adam([p for linear in linears for p in linear.parameters()], lr=1e-3)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        hidden = x[rows]
        for linear in linears[:-1]:
            hidden = torch.relu(linear(hidden))
        loss = torch.nn.functional.cross_entropy(linears[-1](hidden), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [(linear.weight.detach().numpy(), linear.bias.detach().numpy()) for linear in linears]


def write_base(folder, weights):
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [weights[0][0].shape[1]] + [w.shape[0] for w, _ in weights]
    (folder / "config.json").write_text(json.dumps({"model_type": "mlp", "sizes": sizes, "activation": "relu"}))
    names = [f"layers.{i}" for i in range(len(weights) - 1)] + ["head"]
    tensors = {}
    for name, (weight, bias) in zip(names, weights):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, bias
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_client(folder, splits, classes):
    """splits: {name: (features [n, d], labels [n])}."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"format": "weft-data", "version": 1, "task": "sequence_classification",
                "labels": [str(label) for label in range(classes)], "splits": {}}
    for name, (features, labels) in splits.items():
        save_file({"features": np.ascontiguousarray(features, np.float32), "labels": labels.astype(np.int32)},
                  folder / f"{name}.safetensors")
        manifest["splits"][name] = {"file": f"{name}.safetensors", "rows": len(labels)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def dirichlet_rows(labels, per_client, clients, alpha, rng):
    """Rows for each client with class shares drawn from Dirichlet(alpha)."""
    result = []
    for _ in range(clients):
        shares = rng.dirichlet([alpha] * (labels.max() + 1))
        weight = shares[labels] / np.bincount(labels)[labels]
        result.append(rng.choice(len(labels), per_client, p=weight / weight.sum(), replace=True))
    return result


def make_synthetic(folder, seed, clients=6, rows=400, label_alpha=None):
    folder = pathlib.Path(folder)
    rng = np.random.default_rng(seed)
    classes, modes, width, noise = 10, 3, 32, 0.8
    centres = rng.standard_normal((classes, modes, width))

    def draw(count, chosen=None):
        labels = rng.integers(classes, size=count) if chosen is None else chosen
        x = centres[labels, rng.integers(modes, size=len(labels))] + noise * rng.standard_normal((len(labels), width))
        return x.astype(np.float32), labels.astype(np.int64)

    features, labels = draw(4000)
    write_base(folder / "base", train_base(features, labels, [width, 64, 64, classes], 400, seed))
    for k in range(clients):
        square = rng.standard_normal((width, width)) / np.sqrt(2 * width)
        shift = scipy.linalg.expm(square - square.T) * np.exp(0.3 * rng.standard_normal(width))[:, None]
        offset = 0.5 * rng.standard_normal(width)
        chosen = None
        if label_alpha:
            chosen = rng.choice(classes, rows, p=rng.dirichlet([label_alpha] * classes))
        splits = {}
        for split, (x, y) in {"train": draw(rows, chosen), "test": draw(400)}.items():
            splits[split] = (x @ shift.T + offset, y)
        write_client(folder / "clients" / f"client-{k:03}", splits, classes)


DOMAINS = {
    "rotate+40": lambda image: scipy.ndimage.rotate(image, 40, reshape=False, order=1),
    "rotate-40": lambda image: scipy.ndimage.rotate(image, -40, reshape=False, order=1),
    "invert": lambda image: 1 - image,
    "mirror": lambda image: image[:, ::-1],
    "blur": lambda image: scipy.ndimage.gaussian_filter(image, 1.2),
    "transpose": lambda image: image.T,
}


def make_digits(folder, seed, label_alpha=None, clients_per_domain=1, rows=110):
    folder = pathlib.Path(folder)
    rng = np.random.default_rng(seed)
    data = load_digits()
    images, labels = (data.images / 16.0).astype(np.float32), data.target.astype(np.int64)
    order = rng.permutation(len(images))
    images, labels = images[order], labels[order]

    def see(image, domain):
        return (DOMAINS[domain](image) + 0.08 * rng.standard_normal((8, 8)) - 0.5).astype(np.float32).ravel()

    source = np.stack([image.ravel() - 0.5 for image in images[:700]]).astype(np.float32)
    write_base(folder / "base", train_base(source, labels[:700], [64, 96, 96, 10], 500, seed))
    pool = np.arange(700, len(images))
    clients = [domain for domain in DOMAINS for _ in range(clients_per_domain)]
    training = rng.permutation(pool)[: 6 * 110]
    held_out = np.setdiff1d(pool, training)
    if label_alpha:
        shares = [training[rows_of] for rows_of in dirichlet_rows(labels[training], rows, len(clients), label_alpha, rng)]
    else:
        shares = np.array_split(training, len(clients))
    for k, (domain, share) in enumerate(zip(clients, shares)):
        splits = {"train": (np.stack([see(images[i], domain) for i in share]), labels[share]),
                  "test": (np.stack([see(images[i], domain) for i in held_out]), labels[held_out])}
        write_client(folder / "clients" / f"client-{k:03}", splits, 10)


def make_wide(folder, seed, clients=10):
    """For counting bytes: an MLP of 24 hidden layers of 768 x 768, whose LoRA has the shapes of ViT-B's query and value; a few random rows."""
    folder = pathlib.Path(folder)
    rng = np.random.default_rng(seed)
    sizes = [768] * 25 + [10]
    write_base(folder / "base", [((rng.standard_normal((o, i)) * np.sqrt(2 / i)).astype(np.float32), np.zeros(o, np.float32))
                                 for i, o in zip(sizes, sizes[1:])])
    for k in range(clients):
        splits = {split: (rng.standard_normal((4, 768)), rng.integers(10, size=4)) for split in ("train", "test")}
        write_client(folder / "clients" / f"client-{k:03}", splits, 10)
