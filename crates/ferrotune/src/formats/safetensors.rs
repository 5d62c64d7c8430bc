//! Safetensors files: single files and shards with an index; the writers are [`write()`], `write_hashed` and [`write_model`].
//!
//! The container is the `safetensors` crate's; this module maps files, checks what an index promises, and turns
//! each refusal into an error that names the file and the tensor.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ::safetensors::tensor::{SafeTensorError, SafeTensors};
use ferrotune_kernels::quant::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

mod write;

pub use ::safetensors::Dtype;
pub(crate) use write::write_hashed;
pub use write::{OutTensor, write, write_model};

use super::mmap::MappedFile;
use crate::arch::tree::Tree;
use crate::{Error, Result};

/// A tensor inside a mapped file: no byte of it is copied.
#[derive(Debug, Clone)]
pub struct TensorRef {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Little-endian content.
    pub bytes: Bytes,
}

impl TensorRef {
    /// Whether [`TensorRef::to_f32`] gives values.
    pub(crate) fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// The values as f32, for F32, F16 and BF16 tensors; `None` for any other type.
    pub(crate) fn to_f32(&self) -> Option<Vec<f32>> {
        let bytes = self.bytes.as_slice();
        Some(match self.dtype {
            Dtype::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::F16 => {
                bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            Dtype::BF16 => {
                bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            _ => return None,
        })
    }
}

/// One mapped safetensors file.
pub struct SafeFile {
    path: PathBuf,
    file: MappedFile,
    header_len: usize,
    tensors: BTreeMap<String, TensorRef>,
    metadata: HashMap<String, String>,
}

impl SafeFile {
    /// Maps the file and checks its whole header: every tensor lies inside, none overlap, none are cut off.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let (header, metadata) =
            SafeTensors::read_metadata(file.as_slice()).map_err(|e| refuse(path, file.as_slice(), e))?;
        let start = header + 8;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                // `read_metadata` has checked that the offsets tile the rest of the file exactly.
                let range = start + info.data_offsets.0..start + info.data_offsets.1;
                (name, TensorRef { dtype: info.dtype, shape: info.shape.clone(), bytes: file.bytes(range) })
            })
            .collect();
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Ok(SafeFile { path: path.to_path_buf(), file, header_len: start, tensors, metadata })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that a tensor will not be read again soon.
    pub(crate) fn release(&self, tensor: &TensorRef) {
        self.file.release(tensor.bytes.as_slice());
    }

    /// Lets go of the whole file.
    pub(crate) fn release_all(&self) {
        self.file.release_all();
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&TensorRef> {
        self.tensors.get(name)
    }

    /// All tensors, by name in sorted order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorRef)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The header's free-form metadata.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// A tensor's shape and its values as f32; an error names the tensor if it is missing or not a float.
    pub fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let tensor = self.get(name).ok_or_else(|| Error::tensor(&self.path, name, "missing"))?;
        let values = tensor.to_f32().ok_or_else(|| {
            Error::tensor(&self.path, name, format!("dtype is {:?}, expected F32, F16 or BF16", tensor.dtype))
        })?;
        Ok((tensor.shape.clone(), values))
    }

    /// Adds the file to a hash: header and data, or blocks of the data; its last `rest` bytes are left out.
    pub(crate) fn hash(&self, hash: &mut Sha256, blocks: usize, rest: usize) {
        /// Bytes of a block.
        const BLOCK: usize = 4096;
        let (header, data) = self.file.as_slice().split_at(self.header_len);
        let (start, len) = (self.header_len, data.len().saturating_sub(rest));
        hash.update((header.len() as u64).to_le_bytes());
        hash.update((len as u64).to_le_bytes());
        hash.update(header);
        let (count, size) = if len <= BLOCK * blocks { (1, len) } else { (blocks, BLOCK) };
        let last = (len - size) as u128;
        let block = |i: usize| start + (last * i as u128 / (count as u128 - 1).max(1)) as usize;
        self.file.scattered((0..count).map(|i| block(i)..block(i) + size), |block| hash.update(block));
    }
}

/// Turns the library's refusal into a sentence about this file.
fn refuse(path: &Path, bytes: &[u8], error: SafeTensorError) -> Error {
    let again = "the file is damaged or the download was cut off; fetch it again";
    let length = bytes.len();
    let problem = match error {
        SafeTensorError::HeaderTooSmall => {
            format!("not a safetensors file: {length} bytes found, the header's length alone takes 8")
        }
        SafeTensorError::InvalidHeaderLength => {
            let found = bytes.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
            format!(
                "truncated in its header: the header should be {found} bytes, the whole file has {length}"
            )
        }
        SafeTensorError::HeaderTooLarge => {
            let problem = "not a safetensors file: the header's length is above 100 MB".to_string();
            return Error::file(path, problem);
        }
        SafeTensorError::MetadataIncompleteBuffer => match promised_length(bytes) {
            Some(expected) => format!("{length} bytes found, the header describes {expected}"),
            None => format!("the header does not describe all of the {length} bytes"),
        },
        SafeTensorError::InvalidOffset(name) => {
            return Error::tensor(path, name, "its data offsets overlap another tensor or leave a gap")
                .with_hint(again);
        }
        other => format!("not a valid safetensors file: {other}"),
    };
    Error::file(path, problem).with_hint(again)
}

/// File length according to the header's data offsets.
fn promised_length(bytes: &[u8]) -> Option<u64> {
    let header = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let text = bytes.get(8..usize::try_from(header.checked_add(8)?).ok()?)?;
    let parsed: Map<String, Value> = serde_json::from_slice(text).ok()?;
    let end = parsed.values().filter_map(|t| t.get("data_offsets")?.get(1)?.as_u64()).max()?;
    end.checked_add(header)?.checked_add(8)
}

/// The tensors of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
pub struct Shards {
    files: Vec<SafeFile>,
    /// Tensor name to the index of its file.
    places: BTreeMap<String, usize>,
    /// What the files call the tensors that have another name there.
    renamed: BTreeMap<String, String>,
}

impl Shards {
    /// Opens all files of the folder and checks that each tensor of the index is in the shard it names.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        // The order of the reference library when a folder has both.
        if !single.is_file() {
            return if index.is_file() { Self::open_index(folder, &index) } else { Err(no_weights(folder)) };
        }
        Ok(Self::single(SafeFile::open(&single)?))
    }

    /// Lets go of all files.
    pub(crate) fn release_all(&self) {
        self.files.iter().for_each(SafeFile::release_all);
    }

    /// The tensors of one file.
    pub(crate) fn single(file: SafeFile) -> Self {
        let places = file.iter().map(|(name, _)| (name.to_string(), 0)).collect();
        Shards { files: vec![file], places, renamed: BTreeMap::new() }
    }

    /// The same with every tensor under the name that it has in a tree of modules.
    pub(crate) fn in_tree(mut self, tree: &Tree) -> Result<Self> {
        for (in_file, place) in std::mem::take(&mut self.places) {
            let name = tree.name(&in_file).into_owned();
            if self.places.insert(name.clone(), place).is_some() {
                let problem =
                    format!("stands twice, the other time under the name `{}`", self.in_file(&name));
                return Err(Error::tensor(&self.files[place].path, in_file, problem));
            }
            if name != in_file {
                self.renamed.insert(name, in_file);
            }
        }
        Ok(self)
    }

    /// What the files call a tensor.
    pub(crate) fn in_file<'n>(&'n self, name: &'n str) -> &'n str {
        self.renamed.get(name).map_or(name, String::as_str)
    }

    fn open_index(folder: &Path, index: &Path) -> Result<Self> {
        let text = std::fs::read(index).map_err(|e| Error::io(index, e))?;
        let parsed = crate::json::in_file(index, &text)?;
        let Some(map) = parsed.get("weight_map").and_then(Value::as_object) else {
            return Err(Error::file(index, "no `weight_map` object"));
        };
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for (name, shard) in map {
            let Some(shard) = shard.as_str() else {
                return Err(Error::tensor(index, name, "the index names no shard file"));
            };
            // A shard is a file of this folder: an index must not reach anywhere else.
            if Path::new(shard).file_name().is_none_or(|f| f != shard) || shard.contains('\\') {
                return Err(Error::tensor(index, name, format!("shard `{shard}` is not a plain file name")));
            }
            let number = match numbers.get(shard) {
                Some(&number) => number,
                None => {
                    let path = folder.join(shard);
                    if !path.is_file() {
                        let problem = format!("shard `{shard}` is missing, `{name}` should be in it");
                        return Err(
                            Error::file(index, problem).with_hint("fetch the missing shard of this model")
                        );
                    }
                    files.push(SafeFile::open(&path)?);
                    numbers.insert(shard, files.len() - 1);
                    files.len() - 1
                }
            };
            if files[number].get(name).is_none() {
                return Err(Error::tensor(
                    &files[number].path,
                    name,
                    "missing, though the index says it is here",
                ));
            }
            places.insert(name.clone(), number);
        }
        if places.is_empty() {
            return Err(Error::file(index, "`weight_map` is empty"));
        }
        Ok(Shards { files, places, renamed: BTreeMap::new() })
    }

    /// A tensor and the file it is in.
    pub fn get(&self, name: &str) -> Option<(&SafeFile, &TensorRef)> {
        let file = &self.files[*self.places.get(name)?];
        Some((file, file.get(self.in_file(name))?))
    }

    /// Those of some tensors that are there as they are, under the names of the files. When the turn of one has come, the one
    /// before leaves memory.
    pub(crate) fn copies(
        &self,
        names: impl Iterator<Item = impl AsRef<str>>,
    ) -> Vec<(String, OutTensor<'_>)> {
        let before: Rc<Cell<Option<(&SafeFile, &TensorRef)>>> = Rc::default();
        names
            .filter_map(|name| {
                let name = name.as_ref();
                let ((file, tensor), before) = (self.get(name)?, Rc::clone(&before));
                let out = OutTensor::bytes(tensor.dtype, &tensor.shape, tensor.bytes.as_slice());
                let out = out.when_written(move || {
                    before
                        .replace(Some((file, tensor)))
                        .into_iter()
                        .for_each(|(file, last)| file.release(last))
                });
                Some((self.in_file(name).to_string(), out))
            })
            .collect()
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The mapped files.
    pub fn files(&self) -> &[SafeFile] {
        &self.files
    }
}

/// A folder without safetensors: say what was there instead.
fn no_weights(folder: &Path) -> Error {
    let error = Error::file(folder, "neither model.safetensors nor model.safetensors.index.json found");
    let names: Vec<String> = std::fs::read_dir(folder)
        .map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    if let Some(gguf) = names.iter().find(|n| n.ends_with(".gguf")) {
        return error.with_hint(format!("to use the GGUF file, name it: {}", folder.join(gguf).display()));
    }
    if names.iter().any(|n| n.starts_with("pytorch_model") && n.ends_with(".bin")) {
        return error
            .with_hint("pickled weights (.bin) can run code and are not read; convert them to safetensors");
    }
    if names.iter().any(|n| n == "adapter_model.safetensors") {
        return error.with_hint("this is an adapter; give the base model here and the adapter separately");
    }
    error.with_hint("give the folder that holds config.json and the weights")
}

#[cfg(test)]
mod tests;
