"""The cases of rules_parity.py, by rule."""

from cohorts import NUMBERS, make

ENCODINGS = ["bf16", "f16", "int8", "int4", "topk"]

# Of 40 clients; the noise is that of the seed, and the same whatever the updates are.
DP = {"clients": 40, "delta": 1e-3, "noise_multiplier": 0.01, "epsilon_budget": 1e6, "noise": "seeded", "for_tests": True}

# rule: configs, of which the first sees everything.
CONFIGS = {
    "fedavg": [{}, {"weights": {"by": "uniform"}}, {"weights": {"max_examples": 50}}],
    "fedprox": [{"mu": 0.1}],
    "scaffold": [{"clients": 20}, {"clients": 7, "server_rate": 0.5}],
    "fedopt": [
        {},
        {"optimizer": "yogi", "learning_rate": 0.1},
        {"optimizer": "adagrad", "beta1": 0},
        {"optimizer": "momentum", "learning_rate": 1, "beta1": 0.8},
        {"rule": {"name": "ffa_lora"}, "beta2": 0.9, "tau": 0.1},
    ],
    "ffa_lora": [{}],
    "rolora": [{}],
    "lora_a2": [{"budget": 3}, {"budget": 1}],
    "fedsa_lora": [{}, {"head": "shared"}],
    "fed_sb": [{}],
    "fedsvd": [{}],
    "lora_fair": [
        {"objective": "least_squares"},
        {"objective": "least_squares", "lambda": 0},
        {"objective": "least_squares", "lambda": 3, "weights": {"by": "uniform"}},
        {},
        {"max_steps": 10000},
        {"max_steps": 10000, "lambda": 0},
        {"max_steps": 10000, "lambda": 0.001},
    ],
    "fedex_lora": [{}, {"residual_rank": 2}, {"weights": {"by": "uniform"}}],
    "flora": [{}],
    "flexlora": [{}, {"split": "sqrt"}],
    "hetlora": [{}],
    "median": [{"allow_unpaired_factors": True}, {"rule": {"name": "ffa_lora"}}],
    "trimmed_mean": [{"allow_unpaired_factors": True}, {"rule": {"name": "rolora"}, "beta": 0.4}],
    "krum": [{}, {"m": 3}, {"distance": "product"}, {"rule": {"name": "fedsvd"}, "m": 2}],
    "geometric_median": [{"tolerance": 0, "iterations": 10000}],
    "dp": [
        DP | {"clip_norm": 1.5},
        DP | {"clip_norm": 1e4},
        DP | {"clip_norm": 0.7, "weights": {"by": "bounded", "max_examples": 150}},
        DP | {"clip_norm": 2, "rule": {"name": "ffa_lora"}},
    ],
    "norm_bound": [{}, {"max_norm": 4}, {"rule": {"name": "ffa_lora"}, "max_norm": 2}],
}
MIXED = ["flora", "flexlora", "hetlora"]
POISSON = {"selection": {"rule": "poisson", "rate": 0.2}, "round": {"min_updates": 0}, "stop": {"rounds": 5}}
SGD = {"training": {"optimizer": "sgd", "learning_rate": 0.1, "steps": 4}}


def jobs_own(rule):
    return {"scaffold": SGD, "krum": {"round": {"min_updates": 5}}, "dp": POISSON}.get(rule, {})


def all_cases():
    cases = []
    for rule, configs in CONFIGS.items():
        own = jobs_own(rule)
        layout = "fixed" if rule == "fed_sb" else "small"
        for config in configs:
            for numbers in NUMBERS:
                if rule == "krum" and numbers == "one_client":
                    continue  # needs 2 f + 3 updates
                cases.append(make(rule, config, layout, numbers, **own))
            cases.append(make(rule, config, layout, rounds=4, clients=6, seed=2, **own))
            if layout == "small":
                cases.append(make(rule, config, "wide", clients=6, seed=3, **own))
                cases.append(make(rule, config, "square", seed=4, **own))
                if rule != "fedsvd" and config.get("rule") != {"name": "fedsvd"}:  # which refuse ranks over the inputs
                    cases.append(make(rule, config, "thin", seed=5, **own))
            if rule in MIXED:
                cases.append(make(rule, config, layout, ranks=[1, 3, 2, 0, 1], seed=6, **own))
                cases.append(make(rule, config, layout, rounds=2, ranks=[1, 2, 1, 2, 2], seed=6, **own))
                cases.append(make(rule, config, "wide", ranks=[1, 2, 4, 0, 8], seed=7, **own))
        for values in ENCODINGS:
            cases.append(make(rule, configs[0], layout, seed=8, encoding={"values": values, "density": 0.3}, **own))
    for rule in ["fedavg", "fedprox", "scaffold", "fedopt", "median", "trimmed_mean", "krum", "geometric_median", "norm_bound"]:
        cases.append(make(rule, CONFIGS[rule][0], "plain", seed=9, **jobs_own(rule)))
    cases.append(make("dp", DP | {"clip_norm": 1.5, "noise_multiplier": 1}, "wide", rounds=3, clients=6, seed=10, **POISSON))
    cases.append(make("dp", DP | {"clip_norm": 1.5}, "plain", seed=11, selection={"rule": "all"}, stop={"rounds": 5}))
    return cases
