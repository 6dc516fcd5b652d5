"""The fold of rules on products of LoRA factors, over the same algorithm in NumPy.

    bazel build //aggregators/core:factored_bench && .venv/bin/python tests/bench/factored.py [--layers 32] [--repeats 3]

An adapter of the shape of a 7B model: rank 16 on the seven linear modules of each of 32 layers, 20 clients, fp32 values, fp64 inside. Both
sides get the same values, four layers at a time, hold them in memory as fp32 and give fp32 factors; only the algebra is timed, with two
threads on both sides, the sides alternating. Ratios are NumPy's seconds over ours, medians over the repeats.

  lora_fair_over_numpy   LoRA-FAIR (arXiv 2411.14961): Gram matrices of the stacked factors, at most 100 steps of proximal gradient descent
                         on 2r x r numbers
  flexlora_over_numpy    FlexLoRA (arXiv 2402.11505): rank-16 SVD of the ideal update by Gram matrices and a symmetric eigenproblem
NumPy runs the modules one after the other with two BLAS threads, which wait for each other many times a module: on a machine that others
use too, they wait for those, and these ratios say more about the load than about the code. The ratios that end in _pool let NumPy have two
modules at a time with one BLAS thread each, as ours does, and stand any load; flexlora_over_numpy_qr is against the textbook way, QR of both
stacks and SVD of the core, on one layer.

No ratio can pass *_bound, which is NumPy's time over that of the arithmetic of the Gram matrices alone at the speed of NumPy's own large
fp64 matrix product: both sides must multiply these.
"""

import argparse
import concurrent.futures
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

THREADS = 2
POOL = "--pool" in sys.argv
os.environ["OPENBLAS_NUM_THREADS"] = "1" if POOL else str(THREADS)

import numpy as np  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENTS, RANK, BATCH = 20, 16, 4
SHAPES = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]  # out, in
LAMBDA, STEPS = 1e-4, 100  # a penalty that leaves room for steps
N = CLIENTS * RANK
WEIGHTS = np.full(N, 1 / CLIENTS)


def generate(rng, layers):
    """For each module the clients' A [K, r, in] and B [K, out, r]: what they share, and a part of their own as large."""
    modules = []
    for out, inputs in SHAPES * layers:
        a, b = [np.float32(0.01) * (rng.standard_normal((1, *s), np.float32) + rng.standard_normal((CLIENTS, *s), np.float32))
                for s in ((RANK, inputs), (out, RANK))]
        modules.append((a, b))
    return modules


def stacks(module):
    a, b = module
    return a.reshape(N, -1).astype(np.float64), np.concatenate(b, axis=1, dtype=np.float64)


def numpy_fair(module):
    a, b = stacks(module)
    gram_a, gram_b = a @ a.T, b.T @ b
    p = np.tile(np.eye(RANK), (CLIENTS, 1)) / CLIENTS
    inner = gram_a @ p
    g, q = np.linalg.eigh(p.T @ inner)
    basis = np.hstack([p, WEIGHTS[:, None] * inner])
    gram = basis.T @ (gram_b @ basis)
    norm = np.sqrt(WEIGHTS @ (gram_a * gram_b) @ WEIGHTS)
    start, c = np.vstack([q, 0 * q]), np.vstack([0 * q, q])
    gram_c = gram @ c

    def length(u):
        return np.sqrt(max(0.0, np.vdot(u, gram @ u)))

    def at(u):
        along = np.vdot(gram_c, u)
        size = np.sqrt(max(0.0, ((u * (gram @ u)) @ g).sum()))
        return along, size, 1 - along / (norm * size) + LAMBDA * length(u - start)

    u = start
    along, size, objective = at(u)
    step = size**2 / g.max()
    for _ in range(STEPS):
        slope = along / (norm * size**3) * (u * g) - c / (norm * size)
        for _ in range(60):
            moved = u - step * slope - start
            far = length(moved)
            moved = start + max(0.0, 1 - step * LAMBDA / far) * moved if far > 0 else start
            tried = at(moved)
            if tried[2] < objective - 1e-12:
                break
            step /= 2
        else:
            break
        u, (along, size, objective), step = moved, tried, step * 2
    return (p.T @ a).astype(np.float32), (b @ (basis @ (u @ q.T))).astype(np.float32)


def numpy_flexlora(module):
    a, b = stacks(module)
    gram_a, gram_b = a @ a.T, b.T @ b
    length_a, length_b = np.sqrt(np.diag(gram_a)), np.sqrt(np.diag(gram_b))
    root = np.sqrt(WEIGHTS * length_a * length_b)
    scale_a, scale_b = root / length_a, root / length_b
    gram_r, gram_l = gram_a * np.outer(scale_a, scale_a), gram_b * np.outer(scale_b, scale_b)
    c = np.linalg.cholesky(gram_r)
    gram_l_c = gram_l @ c
    values, vectors = np.linalg.eigh(c.T @ gram_l_c)
    y = gram_l_c @ vectors[:, :-RANK - 1:-1] / values[:-RANK - 1:-1]
    projected = gram_r @ y
    turn = np.linalg.inv(np.linalg.cholesky(y.T @ projected)).T
    y, projected = y @ turn, projected @ turn
    rotation = np.linalg.eigh(projected.T @ gram_l @ projected)[1][:, ::-1]
    return ((scale_a[:, None] * (y @ rotation)).T @ a).astype(np.float32), (b @ (scale_b[:, None] * (projected @ rotation))).astype(np.float32)


def numpy_flexlora_qr(module):
    a, b = stacks(module)
    q_l, r_l = np.linalg.qr(b * np.sqrt(WEIGHTS))
    q_r, r_r = np.linalg.qr((np.sqrt(WEIGHTS)[:, None] * a).T)
    u, s, vt = np.linalg.svd(r_l @ r_r.T)
    return (vt[:RANK] @ q_r.T).astype(np.float32), (q_l @ (u[:, :RANK] * s[:RANK])).astype(np.float32)


def run_numpy(rule, modules):
    """Seconds, and the results."""
    start = time.perf_counter()
    if POOL:
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            results = list(pool.map(rule, modules))
    else:
        results = [rule(module) for module in modules]
    return time.perf_counter() - start, results


class Ours:
    def __init__(self, folder):
        self.folder = folder
        self.process = subprocess.Popen([ROOT / "bazel-bin/aggregators/core/factored_bench", str(THREADS)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"factored: the benchmark ended at \"{line}\"")
        return answer.strip()

    def load(self, modules):
        path = os.path.join(self.folder, "factors")
        with open(path, "wb") as file:
            for module in modules:
                for values in module:
                    values.tofile(file)
        shapes = " ".join(f"{b.shape[1]} {a.shape[2]}" for a, b in modules)
        self.ask(f"load {path} {CLIENTS} {RANK} {shapes}")
        os.remove(path)

    def results(self, modules):
        path = os.path.join(self.folder, "results")
        self.ask(f"save {path}")
        found = []
        with open(path, "rb") as file:
            for a, b in modules:
                out, inputs = b.shape[1], a.shape[2]
                found.append((np.fromfile(file, np.float32, RANK * inputs).reshape(RANK, inputs),
                              np.fromfile(file, np.float32, out * RANK).reshape(out, RANK)))
        os.remove(path)
        return found


def difference(ours, theirs):
    """|b a - d c| over |d c|, in Frobenius norm, without the products."""
    (a, b), (c, d) = [[m.astype(np.float64) for m in pair] for pair in (ours, theirs)]
    left, right = np.hstack([b, -d]), np.vstack([a, c])
    r_l, r_r = np.linalg.qr(left, mode="r"), np.linalg.qr(right.T, mode="r")
    return np.linalg.norm(r_l @ r_r.T) / np.sqrt(np.vdot(d.T @ d, c @ c.T))


def matmul_peak():
    """Operations per second of a large fp64 product with both threads."""
    x = np.random.default_rng(0).standard_normal((2048, 2048))
    y = x.copy()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        x @ y
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def measure(ours, rng, args):
    rules = {"lora_fair": ("fair", numpy_fair), "flexlora": ("flexlora", numpy_flexlora)}
    seconds = {name: ([], []) for name in rules}
    worst = {name: 0.0 for name in rules}
    for repeat in range(args.repeats):
        totals = {name: [0.0, 0.0] for name in rules}
        for layer in range(0, args.layers, BATCH):
            modules = generate(rng, min(BATCH, args.layers - layer))
            ours.load(modules)
            for name, (command, rule) in rules.items():
                totals[name][0] += float(ours.ask(command))
                spent, theirs = run_numpy(rule, modules)
                totals[name][1] += spent
                if layer == 0:
                    worst[name] = max(worst[name], *map(difference, ours.results(modules), theirs))
            del modules
        for name in rules:
            for side in (0, 1):
                seconds[name][side].append(totals[name][side])
    return seconds, worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pool", action="store_true", help="two modules at a time in NumPy, with a BLAS thread each")
    args = parser.parse_args()
    if not POOL:
        print(f"adapter_parameters={args.layers * sum(RANK * (o + i) for o, i in SHAPES)}")
    peak = matmul_peak() * (THREADS if POOL else 1)
    # A symmetric matrix of n x n inner products of this length: a multiplication and an addition for each of its half.
    gram_seconds = args.layers * sum(N * (N + 1) * (o + i) for o, i in SHAPES) / peak
    end = "_pool" if POOL else ""
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        ours = Ours(folder)
        seconds, worst = measure(ours, rng, args)
        for name, (own, theirs) in seconds.items():
            print(f"{name}_over_numpy{end}={statistics.median(t / o for o, t in zip(own, theirs)):.2f}")
            print(f"{name}_numpy{end}_seconds={statistics.median(theirs):.2f}")
            if worst[name] > 1e-6:
                raise SystemExit(f"factored: {name} differs from NumPy's result by {worst[name]:.1e} of its norm, expected 1e-6 at most")
            if not POOL:
                print(f"{name}_seconds={statistics.median(own):.2f}")
                print(f"{name}_difference={worst[name]:.1e}")
                print(f"{name}_over_numpy_bound={statistics.median(theirs) / gram_seconds:.2f}")
                print(f"{name}_share_of_matmul_peak={gram_seconds / statistics.median(own):.2f}")
        if POOL:
            return
        modules = generate(rng, 1)
        ours.load(modules)
        own, (theirs, _) = float(ours.ask("flexlora")), run_numpy(numpy_flexlora_qr, modules)
        print(f"flexlora_over_numpy_qr={theirs / own:.2f}")
        print(f"# one thread, one module of 4096 x 11008, seconds: {ours.ask('profile')}", file=sys.stderr)
    print(f"matmul_gflops={peak / 1e9:.0f}")
    sys.stdout.flush()
    subprocess.run([sys.executable, __file__, "--pool", "--layers", str(args.layers), "--repeats", str(args.repeats)], check=True)


if __name__ == "__main__":
    main()
