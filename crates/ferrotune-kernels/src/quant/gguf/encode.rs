//! Encoders of the simple formats, with the rounding of the reference's converter.

use super::{GgufType, check_whole, no_encoder};
use crate::error::Result;

/// Encodes `values` (whole blocks) and appends the bytes to `out`.
pub fn encode(kind: GgufType, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    check_whole(kind, values.len())?;
    let encoder = match kind {
        GgufType::Q8_0 => q8_0,
        GgufType::Q4_0 => q4_0,
        GgufType::Q4_1 => q4_1,
        GgufType::Q5_0 => q5_0,
        GgufType::Q5_1 => q5_1,
        other => return Err(no_encoder(other)),
    };
    out.reserve(values.len() / 32 * kind.block_bytes());
    for block in values.as_chunks::<32>().0 {
        encoder(block, out);
    }
    Ok(())
}

fn push_half(value: f32, out: &mut Vec<u8>) {
    out.extend(half::f16::from_f32(value).to_le_bytes());
}

/// 1 / d, and 0 for a block that is all one value.
fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn push_nibbles(codes: &[u8; 32], out: &mut Vec<u8>) {
    let (low, high) = codes.split_at(16);
    out.extend(low.iter().zip(high).map(|(l, h)| (l & 15) | h << 4));
}

fn push_fifth_bits(codes: &[u8; 32], out: &mut Vec<u8>) {
    let bits = codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | ((code >> 4) as u32) << i);
    out.extend(bits.to_le_bytes());
}

/// The first value of the largest magnitude, with its sign.
fn extreme(block: &[f32; 32]) -> f32 {
    block.iter().fold(0.0, |max: f32, &v| if v.abs() > max.abs() { v } else { max })
}

fn range(block: &[f32; 32]) -> (f32, f32) {
    block.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), &v| (min.min(v), max.max(v)))
}

fn q8_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let d = extreme(block).abs() / 127.0;
    let factor = reciprocal(d);
    push_half(d, out);
    out.extend(block.map(|v| (v * factor).round() as i8 as u8));
}

/// Codes of a format that is symmetric around `half`: the extreme value gets the code 0.
fn symmetric(block: &[f32; 32], half: f32) -> (f32, [u8; 32]) {
    let d = extreme(block) / -half;
    let factor = reciprocal(d);
    (d, block.map(|v| (v * factor + (half + 0.5)).min(2.0 * half - 1.0) as u8))
}

/// Codes from the minimum up to `most`.
fn from_minimum(block: &[f32; 32], most: f32) -> (f32, f32, [u8; 32]) {
    let (min, max) = range(block);
    let d = (max - min) / most;
    let factor = reciprocal(d);
    (d, min, block.map(|v| ((v - min) * factor + 0.5).min(most) as u8))
}

fn q4_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let (d, codes) = symmetric(block, 8.0);
    push_half(d, out);
    push_nibbles(&codes, out);
}

fn q5_0(block: &[f32; 32], out: &mut Vec<u8>) {
    let (d, codes) = symmetric(block, 16.0);
    push_half(d, out);
    push_fifth_bits(&codes, out);
    push_nibbles(&codes, out);
}

fn q4_1(block: &[f32; 32], out: &mut Vec<u8>) {
    let (d, min, codes) = from_minimum(block, 15.0);
    push_half(d, out);
    push_half(min, out);
    push_nibbles(&codes, out);
}

fn q5_1(block: &[f32; 32], out: &mut Vec<u8>) {
    let (d, min, codes) = from_minimum(block, 31.0);
    push_half(d, out);
    push_half(min, out);
    push_fifth_bits(&codes, out);
    push_nibbles(&codes, out);
}
