"""Tiny random models of further families with the reference stack's numbers, in the layout of `golden/models`.

Of some of them also every gradient of full fine-tuning, in the layout of `golden/full_ft`.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python testdata/make/models.py testdata/golden [NAME...]

Nothing is downloaded; the tokenizer is that of `golden/models/llama3_rope`. Takes a minute on one core.
"""
import json
import os
import shutil
import sys
import tempfile

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

VOCAB, PAD, BOS, EOS = 320, 0, 1, 2
SIZES = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=256, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
SEEDS = 9000
STEPS, LR, DECAY, CLIP = 5, 1e-3, 0.01, 1.0


def rope(theta=10000.0, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


GROWING = dict(rope_type="dynamic", factor=2.0)
LONG = dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.0, 2.0, 4.0, 8.0],
            original_max_position_embeddings=32, partial_rotary_factor=0.5)

DELTA = dict(head_dim=16, rms_norm_eps=1e-3, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=8)
MAMBA = dict(rms_norm_eps=1e-3, mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=2, mamba_d_state=8)
GEMMA4 = dict(num_attention_heads=4, num_key_value_heads=1, head_dim=16, global_head_dim=32, sliding_window=8, final_logit_softcapping=5.0)
FACTORS = dict(
    attention_in_multiplier=1.3, attention_out_multiplier=0.7, key_multiplier=0.6, embedding_multiplier=5.0, lm_head_multiplier=0.2,
    mlp_multipliers=[0.8, 0.5], ssm_multipliers=[0.7, 1.2, 0.9, 1.1, 0.6], ssm_in_multiplier=1.25, ssm_out_multiplier=0.4)
TOWER = dict(hidden_size=16, intermediate_size=24)

# name: (model_type, configuration, lengths of the two rows, note); wrappers have the sizes in their `text_config`
CASES = {
    "gemma3_text": ("gemma3_text", dict(
        head_dim=32, query_pre_attn_scalar=24, sliding_window=8, tie_word_embeddings=True,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": rope(1e6, rope_type="linear", factor=8.0), "sliding_attention": rope(1e4)}),
        (28, 19), "norms of the heads of q and k, a rotary base for each kind of layer, windows in the first"),
    "smollm3": ("smollm3", dict(
        num_hidden_layers=3, no_rope_layers=[1, 0, 1], tie_word_embeddings=True, rope_parameters=rope(2e6)),
        (28, 19), "no rotation in the middle layer"),
    "olmo2": ("olmo2", dict(rope_parameters=rope(5e5)), (28, 19), "norms after both halves and over whole q and k"),
    "granite": ("granite", dict(
        embedding_multiplier=12.0, attention_multiplier=0.3, residual_multiplier=0.22, logits_scaling=4.0,
        tie_word_embeddings=True, rope_parameters=rope()), (28, 19), "four multipliers"),
    "stablelm": ("stablelm", dict(
        use_qkv_bias=True, rope_parameters=rope(partial_rotary_factor=0.25)), (28, 19),
        "layer norms, a quarter of each head rotated, biases on q, k, v"),
    "stablelm_parallel": ("stablelm", dict(
        use_parallel_residual=True, qk_layernorm=True, rope_parameters=rope(partial_rotary_factor=0.5)), (28, 19),
        "attention beside the MLP, a layer norm for each head"),
    "starcoder2": ("starcoder2", dict(sliding_window=8, use_bias=True, rope_parameters=rope(1e5)), (28, 19),
                   "biases, layer norms, two-matrix MLP with GELU, tied head, window of 8"),
    "qwen2_window": ("qwen2", dict(
        use_sliding_window=True, sliding_window=8, max_window_layers=1, rope_parameters=rope(1e6)), (28, 19),
        "a window of 8 from layer 1 on"),
    "llama_linear": ("llama", dict(attention_bias=True, mlp_bias=True, rope_parameters=rope(rope_type="linear", factor=4.0)),
                     (28, 19), "linear rope scaling, biases everywhere"),
    "llama_yarn": ("llama", dict(rope_parameters=rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=64)), (28, 19), "yarn"),
    "llama_dynamic": ("llama", dict(max_position_embeddings=32, rope_parameters=rope(**GROWING)), (40, 40),
                      "dynamic rope beyond its length"),
    "phi3_long": ("phi3", dict(original_max_position_embeddings=32, rope_parameters=rope(**LONG)), (40, 40),
                  "long rope beyond its length, half of each head rotated"),
    "mixtral": ("mixtral", dict(
        num_local_experts=4, num_experts_per_tok=2, sliding_window=None, rope_parameters=rope(1e6)), (28, 19),
        "four experts, two a token; LoRA on attention, router and the stacked weights of the experts"),
    "qwen3_moe": ("qwen3_moe", dict(
        head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=16, norm_topk_prob=True,
        mlp_only_layers=[1], rope_parameters=rope(1e6)), (28, 19),
        "six experts, three a token, the second layer without"),
    "qwen3_moe_down": ("qwen3_moe", dict(
        head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=False,
        rope_parameters=rope(1e6)), (28, 19),
        "weights of the chosen experts not normalised; LoRA on q, v and one of the two stacked weights"),
    "olmo3": ("olmo3", dict(
        layer_types=["sliding_attention", "full_attention"], sliding_window=8,
        rope_parameters={"full_attention": rope(5e4, rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
                         "sliding_attention": rope(5e4)}), (28, 19),
        "OLMo 2 with a window in the first layer and YaRN in the second alone"),
    "olmoe": ("olmoe", dict(num_experts=4, num_experts_per_tok=2, rope_parameters=rope()), (28, 19),
              "four experts, two a token, weights not normalised; norms over whole q and k"),
    "qwen2_moe": ("qwen2_moe", dict(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=24,
        mlp_only_layers=[1], rope_parameters=rope(1e6)), (28, 19),
        "four experts, two a token, a shared one with a gate; biases on q, k, v; the second layer without experts"),
    "minimax_m2": ("minimax_m2", dict(
        head_dim=16, num_local_experts=4, num_experts_per_tok=2, rope_parameters=rope(5e6, partial_rotary_factor=0.5)),
        (28, 19), "sigmoid scores with a correction, norms over whole q and k, half of each head rotated"),
    "seed_oss": ("seed_oss", dict(head_dim=16, attention_dropout=0.0, residual_dropout=0.0, rope_parameters=rope(1e6)),
                 (28, 19), "biases on q, k, v"),
    "exaone4": ("exaone4", dict(
        layer_types=["sliding_attention", "full_attention"], sliding_window=8, rope_parameters=rope(1e6)), (28, 19),
        "norms behind both halves and of heads; a window in the first layer, no rotation in the second"),
    "ernie4_5": ("ernie4_5", dict(head_dim=16, use_bias=True, tie_word_embeddings=True, rope_parameters=rope(5e5)),
                 (28, 19), "neighbouring elements rotated, biases everywhere"),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", dict(
        head_dim=16, tie_word_embeddings=True, rope_parameters=rope(rope_type="dynamic", alpha=1000.0, factor=1.0)),
        (28, 19), "norms of the heads of q and k behind the rotation, a base enlarged by alpha"),
    "helium": ("helium", dict(head_dim=16, rope_parameters=rope(1e5)), (28, 19), "neighbouring elements rotated"),
    "internlm3": ("internlm3", dict(
        head_dim=16, attention_bias=True, mlp_bias=True,
        rope_parameters=rope(5e7, rope_type="dynamic", factor=6.0)), (28, 19), "biases everywhere, dynamic rope"),
    "glm": ("glm", dict(head_dim=16, rope_parameters=rope(partial_rotary_factor=0.5)), (28, 19),
            "gate and up in one matrix, biases on q, k, v, half of each head rotated in neighbours"),
    "glm4": ("glm4", dict(head_dim=16, rope_parameters=rope(partial_rotary_factor=0.5)), (28, 19),
             "glm with norms behind both halves too"),
    "ministral3": ("ministral3", dict(
        head_dim=16, rope_parameters=rope(
            1e6, rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0,
            mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.3)), (40, 19),
        "YaRN, queries that grow with the position"),
    "granite4": ("granitemoehybrid", dict(
        mamba_n_heads=4,
        num_local_experts=0, shared_intermediate_size=48, layer_types=["full_attention"] * 2, position_embedding_type="rope",
        embedding_multiplier=12.0, attention_multiplier=0.3, residual_multiplier=0.22, logits_scaling=4.0,
        tie_word_embeddings=True, rope_parameters=rope()), (28, 19), "four multipliers, gate and up in one matrix"),
    "granite4_nope": ("granitemoehybrid", dict(
        mamba_n_heads=4,
        num_local_experts=0, shared_intermediate_size=40, layer_types=["full_attention"] * 2,
        position_embedding_type=None, attention_multiplier=0.25), (28, 19), "no rotation"),
    "granite4_h": ("granitemoehybrid", dict(
        MAMBA, num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"],
        num_local_experts=0, shared_intermediate_size=48, position_embedding_type=None,
        embedding_multiplier=12.0, attention_multiplier=0.3, residual_multiplier=0.22, logits_scaling=4.0,
        tie_word_embeddings=True), (72, 40), "Mamba-2 around a layer of attention without rotation, four multipliers"),
    "falcon_h1": ("falcon_h1", dict(
        MAMBA, **FACTORS, mamba_d_ssm=64, head_dim=16, num_attention_heads=4, num_key_value_heads=2, rope_parameters=rope(1e5)),
        (72, 40), "attention and Mamba-2 side by side, all factors, no norm of the output"),
    "falcon_h1_norm": ("falcon_h1", dict(
        MAMBA, mamba_d_ssm=None, mamba_rms_norm=True, mamba_norm_before_gate=True, mamba_proj_bias=True, projectors_bias=True,
        mamba_conv_bias=False, mamba_d_conv=3, time_step_limit=[0.5, 0.8], rope_parameters=rope(1e5)),
        (28, 19), "a norm before the gate, limits of the steps, biases of the projections"),
    "apertus": ("apertus", dict(num_attention_heads=4, num_key_value_heads=2, rope_parameters=rope(
        12e6, rope_type="llama3", factor=8.0, original_max_position_embeddings=64, low_freq_factor=1.0, high_freq_factor=4.0)),
        (28, 19), "an MLP without a gate whose activation has two trained numbers"),
    "lfm2": ("lfm2", dict(
        num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], block_multiple_of=8, conv_bias=True,
        rope_parameters=rope(1e6)), (28, 19),
        "short convolutions with biases around a layer of attention, two thirds of the stated width in the MLP"),
    "lfm2_plain": ("lfm2", dict(
        layer_types=["conv", "full_attention"], conv_L_cache=4, block_auto_adjust_ff_dim=False, tie_word_embeddings=False,
        rope_parameters=rope(1e6)), (28, 19), "four taps, no biases, a head of its own"),
    "qwen3_5": ("qwen3_5_text", dict(
        DELTA, num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"],
        rope_parameters=rope(1e6, partial_rotary_factor=0.25)), (72, 40),
        "the gated delta rule around a layer of attention with an output gate, a quarter of each head rotated"),
    "qwen3_5_moe": ("qwen3_5_moe_text", dict(
        DELTA, linear_num_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=24, layer_types=["linear_attention", "full_attention"], attention_bias=True,
        rope_parameters=rope(1e6, partial_rotary_factor=0.5)), (28, 19),
        "four experts and a shared one in both layers; as many heads of v as of k"),
    "qwen3_next": ("qwen3_next", dict(
        DELTA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=24,
        mlp_only_layers=[1], layer_types=["linear_attention", "full_attention"], linear_conv_kernel_dim=3,
        rope_parameters=rope(partial_rotary_factor=0.25)), (28, 19),
        "projections by key head, experts in the first layer"),
    "gemma3": ("gemma3", dict(
        text_config=dict(
            head_dim=16, query_pre_attn_scalar=24, sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={"full_attention": rope(1e6, rope_type="linear", factor=8.0), "sliding_attention": rope(1e4)}),
        vision_config=dict(**TOWER, num_attention_heads=2, num_hidden_layers=1, patch_size=4, image_size=8),
        mm_tokens_per_image=1), (28, 19), "the text part beside a SigLIP tower, tied head"),
    "mistral3": ("mistral3", dict(
        text_config=dict(model_type="mistral", head_dim=16, sliding_window=None, rope_parameters=rope(1e9)),
        vision_config=dict(**TOWER, num_attention_heads=2, num_hidden_layers=1, head_dim=8, patch_size=4, image_size=8),
        tie_word_embeddings=False), (28, 19), "the text part beside a Pixtral tower"),
    "qwen3_vl": ("qwen3_vl", dict(
        text_config=dict(head_dim=16, rope_parameters=rope(5e6, mrope_section=[4, 2, 2], mrope_interleaved=True)),
        vision_config=dict(**TOWER, num_heads=2, depth=1, patch_size=4, out_hidden_size=32, num_position_embeddings=4,
                           deepstack_visual_indexes=[0]),
        tie_word_embeddings=True), (28, 19), "the text part beside a tower, rotation in interleaved sections, tied head"),
    "qwen3_5_vl": ("qwen3_5", dict(
        text_config=dict(DELTA, layer_types=["linear_attention", "full_attention"],
                         rope_parameters=rope(1e6, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True)),
        vision_config=dict(**TOWER, num_heads=2, depth=1, patch_size=4, out_hidden_size=32, num_position_embeddings=4),
        tie_word_embeddings=False), (28, 19), "the gated delta rule beside a tower"),
    "qwen2_5_vl": ("qwen2_5_vl", dict(
        text_config=dict(rope_parameters=rope(1e6, mrope_section=[2, 3, 3])),
        vision_config=dict(**TOWER, num_heads=2, depth=1, patch_size=4, out_hidden_size=32, window_size=8,
                           fullatt_block_indexes=[0])),
        (28, 19), "the text part beside a tower, rotation in sections, biases on q, k, v"),
    "gpt_oss": ("gpt_oss", dict(
        intermediate_size=64, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        swiglu_limit=1.0, layer_types=["sliding_attention", "full_attention"], rope_parameters=rope(
            150000.0, rope_type="yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
            original_max_position_embeddings=16)), (28, 19),
        "attention sinks, biases, four stacked and transposed experts whose gate and up alternate, a limit on both"),
    "gpt_oss_mxfp4": ("gpt_oss", dict(
        intermediate_size=64, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        layer_types=["full_attention", "sliding_attention"], attention_bias=False, rope_parameters=rope(
            150000.0, rope_type="yarn", factor=8.0, truncate=False, original_max_position_embeddings=64)), (28, 19),
        "experts in MXFP4, beside which PyTorch has the same values in f32; LoRA on attention alone"),
    "qwen3_fp8": ("qwen3", dict(head_dim=16, rope_parameters=rope(1e6)), (28, 19),
                  "linears in FP8 with a scale for each block, beside which PyTorch has the same values in f32"),
    "gemma4_dense": ("gemma4_text", dict(
        GEMMA4, hidden_size_per_layer_input=0, num_key_value_heads=2, num_global_key_value_heads=1, attention_k_eq_v=True,
        num_hidden_layers=3, layer_types=["sliding_attention", "full_attention", "full_attention"], rope_parameters=None),
        (28, 19), "wider heads, values that are the keys and a rotation of a quarter of each head in layers without a window"),
    "gemma4_shared": ("gemma4_text", dict(
        GEMMA4, hidden_size_per_layer_input=0, num_kv_shared_layers=3, use_double_wide_mlp=True, num_hidden_layers=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters=None), (28, 19), "the last three layers use keys and values of earlier ones and have wider MLPs"),
    "gemma4": ("gemma4", dict(
        text_config=dict(GEMMA4, hidden_size_per_layer_input=0, num_key_value_heads=2, num_kv_shared_layers=2, num_hidden_layers=4,
                         layer_types=["sliding_attention", "full_attention"] * 2, rope_parameters=None),
        vision_config=dict(**TOWER, num_attention_heads=2, num_key_value_heads=2, head_dim=8, num_hidden_layers=1, patch_size=4,
                           position_embedding_size=16),
        audio_config=None, tie_word_embeddings=True), (28, 19), "the text part beside a tower, shared keys and values"),
    "phi3_short": ("phi3", dict(original_max_position_embeddings=32, rope_parameters=rope(**LONG)), (28, 19),
                   "long rope within its length"),
}


def old_spelling(config):
    """The configuration with the keys of transformers 4; that of Qwen2.5-VL has those of its text at the top."""
    c = dict(config)
    if "per_layer_config" in c:
        # Released files have the sizes of layers without a window at the top.
        wide = next(iter(c.pop("per_layer_config").values()))
        heads = {"num_global_key_value_heads": wide["num_key_value_heads"]} if "num_key_value_heads" in wide else {}
        return {**c, "global_head_dim": wide["head_dim"], **heads}
    if "text_config" in c:
        text = old_spelling(c.pop("text_config"))
        c["torch_dtype"] = c.pop("dtype")
        if c["model_type"] != "qwen2_5_vl":
            return {**c, "text_config": text}
        # Sections were a type of their own.
        scaling = {"type": "mrope", "mrope_section": text["rope_scaling"]["mrope_section"]}
        return {**text, "rope_scaling": scaling, **c, "tie_word_embeddings": False}
    if "dtype" in c:
        c["torch_dtype"] = c.pop("dtype")
    given = c.pop("rope_parameters", None) or {}
    if "full_attention" in given:
        c["rope_local_base_freq"] = given["sliding_attention"]["rope_theta"]
        given = given["full_attention"]
    scaling = {k: v for k, v in given.items() if k not in ("rope_theta", "partial_rotary_factor")}
    c["rope_theta"] = given.get("rope_theta", 10000.0)
    if "partial_rotary_factor" in given:
        c["partial_rotary_factor"] = given["partial_rotary_factor"]
    c["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" or "mrope_section" in scaling else None
    return c


def randomize(model, seed):
    """Values that make every part matter."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        constants = [(n, b) for n, b in model.named_buffers() if n.endswith(("e_score_correction_bias", "layer_scalar"))]
        for name, p in sorted([*model.named_parameters(), *constants]):
            noise = torch.randn(p.shape, generator=g)
            if p.dim() == 1:
                kind = model.config.model_type
                around_zero = "gemma2" in kind or "gemma3" in kind or kind.startswith(("qwen3_5", "qwen3_next")) and "linear_attn" not in name
                ones = name.endswith(("weight", "layer_scalar")) and not around_zero
                p.copy_(0.1 * noise + (1.0 if ones else 0.0))
            else:
                p.copy_(noise * (0.4 if "embed" in name else 1.4 * p.shape[-1] ** -0.5))


def auto(config):
    """The class that makes a model of the configuration."""
    return AutoModelForImageTextToText if hasattr(config, "text_config") else AutoModelForCausalLM


def load(folder):
    of = auto(AutoConfig.from_pretrained(folder))
    model = of.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if hasattr(model.config, "text_config"):
        # Rows are text alone: towers have no gradient.
        for name, p in model.named_parameters():
            p.requires_grad_("language_model" in name or name.startswith("lm_head"))
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = "eager"
    if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None) == 0:
        # Or it would cut embeddings for each layer, which are not there, down to the rows whose logits are wanted: all.
        model.config.get_text_config().output_hidden_states = True
    return model.eval()


def batch(lengths, seed):
    g = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids, mask, labels = (torch.full((2, width), v) for v in (PAD, 0, -100))
    for row, n in enumerate(lengths):
        ids[row, :n] = torch.randint(5, VOCAB, (n,), generator=g)
        mask[row, :n] = 1
        labels[row, n // 3:n] = ids[row, n // 3:n]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def token_loss(logits, labels):
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    return torch.nn.functional.pad(losses, (0, 1))


def mean(losses, labels):
    return losses.sum() / (labels[:, 1:] != -100).sum()


def forward(model, x):
    return model(input_ids=x["input_ids"], attention_mask=x["attention_mask"], use_cache=False).logits


def real(logits, x):
    return (logits * x["attention_mask"][..., None]).detach().contiguous()


def adapted(folder, seed, targets="all-linear", **more):
    torch.manual_seed(seed)
    model = get_peft_model(load(folder), LoraConfig(
        r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM", **more))
    g = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=g) * (p.shape[1] ** -0.5 if "lora_A" in name else 0.05))
    return model


def trained(model):
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}


def snapshot(model, of=lambda p: p):
    return {n: of(p).detach().clone().contiguous() for n, p in trained(model).items()}


def train(model, x):
    """Mean loss, clipping, AdamW, the same batch each time."""
    params = list(trained(model).values())
    optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=DECAY)
    model.train()
    losses, norms, states, grads = [], [], [], None
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = mean(token_loss(forward(model, x), x["labels"]), x["labels"])
        loss.backward()
        grads = grads or snapshot(model, lambda p: p.grad)
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, CLIP)))
        optimizer.step()
        losses.append(float(loss.detach()))
        states.append(snapshot(model))
    with torch.no_grad():
        after = float(mean(token_loss(forward(model, x), x["labels"]), x["labels"]))
    return losses, norms, after, states, grads


@torch.no_grad()
def greedy(model, prompt, n):
    ids = torch.tensor([prompt])
    for _ in range(n):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[0, len(prompt):].tolist()


def mxfp4(values):
    """Blocks of 32 along the last dimension: two numbers of 4 bits in a byte, and an exponent for each block."""
    numbers = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0.0, -.5, -1, -1.5, -2, -3, -4, -6])
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    exponent = torch.floor(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-20))) - 2
    codes = (blocks / 2.0 ** exponent)[..., None].sub(numbers).abs().argmin(-1)
    packed = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
    return packed, (exponent[..., 0] + 127).to(torch.uint8), (numbers[codes] * 2.0 ** exponent).reshape(values.shape)


def pack_experts(model, folder, plain):
    """Experts in MXFP4 in `folder`, and their values in `model` and in the folder `plain`."""
    tensors = {}
    for name, p in model.state_dict().items():
        if name.endswith(("gate_up_proj", "down_proj")) and ".experts." in name:
            blocks, scales, values = mxfp4(p.transpose(1, 2).contiguous())
            p.copy_(values.transpose(1, 2))
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            tensors[name] = p.contiguous()
    model.save_pretrained(plain)
    save_file(tensors, os.path.join(folder, "model.safetensors"), {"format": "pt"})
    path = os.path.join(folder, "config.json")
    config = json.load(open(path))
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}
    with open(path, "w") as f:
        json.dump(config, f, indent=2)


def pack_fp8(model, folder, plain):
    """Linears of the layers in FP8 with a scale for each 16 x 16 values in `folder`, and their values in `model` and `plain`."""
    tensors = {}
    for name, p in model.state_dict().items():
        tensors[name] = p.contiguous()
        if name.endswith("proj.weight"):
            rows, cols = p.shape
            blocks = p.reshape(rows // 16, 16, cols // 16, 16)
            scale = blocks.abs().amax((1, 3), keepdim=True) / 448
            packed = (blocks / scale).to(torch.float8_e4m3fn)
            p.copy_((packed.float() * scale).reshape(rows, cols))
            tensors[name] = packed.reshape(rows, cols).contiguous()
            tensors[name.replace("weight", "weight_scale_inv")] = scale[:, 0, :, 0].contiguous()
    model.save_pretrained(plain)
    save_file(tensors, os.path.join(folder, "model.safetensors"), {"format": "pt"})
    path = os.path.join(folder, "config.json")
    config = json.load(open(path))
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16],
                                     "activation_scheme": "dynamic", "modules_to_not_convert": ["lm_head"]}
    with open(path, "w") as f:
        json.dump(config, f, indent=2)


PACKED = {"gpt_oss_mxfp4": pack_experts, "qwen3_fp8": pack_fp8}


def make(root, name, seed):
    kind, config, lengths, note = CASES[name]
    out = os.path.join(root, "models", name)
    shutil.rmtree(out, ignore_errors=True)
    folder = os.path.join(out, "model")
    os.makedirs(folder)
    if "text_config" in config:
        ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
        config = {**ends, **config, "text_config": {**SIZES, **config["text_config"]}}
    else:
        config = {**SIZES, **config}
    config = AutoConfig.for_model(kind, **config)
    config._experts_implementation = "eager"
    torch.manual_seed(seed)
    model = auto(config).from_config(config, attn_implementation="eager").float()
    randomize(model, seed)
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)
    plain = folder
    if name in PACKED:
        plain = tempfile.mkdtemp()
        PACKED[name](model, folder, plain)
    tokenizer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden/models/llama3_rope/model")
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(os.path.join(tokenizer, file), folder)
    stated = json.load(open(os.path.join(folder, "config.json")))
    with open(os.path.join(out, "config_v4.json"), "w") as f:
        json.dump(old_spelling(stated), f, indent=1)

    x = batch(lengths, seed + 1)
    save_file({k: v.to(torch.int32) for k, v in x.items()}, os.path.join(out, "inputs.safetensors"))
    model = load(plain)
    with torch.no_grad():
        logits = forward(model, x)
    losses = token_loss(logits, x["labels"])
    save_file({"logits": real(logits, x), "token_loss": losses}, os.path.join(out, "base.safetensors"))

    experts = TARGET_PARAMETERS.get(name)
    targets = ["q_proj", "v_proj"] if name == "qwen3_moe_down" else "all-linear"
    if kind == "falcon_h1":
        # PEFT refuses a branch beside `out_proj`.
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "gate_proj", "up_proj", "down_proj"]
    if hasattr(model.config, "text_config"):
        targets = r".*\.language_model\..*_proj(_[a-z]+)?"
    peft = adapted(plain, seed + 2, targets, **({"target_parameters": experts} if experts else {}))
    peft.save_pretrained(os.path.join(out, "adapter"))
    os.remove(os.path.join(out, "adapter", "README.md"))
    with torch.no_grad():
        lora_logits = forward(peft, x)
    lora_losses = token_loss(lora_logits, x["labels"])
    save_file({"logits": real(lora_logits, x), "token_loss": lora_losses}, os.path.join(out, "lora.safetensors"))
    steps, norms, after, states, grads = train(peft, x)
    save_file(grads, os.path.join(out, "lora_grads.safetensors"))
    save_file(states[0], os.path.join(out, "adapter_step1.safetensors"))
    save_file(states[-1], os.path.join(out, "adapter_step5.safetensors"))

    prompt = x["input_ids"][0, :12].tolist()
    again = PeftModel.from_pretrained(load(plain), os.path.join(out, "adapter")).eval()
    generation = {"prompt_ids": prompt, "max_new_tokens": 16, "base": greedy(model, prompt, 16),
                  "lora": greedy(again, prompt, 16)}
    merged, base = again.merge_and_unload().state_dict(), model.state_dict()
    changed = {k: v.contiguous() for k, v in merged.items() if ".layers.0." in k and not torch.equal(v, base[k])}
    save_file(changed, os.path.join(out, "merged_layer0.safetensors"))

    case = {
        "case": name, "kind": "model", "model_type": kind, "note": note, "seed": seed,
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
                     "peft": __import__("peft").__version__},
        "loss": {"base": float(mean(losses, x["labels"])), "lora": float(mean(lora_losses, x["labels"]))},
        "optimizer": {"lr": LR, "weight_decay": DECAY, "max_grad_norm": CLIP, "steps": STEPS},
        "train": {"losses": steps, "grad_norms": norms, "loss_after": after},
        "generation": generation,
    }
    with open(os.path.join(out, "case.json"), "w") as f:
        json.dump(case, f, indent=1)
    print(f"{name:18} loss {case['loss']['base']:.4f} {case['loss']['lora']:.4f} -> {after:.4f}", flush=True)


TARGET_PARAMETERS = {
    "gpt_oss": ["experts.gate_up_proj", "experts.down_proj"],
    "mixtral": ["experts.gate_up_proj", "experts.down_proj"],
    "olmoe": ["experts.gate_up_proj", "experts.down_proj"],
    "qwen2_moe": ["experts.gate_up_proj", "experts.down_proj"],
    "minimax_m2": ["experts.gate_up_proj", "experts.down_proj"],
    "qwen3_5_moe": ["experts.gate_up_proj", "experts.down_proj"],
    "qwen3_next": ["experts.gate_up_proj", "experts.down_proj"],
    "qwen3_moe_down": ["experts.down_proj"],
}
FULL = ["gemma4_dense", "granite4_h", "falcon_h1", "mistral3", "apertus", "qwen3_5", "lfm2", "exaone4", "glm4", "granite4", "hunyuan_v1_dense", "gemma3_text", "olmo2", "stablelm_parallel", "starcoder2", "phi3_short", "granite"]


def make_full(root, name):
    """Every parameter trained: gradients, and some parameters after five steps for both groupings of the decay."""
    out = os.path.join(root, "full_ft", name)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    folder = os.path.join(root, "models", name, "model")
    x = {k: v.long() for k, v in load_file(os.path.join(root, "models", name, "inputs.safetensors")).items()}
    case, after = {"case": f"full_ft/{name}", "kind": "full_ft", "model": f"models/{name}/model"}, {}
    for group in ("uniform_decay", "trainer_groups"):
        model = load(folder).train()
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        spared = {n for n in named if n.endswith("bias") or "norm" in n} if group == "trainer_groups" else set()
        optimizer = torch.optim.AdamW([
            {"params": [p for n, p in named.items() if n not in spared], "weight_decay": 0.1},
            {"params": [p for n, p in named.items() if n in spared], "weight_decay": 0.0}], lr=LR)
        losses, norms = [], []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = mean(token_loss(forward(model, x), x["labels"]), x["labels"])
            loss.backward()
            if step == 0:
                save_file({n: p.grad.clone().contiguous() for n, p in named.items()}, os.path.join(out, "grads.safetensors"))
            norms.append(float(torch.nn.utils.clip_grad_norm_(list(named.values()), CLIP)))
            optimizer.step()
            losses.append(float(loss.detach()))
        with torch.no_grad():
            last = float(mean(token_loss(forward(model, x), x["labels"]), x["labels"]))
        case[group] = {"weight_decay": 0.1, "losses": losses, "grad_norms": norms, "loss_after": last}
        for n in [n for n in named if ".conv.conv." in n or ("linear_attn" in n or ".mamba." in n) and named[n].dim() != 2 or "alpha" in n
                  or ".layers.1." in n and (".o_proj" in n or "norm" in n)]:
            after[f"{group}/{n}"] = named[n].detach().clone()
    save_file(after, os.path.join(out, "params_step5.safetensors"))
    with open(os.path.join(out, "case.json"), "w") as f:
        json.dump(case, f, indent=1)
    print(f"full_ft/{name}: {losses[0]:.4f} -> {last:.4f}", flush=True)


if __name__ == "__main__":
    root, names = sys.argv[1], sys.argv[2:] or list(CASES)
    for name in names:
        make(root, name, SEEDS + sum(map(ord, name)))
        if name in FULL:
            make_full(root, name)
