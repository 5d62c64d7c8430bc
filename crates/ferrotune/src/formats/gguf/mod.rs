//! GGUF files as base models.
//!
//! Names, shapes, values and row order come out as in a Hugging Face folder; blocks stay as they are in the file. Some
//! architectures have rows in another order ([`order`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use ferrotune_kernels::quant::{Bytes, Weight};
use serde_json::{Value, json};

use super::source::{Source, missing_tensor};
use super::{GENERATION_CONFIG, GenerationConfig};
use crate::arch::config::ModelConfig;
use crate::{Error, Result};

mod arch;
mod architectures;
mod config;
mod extras;
mod file;
mod metadata;
mod order;
mod rope;
mod tokenizer;
mod values;

pub(super) use arch::reads;
use arch::{Arch, Heads};
use file::{GgufFile, TensorInfo, as_weight};
use metadata::Metadata;
use order::{DeltaHeads, Order};

/// An opened GGUF model.
pub(crate) struct GgufModel {
    file: GgufFile,
    arch: &'static Arch,
    /// Where the tensor of a Hugging Face name is.
    names: BTreeMap<String, Place>,
    /// Heads of q and of k.
    heads: (usize, usize),
    /// Heads of the gated delta rule, if the file has their values in another order.
    delta: Option<DeltaHeads>,
}

/// A tensor of the file, or one of the rows or matrices that it has.
struct Place {
    own: String,
    part: Option<usize>,
}

impl GgufModel {
    /// Whether the path is a GGUF file, by its name or its first bytes.
    pub(crate) fn is(path: &Path) -> bool {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) || GgufFile::is(path)
    }

    pub(crate) fn open(path: &Path) -> Result<(Self, ModelConfig)> {
        let file = GgufFile::open(path)?;
        let (arch, config) = config::read(&file)?;
        let heads = (config.num_attention_heads, config.num_key_value_heads);
        let experts = config::experts(&file, arch)?;
        let meta = Metadata { file: &file, prefix: arch.name };
        let delta = if arch.decays { DeltaHeads::read(&meta)? } else { None };
        let mut names = BTreeMap::new();
        for (own, info) in file.tensors().iter().filter(|(own, _)| !rope::is_table(own)) {
            let name = arch.hf_name(own).unwrap_or_else(|| own.clone());
            match name.split_once('*') {
                // More parts than heads or experts are left as the one tensor, which no part of the network asks for.
                Some((before, after)) if info.shape[0] <= heads.0.max(experts) => {
                    names.extend((0..info.shape[0]).map(|part| {
                        (format!("{before}{part}{after}"), Place { own: own.clone(), part: Some(part) })
                    }))
                }
                _ => drop(names.insert(name, Place { own: own.clone(), part: None })),
            }
        }
        Ok((GgufModel { file, arch, names, heads, delta }, config))
    }

    fn find(&self, name: &str) -> Result<(&Place, &TensorInfo)> {
        let place = self
            .names
            .get(name)
            .ok_or_else(|| missing_tensor(self.file.path(), name, self.names.keys().map(String::as_str)))?;
        Ok((place, &self.file.tensors()[&place.own]))
    }

    /// Where the bytes of the tensor, or of the part of it that is meant, are in the file.
    fn range(place: &Place, info: &TensorInfo) -> Range<usize> {
        match place.part {
            None => info.range.clone(),
            Some(part) => {
                let each = info.range.len() / info.shape[0].max(1);
                let start = info.range.start + part * each;
                start..start + each
            }
        }
    }

    /// The tensor's bytes with the rows in Hugging Face's order. Dimensions of 1 do not count: files leave some of them out.
    fn bytes(&self, name: &str, place: &Place, info: &TensorInfo, expected: &[usize]) -> Result<Bytes> {
        let (path, own) = (self.file.path(), &place.own);
        let shape = &info.shape[place.part.is_some() as usize..];
        let longer = |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        if longer(shape) != longer(expected) {
            let problem = format!("shape is {shape:?}, the metadata asks for {expected:?}");
            return Err(Error::tensor(path, own, problem));
        }
        let (bytes, rows) = (self.file.file.bytes(Self::range(place, info)), expected[0]);
        let Some(order) = self.order(name, own, rows)? else { return Ok(bytes) };
        let own = order.rows(&bytes, rows);
        self.file.file.release(bytes.as_slice());
        Ok(own)
    }

    /// The order of a tensor's rows, if the file has another one than a folder.
    fn order(&self, name: &str, own: &str, rows: usize) -> Result<Option<Order>> {
        if let Some((_, part)) = name.split_once(".linear_attn.") {
            let order = self.delta.and_then(|delta| Some((delta, delta.rows(part)?)));
            return self.fits(order, own, rows);
        }
        let heads = match self.arch.interleaves(name) {
            Some(Heads::Query) => self.heads.0,
            Some(Heads::Key) => self.heads.1,
            None => return Ok(None),
        };
        if !rows.is_multiple_of(2 * heads) {
            let problem = format!("{rows} rows are not pairs of halves of {heads} heads");
            return Err(Error::tensor(self.file.path(), own, problem));
        }
        Ok(Some(Order::Interleaved { head: rows / heads }))
    }

    /// The order, if the tensor has as many rows or columns as it is of.
    fn fits(&self, order: Option<(DeltaHeads, Order)>, own: &str, count: usize) -> Result<Option<Order>> {
        let Some((delta, order)) = order else { return Ok(None) };
        match delta.count(order) == count {
            true => Ok(Some(order)),
            false => {
                let problem = format!("{count} rows or columns, the heads have {}", delta.count(order));
                Err(Error::tensor(self.file.path(), own, problem))
            }
        }
    }
}

impl Source for GgufModel {
    fn weight_files(&self) -> Vec<&Path> {
        vec![self.file.path()]
    }

    fn holds_config(&self) -> bool {
        true
    }

    fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let (place, info) = self.find(name)?;
        let bytes = self.bytes(name, place, info, &[rows, cols])?;
        let part = name.split_once(".linear_attn.").map(|(_, part)| part);
        let columns = self.delta.and_then(|delta| Some((delta, delta.columns(part?)?)));
        match self.fits(columns, &place.own, cols)? {
            Some(order) => order.columns(info.kind, rows, cols, bytes),
            None => as_weight(info.kind, rows, cols, bytes),
        }
    }

    fn stacked(&self, name: &str, _: [usize; 3], _: usize, _: Range<usize>) -> Result<Weight> {
        Err(Error::tensor(self.file.path(), name, "stacked weights are not read"))
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (place, info) = self.find(name)?;
        let len = shape.iter().product();
        let mut values = vec![0.0; len];
        let bytes = self.bytes(name, place, info, shape)?;
        as_weight(info.kind, 1, len, bytes)?.decode(0, 0, &mut values);
        if name.ends_with("A_log") && self.arch.decays {
            values.iter_mut().for_each(|v| *v = (-*v).ln());
        }
        // No bit is lost from 0.5 on, where a difference of floats is exact; the family adds it again.
        let added = self.arch.added(name);
        values.iter_mut().for_each(|v| *v -= added);
        Ok(values)
    }

    fn release(&self, name: &str) {
        if let Ok((place, info)) = self.find(name) {
            self.file.file.release(self.file.file.bytes(Self::range(place, info)).as_slice());
        }
    }

    fn release_all(&self) {
        self.file.file.release_all();
    }

    fn tokenizer_json(&self) -> Result<Vec<u8>> {
        tokenizer::build(&self.file, self.arch)
    }

    fn warning(&self) -> Result<Option<String>> {
        tokenizer::warning(&self.file)
    }

    fn chat_template(&self) -> Result<Option<String>> {
        Ok(self.file.text("tokenizer.chat_template")?.map(str::to_string))
    }

    // llama.cpp writes named templates under keys of their own.
    fn tool_template(&self) -> Result<Option<String>> {
        Ok(self.file.text("tokenizer.chat_template.tool_use")?.map(str::to_string))
    }

    fn other_templates(&self) -> Result<Vec<(String, String)>> {
        let mut templates = Vec::new();
        for key in self.file.meta.keys() {
            let name = key.strip_prefix("tokenizer.chat_template.").filter(|name| *name != "tool_use");
            if let Some(name) = name
                && let Some(source) = self.file.text(key)?
            {
                templates.push((name.to_string(), source.to_string()));
            }
        }
        Ok(templates)
    }

    fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
        tokenizer::special_tokens(&self.file)
    }

    fn add_bos(&self) -> Result<Option<bool>> {
        tokenizer::add_bos(&self.file).map(Some)
    }

    fn generation_config(&self) -> Result<GenerationConfig> {
        let mut ends = BTreeSet::new();
        for role in ["eos", "eot", "eom"] {
            ends.extend(tokenizer::token_id(&self.file, role)?);
        }
        // A base model has the token too, but no template that writes it.
        if let (Some(end), Some(template)) = (self.arch.end_of_turn, self.chat_template()?)
            && template.contains(end)
        {
            ends.extend(tokenizer::id_of(&self.file, end)?);
        }
        Ok(GenerationConfig { eos_token_ids: ends.into_iter().collect(), ..Default::default() })
    }

    fn generation_json(&self, config: &ModelConfig) -> Result<Option<Value>> {
        let ends = self.generation_config()?.eos_token_ids;
        Ok(Some(json!({
            "bos_token_id": config.bos_token_id,
            "eos_token_id": if ends.is_empty() { Value::Null } else { json!(ends) },
            "pad_token_id": config.pad_token_id,
        })))
    }

    fn sidecars(&self, config: &ModelConfig) -> Result<Vec<(String, Vec<u8>)>> {
        let mut about = json!({
            "add_bos_token": self.add_bos()?,
            "clean_up_tokenization_spaces": false,
            "model_max_length": config.max_position_embeddings,
            "tokenizer_class": "PreTrainedTokenizerFast",
        });
        for (role, text) in self.special_tokens()? {
            about[role] = text.into();
        }
        if let Some(template) = self.chat_template()? {
            about["chat_template"] = match self.tool_template()? {
                Some(tools) => json!([
                    {"name": "default", "template": template},
                    {"name": "tool_use", "template": tools},
                ]),
                None => template.into(),
            };
        }
        let file = |name: &str, value: &Value| (name.to_string(), format!("{value:#}\n").into_bytes());
        let mut files = vec![
            ("tokenizer.json".to_string(), self.tokenizer_json()?),
            file("tokenizer_config.json", &about),
        ];
        files.extend(self.generation_json(config)?.map(|value| file(GENERATION_CONFIG, &value)));
        Ok(files)
    }
}

#[cfg(test)]
mod tests;
