//! The MLP half of a layer: norm, gate and up, gated activation, down projection onto the residual stream.

use ferrotune_kernels::ops::{elementwise, swiglu};
use ferrotune_kernels::{DType, Tensor};

use super::linear::{LinearLayer, Pass};
use super::norm::Norm;
use super::params::Gradients;
use crate::Result;

/// Gated MLP of one layer.
#[derive(Debug)]
pub struct Mlp {
    /// `post_attention_layernorm`.
    pub norm: Norm,
    /// `mlp.gate_proj`.
    pub gate_proj: LinearLayer,
    /// `mlp.up_proj`.
    pub up_proj: LinearLayer,
    /// `mlp.down_proj`.
    pub down_proj: LinearLayer,
}

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct MlpSaved {
    x: Tensor,
    /// Gate and up; without them the backward computes them again.
    gate_up: Option<[Tensor; 2]>,
    h_gate_up: Option<Tensor>,
    h_down: Option<Tensor>,
}

/// What of the MLP is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// All but the widest tensors.
    Lean,
    /// Everything.
    All,
}

impl Mlp {
    /// Adds the MLP of `x` to `x`.
    pub fn forward(&self, pass: &Pass<'_>, x: &mut Tensor, keep: Keep) -> Result<Option<MlpSaved>> {
        let dev = pass.dev;
        let n = self.norm.forward(pass, x)?;
        let ([gate, up], h_gate_up) = self.gate_up(pass, &n)?;
        drop(n);
        let y = swiglu::forward(dev, &gate, &up)?;
        let x_in = (keep != Keep::Nothing).then(|| elementwise::cast(dev, x, pass.precision.saved()));
        let gate_up = (keep == Keep::All).then_some([gate, up]);
        let h_down = pass.linear_onto(&y, &self.down_proj, x)?;
        Ok(x_in.map(|x| MlpSaved { x, gate_up, h_gate_up, h_down }))
    }

    /// Gate and up in the type they are saved in, so that both passes see the same values.
    fn gate_up(&self, pass: &Pass<'_>, n: &Tensor) -> Result<([Tensor; 2], Option<Tensor>)> {
        let (outs, h) = pass.linears(n, [&self.gate_proj, &self.up_proj])?;
        let saved = pass.precision.saved();
        let narrow = |t: Tensor| if saved == DType::F32 { t } else { elementwise::cast(pass.dev, &t, saved) };
        Ok((outs.map(narrow), h))
    }

    /// Turns the gradient of the output, `dx`, into that of the input (if `need_dx`), and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        s: MlpSaved,
        dx: &mut Tensor,
        need_dx: bool,
        grads: &mut Gradients,
    ) -> Result<()> {
        let n = self.norm.forward(pass, &s.x)?;
        let [gate, up] = match s.gate_up {
            Some(both) => both,
            None => self.gate_up(pass, &n)?.0,
        };
        let y = swiglu::forward(pass.dev, &gate, &up)?;
        let below = need_dx
            || self.norm.trained(pass)
            || [&self.gate_proj, &self.up_proj].iter().any(|l| pass.trains(l));
        let dy = pass.linears_backward(&y, s.h_down.as_ref(), [&self.down_proj], [&*dx], below, grads)?;
        drop(y);
        let Some(dy) = dy else { return Ok(()) };
        let (dgate, dup) = swiglu::backward(pass.dev, &gate, &up, &dy)?;
        drop((dy, gate, up));
        let need_dn = need_dx || self.norm.trained(pass);
        let both = [&self.gate_proj, &self.up_proj];
        let dn = pass.linears_backward(&n, s.h_gate_up.as_ref(), both, [&dgate, &dup], need_dn, grads)?;
        if let Some(dn) = dn {
            self.norm.backward(pass, &s.x, &dn, dx, grads)?;
        }
        Ok(())
    }

    /// Whether anything in here is trained.
    pub fn trains(&self, pass: &Pass<'_>) -> bool {
        self.norm.trained(pass)
            || [&self.gate_proj, &self.up_proj, &self.down_proj].iter().any(|l| pass.trains(l))
    }
}
