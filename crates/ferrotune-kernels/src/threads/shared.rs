//! Slices that several tasks write to.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose disjoint parts are written by several tasks.
pub struct SharedMut<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer is only used through `slice`, whose callers promise disjoint ranges.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Borrows `slice` for the time of a parallel loop.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A pointer to element `start`, after checking that everything up to `end` is inside.
    ///
    /// # Safety
    /// Elements written through it may not be written by another task at the same time.
    pub(crate) unsafe fn base_within(&self, start: usize, end: usize) -> *mut T {
        assert!(start <= end && end <= self.len, "range outside the shared slice");
        // SAFETY: inside the borrowed slice by the check above.
        unsafe { self.ptr.add(start) }
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No two ranges in use at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range outside the shared slice");
        // SAFETY: inside the borrowed slice by the check above; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.end - range.start) }
    }
}
