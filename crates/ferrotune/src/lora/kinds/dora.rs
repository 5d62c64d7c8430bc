//! DoRA (Liu et al. 2024): `y = (m / n) (W + s B A) x + b`, with `n` the row lengths of `W + s B A`.
//!
//! With dropout PEFT drops inputs of the base's share of the change too, `x' = drop(x)`:
//! `y = W x + (m / n - 1) W x' + (m / n) s B A x' + b`, which is `W (x - x') + (m / n) (W + s B A) x' + b` here.
//! The backward computes `Z = (W + s B A) x'` again: it is as wide as the output, and is needed for `dm` alone.

use std::sync::{Arc, Mutex};

use ferrotune_kernels::ops::dora::{self, Lengths};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::linear::{self, Grads, Linear, Matrix, Passed};
use ferrotune_kernels::{DType, Device, Tensor};

use super::lora::{factors, init_factor, low_rank, plus_product};
use super::{Fresh, Kind, Place, TensorSpec};
use crate::arch::architecture::Architecture;
use crate::formats::adapter::{AdapterKind, LoraConfig};
use crate::model::linear::Sinks;
use crate::model::pass::{Dx, LinearAdapter, LowRank, OwnProduct, Product, Site};
use crate::model::{Gradients, Group, ParamId, Params};
use crate::{Error, Result};

/// The kind.
pub(super) struct Dora;

impl Kind for Dora {
    fn is_asked_for(&self, config: &LoraConfig) -> bool {
        config.adapter == AdapterKind::Lora && config.dora
    }

    fn check(&self, config: &LoraConfig) -> Result<()> {
        if config.lora_bias {
            return Err(Error::config("lora_bias", "cannot stand beside dora")
                .with_hint("PEFT refuses it too; leave one out"));
        }
        Ok(())
    }

    fn beyond_low_rank(&self, _: &LoraConfig) -> Option<&'static str> {
        Some("use_dora")
    }

    fn tensors(&self, _: &LoraConfig, at: Place<'_>) -> Vec<TensorSpec> {
        let [a, b] = factors(at);
        let magnitude = TensorSpec {
            name: "lora_magnitude_vector",
            rows: 1,
            cols: at.linear.rows,
            vector: true,
            group: Group::BranchOutput,
            asked_by: "use_dora",
        };
        vec![a, b, magnitude]
    }

    fn init(&self, fresh: &Fresh<'_>, tensor: &TensorSpec, out: &mut [f32]) {
        init_factor(fresh, tensor, out);
    }

    /// The magnitudes begin as the lengths that the rows have.
    fn settle(
        &self,
        dev: &Device,
        weight: Matrix<'_>,
        at: Place<'_>,
        ids: &[ParamId],
        params: &mut Params,
    ) -> Result<()> {
        let branch = (params.get(ids[0]), params.get(ids[1]), at.scale);
        *params.get_mut(ids[2]) = dora::row_norms(dev, weight, Some(branch))?;
        Ok(())
    }

    fn linear(&self, config: &LoraConfig, at: Place<'_>, ids: &[ParamId]) -> Box<dyn LinearAdapter> {
        Box::new(DoraLinear {
            branch: low_rank(config, at, ids),
            magnitude: ids[2],
            norms: NormCache::default(),
        })
    }

    fn kept_per_token(&self, at: Place<'_>) -> usize {
        at.rank
    }

    /// The sum before scaling, its gradient, and with dropout both parts of the input.
    fn workspace_per_token(&self, a: &Architecture) -> usize {
        4 * a.widest_ffn() * 4
    }
}

/// A linear with DoRA.
#[derive(Debug)]
struct DoraLinear {
    branch: LowRank,
    /// The trained lengths of the rows of `W + s B A`, `[1, N]`.
    magnitude: ParamId,
    norms: NormCache,
}

impl LinearAdapter for DoraLinear {
    fn product(&self) -> Product<'_> {
        Product::Own(self)
    }

    fn fold(&self, params: &Params, cols: usize, weight: &mut [f32]) {
        let (a, b) = (params.get(self.branch.a), params.get(self.branch.b));
        let magnitudes = params.get(self.magnitude).host_f32();
        let rows = weight.chunks_exact_mut(cols).zip(b.host_f32().chunks_exact(b.cols()));
        let mut sum = vec![0.0; cols];
        for ((weight, b), magnitude) in rows.zip(magnitudes) {
            plus_product(weight, a.host_f32(), b, self.branch.scale as f64, &mut sum);
            let gain = *magnitude as f64 / sum.iter().map(|v| v * v).sum::<f64>().sqrt();
            weight.iter_mut().zip(&sum).for_each(|(w, s)| *w = (gain * s) as f32);
        }
    }
}

/// The inputs of the two products: of the branch's side, and (with dropout) what of x it does not see.
struct Inputs {
    dropped: Tensor,
    rest: Tensor,
}

impl OwnProduct for DoraLinear {
    fn forward(&self, at: Site<'_>, x: &Tensor, y: &mut Tensor, accumulate: bool) -> Result<()> {
        let pass = at.pass;
        let view = pass.view(at.linear, Some(self.branch));
        let norm = self.row_norms(at)?;
        let lengths = Lengths { magnitude: pass.params.get(self.magnitude), norm: &norm };
        let inputs = inputs(pass.dev, x, &view)?;
        if let Some(inputs) = &inputs {
            let base = Linear { bias: None, branch: None, ..view };
            linear::forward(pass.ctx(), &inputs.rest, &[base], &mut [&mut *y], accumulate)?;
        }
        let (z, _) = sum(at, inputs.as_ref().map_or(x, |i| &i.dropped), &view)?;
        Ok(dora::forward(pass.dev, &z, lengths, view.bias, y, accumulate || inputs.is_some())?)
    }

    fn backward(
        &self,
        at: Site<'_>,
        x: &Tensor,
        dy: &Tensor,
        dx: Dx<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let Site { pass, linear: l } = at;
        let (Dx { out: dx, accumulate }, dev) = (dx, pass.dev);
        let wide = (dy.dtype() != DType::F32).then(|| elementwise::cast(dev, dy, DType::F32));
        let dy = wide.as_ref().unwrap_or(dy);
        let view = pass.view(l, Some(self.branch));
        let norm = self.row_norms(at)?;
        let lengths = Lengths { magnitude: pass.params.get(self.magnitude), norm: &norm };
        let inputs = inputs(dev, x, &view)?;
        let input = inputs.as_ref().map_or(x, |i| &i.dropped);
        let (z, h) = sum(at, input, &view)?;
        let mut dm = grads.take(self.magnitude);
        let dz = dora::backward(dev, dy, &z, lengths, dm.as_mut());
        if let Some(dm) = dm {
            grads.put(self.magnitude, dm);
        }
        let dz = dz?;
        drop(z);

        let mut sinks = Sinks::take(pass, l, Some(self.branch), grads);
        let branch = view.branch.map(|b| linear::Branch { dropout: None, ..b });
        let sum = [Linear { bias: None, branch, ..view }];
        let mut own = [Grads { bias: None, ..sinks.grads() }];
        let mut put = |dx: Option<&mut Tensor>, accumulate| {
            linear::backward(
                pass.ctx(),
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
                linear::backward(pass.ctx(), past, Some(&mut rest), false, nothing)
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
        sinks.put(dev, grads)?;
        Ok(bias?)
    }
}

/// `Z = X (W + s B A)t` and `H`.
fn sum(at: Site<'_>, x: &Tensor, view: &Linear<'_>) -> Result<(Tensor, Option<Tensor>)> {
    let branch = view.branch.map(|b| linear::Branch { dropout: None, ..b });
    let sum = Linear { bias: None, branch, ..*view };
    let mut z = at.pass.dev.empty(x.rows(), view.weight.rows());
    let h = linear::forward(at.pass.ctx(), x, &[sum], &mut [&mut z], false)?;
    Ok((z, h))
}

fn inputs(dev: &Device, x: &Tensor, view: &Linear<'_>) -> Result<Option<Inputs>> {
    let Some(drop) = view.branch.and_then(|b| b.dropout) else { return Ok(None) };
    let dropped = elementwise::dropout(dev, x, drop);
    let mut rest = elementwise::cast(dev, x, DType::F32);
    elementwise::add(dev, &mut rest, &dropped, -1.0)?;
    Ok(Some(Inputs { dropped, rest }))
}

impl DoraLinear {
    fn row_norms(&self, at: Site<'_>) -> Result<Arc<Tensor>> {
        let params = at.pass.params;
        self.norms.get(params.version(), || {
            let branch = (params.get(self.branch.a), params.get(self.branch.b), self.branch.scale);
            Ok(dora::row_norms(at.pass.dev, at.pass.weight(at.linear), Some(branch))?)
        })
    }
}

/// Row lengths of `W + s B A` with the version of the parameters that they were computed from.
///
/// They change only when the parameters do, and cost as much as the products of `R + 1` tokens: worth keeping for the
/// tokens of a generation and the micro-batches of a step.
#[derive(Debug, Default)]
struct NormCache {
    kept: Mutex<Option<(u64, Arc<Tensor>)>>,
}

impl NormCache {
    /// The lengths at a version of the parameters, computed if they are not there.
    fn get(&self, version: u64, compute: impl FnOnce() -> Result<Tensor>) -> Result<Arc<Tensor>> {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((of, norm)) = kept.as_ref()
            && *of == version
        {
            return Ok(Arc::clone(norm));
        }
        let norm = Arc::new(compute()?);
        *kept = Some((version, Arc::clone(&norm)));
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parts::{Base, LinearLayer, Vector};
    use crate::model::pass::{DropoutKey, Pass};
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
        let branch = LowRank {
            a: params.push("a", dev.tensor(r, k, &a)),
            b: params.push("b", dev.tensor(n, r, &b)),
            bias: None,
            scale: SCALE,
            dropout: p,
        };
        let magnitude = params.push("m", dev.tensor(1, n, &m));
        let bias = Vector::Trained(params.push("bias", dev.tensor(1, n, &random("bias", n))));
        let base = Base::Frozen(Weight::from_f32(n, k, &random("w", n * k)));
        let l = LinearLayer { id: 0, name: "l".into(), rows: n, cols: k, base, bias: Some(bias) };
        let mut adapted = Adapted::default();
        adapted.put(0, Box::new(DoraLinear { branch, magnitude, norms: NormCache::default() }));
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
