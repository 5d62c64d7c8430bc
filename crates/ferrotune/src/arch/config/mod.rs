//! `config.json`: which network this is.
//!
//! Both spellings are read, the one of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of
//! transformers 5 (`rope_parameters`, `dtype`). What we would compute wrongly is refused here, by name, before any
//! weight is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use defaults::{Defaults, RopeStyle, Window};
pub(crate) use keys::{Keys, token_ids};
pub use rope::{RopeConfig, RopeScaling};

use ferrotune_kernels::ops::activation::Activation;

use crate::arch::tree::Tree;
use crate::{Error, Result};

mod defaults;
mod keys;
mod rope;

/// Sizes and constants of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Family, as in `model_type`.
    pub model_type: String,
    /// Width of the residual stream, `D`.
    pub hidden_size: usize,
    /// Width inside the MLP, `F`.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads, `H`.
    pub num_attention_heads: usize,
    /// Key and value heads, `G`.
    pub num_key_value_heads: usize,
    /// Width of a head; not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Vocabulary, `V`.
    pub vocab_size: usize,
    /// Longest context the base was made for.
    pub max_position_embeddings: usize,
    /// Epsilon of the norms (`rms_norm_eps`, `layer_norm_eps` or `norm_epsilon`).
    pub norm_eps: f64,
    /// Rotary embeddings.
    pub rope: RopeConfig,
    /// Rotary embeddings that are stated for one kind of layers.
    pub rope_by_layer: BTreeMap<String, RopeConfig>,
    /// Whether the output head is the embedding matrix, if stated; transformers leaves it out where it is the
    /// family's default.
    pub tie_word_embeddings: Option<bool>,
    /// Activation of the MLP's gate.
    pub hidden_act: Activation,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP projections have biases.
    pub mlp_bias: bool,
    /// Tokens that a query sees back in layers with a window, as stated.
    pub sliding_window: Option<usize>,
    /// Whether `sliding_window` is in use, if stated.
    pub use_sliding_window: Option<bool>,
    /// Whether each layer has a window, if stated (`layer_types`).
    pub layer_types: Option<Vec<LayerType>>,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End tokens; `config.json` may list several.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// The file as it was, for writing merged models and for what only one family has.
    pub raw: Value,
    /// Of a model for more than text, its text part as a file of its own would have it.
    pub(crate) text: Option<Value>,
    /// Where the network stands in the tree of modules.
    pub tree: &'static Tree,
    /// Where it was read, for messages.
    pub path: PathBuf,
    /// What it states and neither transformers nor llama.cpp computes, in sentences.
    pub notes: Vec<String>,
}

/// What mixes the tokens of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerType {
    /// Attention over the whole segment.
    Full,
    /// Attention over the last `sliding_window` tokens.
    Sliding,
    /// A short convolution.
    Conv,
    /// Linear attention: a recurrence.
    Linear,
    /// Attention and a recurrence side by side.
    Hybrid,
}

impl LayerType {
    const ALL: [LayerType; 5] =
        [LayerType::Full, LayerType::Sliding, LayerType::Conv, LayerType::Linear, LayerType::Hybrid];

    /// Its name in configurations of transformers 5.
    pub(crate) fn name(self) -> &'static str {
        self.names()[0]
    }

    /// Its names in configurations, transformers 5's first.
    fn names(self) -> &'static [&'static str] {
        match self {
            LayerType::Full => &["full_attention", "attention"],
            LayerType::Sliding => &["sliding_attention"],
            LayerType::Conv => &["conv"],
            LayerType::Linear => &["linear_attention", "mamba"],
            LayerType::Hybrid => &["hybrid"],
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        LayerType::ALL.into_iter().find(|kind| kind.names().contains(&name))
    }
}

impl ModelConfig {
    /// Interprets the content of a `config.json` as a family's code does; `path` is for messages.
    pub(crate) fn from_json(path: &Path, raw: Value, defaults: &Defaults) -> Result<Self> {
        let Some(object) = raw.as_object() else {
            return Err(Error::file(path, "not a JSON object"));
        };
        let keys = Keys { path, object };
        let model_type = keys.text("model_type")?.ok_or_else(|| keys.missing("model_type"))?;
        let hidden_size = keys.size("hidden_size")?;
        let num_attention_heads = keys.size("num_attention_heads")?;
        let num_key_value_heads = keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads);
        let head_dim = match keys.optional_size("head_dim")?.or(defaults.head_dim) {
            Some(given) => given,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                let found =
                    format!("hidden_size {hidden_size} is not a multiple of {num_attention_heads} heads");
                return Err(keys.bad("head_dim", format!("absent, and {found}")));
            }
        };
        if head_dim % 2 == 1 {
            return Err(keys.bad("head_dim", format!("{head_dim} is odd, rotary embeddings need pairs")));
        }
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let problem =
                format!("{num_key_value_heads} does not divide num_attention_heads {num_attention_heads}");
            return Err(keys.bad("num_key_value_heads", problem));
        }
        let max_position_embeddings = keys.optional_size("max_position_embeddings")?;
        let mut notes = Vec::new();
        let (rope, rope_by_layer) = rope::read(&keys, defaults, max_position_embeddings, &mut notes)?;
        let layers = keys.size("num_hidden_layers")?;
        let use_sliding_window = keys.flag("use_sliding_window")?;
        let sliding_window = window(&keys, defaults.window, use_sliding_window)?;
        Ok(ModelConfig {
            hidden_size,
            intermediate_size: match keys
                .first_size([defaults.ffn_key, "intermediate_size"])?
                .or(defaults.ffn)
            {
                Some(size) => size,
                None => return Err(keys.missing("intermediate_size")),
            },
            num_hidden_layers: layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: keys.size("vocab_size")?,
            max_position_embeddings: max_position_embeddings.unwrap_or(2048),
            norm_eps: keys.positive(defaults.norm_eps_key)?.unwrap_or(defaults.norm_eps),
            rope,
            rope_by_layer,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            hidden_act: activation(&keys, defaults)?,
            attention_bias: keys.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false),
            sliding_window,
            use_sliding_window,
            layer_types: layer_types(&keys, defaults, layers, sliding_window)?,
            bos_token_id: keys.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: keys.tokens("eos_token_id")?,
            pad_token_id: keys.tokens("pad_token_id")?.first().copied(),
            model_type: model_type.to_string(),
            path: path.to_path_buf(),
            notes,
            raw,
            text: None,
            tree: &Tree::TEXT,
        })
    }

    /// The keys of the network that is trained.
    pub(crate) fn network(&self) -> &Value {
        self.text.as_ref().unwrap_or(&self.raw)
    }

    /// A key of the whole model, of its text part where the whole does not state it.
    pub(crate) fn stated(&self, key: &str) -> Option<&Value> {
        let stated = |of: &'_ Value| of.get(key).is_some_and(|value| !value.is_null());
        let part = &self.raw[TEXT_CONFIG];
        [&self.raw, part].into_iter().find(|of| stated(of))?.get(key)
    }

    /// The type of floats that the file names.
    pub(crate) fn float_type(&self) -> Option<&str> {
        ["dtype", "torch_dtype"].into_iter().find_map(|key| self.stated(key)?.as_str())
    }

    /// Sets a key of the whole model and of its text part: which of the two counts depends on the reader's version.
    pub(crate) fn set(file: &mut Map<String, Value>, key: &str, value: &Value) {
        if let Some(text) = file.get_mut(TEXT_CONFIG).and_then(Value::as_object_mut) {
            text.insert(key.into(), value.clone());
        }
        file.insert(key.into(), value.clone());
    }

    /// Dropout that the model's own code applies in training, and that is not applied here; with the values.
    pub(crate) fn own_dropout(&self) -> Vec<(&'static str, f64)> {
        const KEYS: [&str; 6] = [
            "attention_dropout",
            "resid_pdrop",
            "embd_pdrop",
            "residual_dropout",
            "embedding_dropout",
            "hidden_dropout",
        ];
        let stated = KEYS.into_iter().filter_map(|key| Some((key, self.network().get(key)?.as_f64()?)));
        stated.filter(|(_, share)| *share > 0.0).collect()
    }

    /// Takes embedding and head apart: both are in the files, and they differ. transformers does so too since version 5, as
    /// the configuration must be wrong then.
    pub(crate) fn untie(&mut self) {
        const KEY: &str = "tie_word_embeddings";
        self.tie_word_embeddings = Some(false);
        let said = self.stated(KEY).is_some() || self.text.is_none();
        if let Some(file) = self.raw.as_object_mut() {
            Self::set(file, KEY, &Value::Bool(false));
        }
        // Some wrappers' classes take it for the usual case, and none of their large models has it.
        if !said {
            return;
        }
        self.notes.push(format!(
            "{}: embedding and head are to be one (`tie_word_embeddings`), but both are in the weights and differ; the head \
             of the file is used",
            self.path.display()
        ));
    }

    /// Access to keys that only one family has.
    pub(crate) fn with_keys<T>(&self, read: impl FnOnce(&Keys<'_>) -> Result<T>) -> Result<T> {
        match self.network().as_object() {
            Some(object) => read(&Keys { path: &self.path, object }),
            None => Err(Error::file(&self.path, "not a JSON object")),
        }
    }
}

/// The key of the text part of a model for more than text.
pub(crate) const TEXT_CONFIG: &str = "text_config";

/// The window of the layers that have one.
fn window(keys: &Keys<'_>, when: Window, in_use: Option<bool>) -> Result<Option<usize>> {
    const KEY: &str = "sliding_window";
    match when {
        Window::IfInUse if in_use != Some(true) => Ok(None),
        Window::Or(usual) if !keys.has(KEY) => Ok(Some(usual)),
        _ => keys.optional_size(KEY),
    }
}

fn layer_types(
    keys: &Keys<'_>,
    defaults: &Defaults,
    layers: usize,
    window: Option<usize>,
) -> Result<Option<Vec<LayerType>>> {
    const KEY: &str = "layer_types";
    let key = if keys.has(KEY) { KEY } else { defaults.layer_types_key };
    let Some(value) = keys.get(key) else { return Ok(None) };
    let known = defaults.layer_types;
    let one = |v: &Value| {
        let found = v.as_str().and_then(LayerType::of_name);
        found.filter(|kind| known.contains(kind)).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|kind| kind.names()[0]).collect();
            let here = format!("in a {} model", keys.family());
            keys.bad(key, format!("{v} is not supported {here} ({})", names.join(", ")))
        })
    };
    let Some(list) = value.as_array() else { return Err(keys.bad(key, "not a list")) };
    let types = list.iter().map(one).collect::<Result<Vec<_>>>()?;
    if types.len() < layers {
        return Err(keys.bad(key, format!("{} entries for {layers} layers", types.len())));
    }
    if window.is_none() && types[..layers].contains(&LayerType::Sliding) {
        return Err(keys.bad(key, "it has sliding_attention, and no `sliding_window` is in use"));
    }
    Ok(Some(types))
}

fn activation(keys: &Keys<'_>, defaults: &Defaults) -> Result<Activation> {
    let key = defaults.activation_key;
    match keys.text(key)? {
        None => Ok(defaults.activation),
        Some(own) if defaults.own_activation == Some(own) => Ok(defaults.activation),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some(other) => {
            Err(keys.bad(key, format!("activation `{other}` is not supported (silu, gelu_pytorch_tanh)")))
        }
    }
}
