"""Rules with one mistake each, mistakes of public implementations among them. rules_parity.py must see every one.

FAULTS[rule] holds (what, a wrong reference_<rule>).
"""

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

import reference as right
from reference import A_NAME, B_NAME, Round, Update


def configured(r: Round, **config):
    return replace(r, config=r.config | config)


def weighing(r, examples_of):
    return replace(r, updates=[Update(u.client, examples_of(u), u.rank, u.delta) for u in r.updates])


def off_by_one(rule):
    """One client's examples are counted one too high."""
    return lambda r: getattr(right, "reference_" + rule)(weighing(r, lambda u: u.examples + (u is r.updates[0])))


def uniform(rule):
    return lambda r: getattr(right, "reference_" + rule)(configured(r, weights={"by": "uniform"}))


def other_config(rule, **config):
    return lambda r: getattr(right, "reference_" + rule)(configured(r, **config))


def by_examples(r):
    n = np.array([u.examples for u in r.updates], float)
    return n / n.sum()


def phases_swapped(r):
    """The factor that was sent stays, its partner moves."""
    step = right.mean(r)
    return right.moved(r, {n: d for n, d in step.items() if not n.endswith((A_NAME, B_NAME))})


def mean_of_senders(r):
    """LoRA-A2: each component's mean over those clients that sent it."""
    step = {}
    for name in r.updates[0].delta:
        deltas = np.array([u.delta[name] for u in r.updates])
        p = np.array([u.examples for u in r.updates], float)[:, None, None] if deltas[0].ndim == 2 else by_examples(r)[:, None]
        total = (p * (deltas != 0)).sum(axis=0)
        step[name] = (p * deltas).sum(axis=0) / np.where(total, total, 1)
    return right.moved(r, step)


def scaffold_whole_control(r):
    """c + mean(dc), without |S|/N."""
    return right.reference_scaffold(configured(r, clients=len(r.updates)))


def scaffold_by_examples(r):
    step = right.combine(r, by_examples(r))
    checks = right.reference_scaffold(r)
    return right.moved(r, {n: r.config.get("server_rate", 1) * d for n, d in step.items()}) + [c for c in checks if c.what.startswith("control.")]


def flower_fedadam(r):
    """Corrected for bias."""
    b1, b2, t = r.config.get("beta1", 0.9), r.config.get("beta2", 0.99), r.number
    rate = r.config.get("learning_rate", 0.01) * np.sqrt(1 - b2**t) / (1 - b1**t)
    return right.reference_fedopt(configured(r, learning_rate=rate))


def zero_v(r):
    """v starts at 0."""
    tau = r.config.get("tau", 1e-3)
    start = {n: v - tau**2 if n.startswith("server.v.") and r.number == 1 else v for n, v in r.start.items()}
    return right.reference_fedopt(replace(r, start=start))


def correct_a(r):
    """LoRA-FAIR's correction on A: B = Bbar."""
    p, checks = right.shares(r), right.reference_lora_fair(r)
    wrong = [c for m in right.modules(r.start) for c in right.mean_factor_checks(m, right.trained(r, m), p)]
    return wrong + [c for c in checks if not c.what.startswith("m.")]


def squared_penalty(r):
    """lambda |dB|^2, as a third party has it: what is best by that."""
    p, lam, checks = right.shares(r), r.config.get("lambda", 0.01), []
    for m in right.modules(r.start):
        pairs = right.trained(r, m)
        (bbar, abar), d = right.factor_means(pairs, p), right.mean_product(pairs, p)

        def value(x, d=d, abar=abar, bbar=bbar):
            return 1 - right.cosine(d, x.reshape(bbar.shape) @ abar) + lam * np.sum((x.reshape(bbar.shape) - bbar) ** 2)

        best = minimize(value, bbar.ravel(), method="L-BFGS-B").fun
        bound = best + 1e-2 * (value(bbar) - best)
        checks.append(right.at_most(f"{m} squared objective", lambda s, m=m, value=value: value(s[m + B_NAME]), bound, 1))
    return checks


def transposed_residual(r):
    """As the authors' code adds it to nn.Linear."""
    return [
        c._replace(expected=c.expected.T) if c.what.endswith("base step") and c.expected.shape[0] == c.expected.shape[1] else c
        for c in right.reference_fedex_lora(r)
    ]


def changed_base(rule, change):
    """The step of the base is change(p, pairs)."""

    def wrong(r):
        p, checks = right.shares(r), []
        for c in getattr(right, "reference_" + rule)(r):
            if c.what.endswith("base step"):
                c = c._replace(expected=change(p, right.trained(r, c.what.split(" ")[0])))
            checks.append(c)
        return checks

    return wrong


def product_of_means(p, pairs):
    bbar, abar = right.factor_means(pairs, p)
    return bbar @ abar


def weight_on_both(p, pairs):
    return sum(p_k**2 * b @ a for p_k, (b, a) in zip(p, pairs))


def svd_of_means(r):
    """FlexLoRA on Bbar Abar."""
    p, checks = right.shares(r), []
    for m in right.modules(r.start):
        pairs = right.trained(r, m)
        checks += right.svd_checks(m, product_of_means(p, pairs), len(r.start[m + A_NAME]), right.size(pairs, p), r.config.get("split", "b"))
    return checks


def het_by(shares):
    def wrong(r):
        p, checks = shares(r), []
        for m in right.modules(r.start):
            checks += right.mean_factor_checks(m, right.trained(r, m), p)
        return checks

    return wrong


def squared_norms(r):
    p = right.het_shares(r) ** 2
    return p / p.sum()


def het_module_shares(r):
    """One weight for each module: p_k of the first is taken for all."""
    norms = np.array([np.linalg.norm(b @ a) for b, a in right.trained(r, right.modules(r.start)[0])])
    return norms / norms.sum()


def centre(of):
    """A wrapper that hands on of(r, the deltas as rows)."""
    return lambda r: right.finish(right.inner_round(r), right.unstacked(r, of(r, right.stacked(r))))


def lower_median(r, rows):
    return np.sort(rows, axis=0)[(len(rows) - 1) // 2]


def one_fewer_trimmed(r, rows):
    drop = int(np.floor(r.config.get("beta", 0.2) * len(rows) + 1e-9)) - 1
    return np.sort(rows, axis=0)[drop : len(rows) - drop].mean(axis=0)


def trimmed_at_one_end(r, rows):
    drop = int(np.floor(r.config.get("beta", 0.2) * len(rows) + 1e-9))
    return np.sort(rows, axis=0)[: len(rows) - drop].mean(axis=0)


def krum_by(distances, weights=lambda r: np.ones(len(r.updates))):
    def of(r, rows):
        scores = right.krum_scores(distances(r), r.config.get("f", 1))
        best = np.argsort(scores, kind="stable")[: r.config.get("m", 1)]
        n = weights(r)[best]
        return n @ rows[best] / n.sum()

    return centre(of)


def per_tensor_distances(r):
    """FederatedScope's: the sum over tensors of L2 norms."""
    return sum(
        np.linalg.norm(np.array([[(u.delta[n] - v.delta[n]).ravel() for v in r.updates] for u in r.updates]), axis=2) for n in r.updates[0].delta
    )


def clipped_by_tensor(r, bound):
    """The bound on each tensor by itself."""
    return np.hstack([right.clip(np.array([u.delta[n].ravel() for u in r.updates]), bound) for n in r.updates[0].delta])


def dp_with(rows_of=None, denominator=None):
    def wrong(r):
        rows = rows_of(r) if rows_of else right.clip(right.stacked(r), r.config["clip_norm"])
        weights = np.ones(len(rows))
        step = right.unstacked(r, weights @ rows / (denominator(r) if denominator else right.dp_denominator(r)))
        return right.finish(right.inner_round(r), {n: d + r.noise[n] for n, d in step.items()})

    return wrong


FAULTS = {
    "fedavg": [("uniform", uniform("fedavg")), ("a weight off by one", off_by_one("fedavg"))],
    "fedprox": [("uniform", uniform("fedprox")), ("a weight off by one", off_by_one("fedprox"))],
    "scaffold": [("control not scaled by |S|/N", scaffold_whole_control), ("weighted by examples", scaffold_by_examples)],
    "fedopt": [
        ("bias corrected, as Flower's FedAdam", flower_fedadam),
        ("v starts at 0, as Flower's", zero_v),
        ("a weight off by one", off_by_one("fedopt")),
    ],
    "ffa_lora": [("uniform", uniform("ffa_lora")), ("a weight off by one", off_by_one("ffa_lora"))],
    "rolora": [("phases swapped", phases_swapped), ("a weight off by one", off_by_one("rolora"))],
    "lora_a2": [("mean of those that sent a component", mean_of_senders), ("phases swapped", phases_swapped)],
    "fedsa_lora": [("uniform", uniform("fedsa_lora")), ("a weight off by one", off_by_one("fedsa_lora"))],
    "fed_sb": [("uniform", uniform("fed_sb")), ("a weight off by one", off_by_one("fed_sb"))],
    "fedsvd": [("uniform", uniform("fedsvd")), ("a weight off by one", off_by_one("fedsvd"))],
    "lora_fair": [
        ("lambda a tenth off", lambda r: right.reference_lora_fair(configured(r, **{"lambda": 1.1 * r.config.get("lambda", 0.01)}))),
        ("lambda |dB|^2", squared_penalty),
        ("not B corrected", correct_a),
    ],
    "fedex_lora": [
        ("transposed residual, as the authors' code", transposed_residual),
        ("no residual", changed_base("fedex_lora", lambda p, pairs: 0 * product_of_means(p, pairs))),
        ("a weight off by one", off_by_one("fedex_lora")),
    ],
    "flora": [
        ("product of means", changed_base("flora", product_of_means)),
        ("weights on A and on B", changed_base("flora", weight_on_both)),
        ("a weight off by one", off_by_one("flora")),
    ],
    "flexlora": [("of the product of means", svd_of_means), ("a weight off by one", off_by_one("flexlora"))],
    "hetlora": [
        ("by examples", het_by(by_examples)),
        ("by squared norms", het_by(squared_norms)),
        ("by the norm in one module", het_by(het_module_shares)),
    ],
    "median": [("mean", centre(lambda r, rows: rows.mean(axis=0))), ("lower of the two in the middle", centre(lower_median))],
    "trimmed_mean": [("one fewer trimmed", centre(one_fewer_trimmed)), ("trimmed at one end", centre(trimmed_at_one_end))],
    "krum": [
        ("per-tensor distances, as FederatedScope's", krum_by(per_tensor_distances)),
        ("one neighbour more", other_config("krum", f=0)),
        ("weighted by examples, as Flower's", krum_by(right.squared_distances, lambda r: np.array([u.examples for u in r.updates]))),
    ],
    "geometric_median": [
        ("mean", centre(lambda r, rows: rows.mean(axis=0))),
        ("one client left out", centre(lambda r, rows: right.geometric_median(rows[1:], 1e-6))),
    ],
    "norm_bound": [
        ("each tensor by itself", centre(lambda r, rows: clipped_by_tensor(r, r.config.get("max_norm", 1)).mean(axis=0))),
        ("weighted by examples", centre(lambda r, rows: by_examples(r) @ right.clip(rows, r.config.get("max_norm", 1)))),
    ],
    "dp": [
        ("each tensor by itself, as Flower's", dp_with(rows_of=lambda r: clipped_by_tensor(r, r.config["clip_norm"]))),
        ("divided by those that answered", dp_with(denominator=lambda r: len(r.updates))),
        ("not clipped", dp_with(rows_of=right.stacked)),
    ],
}
