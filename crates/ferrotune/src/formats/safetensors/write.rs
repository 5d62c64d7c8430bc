//! Writing safetensors files and model folders: whole or not at all, hashed on the way.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::{Metadata, SafeTensorError, TensorInfo};
use ferrotune_kernels::Threads;
use serde_json::json;

use super::super::atomic::{with_temporary, write_atomic};
use super::super::hash::{Digest, Hashing};
use crate::{Error, Result};

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

    /// This tensor, with something to be done when the turn of its bytes has come.
    pub(crate) fn when_written(self, before: impl Fn() + 'a) -> Self {
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
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Shape, outermost first.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its bytes, made now if they are not at hand.
    pub(crate) fn content(&self) -> Cow<'a, [u8]> {
        let bytes = (self.fill)();
        assert_eq!(bytes.len(), self.nbytes(), "bytes made for a tensor do not match its shape");
        bytes
    }
}

/// Writes a safetensors file with the metadata `{"format": "pt"}`, whole or not at all.
///
/// The bytes are those of the crate's `serialize_to_file`, which makes files that only their owner may read.
pub fn write(path: &Path, tensors: &[(String, OutTensor<'_>)]) -> Result<()> {
    with_temporary(path, |temporary| {
        let mut out = create(path, temporary)?;
        write_content(path, tensors, &mut out)?;
        out.flush().map_err(|e| Error::io(path, e))
    })
}

/// Writes a file and returns its digest, which is computed beside the writing where there are threads for both.
pub(crate) fn write_hashed(
    threads: &Threads,
    path: &Path,
    tensors: &[(String, OutTensor<'_>)],
) -> Result<Digest> {
    let mut digest = None;
    with_temporary(path, |temporary| {
        let mut out = Hashing::new(threads, create(path, temporary)?);
        write_content(path, tensors, &mut out)?;
        digest = Some(out.finish().map_err(|e| Error::io(path, e))?);
        Ok(())
    })?;
    digest.ok_or_else(|| Error::file(path, "nothing was written"))
}

/// The file that gets the name `path` when it is whole.
fn create(path: &Path, temporary: &Path) -> Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(1 << 20, File::create(temporary).map_err(|e| Error::io(path, e))?))
}

fn write_content(path: &Path, tensors: &[(String, OutTensor<'_>)], out: &mut impl Write) -> Result<()> {
    let refused = |e| Error::io(path, e);
    let mut ordered: Vec<&(String, OutTensor<'_>)> = tensors.iter().collect();
    // Wider types first, so that every tensor is aligned.
    ordered.sort_by(|a, b| b.1.dtype.cmp(&a.1.dtype).then(a.0.cmp(&b.0)));
    let header = header(&ordered).map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
    out.write_all(&header).map_err(refused)?;
    for (_, tensor) in &ordered {
        out.write_all(&tensor.content()).map_err(refused)?;
    }
    Ok(())
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
