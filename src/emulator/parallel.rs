//! Blocks of one launch on several threads.
//!
//! Each thread has a copy of memory and runs the next block that nobody has; what they wrote is put together at the end.
//! That is the same as running blocks one after the other if no block reads or writes what a block of another thread
//! wrote, and none breaks a rule. Otherwise nothing has happened, and the caller runs them one after the other.

use super::block::Block;
use super::check::global::{GlobalRaces, Touched};
use super::check::taint::Taint;
use super::grid::Common;
use super::memory::Segment;
use super::run::Counters;
use crate::ptx::Program;
use crate::ptx::op::Op;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Warp instructions from which on threads are worth their copies of memory.
const WORTHWHILE: u64 = 1 << 17;

/// Bytes that copies of memory may take together.
const COPIES_BYTES: u64 = 1 << 30;

/// What one thread leaves behind.
struct Share {
    global: Vec<Segment>,
    module: Vec<Segment>,
    counters: Counters,
    touched: Touched,
}

/// Runs the blocks at `positions`, of a kernel whose blocks don't communicate, if that is worthwhile and comes to the same
/// as running them in order. `expected` is how many warp instructions they will take, about.
pub(super) fn run(common: &mut Common<'_>, positions: Range<u64>, expected: u64) -> bool {
    let threads = threads(common, positions.end - positions.start);
    // Without the check nothing tells whether threads got in each other's way.
    if threads < 2 || expected < WORTHWHILE || !common.options.checks.global_races || depends_on_order(common.program) {
        return false;
    }
    let next = AtomicU64::new(positions.start);
    let stopped = AtomicBool::new(false);
    let shares: Option<Vec<Share>> = thread::scope(|scope| {
        let share = || share(common, &next, positions.end, &stopped);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        workers.into_iter().map(|worker| worker.join().ok().flatten()).collect()
    });
    shares.is_some_and(|shares| merge(common, &shares))
}

/// Threads to use: as many as there are blocks for, and as copies of memory fit.
fn threads(common: &Common<'_>, blocks: u64) -> usize {
    let bytes: usize = common.global.iter().chain(&common.module).map(|s| s.bytes.len()).sum();
    let copies = COPIES_BYTES / (bytes as u64).max(1);
    (common.options.threads as u64).min(blocks).min(copies) as usize
}

/// Whether a program can tell how far a launch has come, or says things in the order of blocks.
fn depends_on_order(program: &Program) -> bool {
    program.code().iter().any(|inst| matches!(inst.op, Op::Clock { .. } | Op::Print { .. }))
}

/// The work of one thread; nothing if any thread meets a broken rule.
fn share(common: &Common<'_>, next: &AtomicU64, end: u64, stopped: &AtomicBool) -> Option<Share> {
    let copy = |segments: &[Segment]| {
        let mut segments = segments.to_vec();
        segments.iter_mut().for_each(|s| s.written.clear());
        segments
    };
    let (mut global, mut races) = (copy(common.global), GlobalRaces::default());
    let mut own = Common {
        program: common.program,
        launch: common.launch,
        options: common.options,
        global: &mut global,
        module: copy(&common.module),
        constant: common.constant.clone(),
        params: common.params.clone(),
        shared_pieces: common.shared_pieces.clone(),
        shared_cell_bytes: common.shared_cell_bytes,
        global_races: &mut races,
        taint: Taint::default(),
        tensor_core: common.tensor_core,
        counters: common.empty_counters(),
    };
    own.watch();
    let mut block = Block::default();
    loop {
        let position = next.fetch_add(1, Ordering::Relaxed);
        if position >= end {
            break;
        }
        block.start(&own, position);
        if stopped.load(Ordering::Relaxed) || block.run(&mut own, u64::MAX).is_err() {
            stopped.store(true, Ordering::Relaxed);
            return None;
        }
        own.taint.end_block(position);
    }
    // What becomes of undefined data in memory is known only at the end of the launch.
    if !own.taint.is_empty() {
        stopped.store(true, Ordering::Relaxed);
        return None;
    }
    let (module, counters) = (own.module, own.counters);
    Some(Share { global, module, counters, touched: races.touched() })
}

/// Puts together what threads did, unless they got in each other's way.
fn merge(common: &mut Common<'_>, shares: &[Share]) -> bool {
    let instructions: u64 = shares.iter().map(|s| s.counters.warp_instructions).sum();
    let in_budget = common.counters.warp_instructions + instructions <= common.options.instruction_budget;
    let mut touched = common.global_races.touched();
    if !in_budget || !shares.iter().all(|share| touched.join(&share.touched)) {
        return false;
    }
    for share in shares {
        let segments = common.global.iter_mut().chain(&mut common.module);
        for (segment, other) in segments.zip(share.global.iter().chain(&share.module)) {
            segment.take_writes(other);
        }
        common.counters.warp_instructions += share.counters.warp_instructions;
        common.counters.lane_instructions += share.counters.lane_instructions;
        common.counters.coverage.merge(&share.counters.coverage);
    }
    true
}
