//! Lists that lie in the device's pool, so that a steady training step asks the system for nothing: not for tensors, and not
//! for the segments, products and parameters that it goes through.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

use allocator_api2::alloc::{AllocError, Allocator};

use crate::arena::ALIGNED;
use crate::heap;
use crate::tensor::Pool;

/// A vector whose elements lie in a [`Pool`], apart from its buffers.
pub type List<T> = allocator_api2::vec::Vec<T, InPool>;

/// Where the elements of a [`List`] lie.
#[derive(Debug, Clone)]
pub struct InPool(Arc<Pool>);

impl Pool {
    /// A list of these items.
    pub fn list<T>(self: &Arc<Self>, items: impl IntoIterator<Item = T>) -> List<T> {
        let items = items.into_iter();
        let mut list = List::with_capacity_in(items.size_hint().0, InPool(Arc::clone(self)));
        list.extend(items);
        list
    }
}

// SAFETY: the pool gives every place to one user until it comes back, and lives as long as any clone of this.
unsafe impl Allocator for InPool {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            // Nothing is behind it, so any aligned place will do.
            let nowhere = NonNull::new(std::ptr::without_provenance_mut(layout.align())).ok_or(AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(nowhere, 0));
        }
        if layout.align() > ALIGNED {
            return Err(AllocError);
        }
        Ok(self.0.take_bytes(layout).unwrap_or_else(|| heap::refused(layout)))
    }

    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if layout.size() > 0 {
            self.0.put_bytes(at, layout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_and_drop_what_they_hold() {
        let pool = Arc::new(Pool::default());
        let counted = Arc::new(());
        let mut lists = Vec::new();
        for n in [0, 1, 7, 1000] {
            let mut list = pool.list((0..n).map(|i| (i, Arc::clone(&counted))));
            (n..3 * n).for_each(|i| list.push((i, Arc::clone(&counted))));
            assert!(list.iter().map(|(i, _)| *i).eq(0..3 * n));
            lists.push(list);
        }
        assert_eq!(Arc::strong_count(&counted), 1 + 3 * 1008);
        let used = pool.used_bytes();
        drop(lists);
        assert_eq!(Arc::strong_count(&counted), 1);
        // Their places are used again, and those of zero size need none.
        assert_eq!(pool.list(std::iter::repeat_n((), 5)).len(), 5);
        let again = pool.list(0..3000u64);
        assert_eq!(again.iter().sum::<u64>(), 2999 * 1500);
        assert_eq!(pool.used_bytes(), used);
    }

    #[test]
    fn elements_are_aligned() {
        #[repr(align(64))]
        struct Line(u8);
        #[repr(align(128))]
        struct Wide(#[allow(dead_code)] u8);
        let pool = Arc::new(Pool::default());
        let _odd = pool.list([1u8]);
        let lines = pool.list([Line(1), Line(2)]);
        assert_eq!(lines.as_ptr() as usize % 64, 0);
        assert_eq!(lines.iter().map(|l| l.0).sum::<u8>(), 3);
        let layout = Layout::new::<Wide>();
        assert!(InPool(pool).allocate(layout).is_err(), "places are aligned to 64 bytes");
    }
}
