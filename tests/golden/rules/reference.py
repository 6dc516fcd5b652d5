"""Each aggregation rule as its paper has it, in NumPy: fp64, dense matrices, no care for speed.

reference_<rule>(r) takes one Round and returns Checks: what to look at in the next state, and what must be there. Where a rule
leaves freedom (the signs of singular vectors, any factors of one product) the checks are of what is invariant.

Notation: start value w, delta d_k of client k, share p_k; of one module W + s B A: A is rank x in, B is out x rank,
D = sum_k p_k B_k A_k. s is the same for all clients, so no rule needs it.
"""

from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple

import numpy as np
from scipy.optimize import minimize

A_NAME, B_NAME = ".lora_A.weight", ".lora_B.weight"


@dataclass
class Update:
    client: str
    examples: int
    rank: int  # components it has; 0: all
    delta: dict[str, np.ndarray]


@dataclass
class Round:
    number: int
    start: dict[str, np.ndarray]  # the state, by tensor name
    roles: dict[str, str]
    updates: list[Update]  # in order of client id
    config: dict[str, Any]
    job: dict[str, Any]
    # dp: what the round does when nobody changes anything.
    noise: dict[str, np.ndarray] = field(default_factory=dict)


class Check(NamedTuple):
    what: str
    observe: Callable[[dict], np.ndarray]
    expected: np.ndarray
    scale: float  # a difference is relative to it
    covers: tuple[str, ...] = ()  # tensors of the next state


def tensor(name, value, scale=0.0):
    value = np.asarray(value)
    return Check(name, lambda state: state[name], value, max(np.abs(value).max(), scale), (name,))


def at_most(what, value, bound, scale):
    """value(state) <= bound."""
    return Check(what, lambda state: np.maximum(value(state) - bound, 0), np.zeros(()), scale)


def modules(names):
    return [name[: -len(A_NAME)] for name in names if name.endswith(A_NAME)]


def product(state, module, rank=None):
    return state[module + B_NAME][:, :rank] @ state[module + A_NAME][:rank]


def base_step(state, module):
    """What a round adds to the base; no tensors: nothing."""
    if module + ".base_A.weight" not in state:
        return np.zeros((len(state[module + B_NAME]), state[module + A_NAME].shape[1]))
    return state[module + ".base_B.weight"] @ state[module + ".base_A.weight"]


def base_check(module, expected, scale):
    names = (module + ".base_A.weight", module + ".base_B.weight")
    return Check(f"{module} base step", lambda state: base_step(state, module), expected, scale, names)


# --- Shares, means, factors.


def shares(r):
    """p_k = n_k / sum n_k, n_k bounded; or 1/K."""
    weights = r.config.get("weights", {})
    if weights.get("by", "examples") == "uniform":
        n = np.ones(len(r.updates))
    else:
        n = np.array([min(u.examples, weights.get("max_examples", 10_000_000)) for u in r.updates], dtype=np.float64)
    return n / n.sum()


def combine(r, p):
    """sum_k p_k d_k, of every tensor sent whole."""
    return {name: sum(p_k * u.delta[name] for p_k, u in zip(p, r.updates)) for name in r.updates[0].delta}


def mean(r):
    return combine(r, shares(r))


def moved(r, step):
    """w + step; a tensor of the adapter without a step stays."""
    return [tensor(n, w + step.get(n, 0), np.abs(w).max()) for n, w in r.start.items() if is_adapter(r.roles[n])]


def is_adapter(role):
    return not role.startswith(("server.", "control.")) and role not in ("base_a", "base_b")


def trained(r, module):
    """(B_k, A_k) of every client, of the rank it has: fp32 values, for so a client holds them. A factor that it did not send is the start's."""
    pairs = []
    for u in r.updates:
        a, b = u.delta.get(module + A_NAME, 0), u.delta.get(module + B_NAME, 0)
        rank = len(a) if np.ndim(a) else None
        pair = r.start[module + B_NAME][:, :rank] + b, r.start[module + A_NAME][:rank] + a
        pairs.append(tuple(x.astype(np.float32).astype(np.float64) for x in pair))
    return pairs


def others(r, p):
    """What is no LoRA factor moves by its mean delta."""
    checks = []
    for name in r.updates[0].delta:
        if not name.endswith((A_NAME, B_NAME)):
            step = sum(p_k * u.delta[name] for p_k, u in zip(p, r.updates))
            checks.append(tensor(name, r.start[name] + step, np.abs(r.start[name]).max()))
    return checks


def size(pairs, p):
    """How large the terms of D are: what its rounding is relative to."""
    return sum(p_k * np.linalg.norm(b) * np.linalg.norm(a) for p_k, (b, a) in zip(p, pairs))


def mean_product(pairs, p):
    return sum(p_k * b @ a for p_k, (b, a) in zip(p, pairs))


def factor_means(pairs, p):
    return sum(p_k * b for p_k, (b, _) in zip(p, pairs)), sum(p_k * a for p_k, (_, a) in zip(p, pairs))


def mean_factor_checks(module, pairs, p):
    bbar, abar = factor_means(pairs, p)
    return [tensor(module + B_NAME, bbar), tensor(module + A_NAME, abar)]


def svd_checks(module, d, rank, scale, split):
    """B A is the best approximation of d of every rank up to `rank` (Eckart-Young), its parts in descending order; the rows of A are
    orthonormal, or A and B are balanced (split sqrt)."""
    u, s, vt = np.linalg.svd(d, full_matrices=False)
    checks = []
    for j in range(1, rank + 1):
        tail = np.sqrt(np.sum(s[j:] ** 2))

        def missing(state, j=j):
            return np.linalg.norm(d - product(state, module, j))

        checks.append(at_most(f"{module} what rank {j} misses", missing, tail, scale))
        if j >= len(s) or s[j - 1] - s[j] > 1e-2 * s[0]:  # else the best one is not unique, or ill conditioned
            best = (u[:, :j] * s[:j]) @ vt[:j]
            checks.append(Check(f"{module} product of rank {j}", lambda state, j=j: product(state, module, j), best, scale))
    names = (module + A_NAME, module + B_NAME)

    def gram_a(state):
        return state[names[0]] @ state[names[0]].T

    if split == "sqrt":  # beyond d's rank B is 0, and nothing to balance
        j = min(rank, np.sum(s > 1e-5 * s[0])) if s[0] else 0
        balance = lambda state: (gram_a(state) - state[names[1]].T @ state[names[1]])[:j, :j]
        checks.append(Check(f"{module} balance", balance, np.zeros((j, j)), scale, names))
    else:  # rows that there is no room for are 0
        checks.append(Check(f"{module} A A^T", gram_a, np.diag((np.arange(rank) < d.shape[1]).astype(float)), 1.0, names))
    return checks


# --- Means of deltas.


def reference_fedavg(r):
    """McMahan et al., 1602.05629, Algorithm 1: w + sum_k p_k d_k. On LoRA factors: FedIT, Zhang et al., 2305.05644."""
    return moved(r, mean(r))


# The server's half is FedAvg's: Li et al., 1812.06127; Sun et al., 2403.12313 (FFA-LoRA: B alone is sent); Chen et al., 2502.01755
# (RoLoRA) and Koo et al., 2410.22815 (LoRA-A2: B in odd rounds, A in even ones); Guo et al., 2410.01463 (FedSA-LoRA: A alone);
# Singhal et al., 2502.15436 (Fed-SB: R alone). What was not sent stays.
reference_fedprox = reference_ffa_lora = reference_rolora = reference_lora_a2 = reference_fedsa_lora = reference_fed_sb = reference_fedavg


def reference_scaffold(r):
    """Karimireddy et al., 1910.06378, Algorithm 1, line 17: x + eta_g mean(dy), c + |S|/N mean(dc); means are uniform."""
    step = combine(r, np.full(len(r.updates), 1 / len(r.updates)))
    rate, part = r.config.get("server_rate", 1), len(r.updates) / r.config["clients"]
    controls = [tensor(n, c + part * step[n], np.abs(c).max()) for n, c in r.start.items() if r.roles[n].startswith("control.")]
    return moved(r, {n: rate * d for n, d in step.items()}) + controls


def reference_fedopt(r):
    """Reddi et al., 2003.00295, Algorithm 2, without bias correction; momentum: Hsu et al., 1909.06335 (FedAvgM)."""
    rate, b1 = r.config.get("learning_rate", 0.01), r.config.get("beta1", 0.9)
    b2, tau = r.config.get("beta2", 0.99), r.config.get("tau", 1e-3)
    optimizer = r.config.get("optimizer", "adam")
    inner = inner_round(r)
    step, checks = {}, []
    for name, d in mean(inner).items():
        m, v = r.start["server.m." + name], r.start.get("server.v." + name)
        if optimizer == "momentum":
            m = b1 * m + d
            step[name] = rate * m
        else:
            m = b1 * m + (1 - b1) * d
            v = {
                "adam": lambda: b2 * v + (1 - b2) * d**2,
                "yogi": lambda: v - (1 - b2) * d**2 * np.sign(v - d**2),
                "adagrad": lambda: v + d**2,
            }[optimizer]()
            step[name] = rate * m / (np.sqrt(v) + tau)
            checks.append(tensor("server.v." + name, v, np.abs(r.start["server.v." + name]).max()))
        checks.append(tensor("server.m." + name, m, np.abs(r.start["server.m." + name]).max()))
    touched = [c.what for c in checks]
    rest = [tensor(n, w) for n, w in r.start.items() if r.roles[n].startswith("server.") and n not in touched]
    return finish(inner, step) + checks + rest


def reference_fedsvd(r):
    """Lee et al., 2505.12805: the SVD of Bbar A gives A = V^T, B = U S."""
    return finish_fedsvd(r, mean(r))


def finish_fedsvd(r, step):
    checks = [c for c in moved(r, step) if not c.what.endswith((A_NAME, B_NAME))]
    for m in modules(r.start):
        a, b = r.start[m + A_NAME], r.start[m + B_NAME] + step[m + B_NAME]
        checks += svd_checks(m, b @ a, len(a), np.linalg.norm(b) * np.linalg.norm(a), "b")
    return checks


# --- Products.


def reference_lora_fair(r):
    """Bian et al., 2411.14961, eq. 8: A = Abar; B = Bbar + dB comes closer to D. See fair_objective."""
    p, lam = shares(r), r.config.get("lambda", 0.01)
    checks = others(r, p)
    for m in modules(r.start):
        pairs = trained(r, m)
        (bbar, abar), d = factor_means(pairs, p), mean_product(pairs, p)
        checks.append(mean_factor_checks(m, pairs, p)[1])
        if r.config.get("objective", "cosine") == "least_squares":
            checks += ridge_checks(m, pairs, p, lam)
        else:
            checks += cosine_checks(m, d, abar, bbar, lam, 1e-2 if "max_steps" not in r.config else 1e-3)
    return checks


def ridge_checks(m, pairs, p, lam):
    (bbar, abar), d = factor_means(pairs, p), mean_product(pairs, p)
    x, s = ridge(d, abar, bbar, lam), np.linalg.svd(abar, compute_uv=False)
    if lam == 0 and s[-1] < 1e-5 * s[0]:  # many are as good: the product is the same, and ours is none of the long ones
        shortest = np.linalg.norm(d @ np.linalg.pinv(abar, rcond=1e-5))
        return [
            Check(f"{m} product", lambda state: product(state, m), x @ abar, size(pairs, p), (m + B_NAME,)),
            at_most(f"{m} norm of B", lambda state: np.linalg.norm(state[m + B_NAME]), shortest, shortest or 1),
        ]
    return [tensor(m + B_NAME, x)]


def ridge(d, abar, bbar, lam):
    """argmin_X |d - X abar|^2 + lam |X - bbar|^2, of least norm where there are many."""
    rows = np.vstack([abar.T, np.sqrt(lam) * np.eye(len(abar))])
    right = np.vstack([d.T, np.sqrt(lam) * bbar.T])
    return np.linalg.lstsq(rows, right, rcond=1e-12)[0].T


def cosine(x, y):
    return np.vdot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y))


def fair_objective(x, d, abar, bbar, lam):
    return 1 - cosine(d, x @ abar) + lam * np.linalg.norm(x - bbar)


def cosine_checks(m, d, abar, bbar, lam, slack):
    """There is no closed form. B must gain what a long descent from Bbar gains, but for a part `slack` of it: the infimum may lie at X -> 0,
    for the cosine does not see the size of X, and is reached by no step then. And cos(D, B Abar) lies between that of Bbar and that of least
    squares, which no X passes."""
    name = m + B_NAME
    if not np.linalg.norm(d) or not np.linalg.norm(bbar @ abar):
        return [tensor(name, bbar)]
    start, best = fair_objective(bbar, d, abar, bbar, lam), descend(d, abar, bbar, lam)
    reached = lambda state: fair_objective(state[name], d, abar, bbar, lam)
    found = lambda state: cosine(d, state[name] @ abar)
    ceiling = cosine(d, ridge(d, abar, bbar, 0) @ abar)
    rounding = 1 + lam * np.linalg.norm(bbar)
    return [
        at_most(f"{m} objective", reached, best + slack * (start - best), rounding)._replace(covers=(name,)),
        at_most(f"{m} cosine under FedAvg's", lambda state: -found(state), -cosine(d, bbar @ abar), 1),
        at_most(f"{m} cosine over the ceiling", found, ceiling, 1),
    ]


def descend(d, abar, bbar, lam):
    """The lowest objective on the way from Bbar, by L-BFGS over X with |X - Bbar| smoothed less and less."""
    x, best = bbar.ravel(), fair_objective(bbar, d, abar, bbar, lam)
    unit = np.linalg.norm(bbar)
    for smoothing in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):

        def smooth(flat, eps=smoothing * unit):
            x = flat.reshape(bbar.shape)
            z, step = x @ abar, x - bbar
            q, n, s = np.linalg.norm(z), np.linalg.norm(d), np.sqrt(np.sum(step**2) + eps**2)
            gradient = -(d / (n * q) - np.vdot(d, z) * z / (n * q**3)) @ abar.T + lam * step / s
            return 1 - np.vdot(d, z) / (n * q) + lam * (s - eps), gradient.ravel() * unit

        scaled = minimize(lambda y: smooth(y * unit), x / unit, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-10})
        x = scaled.x * unit
        best = min(best, fair_objective(x.reshape(bbar.shape), d, abar, bbar, lam))
    return best


def reference_fedex_lora(r):
    """Singhal et al., 2410.09432, eq. 5-7: averaged factors; W gets D - Bbar Abar, or its best approximation of residual_rank."""
    p, checks = shares(r), []
    for m in modules(r.start):
        pairs = trained(r, m)
        bbar, abar = factor_means(pairs, p)
        residual, rank = mean_product(pairs, p) - bbar @ abar, r.config.get("residual_rank", 0)
        if rank:
            u, s, vt = np.linalg.svd(residual, full_matrices=False)
            residual = (u[:, :rank] * s[:rank]) @ vt[:rank]
        checks += mean_factor_checks(m, pairs, p) + [base_check(m, residual, size(pairs, p))]
    return checks + others(r, p)


def reference_flora(r):
    """Wang et al., 2409.05976, eq. 3: W gets D, whatever the ranks; then each client starts from a new A and B = 0."""
    p, checks = shares(r), []
    for m in modules(r.start):
        pairs = trained(r, m)
        a = r.start[m + A_NAME]
        checks.append(base_check(m, mean_product(pairs, p), size(pairs, p)))
        checks.append(tensor(m + B_NAME, np.zeros_like(r.start[m + B_NAME])))
        checks.append(fresh_a(m, a))
    return checks + others(r, p)


def fresh_a(m, a):
    """Kaiming's uniform distribution with a = sqrt(5), which PEFT draws A from: within 1/sqrt(in), and not the last one."""
    bound = 1 / np.sqrt(a.shape[1])
    fresh = lambda x: np.maximum(np.abs(x).max() - bound, 0) + (np.abs(x).max() < bound / 10) + np.array_equal(x, a)
    return Check(f"{m} fresh A", lambda state: fresh(state[m + A_NAME]), np.zeros(()), 1.0, (m + A_NAME,))


def reference_flexlora(r):
    """Bai et al., 2402.11505, Algorithm 1: the SVD of D; B = U S, A = V^T, cut to each client's rank by taking the first."""
    p, checks = shares(r), []
    for m in modules(r.start):
        pairs = trained(r, m)
        d, rank = mean_product(pairs, p), len(r.start[m + A_NAME])
        checks += svd_checks(m, d, rank, size(pairs, p), r.config.get("split", "b"))
    return checks + others(r, p)


def reference_hetlora(r):
    """Cho et al., 2401.06432, eq. 3: zero-padded factors, weighted by the norm of what each client's adapter adds to the base. Components that
    no client has keep their value, where the paper's padding would erase them."""
    p = het_shares(r)
    checks = others(r, p)
    for m in modules(r.start):
        pairs, had = [], max(len(a) for _, a in trained(r, m))
        rest_b, rest_a = r.start[m + B_NAME].copy(), r.start[m + A_NAME].copy()
        rest_b[:, :had], rest_a[:had] = 0, 0
        for b, a in trained(r, m):
            missing = len(rest_a) - len(a)
            pairs.append((rest_b + np.pad(b, ((0, 0), (0, missing))), rest_a + np.pad(a, ((0, missing), (0, 0)))))
        checks += mean_factor_checks(m, pairs, p)
    return checks


def het_shares(r):
    """p_k as |B_k A_k|_F, over all modules together; alike when there is no such norm."""
    squares = np.zeros(len(r.updates))
    for m in modules(r.start):
        squares += [np.linalg.norm(b @ a) ** 2 for b, a in trained(r, m)]
    norms = np.sqrt(squares)
    return norms / norms.sum() if norms.sum() else np.full(len(norms), 1 / len(norms))


# --- Wrappers: a centre of the deltas goes to the rule inside in place of their mean.


def inner_round(r):
    rule = r.config.get("rule", {})
    return Round(r.number, r.start, r.roles, r.updates, rule.get("config", {}), r.job)


def finish(r, step, rule=None):
    """The next state of the rule inside."""
    rule = rule or r.job["aggregator"]["config"].get("rule", {}).get("name", "fedavg")
    return finish_fedsvd(r, step) if rule == "fedsvd" else moved(r, step)


def stacked(r):
    """The deltas as rows, each the concatenation of a client's tensors."""
    return np.array([np.concatenate([d.ravel() for d in u.delta.values()]) for u in r.updates])


def unstacked(r, row):
    step, at = {}, 0
    for name, d in r.updates[0].delta.items():
        step[name] = row[at : at + d.size].reshape(d.shape)
        at += d.size
    return step


def reference_median(r):
    """Yin et al., 1803.01498, definition 1: of each coordinate."""
    return finish(inner_round(r), unstacked(r, np.median(stacked(r), axis=0)))


def reference_trimmed_mean(r):
    """Yin et al., 1803.01498, definition 2: floor(beta K) left out at each end of each coordinate."""
    drop = int(np.floor(r.config.get("beta", 0.2) * len(r.updates) + 1e-9))
    ordered = np.sort(stacked(r), axis=0)
    return finish(inner_round(r), unstacked(r, ordered[drop : len(ordered) - drop].mean(axis=0)))


def reference_krum(r):
    """Blanchard et al., 1703.02757, section 4: scores are sums of SQUARED distances to the K - f - 2 nearest; the m best are averaged."""
    rows = stacked(r)
    scores = krum_scores(squared_distances(r), r.config.get("f", 1))
    best = np.argsort(scores, kind="stable")[: r.config.get("m", 1)]
    return finish(inner_round(r), unstacked(r, rows[best].mean(axis=0)))


def krum_scores(distances, f):
    count = len(distances) - f - 2
    return [np.sort(np.delete(row, i))[:count].sum() for i, row in enumerate(distances)]


def squared_distances(r):
    rows = stacked(r)
    if r.config.get("distance", "delta") == "product":
        factor = (A_NAME, B_NAME)
        parts = [[u.delta[n].ravel() for n in u.delta if not n.endswith(factor)] for u in r.updates]
        for m in modules(r.start):
            for part, (b, a) in zip(parts, trained(r, m)):
                part.append((b @ a).ravel())
        rows = np.array([np.concatenate(part) for part in parts])
    return np.sum((rows[:, None] - rows[None]) ** 2, axis=2)


def reference_geometric_median(r):
    """Pillutla et al., 1912.13445: the point with the least sum of distances to the deltas."""
    return finish(inner_round(r), unstacked(r, geometric_median(stacked(r), r.config.get("smoothing", 1e-6))))


def geometric_median(rows, nu):
    """Minimises sum_k h(|z - d_k|), h(t) = t from nu on and t^2 / (2 nu) + nu / 2 below (eq. 8), by Newton's method in the deltas' span."""
    centre = rows.mean(axis=0)
    unit = np.linalg.norm(rows - centre, axis=1).mean()
    if not unit:
        return centre
    _, s, basis = np.linalg.svd((rows - centre) / unit, full_matrices=False)
    basis, nu = basis[s > 1e-12 * s[0]], nu / unit
    points = (rows - centre) @ basis.T / unit

    def value(z):
        t = np.linalg.norm(z - points, axis=1)
        return np.where(t >= nu, t, t**2 / (2 * nu) + nu / 2).sum()

    def gradient(z):
        t = np.maximum(np.linalg.norm(z - points, axis=1), nu)
        return ((z - points) / t[:, None]).sum(axis=0)

    def hessian(z):
        result = np.zeros((len(z), len(z)))
        for away in z - points:
            t = np.linalg.norm(away)
            result += np.eye(len(z)) / max(t, nu) - (np.outer(away, away) / t**3 if t > nu else 0)
        return result

    z = minimize(value, points.mean(axis=0), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-12, "maxiter": 1000}).x
    return centre + unit * z @ basis


def clip(rows, bound):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.minimum(1, bound / np.maximum(norms, 1e-300))


def reference_norm_bound(r):
    """Sun et al., 1911.07963, section 4: d_k / max(1, |d_k| / M), over all tensors together; then the mean, uniform."""
    return finish(inner_round(r), unstacked(r, clip(stacked(r), r.config.get("max_norm", 1)).mean(axis=0)))


def reference_dp(r):
    """McMahan et al., 1710.06963, Algorithm 1: (sum_k w_k clip(d_k, C) + noise) / the total weight that is expected to answer, never that of
    who did. w_k is 1, or min(n_k, n_max) / n_max."""
    weights, by = np.ones(len(r.updates)), r.config.get("weights", {})
    if by.get("by", "uniform") == "bounded":
        most = by.get("max_examples", 1000)
        weights = np.array([min(u.examples, most) / most for u in r.updates])
    step = unstacked(r, weights @ clip(stacked(r), r.config["clip_norm"]) / dp_denominator(r))
    return finish(inner_round(r), {n: d + r.noise[n] for n, d in step.items()})


def dp_noise(r):
    """Standard deviation of the noise in each coordinate of the step: z times the sensitivity, which is the clip where a neighbour adds one
    client, over the denominator."""
    return r.config["noise_multiplier"] * r.config["clip_norm"] / dp_denominator(r)


def dp_denominator(r):
    return r.config["clients"] * r.job.get("selection", {}).get("rate", 1)
