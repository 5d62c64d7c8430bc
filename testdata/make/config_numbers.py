"""What transformers computes for configurations that say a thing twice, leave a thing out, or say what its code does not read:
the loss of each, or that it refuses.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    python testdata/make/config_numbers.py testdata/golden

Nothing is downloaded: the models are those of `golden/models`, with keys of their config.json set or removed and, in some cases,
a head that is the embedding (`equal`) or the embedding moved by one row (`other`). Takes a minute on one core.
"""
import json
import os
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from losses import loss, rows

ROPE = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 16,
        "short_factor": [1.1] * 8, "long_factor": [1.3] * 8}
KINDS = ["sliding_attention", "full_attention"]
NESTED = {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}}


def case(model, name, remove=(), head=None, **keys):
    return {"model": model, "name": name, "set": keys, "remove": list(remove), "head": head}


CASES = [
    # Embedding and head.
    case("llama_tied", "tied, another head", head="other"),
    case("llama_tied", "tied, the same head", head="equal"),
    case("llama3_rope", "said to be tied, with the head it has", tie_word_embeddings=True),
    case("gemma2", "tied by default, another head", ["tie_word_embeddings"], "other"),
    case("smollm3", "tied by default, another head", ["tie_word_embeddings"], "other"),
    case("starcoder2", "tied by default, another head", ["tie_word_embeddings"], "other"),
    case("qwen2", "tied, another head", head="other", tie_word_embeddings=True),
    # One rotation said in two places.
    case("llama_tied", "rope_scaling beside rope_parameters", rope_scaling=ROPE),
    case("llama_tied", "rope_scaling and rope_theta beside rope_parameters", rope_scaling=ROPE, rope_theta=777.0),
    case("llama3_rope", "rope_scaling beside another scaling", rope_scaling=ROPE),
    case("llama_tied", "an empty rope_scaling", rope_scaling={}),
    case("llama_tied", "rope_theta beside rope_parameters", rope_theta=777.0),
    case("gemma3_text", "rope_scaling over the layers without a window", rope_scaling=ROPE),
    case("gemma3_text", "rope_theta beside kinds without one", rope_parameters=NESTED, rope_theta=5000.0),
    case("gemma3_text", "local base beside kinds without one", rope_parameters=NESTED, rope_local_base_freq=77.0),
    case("gemma3_text", "old keys", ["rope_parameters"], rope_theta=5000.0, rope_local_base_freq=77.0),
    case("qwen2", "values for kinds of layers", rope_parameters=NESTED),
    # A part of the heads.
    *[case(model, "partial_rotary_factor", partial_rotary_factor=0.5)
      for model in ("llama_tied", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "smollm3", "olmo2", "granite", "stablelm",
                    "starcoder2", "mixtral", "qwen3_moe")],
    case("llama3_rope", "partial_rotary_factor with a scaling", partial_rotary_factor=0.5),
    case("gemma3_text", "partial_rotary_factor with a scaling", partial_rotary_factor=0.5),
    # Kinds of scaling by family.
    case("llama_tied", "yarn with factors that it does not have", rope_parameters=YARN),
    case("llama_tied", "su", rope_parameters={**YARN, "rope_type": "su"}),
    case("phi3", "linear", rope_parameters={**ROPE, "rope_theta": 10000.0}),
    case("phi3_short", "without the context of the pre-training", ["original_max_position_embeddings"]),
    case("mixtral", "without a rotary base", ["rope_parameters"]),
    # Windows.
    *[case(model, "layers with and without a window", layer_types=KINDS, sliding_window=4)
      for model in ("llama_tied", "mistral", "gemma2", "gemma3_text", "phi3", "starcoder2", "mixtral")],
    *[case(model, "layers with and without a window in use", layer_types=KINDS, sliding_window=4, use_sliding_window=True)
      for model in ("qwen2", "qwen3", "qwen3_moe")],
    case("qwen3_moe", "a window from a layer on", ["layer_types"], sliding_window=4, use_sliding_window=True,
         max_window_layers=1),
    case("qwen2", "a window of 0 that is not in use", sliding_window=0),
    case("qwen2", "layers with a window that is not in use", layer_types=KINDS, sliding_window=4),
    case("mistral", "layers with a window of no size", layer_types=KINDS, sliding_window=None),
    case("gemma3_text", "the usual window", ["sliding_window"]),
    # Constants under another family's key, or of another family.
    case("stablelm", "rms_norm_eps", rms_norm_eps=0.1),
    case("starcoder2", "rms_norm_eps", rms_norm_eps=0.1),
    case("starcoder2", "layer_norm_eps", layer_norm_eps=0.1),
    case("llama_tied", "layer_norm_eps", layer_norm_eps=0.1),
    *[case(model, "without an epsilon", [key]) for model, key in (
        ("llama_tied", "rms_norm_eps"), ("phi3", "rms_norm_eps"), ("olmo2", "rms_norm_eps"), ("mixtral", "rms_norm_eps"),
        ("stablelm", "layer_norm_eps"), ("starcoder2", "norm_epsilon"), ("granite", "rms_norm_eps"))],
    case("llama_tied", "hidden_activation", hidden_activation="gelu_pytorch_tanh"),
    case("gemma2", "hidden_act", hidden_act="silu"),
    case("gemma2", "without caps", ["attn_logit_softcapping", "final_logit_softcapping"]),
    case("gemma2", "caps taken away", attn_logit_softcapping=None, final_logit_softcapping=None),
    case("gemma3_text", "a cap on the scores", attn_logit_softcapping=0.2),
    case("gemma3_text", "a cap on the logits", final_logit_softcapping=0.7),
    case("llama_tied", "granite's factors", attention_multiplier=0.3, logits_scaling=3.0, embedding_multiplier=2.0,
         residual_multiplier=0.5),
    case("granite", "other factors", attention_multiplier=0.3, logits_scaling=3.0, embedding_multiplier=2.0,
         residual_multiplier=0.5),
    case("qwen3_moe", "without the width of heads", ["head_dim"]),
]


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def main(golden):
    for one in CASES:
        with tempfile.TemporaryDirectory() as folder:
            folder = os.path.join(folder, "model")
            shutil.copytree(os.path.join(golden, "models", one["model"], "model"), folder)
            path = os.path.join(folder, "config.json")
            config = json.load(open(path))
            for key in one["remove"]:
                config.pop(key, None)
            config.update(one["set"])
            json.dump(config, open(path, "w"))
            if one["head"]:
                path = os.path.join(folder, "model.safetensors")
                tensors = load_file(path)
                table = tensors["model.embed_tokens.weight"]
                tensors["lm_head.weight"] = table.clone() if one["head"] == "equal" else table.roll(1, 0)
                save_file(tensors, path, metadata={"format": "pt"})
            try:
                one["loss"] = loss(load(folder))
            except Exception as e:
                one["loss"] = None
                print(one["model"], one["name"], type(e).__name__, str(e)[:100])
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    text = {"versions": versions, "rows": rows(), "cases": CASES}
    json.dump(text, open(os.path.join(golden, "config_numbers.json"), "w"), indent=1)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(sys.argv[1])
