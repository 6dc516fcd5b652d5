"""Greedy generation beside transformers, token by token, with adapters that peft saved.

    .venv/bin/python tests/golden/generate_parity.py [path of weft-generate]

Over small random language models (families/make_fixtures.py), of rotary and of learned positions, with a window and without: the base alone, with LoRA,
with prompt tuning. An adapter that is off must give other tokens, and a stop token must end the text.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import peft
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent / "families"))
import make_fixtures  # noqa: E402

FIXTURES = {"llama": ["q_proj", "v_proj", "down_proj"], "qwen3": ["k_proj", "o_proj", "gate_proj"], "mistral": ["q_proj", "k_proj", "up_proj"],
            "gpt2": ["c_attn", "c_fc"]}
NEW_TOKENS = 40
PROMPT = 4  # tokens of prompt tuning


def prompts(vocabulary):
    random = np.random.default_rng(5)
    return [random.integers(3, vocabulary, length).tolist() for length in (1, 2, 7, 13, 22)]


def reference(model, prompt, stop=None):
    """The new tokens, the stop token among them."""
    options = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": stop, "pad_token_id": 0}
    ids = torch.tensor([prompt])
    if getattr(model, "active_peft_config", None) is None or not model.active_peft_config.is_prompt_learning:
        return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt):].tolist()
    # Not peft's generate: with transformers 5 it gives other tokens than the same model's forward from the second one on.
    embeddings = torch.cat([model.get_prompt(1), model.get_input_embeddings()(ids)], 1)
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
    return model.get_base_model().generate(inputs_embeds=embeddings, attention_mask=mask, **options)[0].tolist()


def generate(binary, base, prompts, *options):
    """Likewise of every prompt."""
    command = [binary, "--base", base, "--max-new-tokens", str(NEW_TOKENS), "--device", "cpu", "--threads", "1", *map(str, options)]
    lines = "".join(" ".join(map(str, prompt)) + "\n" for prompt in prompts)
    output = subprocess.run(command, input=lines, check=True, capture_output=True, text=True).stdout
    return [list(map(int, line.split())) for line in output.splitlines()]


def with_adapter(base, kind, targets):
    """The model with a random adapter."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    if kind == "none":
        return model
    if kind == "lora":
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out="c_attn" in targets)
    else:
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PROMPT)
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.2 if kind == "lora" else 0.5)
    return model


def save_off(model, folder):
    """The adapter, a little off."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.2)
    model.save_pretrained(folder)


def main():
    binary = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "bazel-bin/training/generate/weft-generate").resolve()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    failures = 0

    def check(what, good):
        nonlocal failures
        if not good:
            failures += 1
            print(f"{what}: FAILED")

    with tempfile.TemporaryDirectory() as scratch:
        for name, targets in FIXTURES.items():
            base = make_fixtures.make(name, scratch)
            texts = prompts(make_fixtures.FIXTURES[name].config["vocab_size"])
            for kind in ("none", "lora", "prompt"):
                what = f"{name} {kind}"
                model = with_adapter(base, kind, targets)
                folder, off = pathlib.Path(scratch) / f"{name}-{kind}", pathlib.Path(scratch) / f"{name}-{kind}-off"
                options = []
                if kind != "none":
                    model.save_pretrained(folder)
                    options = ["--adapter", folder]
                expected = [reference(model, text) for text in texts]
                found = generate(binary, base, texts, *options)
                for text, ours, theirs in zip(texts, found, expected):
                    same = next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), len(theirs))
                    check(f"{what}: prompt of {len(text)}: the first {same} tokens of {len(theirs)} are the same", ours == theirs)
                check(f"{what}: {len(found)} texts of {len(texts)}", len(found) == len(texts))
                # A token that some text has in the middle ends it, and is its last.
                stop = expected[-1][5]
                stopped = [reference(model, text, stop) for text in texts]
                check(f"{what}: stops at {stop}", generate(binary, base, texts, *options, "--stop", stop) == stopped)
                check(f"{what}: stops early", len(stopped[-1]) <= 6 and stopped[-1][-1] == stop)
                if kind != "none":
                    save_off(model, off)
                    check(f"{what}: an adapter that is off shows", generate(binary, base, texts, "--adapter", off) != expected)
                distinct = len({token for text in expected for token in text})
                print(f"{what}: texts={len(texts)} tokens={sum(map(len, expected))} distinct={distinct}", flush=True)
    if failures:
        sys.exit(f"generate_parity: FAILED: {failures}")
    print("generate_parity: passed")


if __name__ == "__main__":
    main()
