//! A linear with DoRA: `y = (m / n) (W + s B A) x + b`, with `n` the row lengths of `W + s B A`.
//!
//! With dropout PEFT drops inputs of the base's share of the change too, `x' = drop(x)`:
//! `y = W x + (m / n - 1) W x' + (m / n) s B A x' + b`, which is `W (x - x') + (m / n) (W + s B A) x' + b` here.
//! The backward computes `Z = (W + s B A) x'` again: it is as wide as the output, and is needed for `dm` alone.

use std::sync::Arc;

use ferrotune_kernels::Tensor;
use ferrotune_kernels::ops::dora::{self, Lengths};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::linear::{self, Grads, Linear};

use super::adapted::BranchIds;
use super::linear::{LinearLayer, Pass, Sinks};
use super::params::{Gradients, ParamId};
use crate::Result;

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
            linear::forward(self.dev, self.precision, &inputs.rest, &[base], &mut [&mut *y], accumulate)?;
        }
        let (z, _) = self.sum(inputs.as_ref().map_or(x, |i| &i.dropped), &view)?;
        Ok(dora::forward(self.dev, &z, lengths, view.bias, y, accumulate || inputs.is_some())?)
    }

    /// Adds the gradients of what is trained and writes (or with `accumulate` adds) `dx`.
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
        let (dev, precision) = (self.dev, self.precision);
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
            linear::backward(dev, precision, input, h.as_ref(), &sum, &[&dz], dx, accumulate, &mut own)
        };
        let result = match (dx, &inputs) {
            (dx, None) => put(dx, accumulate),
            (None, Some(_)) => put(None, false),
            (Some(dx), Some(inputs)) => {
                let base = [Linear { bias: None, branch: None, ..view }];
                let mut rest = dev.empty(x.rows(), x.cols());
                let mut dropped = dev.empty(x.rows(), x.cols());
                let nothing = &mut [Grads::default()];
                linear::backward(
                    dev,
                    precision,
                    &inputs.rest,
                    None,
                    &base,
                    &[dy],
                    Some(&mut rest),
                    false,
                    nothing,
                )
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
        sinks.put(grads);
        Ok(bias?)
    }

    /// `Z = X (W + s B A)t` and `H`.
    fn sum(&self, x: &Tensor, view: &Linear<'a>) -> Result<(Tensor, Option<Tensor>)> {
        let branch = view.branch.map(|b| linear::Branch { dropout: None, ..b });
        let sum = Linear { bias: None, branch, ..*view };
        let mut z = self.dev.empty(x.rows(), view.weight.rows());
        let h = linear::forward(self.dev, self.precision, x, &[sum], &mut [&mut z], false)?;
        Ok((z, h))
    }

    fn inputs(&self, x: &Tensor, view: &Linear<'a>) -> Result<Option<Inputs>> {
        let Some(drop) = view.branch.and_then(|b| b.dropout) else { return Ok(None) };
        let dropped = elementwise::dropout(self.dev, x, drop);
        let mut rest = elementwise::cast(self.dev, x, ferrotune_kernels::DType::F32);
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
