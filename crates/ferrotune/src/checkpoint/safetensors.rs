//! Safetensors files: single files, shards with an index, and the writer.
//!
//! The container is the `safetensors` crate's; this module maps files, checks what an index promises, and turns
//! each refusal into an error that names the file and the tensor.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Metadata, SafeTensorError, SafeTensors, TensorInfo};
use ferrotune_kernels::quant::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

pub use ::safetensors::Dtype;

use super::atomic::{with_temporary, write_atomic};
use super::hash::{Digest, Hashing};
use super::mmap::MappedFile;
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
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// The values as f32, for F32, F16 and BF16 tensors; `None` for any other type.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
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
    pub(super) fn release(&self, tensor: &TensorRef) {
        self.file.release(tensor.bytes.as_slice());
    }

    /// Lets go of the whole file.
    pub(super) fn release_all(&self) {
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
    pub(super) fn hash(&self, hash: &mut Sha256, blocks: usize, rest: usize) {
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
    pub(super) fn release_all(&self) {
        self.files.iter().for_each(SafeFile::release_all);
    }

    /// The tensors of one file.
    pub(super) fn single(file: SafeFile) -> Self {
        let places = file.iter().map(|(name, _)| (name.to_string(), 0)).collect();
        Shards { files: vec![file], places }
    }

    fn open_index(folder: &Path, index: &Path) -> Result<Self> {
        let text = std::fs::read(index).map_err(|e| Error::io(index, e))?;
        let parsed =
            crate::json::from_bytes(&text).map_err(|e| Error::file(index, format!("not valid JSON: {e}")))?;
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
        Ok(Shards { files, places })
    }

    /// A tensor and the file it is in.
    pub fn get(&self, name: &str) -> Option<(&SafeFile, &TensorRef)> {
        let file = &self.files[*self.places.get(name)?];
        Some((file, file.get(name)?))
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

/// A tensor to be written. Its bytes may be made only when their turn comes, so a model never has to be in memory.
pub struct OutTensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    fill: Box<dyn Fn() -> Cow<'a, [u8]> + 'a>,
}

impl<'a> OutTensor<'a> {
    /// Little-endian bytes that are at hand.
    pub fn bytes(dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Self {
        OutTensor { dtype, shape: shape.to_vec(), fill: Box::new(move || Cow::Borrowed(bytes)) }
    }

    /// f32 values.
    pub fn f32(shape: &[usize], values: &'a [f32]) -> Self {
        if cfg!(target_endian = "little") {
            return Self::bytes(Dtype::F32, shape, bytemuck::cast_slice(values));
        }
        Self::lazy(Dtype::F32, shape, move || values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Bytes made on demand; `make` must give as many as dtype and shape say.
    pub fn lazy(dtype: Dtype, shape: &[usize], make: impl Fn() -> Vec<u8> + 'a) -> Self {
        OutTensor { dtype, shape: shape.to_vec(), fill: Box::new(move || Cow::Owned(make())) }
    }

    /// The same, with something to be done when the turn of its bytes has come.
    pub(super) fn when_written(self, before: impl Fn() + 'a) -> Self {
        let fill = self.fill;
        let fill = Box::new(move || {
            before();
            fill()
        });
        OutTensor { fill, ..self }
    }

    /// Bytes the tensor takes in the file.
    pub fn nbytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }

    /// Element type.
    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Shape, outermost first.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its bytes, made now if they are not at hand.
    pub(super) fn content(&self) -> Cow<'a, [u8]> {
        let bytes = (self.fill)();
        assert_eq!(bytes.len(), self.nbytes(), "bytes made for a tensor do not match its shape");
        bytes
    }
}

/// Writes a safetensors file with the metadata `{"format": "pt"}`, whole or not at all; gives its digest.
///
/// The bytes are those of the crate's `serialize_to_file`, which makes files that only their owner may read.
pub fn write(path: &Path, tensors: &[(String, OutTensor<'_>)]) -> Result<Digest> {
    let refused = |e| Error::io(path, e);
    let mut ordered: Vec<&(String, OutTensor<'_>)> = tensors.iter().collect();
    // Wider types first, so that every tensor is aligned.
    ordered.sort_by(|a, b| b.1.dtype.cmp(&a.1.dtype).then(a.0.cmp(&b.0)));
    let header = header(&ordered).map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
    let mut digest = None;
    with_temporary(path, |temporary| {
        let file = File::create(temporary).map_err(refused)?;
        let mut out = Hashing::new(BufWriter::with_capacity(1 << 20, file));
        out.write_all(&header).map_err(refused)?;
        for (_, tensor) in &ordered {
            out.write_all(&tensor.content()).map_err(refused)?;
        }
        digest = Some(out.finish().map_err(refused)?);
        Ok(())
    })?;
    digest.ok_or_else(|| Error::file(path, "nothing was written"))
}

/// The header with its length: what stands before the data.
fn header(tensors: &[&(String, OutTensor<'_>)]) -> std::result::Result<Vec<u8>, SafeTensorError> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, t)| {
        let start = end;
        end += t.nbytes();
        let info = TensorInfo { dtype: t.dtype, shape: t.shape.clone(), data_offsets: (start, end) };
        (name.clone(), info)
    });
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let metadata = Metadata::new(Some(format), infos.collect())?;
    let mut text = serde_json::to_vec(&metadata)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
}

/// Writes the tensors of a model folder: one file, or shards of at most `shard_bytes` with their index.
///
/// The index is written last, so a folder that has it is complete.
pub fn write_model(folder: &Path, tensors: Vec<(String, OutTensor<'_>)>, shard_bytes: usize) -> Result<()> {
    let total: usize = tensors.iter().map(|(_, t)| t.nbytes()).sum();
    let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
    if total <= shard_bytes {
        write(&single, &tensors)?;
        return remove_stale(&index);
    }
    let mut shards: Vec<Vec<(String, OutTensor<'_>)>> = vec![Vec::new()];
    let mut filled = 0;
    for (name, tensor) in tensors {
        if filled > 0 && filled + tensor.nbytes() > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += tensor.nbytes();
        if let Some(last) = shards.last_mut() {
            last.push((name, tensor));
        }
    }
    let count = shards.len();
    let mut map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        write(&folder.join(&file), shard)?;
        map.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
    }
    let content = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_atomic(&index, format!("{content:#}\n").as_bytes())?;
    remove_stale(&single)
}

/// Removes the other form of an earlier model in the same folder, which readers could take for this one.
fn remove_stale(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn good() -> Vec<u8> {
        let header = br#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;
        [&(header.len() as u64).to_le_bytes()[..], header, &[7; 22]].concat()
    }

    fn open(bytes: &[u8]) -> Result<SafeFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        SafeFile::open(&path)
    }

    fn refusal(header: &str, data: usize) -> String {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
        open(&bytes).err().unwrap_or_else(|| panic!("{header} must be refused")).to_string()
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = good();
        for length in 0..whole.len() {
            let message = open(&whole[..length]).err().expect("too short").to_string();
            assert!(message.contains("x.safetensors"), "{message}");
        }
        let file = open(&whole).unwrap();
        assert_eq!(file.f32("b").unwrap().0, [3]);
    }

    #[test]
    fn bad_headers_are_named() {
        for (header, data, word) in [
            ("[]", 0, "JSON"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 8, "the header describes"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, "`a`"),
            (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "`a`"),
            (r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#, 4, "F33"),
            (r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}"#, 4, "shape"),
            (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "JSON"),
            (r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}"#, 4, "overflow"),
            (
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                4,
                "overlap",
            ),
            ("", 0, "safetensors"),
        ] {
            let message = refusal(header, data);
            assert!(message.contains(word), "{message} does not say {word}");
        }
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert!(open(&huge).err().unwrap().to_string().contains("not a safetensors file"));
    }

    proptest! {
        /// Whatever the bytes are, opening gives a file whose tensors can be read, or an error.
        #[test]
        fn changed_bytes_never_panic(changes in prop::collection::vec((0usize..200, any::<u8>()), 1..8)) {
            let mut bytes = good();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            if let Ok(file) = open(&bytes) {
                for (name, tensor) in file.iter() {
                    let values: usize = tensor.shape.iter().product();
                    prop_assert_eq!(tensor.bytes.as_slice().len(), values * tensor.dtype.bitsize() / 8);
                    let _ = file.f32(name);
                }
            }
        }

        #[test]
        fn the_bytes_are_those_of_the_library(
            tensors in prop::collection::btree_map("[a-z.]{1,8}", prop::collection::vec(any::<u8>(), 0..40), 0..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
            // Types of several widths: they decide the order.
            let kind = |v: &[u8]| match v.len() % 4 { 0 => (Dtype::F32, v.len() / 4), 2 => (Dtype::BF16, v.len() / 2), _ => (Dtype::U8, v.len()) };
            let out: Vec<_> = tensors
                .iter()
                .map(|(n, v)| (n.clone(), OutTensor::bytes(kind(v).0, &[kind(v).1], v)))
                .collect();
            let digest = write(&ours, &out).unwrap();
            let views = tensors.iter().map(|(n, v)| {
                (n, ::safetensors::tensor::TensorView::new(kind(v).0, vec![kind(v).1], v).unwrap())
            });
            let format = HashMap::from([("format".to_string(), "pt".to_string())]);
            ::safetensors::serialize_to_file(views, Some(format), &theirs).unwrap();
            let written = std::fs::read(&ours).unwrap();
            prop_assert_eq!(&written, &std::fs::read(&theirs).unwrap());
            prop_assert_eq!(digest, Digest::of(&written));
        }

        #[test]
        fn written_tensors_come_back(
            tensors in prop::collection::btree_map("[a-z.]{1,8}", prop::collection::vec(any::<f32>(), 0..40), 0..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.safetensors");
            let out: Vec<_> =
                tensors.iter().map(|(n, v)| (n.clone(), OutTensor::f32(&[v.len()], v))).collect();
            write(&path, &out).unwrap();
            let file = SafeFile::open(&path).unwrap();
            prop_assert_eq!(file.iter().count(), tensors.len());
            for (name, values) in &tensors {
                let (shape, found) = file.f32(name).unwrap();
                prop_assert_eq!(shape, [values.len()]);
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&found), bits(values));
            }
        }
    }
}
