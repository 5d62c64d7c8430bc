"""A model of a released one's shape with random weights: what a model costs does not depend on what it knows.

job: {"out", "shape", "tokenizer_of"}; the vocabulary is the released one's, the tokenizer another's, whose ids are within it.
"""
import json
import os
import shutil
import sys

os.environ.update(HF_HUB_OFFLINE="1")

import torch
from transformers import AutoConfig, AutoModelForCausalLM

# Sizes that differ from the defaults of transformers 5.23's configuration classes.
SHAPES = {
    "qwen3.5-0.8b": ("qwen3_5_text", dict(
        hidden_size=1024, intermediate_size=3584, num_hidden_layers=24, num_attention_heads=8, num_key_value_heads=2,
        linear_num_value_heads=16, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25))),
    "qwen3-moe-0.9b": ("qwen3_moe", dict(
        hidden_size=1024, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=4, head_dim=64, num_experts=32,
        num_experts_per_tok=4, moe_intermediate_size=768, vocab_size=50000, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "lfm2-350m": ("lfm2", dict(
        hidden_size=1024, intermediate_size=6656, num_hidden_layers=16, num_attention_heads=16, num_key_value_heads=8,
        full_attn_idxs=[2, 5, 8, 10, 12, 14],
        rope_parameters=dict(rope_type="default", rope_theta=1e6))),
}

with open(sys.argv[1]) as f:
    JOB = json.load(f)
kind, sizes = SHAPES[JOB["shape"]]
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).to(torch.bfloat16)
model.save_pretrained(JOB["out"])
for file in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(os.path.join(JOB["tokenizer_of"], file), JOB["out"])
with open(os.path.join(JOB["out"], "results.json"), "w") as f:
    json.dump({"parameters": model.num_parameters()}, f)
