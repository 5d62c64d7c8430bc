//! How a half of a layer joins the residual stream: what is normed on its way in, and what on its way out.

use std::ops::Deref;

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{DType, Precision, Tensor};

use super::norm::Norm;
use super::params::Gradients;
use super::parts::LinearLayer;
use super::pass::Pass;
use crate::Result;
use crate::arch::architecture::Architecture;

/// A tensor that may be somebody else's.
pub enum Shared<'a> {
    /// Made here.
    Own(Tensor),
    /// Borrowed.
    Of(&'a Tensor),
}

impl Deref for Shared<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        match self {
            Shared::Own(t) => t,
            Shared::Of(t) => t,
        }
    }
}

/// `x` in the type that is saved for the backward.
pub(super) fn narrow(pass: &Pass<'_>, x: Tensor) -> Tensor {
    pass.stored(x, pass.precision.saved())
}

/// The norm before, if there is one, as linears read it.
pub(super) fn before<'a>(norm: &Option<Norm>, pass: &Pass<'_>, x: &'a Tensor) -> Result<Shared<'a>> {
    Ok(match norm {
        Some(norm) => Shared::Own(norm.forward(pass, x, pass.precision.saved())?),
        None => Shared::Of(x),
    })
}

/// Adds the gradient that came through the norm before, or around it, to `dx`; nothing where none was asked for.
pub(super) fn before_backward(
    norm: &Option<Norm>,
    pass: &Pass<'_>,
    x: &Tensor,
    dn: Option<Tensor>,
    dx: &mut Tensor,
    grads: &mut Gradients,
) -> Result<()> {
    match (norm, dn) {
        (_, None) => Ok(()),
        (Some(norm), Some(dn)) => norm.backward(pass, x, &dn, dx, grads),
        (None, Some(dn)) => Ok(elementwise::add(pass.dev, dx, &dn, 1.0)?),
    }
}

/// `x += scale * norm(W input)`.
#[derive(Debug)]
pub struct Residual {
    /// Norm of the last linear's output.
    pub norm: Option<Norm>,
    /// Factor of what is added.
    pub scale: f32,
}

/// What the backward of a [`Residual`] needs.
#[derive(Debug, Default)]
pub struct ResidualSaved {
    /// The linear's output, if it is normed.
    out: Option<Tensor>,
}

impl ResidualSaved {
    /// Bytes that a token takes in it: a half whose output is normed keeps that output.
    pub(super) fn bytes_per_token(a: &Architecture, precision: Precision) -> usize {
        match a.norms.after_attention.or(a.norms.after_mlp) {
            Some(_) => a.hidden * precision.saved().size(),
            None => 0,
        }
    }
}

impl Residual {
    /// Whether the linear may add to the stream itself.
    fn is_plain(&self) -> bool {
        self.norm.is_none() && self.scale == 1.0
    }

    /// Adds the linear of `input` to `x`; gives `H` of its branch.
    pub(super) fn forward(
        &self,
        pass: &Pass<'_>,
        input: &Tensor,
        linear: &LinearLayer,
        x: &mut Tensor,
    ) -> Result<(Option<Tensor>, ResidualSaved)> {
        if self.is_plain() {
            return Ok((pass.linear_onto(input, linear, x)?, ResidualSaved::default()));
        }
        let ([out], h) = pass.linears(input, [linear], DType::F32)?;
        Ok((h, self.add(pass, out, x)?))
    }

    /// Adds the output of the half, computed already.
    pub(super) fn add(&self, pass: &Pass<'_>, out: Tensor, x: &mut Tensor) -> Result<ResidualSaved> {
        let Some(norm) = &self.norm else {
            elementwise::add(pass.dev, x, &out, self.scale)?;
            return Ok(ResidualSaved::default());
        };
        let out = narrow(pass, out);
        elementwise::add(pass.dev, x, &norm.forward(pass, &out, DType::F32)?, self.scale)?;
        Ok(ResidualSaved { out: Some(out) })
    }

    /// The gradient of the linear's output, for the gradient `dx` of the stream.
    pub(super) fn backward<'a>(
        &self,
        pass: &Pass<'_>,
        saved: &ResidualSaved,
        dx: &'a Tensor,
        grads: &mut Gradients,
    ) -> Result<Shared<'a>> {
        if self.is_plain() {
            return Ok(Shared::Of(dx));
        }
        let mut d = elementwise::cast(pass.dev, dx, DType::F32);
        elementwise::scale(pass.dev, &mut d, self.scale);
        let (Some(norm), Some(out)) = (&self.norm, &saved.out) else { return Ok(Shared::Own(d)) };
        let mut d_out = pass.dev.zeros(out.rows(), out.cols());
        norm.backward(pass, out, &d, &mut d_out, grads)?;
        Ok(Shared::Own(d_out))
    }
}
