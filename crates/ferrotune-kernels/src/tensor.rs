//! A matrix on a device: shape, element type, and a buffer that goes back to its pool when dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use half::bf16;

use crate::dtype::DType;

/// Recycles the buffers of a device, so that a steady training step allocates nothing and touches no new page.
///
/// It also counts: [`Pool::peak_bytes`] is the largest sum of live buffers so far. Free buffers are given back to the
/// system before live and free ones together would exceed that peak, so the pool itself costs no memory.
#[derive(Debug, Default)]
pub struct Pool {
    shelves: Mutex<Shelves>,
}

/// Sizes count f32 words.
#[derive(Debug, Default)]
struct Shelves {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    free_words: usize,
    live_words: usize,
    peak_words: usize,
    allocations: usize,
}

/// Rounds a length up so that nearly equal requests share buffers: at most a sixteenth is wasted.
fn size_class(words: usize) -> usize {
    let step = (words.max(256).next_power_of_two() / 32).max(1);
    words.max(1).div_ceil(step) * step
}

impl Pool {
    /// A buffer of at least `words` f32 words with unspecified (but initialised) content.
    pub fn take(self: &Arc<Self>, words: usize) -> Buffer {
        let class = size_class(words);
        let mut s = self.shelves.lock().expect("pool lock");
        // A buffer up to a quarter larger serves too: micro-batches differ a little in length from step to step.
        let fitting =
            s.free.range(class..=class + class / 4).find(|(_, v)| !v.is_empty()).map(|(len, _)| *len);
        let found = fitting.and_then(|len| s.free.get_mut(&len)?.pop());
        let class = found.as_ref().map_or(class, Vec::len);
        if found.is_some() {
            s.free_words -= class;
        } else {
            let limit = s.peak_words.max(s.live_words + class);
            while s.live_words + s.free_words + class > limit {
                let Some(mut largest) = s.free.last_entry() else { break };
                let len = *largest.key();
                if largest.get_mut().pop().is_none() {
                    largest.remove();
                    continue;
                }
                s.free_words -= len;
            }
            s.allocations += 1;
        }
        s.live_words += class;
        s.peak_words = s.peak_words.max(s.live_words);
        drop(s);
        let data = found.unwrap_or_else(|| vec![0.0; class]);
        Buffer { data, pool: Arc::clone(self) }
    }

    /// The largest sum of live buffers so far, in bytes.
    pub fn peak_bytes(&self) -> usize {
        self.shelves.lock().expect("pool lock").peak_words * 4
    }

    /// Bytes of the buffers in use now.
    pub fn live_bytes(&self) -> usize {
        self.shelves.lock().expect("pool lock").live_words * 4
    }

    /// How often a request could not be met by a free buffer; constant once steps are steady.
    pub fn allocations(&self) -> usize {
        self.shelves.lock().expect("pool lock").allocations
    }
}

/// Words that return to their [`Pool`] when dropped.
#[derive(Debug)]
pub struct Buffer {
    data: Vec<f32>,
    pool: Arc<Pool>,
}

impl Buffer {
    /// The words as f32.
    pub fn f32(&self) -> &[f32] {
        &self.data
    }

    /// The words as f32, to write.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The words as pairs of bf16.
    pub fn bf16(&self) -> &[bf16] {
        bytemuck::cast_slice(&self.data)
    }

    /// The words as pairs of bf16, to write.
    pub fn bf16_mut(&mut self) -> &mut [bf16] {
        bytemuck::cast_slice_mut(&mut self.data)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if let Ok(mut s) = self.pool.shelves.lock() {
            s.live_words -= data.len();
            s.free_words += data.len();
            s.free.entry(data.len()).or_default().push(data);
        }
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

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of the elements.
    pub fn nbytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// The elements of an f32 matrix in host memory. For ops, tests and files; layers do not index elements.
    pub fn f32(&self) -> &[f32] {
        assert_eq!(self.dtype, DType::F32, "f32 elements of a {} tensor", self.dtype.name());
        &self.buffer.f32()[..self.rows * self.cols]
    }

    /// Like [`Tensor::f32`], to write.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.dtype, DType::F32, "f32 elements of a {} tensor", self.dtype.name());
        &mut self.buffer.f32_mut()[..self.rows * self.cols]
    }

    /// The elements of a bf16 matrix.
    pub fn bf16(&self) -> &[bf16] {
        assert_eq!(self.dtype, DType::Bf16, "bf16 elements of a {} tensor", self.dtype.name());
        &self.buffer.bf16()[..self.rows * self.cols]
    }

    /// Like [`Tensor::bf16`], to write.
    pub fn bf16_mut(&mut self) -> &mut [bf16] {
        assert_eq!(self.dtype, DType::Bf16, "bf16 elements of a {} tensor", self.dtype.name());
        &mut self.buffer.bf16_mut()[..self.rows * self.cols]
    }

    /// Writes all elements, rounding to nearest even if they are bf16.
    pub(crate) fn set(&mut self, values: &[f32]) {
        match self.dtype {
            DType::F32 => self.f32_mut().copy_from_slice(values),
            _ => self.bf16_mut().iter_mut().zip(values).for_each(|(o, v)| *o = bf16::from_f32(*v)),
        }
    }

    /// A copy of the elements as f32, whatever the type.
    pub fn to_vec(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => self.f32().to_vec(),
            _ => self.bf16().iter().map(|v| v.to_f32()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let pool = Arc::new(Pool::default());
        for _ in 0..10 {
            let _a = Tensor::uninit(&pool, 100, 100, DType::F32);
            let _b = Tensor::uninit(&pool, 100, 99, DType::Bf16);
        }
        assert_eq!(pool.allocations(), 2);
        drop(Tensor::uninit(&pool, 100, 90, DType::F32));
        assert_eq!(pool.allocations(), 2, "a little smaller fits");
        assert_eq!(pool.live_bytes(), 0);
    }

    #[test]
    fn free_buffers_never_push_the_total_over_the_peak() {
        let pool = Arc::new(Pool::default());
        for n in [1000, 2000, 3000, 500, 2500, 900] {
            let _t = Tensor::uninit(&pool, n, 10, DType::F32);
            let s = pool.shelves.lock().unwrap();
            assert!(s.live_words + s.free_words <= s.peak_words);
        }
    }
}
