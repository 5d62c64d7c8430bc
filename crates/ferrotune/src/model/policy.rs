//! What layers keep for their backward.

use ferrotune_kernels::Precision;

use super::layer;
use super::saved::Keep;
use crate::arch::architecture::Architecture;

/// What a layer keeps for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// Everything that would cost a matrix product to make again.
    Keep,
    /// All but gate and up, the widest tensors; they are made again.
    Lean,
    /// The layer's input alone; the layer runs forward again.
    Recompute,
}

impl Activations {
    /// What a layer keeps of itself; `None` where only its input is kept.
    pub(super) fn keep(self, eight_bit: bool) -> Option<Keep> {
        match self {
            Activations::Keep => Some(Keep { wide: true, eight_bit }),
            Activations::Lean => Some(Keep { wide: false, eight_bit }),
            Activations::Recompute => None,
        }
    }

    /// Bytes that a token takes between the two passes of a layer, without those of branches.
    pub(crate) fn bytes_per_token(
        self,
        a: &Architecture,
        layer: usize,
        precision: Precision,
        eight_bit: bool,
    ) -> usize {
        match self.keep(eight_bit) {
            Some(keep) => layer::saved_bytes_per_token(a, layer, precision, keep),
            // f32: the second forward must start from the same bits as the first.
            None => a.hidden * 4,
        }
    }
}

/// A policy for each layer. The bits are those of any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// The policy of the layers below.
    pub below: Activations,
    /// Layers nearest to the head that keep everything: they need it for the shortest time, and it is gone when the first
    /// layer is computed again.
    pub kept: usize,
}

impl std::fmt::Display for Policies {
    /// `lean`, or `lean, 12 keep` where that many layers keep everything.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let below = match self.below {
            Activations::Keep => "keep",
            Activations::Lean => "lean",
            Activations::Recompute => "recompute",
        };
        match self.kept {
            0 => f.write_str(below),
            kept => write!(f, "{below}, {kept} keep"),
        }
    }
}

impl From<Activations> for Policies {
    fn from(below: Activations) -> Self {
        Policies { below, kept: 0 }
    }
}

impl Policies {
    /// The policy of a layer of so many.
    pub(crate) fn for_layer(self, layer: usize, layers: usize) -> Activations {
        if layer + self.kept >= layers { Activations::Keep } else { self.below }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_layers_keep() {
        let all = |kept| [0, 1, 2].map(|i| Policies { below: Activations::Lean, kept }.for_layer(i, 3));
        assert_eq!(all(0), [Activations::Lean; 3]);
        assert_eq!(all(1), [Activations::Lean, Activations::Lean, Activations::Keep]);
        assert_eq!(all(9), [Activations::Keep; 3]);
        assert_eq!(Policies::from(Activations::Keep).to_string(), "keep");
        assert_eq!(Policies { below: Activations::Lean, kept: 12 }.to_string(), "lean, 12 keep");
    }
}
