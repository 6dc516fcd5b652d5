"""What DescribeBase reads from a config.json, beside the model that transformers makes of it.

    .venv/bin/python tests/golden/families/describe_check.py [path of describe_base]

Over small random bases of every family (make_fixtures.py): each tensor of a checkpoint is read, with its shape, or passed over on purpose; each
module of a description is one of the task model in memory, with the values that lie under its stored name, and the other way round; activation,
norms, rotary frequencies and windows are those of the model. Descriptions that are off in one place must be found out.
"""

import copy
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

import make_fixtures

LABELS = 7
TASKS = {
    "sequence_classification": transformers.AutoModelForSequenceClassification,
    "image_classification": transformers.AutoModelForImageClassification,
    "causal_lm": transformers.AutoModelForCausalLM,
    "sentence_embedding": transformers.AutoModel,
}
ACTIVATIONS = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "tanh": torch.tanh,
}


def describe(helper, config):
    return json.loads(subprocess.run([helper, config], check=True, capture_output=True, text=True).stdout)


def plain_name(name):
    """Norms that came from TensorFlow have other names for their two tensors."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def described_tensors(base):
    """Shape of each tensor that a checkpoint of a task model has, by name; and names of those that some tasks need."""
    tensors, optional = dict(base["transformer"]["tensors"]), set()
    for linear in base["linears"]:
        shape = [linear["out_features"], linear["in_features"]]
        tensors[linear["place"] + ".weight"] = shape[::-1] if linear["stored_transposed"] else shape
        if linear["bias"]:
            tensors[linear["place"] + ".bias"] = shape[:1]
    for norm in base["norms"]:
        tensors[norm["place"] + ".weight"] = [norm["width"]]
        if norm["bias"]:
            tensors[norm["place"] + ".bias"] = [norm["width"]]
    for task in base["tasks"].values():
        if task["pooler"] >= 0:
            place = base["linears"][task["pooler"]]["place"]
            optional |= {place + ".weight", place + ".bias"}
    if base["transformer"]["lm_head"]:
        optional.add(base["transformer"]["lm_head"] + ".weight")
    return tensors, optional


def check_checkpoint(base, stored):
    """Each tensor of the checkpoint is read or ignored; none is missing."""
    prefix, problems = base["prefix"], []
    if not any(name.startswith(prefix) for name in stored):
        stored = {name if name.startswith("lm_head.") else prefix + name: tensor for name, tensor in stored.items()}
    tensors, optional = described_tensors(base)
    for name, tensor in stored.items():
        ignored = any(name.startswith(beginning) for beginning in base["transformer"]["ignored"])
        if (name in tensors) == ignored:
            problems.append(f"{name} is {'both read and ignored' if ignored else 'neither read nor ignored'}")
        if name in tensors and list(tensor.shape) != tensors[name]:
            problems.append(f"{name} has shape {list(tensor.shape)}, described as {tensors[name]}")
    problems += [f"{name} is described but not there" for name in sorted(tensors.keys() - stored.keys() - optional)]
    return problems


def is_norm(module):
    return isinstance(module, torch.nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")


def check_modules(base, task, model, stored):
    """Modules of the description are those of the task model, with the stored values."""
    problems, modules = [], dict(model.named_modules())
    cut = "" if task["prefixed"] else base["prefix"]
    transformer, found = base["transformer"], set()
    bare = not any(name.startswith(base["prefix"]) for name in stored)

    def module_of(name):
        name = name.removeprefix(cut)
        found.add(name)
        if name not in modules:
            problems.append(f"no module {name}")
        return modules.get(name)

    def same_values(place, module):
        place = place.removeprefix(base["prefix"]) if bare else place
        for part, value in module.named_parameters():
            if f"{place}.{part}" in stored and not torch.equal(value, stored[f"{place}.{part}"]):
                problems.append(f"{place}.{part} has other values in memory")

    poolers = {base["linears"][t["pooler"]]["name"] for t in base["tasks"].values() if t["pooler"] >= 0}
    for linear in base["linears"] + [h | {"place": h["name"], "stored_transposed": False} for h in task["head"]]:
        module = module_of(linear["name"])
        if module is None:
            continue
        shape = [linear["out_features"] or LABELS, linear["in_features"]]
        kind = Conv1D if linear["stored_transposed"] else torch.nn.Linear
        if not isinstance(module, kind) or list(module.weight.shape) != (shape[::-1] if kind is Conv1D else shape):
            problems.append(f"{linear['name']} is {module}, described as {shape}")
        if (module.bias is not None) != linear["bias"]:
            problems.append(f"{linear['name']}: bias differs")
        if linear["name"] not in {head["name"] for head in task["head"]}:
            same_values(linear["place"], module)
    for norm in base["norms"]:
        module = module_of(norm["name"])
        if module is None:
            continue
        epsilon = getattr(module, "eps", None) or getattr(module, "variance_epsilon", None)
        if not is_norm(module) or list(module.weight.shape) != [norm["width"]] or hasattr(module, "bias") != norm["bias"]:
            problems.append(f"{norm['name']} is {module}")
        if type(module).__name__.endswith("RMSNorm") != transformer["rms_norm"] or epsilon != transformer["norm_epsilon"]:
            problems.append(f"{norm['name']}: kind or epsilon differs")
        same_values(norm["place"], module)
    for name, module in modules.items():
        passed_over = "lm_head" in name or name.removeprefix(base["prefix"]) == "pooler.dense" and not poolers
        if (isinstance(module, (torch.nn.Linear, Conv1D)) or is_norm(module)) and name not in found and not passed_over:
            problems.append(f"module {name} is not described")
    return problems


def frequencies(rotary):
    """Of a description, as the comments in adapters/transformer.h say."""
    dim = rotary["rotated"]
    plain = [rotary["theta"] ** (-2 * i / dim) for i in range(dim // 2)]
    if rotary["scaling"] == "none":
        return plain
    if rotary["scaling"] == "linear":
        return [f / rotary["factor"] for f in plain]
    length, result = rotary["original_max_positions"], []
    if rotary["scaling"] == "llama3":
        for f in plain:
            turns = length * f / (2 * math.pi)
            low, high = rotary["low_frequency_factor"], rotary["high_frequency_factor"]
            smooth = min(max((turns - low) / (high - low), 0), 1)
            result.append((1 - smooth) * f / rotary["factor"] + smooth * f)
        return result

    def dimension(turns):
        return dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(rotary["theta"]))

    low = max(math.floor(dimension(rotary["beta_fast"])), 0)
    high = min(math.ceil(dimension(rotary["beta_slow"])), dim - 1)
    for i, f in enumerate(plain):
        ramp = min(max((i - low) / ((high - low) or 0.001), 0), 1)
        result.append(f / rotary["factor"] * ramp + f * (1 - ramp))
    return result


def check_choices(base, model):
    transformer, config, problems = base["transformer"], model.config, []

    def expect(what, found, expected):
        if found != expected:
            problems.append(f"{what} is {found}, of the model {expected}")

    name = getattr(config, "hidden_act", None) or getattr(config, "activation", None) or config.activation_function
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    difference = (ACTIVATIONS[transformer["activation"]](x) - transformers.activations.ACT2FN[name](x)).abs().max().item()
    if difference > 1e-9:
        problems.append(f"activation {transformer['activation']} differs from {name} by {difference}")
    embeddings = getattr(model, "embeddings", None)
    expect("heads", transformer["heads"], config.num_attention_heads)
    expect("first_position", transformer["first_position"], config.pad_token_id + 1 if base["model_type"] == "roberta" else 0)
    if base["model_type"] == "vit":
        expect("max_positions", transformer["max_positions"], embeddings.position_embeddings.shape[1])
    else:
        expect("max_positions", transformer["max_positions"], config.max_position_embeddings - transformer["first_position"])
    expect("causal", transformer["causal"], base["model_type"] in ("llama", "mistral", "qwen2", "qwen3", "gpt2"))
    expect("norm_first", transformer["norm_first"], base["model_type"] not in ("bert", "roberta", "distilbert"))
    windowed = base["model_type"] == "mistral" or "sliding_attention" in (getattr(config, "layer_types", None) or [])
    expect("sliding_window", transformer["sliding_window"], (windowed and config.sliding_window) or 0)
    expect("initializer_range", base["initializer_range"], config.initializer_range)
    rotary = transformer["rotary"]
    if rotary is not None:
        found, expected = torch.tensor(frequencies(rotary), dtype=torch.float64), model.rotary_emb.inv_freq.double()
        if found.shape != expected.shape or ((found - expected).abs() / expected).max().item() > 1e-6:
            problems.append(f"rotary frequencies are {found}, of the model {expected}")
        if abs(rotary["attention_factor"] - model.rotary_emb.attention_scaling) > 1e-9:
            problems.append(f"attention_factor is {rotary['attention_factor']}, of the model {model.rotary_emb.attention_scaling}")
    elif hasattr(model, "rotary_emb"):
        problems.append("the model has rotary positions")
    return problems


def task_model(name, task, folder):
    kwargs = {"num_labels": LABELS, "ignore_mismatched_sizes": True} if task.endswith("classification") else {}
    return TASKS[task].from_pretrained(folder, dtype=make_fixtures.FIXTURES[name].dtype, **kwargs).eval()


def check_fixture(name, base, folder, stored):
    problems = check_checkpoint(base, stored)
    for task, description in base["tasks"].items():
        problems += [f"{task}: {text}" for text in check_modules(base, description, task_model(name, task, folder), stored)]
    bare = transformers.AutoModel.from_pretrained(folder, dtype=make_fixtures.FIXTURES[name].dtype)
    return problems + check_choices(base, bare)


def faults(base):
    """Descriptions that are off in one place."""
    for change in (
        lambda b: b["linears"].pop(),
        lambda b: b["linears"][0].update(out_features=b["linears"][0]["out_features"] + 1),
        lambda b: b["linears"][0].update(bias=not b["linears"][0]["bias"]),
        lambda b: b["norms"][-1].update(name="elsewhere"),
        lambda b: b["norms"][0].update(place=b["norms"][-1]["place"]),
        lambda b: b["linears"][1].update(place=b["linears"][2]["place"]),
        lambda b: b["transformer"].update(norm_epsilon=0.5),
        lambda b: b["transformer"].update(activation="tanh"),
        lambda b: b["transformer"]["rotary"].update(theta=b["transformer"]["rotary"]["theta"] * 1.001),
        lambda b: b["transformer"].update(ignored=["model."]),
    ):
        faulty = copy.deepcopy(base)
        change(faulty)
        yield faulty


def main():
    built = "bazel-bin/adapters/describe_base"
    helper = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else built).resolve()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in make_fixtures.FIXTURES:
            folder = make_fixtures.make(name, scratch)
            stored = {}
            for file in sorted(folder.glob("*.safetensors")):
                stored |= {plain_name(tensor): value for tensor, value in load_file(file).items()}
            base = describe(helper, folder / "config.json")
            problems = check_fixture(name, base, folder, stored)
            print(f"{name}: linears={len(base['linears'])} norms={len(base['norms'])} tasks={len(base['tasks'])} "
                  f"tensors={len(stored)} {'FAILED' if problems else 'ok'}")
            for text in problems:
                print(f"  {text}")
            failures += bool(problems)
            if name == "llama":
                for number, faulty in enumerate(faults(base)):
                    if not check_fixture(name, faulty, folder, stored):
                        print(f"fault {number} of {name} was not found: FAILED")
                        failures += 1
    if failures:
        sys.exit(f"describe_check: FAILED: {failures}")
    print("describe_check: passed")


if __name__ == "__main__":
    main()
