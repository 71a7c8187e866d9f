//! What libFuzzer takes for coverage: the kernel's branches and predicates, and nothing of the program that emulates it.
//!
//! libFuzzer reads the bytes of the section `__libfuzzer_extra_counters` after each run, beside the counters that the
//! compiler put into every function of the host. Those are set back to 0 before it looks.

use attnfuzz::harness::{Failure, Target};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU8, Ordering};

/// Points beyond are folded onto the first ones. libFuzzer tells 2^21 features apart, 8 of each counter.
const COUNTERS: usize = 1 << 17;

// Nothing here reads them, which would be reason enough to leave them out.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = "__libfuzzer_extra_counters"))]
static COUNTED: [AtomicU8; COUNTERS] = [const { AtomicU8::new(0) }; COUNTERS];

/// Runs an input; a backend that tells nothing of the kernel leaves libFuzzer the host's counters.
pub fn of_kernel_only(target: &Target, input: &[u8]) -> Result<(), Failure> {
    let ran = target.run(input, |point| COUNTED[point as usize % COUNTERS].store(1, Ordering::Relaxed));
    if target.sees_points() {
        forget_host();
        deepest(same_depth);
    }
    ran
}

/// Sets the host's counters back.
#[cfg(all(fuzzing, target_os = "linux"))]
fn forget_host() {
    unsafe extern "C" {
        #[link_name = "__start___sancov_cntrs"]
        static mut START: u8;
        #[link_name = "__stop___sancov_cntrs"]
        static mut STOP: u8;
    }
    // SAFETY: the linker defines both symbols as the ends of the section that holds every 8-bit counter of this program and
    // nothing else. Instrumented code adds to them from any thread without synchronisation, as a counter's own function does
    // here: none of the others is running, and a lost addition would not matter.
    unsafe {
        let start = &raw mut START;
        start.write_bytes(0, (&raw mut STOP).addr() - start.addr());
    }
}

#[cfg(not(all(fuzzing, target_os = "linux")))]
fn forget_host() {}

/// Stack that no run needs.
const DEPTH: usize = 1 << 20;

/// The depth of the stack is a feature too: calls `inner` from below every other frame, so that it is always the same.
#[inline(never)]
fn deepest(inner: fn(fn())) {
    let frame = MaybeUninit::<[u8; DEPTH]>::uninit();
    black_box(frame.as_ptr());
    inner(|| ());
}

/// Calls something, for what calls nothing does not count.
#[inline(never)]
fn same_depth(call: fn()) {
    black_box(call)();
}
