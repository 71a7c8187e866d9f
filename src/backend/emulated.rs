//! The emulator backend: the kernel's PTX on the CPU, under checks.

use super::plan::{Initialised, Plan, PlannedLaunch};
use super::{Backend, BackendError, BackendKind, Kernel, Run};
use crate::case::Case;
use crate::emulator::{
    self, BitMap, Checks, Coverage, Memory, Options, RegionId, Stats, Stop, Violation, ViolationKind,
};
use crate::outcome::{Fault, FaultKind, Outcome, Site};
use crate::ptx::Program;
use std::cell::Cell;
use std::collections::BTreeSet;

/// Runs kernels in the PTX emulator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Emulator;

/// Warp instructions a launch may take: this, and [`BUDGET_PER_ELEMENT`] for each query element times key.
const BUDGET_BASE: u64 = 50_000_000;
const BUDGET_PER_ELEMENT: u64 = 2000;

impl Backend for Emulator {
    fn kind(&self) -> BackendKind {
        BackendKind::Emulator
    }

    fn describe(&self) -> String {
        "emulator".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        Ok(self.observe(kernel, case, run, Watch::default())?.outcome)
    }

    fn run_each(&self, kernel: &Kernel, case: &Case, runs: &[Run]) -> Result<Vec<Outcome>, BackendError> {
        self.run_each_recorded(kernel, case, runs, None)
    }
}

/// Takes what a launch of a program has reached.
pub(super) type Record<'r> = &'r mut dyn FnMut(&Program, &Coverage);

/// How to watch a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Which checks are on.
    pub checks: Checks,
    /// Whether to tell which lines ran.
    pub lines: bool,
    /// Warp instructions of a launch that count as a hang, if fewer than the usual limit.
    pub hang_after: Option<u64>,
}

/// A run as it was watched.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What the run left.
    pub outcome: Outcome,
    /// Instructions it took.
    pub stats: Stats,
    /// Lines that ran, if they were asked for.
    pub lines: Lines,
}

/// Lines of PTX.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Those with an instruction that some lane executed.
    pub executed: BTreeSet<u32>,
    /// Those with an instruction that some lane came to, be it that its guard held for none.
    pub reached: BTreeSet<u32>,
    /// Outcomes of guards and comparisons: eight times the line, and which one as [`Coverage`] numbers them.
    pub outcomes: BTreeSet<u32>,
}

impl Lines {
    fn add(&mut self, program: &Program, coverage: &Coverage) {
        let code = program.code();
        self.outcomes.extend(coverage.points().map(|point| code[(point / 8) as usize].line * 8 + point % 8));
        for (pc, inst) in program.code().iter().enumerate() {
            if coverage.is_executed(pc) {
                self.executed.insert(inst.line);
            }
            if coverage.is_reached(pc) {
                self.reached.insert(inst.line);
            }
        }
    }
}

impl Emulator {
    /// Runs every step of `case` once under `checks`, and counts the instructions that took.
    pub fn measure(
        &self,
        kernel: &Kernel,
        case: &Case,
        run: Run,
        checks: Checks,
    ) -> Result<(Outcome, Stats), BackendError> {
        let observed = self.observe(kernel, case, run, Watch { checks, ..Watch::default() })?;
        Ok((observed.outcome, observed.stats))
    }

    /// The same as [`Backend::run_each`], and hands `record` what each launch of the first run has reached.
    pub(super) fn run_each_recorded(
        &self,
        kernel: &Kernel,
        case: &Case,
        runs: &[Run],
        mut record: Option<Record<'_>>,
    ) -> Result<Vec<Outcome>, BackendError> {
        let mut outcomes = Vec::with_capacity(runs.len());
        let mut first: Option<Plan> = None;
        for &run in runs {
            // Making the inputs takes as long as running a small kernel: once is enough.
            let plan = match &first {
                Some(first) => first.under(case, run.poison),
                None => first.insert(Plan::new(kernel, case, run)?).clone(),
            };
            outcomes.push(carry_out(kernel, case, plan, run, Watch::default(), record.take())?.0);
            if matches!(outcomes.last(), Some(Outcome::Fault(_))) {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Runs every step of `case` once, and tells what `watch` asks for.
    pub fn observe(&self, kernel: &Kernel, case: &Case, run: Run, watch: Watch) -> Result<Observed, BackendError> {
        let mut lines = Lines::default();
        let mut record = |program: &Program, coverage: &Coverage| lines.add(program, coverage);
        let record: Option<Record<'_>> = if watch.lines { Some(&mut record) } else { None };
        let (outcome, stats) = carry_out(kernel, case, Plan::new(kernel, case, run)?, run, watch, record)?;
        Ok(Observed { outcome, stats, lines })
    }
}

/// Carries out a plan, and hands `record` what each launch has reached.
fn carry_out(
    kernel: &Kernel,
    case: &Case,
    mut plan: Plan,
    run: Run,
    watch: Watch,
    record: Option<Record<'_>>,
) -> Result<(Outcome, Stats), BackendError> {
    // Used again for the next run of the thread: what it holds besides regions is worth keeping.
    let mut memory = MEMORY.take();
    memory.clear();
    let mut regions: Vec<RegionId> = Vec::with_capacity(plan.regions.len());
    for region in &mut plan.regions {
        for address in std::mem::take(&mut region.addresses) {
            address.write(&mut region.bytes, |index| memory.address(regions[index]));
        }
        regions.push(map(&mut memory, region));
    }
    let options = Options {
        schedule_seed: u64::from(run.schedule_seed),
        instruction_budget: watch.hang_after.map_or(budget(case), |limit| limit.min(budget(case))),
        checks: watch.checks,
        coverage: record.is_some(),
        perturb: run.perturb.map(u64::from),
        ..Options::default()
    };
    let done = run_launches(kernel, case, &plan, (&mut memory, &regions), &options, record);
    MEMORY.set(memory);
    done
}

thread_local! {
    static MEMORY: Cell<Memory> = Cell::new(Memory::new());
}

/// Runs the plan's launches in memory where its regions are mapped.
fn run_launches(
    kernel: &Kernel,
    case: &Case,
    plan: &Plan,
    (memory, regions): (&mut Memory, &[RegionId]),
    options: &Options,
    mut record: Option<Record<'_>>,
) -> Result<(Outcome, Stats), BackendError> {
    let mut stats = Stats::default();
    let code = kernel.code_for(case)?;
    for launch in plan.steps.iter().flatten() {
        if launch.config.cluster != [1; 3] {
            let [x, y, z] = launch.config.cluster;
            let why = format!("clusters of {x} x {y} x {z} blocks of {}: only those of one block", launch.entry);
            return Err(BackendError::Unsupported(why));
        }
        let program = code.program(&launch.entry)?;
        let (launched, outcome) = execute(program, memory, launch, regions, options);
        stats.warp_instructions += launched.warp_instructions;
        stats.lane_instructions += launched.lane_instructions;
        if let Some(record) = &mut record {
            record(program, &launched.coverage);
        }
        let fault = match outcome {
            Ok(()) => continue,
            Err(Stop::Violation(violation)) => fault(&violation),
            Err(Stop::Unsupported { detail }) => return Err(BackendError::Unsupported(detail)),
            Err(Stop::BadLaunch(why)) => Fault::new(FaultKind::LaunchFailed, why),
        };
        return Ok((Outcome::Fault(fault), stats));
    }
    for (index, &id) in regions.iter().enumerate() {
        let first_clear = |range: std::ops::Range<usize>| memory.written(id).first_clear(range.start, range.len());
        if let Some(byte) = plan.unwritten(case, index, first_clear) {
            let detail = format!("{} was never written", plan.element(case, index, byte));
            let fault = Fault::new(FaultKind::NotWritten, detail);
            return Ok((Outcome::Fault(fault), stats));
        }
        if let Some(fault) = plan.stray(case, index, plan.poison, memory.bytes(id)) {
            return Ok((Outcome::Fault(fault), stats));
        }
    }
    let output = plan.output(case, plan.poison, |index| memory.bytes(regions[index]).to_vec());
    Ok((Outcome::Output(output), stats))
}

/// Maps a region, which gives its bytes away.
fn map(memory: &mut Memory, region: &mut super::plan::Region) -> RegionId {
    let initialised = match &region.initialised {
        Initialised::All => emulator::Initialised::All,
        Initialised::Nothing => emulator::Initialised::None,
        Initialised::Ranges(ranges) => {
            let mut map = BitMap::new(region.bytes.len(), false);
            ranges.iter().for_each(|range| map.insert(range.start, range.len()));
            emulator::Initialised::These(map)
        }
    };
    memory.map(emulator::Region {
        name: region.name.clone(),
        bytes: std::mem::take(&mut region.bytes),
        initialised,
        writable: region.writable,
        misalign: 0,
    })
}

fn execute(
    program: &Program,
    memory: &mut Memory,
    launch: &PlannedLaunch,
    regions: &[RegionId],
    options: &Options,
) -> (Stats, Result<(), Stop>) {
    let mut params = vec![0; program.params().iter().map(|p| p.offset + p.size_bytes).max().unwrap_or(0)];
    let args = launch.arg_bytes(|region| memory.address(regions[region]));
    for (param, arg) in program.params().iter().zip(args) {
        params[param.offset..][..param.size_bytes].copy_from_slice(&arg);
    }
    let launch = emulator::Launch {
        grid: launch.config.grid,
        block: launch.config.block,
        dynamic_shared_bytes: launch.config.shared_bytes as usize,
        params: &params,
    };
    emulator::observe(program, memory, &launch, options)
}

fn budget(case: &Case) -> u64 {
    BUDGET_BASE + BUDGET_PER_ELEMENT * elements_times_keys(case)
}

/// How much work a case is: the elements of every query times the keys that its request has at last.
pub fn elements_times_keys(case: &Case) -> u64 {
    let shape = &case.shape;
    let keys: u64 = (0..shape.requests.len())
        .map(|r| u64::from(case.past_len_at(r, case.steps)) * u64::from(shape.requests[r].q_len))
        .sum();
    keys * u64::from(shape.num_q_heads()) * u64::from(shape.head_dim.max(shape.v_head_dim))
}

fn fault(violation: &Violation) -> Fault {
    Fault {
        kind: kind(violation.kind),
        detail: violation.detail.clone(),
        site: Some(site(&violation.site)),
        other: violation.other.as_ref().map(site),
    }
}

fn site(site: &emulator::Site) -> Site {
    Site {
        ptx_line: Some(site.ptx_line),
        instruction: site.instruction.clone(),
        source: site.source.as_ref().map(|(file, line)| format!("{file}:{line}")),
        block: Some(site.block),
        warp: Some(site.warp),
        lane: Some(site.lane),
    }
}

fn kind(kind: ViolationKind) -> FaultKind {
    match kind {
        ViolationKind::OutOfBounds => FaultKind::OutOfBounds,
        ViolationKind::Misaligned => FaultKind::Misaligned,
        ViolationKind::ReadOnlyWritten => FaultKind::InputModified,
        ViolationKind::UninitialisedRead => FaultKind::UninitialisedRead,
        ViolationKind::DivergentBarrier => FaultKind::DivergentBarrier,
        ViolationKind::BarrierDeadlock => FaultKind::Deadlock,
        ViolationKind::AbsentLane | ViolationKind::WarpMask => FaultKind::WarpMask,
        ViolationKind::SharedRace | ViolationKind::GlobalRace | ViolationKind::NonCoherentRead => FaultKind::Race,
        ViolationKind::Trap | ViolationKind::AssertFail | ViolationKind::BranchTarget => FaultKind::Trap,
        ViolationKind::BudgetExhausted => FaultKind::Hang,
    }
}
