"""What each rule asks of the clients of a round, and the state that its first round starts from. As reference.py."""

import numpy as np

from reference import A_NAME, B_NAME, modules, product, svd_checks, tensor


def sent_roles(rule, number, config, roles):
    """The roles that clients send in round `number`, of the adapter's roles."""
    left_out = {
        "ffa_lora": ["lora_a"],
        "fedsvd": ["lora_a"],
        "rolora": ["lora_a" if number % 2 else "lora_b"],
        "lora_a2": ["lora_a" if number % 2 else "lora_b"],
        "fedsa_lora": ["lora_b"] + (["head"] if config.get("head", "local") == "local" else []),
    }
    if "rule" in config:
        return sent_roles(config["rule"].get("name", "fedavg"), number, config["rule"].get("config", {}), roles)
    return [role for role in roles if role not in left_out.get(rule, []) and not role.startswith("fixed.")]


def client_half(rule, number, config, roles):
    """What the plan of round `number` must ask of a client: its fields by name, none of which is at its default otherwise."""
    sent = sent_roles(rule, number, config, roles)
    plan = {"roles_trained": sent, "roles_sent": sent}
    if rule == "fedprox":
        plan["proximal_mu"] = config.get("mu", 0.01)
    if rule == "scaffold":
        plan |= {"roles_sent": sent + ["control." + role for role in sent], "control_variates": True}
    if rule == "lora_a2":
        plan["keep_components"] = str(config["budget"])
        if "lora_b" in sent:
            plan["learning_rate_scale"] = {"lora_b": config.get("rate_ratio", 5)}
    if rule == "fedsa_lora":
        plan |= {"roles_trained": roles, "roles_local": [role for role in roles if role not in sent]}
    if rule in ("fedex_lora", "flora") and number > 1:
        plan["base_residual"] = True
    if rule == "flora" and number > 1:
        plan["reinitialise"] = ["lora_a", "lora_b"]
    if rule == "hetlora":
        plan["rank_pruning"] = {"lambda": config.get("lambda", 0.001), "gamma": config.get("gamma", 0.99)}
    if "rule" in config:
        plan = client_half(config["rule"]["name"], number, config["rule"].get("config", {}), roles)
    if rule == "dp":
        plan["clip_update_norm"] = config["clip_norm"]
    return plan


def initial_checks(rule, adapter, roles, config):
    """The state before round 1, from the job's adapter."""
    inner = config.get("rule", {}).get("name", rule)
    checks = [tensor(n, w) for n, w in adapter.items() if inner != "fedsvd" or not n.endswith((A_NAME, B_NAME))]
    trainable = [n for n in adapter if not roles[n].startswith("fixed.")]
    if inner == "fedsvd":  # orthonormal from the start
        for m in modules(adapter):
            checks += svd_checks(m, product(adapter, m), len(adapter[m + A_NAME]), np.linalg.norm(product(adapter, m)), "b")
    if rule == "scaffold":
        checks += [tensor("control." + n, np.zeros_like(adapter[n])) for n in trainable]
    if rule == "fedopt":
        checks += [tensor("server.m." + n, np.zeros_like(adapter[n])) for n in trainable]
        if config.get("optimizer", "adam") != "momentum":
            checks += [tensor("server.v." + n, np.full_like(adapter[n], config.get("tau", 1e-3) ** 2)) for n in trainable]
    return checks
