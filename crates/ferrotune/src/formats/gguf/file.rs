//! The container: header, metadata and tensor table of a GGUF file, versions 2 and 3.
//!
//! Nothing in the file is trusted: counts are held against the bytes that are left before anything is allocated,
//! arithmetic is checked, and every tensor must lie inside the file and apart from the others.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ferrotune_kernels::dtype::DType;
use ferrotune_kernels::quant::{Bytes, GgufType, Weight};

use super::super::mmap::MappedFile;
use crate::{Error, Result};

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: usize = 32;
const MOST_DIMENSIONS: u32 = 4;
/// Arrays of arrays beyond this are refused; no known file nests at all.
const DEEPEST_ARRAY: usize = 4;

/// A metadata value. Arrays stay in the file and are read when asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meta {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Array { kind: u32, count: usize, range: Range<usize> },
}

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TensorType {
    Dense(DType),
    Block(GgufType),
}

impl TensorType {
    fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => TensorType::Dense(DType::F32),
            1 => TensorType::Dense(DType::F16),
            30 => TensorType::Dense(DType::Bf16),
            other => TensorType::Block(GgufType::from_id(other)?),
        })
    }

    fn block(self) -> (usize, usize) {
        match self {
            TensorType::Dense(dtype) => (1, dtype.size()),
            TensorType::Block(kind) => (kind.block_len(), kind.block_bytes()),
        }
    }

    /// Bytes of `values` values, which must be whole blocks.
    pub(super) fn bytes_of(self, values: usize) -> Option<usize> {
        let (len, bytes) = self.block();
        (values.is_multiple_of(len)).then_some(())?;
        (values / len).checked_mul(bytes)
    }
}

/// Names of the types that exist but are not decoded, for messages.
fn type_name(id: u32) -> &'static str {
    match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        _ => "unknown",
    }
}

/// A tensor of the table.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    pub(super) kind: TensorType,
    /// Outermost first, as everywhere but in the file.
    pub(super) shape: Vec<usize>,
    /// Bytes in the file.
    pub(super) range: Range<usize>,
}

type Metadata = BTreeMap<String, Meta>;
type Tensors = BTreeMap<String, TensorInfo>;

/// A mapped GGUF file whose structure has been checked.
pub(super) struct GgufFile {
    pub(super) path: PathBuf,
    pub(super) file: MappedFile,
    pub(super) meta: Metadata,
    tensors: Tensors,
}

impl GgufFile {
    /// Whether the file starts like a GGUF file.
    pub(super) fn is(path: &Path) -> bool {
        let mut magic = [0; 4];
        std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut magic)).is_ok()
            && &magic == MAGIC
    }

    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let mut reader = Reader { path, bytes: file.as_slice(), at: 0 };
        let (meta, tensors) = reader.structure()?;
        Ok(GgufFile { path: path.to_path_buf(), meta, tensors, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    pub(super) fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        self.file.bytes(tensor.range.clone())
    }

    pub(super) fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("`{key}`: {problem}"))
    }
}

/// A position in the file; every read is checked against its end.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::file(self.path, problem)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn slice(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        if len > self.left() {
            let (length, at) = (self.bytes.len(), self.at);
            let problem = format!("truncated: {what} at byte {at} needs {len} bytes, the file has {length}");
            return Err(self
                .refuse(problem)
                .with_hint("the download was cut off or the file is damaged; fetch it again"));
        }
        let found = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(found)
    }

    pub(super) fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N, what)?);
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.take(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, what: &str, least: usize) -> Result<usize> {
        let found = self.u64(what)?;
        let most = self.left() / least;
        match usize::try_from(found) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(self
                .refuse(format!("{what} is {found}, but the rest of the file has room for {most} at most"))),
        }
    }

    pub(super) fn text(&mut self, what: &str) -> Result<&'a str> {
        let len = self.count(&format!("length of {what}"), 1)?;
        let bytes = self.slice(len, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.refuse(format!("{what} is not valid UTF-8")))
    }

    /// Everything before the data, and where that starts.
    fn structure(&mut self) -> Result<(Metadata, Tensors)> {
        let magic: [u8; 4] = self.take("the magic number")?;
        if &magic != MAGIC {
            return Err(self.refuse(format!("not a GGUF file: it starts with {magic:?}")));
        }
        let version = self.u32("the version")?;
        if version != 2 && version != 3 {
            let problem = match version.swap_bytes() {
                2 | 3 => "a big-endian GGUF file, only little-endian ones are read".to_string(),
                _ => format!("GGUF version {version} is not supported (2, 3)"),
            };
            return Err(self.refuse(problem));
        }
        // A tensor takes at least name, dimensions, type and offset; a key its length, a type and a byte.
        let tensor_count = self.count("the number of tensors", 8 + 4 + 8 + 4 + 8)?;
        let key_count = self.count("the number of metadata keys", 8 + 4 + 1)?;
        let mut meta = BTreeMap::new();
        for _ in 0..key_count {
            let key = self.text("a metadata key")?;
            let kind = self.u32("a metadata type")?;
            let value = self.value(key, kind)?;
            if meta.insert(key.to_string(), value).is_some() {
                return Err(self.refuse(format!("metadata key `{key}` stands twice")));
            }
        }
        let alignment = match meta.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Meta::Unsigned(n)) if n.is_power_of_two() && (8..=1 << 20).contains(n) => *n as usize,
            Some(other) => {
                return Err(
                    self.refuse(format!("`general.alignment`: {other:?} is not a power of two from 8 on"))
                );
            }
        };
        let mut table = Vec::new();
        for _ in 0..tensor_count {
            table.push(self.tensor()?);
        }
        let data_start = self.at.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for (name, kind, shape, offset) in table {
            let info = self.place(&name, kind, shape, offset, alignment, data_start)?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(Error::tensor(self.path, name, "stands twice in the table"));
            }
        }
        self.check_apart(&tensors)?;
        Ok((meta, tensors))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Meta> {
        let what = "a metadata value";
        Ok(match kind {
            0 => Meta::Unsigned(self.take::<1>(what)?[0] as u64),
            1 => Meta::Signed(self.take::<1>(what)?[0] as i8 as i64),
            2 => Meta::Unsigned(u16::from_le_bytes(self.take(what)?) as u64),
            3 => Meta::Signed(i16::from_le_bytes(self.take(what)?) as i64),
            4 => Meta::Unsigned(self.u32(what)? as u64),
            5 => Meta::Signed(i32::from_le_bytes(self.take(what)?) as i64),
            6 => Meta::F32(f32::from_le_bytes(self.take(what)?)),
            7 => Meta::Bool(self.take::<1>(what)?[0] != 0),
            8 => Meta::Text(self.text(what)?.to_string()),
            9 => {
                let (kind, count) = self.array_header(key)?;
                let start = self.at;
                self.skip(key, kind, count, 1)?;
                Meta::Array { kind, count, range: start..self.at }
            }
            10 => Meta::Unsigned(self.u64(what)?),
            11 => Meta::Signed(i64::from_le_bytes(self.take(what)?)),
            12 => Meta::F64(f64::from_le_bytes(self.take(what)?)),
            other => return Err(self.refuse(format!("metadata key `{key}` has the unknown type {other}"))),
        })
    }

    fn array_header(&mut self, key: &str) -> Result<(u32, usize)> {
        let kind = self.u32("the type of an array")?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => {
                return Err(
                    self.refuse(format!("metadata key `{key}` is an array of the unknown type {other}"))
                );
            }
        };
        Ok((kind, self.count("the length of an array", least)?))
    }

    fn skip(&mut self, key: &str, kind: u32, count: usize, depth: usize) -> Result<()> {
        match kind {
            8 => (0..count).try_for_each(|_| self.text("a string of an array").map(|_| ())),
            9 if depth >= DEEPEST_ARRAY => {
                Err(self.refuse(format!("metadata key `{key}` nests arrays too deep")))
            }
            9 => (0..count).try_for_each(|_| {
                let (kind, count) = self.array_header(key)?;
                self.skip(key, kind, count, depth + 1)
            }),
            _ => {
                let size = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    _ => 8,
                };
                // `count` was held against the bytes left, so this product is below the file's length.
                self.slice(count * size, "an array").map(|_| ())
            }
        }
    }

    /// An entry of the table: name, type, shape, offset.
    fn tensor(&mut self) -> Result<(String, TensorType, Vec<usize>, u64)> {
        let name = self.text("a tensor's name")?;
        let path = self.path;
        let refuse = |problem: String| Error::tensor(path, name, problem);
        let dimensions = self.u32("a tensor's number of dimensions")?;
        if dimensions == 0 || dimensions > MOST_DIMENSIONS {
            return Err(refuse(format!("{dimensions} dimensions found, expected 1 to {MOST_DIMENSIONS}")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let found = self.u64("a tensor's dimension")?;
            let size = usize::try_from(found).ok().filter(|&n| n > 0);
            shape.push(size.ok_or_else(|| refuse(format!("dimension {found} cannot be")))?);
        }
        shape.reverse();
        let id = self.u32("a tensor's type")?;
        let kind = TensorType::from_id(id).ok_or_else(|| {
            refuse(format!("type {id} ({}) cannot be decoded", type_name(id)))
                .with_hint("take a file quantized to Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16 or BF16")
        })?;
        Ok((name.to_string(), kind, shape, self.u64("a tensor's offset")?))
    }

    /// Where the tensor's bytes are, if they are inside the file.
    fn place(
        &self,
        name: &str,
        kind: TensorType,
        shape: Vec<usize>,
        offset: u64,
        alignment: usize,
        data_start: usize,
    ) -> Result<TensorInfo> {
        let refuse = |problem: String| Error::tensor(self.path, name, problem);
        let cols = shape.last().copied().unwrap_or(0);
        let size = kind
            .bytes_of(cols)
            .ok_or_else(|| refuse(format!("rows of {cols} values are not whole blocks of its type")))?;
        let rows = shape[..shape.len() - 1].iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let size = rows.and_then(|rows| rows.checked_mul(size));
        let size = size.ok_or_else(|| refuse(format!("shape {shape:?} is too large")))?;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(refuse(format!("offset {offset} is not a multiple of the alignment {alignment}")));
        }
        let start = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(data_start));
        let end = start.and_then(|start| start.checked_add(size));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.bytes.len() => {
                Ok(TensorInfo { kind, shape, range: start..end })
            }
            _ => {
                let length = self.bytes.len();
                let problem =
                    format!("its {size} bytes at offset {offset} end behind the file's {length} bytes");
                Err(refuse(problem)
                    .with_hint("the download was cut off or the file is damaged; fetch it again"))
            }
        }
    }

    fn check_apart(&self, tensors: &Tensors) -> Result<()> {
        let mut places: Vec<_> = tensors.iter().map(|(name, info)| (&info.range, name)).collect();
        places.sort_by_key(|(range, _)| range.start);
        for pair in places.windows(2) {
            let [(first, other), (second, name)] = pair else { continue };
            if second.start < first.end {
                return Err(Error::tensor(self.path, *name, format!("its bytes overlap those of `{other}`")));
            }
        }
        Ok(())
    }
}

/// The bytes of a tensor as a weight.
pub(super) fn as_weight(kind: TensorType, rows: usize, cols: usize, bytes: Bytes) -> Result<Weight> {
    Ok(match kind {
        TensorType::Dense(dtype) => Weight::dense(rows, cols, dtype, bytes)?,
        TensorType::Block(kind) => Weight::gguf(rows, cols, kind, bytes)?,
    })
}
