//! The MLP half of a layer: norm, projection to the ffn, activation, projection back onto the residual stream.

use ferrotune_kernels::Tensor;
use ferrotune_kernels::ops::activation::{self, Activation};
use ferrotune_kernels::ops::elementwise;

use super::norm::Norm;
use super::params::Gradients;
use super::parts::LinearLayer;
use super::pass::Pass;
use super::residual::{Residual, ResidualSaved, before, before_backward};
use super::saved::{Keep, SavedActivation};
use crate::Result;

/// MLP of one layer.
#[derive(Debug)]
pub struct Mlp {
    /// `post_attention_layernorm` or what the family has in its place.
    pub norm: Option<Norm>,
    /// The projections to the ffn.
    pub up: Up,
    /// The function between.
    pub activation: Activation,
    /// `mlp.down_proj`.
    pub down_proj: LinearLayer,
    /// How the output joins the stream.
    pub residual: Residual,
}

/// Projections to the ffn.
#[derive(Debug)]
pub enum Up {
    /// `gate_proj` and `up_proj`; their outputs are multiplied.
    Gated(Box<[LinearLayer; 2]>),
    /// `gate_up_proj`: the rows of gate, then of up.
    Fused(Box<LinearLayer>),
    /// `c_fc` alone.
    Plain(Box<LinearLayer>),
}

impl Up {
    /// The linears.
    pub fn linears(&self) -> &[LinearLayer] {
        match self {
            Up::Gated(two) => &two[..],
            Up::Fused(one) | Up::Plain(one) => std::slice::from_ref(one),
        }
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> &mut [LinearLayer] {
        match self {
            Up::Gated(two) => &mut two[..],
            Up::Fused(one) | Up::Plain(one) => std::slice::from_mut(one),
        }
    }

    /// What the activation reads, in the type it is saved in, so that both passes see the same values.
    fn forward(&self, pass: &Pass<'_>, n: &Tensor) -> Result<(Hidden, Option<Tensor>)> {
        let saved = pass.precision.saved();
        Ok(match self {
            Up::Gated(two) => {
                let (both, h) = pass.linears(n, two.each_ref(), saved)?;
                (Hidden::Gated(both), h)
            }
            Up::Fused(one) => {
                let ([both], h) = pass.linears(n, [&**one], saved)?;
                let f = both.cols() / 2;
                let part = |range| elementwise::columns(pass.dev, &both, range);
                (Hidden::Gated([part(0..f)?, part(f..2 * f)?]), h)
            }
            Up::Plain(one) => {
                let ([up], h) = pass.linears(n, [&**one], saved)?;
                (Hidden::Plain(up), h)
            }
        })
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        n: &Tensor,
        h: Option<&Tensor>,
        d: &Hidden,
        need_dn: bool,
        grads: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        match (self, d) {
            (Up::Gated(two), Hidden::Gated(d)) => {
                pass.linears_backward(n, h, two.each_ref(), d.each_ref(), need_dn, grads)
            }
            (Up::Fused(one), Hidden::Gated([gate, up])) => {
                let both = elementwise::join(pass.dev, &[gate, up])?;
                pass.linears_backward(n, h, [&**one], [&both], need_dn, grads)
            }
            (Up::Plain(one), Hidden::Plain(d)) => pass.linears_backward(n, h, [&**one], [d], need_dn, grads),
            _ => unreachable!("the forward of the same projections made it"),
        }
    }
}

/// What the activation reads (or the gradient of it), or what waits of it.
#[derive(Debug)]
enum Hidden<T = Tensor> {
    Gated([T; 2]),
    Plain(T),
}

impl<T> Hidden<T> {
    fn map<U>(self, mut f: impl FnMut(T) -> U) -> Hidden<U> {
        match self {
            Hidden::Gated(both) => Hidden::Gated(both.map(f)),
            Hidden::Plain(x) => Hidden::Plain(f(x)),
        }
    }
}

impl Hidden {
    fn activate(&self, pass: &Pass<'_>, act: Activation) -> Result<Tensor> {
        Ok(match self {
            Hidden::Gated([gate, up]) => activation::gated(pass.dev, act, gate, up, pass.precision.saved())?,
            Hidden::Plain(x) => activation::forward(pass.dev, act, x, pass.precision.saved()),
        })
    }

    fn activate_backward(&self, pass: &Pass<'_>, act: Activation, dy: &Tensor) -> Result<Hidden> {
        Ok(match self {
            Hidden::Gated([gate, up]) => {
                let (dgate, dup) =
                    activation::gated_backward(pass.dev, act, gate, up, dy, pass.precision.saved())?;
                Hidden::Gated([dgate, dup])
            }
            Hidden::Plain(x) => {
                Hidden::Plain(activation::backward(pass.dev, act, x, dy, pass.precision.saved())?)
            }
        })
    }
}

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct MlpSaved {
    x: SavedActivation,
    /// What the activation reads; without it the backward computes it again.
    hidden: Option<Hidden<SavedActivation>>,
    h_up: Option<Tensor>,
    h_down: Option<Tensor>,
    residual: ResidualSaved,
}

impl Mlp {
    /// Adds the MLP of `input`, or else of `x`, to `x`.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        input: Option<&Tensor>,
        x: &mut Tensor,
        keep: Option<Keep>,
    ) -> Result<Option<MlpSaved>> {
        let from = input.unwrap_or(x);
        let n = before(&self.norm, pass, from)?;
        let (hidden, h_up) = self.up.forward(pass, &n)?;
        let x_in = keep.map(|keep| SavedActivation::copy_of(pass, from, keep));
        drop(n);
        let y = hidden.activate(pass, self.activation)?;
        let hidden =
            keep.filter(|keep| keep.wide).map(|keep| hidden.map(|x| SavedActivation::new(pass, x, keep)));
        let (h_down, residual) = self.residual.forward(pass, &y, &self.down_proj, x)?;
        Ok(x_in.map(|x| MlpSaved { x, hidden, h_up, h_down, residual }))
    }

    /// Adds the gradient of the input to `dx` (if `need_dx`), which is the gradient of the output, and sums the
    /// parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        s: MlpSaved,
        dx: &mut Tensor,
        need_dx: bool,
        grads: &mut Gradients,
    ) -> Result<()> {
        let need_dn = need_dx || self.norm.as_ref().is_some_and(|n| n.trained(pass));
        let x = s.x.take(pass);
        let n = before(&self.norm, pass, &x)?;
        let hidden = match s.hidden {
            Some(hidden) => hidden.map(|x| x.take(pass)),
            None => self.up.forward(pass, &n)?.0,
        };
        let y = hidden.activate(pass, self.activation)?;
        let below = need_dn || self.up.linears().iter().any(|l| pass.trains(l));
        let d = self.residual.backward(pass, &s.residual, dx, grads)?;
        let dy = pass.linears_backward(&y, s.h_down.as_ref(), [&self.down_proj], [&*d], below, grads)?;
        drop((y, d));
        let Some(dy) = dy else { return Ok(()) };
        let d_hidden = hidden.activate_backward(pass, self.activation, &dy)?;
        drop((dy, hidden));
        let dn = self.up.backward(pass, &n, s.h_up.as_ref(), &d_hidden, need_dn, grads)?;
        drop(n);
        if let Some(dn) = dn {
            before_backward(&self.norm, pass, &x, &dn, dx, grads)?;
        }
        Ok(())
    }

    /// The linears, in the order of their numbers.
    pub fn linears(&self) -> impl Iterator<Item = &LinearLayer> {
        self.up.linears().iter().chain([&self.down_proj])
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut LinearLayer> {
        self.up.linears_mut().iter_mut().chain([&mut self.down_proj])
    }

    /// The norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.norm.iter().chain(&self.residual.norm)
    }

    /// The norms, mutable.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.norm.iter_mut().chain(&mut self.residual.norm)
    }
}
