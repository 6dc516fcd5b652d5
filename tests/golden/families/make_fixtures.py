"""Small random bases of every family, made by transformers itself.

    .venv/bin/python tests/golden/families/make_fixtures.py FOLDER [name ...]

Each becomes FOLDER/<name>, as save_pretrained writes it. Weights are seeded by the name, and large enough that each part of a network shows in
its outputs: norms lie around 1, biases are no zeros.
"""

import dataclasses
import json
import pathlib
import sys
import zlib

import torch
import transformers
from safetensors.torch import load_file, save_file

TEXT = {"vocab_size": 97, "initializer_range": 0.05}
ENCODER = TEXT | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 56, "max_position_embeddings": 66}
DECODER = ENCODER | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = DECODER | {"num_key_value_heads": 2, "rms_norm_eps": 1e-5}
WIDE = GROUPED | {"head_dim": 16, "max_position_embeddings": 128}  # heads wide enough for frequencies of each band
GPT2 = TEXT | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 66, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DISTILBERT = TEXT | {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 56, "max_position_embeddings": 66}
VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 56, "image_size": 24, "patch_size": 8}


@dataclasses.dataclass(frozen=True)
class Fixture:
    family: str  # of the classes: "Llama"
    kind: str  # "Model", "ForCausalLM": what is saved
    config: dict
    dtype: torch.dtype = torch.float32
    shards: bool = False  # in several files with an index
    older: bool = False  # as transformers 4 and before wrote it: config.json, buffers among the tensors, names of norms


def rope(kind, theta=10000.0, **parameters):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta} | parameters}


FIXTURES = {
    "bert": Fixture("Bert", "ForPreTraining", ENCODER | {"layer_norm_eps": 1e-6}),
    "bert_bare": Fixture("Bert", "Model", ENCODER | {"hidden_act": "gelu_new", "type_vocab_size": 1}),
    "bert_older": Fixture("Bert", "ForMaskedLM", ENCODER, older=True),
    "bert_classifier": Fixture("Bert", "ForSequenceClassification", ENCODER | {"num_labels": 5}),
    "roberta": Fixture("Roberta", "ForMaskedLM", ENCODER | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "roberta_bare": Fixture("Roberta", "Model", ENCODER | {"pad_token_id": 0}),
    "roberta_classifier": Fixture("Roberta", "ForSequenceClassification", ENCODER | {"num_labels": 5}),
    "distilbert": Fixture("DistilBert", "ForMaskedLM", DISTILBERT),
    "distilbert_bare": Fixture("DistilBert", "Model", DISTILBERT | {"activation": "relu", "sinusoidal_pos_embds": True}),
    "distilbert_classifier": Fixture("DistilBert", "ForSequenceClassification", DISTILBERT | {"num_labels": 5}),
    "llama": Fixture("Llama", "ForCausalLM", GROUPED),
    "llama_tied": Fixture("Llama", "ForCausalLM", GROUPED | {"tie_word_embeddings": True}),
    "llama_biases": Fixture("Llama", "ForCausalLM", DECODER | {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama_bare": Fixture("Llama", "Model", DECODER | {"num_key_value_heads": 1}),
    "llama_llama3": Fixture("Llama", "ForCausalLM", WIDE | rope(
        "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
    "llama_linear": Fixture("Llama", "ForCausalLM", WIDE | rope("linear", factor=4.0), older=True),
    "llama_yarn": Fixture("Llama", "ForCausalLM", WIDE | rope("yarn", theta=500.0, factor=4.0, original_max_position_embeddings=32)),
    "llama_yarn_mscale": Fixture("Llama", "ForCausalLM", WIDE | rope(
        "yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5, mscale=0.7, mscale_all_dim=0.5)),
    "llama_fp16": Fixture("Llama", "ForCausalLM", GROUPED, dtype=torch.float16, shards=True),
    "mistral": Fixture("Mistral", "ForCausalLM", GROUPED | {"sliding_window": 5}),
    "mistral_full": Fixture("Mistral", "ForCausalLM", GROUPED | {"sliding_window": None, "head_dim": 10}),
    "qwen2": Fixture("Qwen2", "ForCausalLM", GROUPED | {"tie_word_embeddings": True} | rope("default", theta=1e6)),
    "qwen2_window": Fixture("Qwen2", "ForCausalLM", GROUPED | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}),
    "qwen2_bf16": Fixture("Qwen2", "ForCausalLM", GROUPED, dtype=torch.bfloat16, shards=True),
    "qwen3": Fixture("Qwen3", "ForCausalLM", GROUPED | {"head_dim": 12} | rope("default", theta=1e6)),
    "qwen3_biases": Fixture("Qwen3", "ForCausalLM", GROUPED | {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "gpt2": Fixture("GPT2", "LMHeadModel", GPT2),
    "gpt2_bare": Fixture("GPT2", "Model", GPT2 | {"n_inner": 56, "activation_function": "relu", "layer_norm_epsilon": 1e-6}, older=True),
    "gpt2_untied": Fixture("GPT2", "LMHeadModel", GPT2 | {"tie_word_embeddings": False}),
    "vit": Fixture("ViT", "Model", VIT | {"layer_norm_eps": 1e-6}),
    "vit_classifier": Fixture("ViT", "ForImageClassification", VIT | {"num_labels": 5, "qkv_bias": False, "num_channels": 1}),
}


def make_model(name):
    fixture = FIXTURES[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    config = getattr(transformers, fixture.family + "Config")(**fixture.config)
    model = getattr(transformers, fixture.family + fixture.kind)(config).eval()
    with torch.no_grad():
        for tensor, parameter in model.named_parameters():
            if tensor.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif parameter.dim() == 1:
                parameter.normal_(1, 0.2)
            else:
                parameter.normal_(0, 0.3 if "embed" in tensor or "wte" in tensor else 0.15)
    return model.to(fixture.dtype)


def write_older_config(path):
    """Rotary positions in "rope_theta" and "rope_scaling", the kind in "type"."""
    config = json.loads(path.read_text())
    if scaling := config.pop("rope_parameters", None):
        config["rope_theta"] = scaling.pop("rope_theta")
        scaling["type"] = scaling.pop("rope_type")
        config["rope_scaling"] = scaling
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def write_older_tensors(path, fixture):
    """With buffers that were saved once; BERT's norms in TensorFlow's names."""
    tensors = load_file(path)
    layers = range(fixture.config.get("num_hidden_layers") or fixture.config["n_layer"])
    if fixture.family == "Bert":
        for theirs, ours in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            tensors = {name.replace(theirs, ours): tensor for name, tensor in tensors.items()}
        tensors["bert.embeddings.position_ids"] = torch.arange(fixture.config["max_position_embeddings"]).unsqueeze(0)
    if fixture.family == "GPT2":
        size = fixture.config["n_positions"]
        for i in layers:
            tensors[f"h.{i}.attn.bias"] = torch.ones(size, size).tril().view(1, 1, size, size)
            tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    if fixture.family == "Llama":
        for i in layers:
            tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(fixture.config["head_dim"] // 2)
    save_file(tensors, path, metadata={"format": "pt"})


def make(name, folder):
    """Writes one fixture to `folder`/<name> and returns that path."""
    fixture, target = FIXTURES[name], pathlib.Path(folder) / name
    model = make_model(name)
    model.save_pretrained(target, **({"max_shard_size": "40KB"} if fixture.shards else {}))
    if fixture.shards and len(list(target.glob("*.safetensors"))) < 2:
        sys.exit(f"make_fixtures: {name} is in one file, expected several")
    if fixture.older:
        write_older_config(target / "config.json")
        write_older_tensors(target / "model.safetensors", fixture)
    return target


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = sys.argv[2:] or list(FIXTURES)
    if unknown := set(names) - set(FIXTURES):
        sys.exit(f"make_fixtures: no fixture {', '.join(sorted(unknown))}; known: {', '.join(FIXTURES)}")
    for name in names:
        print(make(name, sys.argv[1]))


if __name__ == "__main__":
    main()
