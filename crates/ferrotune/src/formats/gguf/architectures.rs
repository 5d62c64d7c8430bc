//! The architectures of GGUF files that are read, and the names of their modules.

use super::arch::{Arch, Names};
use super::extras;

const ATTENTION: Names = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
];
const FUSED_ATTENTION: Names = &[("attn_qkv", "self_attn.qkv_proj"), ("attn_output", "self_attn.o_proj")];
const GATED: Names =
    &[("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")];
const FUSED_GATED: Names = &[("ffn_up", "mlp.gate_up_proj"), ("ffn_down", "mlp.down_proj")];
const PLAIN: Names = &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")];
const NORMS_BEFORE: Names = &[("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];
const NORMS_AROUND: Names = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
const NORMS_AFTER: Names =
    &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];
const QK_NORMS: Names = &[("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];
/// One tensor with a row for each head, where the folder has a tensor for each.
const OWN_QK_NORMS: Names =
    &[("attn_q_norm", "self_attn.q_layernorm.norms.*"), ("attn_k_norm", "self_attn.k_layernorm.norms.*")];

const NORMS_OF_SEED: Names =
    &[("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm")];
const NORMS_OF_GLM: Names = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_self_attn_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_mlp_layernorm"),
];
const QK_LAYERNORMS: Names =
    &[("attn_q_norm", "self_attn.query_layernorm"), ("attn_k_norm", "self_attn.key_layernorm")];
const EXPERTS: Names = &[
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.*.gate_proj"),
    ("ffn_up_exps", "mlp.experts.*.up_proj"),
    ("ffn_down_exps", "mlp.experts.*.down_proj"),
];
const SHARED_EXPERT: Names = &[
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];
const NUMBERED_EXPERTS: Names = &[
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.experts.*.w1"),
    ("ffn_up_exps", "block_sparse_moe.experts.*.w3"),
    ("ffn_down_exps", "block_sparse_moe.experts.*.w2"),
];
const EXPERTS_OF_GPT_OSS: Names = &[
    ("ffn_gate_inp", "mlp.router"),
    ("ffn_gate_exps", "mlp.experts.*.gate_proj"),
    ("ffn_up_exps", "mlp.experts.*.up_proj"),
    ("ffn_down_exps", "mlp.experts.*.down_proj"),
];
const LFM2: Names = &[
    ("shortconv.conv", "conv.conv"),
    ("shortconv.in_proj", "conv.in_proj"),
    ("shortconv.out_proj", "conv.out_proj"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.out_proj"),
    ("attn_q_norm", "self_attn.q_layernorm"),
    ("attn_k_norm", "self_attn.k_layernorm"),
    ("attn_norm", "operator_norm"),
    ("ffn_norm", "ffn_norm"),
    ("ffn_gate", "feed_forward.w1"),
    ("ffn_up", "feed_forward.w3"),
    ("ffn_down", "feed_forward.w2"),
];

const DELTA: Names = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("attn_qkv", "linear_attn.in_proj_qkv"),
    ("attn_gate", "linear_attn.in_proj_z"),
    ("ssm_beta", "linear_attn.in_proj_b"),
    ("ssm_alpha", "linear_attn.in_proj_a"),
    ("ssm_conv1d", "linear_attn.conv1d"),
    ("ssm_norm", "linear_attn.norm"),
    ("ssm_out", "linear_attn.out_proj"),
];
const DECAYS: Names = &[("ssm_a", "linear_attn.A_log"), ("ssm_dt.bias", "linear_attn.dt_bias")];

const LLAMA: Arch = Arch {
    name: "llama",
    model_type: "llama",
    also: &["mistral", "internlm3"],
    class: "LlamaForCausalLM",
    interleaved: true,
    plus_one: false,
    decays: false,
    eps: "rms_norm_eps",
    partial: false,
    end_of_turn: None,
    rstrip_but: None,
    modules: &[ATTENTION, GATED, NORMS_BEFORE],
    tensors: &[],
    extras: extras::llama,
};

/// The Llama network with the two halves of a head one after the other.
const PLAIN_HALVES: Arch = Arch { interleaved: false, also: &[], extras: extras::none, ..LLAMA };

const QWEN35: Arch = Arch {
    name: "qwen35",
    model_type: "qwen3_5_text",
    class: "Qwen3_5ForCausalLM",
    plus_one: true,
    decays: true,
    partial: true,
    modules: &[ATTENTION, QK_NORMS, DELTA, GATED],
    tensors: DECAYS,
    extras: extras::qwen35,
    ..PLAIN_HALVES
};

pub(super) const ALL: &[Arch] = &[
    LLAMA,
    Arch { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", ..PLAIN_HALVES },
    Arch {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        modules: &[ATTENTION, QK_NORMS, GATED, NORMS_BEFORE],
        extras: extras::qwen3,
        ..PLAIN_HALVES
    },
    Arch {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        plus_one: true,
        end_of_turn: Some("<end_of_turn>"),
        modules: &[ATTENTION, GATED, NORMS_AROUND],
        extras: extras::gemma2,
        ..PLAIN_HALVES
    },
    Arch {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        plus_one: true,
        end_of_turn: Some("<end_of_turn>"),
        modules: &[ATTENTION, QK_NORMS, GATED, NORMS_AROUND],
        extras: extras::gemma3,
        ..PLAIN_HALVES
    },
    Arch {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        partial: true,
        end_of_turn: Some("<|end|>"),
        rstrip_but: Some(&["<unk>", "<s>", "<|endoftext|>"]),
        modules: &[FUSED_ATTENTION, FUSED_GATED, NORMS_BEFORE],
        extras: extras::phi3,
        ..PLAIN_HALVES
    },
    Arch {
        name: "smollm3",
        also: &[],
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        extras: extras::smollm3,
        ..LLAMA
    },
    Arch {
        name: "olmo2",
        model_type: "olmo2",
        also: &["olmo3"],
        class: "Olmo2ForCausalLM",
        modules: &[ATTENTION, QK_NORMS, GATED, NORMS_AFTER],
        extras: extras::olmo2,
        ..PLAIN_HALVES
    },
    Arch {
        name: "granite",
        also: &[],
        model_type: "granite",
        class: "GraniteForCausalLM",
        extras: extras::granite,
        ..LLAMA
    },
    Arch {
        name: "stablelm",
        model_type: "stablelm",
        class: "StableLmForCausalLM",
        eps: "layer_norm_eps",
        partial: true,
        modules: &[ATTENTION, OWN_QK_NORMS, GATED, NORMS_BEFORE],
        extras: extras::stablelm,
        ..PLAIN_HALVES
    },
    Arch {
        name: "starcoder2",
        model_type: "starcoder2",
        class: "Starcoder2ForCausalLM",
        eps: "norm_epsilon",
        modules: &[ATTENTION, PLAIN, NORMS_BEFORE],
        extras: extras::starcoder2,
        ..PLAIN_HALVES
    },
    Arch {
        name: "llama",
        model_type: "mixtral",
        also: &[],
        class: "MixtralForCausalLM",
        modules: &[ATTENTION, NUMBERED_EXPERTS, NORMS_BEFORE],
        extras: extras::none,
        ..LLAMA
    },
    Arch { name: "qwen2vl", model_type: "qwen2", class: "Qwen2ForCausalLM", ..PLAIN_HALVES },
    Arch {
        name: "qwen3vl",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        modules: &[ATTENTION, QK_NORMS, GATED, NORMS_BEFORE],
        extras: extras::qwen3,
        ..PLAIN_HALVES
    },
    Arch {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        class: "Qwen2MoeForCausalLM",
        modules: &[ATTENTION, EXPERTS, SHARED_EXPERT, NORMS_BEFORE],
        extras: extras::qwen2moe,
        ..PLAIN_HALVES
    },
    Arch {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        modules: &[ATTENTION, QK_NORMS, EXPERTS, NORMS_BEFORE],
        extras: extras::qwen3moe,
        ..PLAIN_HALVES
    },
    Arch {
        name: "olmoe",
        model_type: "olmoe",
        class: "OlmoeForCausalLM",
        modules: &[ATTENTION, QK_NORMS, EXPERTS, NORMS_BEFORE],
        ..PLAIN_HALVES
    },
    Arch {
        name: "minimax-m2",
        model_type: "minimax_m2",
        class: "MiniMaxM2ForCausalLM",
        partial: true,
        modules: &[ATTENTION, QK_NORMS, NUMBERED_EXPERTS, NORMS_BEFORE],
        tensors: &[("exp_probs_b.bias", "block_sparse_moe.e_score_correction_bias")],
        extras: extras::minimax_m2,
        ..PLAIN_HALVES
    },
    Arch {
        name: "gpt-oss",
        model_type: "gpt_oss",
        class: "GptOssForCausalLM",
        modules: &[ATTENTION, EXPERTS_OF_GPT_OSS, NORMS_OF_SEED],
        tensors: &[("attn_sinks.weight", "self_attn.sinks")],
        extras: extras::gpt_oss,
        ..PLAIN_HALVES
    },
    Arch {
        name: "seed_oss",
        model_type: "seed_oss",
        class: "SeedOssForCausalLM",
        modules: &[ATTENTION, GATED, NORMS_OF_SEED],
        extras: extras::seed_oss,
        ..PLAIN_HALVES
    },
    Arch {
        name: "exaone4",
        model_type: "exaone4",
        class: "Exaone4ForCausalLM",
        modules: &[ATTENTION, QK_NORMS, GATED, NORMS_AFTER],
        extras: extras::exaone4,
        ..PLAIN_HALVES
    },
    // Its rotation turns neighbours in a folder too, so nothing is moved.
    Arch {
        name: "ernie4_5",
        model_type: "ernie4_5",
        class: "Ernie4_5ForCausalLM",
        extras: extras::ernie4_5,
        ..PLAIN_HALVES
    },
    Arch {
        name: "hunyuan-dense",
        model_type: "hunyuan_v1_dense",
        class: "HunYuanDenseV1ForCausalLM",
        modules: &[ATTENTION, QK_LAYERNORMS, GATED, NORMS_BEFORE],
        extras: extras::qwen3,
        ..PLAIN_HALVES
    },
    Arch {
        name: "glm4",
        model_type: "glm4",
        class: "Glm4ForCausalLM",
        partial: true,
        modules: &[ATTENTION, FUSED_GATED, NORMS_OF_GLM],
        extras: extras::qwen3,
        ..PLAIN_HALVES
    },
    Arch {
        name: "mistral3",
        model_type: "ministral3",
        class: "Ministral3ForCausalLM",
        also: &["mistral"],
        extras: extras::mistral3,
        ..LLAMA
    },
    Arch {
        name: "lfm2",
        model_type: "lfm2",
        class: "Lfm2ForCausalLM",
        eps: "norm_eps",
        modules: &[LFM2],
        extras: extras::lfm2,
        ..PLAIN_HALVES
    },
    QWEN35,
    Arch {
        name: "qwen35moe",
        model_type: "qwen3_5_moe_text",
        class: "Qwen3_5MoeForCausalLM",
        modules: &[ATTENTION, QK_NORMS, DELTA, EXPERTS, SHARED_EXPERT],
        extras: extras::qwen35moe,
        ..QWEN35
    },
];
