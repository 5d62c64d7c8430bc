//! AdamW with moments in 8 bits (Dettmers et al. 2021), as bitsandbytes' `AdamW8bit` computes it: a block of 256 moments
//! is decoded, updated in f32, used for the parameters, and only then rounded again.

use super::cpu::{PIECE, pieces, update_piece};
use super::{AdamW, Factors, reference};
use crate::cpu::{Cpu, SharedMut};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::expect;
use crate::quant::dynamic8::{BLOCK, Blocks8, DynamicMap};
use crate::tensor::Tensor;

/// A parameter with its gradient and 8-bit state.
pub struct Param8<'a> {
    /// The parameter; updated.
    pub value: &'a mut Tensor,
    /// Its gradient, of the same shape.
    pub grad: &'a Tensor,
    /// First moment, signed, one code for each value; updated.
    pub m: &'a mut Blocks8,
    /// Second moment, unsigned; updated.
    pub v: &'a mut Blocks8,
    /// Whether weight decay applies to it.
    pub decay: bool,
    /// Its learning rate as a share of the step's.
    pub lr_factor: f64,
}

/// One update of every parameter; blocks are independent, so threads change no bit.
pub fn update_8bit(dev: &Device, constants: AdamW, params: &mut [Param8<'_>]) -> Result<()> {
    for p in params.iter() {
        expect("adamw", "gradient", p.grad, p.value.shape())?;
        for (what, moment) in [("m", &p.m), ("v", &p.v)] {
            if moment.codes.len() != p.value.len() {
                let (found, expected) = (vec![moment.codes.len()], vec![p.value.len()]);
                return Err(Error::Shape { op: "adamw", what, found, expected });
            }
        }
    }
    match dev {
        Device::Reference(_) => on_one(constants, params),
        Device::Cpu(c) => on_cpu(c, constants, params),
    }
    Ok(())
}

/// Whole blocks of one parameter.
struct Piece<'a> {
    value: &'a mut [f32],
    grad: &'a [f32],
    /// Codes and scales of the first and the second moment.
    codes: [&'a mut [u8]; 2],
    scales: [&'a mut [f32]; 2],
    maps: [DynamicMap; 2],
}

impl Piece<'_> {
    fn update(self, update: impl Fn(&mut [f32], &[f32], &mut [f32], &mut [f32])) {
        let ([map_m, map_v], [codes_m, codes_v], [scales_m, scales_v]) = (self.maps, self.codes, self.scales);
        let values = self.value.chunks_mut(BLOCK).zip(self.grad.chunks(BLOCK));
        let moments_m = codes_m.chunks_mut(BLOCK).zip(scales_m);
        let moments_v = codes_v.chunks_mut(BLOCK).zip(scales_v);
        for (((value, grad), (codes_m, scale_m)), (codes_v, scale_v)) in values.zip(moments_m).zip(moments_v)
        {
            let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
            let (m, v) = (&mut m[..value.len()], &mut v[..value.len()]);
            map_m.decode(codes_m, *scale_m, m);
            map_v.decode(codes_v, *scale_v, v);
            update(value, grad, m, v);
            *scale_m = map_m.encode(m, codes_m);
            *scale_v = map_v.encode(v, codes_v);
        }
    }
}

fn on_one(constants: AdamW, params: &mut [Param8<'_>]) {
    for p in params {
        let f = Factors::new(constants, p.decay, p.lr_factor);
        let piece = Piece {
            value: p.value.host_f32_mut(),
            grad: p.grad.host_f32(),
            maps: [p.m.map, p.v.map],
            codes: [&mut p.m.codes, &mut p.v.codes],
            scales: [&mut p.m.scales, &mut p.v.scales],
        };
        piece.update(|value, grad, m, v| reference::piece(value, grad, m, v, &f));
    }
}

fn on_cpu(cpu: &Cpu, constants: AdamW, params: &mut [Param8<'_>]) {
    const { assert!(PIECE.is_multiple_of(BLOCK)) };
    struct Shared<'a> {
        value: SharedMut<'a, f32>,
        grad: &'a [f32],
        codes: [SharedMut<'a, u8>; 2],
        scales: [SharedMut<'a, f32>; 2],
        maps: [DynamicMap; 2],
        factors: Factors,
    }
    let list: Vec<_> = pieces(params.iter().map(|p| p.value.len())).collect();
    let shared: Vec<_> = params
        .iter_mut()
        .map(|p| Shared {
            value: SharedMut::new(p.value.host_f32_mut()),
            grad: p.grad.host_f32(),
            maps: [p.m.map, p.v.map],
            codes: [SharedMut::new(&mut p.m.codes), SharedMut::new(&mut p.v.codes)],
            scales: [SharedMut::new(&mut p.m.scales), SharedMut::new(&mut p.v.scales)],
            factors: Factors::new(constants, p.decay, p.lr_factor),
        })
        .collect();
    cpu.threads().run(list.len(), |i| {
        let (t, at) = list[i];
        let s = &shared[t];
        let r = at..(at + PIECE).min(s.grad.len());
        let blocks = r.start / BLOCK..r.end.div_ceil(BLOCK);
        // SAFETY: pieces are disjoint, and each has whole blocks.
        let piece = unsafe {
            Piece {
                value: s.value.slice(r.clone()),
                grad: &s.grad[r.clone()],
                maps: s.maps,
                codes: [s.codes[0].slice(r.clone()), s.codes[1].slice(r)],
                scales: [s.scales[0].slice(blocks.clone()), s.scales[1].slice(blocks)],
            }
        };
        piece.update(|value, grad, m, v| update_piece(cpu.isa(), value, grad, m, v, &s.factors));
    });
}
