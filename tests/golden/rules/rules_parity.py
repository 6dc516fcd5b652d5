"""Every registered aggregation rule beside its NumPy reference (reference.py), and every encoding beside its description.

    .venv/bin/python tests/golden/rules/rules_parity.py [path of apply_rule]

Each rule gets ordinary updates, in several shapes, configs, encodings and rounds in a row, and unusual ones (cohorts.py): one client,
identical clients, no change, rank one, huge, tiny and cancelling values, very unequal weights; clients of unequal ranks where it takes them. Each
round is compared from the state that the rule itself started it from. Faulty variants of each rule (faults.py), mistakes of public
implementations among them, must be over the tolerance. Prints a table, and fails where one is not as it must be.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are small

import numpy as np
from safetensors.numpy import load_file, save_file

import encoded
import plans
import reference
from cases import ENCODINGS, all_cases
from cohorts import LAYOUTS
from faults import FAULTS
from reference import Round, Update

# Of differences relative to the values that a result is made of (Check.scale). Every result is rounded to fp32 once, by 6e-8 at most, and
# seen were 5e-8 to 7e-8; scaffold 9e-8: the mean is rounded, and the next state again; fedopt 1.4e-7: its moments are fp32 as well; dp 1.6e-7:
# of its two runs both are rounded.
TOLERANCE = dict.fromkeys(FAULTS, 2e-7) | {"fedopt": 4e-7, "dp": 4e-7}


def job_of(case):
    rank = max([shape[0] for _, role, shape in LAYOUTS[case.layout] if role == "lora_a"], default=4)
    form = {"form": "lora", "config": {"rank": rank, "alpha": 2 * rank, "target_modules": ["0"]}}
    job = {"name": "parity", "adapter": form, "aggregator": {"name": case.rule, "config": case.config}, "seed": "7"}
    return job | case.job


def apply(binary, cases):
    """Runs all cases in one process. Of each: its results, and the tensors by name without the case's id."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        with open(folder / "cases.jsonl", "w") as lines:
            for number, case in enumerate(cases):
                case.id = str(number)
                layout = [{"name": n, "role": role, "dtype": "F32", "shape": shape} for n, role, shape in LAYOUTS[case.layout]]
                rounds = [{"clients": [{"id": u.client, "examples": u.examples, "rank": u.rank} for u in r]} for r in case.rounds]
                line = {"id": case.id, "job": job_of(case), "layout": {"tensors": layout}, "rounds": rounds}
                lines.write(json.dumps(line) + "\n")
                tensors = {f"0/{n}": v for n, v in case.initial.items()}
                for i, r in enumerate(case.rounds, 1):
                    tensors |= {f"{i}/{u.client}/{n}": np.ascontiguousarray(v) for u in r for n, v in u.delta.items()}
                save_file(tensors, folder / f"{case.id}.safetensors")
        names = ["cases.jsonl", ".", "results.jsonl", "out.safetensors"]
        subprocess.run([binary, *(folder / name for name in names)], check=True)
        results = [json.loads(line) for line in open(folder / "results.jsonl")]
        found = [{} for _ in cases]
        for name, value in load_file(folder / "out.safetensors").items():
            number, rest = name.split("/", 1)
            found[int(number)][rest] = value
    return list(zip(results, found))


def state(found, number, layout):
    return {t["name"]: found[f"{number}/{t['name']}"].astype(np.float64) for t in layout["tensors"]}


def rounds_of(case, result, found, unchanged):
    """(Round, next state) of each round. `unchanged`: the states of the same job when no client changes anything."""
    for number, updates in enumerate(case.rounds, 1):
        layout = result["states"][number - 1]
        decoded = []
        for u in updates:
            delta = {n: found.get(f"{number}/{u.client}/{n}", v).astype(np.float64) for n, v in u.delta.items()}
            decoded.append(Update(u.client, u.examples, u.rank, delta))
        roles = {t["name"]: t["role"] for t in layout["tensors"]}
        r = Round(number, state(found, number - 1, layout), roles, decoded, case.config, job_of(case))
        if unchanged:
            before, after = (state(unchanged, n, layout) for n in (number - 1, number))
            r.noise = {n: after[n] - before[n] for n in after}
        yield r, state(found, number, result["states"][number])


def wrong_by(checks, after):
    """The largest relative difference, or 0."""
    return max((error_of(check, after) for check in checks), default=0.0)


def error_of(check, after):
    if any(name not in after and ".base_" not in name for name in check.covers):
        return np.inf
    difference = np.abs(check.observe(after) - check.expected).max(initial=0)
    if not difference:
        return 0.0
    relative = difference / check.scale if check.scale else np.inf
    return float(relative) if np.isfinite(relative) else np.inf


def error(checks, after):
    """The largest relative difference, and of what; and every tensor must have been looked at."""
    worst, covered = (0.0, "nothing"), set()
    for check in checks:
        covered.update(check.covers)
        worst = max(worst, (error_of(check, after), check.what))
    for name in set(after) - covered:
        worst = max(worst, (np.inf, name + ", of which the reference says nothing"))
    return worst


def without_change(case):
    rounds = [[replace(u, delta={n: np.zeros_like(d) for n, d in u.delta.items()}) for u in r] for r in case.rounds]
    return replace(case, rounds=rounds)


def describe(case):
    return f"{case.config} {case.layout} {case.numbers} {case.job.get('encoding', {}).get('values', 'f32')}"


PRIMITIVES = """roles_trained roles_sent proximal_mu control_variates rank keep_components roles_local base_residual learning_rate_scale
    rank_pruning clip_update_norm reinitialise""".split()


def check_start(case, result, found, fail):
    """The state before round 1, and every plan."""
    adapter = {n: v.astype(np.float64) for n, v in case.initial.items()}
    difference, what = error(plans.initial_checks(case.rule, adapter, case.roles(), case.config), state(found, 0, result["states"][0]))
    if not difference <= TOLERANCE[case.rule]:
        fail(f"{case.rule}: {describe(case)}: initial state: {what}: {difference:.3g}")
    roles = [role for role in dict.fromkeys(case.roles().values()) if not role.startswith("fixed.")]
    for number, plan in enumerate(result["plans"], 1):
        expected = plans.client_half(case.rule, number, case.config, roles)
        asked = {key: plan[key] for key in PRIMITIVES if key in plan}
        if "reinitialise" in asked:  # the seed is the rule's
            asked["reinitialise"] = asked["reinitialise"]["roles"]
        if asked != expected:
            fail(f"{case.rule}: {describe(case)} plan of round {number}: found {asked}, expected {expected}")


def check_noise(noise, fail):
    """Of normal deviates of standard deviation 1: theirs, within five of its own; and rounds do not correlate."""
    values = np.array([np.concatenate([n.ravel() for n in of_round.values()]) for of_round in noise])
    slack = 5 / np.sqrt(2 * values.size)
    found, alike = abs(values.std() - 1), np.abs(np.corrcoef(values) - np.eye(len(values))).max()
    print(f"{'':<18}{'noise':>7}{found:>15.2g}{slack:>11.0e}   standard deviation over z C / m, less 1; of {values.size} values")
    if not found < slack or not alike < 5 / np.sqrt(values.shape[1]):
        fail(f"dp: the noise's deviation is off by {found:.3f}; rounds correlate by {alike:.3f}")
    if not abs(1.1 * values.std() - 1) > slack:
        fail("dp: noise off by a tenth went unseen")


def compare_encodings(outcomes, fail):
    """Bytes and decoded values of every update that is not f32; both must be the same bits."""
    for values in ENCODINGS:
        updates, damaged = 0, 0
        for case, result, found, _ in outcomes:
            encoding = case.job.get("encoding", {})
            if encoding.get("values") != values or result.get("error"):
                continue
            for number, clients in enumerate(case.rounds, 1):
                order = [t["name"] for t in result["states"][number - 1]["tensors"]]
                for u in clients:
                    names = [n for n in order if n in u.delta]
                    data = found[f"{number}/{u.client}:bytes"].tobytes()
                    decoded = [found[f"{number}/{u.client}/{n}"].ravel() for n in names]
                    expected = encoded.decode(data, [v.size for v in decoded], values)
                    same = all(np.array_equal(e.view(np.uint32), d.view(np.uint32)) for e, d in zip(expected, decoded))
                    if not same or data != encoded.encode([u.delta[n] for n in names], values, encoding.get("density", 0.01)):
                        fail(f"encoding {values}: {describe(case)}: {'the bytes' if same else 'the values'} of {u.client} differ")
                    swapped = data[:-2] + data[-1:] + data[-2:-1]
                    damaged += any(not np.array_equal(e, d) for e, d in zip(encoded.decode(swapped, [v.size for v in decoded], values), decoded))
                    updates += 1
        if not updates or damaged < updates / 2:
            fail(f"encoding {values}: {updates} updates compared; two bytes swapped were seen in {damaged}")
        print(f"encoding {values:<9}{updates:>7}   updates of the same bytes and the same values; two bytes swapped seen in {damaged}")


def takes_faults(case):
    return case.numbers == "ordinary" and "encoding" not in case.job and not any(u.rank for r in case.rounds for u in r)


def compare_rule(rule, outcomes, fail):
    """Prints the rule's lines of the table. `outcomes`: (case, result, tensors, those of the case without change)."""
    tolerance = TOLERANCE[rule]
    rounds, worst, where, seen, noise = 0, 0.0, "-", {what: 0.0 for what, _ in FAULTS[rule]}, []
    for case, result, found, unchanged in outcomes:
        if result.get("error"):
            fail(f"{rule}: {describe(case)}: {result['error']}")
            continue
        check_start(case, result, found, fail)
        for r, after in rounds_of(case, result, found, unchanged):
            difference, what = error(getattr(reference, "reference_" + rule)(r), after)
            rounds += 1
            if not difference <= tolerance:
                fail(f"{rule}: {describe(case)} round {r.number}: {what}: {difference:.3g}")
            if difference >= worst:
                worst, where = difference, f"{describe(case)} round {r.number}: {what}"
            for fault, wrong in FAULTS[rule] if takes_faults(case) else []:
                seen[fault] = max(seen[fault], wrong_by(wrong(r), after))
            if case.config.get("noise_multiplier") == 1:
                noise.append({n: d / reference.dp_noise(r) for n, d in r.noise.items()})
    print(f"{rule:<18}{rounds:>7}{worst:>15.2g}{tolerance:>11.0e}   {where}")
    if not rounds:
        fail(f"{rule}: not one round compared")
    for fault, difference in seen.items():
        print(f"{'':<18}{'fault':>7}{difference:>15.2g}{'':>11}   {fault}")
        if not difference > 10 * tolerance:
            fail(f"{rule}: a fault went unseen: {fault}: {difference:.3g}")
    if rule == "dp":
        check_noise(noise, fail)


def main():
    binary = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bazel-bin/tests/golden/rules/apply_rule").resolve()
    started, failures, cases = time.monotonic(), [], all_cases()
    registered = subprocess.run([binary, "--rules"], check=True, capture_output=True, text=True).stdout.split()
    for rule in sorted(set(registered) ^ set(TOLERANCE)):
        failures.append(f"{rule}: {'no reference for it' if rule in registered else 'not registered'}")
    still = [case for case in cases if case.rule == "dp"]
    unchanged = {id(case): found for case, (_, found) in zip(still, apply(binary, [without_change(case) for case in still]))}
    outcomes = [(case, *outcome, unchanged.get(id(case))) for case, outcome in zip(cases, apply(binary, cases))]
    print(f"{'rule':<18}{'rounds':>7}{'largest error':>15}{'tolerance':>11}   where, or which fault")
    for rule in (rule for rule in TOLERANCE if rule in registered):
        compare_rule(rule, [outcome for outcome in outcomes if outcome[0].rule == rule], failures.append)
    compare_encodings(outcomes, failures.append)
    print(f"{time.monotonic() - started:.1f} s, {time.process_time():.1f} s of them on the CPU")
    for failure in failures:
        print("FAILED", failure)
    if failures:
        sys.exit(f"rules_parity: FAILED: {len(failures)}")
    print("rules_parity: passed")


if __name__ == "__main__":
    main()
