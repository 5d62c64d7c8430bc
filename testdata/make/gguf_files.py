"""GGUF files of small random models of each architecture, in the layout of `golden/gguf`.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 gguf==0.19.0
    python testdata/make/gguf_files.py testdata/golden [NAME...]

Keys, names and changed values are those that llama.cpp's converter writes (architectures, tied heads, interleaved rows
of q and k, norms of Gemma plus one, stacked norms of heads, tables of long rope). Expected are the weights as the file
has them, under Hugging Face's names, and the logits that transformers computes with those weights. Nothing is
downloaded; configurations come from `golden/models`, made smaller where they are not small yet.
"""
import json
import math
import os
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from models import forward, mean, randomize, real, token_loss

SMALL = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1)
# Files do not state the scale of Gemma's scores: readers take the heads' width.
WIDTH = dict(query_pre_attn_scalar=32)

# name: (folder in golden/models, changes of its configuration)
CASES = {
    "qwen3": ("qwen3", SMALL),
    "gemma2": ("gemma2", {**SMALL, **WIDTH}),
    "gemma3": ("gemma3_text", WIDTH),
    "phi3_short": ("phi3_short", {}),
    "phi3_long": ("phi3_long", {}),
    # The readers' rule is one layer of four without a rotation.
    "smollm3": ("smollm3", dict(num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0], layer_types=4 * ["full_attention"])),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {}),
    "stablelm": ("stablelm", {}),
    "stablelm_parallel": ("stablelm_parallel", {}),
    "starcoder2": ("starcoder2", {}),
    "qwen2moe": ("qwen2_moe", dict(mlp_only_layers=[])),
    "qwen3moe": ("qwen3_moe", dict(mlp_only_layers=[])),
    # llama.cpp knows no grouped heads of OLMoE.
    "olmoe": ("olmoe", dict(num_key_value_heads=2)),
    "mixtral": ("mixtral", {}),
    "minimax-m2": ("minimax_m2", {}),
    # Files do not state the limit, which is 7 in both models.
    "gpt-oss": ("gpt_oss", dict(swiglu_limit=7.0)),
    "olmo3": ("olmo3", {}),
    "seed_oss": ("seed_oss", {}),
    "exaone4": ("exaone4", {}),
    "exaone4_full": ("exaone4", dict(sliding_window=None, layer_types=2 * ["full_attention"])),
    "ernie4_5": ("ernie4_5", dict(use_bias=False)),
    "hunyuan-dense": ("hunyuan_v1_dense", {}),
    "glm4": ("glm4", {}),
    "mistral3": ("ministral3", {}),
    # Heads narrower than a block of Q8_0, as those of released models are narrower than one of Q4_K; and as wide as one.
    "qwen35": ("qwen3_5", dict(linear_value_head_dim=16)),
    "qwen35_wide": ("qwen3_5", dict(linear_key_head_dim=32, linear_value_head_dim=32)),
    "qwen35moe": ("qwen3_5_moe", dict(attention_bias=False, linear_value_head_dim=16)),
    "lfm2": ("lfm2", dict(conv_bias=False, norm_eps=1e-3)),
}
ARCHITECTURES = {
    "gemma3_text": "gemma3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "mixtral": "llama", "minimax_m2": "minimax-m2",
    "gpt_oss": "gpt-oss", "olmo3": "olmo2", "hunyuan_v1_dense": "hunyuan-dense", "ministral3": "mistral3",
    "qwen3_5_text": "qwen35", "qwen3_5_moe_text": "qwen35moe",
}
ONE_PLUS = ("gemma2", "gemma3", "qwen35", "qwen35moe")
INTERLEAVED = ("llama", "smollm3", "granite", "mistral3")

def own_name(name, arch, layers):
    """The file's name of a tensor, by gguf-py's table of Hugging Face names."""
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    table = gguf.get_tensor_name_map(kind, layers)
    suffixes = (".weight", ".bias")
    whole = {"linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias", "self_attn.sinks": "attn_sinks.weight", "e_score_correction_bias": "exp_probs_b.bias"}
    for end, own in whole.items():
        if name.endswith(end):
            return f"blk.{name.split('.')[2]}.{own}"
    found = table.get_name(name, suffixes)
    assert found, name
    return found


def interleave(rows, heads):
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def apart(rows, heads):
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def storage(own, values):
    if values.ndim == 1 or any(part in own for part in ("norm", "gate_inp", ".conv.", "conv1d", ".bias")):
        return Type.F32
    if values.shape[-1] % 32 or "attn_v" in own:
        return Type.F16
    return Type.Q8_0


def keys(w, arch, c, ffn):
    state = c.to_dict()
    heads, width = c.num_attention_heads, getattr(c, "head_dim", None)
    rope = c.rope_parameters.get("full_attention", c.rope_parameters)
    if arch in INTERLEAVED:
        w.add_vocab_size(c.vocab_size)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(ffn or c.intermediate_size)
    w.add_head_count(heads)
    kv = c.num_key_value_heads
    w.add_head_count_kv([kv * (kind != "conv") for kind in c.layer_types] if arch == "lfm2" else kv)
    if arch == "hunyuan-dense":
        w.add_rope_freq_base(rope["rope_theta"] * rope["alpha"] ** (width / (width - 2)))
    elif arch not in ("gemma2", "stablelm"):
        w.add_rope_freq_base(rope["rope_theta"])
    if arch in ("stablelm", "starcoder2"):
        w.add_layer_norm_eps(c.layer_norm_eps if arch == "stablelm" else c.norm_epsilon)
    else:
        w.add_layer_norm_rms_eps(c.norm_eps if arch == "lfm2" else c.rms_norm_eps)
    if width:
        w.add_key_length(width)
        w.add_value_length(width)
    width = width or c.hidden_size // heads
    if arch in ("phi3", "stablelm", "glm4", "minimax-m2", "qwen35", "qwen35moe"):
        w.add_rope_dimension_count(int(rope["partial_rotary_factor"] * width))
    elif arch in INTERLEAVED:
        w.add_rope_dimension_count(width)
    if rope["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for key, add in (("beta_fast", w.add_rope_scaling_yarn_beta_fast), ("beta_slow", w.add_rope_scaling_yarn_beta_slow)):
            if rope.get(key) is not None:
                add(rope[key])
    if arch == "phi3":
        original = rope["original_max_position_embeddings"]
        scale = c.max_position_embeddings / original
        w.add_rope_scaling_orig_ctx_len(original)
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
        w.add_sliding_window(c.sliding_window or 0)
    # The converter leaves out that of StarCoder 2.
    if arch in ("gemma2", "gemma3", "starcoder2"):
        w.add_sliding_window(c.sliding_window)
    if arch == "gemma2":
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)
    if arch == "gemma3":
        w.add_rope_freq_base_swa(c.rope_parameters["sliding_attention"]["rope_theta"])
        w.add_sliding_window_pattern(1 + c.layer_types.index("full_attention"))
    if arch == "granite":
        w.add_attention_scale(c.attention_multiplier)
        w.add_embedding_scale(c.embedding_multiplier)
        w.add_residual_scale(c.residual_multiplier)
        w.add_logit_scale(c.logits_scaling)
    if arch in ("olmo2", "exaone4", "gpt-oss") and state.get("sliding_window"):
        w.add_sliding_window(c.sliding_window)
        # gpt-oss's converter leaves the pattern to the reader.
        if arch != "gpt-oss":
            w.add_sliding_window_pattern([kind == "sliding_attention" for kind in c.layer_types])
    if arch == "mistral3":
        w.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        w.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    if arch in ("qwen35", "qwen35moe"):
        w.add_ssm_conv_kernel(c.linear_conv_kernel_dim)
        w.add_ssm_state_size(c.linear_key_head_dim)
        w.add_ssm_group_count(c.linear_num_key_heads)
        w.add_ssm_time_step_rank(c.linear_num_value_heads)
        w.add_ssm_inner_size(c.linear_value_head_dim * c.linear_num_value_heads)
        w.add_full_attention_interval(1 + c.layer_types.index("full_attention"))
        dims = int(rope["partial_rotary_factor"] * width)
        w.add_rope_dimension_sections([dims // 2, 0, 0, 0])
    if arch == "lfm2":
        w.add_shortconv_l_cache(c.conv_L_cache)
    if count := state.get("num_local_experts") or state.get("num_experts"):
        w.add_expert_count(count)
        w.add_expert_used_count(c.num_experts_per_tok)
        if arch in ("qwen2moe", "qwen3moe", "qwen35moe"):
            w.add_expert_feed_forward_length(c.moe_intermediate_size)
        if arch in ("gpt-oss", "minimax-m2"):
            w.add_expert_feed_forward_length(c.intermediate_size)
        if arch in ("qwen2moe", "qwen35moe"):
            w.add_expert_shared_feed_forward_length(c.shared_expert_intermediate_size)
        if arch == "minimax-m2":
            w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == "stablelm":
        w.add_parallel_residual(c.use_parallel_residual)


def vocabulary(w, folder):
    tokenizer = json.load(open(os.path.join(folder, "tokenizer.json")))
    about = json.load(open(os.path.join(folder, "tokenizer_config.json")))
    vocab, added = tokenizer["model"]["vocab"], {t["content"] for t in tokenizer["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.CONTROL if t in added else gguf.TokenType.NORMAL for t in tokens])
    w.add_token_merges([" ".join(m) for m in tokenizer["model"]["merges"]])
    w.add_bos_token_id(vocab[about["bos_token"]])
    w.add_eos_token_id(vocab[about["eos_token"]])
    w.add_pad_token_id(vocab[about["pad_token"]])
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_chat_template(about["chat_template"])


def tensors(state, c, arch):
    """What the file gets, and the weights that it then has, under the names of folders; `state` is rounded in place."""
    for name in sorted(n for n in state if ".norms.0." in n):
        module = name.split(".norms.0.")[0]
        of = sorted((n for n in state if n.startswith(f"{module}.norms.")), key=lambda n: int(n.split(".")[-2]))
        stacked = torch.stack([state[n] for n in of])
        yield from rounded(f"{module}.weight", f"{module}.norms.*.weight", stacked, c, arch)
        for n, row in zip(of, stacked):
            state[n] = row
    for name, tensor in state.items():
        if ".norms." not in name:
            for own, ours, part in parts(name, tensor, arch):
                yield from rounded(own, ours, part, c, arch)


def rounded(name, ours, tensor, c, arch):
    heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}.get(name.split(".")[-2])
    heads = heads if arch in INTERLEAVED else None
    plus = 1.0 if arch in ONE_PLUS and name.endswith("norm.weight") and "linear_attn" not in name else 0.0
    decays = name.endswith("A_log")
    values = (-torch.exp(tensor) if decays else tensor + plus).numpy()
    values = interleave(values, heads) if heads else values
    order = value_heads(name, tensor, c) if "linear_attn." in name else None
    values = values if order is None else np.take(values, order, -1 if "out_proj" in name else 0)
    own = own_name(name, arch, c.num_hidden_layers)
    kind = storage(own, values)
    stored = gguf.quants.quantize(np.ascontiguousarray(values), kind)
    values = gguf.quants.dequantize(stored, kind).reshape(values.shape)
    if order is not None:
        values = np.take(values, np.argsort(order), -1 if "out_proj" in name else 0)
    values = torch.from_numpy((apart(values, heads) if heads else values) - np.float32(plus)).contiguous()
    values = torch.log(-values) if decays else values
    tensor.copy_(values)
    several = "*" in ours
    yield own, kind, stored, {ours.replace("*", str(i)): v.clone() for i, v in enumerate(values)} if several else {ours: values}


def value_heads(name, tensor, c):
    """Rows, or columns of the output, in the order of the file: the first value heads of all key heads, the second, ..."""
    groups, heads, width = c.linear_num_key_heads, c.linear_num_value_heads, c.linear_value_head_dim
    skip = 2 * groups * c.linear_key_head_dim if "in_proj_qkv" in name or "conv1d" in name else 0
    width = 1 if any(part in name for part in ("in_proj_a.", "in_proj_b.", "A_log", "dt_bias")) else width
    if name.endswith("norm.weight"):
        return None
    tiled = np.arange(heads * width).reshape(groups, heads // groups, width).swapaxes(0, 1).reshape(-1)
    return np.concatenate([np.arange(skip), skip + tiled])


def parts(name, tensor, arch):
    """A tensor or views of its parts, by the names of gguf-py's table and by ours; a `*` in ours stands for an expert."""
    numbered = arch in ("llama", "minimax-m2")
    layer, _, module = name.partition(".mlp.experts.")
    if not module:
        ours = name.replace(".mlp.gate.", ".block_sparse_moe.gate.") if numbered else name
        ours = ours.replace("gate.e_score_correction_bias", "e_score_correction_bias")
        one_row = name.endswith(("shared_expert_gate.weight", "conv.conv.weight", "conv1d.weight"))
        yield name, ours, tensor.squeeze() if one_row else tensor
        return
    kind = "bias" if module.endswith("_bias") else "weight"
    at, *names = ("block_sparse_moe", "w1", "w3", "w2") if numbered else ("mlp", "gate_proj", "up_proj", "down_proj")
    if arch == "gpt-oss" and kind == "weight":
        tensor = tensor.transpose(-1, -2)
    n = tensor.shape[1] // 2
    split = [tensor[:, ::2], tensor[:, 1::2]] if arch == "gpt-oss" else [tensor[:, :n], tensor[:, n:]]
    own = ("gate_proj", "up_proj", "down_proj")
    three = zip(own, names, [*split, tensor])
    for part, name, values in list(three)[:2] if module.startswith("gate_up") else list(three)[2:]:
        yield f"{layer}.mlp.experts.{part}.{kind}", f"{layer}.{at}.experts.*.{name}.{kind}", values


def make(root, name):
    source, changes = CASES[name]
    folder = os.path.join(root, "models", source, "model")
    out = os.path.join(root, "gguf", name)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    config = AutoConfig.from_pretrained(folder, **changes)
    arch = ARCHITECTURES.get(config.model_type, config.model_type)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomize(model, 7000 + sum(map(ord, name)))
    model.tie_weights()

    w = gguf.GGUFWriter(os.path.join(out, "model.gguf"), arch)
    w.add_name("tiny")
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    widths = [t.shape[0] for n, t in model.state_dict().items() if n.endswith("feed_forward.w1.weight")]
    keys(w, arch, config, next(iter(widths), None))
    vocabulary(w, folder)
    weights, table = {}, []
    tied = config.tie_word_embeddings
    state = {n: t.clone() for n, t in model.state_dict().items() if n != "lm_head.weight" or not tied}
    for own, kind, stored, values in tensors(state, config, arch):
        w.add_tensor(own, stored, raw_dtype=kind)
        weights |= values
        table.append([own, kind.name])
    for length in ("long", "short"):
        if factors := config.rope_parameters.get(f"{length}_factor"):
            w.add_tensor(f"rope_factors_{length}.weight", np.array(factors, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    save_file(weights, os.path.join(out, "weights.safetensors"))

    model.load_state_dict({**state, **({"lm_head.weight": state["model.embed_tokens.weight"]} if tied else {})})
    x = {k: v.long() for k, v in load_file(os.path.join(root, "models", source, "inputs.safetensors")).items()}
    with torch.no_grad():
        logits = forward(model, x)
    save_file({"logits": real(logits, x)}, os.path.join(out, "logits.safetensors"))
    case = {
        "case": f"gguf/{name}", "source_model": f"models/{source}/model", "architecture": arch,
        "configuration": changes,
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
                     "gguf": "0.19.0"},
        "loss": float(mean(token_loss(logits, x["labels"]), x["labels"])),
        "tensors": table,
    }
    with open(os.path.join(out, "case.json"), "w") as f:
        json.dump(case, f, indent=1)
    print(f"{name:18} {len(table)} tensors, loss {case['loss']:.4f}", flush=True)


if __name__ == "__main__":
    root, names = sys.argv[1], sys.argv[2:] or list(CASES)
    for name in names:
        make(root, name)
