//! A launch: blocks in an order drawn from the schedule seed, warps of a block taking turns by the same seed.

use super::BitMap;
use super::barrier::Barriers;
use super::check::race::{Party, cell_bytes};
use super::check::taint::{self, Actor, Taint};
use super::check::{Checks, Fault, Site, Violation, ViolationKind, fault};
use super::coverage::Coverage;
use super::memory::{Memory, Segment};
use super::ops::matrix::TensorCore;
use super::ops::mbarrier::Arrivals;
use super::run::{Counters, Pause, run};
use super::scratch::Scratch;
use super::spaces::{Pending, Piece, Place, Spaces, Store};
use super::warp::{BlockContext, LANES, Warp};
use crate::ptx::{Inst, Program, Space};
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
    let (words, wides, preds) = program.slots();
    let per_warp = (words * 4 + wides * 8) * LANES + preds * 4 + program.local_bytes() * LANES;
    let state_bytes = per_warp as u64 * threads.div_ceil(LANES as u64);
    if state_bytes > MAX_STATE_BYTES {
        let detail = format!(
            "registers and local memory of a block take {state_bytes} bytes, at most {MAX_STATE_BYTES} are supported"
        );
        return Err(Stop::Unsupported { detail });
    }
    Ok(())
}

/// Registers and local memory of one block; more is refused rather than allocated.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// State of a running launch.
struct Grid<'a> {
    program: &'a Program,
    tensor_core: TensorCore,
    launch: &'a Launch<'a>,
    options: &'a Options,
    global: &'a mut [Segment],
    module: Vec<Segment>,
    constant: Vec<Segment>,
    params: Segment,
    scratch: &'a mut Scratch,
    counters: Counters,
    random: Random,
    cell_bytes: usize,
    pending: Option<Pending>,
    taint: Taint,
    mbarriers: Arrivals,
    shared_pieces: Vec<Piece<'a>>,
}

impl<'a> Grid<'a> {
    fn new(
        program: &'a Program,
        memory: &'a mut Memory,
        launch: &'a Launch<'a>,
        options: &'a Options,
        scratch: &'a mut Scratch,
    ) -> Self {
        let segments = |space: Space| {
            let of_space = program.globals().iter().filter(|g| g.space == space);
            let segment =
                |g: &crate::ptx::Global| full_segment(&g.name, g.address, g.bytes.clone(), space == Space::Global);
            of_space.map(segment).collect::<Vec<_>>()
        };
        let threads: u32 = launch.block.iter().product();
        let warps = threads.div_ceil(LANES as u32) as usize;
        scratch.warps.resize_with(warps, Warp::default);
        for warp in &mut scratch.warps {
            warp.prepare(program);
        }
        let shared_bytes = program.dynamic_shared_offset() + launch.dynamic_shared_bytes;
        scratch.shared.name.clear();
        scratch.shared.name.push_str("shared memory");
        scratch.shared.bytes.clear();
        scratch.shared.bytes.resize(shared_bytes, 0);
        scratch.shared.writable = true;
        let module = segments(Space::Global);
        let watched = |s: &Segment| if s.writable || !options.checks.read_only { s.bytes.len() } else { 0 };
        let sizes = memory.segments.iter().chain(&module).map(watched);
        scratch.global_races.start_launch(options.checks, cell_bytes(program, Space::Global), sizes);
        Self {
            program,
            tensor_core: options.tensor_core.unwrap_or_else(|| TensorCore::of_target(program.target())),
            launch,
            options,
            global: &mut memory.segments,
            module,
            constant: segments(Space::Const),
            params: full_segment("kernel parameters", 0, launch.params.to_vec(), false),
            scratch,
            counters: Counters {
                coverage: Coverage::new(if options.coverage { program.code().len() } else { 0 }),
                ..Counters::default()
            },
            random: Random(options.schedule_seed),
            cell_bytes: cell_bytes(program, Space::Shared),
            pending: None,
            taint: Taint::default(),
            mbarriers: Arrivals::default(),
            shared_pieces: shared_pieces(program, launch.dynamic_shared_bytes),
        }
    }

    fn run(mut self) -> (Stats, Result<(), Stop>) {
        let outcome = self.blocks();
        let stats = Stats {
            warp_instructions: self.counters.warp_instructions,
            lane_instructions: self.counters.lane_instructions,
            printed: self.counters.printed,
            coverage: self.counters.coverage,
        };
        (stats, outcome)
    }

    fn blocks(&mut self) -> Result<(), Stop> {
        let blocks = self.launch.grid.iter().map(|d| u64::from(*d)).product::<u64>();
        for position in 0..blocks {
            self.block(position, self.block_at(position, blocks))?;
            self.taint.end_block(position);
        }
        self.left_behind(blocks)
    }

    /// Index of the block that comes at a position in the launch's order.
    fn block_at(&self, position: u64, blocks: u64) -> [u32; 3] {
        let linear = self.random.permuted(position, blocks, self.options.schedule_seed);
        let [x, y, _] = self.launch.grid.map(u64::from);
        [linear % x, linear / x % y, linear / x / y].map(|v| v as u32)
    }

    fn block(&mut self, position: u64, block_index: [u32; 3]) -> Result<(), Stop> {
        let shared_bytes = self.scratch.shared.bytes.len();
        let context = BlockContext {
            grid: self.launch.grid,
            block: self.launch.block,
            block_index,
            dynamic_shared_bytes: self.launch.dynamic_shared_bytes as u32,
            total_shared_bytes: (self.program.static_shared_bytes() + self.launch.dynamic_shared_bytes) as u32,
        };
        self.scratch.shared.initialised = BitMap::new(shared_bytes, false);
        self.scratch.shared.written = BitMap::new(shared_bytes, false);
        self.scratch.races.start_block(shared_bytes, self.cell_bytes, self.scratch.warps.len());
        self.scratch.global_races.start_block();
        for (index, warp) in self.scratch.warps.iter_mut().enumerate() {
            warp.start(self.program, &context, index as u32);
            let by = Actor { warp: index as u32, block: position, ..Actor::default() };
            warp.shadow.start(self.program, by, self.options.checks.uninitialised);
        }
        self.mbarriers.clear();
        let mut barriers = Barriers::default();
        loop {
            let able = |w: &&Warp| w.live != 0 && w.at_barrier.is_none();
            let count = self.scratch.warps.iter().filter(able).count();
            if count == 0 {
                break;
            }
            let turn = self.random.below(count as u64) as usize;
            let Some(chosen) = self.scratch.warps.iter().position({
                let mut left = turn;
                move |w| {
                    let is_able = w.live != 0 && w.at_barrier.is_none();
                    if is_able && left == 0 {
                        return true;
                    }
                    left -= usize::from(is_able);
                    false
                }
            }) else {
                break;
            };
            self.turn(chosen, position, &context, &mut barriers)?;
        }
        match (barriers.stuck(&self.scratch.warps), &self.pending) {
            (Some((warp, fault)), _) => Err(self.stop(warp, *fault, &context)),
            (None, Some(Pending { pc, warp, fault })) => Err(self.stop_at(*pc, *warp, *fault.clone(), &context)),
            (None, None) => Ok(()),
        }
    }

    /// Lets one warp run for a while.
    fn turn(
        &mut self,
        chosen: usize,
        position: u64,
        context: &BlockContext,
        barriers: &mut Barriers,
    ) -> Result<(), Stop> {
        let left = self.options.instruction_budget.saturating_sub(self.counters.warp_instructions);
        if left == 0 {
            let detail = format!("more than {} warp instructions: the kernel hangs", self.options.instruction_budget);
            let lane = self.scratch.warps[chosen].mask.trailing_zeros() as usize;
            return Err(self.stop(chosen, *fault(ViolationKind::BudgetExhausted, lane, detail), context));
        }
        let quantum = (256 + self.random.below(1792)).min(left);
        let warp = &mut self.scratch.warps[chosen];
        let mut local = std::mem::take(&mut warp.local);
        let mut spaces = Spaces {
            global: self.global,
            module: &mut self.module,
            constant: &mut self.constant,
            shared: &mut self.scratch.shared,
            shared_pieces: &self.shared_pieces,
            local: &mut local,
            local_bytes: self.program.local_bytes() as u64,
            params: &mut self.params,
            checks: self.options.checks,
            tensor_core: self.tensor_core,
            perturb: self.options.perturb,
            races: &mut self.scratch.races,
            mbarriers: &mut self.mbarriers,
            global_races: &mut self.scratch.global_races,
            party: Party::default(),
            taint: &mut self.taint,
            block: position,
            pending: &mut self.pending,
        };
        let (plain, shadowed) = match self.options.coverage {
            true => (run::<true, false> as Run, run::<true, true> as Run),
            false => (run::<false, false> as Run, run::<false, true> as Run),
        };
        let run = if warp.shadow.is_tainted() { shadowed } else { plain };
        let mut outcome = run(self.program.code(), warp, &mut spaces, &mut self.counters, quantum);
        if outcome.as_ref().is_err_and(|fault| fault.needs_shadow) {
            outcome = shadowed(self.program.code(), warp, &mut spaces, &mut self.counters, quantum);
        }
        warp.local = local;
        let after = match outcome {
            Ok(Pause::Quantum) => Ok(()),
            Ok(Pause::Barrier) => {
                barriers.arrive(self.program.code(), &mut self.scratch.warps, chosen, &mut self.scratch.races)
            }
            Ok(Pause::Finished) => {
                barriers.after_exit(self.program.code(), &mut self.scratch.warps, chosen, &mut self.scratch.races);
                Ok(())
            }
            Err(fault) => Err(fault),
        };
        after.map_err(|fault| self.stop(chosen, *fault, context))
    }

    /// Adds where it happened to what a handler found.
    #[cold]
    fn stop(&self, warp: usize, fault: Fault, context: &BlockContext) -> Stop {
        match &self.pending {
            Some(pending) if !is_race(fault.kind) => {
                self.stop_at(pending.pc, pending.warp, *pending.fault.clone(), context)
            }
            _ => self.stop_at(self.scratch.warps[warp].pc, warp as u32, fault, context),
        }
    }

    fn stop_at(&self, pc: u32, warp: u32, fault: Fault, context: &BlockContext) -> Stop {
        let mut violation = Violation {
            kind: fault.kind,
            site: self.site(pc, warp, fault.lane, context),
            detail: fault.detail,
            other: fault.other.map(|(pc, warp, lane)| match fault.other_position {
                Some(position) => {
                    let block_index = self.block_at(position, self.launch.grid.iter().map(|d| u64::from(*d)).product());
                    self.site(pc, warp, lane, &BlockContext { block_index, ..*context })
                }
                None => self.site(pc, warp, lane, context),
            }),
        };
        // Which party of a race came first is up to the schedule: the one further down in the program is the site.
        if let Some(other) = &mut violation.other
            && is_race(fault.kind)
            && fault.other.is_some_and(|(other, ..)| other > pc)
        {
            std::mem::swap(&mut violation.site, other);
        }
        Stop::Violation(Box::new(violation))
    }

    /// Objects to undefined data in a buffer.
    fn left_behind(&self, blocks: u64) -> Result<(), Stop> {
        let is_left = |region: usize, byte: usize| {
            let segment = &self.global[region];
            byte < segment.bytes.len() && segment.written.contains(byte) && !segment.initialised.contains(byte)
        };
        let Some(stored) = self.taint.left_behind(is_left) else { return Ok(()) };
        let Actor { pc, warp, lane, block } = stored.by;
        let name = |place: Option<Place>| match place {
            None => "a register".to_owned(),
            Some(Place { store: Store::Global(i), offset }) => format!("byte {offset} of `{}`", self.global[i].name),
            Some(Place { store: Store::Module(i), offset }) => format!("byte {offset} of `{}`", self.module[i].name),
            Some(place) if place.is_shared() => format!("byte {} of shared memory", place.offset),
            Some(_) => "local memory".to_owned(),
        };
        let (to, from) = (name(Some(stored.place)), name(stored.origin.from));
        let detail = format!("{to} is left with data that depends on {from}, which nothing has written");
        let fault = taint::report(lane as usize, &detail, stored.origin, block);
        let context = BlockContext {
            grid: self.launch.grid,
            block: self.launch.block,
            block_index: self.block_at(block, blocks),
            dynamic_shared_bytes: 0,
            total_shared_bytes: 0,
        };
        Err(self.stop_at(pc, warp, *fault, &context))
    }

    fn site(&self, pc: u32, warp: u32, lane: u32, context: &BlockContext) -> Site {
        let lane = lane.min(LANES as u32 - 1);
        let inst = self.program.code().get(pc as usize);
        let (line, (file, source_line)) = inst.map_or((0, (0, 0)), |i| (i.line, i.source));
        Site {
            ptx_line: line,
            instruction: self.program.line(line).to_owned(),
            source: self.program.file(file).filter(|_| source_line != 0).map(|f| (f.to_owned(), source_line)),
            block: context.block_index,
            warp,
            lane,
            thread: context.thread(warp, lane),
        }
    }
}

/// [`run`] in one of its forms.
type Run = fn(&[Inst], &mut Warp, &mut Spaces<'_>, &mut Counters, u64) -> Result<Pause, Box<Fault>>;

fn is_race(kind: ViolationKind) -> bool {
    matches!(kind, ViolationKind::SharedRace | ViolationKind::GlobalRace | ViolationKind::NonCoherentRead)
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

/// A small generator (SplitMix64): the schedule must be the same everywhere and for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A permutation of `0..count` drawn from the seed, without storing it: a step prime to the count, and a start.
    fn permuted(&self, position: u64, count: u64, seed: u64) -> u64 {
        let mut own = Random(seed ^ 0x5bd1_e995);
        let start = own.below(count);
        let mut step = own.below(count).max(1);
        while gcd(step, count) != 1 {
            step += 1;
        }
        ((u128::from(position) * u128::from(step) + u128::from(start)) % u128::from(count)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
