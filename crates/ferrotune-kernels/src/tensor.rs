//! A matrix on a device: shape, element type, and a buffer that goes back to its pool when dropped.
//!
//! Buffers lie in host memory. What reads or writes their elements says so: [`Tensor::host_f32`] and its kin are the only way
//! to them. A tensor in the memory of an accelerator would be another kind of buffer behind the same shape; these methods
//! are where it would be copied to the host and back, or refused, and no other place would have to know.

use std::alloc::Layout;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::bf16;

use crate::arena::{Arena, Place};
use crate::dtype::DType;
use crate::heap;

/// The buffers of a device: a steady training step finds room for its tensors here, and touches no new page.
///
/// It also counts: [`Pool::peak_bytes`] is the largest sum of live buffers so far, [`Pool::used_bytes`] the memory that
/// they ever lay in.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    large: Arena,
    /// Short buffers apart, so that they do not break up the room of the long ones.
    small: Arena,
    /// Shorter buffers are small.
    large_words: usize,
    live_words: usize,
    peak_words: usize,
}

/// Buffers of fewer words are small.
const LARGE_WORDS: usize = 8 * 1024;

/// Words of a mapping: fewer than usual where the addresses of this process are limited (`ulimit -v`), as all of a mapping
/// counts there whether it is used or not.
fn step(usual: usize) -> usize {
    #[cfg(target_os = "linux")]
    if let Some(bytes) = rustix::process::getrlimit(rustix::process::Resource::As).current {
        return usual.min((bytes / 256) as usize).max(1 << 10);
    }
    usual
}

impl Default for Pool {
    fn default() -> Self {
        Pool::of(Arena::new(step(16 << 20)), Arena::new(step(1 << 20)), LARGE_WORDS)
    }
}

impl Pool {
    fn of(large: Arena, small: Arena, large_words: usize) -> Self {
        Pool { state: Mutex::new(State { large, small, large_words, live_words: 0, peak_words: 0 }) }
    }

    /// A pool whose buffers lie in a file that nobody else uses, one after the other in the order in which they are taken;
    /// `words` is what they take together. The system may take their memory away; new buffers hold zeros.
    pub fn in_file(file: File, words: usize) -> Self {
        Pool::of(Arena::in_file(words, file), Arena::new(0), 0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of at least `words` f32 words with unspecified (but initialised) content.
    pub fn take(self: &Arc<Self>, words: usize) -> Buffer {
        let layout = || Layout::array::<f32>(words).unwrap_or(Layout::new::<f32>());
        self.try_take(words).unwrap_or_else(|_| heap::refused(layout()))
    }

    /// Like [`Pool::take`], where the system may refuse, as a full disk does.
    fn try_take(self: &Arc<Self>, words: usize) -> std::io::Result<Buffer> {
        let mut s = self.lock();
        let small = words < s.large_words;
        let arena = if small { &mut s.small } else { &mut s.large };
        let (place, len, ptr) = arena.take(words)?;
        s.live_words += len;
        s.peak_words = s.peak_words.max(s.live_words);
        Ok(Buffer { ptr, len, place, small, pool: Arc::clone(self) })
    }

    /// An f32 matrix of zeros in a pool that lies in a file.
    pub fn zeros_in_file(self: &Arc<Self>, rows: usize, cols: usize) -> std::io::Result<Tensor> {
        let buffer = self.try_take(rows * cols)?;
        Ok(Tensor { rows, cols, dtype: DType::F32, buffer })
    }

    /// The largest sum of live buffers so far, in bytes.
    pub fn peak_bytes(&self) -> usize {
        self.lock().peak_words * 4
    }

    /// Bytes of the buffers in use now.
    pub fn live_bytes(&self) -> usize {
        self.lock().live_words * 4
    }

    /// Bytes that were part of a buffer at some time; constant once steps are steady.
    pub fn used_bytes(&self) -> usize {
        let s = self.lock();
        (s.large.used() + s.small.used()) * 4
    }

    /// Bytes of address space that the system has given to the pool so far.
    pub fn mapped_bytes(&self) -> usize {
        let s = self.lock();
        (s.large.mapped() + s.small.mapped()) * 4
    }
}

/// Words that return to their [`Pool`] when dropped.
#[derive(Debug)]
pub struct Buffer {
    ptr: *mut f32,
    len: usize,
    place: Place,
    small: bool,
    pool: Arc<Pool>,
}

// SAFETY: a buffer is the only user of its words, like a box.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared, it is only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// The words as f32.
    pub fn f32(&self) -> &[f32] {
        // SAFETY: the arena gave these words, initialised by the system, to this buffer alone; the mapping lives as long
        // as the pool, which this buffer holds.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// The words as f32, to write.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `f32`, and `self` is borrowed to write.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }

    /// The words as pairs of bf16.
    pub fn bf16(&self) -> &[bf16] {
        bytemuck::cast_slice(self.f32())
    }

    /// The words as pairs of bf16, to write.
    pub fn bf16_mut(&mut self) -> &mut [bf16] {
        bytemuck::cast_slice_mut(self.f32_mut())
    }

    /// The words as four bytes each.
    pub fn i8(&self) -> &[i8] {
        bytemuck::cast_slice(self.f32())
    }

    /// The words as four bytes each, to write.
    pub fn i8_mut(&mut self) -> &mut [i8] {
        bytemuck::cast_slice_mut(self.f32_mut())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut s = self.pool.lock();
        s.live_words -= self.len;
        let arena = if self.small { &mut s.small } else { &mut s.large };
        arena.put(self.place, self.len);
    }
}

/// Where a matrix lies in a file, to say which part is needed next and which no more.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    place: Place,
    pool: Arc<Pool>,
}

impl Pages {
    /// Reads these elements before they are used.
    pub(crate) fn read_ahead(&self, elements: Range<usize>) {
        self.pool.lock().large.read_ahead(self.place, elements);
    }

    /// Gives the memory behind these elements back.
    pub(crate) fn release(&self, elements: Range<usize>) {
        self.pool.lock().large.release(self.place, elements);
    }
}

/// A contiguous row-major `rows x cols` matrix of f32 or bf16.
#[derive(Debug)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    dtype: DType,
    buffer: Buffer,
}

impl Tensor {
    /// A matrix whose content is unspecified until it is written.
    pub(crate) fn uninit(pool: &Arc<Pool>, rows: usize, cols: usize, dtype: DType) -> Self {
        assert!(dtype != DType::F16, "f16 is a storage format of weights only");
        let words = (rows * cols * dtype.size()).div_ceil(4);
        Tensor { rows, cols, dtype, buffer: pool.take(words) }
    }

    /// Rows `M` (tokens, output features).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same elements in another number of columns, which divides their number.
    pub fn with_columns(self, cols: usize) -> Tensor {
        assert!(cols > 0 && self.len().is_multiple_of(cols), "{:?} in rows of {cols}", self.shape());
        Tensor { rows: self.len() / cols, cols, ..self }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of the elements.
    pub fn nbytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Where it lies, if that is a file.
    pub(crate) fn pages(&self) -> Option<Pages> {
        let in_file = !self.buffer.small && self.buffer.pool.lock().large.is_in_file();
        in_file.then(|| Pages { place: self.buffer.place, pool: Arc::clone(&self.buffer.pool) })
    }

    /// Whether it lies in a file.
    pub fn in_file(&self) -> bool {
        self.pages().is_some()
    }

    /// Gives the memory behind a matrix that lies in a file back; of no meaning for others.
    pub fn release(&self) {
        if let Some(pages) = self.pages() {
            pages.release(0..self.len());
        }
    }

    /// The elements of an f32 matrix in host memory. For ops, tests and files; layers do not index elements.
    pub fn host_f32(&self) -> &[f32] {
        assert_eq!(self.dtype, DType::F32, "f32 elements of a {} tensor", self.dtype.name());
        &self.buffer.f32()[..self.rows * self.cols]
    }

    /// Like [`Tensor::host_f32`], to write.
    pub fn host_f32_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.dtype, DType::F32, "f32 elements of a {} tensor", self.dtype.name());
        &mut self.buffer.f32_mut()[..self.rows * self.cols]
    }

    /// The elements of a bf16 matrix.
    pub fn host_bf16(&self) -> &[bf16] {
        assert_eq!(self.dtype, DType::Bf16, "bf16 elements of a {} tensor", self.dtype.name());
        &self.buffer.bf16()[..self.rows * self.cols]
    }

    /// Like [`Tensor::host_bf16`], to write.
    pub fn host_bf16_mut(&mut self) -> &mut [bf16] {
        assert_eq!(self.dtype, DType::Bf16, "bf16 elements of a {} tensor", self.dtype.name());
        &mut self.buffer.bf16_mut()[..self.rows * self.cols]
    }

    /// The words of an f32 matrix as halves: element `i` is the halves `2 i` and `2 i + 1`.
    pub(crate) fn halves_mut(&mut self) -> &mut [bf16] {
        assert_eq!(self.dtype, DType::F32, "halves of a {} tensor", self.dtype.name());
        &mut self.buffer.bf16_mut()[..2 * self.rows * self.cols]
    }

    /// A matrix whose first halves hold its elements in bf16.
    pub(crate) fn into_bf16(self) -> Tensor {
        Tensor { dtype: DType::Bf16, ..self }
    }

    /// Writes all elements, rounding to nearest even if they are bf16.
    pub(crate) fn set(&mut self, values: &[f32]) {
        match self.dtype {
            DType::F32 => self.host_f32_mut().copy_from_slice(values),
            _ => self.host_bf16_mut().iter_mut().zip(values).for_each(|(o, v)| *o = bf16::from_f32(*v)),
        }
    }

    /// A copy of the elements as f32, whatever the type.
    pub fn to_vec(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => self.host_f32().to_vec(),
            _ => self.host_bf16().iter().map(|v| v.to_f32()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = Arc::new(Pool::default());
        let step = || {
            let a = Tensor::uninit(&pool, 100, 100, DType::F32);
            let _b = Tensor::uninit(&pool, 1000, 99, DType::Bf16);
            drop(a);
            let _c = Tensor::uninit(&pool, 90, 100, DType::F32);
        };
        step();
        let used = pool.used_bytes();
        (0..10).for_each(|_| step());
        assert_eq!(pool.used_bytes(), used);
        assert_eq!(pool.live_bytes(), 0);
        assert!(pool.peak_bytes() <= used && used >= 100 * 100 * 4 + 1000 * 99 * 2);
    }

    #[test]
    fn buffers_hold_what_is_written_while_others_come_and_go() {
        let pool = Arc::new(Pool::default());
        let mut held: Vec<Buffer> = Vec::new();
        for i in 0..200usize {
            let mut b = pool.take(1 + i * 977 % 30_000);
            b.f32_mut().fill(i as f32);
            held.push(b);
            if i % 3 == 2 {
                let old = held.remove(i / 6);
                assert!(old.f32().iter().all(|v| *v == old.f32()[0]));
            }
        }
        for b in &held {
            assert!(b.f32().iter().all(|v| *v == b.f32()[0]));
        }
    }
}
