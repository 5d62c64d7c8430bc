//! From what the projections to q, k and v give to what attention multiplies: norms of heads and the rotation.

use ferrotune_kernels::ops::rope::{self, Turn};
use ferrotune_kernels::{DType, Tensor};

use super::norm::{FixedNorm, Norm};
use super::params::Gradients;
use super::pass::Pass;
use super::residual::Shared;
use super::rope::Rotation;
use crate::Result;

/// Norms and rotation of the heads of one layer.
#[derive(Debug)]
pub struct HeadTurn {
    /// Norm of q.
    pub q_norm: Option<Norm>,
    /// Norm of k.
    pub k_norm: Option<Norm>,
    /// Those two after the rotation, not before it.
    pub after_rotation: bool,
    /// Norm of v.
    pub v_norm: Option<FixedNorm>,
    /// Width of a head.
    pub dim: usize,
}

/// Queries or keys, which go the same way.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Queries,
    Keys,
}

/// Heads as they are multiplied.
pub(super) struct Turned {
    /// What a norm read, if there is one: the backward starts from it.
    from: Option<Tensor>,
    /// What is multiplied.
    pub(super) used: Tensor,
}

impl Turned {
    /// What waits for the backward, and what is multiplied if that is something else.
    pub(super) fn part(self) -> (Tensor, Option<Tensor>) {
        match self.from {
            Some(from) => (from, Some(self.used)),
            None => (self.used, None),
        }
    }
}

impl Side {
    fn turn<'r>(self, r: &'r Rotation<'_>) -> Turn<'r> {
        match self {
            Side::Queries => r.of_queries(),
            Side::Keys => r.of_keys(),
        }
    }
}

impl HeadTurn {
    fn norm(&self, side: Side) -> Option<&Norm> {
        match side {
            Side::Queries => self.q_norm.as_ref(),
            Side::Keys => self.k_norm.as_ref(),
        }
    }

    /// Whether q and k are normed before they are rotated.
    pub(super) fn norm_first(&self) -> bool {
        self.q_norm.is_some() && !self.after_rotation
    }

    fn rotate(
        &self,
        pass: &Pass<'_>,
        x: Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
        dtype: DType,
    ) -> Result<Tensor> {
        let Some(r) = rotation else { return Ok(pass.stored(x, dtype)) };
        Ok(rope::forward(pass.dev, x, self.dim, r.rows(), side.turn(r), dtype)?)
    }

    /// Queries or keys in `dtype`, for what the projection gave.
    pub(super) fn forward(
        &self,
        pass: &Pass<'_>,
        x: Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
        dtype: DType,
    ) -> Result<Turned> {
        let Some(norm) = self.norm(side) else {
            return Ok(Turned { from: None, used: self.rotate(pass, x, side, rotation, dtype)? });
        };
        let from = match self.after_rotation {
            true => self.rotate(pass, x, side, rotation, pass.precision.saved())?,
            false => x,
        };
        let used = self.through_norm(pass, norm, &from, side, rotation, dtype)?;
        Ok(Turned { from: Some(from), used })
    }

    fn through_norm(
        &self,
        pass: &Pass<'_>,
        norm: &Norm,
        x: &Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
        dtype: DType,
    ) -> Result<Tensor> {
        match self.after_rotation {
            true => norm.forward(pass, x, dtype),
            false => self.rotate(pass, norm.forward(pass, x, DType::F32)?, side, rotation, dtype),
        }
    }

    /// What was multiplied, for what waited.
    pub(super) fn again<'x>(
        &self,
        pass: &Pass<'_>,
        x: &'x Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
    ) -> Result<Shared<'x>> {
        Ok(match self.norm(side) {
            Some(norm) => {
                Shared::Own(self.through_norm(pass, norm, x, side, rotation, pass.precision.saved())?)
            }
            None => Shared::Of(x),
        })
    }

    /// The gradient of what the projection gave for that of what was multiplied; `x` waited.
    pub(super) fn backward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        mut d: Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let mut through_norm = |d: Tensor| -> Result<Tensor> {
            let Some(norm) = self.norm(side) else { return Ok(d) };
            let mut dx = pass.dev.zeros(x.rows(), x.cols());
            norm.backward(pass, x, &d, &mut dx, grads)?;
            Ok(dx)
        };
        if self.after_rotation {
            d = through_norm(d)?;
        }
        if let Some(r) = rotation {
            d = rope::backward(pass.dev, d, self.dim, r.rows(), side.turn(r), self.behind_rotation(pass))?;
        }
        if self.after_rotation { Ok(d) } else { through_norm(d) }
    }

    /// The type of gradients behind the rotation: the projections read them next, unless there are norms.
    fn behind_rotation(&self, pass: &Pass<'_>) -> DType {
        if self.norm_first() { DType::F32 } else { pass.precision.saved() }
    }

    /// Values in `dtype`, for what the projection gave.
    pub(super) fn values(&self, pass: &Pass<'_>, v: Tensor, dtype: DType) -> Result<Turned> {
        Ok(match &self.v_norm {
            Some(norm) => {
                let used = norm.forward(pass, &v, dtype)?;
                Turned { from: Some(v), used }
            }
            None => Turned { from: None, used: v },
        })
    }

    /// The values that were multiplied, for what waited.
    pub(super) fn values_again<'v>(&self, pass: &Pass<'_>, v: &'v Tensor) -> Result<Shared<'v>> {
        Ok(match &self.v_norm {
            Some(norm) => Shared::Own(norm.forward(pass, v, pass.precision.saved())?),
            None => Shared::Of(v),
        })
    }

    /// The gradient of what the projection gave for that of the values; `v` waited.
    pub(super) fn values_backward(
        &self,
        pass: &Pass<'_>,
        v: &Tensor,
        dv: Tensor,
        rotated: bool,
    ) -> Result<Tensor> {
        let dv = match &self.v_norm {
            Some(norm) => norm.backward(pass, v, &dv)?,
            None => dv,
        };
        Ok(if rotated { pass.stored(dv, self.behind_rotation(pass)) } else { dv })
    }

    /// The norms that have weights.
    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.q_norm.iter().chain(&self.k_norm)
    }

    /// The norms, mutable.
    pub(super) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.q_norm.iter_mut().chain(&mut self.k_norm)
    }
}
