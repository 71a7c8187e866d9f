//! The blocks of a launch: which runs when, and what they share.
//!
//! Blocks start in an order drawn from the schedule seed. A kernel whose blocks can't talk to each other, having neither
//! atomic nor volatile accesses to global memory, runs them to the end one after the other, or on threads (`parallel`).
//! Otherwise a block that hasn't ended after a number of instructions is parked for the next, so that it can wait for
//! what another does; when as many are resident as [`Grid::residency`] says, they take turns.

use super::bitmap::BitMap;
use super::block::{Block, Halt, Turn};
use super::check::global::GlobalRaces;
use super::check::race::cell_bytes;
use super::check::taint::{self, Actor, Taint};
use super::check::{Fault, Site, Violation};
use super::coverage::Coverage;
use super::launch::{Launch, Options, Stats, Stop, state_bytes};
use super::memory::{Memory, Segment};
use super::ops::matrix::TensorCore;
use super::parallel;
use super::random::permuted;
use super::run::Counters;
use super::scratch::Scratch;
use super::spaces::{Piece, Place, Store};
use super::warp::{BlockContext, LANES};
use crate::ptx::op::{AccessSpace, Op};
use crate::ptx::{Global, Program, Space};
use std::collections::VecDeque;

/// Warp instructions of a block's first turn, where blocks take turns.
const FIRST_TURN: u64 = 1 << 16;
/// Warp instructions of a later turn: by then it waits, more often than not.
const LATER_TURN: u64 = 1 << 13;

/// Multiprocessors of the device that a launch's residency is that of.
const MULTIPROCESSORS: u64 = 132;
/// Threads and blocks a multiprocessor holds at a time, and its shared memory in bytes.
const RESIDENT_THREADS: u64 = 2048;
const RESIDENT_BLOCKS: u64 = 32;
const RESIDENT_SHARED_BYTES: u64 = 228 * 1024;
/// Registers, local and shared memory of resident blocks, unless a single one needs more.
const RESIDENT_BYTES: u64 = 1 << 28;

/// A running launch.
pub(super) struct Grid<'a> {
    common: Common<'a>,
    /// Blocks that have ended, to be used again.
    spare: &'a mut Vec<Block>,
    blocks: u64,
}

/// What the blocks of a launch share.
pub(super) struct Common<'a> {
    pub(super) program: &'a Program,
    pub(super) launch: &'a Launch<'a>,
    pub(super) options: &'a Options,
    pub(super) global: &'a mut [Segment],
    pub(super) module: Vec<Segment>,
    pub(super) constant: Vec<Segment>,
    pub(super) params: Segment,
    pub(super) shared_pieces: Vec<Piece<'a>>,
    pub(super) shared_cell_bytes: usize,
    pub(super) global_races: &'a mut GlobalRaces,
    pub(super) taint: Taint,
    pub(super) tensor_core: TensorCore,
    pub(super) counters: Counters,
}

impl Common<'_> {
    /// Counts nothing yet.
    pub(super) fn empty_counters(&self) -> Counters {
        let instructions = if self.options.coverage { self.program.code().len() } else { 0 };
        Counters { coverage: Coverage::new(instructions), ..Counters::default() }
    }

    /// Readies the check for races in global memory.
    pub(super) fn watch(&mut self) {
        let checks = self.options.checks;
        let watched = |s: &Segment| if s.writable || !checks.read_only { s.bytes.len() } else { 0 };
        let sizes = self.global.iter().chain(&self.module).map(watched);
        self.global_races.start_launch(checks, cell_bytes(self.program, Space::Global), sizes);
    }

    /// Blocks of the grid.
    fn blocks(&self) -> u64 {
        self.launch.grid.iter().map(|d| u64::from(*d)).product()
    }

    /// Index of the block that comes at a position in the launch's order.
    fn block_at(&self, position: u64) -> [u32; 3] {
        let linear = permuted(position, self.blocks(), self.options.schedule_seed);
        let [x, y, _] = self.launch.grid.map(u64::from);
        [linear % x, linear / x % y, linear / x / y].map(|v| v as u32)
    }

    /// What tells that block from others.
    pub(super) fn context(&self, position: u64) -> BlockContext {
        let launch = self.launch;
        BlockContext {
            grid: launch.grid,
            block: launch.block,
            block_index: self.block_at(position),
            dynamic_shared_bytes: launch.dynamic_shared_bytes as u32,
            total_shared_bytes: (self.program.static_shared_bytes() + launch.dynamic_shared_bytes) as u32,
        }
    }

    /// Static and dynamic shared memory, and the gaps between variables.
    pub(super) fn shared_bytes(&self) -> usize {
        self.program.dynamic_shared_offset() + self.launch.dynamic_shared_bytes
    }
}

impl<'a> Grid<'a> {
    pub(super) fn new(
        program: &'a Program,
        memory: &'a mut Memory,
        launch: &'a Launch<'a>,
        options: &'a Options,
        scratch: &'a mut Scratch,
    ) -> Self {
        let mut common = Common {
            program,
            launch,
            options,
            global: &mut memory.segments,
            module: module_segments(program, Space::Global),
            constant: module_segments(program, Space::Const),
            params: full_segment("kernel parameters", 0, launch.params.to_vec(), false),
            shared_pieces: shared_pieces(program, launch.dynamic_shared_bytes),
            shared_cell_bytes: cell_bytes(program, Space::Shared),
            global_races: &mut scratch.global_races,
            taint: Taint::default(),
            tensor_core: options.tensor_core.unwrap_or_else(|| TensorCore::of_target(program.target())),
            counters: Counters::default(),
        };
        common.counters = common.empty_counters();
        common.watch();
        Self { blocks: common.blocks(), common, spare: &mut scratch.blocks }
    }

    pub(super) fn run(mut self) -> (Stats, Result<(), Stop>) {
        let outcome = if communicates(self.common.program) { self.in_turns() } else { self.one_by_one() };
        let outcome = outcome.and_then(|()| self.left_behind());
        let counters = self.common.counters;
        let stats = Stats {
            warp_instructions: counters.warp_instructions,
            lane_instructions: counters.lane_instructions,
            printed: counters.printed,
            coverage: counters.coverage,
        };
        (stats, outcome)
    }

    /// The first block tells whether threads are worth their while for the others.
    fn one_by_one(&mut self) -> Result<(), Stop> {
        for position in 0..self.blocks {
            let mut block = self.started(position);
            block.run(&mut self.common, u64::MAX).map_err(|halt| self.stop(&block, halt))?;
            self.ended(block);
            let expected = self.common.counters.warp_instructions.saturating_mul(self.blocks - 1);
            if position == 0 && parallel::run(&mut self.common, 1..self.blocks, expected) {
                break;
            }
        }
        Ok(())
    }

    /// The next block starts as soon as there is room for it; apart from that, whoever was parked first goes on.
    fn in_turns(&mut self) -> Result<(), Stop> {
        let residency = self.residency();
        let mut parked = VecDeque::new();
        let mut next = 0;
        loop {
            let (mut block, share) = if next < self.blocks && (parked.len() as u64) < residency {
                next += 1;
                (self.started(next - 1), FIRST_TURN)
            } else if let Some(block) = parked.pop_front() {
                (block, LATER_TURN)
            } else {
                return Ok(());
            };
            match block.run(&mut self.common, share).map_err(|halt| self.stop(&block, halt))? {
                Turn::Finished => self.ended(block),
                Turn::Parked => parked.push_back(block),
            }
        }
    }

    fn ended(&mut self, block: Block) {
        self.common.taint.end_block(block.position);
        self.spare.push(block);
    }

    /// How many blocks have started and not ended, at most: what a large device holds, as far as memory here allows.
    fn residency(&self) -> u64 {
        let threads = self.common.launch.block.iter().map(|d| u64::from(*d)).product::<u64>();
        let shared = self.common.shared_bytes() as u64;
        let of_one = (RESIDENT_THREADS / threads.next_multiple_of(LANES as u64))
            .min(RESIDENT_BLOCKS)
            .min(RESIDENT_SHARED_BYTES / (shared + 1024));
        // Shared memory takes its bytes and the race check's cells, which are up to 64 bytes for each.
        let bytes = state_bytes(self.common.program, threads) + shared * 65;
        (MULTIPROCESSORS * of_one.max(1)).min(RESIDENT_BYTES / bytes.max(1)).max(1)
    }

    fn started(&mut self, position: u64) -> Block {
        let mut block = self.spare.pop().unwrap_or_default();
        block.start(&self.common, position);
        block
    }

    #[cold]
    fn stop(&self, block: &Block, halt: Halt) -> Stop {
        let Halt { pc, warp, fault } = halt;
        if fault.is_limit {
            let line = self.site(pc, warp, fault.lane, &block.context).ptx_line;
            return Stop::Unsupported { detail: format!("line {line}: {}", fault.detail) };
        }
        self.violation(pc, warp, *fault, &block.context)
    }

    fn violation(&self, pc: u32, warp: u32, fault: Fault, context: &BlockContext) -> Stop {
        let mut violation = Violation {
            kind: fault.kind,
            site: self.site(pc, warp, fault.lane, context),
            detail: fault.detail,
            other: fault.other.map(|(pc, warp, lane)| match fault.other_position {
                Some(position) => self.site(pc, warp, lane, &self.common.context(position)),
                None => self.site(pc, warp, lane, context),
            }),
        };
        // Which party of a race came first is up to the schedule: the one further down in the program is the site.
        if let Some(other) = &mut violation.other
            && fault.kind.is_race()
            && fault.other.is_some_and(|(other, ..)| other > pc)
        {
            std::mem::swap(&mut violation.site, other);
        }
        Stop::Violation(Box::new(violation))
    }

    /// Objects to undefined data in a buffer.
    fn left_behind(&self) -> Result<(), Stop> {
        let is_left = |region: usize, byte: usize| {
            let segment = &self.common.global[region];
            byte < segment.bytes.len() && segment.written.contains(byte) && !segment.initialised.contains(byte)
        };
        let Some(stored) = self.common.taint.left_behind(is_left) else { return Ok(()) };
        let Actor { pc, warp, lane, block } = stored.by;
        let (global, module) = (&*self.common.global, &self.common.module);
        let name = |place: Place| match place.store {
            Store::Global(i) => format!("byte {} of `{}`", place.offset, global[i].name),
            Store::Module(i) => format!("byte {} of `{}`", place.offset, module[i].name),
            Store::Shared => format!("byte {} of shared memory", place.offset),
            Store::Local | Store::Constant(_) | Store::Params => "local memory".to_owned(),
        };
        let (to, from) = (name(stored.place), stored.origin.from.map_or("a register".to_owned(), name));
        let detail = format!("{to} is left with data that depends on {from}, which nothing has written");
        let fault = taint::report(lane as usize, &detail, stored.origin, block);
        Err(self.violation(pc, warp, *fault, &self.common.context(block)))
    }

    fn site(&self, pc: u32, warp: u32, lane: u32, context: &BlockContext) -> Site {
        let program = self.common.program;
        let lane = lane.min(LANES as u32 - 1);
        let (line, (file, source_line)) = program.code().get(pc as usize).map_or((0, (0, 0)), |i| (i.line, i.source));
        Site {
            ptx_line: line,
            instruction: program.line(line).to_owned(),
            source: program.file(file).filter(|_| source_line != 0).map(|f| (f.to_owned(), source_line)),
            block: context.block_index,
            warp,
            lane,
            thread: context.thread(warp, lane),
        }
    }
}

/// Whether a block can wait for another and be right: by accesses to global memory that order what surrounds them.
fn communicates(program: &Program) -> bool {
    let is_global = |space: AccessSpace| matches!(space, AccessSpace::Generic | AccessSpace::Is(Space::Global));
    program.code().iter().any(|inst| match &inst.op {
        Op::Load { access, .. } | Op::Store { access, .. } => access.strong && is_global(access.space),
        Op::Atomic { space, .. } => is_global(*space),
        _ => false,
    })
}

/// The module's variables in a space.
fn module_segments(program: &Program, space: Space) -> Vec<Segment> {
    let of_space = program.globals().iter().filter(|g| g.space == space);
    let segment = |g: &Global| full_segment(&g.name, g.address, g.bytes.clone(), space == Space::Global);
    of_space.map(segment).collect()
}

/// Shared variables, where there are several; static ones come first.
fn shared_pieces(program: &Program, dynamic_bytes: usize) -> Vec<Piece<'_>> {
    let variables = program.shared_variables();
    if variables.len() + usize::from(dynamic_bytes > 0) < 2 {
        return Vec::new();
    }
    let start = program.dynamic_shared_offset() as u64;
    let dynamic = Piece { name: "dynamic shared memory", start, end: start + dynamic_bytes as u64 };
    let fixed = variables.iter().map(|v| {
        let start = v.offset as u64;
        Piece { name: &v.name, start, end: start + v.size_bytes as u64 }
    });
    fixed.chain((dynamic_bytes > 0).then_some(dynamic)).collect()
}

fn full_segment(name: &str, base: u64, bytes: Vec<u8>, writable: bool) -> Segment {
    let size = bytes.len();
    Segment {
        name: name.to_owned(),
        base,
        bytes,
        initialised: BitMap::new(size, true),
        written: BitMap::new(size, false),
        writable,
    }
}
