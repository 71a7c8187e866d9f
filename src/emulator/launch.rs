//! A launch: what it is asked to do, and what comes of it. `grid` does it.

use super::block::Block;
use super::check::{Checks, Violation};
use super::coverage::Coverage;
use super::grid::Grid;
use super::memory::Memory;
use super::ops::matrix::TensorCore;
use super::warp::LANES;
use crate::ptx::Program;
use thiserror::Error;

/// Shape and arguments of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared_bytes: usize,
    /// The parameter block, laid out as [`Program::params`] says.
    pub params: &'a [u8],
}

/// How to run a launch.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Draws the order of blocks and the turns of warps. The same seed gives the same run.
    pub schedule_seed: u64,
    /// Warp instructions the launch may execute before it counts as a hang.
    pub instruction_budget: u64,
    /// Which checks are on.
    pub checks: Checks,
    /// How tensor cores add; those of the program's target unless given.
    pub tensor_core: Option<TensorCore>,
    /// Whether to record [`Coverage`].
    pub coverage: bool,
    /// Shared memory a block may have, static and dynamic together, in bytes.
    pub shared_limit_bytes: usize,
    /// Threads to run a large launch on, at most. What comes of it is the same for any number.
    pub threads: usize,
    /// Has approximate functions return some value within their documented error, drawn from this seed and the operands,
    /// rather than the correctly rounded one.
    pub perturb: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schedule_seed: 0,
            instruction_budget: 1 << 32,
            checks: Checks::default(),
            tensor_core: None,
            coverage: false,
            // What sm_90 grants; smaller devices grant less.
            shared_limit_bytes: 227 * 1024,
            threads: 1,
            perturb: None,
        }
    }
}

/// What a launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions executed, once per warp.
    pub warp_instructions: u64,
    /// Instructions executed, once per lane.
    pub lane_instructions: u64,
    /// What the kernel printed, the first lines of it.
    pub printed: Vec<String>,
    /// What was reached, if [`Options::coverage`] asked for it; empty otherwise.
    pub coverage: Coverage,
}

/// Why a launch didn't finish.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Stop {
    /// The kernel broke a rule.
    #[error("{0}")]
    Violation(Box<Violation>),
    /// The kernel needs something this emulator can't do.
    #[error("{detail} (a limit of this emulator, not a fault of the kernel)")]
    Unsupported {
        /// What is missing.
        detail: String,
    },
    /// The launch itself is wrong.
    #[error("bad launch: {0}")]
    BadLaunch(String),
}

/// Runs `program` on `memory` to its end.
///
/// # Errors
/// [`Stop::Violation`] for the first rule the kernel breaks, [`Stop::BadLaunch`] for a launch the device would refuse.
/// Memory then holds what had been written so far.
pub fn launch(program: &Program, memory: &mut Memory, launch: &Launch<'_>, options: &Options) -> Result<Stats, Stop> {
    let (stats, outcome) = observe(program, memory, launch, options);
    outcome.map(|()| stats)
}

/// The same, with what the launch did up to where it stopped.
pub fn observe(
    program: &Program,
    memory: &mut Memory,
    launch: &Launch<'_>,
    options: &Options,
) -> (Stats, Result<(), Stop>) {
    if let Err(stop) = validate(program, launch, options) {
        return (Stats::default(), Err(stop));
    }
    let mut scratch = std::mem::take(&mut memory.scratch);
    let outcome = Grid::new(program, memory, launch, options, &mut scratch).run();
    // One block is what most launches need; what hundreds needed isn't worth keeping.
    scratch.blocks.truncate(1);
    scratch.blocks.iter_mut().for_each(Block::forget_program);
    memory.scratch = scratch;
    outcome
}

fn validate(program: &Program, launch: &Launch<'_>, options: &Options) -> Result<(), Stop> {
    let bad = |text: String| Err(Stop::BadLaunch(text));
    let [gx, gy, gz] = launch.grid;
    if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65535 || gz > 65535 {
        return bad(format!("a grid of {gx} x {gy} x {gz} blocks, expected 1 to 2147483647, 65535, 65535"));
    }
    let [x, y, z] = launch.block;
    let threads = u64::from(x) * u64::from(y) * u64::from(z);
    if threads == 0 || threads > 1024 || z > 64 {
        return bad(format!("a block of {x} x {y} x {z} threads, expected 1 to 1024 in all and up to 64 in z"));
    }
    if let Some(max) = program.max_threads()
        && threads > max
    {
        return bad(format!("{threads} threads a block, the kernel allows {max}"));
    }
    if let Some(required) = program.required_block()
        && required != launch.block
    {
        return bad(format!("a block of {:?}, the kernel requires {required:?}", launch.block));
    }
    if launch.params.len() != program.param_bytes() {
        return bad(format!("{} bytes of parameters, expected {}", launch.params.len(), program.param_bytes()));
    }
    let shared = program.static_shared_bytes() + launch.dynamic_shared_bytes;
    if shared > options.shared_limit_bytes {
        return bad(format!("{shared} bytes of shared memory, expected at most {}", options.shared_limit_bytes));
    }
    let state_bytes = state_bytes(program, threads);
    if state_bytes > MAX_STATE_BYTES {
        let detail = format!(
            "registers and local memory of a block take {state_bytes} bytes, at most {MAX_STATE_BYTES} are supported"
        );
        return Err(Stop::Unsupported { detail });
    }
    Ok(())
}

/// Registers and local memory of a block of `threads` threads.
pub(super) fn state_bytes(program: &Program, threads: u64) -> u64 {
    let (words, wides, preds) = program.slots();
    let per_warp = (words * 4 + wides * 8) * LANES + preds * 4 + program.local_bytes() * LANES;
    per_warp as u64 * threads.div_ceil(LANES as u64)
}

/// Registers and local memory of one block; more is refused rather than allocated.
const MAX_STATE_BYTES: u64 = 1 << 30;
