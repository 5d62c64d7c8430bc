//! An output in f32, or rounded to bf16 on its way out.

use half::bf16;

use super::words::narrow;
use super::{Isa, SharedMut};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Elements of f32 or bf16 whose disjoint parts are written by several tasks.
pub(crate) enum Out<'a> {
    F32(SharedMut<'a, f32>),
    Bf16(SharedMut<'a, bf16>),
}

impl<'a> Out<'a> {
    pub(crate) fn new(t: &'a mut Tensor) -> Self {
        match t.dtype() {
            DType::F32 => Out::F32(SharedMut::new(t.f32_mut())),
            _ => Out::Bf16(SharedMut::new(t.bf16_mut())),
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
