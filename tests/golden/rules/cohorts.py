"""Made-up jobs and updates for rules_parity.py: ordinary ones, and those that a rule might trip over."""

from dataclasses import dataclass, field

import numpy as np

from plans import sent_roles
from reference import A_NAME, B_NAME, Update

# name: [(tensor, role, shape)]. No module is square but one, which hides a transposed product and so has a case of its own.
def lora(*dims):
    tensors = []
    for i, (rank, columns, rows) in enumerate(dims):
        tensors += [(f"m.{i}{A_NAME}", "lora_a", (rank, columns)), (f"m.{i}{B_NAME}", "lora_b", (rows, rank))]
    return tensors + [("head.weight", "head", (4, 6)), ("head.bias", "head", (4,))]


LAYOUTS = {
    "small": lora((3, 7, 5), (3, 4, 9)),
    "wide": lora((8, 40, 24), (8, 16, 16), (8, 24, 65)),
    "square": lora((3, 8, 8)),
    "thin": lora((4, 3, 9), (4, 9, 2)),  # rank over in, and over out
    "fixed": [
        ("m.lora_sb_A.weight", "fixed.lora_a", (4, 9)),
        ("m.lora_sb_R.weight", "lora_r", (4, 4)),
        ("m.lora_sb_B.weight", "fixed.lora_b", (7, 4)),
        ("head.weight", "head", (4, 6)),
    ],
    "plain": [("m.ssf_scale", "ssf_scale", (150,)), ("prompt_embeddings", "prompt", (5, 31)), ("head.bias", "head", (3,))],
}

# What is unusual about the numbers. ordinary: nothing.
NUMBERS = ["ordinary", "one_client", "identical", "zero", "rank_one", "huge", "tiny", "cancelling", "unequal"]
LIMIT = 6e4  # values of an update are below 2^16


@dataclass
class Case:
    rule: str
    config: dict
    layout: str
    numbers: str
    rounds: list[list[Update]]
    initial: dict[str, np.ndarray]
    job: dict = field(default_factory=dict)
    id: str = ""

    def roles(self):
        return {name: role for name, role, _ in LAYOUTS[self.layout]}


def draw(random, shape, size):
    return (random.standard_normal(shape) * size).astype(np.float32)


def make(rule, config, layout="small", numbers="ordinary", rounds=1, clients=5, ranks=None, seed=1, size=0.3, **job):
    """A case. `ranks` are the clients' (0: all components)."""
    random = np.random.default_rng([seed, NUMBERS.index(numbers), clients])
    tensors = LAYOUTS[layout]
    unit = {"huge": 1e4, "tiny": 1e-10}.get(numbers, 1)
    initial = {name: draw(random, shape, unit) for name, _, shape in tensors}
    line = {name: draw(random, shape[1], 1) for name, role, shape in tensors if role == "lora_a"}
    if numbers == "rank_one":  # every A_k is a multiple of one row, so D is of rank 1
        initial |= {name: np.outer(draw(random, len(initial[name]), 1), row).astype(np.float32) for name, row in line.items()}
    roles = list(dict.fromkeys(role for _, role, _ in tensors))
    all_rounds = []
    for number in range(1, rounds + 1):
        sent = sent_roles(rule, number, config, roles)
        shapes = {name: shape for name, role, shape in tensors if role in sent}
        if rule == "scaffold":
            shapes |= {"control." + name: shape for name, shape in shapes.items()}
        updates = []
        for k in range(1 if numbers == "one_client" else clients):
            delta = {}
            for name, shape in shapes.items():
                value = draw(random, shape, size * unit)
                if numbers == "rank_one" and name in line:
                    value = np.outer(draw(random, shape[0], size), line[name]).astype(np.float32)
                delta[name] = np.clip(value, -LIMIT, LIMIT)
            updates.append(Update(f"client-{k}", int(random.integers(1, 300)), (ranks or [0] * clients)[k], delta))
        unusual(numbers, updates)
        if rule == "lora_a2":
            for u in updates:
                keep_components(random, u, config["budget"])
        for u in updates:
            u.delta = {name: cut(name, value, u.rank) for name, value in u.delta.items()}
        all_rounds.append(updates)
    return Case(rule, config, layout, numbers, all_rounds, initial, job)


def unusual(numbers, updates):
    if numbers == "identical":
        for u in updates:
            u.delta = dict(updates[0].delta)
    elif numbers == "zero":
        for u in updates:
            u.delta = {name: np.zeros_like(value) for name, value in u.delta.items()}
    elif numbers == "cancelling":  # pairs that are large and opposite, the rest small
        for one, other in zip(updates[0:-1:2], updates[1:-1:2]):
            one.delta = {name: value * np.float32(1e4) for name, value in one.delta.items()}
            other.delta = {name: -value for name, value in one.delta.items()}
            other.examples = one.examples
    elif numbers == "unequal":
        for u, n in zip(updates, [1, 10_000_000, 3, 9_999_999, 2_000_000_000]):
            u.examples = n


def keep_components(random, update, count):
    """All but `count` components did not change."""
    factors = {name: 0 if name.endswith(A_NAME) else 1 for name in update.delta if name.endswith((A_NAME, B_NAME))}
    components = [(name, j) for name, axis in factors.items() for j in range(update.delta[name].shape[axis])]
    kept = {components[i] for i in random.permutation(len(components))[:count]}
    for name, axis in factors.items():
        mask = np.array([(name, j) in kept for j in range(update.delta[name].shape[axis])], np.float32)
        update.delta[name] = update.delta[name] * (mask[:, None] if axis == 0 else mask)


def cut(name, value, rank):
    if not rank:
        return value
    return value[:rank] if name.endswith(A_NAME) else value[:, :rank] if name.endswith(B_NAME) else value
