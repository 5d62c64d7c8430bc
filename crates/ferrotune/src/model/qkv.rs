//! The projections of an attention to q, k and v.

use ferrotune_kernels::ops::attention::Heads;
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{DType, Tensor};

use super::params::Gradients;
use super::parts::LinearLayer;
use super::pass::Pass;
use crate::Result;

/// Projections to q, k and v.
#[derive(Debug)]
pub enum Qkv {
    /// `q_proj`, `k_proj`, `v_proj`.
    Separate(Box<[LinearLayer; 3]>),
    /// `q_proj` and `k_proj`; what the second gives is v too.
    Keyed(Box<[LinearLayer; 2]>),
    /// `qkv_proj`: the rows of q, then of k, then of v.
    Fused(Box<LinearLayer>),
    /// `q_proj` alone: k and v are those of this earlier layer.
    Queries(Box<LinearLayer>, usize),
}

impl Qkv {
    /// The linears.
    pub fn linears(&self) -> &[LinearLayer] {
        match self {
            Qkv::Separate(three) => &three[..],
            Qkv::Keyed(two) => &two[..],
            Qkv::Fused(one) | Qkv::Queries(one, _) => std::slice::from_ref(one),
        }
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> &mut [LinearLayer] {
        match self {
            Qkv::Separate(three) => &mut three[..],
            Qkv::Keyed(two) => &mut two[..],
            Qkv::Fused(one) | Qkv::Queries(one, _) => std::slice::from_mut(one),
        }
    }

    /// The layer whose keys and values are used, if there are none here.
    pub fn takes(&self) -> Option<usize> {
        match self {
            Qkv::Queries(_, layer) => Some(*layer),
            Qkv::Separate(_) | Qkv::Keyed(_) | Qkv::Fused(_) => None,
        }
    }

    /// q, then k and v if they are made here, and what the branches keep.
    pub(super) fn forward(
        &self,
        pass: &Pass<'_>,
        n: &Tensor,
        heads: Heads,
        dtypes: [DType; 3],
    ) -> Result<(Tensor, Option<[Tensor; 2]>, Option<Tensor>)> {
        match self {
            Qkv::Separate(three) => {
                let ([q, k, v], h) = pass.linears_as(n, three.each_ref(), dtypes)?;
                Ok((q, Some([k, v]), h))
            }
            Qkv::Queries(one, _) => {
                let ([q], h) = pass.linears_as(n, [&**one], [dtypes[0]])?;
                Ok((q, None, h))
            }
            Qkv::Keyed(two) => {
                let ([q, k], h) = pass.linears_as(n, two.each_ref(), [dtypes[0], dtypes[1]])?;
                let v = elementwise::cast(pass.dev, &k, dtypes[2]);
                Ok((q, Some([k, v]), h))
            }
            Qkv::Fused(one) => {
                let ([all], h) = pass.linears(n, [&**one], DType::F32)?;
                let (q, kv) = (heads.q * heads.dim, heads.kv * heads.dim);
                let part = |range, dtype| -> Result<Tensor> {
                    Ok(pass.stored(elementwise::columns(pass.dev, &all, range)?, dtype))
                };
                let (k_end, v_end) = (q + kv, q + 2 * kv);
                let kv = [part(q..k_end, dtypes[1])?, part(k_end..v_end, dtypes[2])?];
                Ok((part(0..q, dtypes[0])?, Some(kv), h))
            }
        }
    }

    /// The gradient of `n` for those of q, k and v.
    pub(super) fn backward(
        &self,
        pass: &Pass<'_>,
        n: &Tensor,
        h: Option<&Tensor>,
        (dq, dkv): (Tensor, Option<[Tensor; 2]>),
        need_dn: bool,
        grads: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        match (self, dkv) {
            (Qkv::Separate(three), Some([dk, dv])) => {
                pass.linears_backward(n, h, three.each_ref(), [&dq, &dk, &dv], need_dn, grads)
            }
            (Qkv::Keyed(two), Some([dk, dv])) => {
                let mut both = pass.stored(dk, DType::F32);
                elementwise::add(pass.dev, &mut both, &dv, 1.0)?;
                pass.linears_backward(n, h, two.each_ref(), [&dq, &both], need_dn, grads)
            }
            (Qkv::Fused(one), Some([dk, dv])) => {
                let all = elementwise::join(pass.dev, &[&dq, &dk, &dv])?;
                pass.linears_backward(n, h, [&**one], [&all], need_dn, grads)
            }
            (Qkv::Queries(one, _), _) => pass.linears_backward(n, h, [&**one], [&dq], need_dn, grads),
            (_, None) => unreachable!("keys that are made here have a gradient"),
        }
    }
}
