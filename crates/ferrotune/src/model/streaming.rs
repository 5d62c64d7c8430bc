//! Frozen layers that stay in their file: read ahead of the work, and out of memory behind it.
//!
//! A pass goes through the layers one after the other, forward and then back. While a layer is at work the next one is
//! read; the one before leaves memory. The system may keep its pages as long as nobody else needs them, so where there is
//! memory nothing is read twice, and where there is none a run gets slower instead of being ended. The values are the
//! same bytes either way.

use ferrotune_kernels::Weight;

use super::decoder::Decoder;
use super::layer::Layer;
use super::linear::Base;

/// Layers that are in memory together: the one at work, the next, and what the system maps around them.
const RESIDENT: usize = 3;

/// Of layers of these sizes, what is not in memory at a time.
pub(crate) fn leaves(layers: &[usize]) -> usize {
    let largest = layers.iter().max().copied().unwrap_or(0);
    layers.iter().sum::<usize>().saturating_sub(RESIDENT * largest)
}

/// Frozen matrices of a layer.
fn frozen(layer: &Layer) -> impl Iterator<Item = &Weight> {
    layer.linears().filter_map(|l| match &l.base {
        Base::Frozen(w) => Some(w),
        Base::Trained(_) => None,
    })
}

impl Decoder {
    /// Bytes that a streamed base does not need in memory; `None` if no layer lies in a file.
    pub fn streaming_saves(&self) -> Option<usize> {
        let of = |layer: &Layer| frozen(layer).map(Weight::bytes_in_file).sum::<usize>();
        let layers: Vec<usize> = self.layers.iter().map(of).collect();
        layers.iter().any(|bytes| *bytes > 0).then(|| leaves(&layers))
    }

    /// Before a layer is at work: the one that follows is read meanwhile.
    pub(super) fn read_ahead(&self, next: Option<usize>) {
        if let Some(layer) = next.filter(|_| self.streamed).and_then(|i| self.layers.get(i)) {
            frozen(layer).for_each(Weight::read_ahead);
        }
    }

    /// After it.
    pub(super) fn leave(&self, layer: usize) {
        if self.streamed {
            frozen(&self.layers[layer]).for_each(Weight::release);
        }
    }
}
