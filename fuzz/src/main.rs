//! The engine: libFuzzer with the target that `LPA_FUZZ` names, and a look at the memory that each input takes.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use lpa_fuzz::{Input, Target, sections, target};

/// What an input may take besides twice its length.
const MOST_MEMORY: usize = 256 << 20;

/// The system's memory, counted.
struct Counted {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Counted {
    fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Relaxed) + bytes;
        self.most.fetch_max(now, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator, with the same arguments; what is counted besides allocates nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller's contract is that of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller's contract is that of the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        self.now.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract is that of the system's.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.now.fetch_sub(layout.size(), Relaxed);
        self.add(size);
        // SAFETY: the caller's contract is that of the system's.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static MEMORY: Counted = Counted { now: AtomicUsize::new(0), most: AtomicUsize::new(0) };

#[allow(clippy::expect_used)]
static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("LPA_FUZZ").unwrap_or_default();
    target(&name).expect("LPA_FUZZ names a target")
});

fuzz_target!(|data: &[u8]| {
    let target = *TARGET;
    let before = MEMORY.now.load(Relaxed);
    MEMORY.most.store(before, Relaxed);
    (target.run)(data);
    let taken = MEMORY.most.load(Relaxed).saturating_sub(before);
    assert!(taken <= MOST_MEMORY + 2 * data.len(), "{taken} bytes of memory for {}", data.len());
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match TARGET.input {
        Input::Sections if !seed.is_multiple_of(8) => {
            sections::mutate(&mut data[..max_size], size, seed, fuzzer_mutate)
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
});
