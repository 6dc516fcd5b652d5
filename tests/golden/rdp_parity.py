"""The accountant of privacy/accountant beside Google's dp_accounting: same epsilons, same noise for a target.

    .venv/bin/python tests/golden/rdp_parity.py [path of weft-epsilon]

Runs weft-epsilon over a grid of sampling probabilities, noise multipliers, steps and deltas, and over compositions of two mechanisms. The
reference takes the divergences of integer orders from dp_accounting, and those of the others by quadrature of their definition: there
dp_accounting 0.6.0 cuts its series short, or leaves the order out, so that what it says is too high, in this grid by a factor of up to 2.7. The epsilons that it says itself
are printed beside, and ours must never be over them. Prints the largest differences and fails where one is over its tolerance, or where a
perturbed case is not.
"""

import functools
import itertools
import pathlib
import subprocess
import sys

import numpy as np
from absl import logging
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant, compute_epsilon

QS = [1e-4, 1 / 300, 0.02, 0.1, 0.37, 0.9, 1.0]
NOISES = [0.5, 0.8, 1.1, 2.0, 7.5, 40.0]
STEPS = [1, 100, 5000]
DELTAS = [1e-4, 1e-7]
TARGETS = [0.3, 1.0, 8.0]

ORDERS = np.array([1 + tenth / 10 for tenth in range(1, 100)] + list(range(11, 64)) + [128, 256, 512, 1024])
WHOLE = ORDERS == np.floor(ORDERS)

# Relative, of epsilons. Seen: 5.2e-10.
EPSILON_TOLERANCE = 1e-7
# Relative, of the reference's epsilon at our noise to the target; weft-epsilon searches to 1e-6 of the noise. Seen: 2.1e-6.
TARGET_TOLERANCE = 1e-5
# Below this both are privacy for free, and dp_accounting says 0 by another bound.
LEAST_EPSILON = 1e-3


def quadrature(q, noise, order):
    """The divergence of the definition: log E(r^order) / (order - 1) over x of N(0, noise^2), where r = 1 - q + q exp((2x-1) / (2 noise^2))."""
    x = np.linspace(-40 * noise, 40 * noise + order, 20_001)
    exponent = (2 * x - 1) / (2 * noise**2)
    if q == 1:
        log_r = exponent
    else:
        log_r = np.where(exponent > 50, exponent + np.log(q), np.log1p(q * np.expm1(np.minimum(exponent, 50))))
    log_density = -(x**2) / (2 * noise**2) - np.log(noise * np.sqrt(2 * np.pi))
    # As E(r) = 1, E(r^order) - 1 is the mean of r^order - 1 - order (r - 1), which is nowhere negative: nothing cancels.
    small = np.minimum(order * log_r, 30)
    excess = np.exp(log_density) * (np.expm1(small) - order * np.expm1(np.minimum(log_r, 30)))
    excess = np.where(order * log_r > 30, np.exp(log_density + order * log_r), excess)
    return np.log1p(np.sum(excess) * (x[1] - x[0])) / (order - 1)


@functools.cache
def divergences(q, noise):
    """Of one step, at ORDERS."""
    accountant = RdpAccountant(orders=ORDERS[WHOLE])
    accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(noise)))
    result = np.empty(len(ORDERS))
    result[WHOLE] = accountant.rdp
    result[~WHOLE] = [quadrature(q, noise, order) for order in ORDERS[~WHOLE]]
    return result


def reference(delta, mechanisms):
    """The epsilon of a list of (q, noise multiplier, steps)."""
    return float(compute_epsilon(ORDERS, sum(steps * divergences(q, noise) for q, noise, steps in mechanisms), delta)[0])


def dp_accounting_alone(delta, mechanisms):
    """What dp_accounting says with its own fractional orders."""
    accountant = RdpAccountant()
    for q, noise, steps in mechanisms:
        accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(noise)), steps)
    return float(accountant.get_epsilon(delta))


def run_weft(binary, *arguments):
    """The first number that weft-epsilon prints."""
    words = [a if isinstance(a, str) else repr(a) for a in arguments]
    out = subprocess.run([binary, *words], check=True, capture_output=True, text=True).stdout
    return float(out.split()[0].split("=")[1])


def cases():
    """(delta, mechanisms) of the grid, and of pairs of mechanisms one after the other."""
    for q, noise, steps, delta in itertools.product(QS, NOISES, STEPS, DELTAS):
        yield delta, [(q, noise, steps)]
    for first, second in itertools.combinations([(0.02, 1.1, 500), (1.0, 6.0, 20), (0.3, 2.5, 60)], 2):
        yield 1e-5, [first, second]


def main():
    logging.set_verbosity(logging.ERROR)  # dp_accounting warns of each order that it leaves out
    binary = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bazel-bin/privacy/weft-epsilon").resolve()
    failures = []

    def check(name, value, tolerance, within=True):
        good = (value <= tolerance) == within
        print(f"{name}={value:.3g} {'at most' if within else 'must be over'} {tolerance:.3g} {'ok' if good else 'FAILED'}")
        if not good:
            failures.append(name)

    differences, perturbed, over = [], [], []
    for delta, mechanisms in cases():
        expected = reference(delta, mechanisms)
        if expected < LEAST_EPSILON:
            continue
        found = run_weft(binary, delta, *itertools.chain(*mechanisms))
        differences.append((abs(found / expected - 1), delta, mechanisms))
        over.append(dp_accounting_alone(delta, mechanisms) / found - 1)
        # Noise that is off by a thousandth.
        found = run_weft(binary, delta, *itertools.chain(*((q, noise * 1.001, steps) for q, noise, steps in mechanisms)))
        perturbed.append(abs(found / expected - 1))
    worst, delta, mechanisms = max(differences)
    print(f"compared={len(differences)} largest difference at delta={delta}, (q, noise multiplier, steps)={mechanisms}")
    print(f"dp_accounting_over_ours median={1 + np.median(over):.6f} largest={1 + max(over):.6f}")
    if len(differences) < 200:
        failures.append("compared")
    check("epsilon_max_relative_difference", worst, EPSILON_TOLERANCE)
    check("epsilon_max_over_dp_accounting", -min(over), EPSILON_TOLERANCE)
    check("perturbed_epsilon_median_relative_difference", np.median(perturbed), EPSILON_TOLERANCE, within=False)

    differences, perturbed = [], []
    for epsilon, q, steps in itertools.product(TARGETS, [0.02, 0.1, 1.0], [50, 2000]):
        noise = run_weft(binary, "--noise-for", epsilon, 1e-5, q, steps)
        differences.append(abs(reference(1e-5, [(q, noise, steps)]) / epsilon - 1))
        perturbed.append(abs(reference(1e-5, [(q, noise * 1.001, steps)]) / epsilon - 1))
    check("target_max_relative_difference", max(differences), TARGET_TOLERANCE)
    check("perturbed_target_min_relative_difference", min(perturbed), TARGET_TOLERANCE, within=False)
    if failures:
        sys.exit(f"rdp_parity: FAILED: {', '.join(failures)}")
    print("rdp_parity: passed")


if __name__ == "__main__":
    main()
