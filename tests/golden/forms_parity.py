"""Adapters between peft and Weft's folders, and merged bases opened by transformers.

    .venv/bin/python tests/golden/forms_parity.py [path of peft_roundtrip] [path of weft]

Over small random bases (families/make_fixtures.py): an adapter of random values saved by peft is read, written again, and opened by peft: the same
outputs to the bit, with patterns, rsLoRA, all-linear, heads of several modules, prompts. A base into which `weft merge` has merged the adapter gives
the outputs of peft within rounding; SSF, which peft does not have, those of a model whose modules are scaled and shifted by hooks. Adapters that are
off by a little must show.
"""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).parent / "families"))
import make_fixtures  # noqa: E402

LABELS = 3
# Largest difference of an output over the largest output, by the dtype of the base; all is computed in fp32. Measured 3.4e-6; of bf16 and
# fp16, to which merged weights are rounded once, 4.9e-3 and 2.0e-3.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 6e-3}
OFF = {torch.float32: 1.01, torch.bfloat16: 1.5, torch.float16: 1.2}  # factors of adapters that must show

CLASSIFICATION, CAUSAL, EMBEDDING, IMAGES = "SEQ_CLS", "CAUSAL_LM", "FEATURE_EXTRACTION", None
CLASSES = {CLASSIFICATION: transformers.AutoModelForSequenceClassification, CAUSAL: transformers.AutoModelForCausalLM,
           EMBEDDING: transformers.AutoModel, IMAGES: transformers.AutoModelForImageClassification}


@dataclasses.dataclass(frozen=True)
class Case:
    base: str
    task: str
    config: dict
    form: str = "LORA"


def lora(*targets, **more):
    return {"r": 3, "lora_alpha": 5, "target_modules": list(targets)} | more


CASES = [
    Case("bert", CLASSIFICATION, lora("query", "value")),
    Case("bert_bare", CLASSIFICATION, lora("dense", use_rslora=True)),
    Case("bert_bare", EMBEDDING, lora("query", "encoder.layer.1.attention.self.key", rank_pattern={"encoder.layer.2.*query": 5})),
    Case("bert_older", EMBEDDING, lora("query", "output.dense")),
    Case("roberta", CLASSIFICATION, lora("query", "value", rank_pattern={"layer.0.*query": 2}, alpha_pattern={"value": 7})),
    Case("distilbert", CLASSIFICATION, lora("q_lin", "v_lin", modules_to_save=["pre_classifier"])),
    Case("llama", CAUSAL, lora("q_proj", "down_proj", use_rslora=True, rank_pattern={"down_proj": 4}, alpha_pattern={"layers.[01].*q_proj": 9})),
    Case("llama_tied", CLASSIFICATION, {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"}),
    Case("llama_fp16", CAUSAL, lora("q_proj", "v_proj")),
    Case("qwen2_bf16", CAUSAL, lora("q_proj", "up_proj")),
    Case("gpt2", CAUSAL, lora("c_attn", "c_proj", fan_in_fan_out=True)),
    Case("gpt2_bare", CLASSIFICATION, lora("c_attn", fan_in_fan_out=True)),
    Case("vit", IMAGES, lora("q_proj", "fc1", modules_to_save=["classifier"])),
    Case("vit_classifier", IMAGES, lora("v_proj", modules_to_save=["classifier"])),
    Case("bert", CLASSIFICATION, {"num_virtual_tokens": 4}, "PROMPT_TUNING"),
    Case("llama", CAUSAL, {"num_virtual_tokens": 4}, "PROMPT_TUNING"),
]
SSF = [("bert", CLASSIFICATION), ("bert_older", EMBEDDING), ("gpt2", CAUSAL), ("vit", IMAGES), ("vit_classifier", IMAGES)]


def open_base(folder, task):
    labels = {"num_labels": LABELS, "ignore_mismatched_sizes": True} if task in (CLASSIFICATION, IMAGES) else {}
    model = CLASSES[task].from_pretrained(folder, dtype=torch.float32, **labels).eval()
    if task == CLASSIFICATION:
        model.config.pad_token_id = 0
    return model


@torch.no_grad()
def outputs(model, config, task):
    torch.manual_seed(3)
    if task is IMAGES:
        inputs = {"pixel_values": torch.randn(4, getattr(config, "num_channels", 3), config.image_size, config.image_size)}
    else:
        ids = torch.randint(3, config.vocab_size, (4, 9))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    result = model(**inputs)
    return (result.last_hidden_state if task is EMBEDDING else result.logits).float()


def difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def randomise(folder):
    """Every tensor of an adapter's file: B starts at zero, which would hide everything."""
    path = folder / "adapter_model.safetensors"
    generator = torch.Generator().manual_seed(5)
    tensors = {name: torch.randn(tensor.shape, generator=generator) * 0.3 for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def scaled(folder, target, ending, factor):
    """A copy of an adapter in which tensors with that ending are multiplied."""
    target.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "adapter_model.safetensors")
    hit = [name for name in tensors if name.endswith(ending)]
    assert hit, (ending, list(tensors))
    save_file({name: tensor * (factor if name in hit else 1) for name, tensor in tensors.items()},
              target / "adapter_model.safetensors", metadata={"format": "pt"})
    return target


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"forms_parity: FAILED: {' '.join(map(str, words))}: {done.stderr or done.stdout}")


def lacking(base, task):
    """What the base itself does not hold for the task."""
    return set(CLASSES[task].from_pretrained(base, output_loading_info=True)[1]["missing_keys"])


def merged_outputs(weft, base, adapter, out, case_task):
    """Of the folder alone, as its own config says: no number of labels is given here."""
    run(weft, "merge", "--base", base, "--adapter", adapter, "--out", out)
    model, info = CLASSES[case_task].from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    missing = {name for name in info["missing_keys"] if not (name.startswith("pooler.") and name in lacking(base, case_task))}
    if missing or info["mismatched_keys"]:
        sys.exit(f"forms_parity: FAILED: {out}: missing {missing}, mismatched {info['mismatched_keys']}")
    if case_task == CLASSIFICATION:
        model.config.pad_token_id = 0
    return outputs(model.eval(), model.config, case_task)


def peft_outputs(base, folder, task):
    model = open_base(base, task)
    return outputs(peft.PeftModel.from_pretrained(model, folder).eval(), model.config, task)


def check_lora_and_prompt(case, base, scratch, roundtrip, weft):
    torch.manual_seed(1)
    kind = peft.LoraConfig if case.form == "LORA" else peft.PromptTuningConfig
    config = dict(case.config)
    if case.form == "PROMPT_TUNING":
        config["task_type"] = case.task
    elif case.task is not None:
        config["task_type"] = case.task
    dtype = make_fixtures.FIXTURES[case.base].dtype
    peft.get_peft_model(open_base(base, case.task), kind(**config)).save_pretrained(scratch / "peft")
    randomise(scratch / "peft")
    expected = peft_outputs(base, scratch / "peft", case.task)

    run(roundtrip, base, scratch / "peft", scratch / "ours")
    theirs, ours = load_file(scratch / "peft/adapter_model.safetensors"), load_file(scratch / "ours/adapter_model.safetensors")
    if theirs.keys() != ours.keys() or any(not torch.equal(theirs[name], ours[name]) for name in theirs):
        sys.exit(f"forms_parity: FAILED: {case.base}: other tensors after the round trip: {sorted(theirs.keys() ^ ours.keys())}")
    again = difference(peft_outputs(base, scratch / "ours", case.task), expected)
    # A config that says less than it should shows: the folder without its patterns and scaling, or with another alpha.
    config_path = scratch / "ours/adapter_config.json"
    text = json.loads(config_path.read_text())
    spoilt = None
    if case.form == "LORA":
        config_path.write_text(json.dumps(text | {"lora_alpha": text["lora_alpha"] * 2, "alpha_pattern": {}}))
        spoilt = difference(peft_outputs(base, scratch / "ours", case.task), expected)
        config_path.write_text(json.dumps(text))
        if spoilt < 1e-3:
            sys.exit(f"forms_parity: FAILED: {case.base}: another alpha does not show")
    if again != 0:
        sys.exit(f"forms_parity: FAILED: {case.base} {case.form}: outputs differ by {again} after the round trip")
    if case.form != "LORA":
        done = subprocess.run([weft, "merge", "--base", base, "--adapter", scratch / "ours", "--out", scratch / "merged"], capture_output=True, text=True)
        if done.returncode == 0 or "can't be merged" not in done.stderr:
            sys.exit(f"forms_parity: FAILED: {case.base}: a prompt was merged: {done.stderr}")
        print(f"{case.base:16} {case.form} {case.task}: same tensors, same outputs")
        return
    worst = max(difference(merged_outputs(weft, base, scratch / name, scratch / f"merged_{name}", case.task), expected) for name in ("peft", "ours"))
    off = scaled(scratch / "peft", scratch / "off", ".lora_B.weight", OFF[dtype])
    fault = difference(merged_outputs(weft, base, off, scratch / "merged_off", case.task), expected)
    report(case.base, case.form, case.task, dtype, worst, fault)


def report(base, form, task, dtype, found, fault):
    print(f"{base:16} {form} {task}: merged {found:.1e}, off {fault:.1e}")
    if not found <= TOLERANCE[dtype]:
        sys.exit(f"forms_parity: FAILED: {base} {form} {task}: merged outputs differ by {found}")
    if not fault > TOLERANCE[dtype]:
        sys.exit(f"forms_parity: FAILED: {base} {form} {task}: an adapter that is off differs by {fault} only")


def check_ssf(name, base, task, scratch, weft):
    """The folder is made here: every linear, norm and patch projection has its two tensors."""
    torch.manual_seed(1)
    model = open_base(base, task)
    kinds = (torch.nn.Linear, torch.nn.LayerNorm, transformers.pytorch_utils.Conv1D, torch.nn.Conv2d)
    heads = re.compile(r"(classifier|score|lm_head|cls)\b|vit\.pooler|.*predictions")
    tensors, hooks = {}, {}
    for path, module in model.named_modules():
        if not isinstance(module, kinds) or heads.match(path):
            continue
        width = module.bias.numel() if module.bias is not None else module.weight.shape[0]
        scale, shift = 1 + 0.2 * torch.randn(width), 0.2 * torch.randn(width)
        if module.bias is None:
            shift = torch.zeros(width)
        tensors |= {f"base_model.model.{path}.ssf_scale": scale, f"base_model.model.{path}.ssf_shift": shift}
        hooks[path] = (scale, shift)
    if task in (CLASSIFICATION, IMAGES):
        for parameter in ("weight", "bias"):
            tensors[f"base_model.model.classifier.{parameter}"] = torch.randn(getattr(model.classifier, parameter).shape)
    folder = scratch / "ssf"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    head = ["classifier"] if task in (CLASSIFICATION, IMAGES) else None
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "WEFT_SSF", "task_type": task, "target_modules": None, "modules_to_save": head}))
    with torch.no_grad():
        if head:
            model.classifier.weight.copy_(tensors["base_model.model.classifier.weight"])
            model.classifier.bias.copy_(tensors["base_model.model.classifier.bias"])

    def hook(scale, shift):
        def change(module, inputs, output):
            shape = (-1, 1, 1) if isinstance(module, torch.nn.Conv2d) else (-1,)
            return output * scale.view(shape) + shift.view(shape)
        return change

    for path, values in hooks.items():
        model.get_submodule(path).register_forward_hook(hook(*values))
    expected = outputs(model, model.config, task)
    found = difference(merged_outputs(weft, base, folder, scratch / "merged", task), expected)
    off = scaled(folder, scratch / "off", ".ssf_scale", 1.001)
    report(name, "SSF", task, torch.float32, found, difference(merged_outputs(weft, base, off, scratch / "merged_off", task), expected))


def main():
    roundtrip = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bazel-bin/adapters/peft_roundtrip").resolve()
    weft = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "bazel-bin/cli/weft").resolve()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        for i, case in enumerate(CASES):
            (root / str(i)).mkdir()
            check_lora_and_prompt(case, make_fixtures.make(case.base, root / str(i)), root / str(i), roundtrip, weft)
        for name, task in SSF:
            scratch = root / f"ssf_{name}"
            scratch.mkdir()
            check_ssf(name, make_fixtures.make(name, scratch), task, scratch, weft)
    print(f"forms_parity: {len(CASES)} adapters of peft and {len(SSF)} of SSF agree")


if __name__ == "__main__":
    main()
