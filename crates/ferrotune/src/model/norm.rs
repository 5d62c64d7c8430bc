//! RMS norm with a frozen or trained weight.

use ferrotune_kernels::Tensor;
use ferrotune_kernels::ops::rms_norm;

use super::linear::{Pass, Vector};
use super::params::{Gradients, ParamId};
use crate::Result;

/// A norm under its checkpoint name.
#[derive(Debug)]
pub struct Norm {
    /// Module path, `model.layers.0.input_layernorm`.
    pub name: String,
    /// `w [1, D]`.
    pub weight: Vector,
    /// Added to the mean square.
    pub eps: f32,
}

impl Norm {
    /// Whether the weight is trained.
    pub fn trained(&self, pass: &Pass<'_>) -> bool {
        self.weight_id(pass).is_some()
    }

    fn weight_id(&self, pass: &Pass<'_>) -> Option<ParamId> {
        match self.weight {
            Vector::Trained(id) => Some(id),
            Vector::Frozen(_) => pass.replaced(&self.name).weight,
        }
    }

    fn values<'a>(&'a self, pass: &Pass<'a>) -> &'a Tensor {
        match self.weight_id(pass) {
            Some(id) => pass.params.get(id),
            None => pass.vector(&self.weight),
        }
    }

    /// The normalised rows in f32.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor> {
        Ok(rms_norm::forward(pass.dev, x, self.values(pass), self.eps)?)
    }

    /// Adds the gradient of `x` to `dx`, and that of a trained weight to `grads`.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        dy: &Tensor,
        dx: &mut Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        let id = self.weight_id(pass);
        let mut dw = id.and_then(|id| grads.take(id));
        let result = rms_norm::backward(pass.dev, x, self.values(pass), self.eps, dy, dx, dw.as_mut());
        if let (Some(id), Some(dw)) = (id, dw) {
            grads.put(id, dw);
        }
        Ok(result?)
    }
}
