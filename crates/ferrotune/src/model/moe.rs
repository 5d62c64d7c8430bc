//! A mixture of experts in the place of the MLP: a router sends each token to a few of many small MLPs.

use ferrotune_kernels::ops::activation::{self, Activation};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::route::{self, Choice, Routes};
use ferrotune_kernels::{DType, Tensor};

use super::norm::Norm;
use super::params::Gradients;
use super::parts::LinearLayer;
use super::pass::Pass;
use super::residual::{Residual, ResidualSaved, before, before_backward};
use super::saved::{Keep, SavedActivation};
use crate::Result;

/// Experts of one layer.
#[derive(Debug)]
pub struct Moe {
    /// Norm of the input.
    pub norm: Option<Norm>,
    /// Logits of the experts, `[E, D]`.
    pub router: LinearLayer,
    /// The experts.
    pub experts: Vec<Expert>,
    /// How experts are chosen.
    pub choice: Choice,
    /// The tensor that corrects the choice, if there is one.
    pub correction: Option<String>,
    /// Path of the experts' module, if files hold them together and transposed
    /// ([`Stacked::Columns`](crate::arch::architecture::Stacked)).
    pub columns: Option<String>,
    /// An expert that every token goes to.
    pub shared: Option<Box<SharedExpert>>,
    /// The function of the gate.
    pub activation: Activation,
    /// How the output joins the stream.
    pub residual: Residual,
}

/// One expert.
#[derive(Debug)]
pub struct Expert {
    /// Gate and up.
    pub gate_up: [LinearLayer; 2],
    /// Down.
    pub down: LinearLayer,
}

/// An expert that every token goes to.
#[derive(Debug)]
pub struct SharedExpert {
    /// The expert.
    pub expert: Expert,
    /// `[1, D]`: the sigmoid of its output is the expert's weight, which is 1 without it.
    pub gate: Option<LinearLayer>,
}

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct MoeSaved {
    x: SavedActivation,
    /// Where tokens went: a choice that the rounding of a second forward must not change.
    routes: Routes,
    logits: Tensor,
    h_router: Option<Tensor>,
    /// What the shared expert's gate needs.
    gate: Option<GateSaved>,
    /// Gate and up of each expert that got tokens; without them the backward computes them again.
    hidden: Option<Vec<Option<Hidden<SavedActivation>>>>,
    residual: ResidualSaved,
}

/// Logits of a shared expert's gate, and `H` of its branch.
#[derive(Debug)]
struct GateSaved {
    logits: Tensor,
    h: Option<Tensor>,
}

/// Gate and up of an expert's tokens (or what waits of them), and `H` of their branches.
#[derive(Debug)]
struct Hidden<T = Tensor> {
    gate_up: [T; 2],
    h_up: Option<Tensor>,
}

impl<T> Hidden<T> {
    fn map<U>(self, f: impl FnMut(T) -> U) -> Hidden<U> {
        Hidden { gate_up: self.gate_up.map(f), h_up: self.h_up }
    }
}

impl Expert {
    fn hidden(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Hidden> {
        let (gate_up, h_up) = pass.linears(x, self.gate_up.each_ref(), pass.precision.saved())?;
        Ok(Hidden { gate_up, h_up })
    }
}

impl SharedExpert {
    /// Weights of all tokens, and what the gate's backward needs.
    fn weights(&self, pass: &Pass<'_>, n: &Tensor) -> Result<(Vec<f32>, Option<GateSaved>)> {
        let Some(gate) = &self.gate else { return Ok((vec![1.0; n.rows()], None)) };
        let ([logits], h) = pass.linears(n, [gate], DType::F32)?;
        Ok((route::gate(&logits), Some(GateSaved { logits, h })))
    }
}

impl Moe {
    /// Name and values of what corrects the choice.
    pub(crate) fn correction(&self) -> Option<(String, &[f32])> {
        Some((self.correction.clone()?, self.choice.correction.as_deref()?))
    }

    /// Experts with the shared one last.
    fn all(&self) -> impl Iterator<Item = &Expert> {
        self.experts.iter().chain(self.shared.as_ref().map(|shared| &shared.expert))
    }

    /// Adds the experts' outputs for `x` to `x`.
    pub fn forward(&self, pass: &Pass<'_>, x: &mut Tensor, keep: Option<Keep>) -> Result<Option<MoeSaved>> {
        let dev = pass.dev;
        let wide = keep.filter(|keep| keep.wide);
        let n = before(&self.norm, pass, x)?;
        let ([logits], h_router) = pass.linears(&n, [&self.router], DType::F32)?;
        let mut routes = route::forward(&logits, &self.choice)?;
        let mut gate = None;
        if let Some(shared) = &self.shared {
            let (weights, saved) = shared.weights(pass, &n)?;
            gate = saved;
            routes.rows.push((0..n.rows() as u32).collect());
            routes.weights.push(weights);
        }
        let mut out = dev.zeros(n.rows(), n.cols());
        let mut kept = Vec::new();
        for (expert, (rows, weights)) in self.all().zip(routes.rows.iter().zip(&routes.weights)) {
            if rows.is_empty() {
                kept.push(None);
                continue;
            }
            let hidden = expert.hidden(pass, &elementwise::gather(dev, &n, rows)?)?;
            let [gate, up] = &hidden.gate_up;
            let y = activation::gated(dev, self.activation, gate, up, pass.precision.saved())?;
            let ([y], _) = pass.linears(&y, [&expert.down], DType::F32)?;
            elementwise::add_rows(dev, &y, rows, weights, &mut out)?;
            kept.push(wide.map(|keep| hidden.map(|x| SavedActivation::new(pass, x, keep))));
        }
        drop(n);
        let x_in = keep.map(|keep| SavedActivation::copy_of(pass, x, keep));
        let residual = self.residual.add(pass, out, x)?;
        let hidden = wide.map(|_| kept);
        Ok(x_in.map(|x| MoeSaved { x, routes, logits, h_router, gate, hidden, residual }))
    }

    /// Adds the gradient of the input to `dx` (if `need_dx`), which is the gradient of the output, and sums the
    /// parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        mut s: MoeSaved,
        dx: &mut Tensor,
        need_dx: bool,
        grads: &mut Gradients,
    ) -> Result<()> {
        let dev = pass.dev;
        let need_dn = need_dx || self.norm.as_ref().is_some_and(|n| n.trained(pass));
        let x_in = s.x.take(pass);
        let n = before(&self.norm, pass, &x_in)?;
        let d = self.residual.backward(pass, &s.residual, dx, grads)?;
        let mut dn = dev.zeros(n.rows(), n.cols());
        let mut dweights = Vec::new();
        let mut kept = s.hidden.into_iter().flatten();
        for (expert, (rows, weights)) in self.all().zip(s.routes.rows.iter().zip(&s.routes.weights)) {
            let hidden = kept.next().flatten();
            if rows.is_empty() {
                dweights.push(Vec::new());
                continue;
            }
            let x = elementwise::gather(dev, &n, rows)?;
            let hidden = match hidden {
                Some(hidden) => hidden.map(|x| x.take(pass)),
                None => expert.hidden(pass, &x)?,
            };
            let [gate, up] = &hidden.gate_up;
            let y = activation::gated(dev, self.activation, gate, up, pass.precision.saved())?;
            let ([out], h_down) = pass.linears(&y, [&expert.down], DType::F32)?;
            dweights.push(elementwise::row_products(dev, &out, rows, &d)?);
            drop(out);
            // The gradient of the expert's output is that of the sum, times the token's weight.
            let mut d_out = dev.zeros(rows.len(), d.cols());
            let own: Vec<u32> = (0..rows.len() as u32).collect();
            elementwise::add_rows(dev, &elementwise::gather(dev, &d, rows)?, &own, weights, &mut d_out)?;
            let dy = pass.linears_backward(&y, h_down.as_ref(), [&expert.down], [&d_out], true, grads)?;
            let Some(dy) = dy else { unreachable!("it was asked for") };
            let (dgate, dup) =
                activation::gated_backward(dev, self.activation, gate, up, &dy, pass.precision.saved())?;
            let both = expert.gate_up.each_ref();
            let below =
                pass.linears_backward(&x, hidden.h_up.as_ref(), both, [&dgate, &dup], need_dn, grads)?;
            if let Some(below) = below {
                let whole = vec![1.0; rows.len()];
                elementwise::add_rows(dev, &below, rows, &whole, &mut dn)?;
            }
        }
        drop(d);
        if let Some(shared) = &self.shared {
            s.routes.rows.pop();
            s.routes.weights.pop();
            let dweights = dweights.pop().unwrap_or_default();
            if let (Some(gate), Some(GateSaved { logits, h })) = (&shared.gate, &s.gate) {
                let dlogits = route::gate_backward(dev, logits, &dweights)?;
                let below = pass.linears_backward(&n, h.as_ref(), [gate], [&dlogits], need_dn, grads)?;
                below.iter().try_for_each(|below| elementwise::add(dev, &mut dn, below, 1.0))?;
            }
        }
        let dlogits = route::backward(dev, &s.logits, &self.choice, &s.routes, &dweights)?;
        let router =
            pass.linears_backward(&n, s.h_router.as_ref(), [&self.router], [&dlogits], need_dn, grads)?;
        drop(n);
        if let Some(router) = router {
            elementwise::add(dev, &mut dn, &router, 1.0)?;
            before_backward(&self.norm, pass, &x_in, Some(dn), dx, grads)?;
        }
        Ok(())
    }

    /// The linears that are modules of their own in transformers 5: those of the shared expert.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &LinearLayer> {
        let shared = self.shared.iter();
        shared.flat_map(|s| s.expert.gate_up.iter().chain([&s.expert.down]).chain(&s.gate))
    }

    /// The linears, in the order of their numbers.
    pub fn linears(&self) -> impl Iterator<Item = &LinearLayer> {
        let experts = self.all().flat_map(|e| e.gate_up.iter().chain([&e.down]));
        let gate = self.shared.as_ref().and_then(|shared| shared.gate.as_ref());
        [&self.router].into_iter().chain(experts).chain(gate)
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut LinearLayer> {
        let (shared, gate) = match &mut self.shared {
            Some(shared) => (Some(&mut shared.expert), shared.gate.as_mut()),
            None => (None, None),
        };
        let experts = self.experts.iter_mut().chain(shared);
        let experts = experts.flat_map(|e| e.gate_up.iter_mut().chain([&mut e.down]));
        [&mut self.router].into_iter().chain(experts).chain(gate)
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
