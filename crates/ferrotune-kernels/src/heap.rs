//! A global allocator that lets a program explain itself when the system has no memory left for it.
//!
//! The standard library aborts there, with a core dump and without a word to the user. A program declares
//! `#[global_allocator] static HEAP: Heap = Heap::new(explain);`; a library that is used by another program changes
//! nothing.

use std::alloc::{self, GlobalAlloc, Layout, System};

/// The system's allocator, and what is called when it refuses.
#[derive(Debug)]
pub struct Heap {
    exhausted: fn(),
}

impl Heap {
    /// `exhausted` should end the process, without asking for memory; if it returns, the standard library aborts.
    pub const fn new(exhausted: fn()) -> Self {
        Heap { exhausted }
    }

    fn checked(&self, place: *mut u8) -> *mut u8 {
        if place.is_null() {
            (self.exhausted)();
        }
        place
    }
}

// SAFETY: all memory is the system allocator's, which keeps this contract; its answers are passed on unchanged.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, here and below.
        self.checked(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        self.checked(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `alloc`.
        self.checked(unsafe { System.realloc(place, layout, size) })
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Ends as an allocation of `layout` ends that the system refuses; for memory that comes from elsewhere.
pub(crate) fn refused(layout: Layout) -> ! {
    // More than there can be: so the program's allocator, whichever it is, hears of it and may explain itself.
    let all = Layout::from_size_align(isize::MAX as usize & !63, 64).unwrap_or(layout);
    // SAFETY: the layout's size is not zero. What is not looked at would not be asked for, hence the black box.
    let _ = std::hint::black_box(unsafe { alloc::alloc(all) });
    alloc::handle_alloc_error(layout)
}
