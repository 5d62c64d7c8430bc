//! The forward of up to four queries of each segment, as in decoding: keys and values are read where they lie, once for
//! each head, in f32 whatever the precision.

use super::cpu::{cap_row, scale_row, softmax_row};
use super::{Attention, Segment};
use crate::cpu::dots::{dots_rows, sum_rows};
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Most queries of a segment.
const FEW: usize = 4;

/// Whether all segments have few queries and stand alone.
pub(super) fn suits(segments: &[Segment]) -> bool {
    segments.iter().all(|s| s.q_len <= FEW && s.parent.is_none())
}

pub(super) fn forward(cpu: &Cpu, x: Attention<'_>, o: &mut Tensor, lse: &mut Tensor) {
    let Attention { q, k, v, segments, heads } = x;
    let (d, rows, width, stride) = (heads.dim, q.rows(), q.cols(), k.cols());
    let longest = segments.iter().map(|s| s.k_len).max().unwrap_or(0);
    let (out, lse, isa) = (SharedMut::new(o.host_f32_mut()), SharedMut::new(lse.host_f32_mut()), cpu.isa());
    let state = || cpu.pool().take(longest + d);
    cpu.threads().run_with(segments.len() * heads.q, state, |buffer, task| {
        let (s, h) = (&segments[task / heads.q], task % heads.q);
        let at = h / (heads.q / heads.kv) * d;
        let (scores, query) = buffer.f32_mut()[..longest + d].split_at_mut(longest);
        for i in 0..s.q_len {
            let (row, keys) = (s.q_start + i, heads.visible(s.k_len - s.q_len + i));
            let scores = &mut scores[..keys.len()];
            let first = (s.k_start + keys.start) * stride + at;
            Mat::from(q).read(isa, row, h * d, query);
            scale_row(isa, query, heads.scale);
            match k.dtype() {
                DType::F32 => dots_rows(isa, query, &k.host_f32()[first..], stride, scores),
                _ => dots_rows(isa, query, &k.host_bf16()[first..], stride, scores),
            }
            if let Some(cap) = heads.cap {
                cap_row(isa, scores, cap);
            }
            let mut state = (f32::NEG_INFINITY, 0.0);
            softmax_row(isa, scores, &mut state);
            let (top, total) = state;
            // SAFETY: these columns of the row, and its entry, belong to one task.
            let (acc, lse) = unsafe {
                let start = row * width + h * d;
                (out.slice(start..start + d), lse.slice(h * rows + row..h * rows + row + 1))
            };
            match v.dtype() {
                DType::F32 => sum_rows(isa, scores, &v.host_f32()[first..], stride, acc),
                _ => sum_rows(isa, scores, &v.host_bf16()[first..], stride, acc),
            }
            scale_row(isa, acc, 1.0 / total);
            lse[0] = top + total.ln();
        }
    });
}
