//! A Hugging Face model folder: weights in safetensors, and the small JSON files around them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ferrotune_kernels::dtype::DType;
use ferrotune_kernels::quant::Weight;
use serde_json::Value;

use super::safetensors::{Dtype, SafeFile, Shards, TensorRef};
use super::{GenerationConfig, bnb4, bnb8};
use crate::arch::config::token_ids;
use crate::{Error, Result};

/// Files that a merged or quantized model folder takes over from its base, when they are there.
const SIDECARS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    TOOL_TEMPLATE,
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "USE_POLICY.md",
];

/// The template for chats with tools, where it is a file.
pub(crate) const TOOL_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";

/// An opened model folder.
pub(crate) struct Folder {
    dir: PathBuf,
    pub(crate) shards: Shards,
    /// The small files around the weights as they were when the folder was opened: what a run writes at its end is what it
    /// began with, whatever has become of the folder since.
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Folder {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let shards = Shards::open(dir)?;
        let mut files = Vec::new();
        for &name in SIDECARS {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => files.push((name, bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(&path, e)),
            }
        }
        Ok(Folder { dir: dir.to_path_buf(), shards, files })
    }

    /// Names of the model's tensors; the parts of a quantized weight count as one.
    pub(crate) fn names(&self) -> Vec<String> {
        let part = |name: &str| bnb4::is_part(&self.shards, name) || bnb8::is_part(&self.shards, name);
        self.shards.names().filter(|name| !part(name)).map(str::to_string).collect()
    }

    fn find(&self, name: &str) -> Result<(&SafeFile, &TensorRef)> {
        self.shards.get(name).ok_or_else(|| super::missing_tensor(&self.dir, name, self.shards.names()))
    }

    /// Whether the head is in the files with other values than the embedding.
    pub(crate) fn has_another_head(&self) -> bool {
        let of = |name: &str| self.shards.get(name);
        match (of("model.embed_tokens.weight"), of("lm_head.weight")) {
            (Some(embedding), Some(head)) => !same_values(embedding, head),
            _ => false,
        }
    }

    pub(crate) fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let (file, tensor) = self.find(name)?;
        for read in [bnb4::read, bnb8::read] {
            if let Some(quantized) = read(&self.shards, name, rows, cols)? {
                return Ok(quantized);
            }
        }
        check_shape(file, name, tensor, &[rows, cols])?;
        let dtype = float(file, name, tensor.dtype)?;
        Ok(Weight::dense(rows, cols, dtype, tensor.bytes.clone())?)
    }

    /// Rows of one matrix of a stacked tensor.
    pub(crate) fn stacked(
        &self,
        name: &str,
        shape: [usize; 3],
        index: usize,
        rows: Range<usize>,
    ) -> Result<Weight> {
        let (file, tensor) = self.find(name)?;
        check_shape(file, name, tensor, &shape)?;
        let dtype = float(file, name, tensor.dtype)?;
        let [_, each, cols] = shape;
        let row = cols * dtype.size();
        let start = index * each;
        let bytes = tensor.bytes.part((start + rows.start) * row..(start + rows.end) * row);
        Ok(Weight::dense(rows.len(), cols, dtype, bytes)?)
    }

    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (file, tensor) = self.find(name)?;
        check_shape(file, name, tensor, &[len])?;
        tensor.to_f32().ok_or_else(|| not_float(file, name, tensor.dtype))
    }

    pub(crate) fn tokenizer_json(&self) -> Result<Vec<u8>> {
        if let Some(bytes) = self.file("tokenizer.json") {
            return Ok(bytes.to_vec());
        }
        let problem = match self.file("tokenizer.model") {
            Some(_) => "missing; only the old tokenizer.model is here",
            None => "missing",
        };
        Err(Error::file(self.dir.join("tokenizer.json"), problem)
            .with_hint("copy the tokenizer.json of the model this one was made from"))
    }

    /// A small file of the folder; `None` if it was not there.
    fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(own, _)| *own == name).map(|(_, bytes)| &bytes[..])
    }

    /// A JSON file of the folder; `None` if it was not there.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(text) = self.file(name) else { return Ok(None) };
        crate::json::in_file(&self.dir.join(name), text).map(Some)
    }

    pub(crate) fn chat_template(&self) -> Result<Option<String>> {
        if let Some(own) = self.text("chat_template.jinja")? {
            return Ok(Some(own));
        }
        Ok(self.templates_of_json()?.0)
    }

    /// The template for chats with tools, if there is another one for them: in a file of its own, or in the list of the
    /// tokenizer's configuration, which does not count beside templates in files.
    pub(crate) fn tool_template(&self) -> Result<Option<String>> {
        let own = self.text(TOOL_TEMPLATE)?;
        match own.is_some() || self.file("chat_template.jinja").is_some() {
            true => Ok(own),
            false => Ok(self.templates_of_json()?.1),
        }
    }

    fn templates_of_json(&self) -> Result<(Option<String>, Option<String>)> {
        for file in ["tokenizer_config.json", "chat_template.json"] {
            let json = self.json(file)?;
            let templates = json.as_ref().and_then(|v| v.get("chat_template")).map(named_templates);
            if let Some(found @ (Some(_), _)) = templates {
                return Ok(found);
            }
        }
        Ok((None, None))
    }

    /// A text file of the folder; `None` if it was not there.
    fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.file(name) else { return Ok(None) };
        match std::str::from_utf8(crate::json::without_mark(bytes)) {
            Ok(text) => Ok(Some(text.to_string())),
            Err(_) => Err(Error::file(self.dir.join(name), "not valid UTF-8")),
        }
    }

    pub(crate) fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
        let mut tokens = BTreeMap::new();
        // The tokenizer's own configuration is the newer of the two and wins.
        for file in ["special_tokens_map.json", "tokenizer_config.json"] {
            let value = self.json(file)?;
            let entries = value.as_ref().and_then(Value::as_object).into_iter().flatten();
            for (key, value) in entries.filter(|(key, _)| key.ends_with("_token")) {
                let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
                if let Some(text) = text {
                    tokens.insert(key.clone(), text.to_string());
                }
            }
        }
        Ok(tokens)
    }

    /// Whether the tokenizer is asked to put a beginning-of-sequence token first.
    pub(crate) fn add_bos(&self) -> Result<Option<bool>> {
        Ok(self.json("tokenizer_config.json")?.and_then(|v| v.get("add_bos_token")?.as_bool()))
    }

    pub(crate) fn generation(&self) -> Result<GenerationConfig> {
        let Some(value) = self.json("generation_config.json")? else {
            return Ok(GenerationConfig::default());
        };
        let number = |key: &str| value.get(key).and_then(Value::as_f64);
        let count = |key: &str| value.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        Ok(GenerationConfig {
            do_sample: value.get("do_sample").and_then(Value::as_bool),
            temperature: number("temperature"),
            top_p: number("top_p"),
            top_k: count("top_k"),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
            max_new_tokens: count("max_new_tokens"),
            eos_token_ids: value.get("eos_token_id").and_then(token_ids).unwrap_or_default(),
        })
    }

    pub(crate) fn sidecars(&self) -> Vec<(String, Vec<u8>)> {
        self.files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect()
    }
}

/// The template for ordinary chats and the one for chats with tools, of a text or a list of named ones.
pub(crate) fn named_templates(value: &Value) -> (Option<String>, Option<String>) {
    let source = |template: &Value| template["template"].as_str().map(str::to_string);
    match value {
        Value::Array(list) => {
            let named = |name: &str| list.iter().find(|template| template["name"] == name);
            let default = named("default").or(list.first()).and_then(source);
            (default, named("tool_use").and_then(source))
        }
        other => (other.as_str().map(str::to_string), None),
    }
}

/// Whether two tensors of floats have the same shape and values. Little of them is in memory at a time.
fn same_values(a: (&SafeFile, &TensorRef), b: (&SafeFile, &TensorRef)) -> bool {
    /// Values that are compared at a time.
    const PART: usize = 1 << 20;
    if a.1.shape != b.1.shape || !a.1.is_float() || !b.1.is_float() {
        return false;
    }
    let count: usize = a.1.shape.iter().product();
    let part = |t: &TensorRef, range: &Range<usize>| {
        let size = t.bytes.as_slice().len() / count.max(1);
        TensorRef { bytes: t.bytes.part(range.start * size..range.end * size), ..t.clone() }
    };
    let mut parts = (0..count.div_ceil(PART)).map(|i| i * PART..((i + 1) * PART).min(count));
    parts.all(|range| {
        let (x, y) = (part(a.1, &range), part(b.1, &range));
        let equal = x.dtype == y.dtype && x.bytes.as_slice() == y.bytes.as_slice();
        let same = equal || x.to_f32() == y.to_f32();
        a.0.release(&x);
        b.0.release(&y);
        same
    })
}

fn float(file: &SafeFile, name: &str, dtype: Dtype) -> Result<DType> {
    match dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::Bf16),
        other => Err(not_float(file, name, other)),
    }
}

fn check_shape(file: &SafeFile, name: &str, tensor: &TensorRef, expected: &[usize]) -> Result<()> {
    if tensor.shape == expected {
        return Ok(());
    }
    let problem = format!("shape is {:?}, the model's config.json asks for {expected:?}", tensor.shape);
    Err(Error::tensor(file.path(), name, problem))
}

fn not_float(file: &SafeFile, name: &str, dtype: Dtype) -> Error {
    Error::tensor(file.path(), name, format!("dtype is {dtype:?}, expected F32, F16 or BF16"))
}
