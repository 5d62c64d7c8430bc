//! The short convolution of LFM2: norm, projection to `b`, `c` and `x`, `c * conv(b * x)`, output projection onto the
//! residual stream.

use ferrotune_kernels::ops::causal_conv::{self, Around, States};
use ferrotune_kernels::{DType, Precision, Tensor};

use super::conv_taps::ConvTaps;
use super::kv_cache::states;
use super::mixer::{Cached, StreamGradient};
use super::norm::Norm;
use super::params::Gradients;
use super::parts::LinearLayer;
use super::pass::Pass;
use super::residual::{Residual, ResidualSaved, before, before_backward};
use super::saved::{Keep, SavedActivation};
use super::tokens::Tokens;
use crate::Result;
use crate::arch::architecture::Architecture;

/// A short convolution of one layer.
#[derive(Debug)]
pub struct ShortConv {
    /// `operator_norm`.
    pub norm: Option<Norm>,
    /// `conv.in_proj`, to `b`, `c` and `x`.
    pub in_proj: LinearLayer,
    /// `conv.conv`.
    pub conv: ConvTaps,
    /// `conv.out_proj`.
    pub out_proj: LinearLayer,
    /// How the output joins the stream.
    pub residual: Residual,
}

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct ShortConvSaved {
    x: SavedActivation,
    bcx: SavedActivation,
    h_in: Option<Tensor>,
    h_out: Option<Tensor>,
    residual: ResidualSaved,
}

impl ShortConvSaved {
    /// Bytes that a token takes in it, without those of branches.
    pub(super) fn bytes_per_token(a: &Architecture, precision: Precision, keep: Keep) -> usize {
        SavedActivation::nbytes(4 * a.hidden, precision, keep) + ResidualSaved::bytes_per_token(a, precision)
    }
}

impl ShortConv {
    /// Adds the convolution of `x` to `x`; with `keep`, gives what the backward needs.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &mut Tensor,
        tokens: Tokens<'_>,
        cache: Option<Cached<'_>>,
        keep: Option<Keep>,
    ) -> Result<Option<ShortConvSaved>> {
        let n = before(&self.norm, pass, x)?;
        let saved = pass.precision.saved();
        // As in attention: a sequence that goes on keeps f32, and the backward must see what the forward saw.
        let used = if cache.is_some() { DType::F32 } else { saved };
        let ([bcx], h_in) = pass.linears(&n, [&self.in_proj], used)?;
        drop(n);
        let states = states(cache).map(|([rows], sequences)| States { rows, sequences });
        let conv = self.conv.over(pass, &bcx, Around::Gates, tokens);
        let y = causal_conv::forward(pass.dev, conv, states, used)?;
        let x_in = keep.map(|keep| (SavedActivation::copy_of(pass, x, keep), keep));
        let (h_out, residual) = self.residual.forward(pass, &y, &self.out_proj, x)?;
        Ok(x_in.map(|(x, keep)| {
            let bcx = SavedActivation::new(pass, bcx, keep);
            ShortConvSaved { x, bcx, h_in, h_out, residual }
        }))
    }

    /// Adds the gradient of the input to `stream.dx`, and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        s: ShortConvSaved,
        stream: StreamGradient<'_>,
        tokens: Tokens<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let StreamGradient { d_out, dx, need_dx } = stream;
        let need_dn = need_dx || self.norm.as_ref().is_some_and(|n| n.trained(pass));
        let below = need_dn || self.conv.trains() || pass.trains(&self.in_proj);
        let saved = pass.precision.saved();
        let bcx = s.bcx.take(pass);
        let conv = self.conv.over(pass, &bcx, Around::Gates, tokens);
        let d = self.residual.backward(pass, &s.residual, d_out.unwrap_or(dx), grads)?;
        // A few products for a value: made again rather than kept.
        let y = causal_conv::forward(pass.dev, conv, None, saved)?;
        let dy = pass.linears_backward(&y, s.h_out.as_ref(), [&self.out_proj], [&*d], below, grads)?;
        drop((d, y));
        let Some(dy) = dy else { return Ok(()) };
        let d_bcx = self.conv.backward(pass, conv, &dy, saved, grads)?;
        drop((dy, bcx));
        let x = s.x.take(pass);
        let n = before(&self.norm, pass, &x)?;
        let dn = pass.linears_backward(&n, s.h_in.as_ref(), [&self.in_proj], [&d_bcx], need_dn, grads)?;
        drop(n);
        before_backward(&self.norm, pass, &x, dn, dx, grads)
    }
}
