//! The attention half of a layer: norm, q/k/v, rotation, attention, output projection onto the residual stream.

use ferrotune_kernels::ops::attention::{self, Heads, Segment};
use ferrotune_kernels::ops::{elementwise, rope};
use ferrotune_kernels::{DType, Tensor};

use super::kv_cache::LayerCache;
use super::linear::{LinearLayer, Pass};
use super::norm::Norm;
use super::params::Gradients;
use super::rope::RopeTable;
use crate::Result;

/// Tokens of a pass: which, where in their sequences, and who sees whom.
#[derive(Clone, Copy)]
pub struct Tokens<'a> {
    /// Token ids `[T]`.
    pub ids: &'a [u32],
    /// Position of each in its sequence.
    pub positions: &'a [u32],
    /// Runs of tokens that attend to each other.
    pub segments: &'a [Segment],
}

/// Attention of one layer.
#[derive(Debug)]
pub struct Attention {
    /// `input_layernorm`.
    pub norm: Norm,
    /// `self_attn.q_proj`.
    pub q_proj: LinearLayer,
    /// `self_attn.k_proj`.
    pub k_proj: LinearLayer,
    /// `self_attn.v_proj`.
    pub v_proj: LinearLayer,
    /// `self_attn.o_proj`.
    pub o_proj: LinearLayer,
    /// Heads, scale and window.
    pub heads: Heads,
}

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct AttentionSaved {
    x: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    h_qkv: Option<Tensor>,
    h_o: Option<Tensor>,
}

impl Attention {
    /// Adds the attention of `x` to `x`; with `keep`, gives what the backward needs.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &mut Tensor,
        tokens: Tokens<'_>,
        table: &RopeTable,
        cache: Option<(&mut LayerCache, &[u32])>,
        keep: bool,
    ) -> Result<Option<AttentionSaved>> {
        let dev = pass.dev;
        let n = self.norm.forward(pass, x)?;
        let ([mut q, mut k, v], h_qkv) = pass.linears(&n, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        drop(n);
        rope::forward(dev, &mut q, self.heads.dim, tokens.positions, &table.cos, &table.sin)?;
        rope::forward(dev, &mut k, self.heads.dim, tokens.positions, &table.cos, &table.sin)?;
        if let Some((cache, rows)) = cache {
            elementwise::scatter(dev, &k, rows, &mut cache.k)?;
            elementwise::scatter(dev, &v, rows, &mut cache.v)?;
            let (o, _) =
                attention::forward(dev, pass.precision, &q, &cache.k, &cache.v, tokens.segments, self.heads)?;
            pass.linear_onto(&o, &self.o_proj, x)?;
            return Ok(None);
        }
        // In bf16 the backward must see the very values that the forward multiplied.
        let saved = pass.precision.saved();
        let narrow = |t: Tensor| if saved == DType::F32 { t } else { elementwise::cast(dev, &t, saved) };
        let (q, k, v) = (narrow(q), narrow(k), narrow(v));
        let (o, lse) = attention::forward(dev, pass.precision, &q, &k, &v, tokens.segments, self.heads)?;
        let o = narrow(o);
        let x_in = keep.then(|| elementwise::cast(dev, x, saved));
        let h_o = pass.linear_onto(&o, &self.o_proj, x)?;
        Ok(x_in.map(|x| AttentionSaved { x, q, k, v, o, lse, h_qkv, h_o }))
    }

    /// Turns the gradient of the output, `dx`, into that of the input (if `need_dx`), and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        s: AttentionSaved,
        dx: &mut Tensor,
        tokens: Tokens<'_>,
        table: &RopeTable,
        need_dx: bool,
        grads: &mut Gradients,
    ) -> Result<()> {
        let qkv = [&self.q_proj, &self.k_proj, &self.v_proj];
        let below = need_dx || self.norm.trained(pass) || qkv.iter().any(|l| pass.trains(l));
        let d_o = pass.linears_backward(&s.o, s.h_o.as_ref(), [&self.o_proj], [&*dx], below, grads)?;
        let Some(d_o) = d_o else { return Ok(()) };
        let (mut dq, mut dk, dv) = attention::backward(
            pass.dev,
            pass.precision,
            (&s.q, &s.k, &s.v),
            (&s.o, &s.lse),
            &d_o,
            tokens.segments,
            self.heads,
        )?;
        drop((d_o, s.q, s.k, s.v, s.o));
        rope::backward(pass.dev, &mut dq, self.heads.dim, tokens.positions, &table.cos, &table.sin)?;
        rope::backward(pass.dev, &mut dk, self.heads.dim, tokens.positions, &table.cos, &table.sin)?;
        let n = self.norm.forward(pass, &s.x)?;
        let need_dn = need_dx || self.norm.trained(pass);
        let dn = pass.linears_backward(&n, s.h_qkv.as_ref(), qkv, [&dq, &dk, &dv], need_dn, grads)?;
        if let Some(dn) = dn {
            self.norm.backward(pass, &s.x, &dn, dx, grads)?;
        }
        Ok(())
    }

    /// Whether anything in here is trained.
    pub fn trains(&self, pass: &Pass<'_>) -> bool {
        self.norm.trained(pass)
            || [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj].iter().any(|l| pass.trains(l))
    }
}
