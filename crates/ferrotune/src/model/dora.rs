//! A linear with DoRA: `y = (m / n) (W + s B A) x + b`, with `n` the row lengths of `W + s B A`.
//!
//! With dropout PEFT drops inputs of the base's share of the change too, `x' = drop(x)`:
//! `y = W x + (m / n - 1) W x' + (m / n) s B A x' + b`, which is `W (x - x') + (m / n) (W + s B A) x' + b` here.
//! The backward computes `Z = (W + s B A) x'` again: it is as wide as the output, and is needed for `dm` alone.

use std::sync::Arc;

use ferrotune_kernels::ops::dora::{self, Lengths};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::linear::{self, Grads, Linear, Passed};
use ferrotune_kernels::{DType, Tensor};

use super::adapted::BranchIds;
use super::linear::{LinearLayer, Pass, Sinks};
use super::params::{Gradients, ParamId};
use crate::Result;
use crate::arch::architecture::Architecture;

/// Bytes that a token takes while a layer with DoRA is at work: the sum before scaling, its gradient, and with dropout both
/// parts of the input.
pub(crate) fn workspace_per_token(a: &Architecture) -> usize {
    4 * a.ffn * 4
}

/// The inputs of the two products: of the branch's side, and (with dropout) what of x it does not see.
struct Inputs {
    dropped: Tensor,
    rest: Tensor,
}

impl<'a> Pass<'a> {
    /// The parameter of the magnitudes, if the linear has them.
    pub(super) fn magnitude(&self, l: &LinearLayer) -> Option<(BranchIds, ParamId)> {
        let ids = self.branch(l.id)?;
        Some((ids, ids.magnitude?))
    }

    /// Writes (or with `accumulate` adds) the output of a linear with magnitudes.
    pub(super) fn dora_forward(
        &self,
        x: &Tensor,
        l: &'a LinearLayer,
        (ids, magnitude): (BranchIds, ParamId),
        y: &mut Tensor,
        accumulate: bool,
    ) -> Result<()> {
        let view = self.view(l);
        let norm = self.row_norms(l, ids)?;
        let lengths = Lengths { magnitude: self.params.get(magnitude), norm: &norm };
        let inputs = self.inputs(x, &view)?;
        if let Some(inputs) = &inputs {
            let base = Linear { bias: None, branch: None, ..view };
            linear::forward(self.ctx(), &inputs.rest, &[base], &mut [&mut *y], accumulate)?;
        }
        let (z, _) = self.sum(inputs.as_ref().map_or(x, |i| &i.dropped), &view)?;
        Ok(dora::forward(self.dev, &z, lengths, view.bias, y, accumulate || inputs.is_some())?)
    }

    /// Adds the gradients of what is trained and writes (or with `accumulate` adds) `dx`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn dora_backward(
        &self,
        x: &Tensor,
        l: &'a LinearLayer,
        (ids, magnitude): (BranchIds, ParamId),
        dy: &Tensor,
        dx: Option<&mut Tensor>,
        accumulate: bool,
        grads: &mut Gradients,
    ) -> Result<()> {
        let dev = self.dev;
        let wide = (dy.dtype() != DType::F32).then(|| elementwise::cast(dev, dy, DType::F32));
        let dy = wide.as_ref().unwrap_or(dy);
        let view = self.view(l);
        let norm = self.row_norms(l, ids)?;
        let lengths = Lengths { magnitude: self.params.get(magnitude), norm: &norm };
        let inputs = self.inputs(x, &view)?;
        let input = inputs.as_ref().map_or(x, |i| &i.dropped);
        let (z, h) = self.sum(input, &view)?;
        let mut dm = grads.take(magnitude);
        let dz = dora::backward(dev, dy, &z, lengths, dm.as_mut());
        if let Some(dm) = dm {
            grads.put(magnitude, dm);
        }
        let dz = dz?;
        drop(z);

        let mut sinks = Sinks::take(self, l, grads);
        let branch = view.branch.map(|b| linear::Branch { dropout: None, ..b });
        let sum = [Linear { bias: None, branch, ..view }];
        let mut own = [Grads { bias: None, ..sinks.grads() }];
        let mut put = |dx: Option<&mut Tensor>, accumulate| {
            linear::backward(
                self.ctx(),
                Passed { x: input, h: h.as_ref(), linears: &sum, dys: &[&dz] },
                dx,
                accumulate,
                &mut own,
            )
        };
        let result = match (dx, &inputs) {
            (dx, None) => put(dx, accumulate),
            (None, Some(_)) => put(None, false),
            (Some(dx), Some(inputs)) => {
                let base = [Linear { bias: None, branch: None, ..view }];
                let mut rest = dev.empty(x.rows(), x.cols());
                let mut dropped = dev.empty(x.rows(), x.cols());
                let nothing = &mut [Grads::default()];
                let past = Passed { x: &inputs.rest, h: None, linears: &base, dys: &[dy] };
                linear::backward(self.ctx(), past, Some(&mut rest), false, nothing)
                    .and_then(|()| put(Some(&mut dropped), false))
                    .and_then(|()| {
                        // x takes part in x - x' and in x'.
                        elementwise::add(dev, &mut dropped, &rest, -1.0)?;
                        if let Some(drop) = view.branch.and_then(|b| b.dropout) {
                            elementwise::dropout_backward(dev, &mut dropped, drop);
                        }
                        elementwise::add(dev, &mut dropped, &rest, 1.0)?;
                        if accumulate {
                            return elementwise::add(dev, dx, &dropped, 1.0);
                        }
                        *dx = dropped;
                        Ok(())
                    })
            }
        };
        // The bias stands outside the scaling.
        let bias = result.and_then(|()| sinks.add_bias(dev, dy));
        sinks.put(self.dev, grads)?;
        Ok(bias?)
    }

    /// `Z = X (W + s B A)t` and `H`.
    fn sum(&self, x: &Tensor, view: &Linear<'a>) -> Result<(Tensor, Option<Tensor>)> {
        let branch = view.branch.map(|b| linear::Branch { dropout: None, ..b });
        let sum = Linear { bias: None, branch, ..*view };
        let mut z = self.dev.empty(x.rows(), view.weight.rows());
        let h = linear::forward(self.ctx(), x, &[sum], &mut [&mut z], false)?;
        Ok((z, h))
    }

    fn inputs(&self, x: &Tensor, view: &Linear<'a>) -> Result<Option<Inputs>> {
        let Some(drop) = view.branch.and_then(|b| b.dropout) else { return Ok(None) };
        let dropped = elementwise::dropout(self.dev, x, drop);
        let mut rest = elementwise::cast(self.dev, x, DType::F32);
        elementwise::add(self.dev, &mut rest, &dropped, -1.0)?;
        Ok(Some(Inputs { dropped, rest }))
    }

    fn row_norms(&self, l: &'a LinearLayer, ids: BranchIds) -> Result<Arc<Tensor>> {
        let compute = || {
            let branch = (self.params.get(ids.a), self.params.get(ids.b), ids.scale);
            dora::row_norms(self.dev, self.weight(l), Some(branch))
        };
        match self.adapted {
            Some(adapted) => Ok(adapted.norms.get(l.id, self.params.version(), compute)?),
            None => Ok(Arc::new(compute()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::linear::{Base, DropoutKey, Vector};
    use crate::model::{Adapted, Params};
    use ferrotune_kernels::cpu::{Cpu, Isa};
    use ferrotune_kernels::ops::elementwise::Dropout;
    use ferrotune_kernels::rng::Stream;
    use ferrotune_kernels::{Device, Precision, Weight};

    const SHAPE: (usize, usize, usize, usize) = (7, 24, 18, 3);
    const SCALE: f32 = 0.5;

    fn random(name: &str, len: usize) -> Vec<f32> {
        let s = Stream::new(8, name, 0);
        (0..len as u64).map(|i| s.normal(i)).collect()
    }

    /// The inputs of the formula: x, A, B, m.
    type Inputs = [Vec<f32>; 4];

    fn inputs() -> Inputs {
        let (m, n, k, r) = SHAPE;
        [random("x", m * k), random("a", r * k), random("b", n * r), random("m", n)]
    }

    /// Row lengths of `W + s B A`.
    fn lengths([_, a, b, _]: &Inputs) -> Vec<f64> {
        let (_, n, k, r) = SHAPE;
        let w = random("w", n * k);
        let value = |j: usize, i: usize| {
            let product: f64 = (0..r).map(|q| b[j * r + q] as f64 * a[q * k + i] as f64).sum();
            w[j * k + i] as f64 + SCALE as f64 * product
        };
        (0..n).map(|j| (0..k).map(|i| value(j, i).powi(2)).sum::<f64>().sqrt()).collect()
    }

    /// `y = W x + (m / n - 1) W x' + (m / n) s B A x' + b` as PEFT writes it, times `dy`, summed.
    fn loss([x, a, b, m]: &Inputs, norm: &[f64], drop: Option<Dropout>) -> f64 {
        let (rows, n, k, r) = SHAPE;
        let (w, bias, dy) = (random("w", n * k), random("bias", n), random("dy", rows * n));
        let mut sum = 0.0;
        for t in 0..rows {
            let x = |i: usize| x[t * k + i] as f64;
            let dropped = |i: usize| x(i) * drop.map_or(1.0, |d| d.factor(t * k + i)) as f64;
            let h: Vec<f64> =
                (0..r).map(|q| (0..k).map(|i| a[q * k + i] as f64 * dropped(i)).sum()).collect();
            for j in 0..n {
                let gain = m[j] as f64 / norm[j];
                let base: f64 = (0..k).map(|i| w[j * k + i] as f64 * x(i)).sum();
                let seen: f64 = (0..k).map(|i| w[j * k + i] as f64 * dropped(i)).sum();
                let branch: f64 = (0..r).map(|q| b[j * r + q] as f64 * h[q]).sum();
                let y = base + (gain - 1.0) * seen + gain * SCALE as f64 * branch + bias[j] as f64;
                sum += y * dy[t * n + j] as f64;
            }
        }
        sum
    }

    /// Our loss and gradients of x, A, B, m and the bias.
    fn ours(dev: &Device, p: f32) -> (f64, Vec<Vec<f32>>) {
        let (rows, n, k, r) = SHAPE;
        let [x, a, b, m] = inputs();
        let mut params = Params::default();
        let ids = BranchIds {
            a: params.push("a", dev.tensor(r, k, &a)),
            b: params.push("b", dev.tensor(n, r, &b)),
            bias: None,
            magnitude: Some(params.push("m", dev.tensor(1, n, &m))),
            scale: SCALE,
            dropout: p,
        };
        let bias = Vector::Trained(params.push("bias", dev.tensor(1, n, &random("bias", n))));
        let base = Base::Frozen(Weight::from_f32(n, k, &random("w", n * k)));
        let l = LinearLayer { id: 0, name: "l".into(), rows: n, cols: k, base, bias: Some(bias) };
        let adapted = Adapted { branches: vec![Some(ids)], ..Adapted::default() };
        let dropout = Some(DropoutKey { seed: 1, step: 2 });
        let pass = Pass { dev, precision: Precision::F32, params: &params, adapted: Some(&adapted), dropout };
        let x = dev.tensor(rows, k, &x);
        let ([y], h) = pass.linears(&x, [&l], DType::F32).unwrap();
        let dy = dev.tensor(rows, n, &random("dy", rows * n));
        let loss = y.host_f32().iter().zip(dy.host_f32()).map(|(a, b)| *a as f64 * *b as f64).sum();
        let mut grads = Gradients::zeros(dev, &params);
        let dx = pass.linears_backward(&x, h.as_ref(), [&l], [&dy], true, &mut grads).unwrap().unwrap();
        let all = std::iter::once(&dx).chain(grads.all()).map(|t| t.to_vec()).collect();
        (loss, all)
    }

    #[test]
    fn outputs_and_gradients_are_those_of_the_formula_with_and_without_dropout() {
        for p in [0.0, 0.4] {
            let drop = (p > 0.0).then(|| Dropout { p, stream: Stream::new(1, "l", 2) });
            let norm = lengths(&inputs());
            let expected = loss(&inputs(), &norm, drop);
            for dev in [Device::reference(), Device::Cpu(Cpu::new(2, Isa::detect()).unwrap())] {
                let (found, grads) = ours(&dev, p);
                assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} {expected}");
                // The lengths stay what they were: they are constants of the backward.
                for part in 0..4 {
                    let direction = random("direction", inputs()[part].len());
                    let shifted = |h: f32| {
                        let mut all = inputs();
                        all[part].iter_mut().zip(&direction).for_each(|(v, d)| *v += h * d);
                        loss(&all, &norm, drop)
                    };
                    let numeric = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
                    let analytic: f64 =
                        grads[part].iter().zip(&direction).map(|(g, d)| *g as f64 * *d as f64).sum();
                    let size: f64 = grads[part].iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
                    assert!(
                        (numeric - analytic).abs() < 2e-3 * size.max(1.0),
                        "dropout {p}, part {part}: {numeric} by differences, {analytic} computed"
                    );
                }
                let (rows, n, ..) = SHAPE;
                let dy = random("dy", rows * n);
                for (j, found) in grads[4].iter().enumerate() {
                    let sum: f32 = (0..rows).map(|t| dy[t * n + j]).sum();
                    assert!((found - sum).abs() < 1e-5);
                }
            }
        }
    }
}
