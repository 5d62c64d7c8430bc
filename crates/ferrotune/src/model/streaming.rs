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

/// What streaming does to a base of which nothing else is in memory than the layer at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// Bytes that are not in memory at a time.
    pub away: usize,
    /// Bytes that the system reads ahead of the work.
    pub ahead: usize,
}

impl Streaming {
    /// Of layers of these sizes; `None` where nothing leaves.
    pub(crate) fn of(layers: &[usize]) -> Option<Self> {
        let largest = layers.iter().max().copied().unwrap_or(0);
        let away = layers.iter().sum::<usize>().saturating_sub(largest);
        (away > 0).then_some(Streaming { away, ahead: largest })
    }
}

/// Frozen matrices of a layer.
fn frozen(layer: &Layer) -> impl Iterator<Item = &Weight> {
    layer.linears().filter_map(|l| match &l.base {
        Base::Frozen(w) => Some(w),
        Base::Trained(_) => None,
    })
}

impl Decoder {
    /// What streaming saves; `None` if no layer lies in a file.
    pub fn streaming(&self) -> Option<Streaming> {
        let of = |layer: &Layer| frozen(layer).map(Weight::bytes_in_file).sum::<usize>();
        Streaming::of(&self.layers.iter().map(of).collect::<Vec<_>>())
    }

    /// Before a layer is at work: the one that follows is read meanwhile; after the last one a head of its own.
    pub(super) fn read_ahead(&self, next: Option<usize>) {
        let Some(next) = next.filter(|_| self.streamed) else { return };
        match self.layers.get(next) {
            Some(layer) => frozen(layer).for_each(Weight::read_ahead),
            None => self.frozen_head().into_iter().for_each(Weight::read_ahead),
        }
    }

    /// After it.
    pub(super) fn leave(&self, layer: usize) {
        if self.streamed {
            frozen(&self.layers[layer]).for_each(Weight::release);
        }
    }

    /// After the rows of an embedding were taken, unless it is the head too.
    pub(super) fn leave_embedding(&self) {
        if let (true, Some(_), Base::Frozen(table)) = (self.streamed, &self.lm_head, &self.embed) {
            table.release();
        }
    }

    /// After the loss.
    pub(super) fn leave_head(&self) {
        if self.streamed {
            self.frozen_head().into_iter().for_each(Weight::release);
        }
    }

    /// A head that is not the embedding.
    fn frozen_head(&self) -> Option<&Weight> {
        match self.lm_head.as_ref().map(|head| &head.base) {
            Some(Base::Frozen(head)) => Some(head),
            _ => None,
        }
    }
}
