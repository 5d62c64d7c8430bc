//! Double quantization: the scales of blocks, themselves in 8 bits.

use std::sync::Arc;

use super::super::dynamic8::DynamicMap;
use super::{Bytes, Scales};

/// Scales that share one second-level scale.
pub const NESTED_BLOCK: usize = 256;

/// Quantizes the scales themselves.
pub(super) fn nest(scales: &[f32]) -> Scales {
    let map = DynamicMap::Signed;
    let offset = sum(scales) / scales.len().max(1) as f32;
    let shifted: Vec<f32> = scales.iter().map(|s| s - offset).collect();
    let mut codes = vec![0; scales.len()];
    let blocks = shifted.chunks(NESTED_BLOCK).zip(codes.chunks_mut(NESTED_BLOCK));
    let absmax: Vec<f32> = blocks.map(|(values, codes)| map.encode(values, codes)).collect();
    Scales::Nested {
        codes: Bytes::owned(codes),
        absmax: absmax.into(),
        map: Arc::new(*map.values()),
        offset,
        block: NESTED_BLOCK,
    }
}

/// Sum in the order of the reference, whose offsets would else differ in the last bit: interleaved over 8 lanes
/// and 4 accumulators each, in cascades of runs so that errors do not grow with the length.
fn sum(values: &[f32]) -> f32 {
    // Below a vector's length the reference takes values one by one.
    if values.len() >= 8 { lane_sum::<8>(values) } else { lane_sum::<1>(values) }
}

fn lane_sum<const LANES: usize>(values: &[f32]) -> f32 {
    const LEVELS: usize = 4;
    const ROWS: usize = 4;
    fn add<const N: usize>(to: &mut [f32; N], from: &[f32; N]) {
        to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
    }
    let (vectors, tail) = values.as_chunks::<LANES>();
    let (quads, single) = vectors.as_chunks::<ROWS>();
    let bits = (quads.len().next_power_of_two().trailing_zeros() as usize / LEVELS).max(4);
    let mut levels = [[[0f32; LANES]; ROWS]; LEVELS];
    for (i, quad) in quads.iter().enumerate() {
        for (sum, vector) in levels[0].iter_mut().zip(quad) {
            add(sum, vector);
        }
        // A level that has taken a full run hands its sum to the next.
        let done = i + 1;
        for level in 1..LEVELS {
            if done % (1 << (level * bits)) != 0 {
                break;
            }
            let lower = std::mem::replace(&mut levels[level - 1], [[0.0; LANES]; ROWS]);
            for (sum, vector) in levels[level].iter_mut().zip(&lower) {
                add(sum, vector);
            }
        }
    }
    let [mut rows, upper @ ..] = levels;
    for level in &upper {
        rows.iter_mut().zip(level).for_each(|(sum, vector)| add(sum, vector));
    }
    let [mut total, others @ ..] = rows;
    single.iter().chain(&others).for_each(|vector| add(&mut total, vector));
    tail.iter().chain(&total).fold(0.0, |sum, v| sum + v)
}
