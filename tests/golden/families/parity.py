"""The trainer's transformer beside transformers + peft over small random bases of every family: same outputs, same gradients, per tensor.

    .venv/bin/python tests/golden/families/parity.py [path of model_logits] [fixture ...]

Every base of make_fixtures.py, with each task it does: LoRA on all linear modules as peft has it (patterns and rsLoRA among them); prompt tuning as
peft has it; SSF and VPT written here in plain torch. Rows are of unequal length, beyond windows and original positions where a base has such; the
reference pads them. One pass holds a cohort: an adapter, another one of other values (and rank), and the first one a little off, which must show.
bf16 is held against the fp32 reference. Prints the largest difference of each kind for each base, and fails where one is over its tolerance or where
an adapter that is off is not.
"""

import collections
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings
import zlib

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.pytorch_utils import Conv1D

import make_fixtures

LABELS = 7
ROWS = 5
PROMPT = 3
TEMPERATURE = 0.2
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
# Of a tensor's norm, or of a hundredth of the adapter's largest where that is more: some gradients cancel to nothing (the shift of keys). Measured: fp32
# outputs 8e-7 apart, gradients 7e-6; bf16 0.02 and 0.1, gradients 0.25 where relu bends between the two.
OUTPUTS, GRADIENTS = 5e-6, 3e-5
BF16_OUTPUTS, BF16_GRADIENTS, BF16_BENT_GRADIENTS = 0.04, 0.15, 0.5
FLOOR = 1e-2
# Layers computed again give the same outputs to the bit, gradients 5e-6 apart: where norms come after, two terms of a gradient are added in another order.
AGAIN = 2e-5
FAULT, BF16_FAULT = 0.001, 1  # of values, at random, of the adapters that are off

TASKS = {
    "sequence_classification": transformers.AutoModelForSequenceClassification,
    "image_classification": transformers.AutoModelForImageClassification,
    "causal_lm": transformers.AutoModelForCausalLM,
    "sentence_embedding": transformers.AutoModel,
}
HEADS = ("classifier", "pre_classifier", "score")
PREFIXES = {"bert": "bert.", "roberta": "roberta.", "distilbert": "distilbert.", "gpt2": "transformer.", "vit": "vit."}
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
# One base of each family for what is the same in all of them; and those whose attention is special.
CHOSEN = ("bert", "roberta", "distilbert", "llama_biases", "llama_yarn", "mistral", "qwen2_bf16", "qwen3", "gpt2", "vit", "vit_classifier")
RSLORA = ("bert", "llama_tied", "gpt2_untied", "vit_classifier")
PATTERNS = {"bert_bare": ("query", "output.dense"), "qwen2": ("q_proj", "down_proj"), "gpt2_bare": ("c_attn", "mlp.c_proj")}
ALL_LINEAR = ("llama", "gpt2")  # where the job says it with that word
POOLING = {"bert_older": "first", "roberta_classifier": "first", "llama_linear": "last", "qwen3": "last"}  # else the mean
# No head of the adapter's: the base's own is used, frozen.
HEADLESS = ("bert_classifier", "roberta_classifier", "distilbert_classifier")
# Tasks whose weights a checkpoint lacks: they must be refused.
LACKING = {("bert_older", "sequence_classification"): "pooler", ("llama_bare", "causal_lm"): "lm_head"}


@dataclasses.dataclass
class Case:
    fixture: str
    task: str
    form: str  # "lora", "prompt", "ssf", "vpt", "vpt_deep"
    head: bool

    @property
    def family(self):
        return self.fixture.split("_")[0]

    @property
    def name(self):
        return f"{self.fixture}/{self.task}/{self.form}"

    @property
    def prompt(self):
        return PROMPT if self.form in ("prompt", "vpt", "vpt_deep") else 0


def is_bent(case):
    return "relu" in make_fixtures.FIXTURES[case.fixture].config.values()


class Rows:
    """What a case trains on: as a shard, and as the reference reads it."""

    def __init__(self, case, config):
        self.case = case
        random = np.random.default_rng(zlib.crc32(f"{case.fixture} {case.task}".encode()))
        num_labels = LABELS if case.head else config.num_labels
        self.labels = random.integers(0, num_labels, ROWS).astype(np.int32)
        self.num_labels = num_labels
        if case.task == "image_classification":
            size, channels = config.image_size, config.num_channels
            self.pixels = random.integers(0, 256, (ROWS, channels, size, size)).astype(np.uint8)
            return
        most = config.max_position_embeddings - PROMPT - (2 if case.family == "roberta" else 0)
        lengths = [7, most, 2, min(most, 20), 13]
        texts = lengths if case.task != "sentence_embedding" else [n for pair in zip(lengths, [5, 9, 4, 17, most]) for n in pair]
        # From 3 on: padding, beginning and end are no tokens of a text.
        self.texts = [random.integers(3, config.vocab_size, n).astype(np.int32) for n in texts]
        self.learn = [(random.random(n) < 0.6).astype(np.uint8) for n in texts]
        for learn in self.learn:
            learn[-1] = 1

    def save(self, path):
        task, metadata = self.case.task, None
        if task == "image_classification":
            tensors = {"pixels": self.pixels, "labels": self.labels}
            channels = self.pixels.shape[1]
            metadata = {f"image_{k}": ",".join(map(str, v[:channels])) for k, v in (("mean", MEAN), ("std", STD))}
        else:
            tensors = {"input_ids": np.concatenate(self.texts), "row_offsets": np.cumsum([0, *map(len, self.texts)]).astype(np.int64)}
            if task == "causal_lm":
                tensors["learn"] = np.concatenate(self.learn)
            if task == "sequence_classification":
                tensors["labels"] = self.labels
        save_file(tensors, path, metadata=metadata)

    def padded(self, rows):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(self.texts[i]).long() for i in rows], batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(self.texts[i])).long() for i in rows], batch_first=True)
        return {"input_ids": ids, "attention_mask": mask}

    def values(self):
        """[rows, channels, size, size], normalised."""
        channels = self.pixels.shape[1]
        mean, std = (torch.tensor(v[:channels]).view(1, -1, 1, 1) for v in (MEAN, STD))
        return (torch.tensor(self.pixels).float() / 255 - mean) / std


def is_linear(module):
    return isinstance(module, (torch.nn.Linear, Conv1D))


def is_norm(module):
    return isinstance(module, torch.nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")


def body_modules(model, task, wanted):
    """Names of the base's modules of a kind that a task reads through, without heads."""
    others = (*HEADS, "lm_head") + (("pooler",) if task == "sentence_embedding" else ())
    return [name for name, module in model.named_modules() if wanted(module) and not any(part in others for part in name.split("."))]


class Reference:
    """A task model with an adapter, in fp32 and evaluation mode."""

    def __init__(self, case, folder):
        self.case = case
        kwargs = {"num_labels": LABELS, "ignore_mismatched_sizes": True} if case.head else {}
        self.base = TASKS[case.task].from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **kwargs).eval()
        self.base.requires_grad_(False)
        self.model, self.config = self.base, self.base.config
        self.rank = 0  # of LoRA, the smallest of all modules
        # Names of a layout have the prefix even where the bare model is used itself.
        self.prefix = PREFIXES.get(case.family, "model.") if case.task == "sentence_embedding" else ""
        self.parameters = getattr(self, "attach_" + case.form.split("_")[0])()
        self.rows = Rows(case, self.config)

    def heads(self):
        return [name for name in HEADS if case_has(self.base, name)] if self.case.head else []

    def head_parameters(self):
        """Where peft does not keep them."""
        found = {}
        for head in self.heads():
            for name, parameter in getattr(self.base, head).named_parameters():
                found[f"{head}.{name}"] = parameter.requires_grad_(True)
        return found

    def attach_lora(self):
        case = self.case
        modules = body_modules(self.base, case.task, is_linear)
        config = {"r": 4, "lora_alpha": 6, "target_modules": modules, "fan_in_fan_out": case.family == "gpt2"}
        config["use_rslora"] = case.fixture in RSLORA
        self.form = {"rank": 4, "alpha": 6, "target_modules": [self.prefix + name for name in modules]}
        if case.fixture in ALL_LINEAR:
            self.form["target_modules"] = ["all-linear"]
        if config["use_rslora"]:
            self.form["use_rslora"] = True
        self.rank = 4
        if case.fixture in PATTERNS:
            first, second = PATTERNS[case.fixture]
            patterns = {"rank_pattern": {first: 6, second: 3}, "alpha_pattern": {first: 5}}
            self.form |= patterns
            config |= patterns
            self.rank = 3
        self.model = peft.get_peft_model(self.base, peft.LoraConfig(modules_to_save=self.heads() or None, **config)).eval()
        return {self.prefix + plain(name): p for name, p in self.model.named_parameters() if p.requires_grad}

    def attach_prompt(self):
        kind = {"sequence_classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM", "sentence_embedding": "FEATURE_EXTRACTION"}[self.case.task]
        self.form = {"tokens": PROMPT}
        config = peft.PromptTuningConfig(task_type=kind, num_virtual_tokens=PROMPT, token_dim=self.config.hidden_size,
                                         num_layers=self.config.num_hidden_layers, num_attention_heads=self.config.num_attention_heads)
        self.model = peft.get_peft_model(self.base, config).eval()
        parameters = {plain(name): p for name, p in self.model.named_parameters() if p.requires_grad}
        return {"prompt_embeddings" if name.startswith("prompt_encoder.") else name: p for name, p in parameters.items()}

    def attach_ssf(self):
        modules = body_modules(self.base, self.case.task, lambda m: is_linear(m) or is_norm(m) or isinstance(m, torch.nn.Conv2d))
        modules = [name for name in modules if not name.endswith(("q_norm", "k_norm"))]
        self.form = {"target_modules": [self.prefix + name for name in modules]}
        parameters = {}
        for name in modules:
            module = self.base.get_submodule(name)
            width = module.nf if isinstance(module, Conv1D) else module.weight.shape[0]
            scale, shift = (torch.nn.Parameter(torch.zeros(width)) for _ in range(2))
            parameters |= {f"{self.prefix}{name}.ssf_scale": scale, f"{self.prefix}{name}.ssf_shift": shift}
            shape = (1, -1, 1, 1) if isinstance(module, torch.nn.Conv2d) else (-1,)
            module.register_forward_hook(lambda _, __, out, g=scale, b=shift, s=shape: out * g.view(s) + b.view(s))
        return parameters | self.head_parameters()

    def attach_vpt(self):
        layers, deep = self.base.vit.layers, self.case.form == "vpt_deep"
        self.form = {"tokens": PROMPT, "deep": deep}
        width = self.config.hidden_size
        parameters = {"prompt_embeddings": torch.nn.Parameter(torch.zeros(PROMPT, width))}
        if deep:
            parameters["deep_prompt_embeddings"] = torch.nn.Parameter(torch.zeros(len(layers) - 1, PROMPT, width))

        def put(layer):
            def hook(_, args, kwargs):
                x, *others = args
                own = parameters["prompt_embeddings"] if layer == 0 else parameters["deep_prompt_embeddings"][layer - 1]
                rest = x[:, 1 if layer == 0 else 1 + PROMPT:]
                return (torch.cat([x[:, :1], own.expand(len(x), -1, -1), rest], 1), *others), kwargs
            return hook

        for i, layer in enumerate(layers if deep else layers[:1]):
            layer.register_forward_pre_hook(put(i), with_kwargs=True)
        return parameters | self.head_parameters()

    def random_values(self, seed, rank=0):
        """By name; beyond `rank` factors are zero."""
        random = np.random.default_rng(seed)
        values = {}
        for name, parameter in self.parameters.items():
            shape = parameter.shape
            if "lora" in name or name.split(".")[0] in HEADS:
                # Far from the bend of relu behind pre_classifier.
                value = random.normal(0, 0.1 if "lora" in name else 3 if name == "pre_classifier.bias" else 0.2, shape)
            elif name.endswith("prompt_embeddings"):
                value = random.normal(0, 0.5, shape)
            else:
                value = random.normal(1 if name.endswith("scale") else 0, 0.2, shape)
            if rank and ".lora_A." in name:
                value[rank:] = 0
            if rank and ".lora_B." in name:
                value[:, rank:] = 0
            values[name] = np.ascontiguousarray(value, np.float32)
        return values

    def run(self, values):
        """Outputs, and gradients of the mean loss by name."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(values[name]))
                parameter.grad = None
        outputs, loss = getattr(self, self.case.task)()
        loss.backward()
        return outputs.detach().numpy(), {name: p.grad.numpy().copy() for name, p in self.parameters.items()}

    def sequence_classification(self):
        # transformers finds a decoder's last token by the ids, which are not there behind a prompt of peft's: row by row then.
        single = self.case.prompt and self.case.family in DECODERS
        batches = [[i] for i in range(ROWS)] if single else [list(range(ROWS))]
        logits = torch.cat([self.model(**self.rows.padded(rows)).logits for rows in batches])
        return logits, torch.nn.functional.cross_entropy(logits, torch.tensor(self.rows.labels).long())

    def image_classification(self):
        logits = self.model(pixel_values=self.rows.values()).logits
        return logits, torch.nn.functional.cross_entropy(logits, torch.tensor(self.rows.labels).long())

    def causal_lm(self):
        batch = self.rows.padded(range(ROWS))
        learn = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in self.rows.learn], batch_first=True)
        labels = torch.where(learn == 1, batch["input_ids"], -100)
        output = self.model(**batch, labels=labels)
        prompt = self.case.prompt
        places = [(i, prompt + j - 1) for i, row in enumerate(self.rows.learn) for j in np.flatnonzero(row) if prompt + j > 0]
        return torch.stack([output.logits[place] for place in places]), output.loss

    def sentence_embedding(self):
        batch = self.rows.padded(range(2 * ROWS))
        hidden = self.model(**batch).last_hidden_state
        mask = torch.cat([torch.ones(2 * ROWS, self.case.prompt), batch["attention_mask"]], 1)
        pooling = POOLING.get(self.case.fixture, "mean")
        if pooling == "mean":
            embeddings = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        else:
            embeddings = hidden[torch.arange(2 * ROWS), 0 if pooling == "first" else mask.sum(1).long() - 1]
        first, second = (torch.nn.functional.normalize(embeddings[k::2], dim=-1) for k in range(2))
        return embeddings, torch.nn.functional.cross_entropy(first @ second.T / TEMPERATURE, torch.arange(ROWS))


def case_has(model, name):
    return getattr(model, name, None) is not None


def plain(name):
    """A parameter of peft as a layout names it."""
    for part in ("base_model.model.", "base_model.", ".default", ".modules_to_save"):
        name = name.replace(part, "")
    return name


class Helper:
    """model_logits, which takes runs by a line each."""

    def __init__(self, path):
        self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(self, *words):
        """"ok", or what went wrong."""
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip() or "model_logits ended"


def split_members(out, count):
    """(outputs, gradients by name) of each adapter."""
    members = [{} for _ in range(count)]
    for name, tensor in out.items():
        number, _, rest = name.partition(".")
        if number.isdigit():
            members[int(number)][rest] = tensor
        else:
            members[0][name] = tensor
    return [(member.pop("outputs"), member) for member in members]


def off(values, size):
    random = np.random.default_rng(3)
    return {name: (value * (1 + size * random.normal(0, 1, value.shape))).astype(np.float32) for name, value in values.items()}


def differences(found, expected):
    """Of outputs and of gradients, and where the latter is."""
    if found[1].keys() != expected[1].keys():
        sys.exit(f"parity: tensors differ: {sorted(found[1].keys() ^ expected[1].keys())}")
    if found[0].shape != expected[0].shape:
        sys.exit(f"parity: outputs are of {found[0].shape}, expected {expected[0].shape}")
    norm = np.linalg.norm
    outputs = float(norm(found[0] - expected[0]) / norm(expected[0]))
    floor = FLOOR * max(float(norm(gradient)) for gradient in expected[1].values())
    worst = max((float(norm(found[1][n] - e)) / max(float(norm(e)), floor), n) for n, e in expected[1].items())
    return outputs, *worst


def cut(gradients, rank):
    """Gradients of a member that uses `rank` components."""
    if not rank:
        return gradients
    return {name: g[:rank] if ".lora_A." in name else g[:, :rank] if ".lora_B." in name else g for name, g in gradients.items()}


def run_case(helper, case, reference, base, scratch, report):
    """`report` gets (kind, outputs' difference, gradients', within?, where)."""
    folder = pathlib.Path(scratch)
    task = {"type": case.task, "embedding": {"temperature": TEMPERATURE, "pooling": POOLING.get(case.fixture, "mean")}}
    if case.task.endswith("classification"):
        task["labels"] = [f"label {i}" for i in range(reference.rows.num_labels)]
    form = {"vpt": "prompt", "vpt_deep": "prompt"}.get(case.form, case.form)
    job = {"job_id": "parity", "adapter": {"form": form, "config": reference.form, "head": case.head}, "task": task}
    (folder / "job.json").write_text(json.dumps(job))
    reference.rows.save(folder / "shard.safetensors")
    rank = max(reference.rank - 2, 0)
    values = reference.random_values(1)
    members = [values, reference.random_values(2, rank)]
    members += [off(values, size) for size in (FAULT, BF16_FAULT)]
    words = []
    for k, member in enumerate(members):
        save_file(member, folder / f"{k}.safetensors")
        words.append(f"{folder}/{k}.safetensors" + (f"@{rank}" if k == 1 and rank else ""))
    expected = [reference.run(member) for member in members[:2]]
    expected[1] = expected[1][0], cut(expected[1][1], rank)
    if lacking := LACKING.get((case.fixture, case.task)):
        answer = helper.answer(base, folder / "job.json", folder / "shard.safetensors", folder / "out", "f32", *words)
        if lacking not in answer:
            sys.exit(f"parity: {case.name}: found \"{answer}\", expected a refusal that names {lacking}")
        return

    def run(compute):
        answer = helper.answer(base, folder / "job.json", folder / "shard.safetensors", folder / "out", compute, *words)
        if answer != "ok":
            sys.exit(f"parity: {case.name}: {answer}")
        return split_members(load_file(folder / "out"), len(members))

    f32 = run("f32")
    report("f32", differences(f32[0], expected[0]), (OUTPUTS, GRADIENTS))
    report("f32", differences(f32[1], expected[1]), (OUTPUTS, GRADIENTS))
    report("f32", differences(f32[2], expected[0]), (OUTPUTS, GRADIENTS), within=False)
    bf16, tolerances = run("bf16"), (BF16_OUTPUTS, BF16_BENT_GRADIENTS if is_bent(case) else BF16_GRADIENTS)
    report("bf16", differences(bf16[0], expected[0]), tolerances)
    report("bf16", differences(bf16[1], expected[1]), tolerances)
    report("bf16", differences(bf16[3], expected[0]), tolerances, within=False)
    again = run("checkpointed")
    report("again", differences(again[0], f32[0]), (0, AGAIN))
    report("again", differences(again[1], f32[1]), (0, AGAIN))
    report("again", differences(again[2], f32[0]), (0, AGAIN), within=False)


def tasks_of(name):
    family, kind = name.split("_")[0], make_fixtures.FIXTURES[name].kind
    if family == "vit":
        return ["image_classification"]
    return ["sequence_classification", "sentence_embedding"] + (["causal_lm"] if family in DECODERS else [])


def cases_of(name):
    for task in tasks_of(name):
        head = task.endswith("classification") and name not in HEADLESS
        forms = ["lora"]
        if name in CHOSEN:
            forms += ["ssf", *(["vpt", "vpt_deep"] if task == "image_classification" else ["prompt"])]
        yield from (Case(name, task, form, head) for form in forms)


def main():
    helper = Helper(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bazel-bin/training/model_logits").resolve())
    names = sys.argv[2:] or list(make_fixtures.FIXTURES)
    warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
    torch.set_num_threads(1)  # of networks this small several are slower
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failures = []
    columns = [(store, kind, what) for store in range(2) for kind in ("f32", "bf16") for what in ("outputs", "gradients")] + [(0, "again", "gradients")]
    print(f"{'':22}{'cases':>6}{'at most':^36}{'where off, at least':^36}{'again':^9}")
    print(f"{'':28}" + f"{'f32':^18}{'bf16':^18}" * 2)
    for name in names:
        most, least, count = collections.defaultdict(float), collections.defaultdict(lambda: float("inf")), 0
        with tempfile.TemporaryDirectory() as scratch:
            base = make_fixtures.make(name, scratch)
            for case in cases_of(name):
                count += 1
                reference = Reference(case, base)

                def report(kind, found, tolerances, within=True):
                    for what, value, tolerance in zip(("outputs", "gradients"), found, tolerances):
                        if within:
                            most[kind, what] = max(most[kind, what], value)
                        else:
                            least[kind, what] = min(least[kind, what], value)
                        if (value <= tolerance) != within:
                            failures.append(f"{case.name}: {kind} {what} differ by {value:.3g} ({found[2]}), "
                                            f"expected {'at most' if within else 'more than'} {tolerance:.3g}")

                run_case(helper, case, reference, base, scratch, report)
        numbers = [(most, least)[store][kind, what] for store, kind, what in columns]
        print(f"{name:22}{count:6}" + "".join(f"{number:9.1e}" for number in numbers), flush=True)
    for text in failures:
        print(f"FAILED {text}")
    if failures:
        sys.exit(f"parity: FAILED: {len(failures)}")
    print("parity: passed")


if __name__ == "__main__":
    main()
