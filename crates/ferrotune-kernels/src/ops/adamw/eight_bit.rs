//! AdamW with moments in 8 bits (Dettmers et al. 2021), as bitsandbytes' `AdamW8bit` computes it: a block of 256 moments
//! is decoded, updated in f32, used for the parameters, and only then rounded again.

use super::{AdamW, Factors, cpu, reference};
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

/// A block of one parameter.
struct Piece<'a> {
    value: &'a mut [f32],
    grad: &'a [f32],
    m: (&'a mut [u8], &'a mut f32),
    v: (&'a mut [u8], &'a mut f32),
}

impl Piece<'_> {
    fn update(self, maps: [DynamicMap; 2], update: impl Fn(&mut [f32], &[f32], &mut [f32], &mut [f32])) {
        let n = self.value.len();
        let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
        maps[0].decode(self.m.0, *self.m.1, &mut m[..n]);
        maps[1].decode(self.v.0, *self.v.1, &mut v[..n]);
        update(self.value, self.grad, &mut m[..n], &mut v[..n]);
        *self.m.1 = maps[0].encode(&m[..n], self.m.0);
        *self.v.1 = maps[1].encode(&v[..n], self.v.0);
    }
}

fn on_one(constants: AdamW, params: &mut [Param8<'_>]) {
    for p in params {
        let f = Factors::new(constants, p.decay, p.lr_factor);
        let maps = [p.m.map, p.v.map];
        let values = p.value.f32_mut().chunks_mut(BLOCK).zip(p.grad.f32().chunks(BLOCK));
        let m = p.m.codes.chunks_mut(BLOCK).zip(&mut p.m.scales);
        let v = p.v.codes.chunks_mut(BLOCK).zip(&mut p.v.scales);
        for (((value, grad), m), v) in values.zip(m).zip(v) {
            Piece { value, grad, m, v }
                .update(maps, |value, grad, m, v| reference::piece(value, grad, m, v, &f));
        }
    }
}

fn on_cpu(cpu: &Cpu, constants: AdamW, params: &mut [Param8<'_>]) {
    struct Shared<'a> {
        value: SharedMut<'a, f32>,
        grad: &'a [f32],
        codes: [SharedMut<'a, u8>; 2],
        scales: [SharedMut<'a, f32>; 2],
        maps: [DynamicMap; 2],
        factors: Factors,
    }
    let of = |(t, p): (usize, &Param8<'_>)| (0..p.value.len().div_ceil(BLOCK)).map(move |b| (t, b));
    let blocks = cpu.list(params.iter().enumerate().flat_map(of));
    let shared = cpu.list(params.iter_mut().map(|p| Shared {
        value: SharedMut::new(p.value.f32_mut()),
        grad: p.grad.f32(),
        maps: [p.m.map, p.v.map],
        codes: [SharedMut::new(&mut p.m.codes), SharedMut::new(&mut p.v.codes)],
        scales: [SharedMut::new(&mut p.m.scales), SharedMut::new(&mut p.v.scales)],
        factors: Factors::new(constants, p.decay, p.lr_factor),
    }));
    cpu.run_ranges(blocks.len(), 32, |range| {
        for (t, b) in &blocks[range] {
            let s = &shared[*t];
            let r = b * BLOCK..((b + 1) * BLOCK).min(s.grad.len());
            // SAFETY: every block of every tensor is in one task alone.
            let piece = unsafe {
                Piece {
                    value: s.value.slice(r.clone()),
                    grad: &s.grad[r.clone()],
                    m: (s.codes[0].slice(r.clone()), &mut s.scales[0].slice(*b..b + 1)[0]),
                    v: (s.codes[1].slice(r.clone()), &mut s.scales[1].slice(*b..b + 1)[0]),
                }
            };
            piece.update(s.maps, |value, grad, m, v| {
                cpu::update_piece(cpu.isa(), value, grad, m, v, &s.factors);
            });
        }
    });
}
