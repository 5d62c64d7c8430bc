//! An output in f32, or rounded to bf16 on its way out.

use half::bf16;

use super::words::narrow;
use super::{Isa, SharedMut};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Elements of f32 or bf16 whose disjoint parts are written by several tasks.
pub enum Out<'a> {
    /// Kept as computed.
    F32(SharedMut<'a, f32>),
    /// Rounded to nearest even.
    Bf16(SharedMut<'a, bf16>),
}

impl<'a> From<&'a mut [f32]> for Out<'a> {
    fn from(values: &'a mut [f32]) -> Self {
        Out::F32(SharedMut::new(values))
    }
}

impl<'a> From<&'a mut Tensor> for Out<'a> {
    fn from(t: &'a mut Tensor) -> Self {
        match t.dtype() {
            DType::F32 => Out::from(t.host_f32_mut()),
            _ => Out::Bf16(SharedMut::new(t.host_bf16_mut())),
        }
    }
}

impl Out<'_> {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Out::F32(all) => all.len(),
            Out::Bf16(all) => all.len(),
        }
    }

    /// Lets `fill` write `len` elements from `start` on, all of them; `spare` is where it writes if they are rounded.
    ///
    /// # Safety
    /// Nobody else uses these elements at the same time.
    #[inline]
    pub(crate) unsafe fn write(
        &self,
        isa: Isa,
        start: usize,
        len: usize,
        spare: &mut [f32],
        fill: impl FnOnce(&mut [f32]),
    ) {
        match self {
            // SAFETY: by the caller's promise.
            Out::F32(all) => fill(unsafe { all.slice(start..start + len) }),
            Out::Bf16(all) => {
                let spare = &mut spare[..len];
                fill(spare);
                // SAFETY: by the caller's promise.
                narrow(isa, spare, unsafe { all.slice(start..start + len) });
            }
        }
    }
}
