//! Keys and values that later layers attend to again, with queries of their own.
//!
//! They stay from the forward of the layer that makes them to its backward, whatever the policy is. The backward goes from
//! the top: the gradients of later layers wait here until that layer's turn comes.

use std::collections::BTreeMap;

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{Device, Tensor};

use crate::Result;

/// Those of a pass, by the layer that makes them.
#[derive(Debug, Default)]
pub struct SharedKeys {
    made: BTreeMap<usize, [Tensor; 2]>,
    gradients: BTreeMap<usize, [Tensor; 2]>,
}

impl SharedKeys {
    /// Keeps k and v of a layer.
    pub(super) fn keep(&mut self, layer: usize, kv: [Tensor; 2]) {
        self.made.insert(layer, kv);
    }

    /// k and v of a layer.
    pub(super) fn of(&self, layer: usize) -> &[Tensor; 2] {
        self.made.get(&layer).expect("a layer makes its keys before later ones use them")
    }

    /// Adds what a later layer has for the gradients of k and v of this one.
    pub(super) fn add(&mut self, dev: &Device, layer: usize, d: [Tensor; 2]) -> Result<()> {
        match self.gradients.get_mut(&layer) {
            Some(sums) => {
                for (sum, d) in sums.iter_mut().zip(&d) {
                    elementwise::add(dev, sum, d, 1.0)?;
                }
            }
            None => {
                self.gradients.insert(layer, d);
            }
        }
        Ok(())
    }

    /// What later layers have for the gradients of k and v of this one, which is done then.
    pub(super) fn finish(&mut self, layer: usize) -> Option<[Tensor; 2]> {
        self.made.remove(&layer);
        self.gradients.remove(&layer)
    }
}
