//! A Hugging Face model folder: weights in safetensors, and the small JSON files around them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ferrotune_kernels::dtype::DType;
use ferrotune_kernels::quant::Weight;
use serde_json::Value;

use super::columns::{self, Wanted};
use super::safetensors::{Dtype, OutTensor, SafeFile, Shards, TensorRef};
use super::source::{Source, missing_tensor};
use super::{GENERATION_CONFIG, GenerationConfig, fp8, quantized};
use crate::arch::config::ModelConfig;
use crate::arch::tree::Tree;
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
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "USE_POLICY.md",
];

/// Named templates that are files.
const TEMPLATES: &str = "additional_chat_templates";

/// The template for chats with tools, where it is a file.
pub(crate) const TOOL_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";

/// An opened model folder.
pub(crate) struct Folder {
    dir: PathBuf,
    shards: Shards,
    tree: &'static Tree,
    /// What scales of weights in FP8 are for.
    fp8_block: fp8::Block,
    /// The small files around the weights as they were when the folder was opened: what a run writes at its end is what it
    /// began with, whatever has become of the folder since.
    files: Vec<(String, Vec<u8>)>,
}

impl Folder {
    /// Opens the folder of a model with this configuration.
    pub(crate) fn open(dir: &Path, config: &ModelConfig) -> Result<Self> {
        let (tree, fp8_block) = (config.tree, fp8::block(config)?);
        let shards = Shards::open(dir)?.in_tree(tree)?;
        let mut files = Vec::new();
        let named = named_files(&dir.join(TEMPLATES))?;
        for name in SIDECARS.iter().map(|name| (*name).to_string()).chain(named) {
            let path = dir.join(&name);
            match std::fs::read(&path) {
                Ok(bytes) => files.push((name, bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(&path, e)),
            }
        }
        Ok(Folder { dir: dir.to_path_buf(), shards, tree, fp8_block, files })
    }

    fn find(&self, name: &str) -> Result<(&SafeFile, &TensorRef)> {
        self.shards.get(name).ok_or_else(|| {
            let names = self.shards.names().map(|name| self.shards.in_file(name));
            missing_tensor(&self.dir, &self.name_in_files(name), names)
        })
    }

    /// Whether the head is in the files with other values than the embedding.
    pub(crate) fn has_another_head(&self) -> bool {
        let of = |name: &str| self.shards.get(name);
        match (of(&format!("{}.weight", self.tree.embedding)), of("lm_head.weight")) {
            (Some(embedding), Some(head)) => !same_values(embedding, head),
            _ => false,
        }
    }

    /// A small file of the folder; `None` if it was not there.
    fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(own, _)| own == name).map(|(_, bytes)| &bytes[..])
    }

    /// A JSON file of the folder; `None` if it was not there.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(text) = self.file(name) else { return Ok(None) };
        crate::json::in_file(&self.dir.join(name), text).map(Some)
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
}

impl Source for Folder {
    fn weight_files(&self) -> Vec<&Path> {
        self.shards.files().iter().map(SafeFile::path).collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.shards.get(name).is_some() || columns::is_packed(&self.shards, name)
    }

    fn names(&self) -> Vec<String> {
        self.shards
            .names()
            .filter(|name| !quantized::is_part(&self.shards, name) && !self.tree.carries(name))
            .filter(|name| !fp8::is_part(&self.shards, name))
            .filter_map(|name| columns::whole(&self.shards, name))
            .map(str::to_string)
            .collect()
    }

    fn name_in_files(&self, name: &str) -> String {
        let (known, embedding) = (self.shards.get(name).is_some(), format!("{}.weight", self.tree.embedding));
        match known || self.shards.in_file(&embedding) == embedding {
            true => self.shards.in_file(name).to_string(),
            false => self.tree.older(name),
        }
    }

    fn carried(&self) -> Result<Vec<(String, OutTensor<'_>)>> {
        let names = || self.shards.names().filter(|name| self.tree.carries(name));
        match names().find(|name| quantized::is_part(&self.shards, name)) {
            Some(part) => Err(Error::tensor(
                &self.dir,
                self.shards.in_file(part),
                "is of a quantized module that is no part of the text model, which stays as it is",
            )
            .with_hint("give the model whose vision tower is not quantized as the base")),
            None => Ok(self.shards.copies(names())),
        }
    }

    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let (file, tensor) = self.find(name)?;
        if let Some(quantized) = quantized::read(&self.shards, name, rows, cols)? {
            return Ok(quantized);
        }
        if let Some(weight) = fp8::read(&self.shards, name, rows, cols, self.fp8_block)? {
            return Ok(weight);
        }
        check_shape(file, self.shards.in_file(name), tensor, &[rows, cols])?;
        let dtype = float(file, self.shards.in_file(name), tensor.dtype)?;
        Ok(Weight::dense(rows, cols, dtype, tensor.bytes.clone())?)
    }

    fn stacked(&self, name: &str, shape: [usize; 3], index: usize, rows: Range<usize>) -> Result<Weight> {
        let (file, tensor) = self.find(name)?;
        check_shape(file, self.shards.in_file(name), tensor, &shape)?;
        let dtype = float(file, self.shards.in_file(name), tensor.dtype)?;
        let [_, each, cols] = shape;
        let row = cols * dtype.size();
        let start = index * each;
        let bytes = tensor.bytes.part((start + rows.start) * row..(start + rows.end) * row);
        Ok(Weight::dense(rows.len(), cols, dtype, bytes)?)
    }

    fn stacked_columns(
        &self,
        name: &str,
        shape: [usize; 3],
        index: usize,
        first: usize,
        step: usize,
    ) -> Result<Weight> {
        let wanted = Wanted { shape, index, first, step };
        if columns::is_packed(&self.shards, name) {
            return wanted.packed(&self.shards, name);
        }
        let (file, tensor) = self.find(name)?;
        check_shape(file, self.shards.in_file(name), tensor, &shape)?;
        let dtype = float(file, self.shards.in_file(name), tensor.dtype)?;
        wanted.transposed(dtype, tensor.bytes.as_slice())
    }

    fn packed(&self, name: &str) -> Vec<(String, OutTensor<'_>)> {
        let parts = columns::parts(name).into_iter().chain(fp8::parts(&self.shards, name));
        self.shards.copies(parts)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (file, tensor) = self.find(name)?;
        check_shape(file, self.shards.in_file(name), tensor, shape)?;
        tensor.to_f32().ok_or_else(|| not_float(file, self.shards.in_file(name), tensor.dtype))
    }

    fn release(&self, name: &str) {
        if let Some((file, tensor)) = self.shards.get(name) {
            file.release(tensor);
        }
    }

    fn release_all(&self) {
        self.shards.release_all();
    }

    fn tokenizer_json(&self) -> Result<Vec<u8>> {
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

    fn chat_template(&self) -> Result<Option<String>> {
        if let Some(own) = self.text("chat_template.jinja")? {
            return Ok(Some(own));
        }
        Ok(self.templates_of_json()?.0)
    }

    // It is in a file of its own, or in the list of the tokenizer's configuration, which does not count beside templates in
    // files.
    fn tool_template(&self) -> Result<Option<String>> {
        let own = self.text(TOOL_TEMPLATE)?;
        match own.is_some() || self.file("chat_template.jinja").is_some() {
            true => Ok(own),
            false => Ok(self.templates_of_json()?.1),
        }
    }

    fn other_templates(&self) -> Result<Vec<(String, String)>> {
        let mut templates = Vec::new();
        for (file, _) in &self.files {
            let Some(name) = file.strip_prefix(TEMPLATES).and_then(|name| name.strip_suffix(".jinja")) else {
                continue;
            };
            if file != TOOL_TEMPLATE {
                templates.extend(self.text(file)?.map(|source| (name.trim_matches('/').to_string(), source)));
            }
        }
        for file in ["tokenizer_config.json", "chat_template.json"] {
            let json = self.json(file)?;
            let list = json.as_ref().and_then(|json| json["chat_template"].as_array());
            for template in list.into_iter().flatten() {
                if let (Some(name), Some(source)) = (template["name"].as_str(), template["template"].as_str())
                {
                    templates.push((name.to_string(), source.to_string()));
                }
            }
        }
        Ok(templates)
    }

    fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
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

    fn add_bos(&self) -> Result<Option<bool>> {
        Ok(self.json("tokenizer_config.json")?.and_then(|v| v.get("add_bos_token")?.as_bool()))
    }

    fn generation_config(&self) -> Result<GenerationConfig> {
        Ok(self.json(GENERATION_CONFIG)?.as_ref().map(GenerationConfig::from_json).unwrap_or_default())
    }

    fn generation_json(&self, _: &ModelConfig) -> Result<Option<Value>> {
        self.json(GENERATION_CONFIG)
    }

    fn sidecars(&self, _: &ModelConfig) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(self.files.clone())
    }
}

/// The files of templates in a folder but that for tools, under the names of sidecars; none if there is no such folder.
fn named_files(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Error::io(dir, e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::io(dir, e))?.file_name().to_string_lossy().into_owned();
        let name = format!("{TEMPLATES}/{name}");
        if name.ends_with(".jinja") && name != TOOL_TEMPLATE {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
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
