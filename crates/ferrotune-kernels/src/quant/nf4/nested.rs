//! Double quantization: the scales of blocks, themselves in 8 bits.

use std::sync::{Arc, OnceLock};

use super::{Bytes, Scales};

/// Scales that share one second-level scale.
pub const NESTED_BLOCK: usize = 256;

/// The signed dynamic map: 7 decades, each with twice the values of the one below.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut values = vec![0.0f32, 1.0];
        for decade in 0..7 {
            let intervals = 1usize << decade;
            let step = (1.0f32 - 0.1) / intervals as f32;
            // The reference spaces values from both ends to the middle, with fused multiply-adds.
            let edge = |i: usize| match i < intervals.div_ceil(2) {
                true => step.mul_add(i as f32, 0.1),
                false => (-step).mul_add((intervals - i) as f32, 1.0),
            };
            let scale = 10f64.powi(decade - 6) as f32;
            for i in 0..intervals {
                let value = scale * ((edge(i) + edge(i + 1)) / 2.0);
                values.extend([value, -value]);
            }
        }
        values.sort_by(f32::total_cmp);
        let mut map = [0.0; 256];
        map.copy_from_slice(&values);
        map
    })
}

/// Quantizes the scales themselves.
pub(super) fn nest(scales: &[f32]) -> Scales {
    let (map, table) = (dynamic_map(), rounded_codes());
    let offset = sum(scales) / scales.len().max(1) as f32;
    let mut codes = Vec::with_capacity(scales.len());
    let mut absmax = Vec::with_capacity(scales.len().div_ceil(NESTED_BLOCK));
    for chunk in scales.chunks(NESTED_BLOCK) {
        let largest = chunk.iter().fold(0f32, |m, s| m.max((s - offset).abs()));
        let factor = 1.0 / largest;
        codes.extend(chunk.iter().map(|s| match largest {
            0.0 => 0,
            _ => table[((((s - offset) * factor + 1.0) * HALF_STEPS + 0.5) as usize).min(table.len() - 1)],
        }));
        absmax.push(largest);
    }
    Scales::Nested {
        codes: Bytes::owned(codes),
        absmax: absmax.into(),
        map: Arc::new(*map),
        offset,
        block: NESTED_BLOCK,
    }
}

/// Half of the steps into which the reference divides the range from -1 to 1.
const HALF_STEPS: f32 = 65535.0 / 2.0;

/// Code of each of 65536 even steps from -1 to 1.
///
/// The reference's CPU path rounds to these steps before it looks for the nearest value of the map; its GPU path does
/// not, so the two differ where a scale is almost on a midpoint. We follow the CPU.
fn rounded_codes() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let bounds: Vec<f32> = dynamic_map().windows(2).map(|w| (w[0] + w[1]) / 2.0).collect();
        let value = |step: u32| (step as f64 / HALF_STEPS as f64 - 1.0) as f32;
        (0..=65535).map(|step| bounds.partition_point(|&b| b < value(step)) as u8).collect()
    })
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
