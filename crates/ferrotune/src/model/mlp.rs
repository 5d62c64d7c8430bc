//! The MLP half of a layer: norm, projection to the ffn, activation, projection back onto the residual stream.

use ferrotune_kernels::ops::activation::{self, Activation};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::xielu::{self, Xielu};
use ferrotune_kernels::{DType, Tensor};

use super::norm::Norm;
use super::params::Gradients;
use super::parts::{LinearLayer, SmallTensor, Vector};
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
    pub activation: Act,
    /// `mlp.down_proj`.
    pub down_proj: LinearLayer,
    /// How the output joins the stream.
    pub residual: Residual,
}

/// The function between the projections of an MLP.
#[derive(Debug)]
pub enum Act {
    /// One without numbers of its own.
    Fixed(Activation),
    /// xIELU, with two trained numbers and two constants.
    Xielu(Box<XieluNumbers>),
}

/// The numbers of a layer's xIELU, by their names in `act_fn`.
#[derive(Debug)]
pub struct XieluNumbers {
    /// Module path, `model.layers.0.mlp.act_fn`.
    pub name: String,
    /// `alpha_p`, `[1, 1]`.
    pub alpha_p: Vector,
    /// `alpha_n`, `[1, 1]`.
    pub alpha_n: Vector,
    /// `beta`.
    pub beta: [f32; 1],
    /// `eps`.
    pub eps: [f32; 1],
}

impl XieluNumbers {
    fn over<'a>(&'a self, pass: &Pass<'a>) -> Xielu<'a> {
        let [beta, eps] = [self.beta[0], self.eps[0]];
        Xielu { alpha_p: pass.vector(&self.alpha_p), alpha_n: pass.vector(&self.alpha_n), beta, eps }
    }
}

/// Projections to the ffn.
#[derive(Debug)]
pub enum Up {
    /// `gate_proj` and `up_proj`; their outputs are multiplied.
    Gated(Box<[LinearLayer; 2]>),
    /// The same with a factor of what the gate reads.
    Scaled(Box<[LinearLayer; 2]>, f32),
    /// `gate_up_proj`: the rows of gate, then of up.
    Fused(Box<LinearLayer>),
    /// `c_fc` alone.
    Plain(Box<LinearLayer>),
}

impl Up {
    /// The linears.
    pub fn linears(&self) -> &[LinearLayer] {
        match self {
            Up::Gated(two) | Up::Scaled(two, _) => &two[..],
            Up::Fused(one) | Up::Plain(one) => std::slice::from_ref(one),
        }
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> &mut [LinearLayer] {
        match self {
            Up::Gated(two) | Up::Scaled(two, _) => &mut two[..],
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
            Up::Scaled(two, scale) => {
                let ([mut gate, up], h) = pass.linears_as(n, two.each_ref(), [DType::F32, saved])?;
                elementwise::scale(pass.dev, &mut gate, *scale);
                (Hidden::Gated([pass.stored(gate, saved), up]), h)
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
            (Up::Scaled(two, scale), Hidden::Gated([gate, up])) => {
                let mut dgate = elementwise::cast(pass.dev, gate, DType::F32);
                elementwise::scale(pass.dev, &mut dgate, *scale);
                let dgate = pass.stored(dgate, up.dtype());
                pass.linears_backward(n, h, two.each_ref(), [&dgate, up], need_dn, grads)
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
    fn activate(&self, pass: &Pass<'_>, act: &Act) -> Result<Tensor> {
        let dtype = pass.precision.saved();
        Ok(match (self, act) {
            (Hidden::Gated([gate, up]), Act::Fixed(act)) => {
                activation::gated(pass.dev, *act, gate, up, dtype)?
            }
            (Hidden::Plain(x), Act::Fixed(act)) => activation::forward(pass.dev, *act, x, dtype),
            (Hidden::Plain(x), Act::Xielu(numbers)) => {
                xielu::forward(pass.dev, x, numbers.over(pass), dtype)?
            }
            (Hidden::Gated(_), Act::Xielu(_)) => unreachable!("xIELU has no gate"),
        })
    }

    fn activate_backward(
        &self,
        pass: &Pass<'_>,
        act: &Act,
        dy: &Tensor,
        grads: &mut Gradients,
    ) -> Result<Hidden> {
        let dtype = pass.precision.saved();
        Ok(match (self, act) {
            (Hidden::Gated([gate, up]), Act::Fixed(act)) => {
                let (dgate, dup) = activation::gated_backward(pass.dev, *act, gate, up, dy, dtype)?;
                Hidden::Gated([dgate, dup])
            }
            (Hidden::Plain(x), Act::Fixed(act)) => {
                Hidden::Plain(activation::backward(pass.dev, *act, x, dy, dtype)?)
            }
            (Hidden::Plain(x), Act::Xielu(numbers)) => {
                let ids = [&numbers.alpha_p, &numbers.alpha_n].map(Vector::trained);
                let [mut p, mut n] = grads.take_all(ids);
                let sinks = xielu::Grads { alpha_p: p.as_mut(), alpha_n: n.as_mut() };
                let dx = xielu::backward(pass.dev, x, numbers.over(pass), dy, dtype, sinks);
                grads.put_back(ids, [p, n]);
                Hidden::Plain(dx?)
            }
            (Hidden::Gated(_), Act::Xielu(_)) => unreachable!("xIELU has no gate"),
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
        let y = hidden.activate(pass, &self.activation)?;
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
        let y = hidden.activate(pass, &self.activation)?;
        let below = need_dn || self.up.linears().iter().any(|l| pass.trains(l)) || self.own_trained();
        let d = self.residual.backward(pass, &s.residual, dx, grads)?;
        let dy = pass.linears_backward(&y, s.h_down.as_ref(), [&self.down_proj], [&*d], below, grads)?;
        drop((y, d));
        let Some(dy) = dy else { return Ok(()) };
        let d_hidden = hidden.activate_backward(pass, &self.activation, &dy, grads)?;
        drop((dy, hidden));
        let dn = self.up.backward(pass, &n, s.h_up.as_ref(), &d_hidden, need_dn, grads)?;
        drop(n);
        before_backward(&self.norm, pass, &x, dn, dx, grads)
    }

    /// The numbers of its activation, if it has some.
    pub(super) fn numbers(&self) -> Option<&XieluNumbers> {
        match &self.activation {
            Act::Fixed(_) => None,
            Act::Xielu(numbers) => Some(numbers),
        }
    }

    /// Its tensors that belong to no linear and no norm.
    pub(super) fn own_tensors(&self) -> impl Iterator<Item = SmallTensor<'_>> {
        self.numbers().into_iter().flat_map(|numbers| {
            let own = |name, values| SmallTensor::whole(format!("{}.{name}", numbers.name), values, 1);
            [own("alpha_p", &numbers.alpha_p), own("alpha_n", &numbers.alpha_n)]
        })
    }

    /// Whether one of those is trained.
    pub(super) fn own_trained(&self) -> bool {
        self.own_tensors().any(|t| t.values.is_trained())
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
