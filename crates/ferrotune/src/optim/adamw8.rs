//! AdamW with moments in 8 bits, as bitsandbytes' `AdamW8bit`: 2 bytes a parameter in place of 8.
//!
//! Tensors of fewer than 4096 values keep f32 moments, as there: they are few bytes, and a norm's weights suffer most.

use ferrotune_kernels::ops::adamw;
use ferrotune_kernels::quant::dynamic8::{BLOCK, Blocks8, DynamicMap};
use ferrotune_kernels::{Device, Tensor};

use super::adamw::AdamWConfig;
use super::{Entry, Optimizer, ReadTensor, Saved};
use crate::Result;
use crate::model::{Gradients, Params};
use crate::run_config::OptimizerKind;

/// Values from which on a tensor's moments are in 8 bits.
const LEAST: usize = 4096;

/// The moments of one parameter.
#[derive(Debug)]
enum Moments {
    Whole(Box<[Tensor; 2]>),
    Blocks([Blocks8; 2]),
}

/// AdamW and its moments.
#[derive(Debug)]
pub struct AdamW8 {
    config: AdamWConfig,
    moments: Vec<Moments>,
    steps: u64,
}

const PARTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// AdamW with its moments in 8 bits.
pub(super) const ADAMW_8BIT: Entry = Entry {
    kind: OptimizerKind::Adamw8bit,
    init: |dev, params, config, _| Ok(Box::new(AdamW8::new(dev, params, config))),
    state_bytes: |lengths| lengths.iter().map(|len| state_bytes(*len)).sum(),
};

/// Bytes of the moments of a parameter of this length.
fn state_bytes(len: usize) -> usize {
    if len < LEAST { 8 * len } else { 2 * (len + 4 * len.div_ceil(BLOCK)) }
}

impl AdamW8 {
    /// Zero moments for every parameter.
    pub fn new(dev: &Device, params: &Params, config: AdamWConfig) -> Self {
        let zeros = |p: &Tensor| match p.len() {
            ..LEAST => Moments::Whole(Box::new([0, 1].map(|_| dev.zeros(p.rows(), p.cols())))),
            len => Moments::Blocks([
                Blocks8::zeros(DynamicMap::Signed, len),
                Blocks8::zeros(DynamicMap::Unsigned, len),
            ]),
        };
        AdamW8 { config, moments: params.iter().map(|(_, p)| zeros(p)).collect(), steps: 0 }
    }
}

impl Optimizer for AdamW8 {
    fn begin(&mut self) {
        self.steps += 1;
    }

    fn update(
        &mut self,
        dev: &Device,
        params: &mut Params,
        grads: &Gradients,
        lr: f64,
        grad_scale: f32,
    ) -> Result<()> {
        let constants = self.config.constants(lr, self.steps, grad_scale);
        let rates: Vec<_> = params.groups().iter().map(|group| self.config.of_group(*group)).collect();
        let (mut whole, mut blocks) = (Vec::new(), Vec::new());
        let values = params.values_mut().iter_mut().zip(grads.each()).zip(rates);
        for (((value, grad), (decay, lr_factor)), moments) in values.zip(&mut self.moments) {
            let Some(grad) = grad else { continue };
            match moments {
                Moments::Whole(mv) => {
                    let [m, v] = &mut **mv;
                    whole.push(adamw::Param { value, grad, m, v, copy: None, decay, lr_factor });
                }
                Moments::Blocks([m, v]) => blocks.push(adamw::Param8 { value, grad, m, v, decay, lr_factor }),
            }
        }
        adamw::update(dev, constants, &mut whole)?;
        Ok(adamw::update_8bit(dev, constants, &mut blocks)?)
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self, params: &Params) -> Vec<(String, Saved<'_>)> {
        let mut list = Vec::new();
        for ((name, p), moments) in params.iter().zip(&self.moments) {
            for (i, part) in PARTS.iter().enumerate() {
                match moments {
                    Moments::Whole(mv) => list.push((format!("{name}.{part}"), Saved::Tensor(&mv[i]))),
                    Moments::Blocks(mv) => {
                        let codes = Saved::Codes(p.shape(), &mv[i].codes);
                        list.push((format!("{name}.{part}.codes"), codes));
                        list.push((format!("{name}.{part}.scales"), Saved::Scales(&mv[i].scales)));
                    }
                }
            }
        }
        list
    }

    fn restore(&mut self, params: &Params, steps: u64, read: &mut ReadTensor<'_>) -> Result<()> {
        for ((name, p), moments) in params.iter().zip(&mut self.moments) {
            for (i, part) in PARTS.iter().enumerate() {
                match moments {
                    Moments::Whole(mv) => {
                        let values = read(&format!("{name}.{part}"), p.shape())?;
                        mv[i].host_f32_mut().copy_from_slice(&values);
                    }
                    Moments::Blocks(mv) => {
                        let codes = read(&format!("{name}.{part}.codes"), p.shape())?;
                        mv[i].codes = codes.into_iter().map(|c| c as u8).collect();
                        let blocks = mv[i].scales.len();
                        mv[i].scales = read(&format!("{name}.{part}.scales"), [1, blocks])?;
                    }
                }
            }
        }
        self.steps = steps;
        Ok(())
    }
}
