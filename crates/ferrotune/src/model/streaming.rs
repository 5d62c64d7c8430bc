//! Frozen layers that stay in their file: read ahead of the work, and out of memory behind it.
//!
//! A pass goes through the layers one after the other, forward and then back. While a layer is at work the next one is
//! read; the one before leaves memory. The system may keep its pages as long as nobody else needs them, so where there is
//! memory nothing is read twice, and where there is none a run gets slower instead of being ended. The values are the
//! same bytes either way.

use std::sync::mpsc::{Sender, channel};

use ferrotune_kernels::Weight;

/// What streaming saves of a base: only the layer that computes, and what lies in no file, is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// Bytes that are not in memory at a time.
    pub away: usize,
    /// Bytes that the system reads ahead of the work.
    pub ahead: usize,
}

impl Streaming {
    /// For layers of these sizes in bytes; `None` where nothing leaves memory.
    pub(crate) fn of(layers: &[usize]) -> Option<Self> {
        let largest = layers.iter().max().copied().unwrap_or(0);
        let away = layers.iter().sum::<usize>().saturating_sub(largest);
        (away > 0).then_some(Streaming { away, ahead: largest })
    }
}

/// A thread that asks the system for what is needed next: to find room for it takes time that the work need not wait for.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Closed when the reader is dropped, which ends the thread.
    next: Sender<Vec<Weight>>,
}

impl Reader {
    pub(super) fn start() -> Self {
        let (next, weights) = channel::<Vec<Weight>>();
        // Without a thread nothing is read ahead, and the work reads what it touches.
        let _ = std::thread::Builder::new()
            .name("read ahead".into())
            .spawn(move || weights.iter().flatten().for_each(|weight| weight.read_ahead()));
        Reader { next }
    }

    pub(super) fn read<'a>(&self, weights: impl Iterator<Item = &'a Weight>) {
        // Clones share the mapping.
        let _ = self.next.send(weights.cloned().collect());
    }
}
