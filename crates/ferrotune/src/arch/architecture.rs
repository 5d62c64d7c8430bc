//! What a decoder-only network computes, in flat parameters: the same description for every family.

use ferrotune_kernels::ops::activation::Activation;
use ferrotune_kernels::ops::norm::NormOp;
use ferrotune_kernels::ops::rms_norm;
use ferrotune_kernels::ops::rope::Pairs;
use ferrotune_kernels::ops::route::Score;
use ferrotune_kernels::ops::softmax_xent::Logits;
use ferrotune_kernels::ops::ssd;

use super::config::{ModelConfig, RopeConfig, RopeScaling};
use super::tree::Tree;
use crate::{Error, Result};

/// A decoder-only network, in flat parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Where it stands in the tree of modules.
    pub tree: &'static Tree,
    /// Vocabulary `V`.
    pub vocab: usize,
    /// Hidden size `D`.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads `H`.
    pub heads: usize,
    /// Key and value heads `G`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The attention (and MLP) of each layer, where layers differ in it; empty where all have the sizes above.
    pub attentions: Vec<LayerAttention>,
    /// MLP width `F`.
    pub ffn: usize,
    /// What the norms compute.
    pub norm: &'static dyn NormOp,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Where a layer has norms.
    pub norms: LayerNorms,
    /// The norm after the last layer, in `model`.
    pub final_norm: &'static str,
    /// What mixes the tokens of each layer.
    pub mixers: Vec<Mixing>,
    /// Norms of q and k.
    pub qk_norm: Option<QkNorm>,
    /// Whether the heads of v are normed, without a weight.
    pub v_norm: bool,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// Bias of o.
    pub o_bias: bool,
    /// Biases of the MLP.
    pub mlp_bias: bool,
    /// q, k, v in one matrix.
    pub fused_qkv: bool,
    /// Whether heads have attention sinks.
    pub sinks: bool,
    /// Whether the projection to q also gives a gate for the output of each head.
    pub attention_gate: bool,
    /// The output projection, in `self_attn`.
    pub o_proj: &'static str,
    /// Shape of the MLP.
    pub mlp: MlpKind,
    /// Experts in the place of the MLP.
    pub experts: Option<Experts>,
    /// Activation of MLP or experts.
    pub activation: Activation,
    /// xIELU in its place, with numbers of its own in every layer.
    pub xielu: bool,
    /// Sliding window of each layer.
    pub windows: Vec<Option<usize>>,
    /// The rotary embeddings that layers use.
    pub ropes: Vec<Rope>,
    /// Which of them each layer uses; `None` for none.
    pub rope_of_layer: Vec<Option<usize>>,
    /// Factor of the attention scores.
    pub score_scale: f32,
    /// Soft cap of the attention scores.
    pub score_cap: Option<f32>,
    /// Factor of the embeddings.
    pub embed_scale: f32,
    /// Factor of what a layer adds to the residual stream.
    pub residual_scale: f32,
    /// Whether a constant of each layer multiplies its output (`layer_scalar`).
    pub layer_scalar: bool,
    /// Factor of what attention adds, beside that of all layers.
    pub attention_scale: f32,
    /// Factor of what an MLP adds, beside that of all layers.
    pub mlp_scale: f32,
    /// Factor of what the gate of an MLP reads.
    pub gate_scale: f32,
    /// Factor and soft cap of the logits.
    pub logits: Logits,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Last parts of modules that PEFT puts no branch beside, as other code reads their weights.
    pub without_branches: &'static [&'static str],
}

/// What the attention of a layer has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttention {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Where its values come from.
    pub values: Values,
    /// Width of the layer's MLP.
    pub ffn: usize,
}

/// Where the values of an attention come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// A projection of their own.
    Projected,
    /// They are the keys, before those are normed and rotated.
    Keys,
    /// They are those of this earlier layer, and so are the keys.
    Layer(usize),
}

/// Where a layer has norms, by the checkpoints' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerNorms {
    /// Before the attention.
    pub before_attention: Option<&'static str>,
    /// After the attention.
    pub after_attention: Option<&'static str>,
    /// Before the MLP; that before the attention, where both read the same input.
    pub before_mlp: Option<&'static str>,
    /// After the MLP.
    pub after_mlp: Option<&'static str>,
}

impl LayerNorms {
    /// Before both halves, as Llama has them.
    pub const BEFORE: LayerNorms = LayerNorms {
        before_attention: Some("input_layernorm"),
        after_attention: None,
        before_mlp: Some("post_attention_layernorm"),
        after_mlp: None,
    };
    /// Around both halves, as Gemma 2 has them.
    pub const AROUND: LayerNorms = LayerNorms {
        before_attention: Some("input_layernorm"),
        after_attention: Some("post_attention_layernorm"),
        before_mlp: Some("pre_feedforward_layernorm"),
        after_mlp: Some("post_feedforward_layernorm"),
    };
    /// After both halves, as OLMo 2 has them.
    pub const AFTER: LayerNorms = LayerNorms {
        before_attention: None,
        after_attention: Some("post_attention_layernorm"),
        before_mlp: None,
        after_mlp: Some("post_feedforward_layernorm"),
    };
    /// One norm before both, which read the same input.
    pub const PARALLEL: LayerNorms = LayerNorms {
        before_attention: Some("input_layernorm"),
        after_attention: None,
        before_mlp: Some("input_layernorm"),
        after_mlp: None,
    };

    /// Whether attention and MLP read the same input.
    pub fn parallel(&self) -> bool {
        self.before_attention.is_some() && self.before_attention == self.before_mlp
    }
}

/// What mixes the tokens of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mixing {
    /// Attention.
    Attention,
    /// A short convolution between two gates.
    ShortConv(ShortConv),
    /// The gated delta rule.
    GatedDelta(GatedDelta),
    /// Mamba-2.
    Mamba2(Mamba2),
    /// Attention and Mamba-2 side by side.
    AttentionAndMamba2(Mamba2),
}

impl Mixing {
    /// Whether there is attention.
    pub fn attends(&self) -> bool {
        matches!(self, Mixing::Attention | Mixing::AttentionAndMamba2(_))
    }
}

/// Sizes of a gated delta rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatedDelta {
    /// Heads of q and k.
    pub key_heads: usize,
    /// Heads of v, a multiple of those.
    pub value_heads: usize,
    /// Width of a head of q and k.
    pub key_dim: usize,
    /// Width of a head of v.
    pub value_dim: usize,
    /// Tokens that the convolution before it meets, with the own one.
    pub taps: usize,
    /// Whether all that a key head needs stands together in the rows of two projections (`in_proj_qkvz`, `in_proj_ba`).
    pub by_key_head: bool,
}

impl GatedDelta {
    /// Values of v, of the output gate and of the output for a token.
    pub(crate) fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Values of q, k and v for a token.
    pub(crate) fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_width()
    }
}

/// Sizes and constants of Mamba-2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mamba2 {
    /// The module in the layer.
    pub module: &'static str,
    /// Heads.
    pub heads: ssd::Heads,
    /// Tokens that the convolution meets, with the own one.
    pub taps: usize,
    /// Whether the convolution has biases.
    pub conv_bias: bool,
    /// Whether the projections into it and out of it have biases.
    pub bias: [bool; 2],
    /// The least and the largest step.
    pub limits: [f32; 2],
    /// The norm of its output, over each group of heads.
    pub norm: Mamba2Norm,
    /// Factors of z, x, B, C and dt.
    pub factors: [f32; 5],
    /// Factor of what it adds to the residual stream, beside that of all layers.
    pub scale: f32,
}

/// Where Mamba-2 norms its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mamba2Norm {
    /// Nowhere.
    None,
    /// Before the gate.
    BeforeGate,
    /// Behind the gate.
    AfterGate,
}

impl Mamba2 {
    /// Values of x, of the output gate and of the output for a token.
    pub(crate) fn width(&self) -> usize {
        self.heads.count * self.heads.head_dim
    }

    /// Values of x, B and C for a token.
    pub(crate) fn channels(&self) -> usize {
        self.width() + 2 * self.heads.groups * self.heads.state_dim
    }

    /// Values of all that is projected for a token.
    pub(crate) fn projected(&self) -> usize {
        self.width() + self.channels() + self.heads.count
    }
}

/// Sizes of a short convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortConv {
    /// Tokens that it meets, with the own one.
    pub taps: usize,
    /// Whether convolution and projections have biases.
    pub bias: bool,
}

/// Norms of q and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QkNorm {
    /// What a norm goes over.
    pub over: QkNormOver,
    /// The modules, in `self_attn`.
    pub names: [&'static str; 2],
    /// After the rotation, not before it.
    pub after_rotation: bool,
}

/// What a norm of q or k goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNormOver {
    /// Each head, with one weight for all.
    Head,
    /// All heads together.
    Whole,
    /// Each head, with a layer norm without bias of its own: `NAME.norms.N`.
    OwnLayer,
}

impl QkNorm {
    /// `q_norm` and `k_norm` of each head.
    pub const HEAD: QkNorm =
        QkNorm { over: QkNormOver::Head, names: ["q_norm", "k_norm"], after_rotation: false };
    /// `q_norm` and `k_norm` over all heads.
    pub const WHOLE: QkNorm = QkNorm { over: QkNormOver::Whole, ..QkNorm::HEAD };
    /// `q_layernorm.norms.N` and `k_layernorm.norms.N`.
    pub const OWN_LAYER: QkNorm =
        QkNorm { over: QkNormOver::OwnLayer, names: ["q_layernorm", "k_layernorm"], after_rotation: false };
}

/// Shape of an MLP, and its modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(act(gate(x)) * up(x))`: the names of gate, up and down.
    Gated([&'static str; 3]),
    /// The same with gate and up in one matrix: the names of both and of down.
    Fused([&'static str; 2]),
    /// `down(act(up(x)))`: the names of up and down.
    Plain([&'static str; 2]),
}

impl MlpKind {
    /// As Llama names it.
    pub const GATED: MlpKind = MlpKind::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
    /// As Phi 3 names it.
    pub const FUSED: MlpKind = MlpKind::Fused(["mlp.gate_up_proj", "mlp.down_proj"]);

    /// Matrices of `D` by `F` that the activation reads from: 2 with a gate.
    fn inputs(&self) -> usize {
        if matches!(self, MlpKind::Plain(_)) { 1 } else { 2 }
    }
}

/// Experts of the layers that have some.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Experts `E` of a layer.
    pub count: usize,
    /// Experts of a token.
    pub per_token: usize,
    /// Width of an expert.
    pub ffn: usize,
    /// What makes weights of the router's logits.
    pub score: Score,
    /// Whether the weights of a token's experts are made to sum to 1.
    pub normalise: bool,
    /// The tensor that is added to the scores when experts are chosen, in `module`.
    pub correction: Option<&'static str>,
    /// An expert that every token goes to.
    pub shared: Option<SharedExpert>,
    /// Whether each layer has experts; an MLP if not.
    pub layers: Vec<bool>,
    /// The module around router and experts in files, such as `mlp`.
    pub module: &'static str,
    /// The router in that module.
    pub router: &'static str,
    /// Whether router and experts have biases.
    pub bias: bool,
    /// How files hold the experts of a layer that they hold together.
    pub stacked: Stacked,
    /// Names of gate, up and down of an expert in files.
    pub names: [&'static str; 3],
}

/// How a file holds all experts of a layer together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stacked {
    /// `gate_up_proj` `[E, 2 F, D]`, gate's rows before up's, and `down_proj` `[E, D, F]`. A file may also hold every matrix by
    /// itself, and results do.
    Rows,
    /// Transposed, gate and up in turn: `gate_up_proj` `[E, D, 2 F]` and `down_proj` `[E, F, D]`. Files know no other form, but
    /// for MXFP4 (`_blocks` and `_scales`), which is not transposed.
    Columns,
}

/// An expert that every token goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedExpert {
    /// Its width.
    pub ffn: usize,
    /// Its module in the layer.
    pub module: &'static str,
    /// The linear whose sigmoid is its weight.
    pub gate: Option<&'static str>,
}

/// Rotary embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies.
    pub scaling: RopeScaling,
    /// Elements of a head that are rotated, from its start.
    pub dims: usize,
    /// Which elements are rotated together.
    pub pairs: Pairs,
    /// How queries grow with their position.
    pub query_scale: Option<QueryScale>,
}

/// Queries at position `p` are multiplied by `1 + beta ln(1 + floor(p / context))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScale {
    /// Strength.
    pub beta: f64,
    /// Context of the pre-training.
    pub context: usize,
}

impl Experts {
    /// What most families have: experts of the MLP's width in every layer, weighed by a softmax over the chosen ones.
    pub(crate) fn common(c: &ModelConfig, count: usize, per_token: usize) -> Self {
        Experts {
            count,
            per_token,
            ffn: c.intermediate_size,
            score: Score::Softmax,
            normalise: true,
            correction: None,
            shared: None,
            layers: vec![true; c.num_hidden_layers],
            module: "mlp",
            router: "gate",
            bias: false,
            stacked: Stacked::Rows,
            names: ["gate_proj", "up_proj", "down_proj"],
        }
    }

    /// Refuses more experts for a token than there are.
    pub(crate) fn check(&self, c: &ModelConfig) -> Result<()> {
        if self.per_token <= self.count {
            return Ok(());
        }
        let problem = format!("`num_experts_per_tok`: {} of {} experts", self.per_token, self.count);
        Err(Error::file(&c.path, problem))
    }

    /// Width of the experts of a token together.
    fn width(&self) -> usize {
        self.per_token * self.ffn + self.shared.map_or(0, |shared| shared.ffn)
    }
}

impl Architecture {
    /// Name and shape of a linear that every layer has, by whose storage the others are judged.
    pub(crate) fn probe(&self) -> (String, usize, usize) {
        let (module, rows, cols) = match self.mlp {
            _ if self.experts.is_some() => {
                let (module, cols) = self.mixing_output(0);
                (module, self.hidden, cols)
            }
            MlpKind::Fused([both, _]) => (both.to_string(), 2 * self.attention(0).ffn, self.hidden),
            MlpKind::Gated([_, up, _]) | MlpKind::Plain([up, _]) => {
                (up.to_string(), self.attention(0).ffn, self.hidden)
            }
        };
        (format!("{}.weight", self.tree.in_layer(0, &module)), rows, cols)
    }

    /// Name of the embedding's weight.
    pub(crate) fn embedding_weight(&self) -> String {
        format!("{}.weight", self.tree.embedding)
    }

    /// The matrix by whose storage experts are judged: by its own name, and as a part of a stacked tensor `[E, in, out]`.
    pub(crate) fn expert_probe(&self) -> Option<(String, String, [usize; 3])> {
        let e = self.experts.as_ref()?;
        let layer = e.layers.iter().position(|has| *has)?;
        let own = format!("{}.experts.0.{}.weight", self.tree.in_layer(layer, e.module), e.names[2]);
        Some((own, self.tree.in_layer(layer, "mlp.experts.down_proj"), [e.count, e.ffn, self.hidden]))
    }

    /// Whether folders have the experts of a layer together and transposed.
    pub(crate) fn experts_in_columns(&self) -> bool {
        self.experts.as_ref().is_some_and(|e| e.stacked == Stacked::Columns)
    }

    /// Values of the experts of a layer.
    pub(crate) fn expert_elements(&self, layer: usize) -> usize {
        self.experts_of(layer).map_or(0, |e| 3 * e.count * e.ffn * self.hidden)
    }

    /// The attention of a layer.
    pub fn attention(&self, layer: usize) -> LayerAttention {
        let usual = LayerAttention {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            values: Values::Projected,
            ffn: self.ffn,
        };
        self.attentions.get(layer).copied().unwrap_or(usual)
    }

    /// Values of q, and of k, for a token in the attention of a layer.
    pub(crate) fn qk_width(&self, layer: usize) -> (usize, usize) {
        let LayerAttention { kv_heads, head_dim, .. } = self.attention(layer);
        (self.heads * head_dim, kv_heads * head_dim)
    }

    /// The earlier layer whose keys and values a layer uses.
    pub(crate) fn takes_keys_of(&self, layer: usize) -> Option<usize> {
        match self.attention(layer).values {
            Values::Layer(from) => Some(from),
            Values::Projected | Values::Keys => None,
        }
    }

    /// Whether later layers use the keys and values of a layer.
    pub(crate) fn gives_keys(&self, layer: usize) -> bool {
        (layer + 1..self.layers).any(|later| self.takes_keys_of(later) == Some(layer))
    }

    /// Width of the widest MLP.
    pub(crate) fn widest_ffn(&self) -> usize {
        (0..self.layers).map(|i| self.attention(i).ffn).max().unwrap_or(self.ffn)
    }

    /// Values of q for a token, of all layers with attention together.
    pub fn attended(&self) -> usize {
        let attends = |i: &usize| self.mixers[*i].attends();
        (0..self.layers).filter(attends).map(|i| self.qk_width(i).0).sum()
    }

    /// The module that ends the mixing of a layer, and the values that it reads for a token.
    fn mixing_output(&self, layer: usize) -> (String, usize) {
        match self.mixers[layer] {
            Mixing::Attention | Mixing::AttentionAndMamba2(_) => {
                (format!("self_attn.{}", self.o_proj), self.qk_width(layer).0)
            }
            Mixing::ShortConv(_) => ("conv.out_proj".into(), self.hidden),
            Mixing::GatedDelta(delta) => ("linear_attn.out_proj".into(), delta.value_width()),
            Mixing::Mamba2(mamba) => (format!("{}.out_proj", mamba.module), mamba.width()),
        }
    }

    /// Linears of what mixes the tokens of a layer, and their values.
    fn mixing(&self, layer: usize) -> (usize, usize) {
        self.linears_of(layer, self.mixers[layer])
    }

    fn linears_of(&self, layer: usize, mixing: Mixing) -> (usize, usize) {
        match mixing {
            Mixing::Attention => {
                let (q, kv) = self.qk_width(layer);
                let gate = if self.attention_gate { q } else { 0 };
                let keyed = match self.attention(layer).values {
                    Values::Projected => 2,
                    Values::Keys => 1,
                    Values::Layer(_) => 0,
                };
                (2 + keyed, (2 * q + keyed * kv + gate) * self.hidden)
            }
            Mixing::ShortConv(_) => (2, 4 * self.hidden * self.hidden),
            Mixing::GatedDelta(delta) => {
                let rows = delta.channels() + 2 * delta.value_width() + 2 * delta.value_heads;
                (if delta.by_key_head { 3 } else { 5 }, rows * self.hidden)
            }
            Mixing::Mamba2(mamba) => (2, (mamba.projected() + mamba.width()) * self.hidden),
            Mixing::AttentionAndMamba2(mamba) => {
                let [attention, mamba] =
                    [Mixing::Attention, Mixing::Mamba2(mamba)].map(|m| self.linears_of(layer, m));
                (attention.0 + mamba.0, attention.1 + mamba.1)
            }
        }
    }

    /// The experts of a layer, if it has some.
    pub(crate) fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| e.layers[layer])
    }

    /// The most linears that the layers can have.
    pub(crate) fn linear_count(&self) -> usize {
        let ffn = |i| 3 * self.experts_of(i).map_or(1, |e| e.count + 2);
        (0..self.layers).map(|i| self.mixing(i).0 + ffn(i)).sum()
    }

    /// Values of the linears of all layers.
    pub fn linear_elements(&self) -> usize {
        (0..self.layers).map(|i| self.layer_elements(i)).sum()
    }

    /// Values of the linears of a layer.
    pub(crate) fn layer_elements(&self, layer: usize) -> usize {
        self.layer_with(layer, self.experts.as_ref().map_or(0, |e| e.count))
    }

    /// Values of the linears of all layers that a token is multiplied with.
    pub(crate) fn active_elements(&self) -> usize {
        let experts = self.experts.as_ref().map_or(0, |e| e.per_token);
        (0..self.layers).map(|i| self.layer_with(i, experts)).sum()
    }

    fn layer_with(&self, layer: usize, experts: usize) -> usize {
        let parts = 1 + self.mlp.inputs();
        self.mixing(layer).1
            + match self.experts_of(layer) {
                Some(e) => {
                    let shared = e.shared.map_or(0, |s| 3 * s.ffn + usize::from(s.gate.is_some()));
                    self.hidden * (e.count + 3 * experts * e.ffn + shared)
                }
                None => parts * self.attention(layer).ffn * self.hidden,
            }
    }

    /// Values of the largest matrix, whatever is stored together.
    pub(crate) fn largest_matrix(&self) -> usize {
        let projected = |i| {
            let (q, kv) = self.qk_width(i);
            2 * q + 2 * kv
        };
        let projected = (0..self.layers).map(projected).max().unwrap_or(0);
        let expert = self.experts.as_ref().map_or(0, |e| 2 * e.ffn.max(e.shared.map_or(0, |s| s.ffn)));
        self.hidden
            * self.vocab.max(2 * self.widest_ffn()).max(projected).max(expert).max(self.mixing_width())
    }

    /// Values for a token that the widest mixing without attention starts from.
    pub(crate) fn mixing_width(&self) -> usize {
        let width = |mixing: &Mixing| match mixing {
            Mixing::Attention => 0,
            Mixing::ShortConv(_) => 3 * self.hidden,
            Mixing::GatedDelta(delta) => delta.channels() + delta.value_width(),
            Mixing::Mamba2(mamba) | Mixing::AttentionAndMamba2(mamba) => mamba.projected(),
        };
        self.mixers.iter().map(width).max().unwrap_or(0)
    }

    /// Values that the activation reads for a token, in the widest layer.
    pub(crate) fn hidden_width(&self) -> usize {
        (0..self.layers).map(|i| self.hidden_width_of(i)).max().unwrap_or(0)
    }

    /// Values that the activation reads for a token in a layer.
    pub(crate) fn hidden_width_of(&self, layer: usize) -> usize {
        match self.experts_of(layer) {
            Some(e) => 2 * e.width(),
            None => self.mlp.inputs() * self.attention(layer).ffn,
        }
    }

    /// The network that most families vary: norms before, SwiGLU, one rotation for all layers, no windows.
    pub(crate) fn common(c: &ModelConfig) -> Self {
        Architecture {
            tree: c.tree,
            vocab: c.vocab_size,
            hidden: c.hidden_size,
            layers: c.num_hidden_layers,
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            attentions: Vec::new(),
            ffn: c.intermediate_size,
            norm: rms_norm::RMS,
            norm_eps: c.norm_eps as f32,
            norms: LayerNorms::BEFORE,
            final_norm: "norm",
            mixers: vec![Mixing::Attention; c.num_hidden_layers],
            qk_norm: None,
            v_norm: false,
            qkv_bias: c.attention_bias,
            o_bias: c.attention_bias,
            mlp_bias: c.mlp_bias,
            fused_qkv: false,
            sinks: false,
            attention_gate: false,
            o_proj: "o_proj",
            mlp: MlpKind::GATED,
            experts: None,
            activation: c.hidden_act,
            xielu: false,
            windows: vec![None; c.num_hidden_layers],
            ropes: vec![rope(c, 10_000.0, 1.0)],
            rope_of_layer: vec![Some(0); c.num_hidden_layers],
            score_scale: 1.0 / (c.head_dim as f32).sqrt(),
            score_cap: None,
            embed_scale: 1.0,
            residual_scale: 1.0,
            layer_scalar: false,
            attention_scale: 1.0,
            mlp_scale: 1.0,
            gate_scale: 1.0,
            logits: Logits::default(),
            tied: c.tie_word_embeddings.unwrap_or(false),
            without_branches: &[],
        }
    }
}

/// The rotary embeddings of all layers, with the family's defaults for base and rotated share.
pub(crate) fn rope(c: &ModelConfig, theta: f64, partial: f64) -> Rope {
    let dims = (c.head_dim as f64 * c.rope.partial.unwrap_or(partial)) as usize;
    let theta = c.rope.theta.unwrap_or(theta);
    Rope { theta, scaling: c.rope.scaling.clone(), dims, pairs: Pairs::Halves, query_scale: None }
}

/// The rotary embeddings of a kind of layers, as they are stated for it, of whole heads.
pub(crate) fn rope_of_kind(c: &ModelConfig, stated: Option<&RopeConfig>, theta: f64) -> Rope {
    Rope {
        theta: stated.and_then(|r| r.theta).unwrap_or(theta),
        scaling: stated.map_or(RopeScaling::None, |r| r.scaling.clone()),
        dims: c.head_dim,
        pairs: Pairs::Halves,
        query_scale: None,
    }
}
