//! Offloading: how a decoder reads its frozen layers ahead of the work and releases them behind it.

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{Tensor, Weight};

use super::Decoder;
use crate::Result;
use crate::model::layer::Layer;
use crate::model::parts::Base;
use crate::model::pass::Pass;
use crate::model::streaming::Reader;

/// Bytes of an embedding that rows are taken from before it leaves memory.
const GATHERED: usize = 4 << 20;

/// Frozen matrices of a layer.
fn frozen(layer: &Layer) -> impl Iterator<Item = &Weight> {
    layer.linears().filter_map(|l| match &l.base {
        Base::Frozen(w) => Some(w),
        Base::Trained(_) => None,
    })
}

impl Decoder {
    /// Lets frozen layers be read as they are needed and leave memory behind the work of a pass.
    pub fn stream(&mut self) {
        self.reader = Some(Reader::start());
    }

    /// Before a layer is at work: the one that follows is read meanwhile; after the last one a head of its own.
    pub(in crate::model) fn read_ahead(&self, next: Option<usize>) {
        let (Some(reader), Some(next)) = (&self.reader, next) else { return };
        match self.layers.get(next) {
            Some(layer) => reader.read(frozen(layer)),
            None => reader.read(self.frozen_head().into_iter()),
        }
    }

    /// Releases a layer when its work is done.
    pub(in crate::model) fn leave(&self, layer: usize) {
        if self.reader.is_some() {
            frozen(&self.layers[layer]).for_each(Weight::release);
        }
    }

    /// Rows of an embedding that is not the head and lies in a file. Few are needed, but the system maps what lies around
    /// them, up to megabytes, until most of the table is in memory: so rows are taken in the order of the table, and each
    /// part of it leaves before the next one is touched.
    pub(in crate::model) fn gather(&self, pass: &Pass<'_>, table: &Weight, ids: &[u32]) -> Result<Tensor> {
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
    pub(in crate::model) fn apart(&self) -> Option<&Weight> {
        match (&self.lm_head, &self.embed) {
            (Some(_), Base::Frozen(table)) if table.bytes_in_file() > 0 => Some(table),
            _ => None,
        }
    }

    /// Releases the head when the loss is done.
    pub(in crate::model) fn leave_head(&self) {
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
