//! Frozen layers that stay in their file: read ahead of the work, and out of memory behind it.
//!
//! A pass goes through the layers one after the other, forward and then back. While a layer is at work the next one is
//! read; the one before leaves memory. The system may keep its pages as long as nobody else needs them, so where there is
//! memory nothing is read twice, and where there is none a run gets slower instead of being ended. The values are the
//! same bytes either way.

use std::sync::mpsc::{Sender, channel};

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{Tensor, Weight};

use super::decoder::Decoder;
use super::layer::Layer;
use super::linear::{Base, Pass};
use crate::Result;

/// Bytes of an embedding that rows are taken from before it leaves memory.
const GATHERED: usize = 4 << 20;

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

/// A thread that asks the system for what is needed next: to find room for it takes time that the work need not wait for.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Closed when the reader is dropped, which ends the thread.
    next: Sender<Vec<Weight>>,
}

impl Reader {
    fn start() -> Self {
        let (next, weights) = channel::<Vec<Weight>>();
        // Without a thread nothing is read ahead, and the work reads what it touches.
        let _ = std::thread::Builder::new()
            .name("read ahead".into())
            .spawn(move || weights.iter().flatten().for_each(|weight| weight.read_ahead()));
        Reader { next }
    }

    fn read<'a>(&self, weights: impl Iterator<Item = &'a Weight>) {
        // Clones share the mapping.
        let _ = self.next.send(weights.cloned().collect());
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

    /// Lets frozen layers be read as they are needed and leave memory behind the work of a pass.
    pub fn stream(&mut self) {
        self.reader = Some(Reader::start());
    }

    /// Before a layer is at work: the one that follows is read meanwhile; after the last one a head of its own.
    pub(super) fn read_ahead(&self, next: Option<usize>) {
        let (Some(reader), Some(next)) = (&self.reader, next) else { return };
        match self.layers.get(next) {
            Some(layer) => reader.read(frozen(layer)),
            None => reader.read(self.frozen_head().into_iter()),
        }
    }

    /// After it.
    pub(super) fn leave(&self, layer: usize) {
        if self.reader.is_some() {
            frozen(&self.layers[layer]).for_each(Weight::release);
        }
    }

    /// Rows of an embedding that is not the head and lies in a file. Few are needed, but the system maps what lies around
    /// them, up to megabytes, until most of the table is in memory: so rows are taken in the order of the table, and each
    /// part of it leaves before the next one is touched.
    pub(super) fn gather(&self, pass: &Pass<'_>, table: &Weight, ids: &[u32]) -> Result<Tensor> {
        let mut x = pass.dev.zeros(ids.len(), self.arch.hidden);
        let row = (table.nbytes() / table.rows().max(1)).max(1);
        let each = (GATHERED / row).max(1) as u32;
        let part = |place: &u32| ids[*place as usize] / each;
        let mut places: Vec<u32> = (0..ids.len() as u32).collect();
        places.sort_unstable_by_key(|place| (ids[*place as usize], *place));
        for places in places.chunk_by(|a, b| part(a) == part(b)) {
            let own: Vec<u32> = places.iter().map(|place| ids[*place as usize]).collect();
            let some = pass.embed(&self.embed, &own, self.arch.embed_scale)?;
            elementwise::scatter(pass.dev, &some, places, &mut x)?;
            table.release();
        }
        Ok(x)
    }

    /// An embedding that [`Decoder::gather`] is for.
    pub(super) fn apart(&self) -> Option<&Weight> {
        match (&self.lm_head, &self.embed) {
            (Some(_), Base::Frozen(table)) if table.bytes_in_file() > 0 => Some(table),
            _ => None,
        }
    }

    /// After the loss.
    pub(super) fn leave_head(&self) {
        if self.reader.is_some() {
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
