//! RMS norm with a frozen or trained weight.

use ferrotune_kernels::Tensor;
use ferrotune_kernels::ops::rms_norm;

use super::linear::{Pass, Vector};
use super::params::Gradients;
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
    pub fn trained(&self) -> bool {
        matches!(self.weight, Vector::Trained(_))
    }

    /// The normalised rows in f32.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor> {
        Ok(rms_norm::forward(pass.dev, x, pass.vector(&self.weight), self.eps)?)
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
        let weight = pass.vector(&self.weight);
        match self.weight {
            Vector::Frozen(_) => rms_norm::backward(pass.dev, x, weight, self.eps, dy, dx, None)?,
            Vector::Trained(id) => {
                let mut dw = grads.take(id);
                let result = rms_norm::backward(pass.dev, x, weight, self.eps, dy, dx, dw.as_mut());
                if let Some(dw) = dw {
                    grads.put(id, dw);
                }
                result?;
            }
        }
        Ok(())
    }
}
