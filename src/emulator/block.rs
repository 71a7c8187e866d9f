//! A resident block: its warps, its shared memory and what the checks know of it.

use super::barrier::Barriers;
use super::bitmap::BitMap;
use super::check::blocks::Synchronised;
use super::check::race::{Party, SharedRaces};
use super::check::taint::Actor;
use super::check::{Fault, ViolationKind, fault};
use super::grid::Common;
use super::memory::Segment;
use super::ops::mbarrier::Arrivals;
use super::random::Random;
use super::run::{Pause, Run};
use super::spaces::{Pending, Spaces};
use super::warp::{BlockContext, LANES, Warp};

/// One block between its start and its end. Its allocations serve later blocks.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) context: BlockContext,
    /// In the order of the launch.
    pub(super) position: u64,
    warps: Vec<Warp>,
    shared: Segment,
    barriers: Barriers,
    mbarriers: Arrivals,
    races: SharedRaces,
    synchronised: Synchronised,
    pending: Option<Pending>,
    random: Random,
}

/// What a block's turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Finished,
    /// Its share of instructions is used up.
    Parked,
}

/// A broken rule: the instruction and the warp, and what it is.
#[derive(Debug)]
pub(super) struct Halt {
    pub(super) pc: u32,
    pub(super) warp: u32,
    pub(super) fault: Box<Fault>,
}

impl Block {
    /// Becomes the block at a position in the launch's order.
    pub(super) fn start(&mut self, common: &Common<'_>, position: u64) {
        let context = common.context(position);
        let warps = context.threads().div_ceil(LANES as u32) as usize;
        if self.warps.len() != warps {
            self.warps.resize_with(warps, Warp::default);
        }
        self.context = context;
        self.position = position;
        for (warp, index) in self.warps.iter_mut().zip(0..) {
            warp.prepare(common.program);
            warp.start(common.program, &context, index);
            let by = Actor { warp: index, block: position, ..Actor::default() };
            warp.shadow.start(common.program, by, common.options.checks.uninitialised);
        }
        let shared_bytes = common.shared_bytes();
        if self.shared.name.is_empty() {
            "shared memory".clone_into(&mut self.shared.name);
            self.shared.writable = true;
        }
        // What a block finds there must not depend on which ran before.
        self.shared.bytes.fill(0);
        if self.shared.bytes.len() != shared_bytes {
            self.shared.bytes.resize(shared_bytes, 0);
            self.shared.initialised = BitMap::new(shared_bytes, false);
            self.shared.written = BitMap::new(shared_bytes, false);
        }
        self.shared.initialised.clear();
        self.shared.written.clear();
        for variable in common.program.shared_variables().iter().filter(|v| v.is_zeroed) {
            self.shared.initialised.insert(variable.offset, variable.size_bytes);
        }
        self.barriers = Barriers::default();
        self.mbarriers.clear();
        self.races.start_block(shared_bytes, common.shared_cell_bytes, warps);
        self.synchronised = Synchronised::of_block(position);
        self.pending = None;
        self.random = Random::of_block(common.options.schedule_seed, position);
    }

    /// The next block that it becomes may be one of another program.
    pub(super) fn forget_program(&mut self) {
        self.warps.iter_mut().for_each(|warp| warp.is_prepared = false);
    }

    /// Runs until every warp has exited, or for `share` warp instructions and the rest of a warp's turn.
    pub(super) fn run(&mut self, common: &mut Common<'_>, share: u64) -> Result<Turn, Halt> {
        common.global_races.enter(std::mem::take(&mut self.synchronised));
        let outcome = self.turns(common, share);
        self.synchronised = common.global_races.leave();
        outcome
    }

    fn turns(&mut self, common: &mut Common<'_>, share: u64) -> Result<Turn, Halt> {
        let end = common.counters.warp_instructions.saturating_add(share);
        while common.counters.warp_instructions < end {
            let is_able = |(_, w): &(usize, &Warp)| w.live != 0 && w.at_barrier.is_none();
            let count = self.warps.iter().enumerate().filter(is_able).count();
            if count == 0 {
                return self.end();
            }
            let drawn = self.random.below(count as u64) as usize;
            let chosen = self.warps.iter().enumerate().filter(is_able).nth(drawn).map_or(0, |(index, _)| index);
            self.turn(common, chosen).map_err(|fault| self.halt(chosen, fault))?;
        }
        Ok(Turn::Parked)
    }

    /// Lets one warp run for a while.
    fn turn(&mut self, common: &mut Common<'_>, chosen: usize) -> Result<(), Box<Fault>> {
        let budget = common.options.instruction_budget;
        let left = budget.saturating_sub(common.counters.warp_instructions);
        if left == 0 {
            let detail = format!("more than {budget} warp instructions: the kernel hangs");
            let lane = self.warps[chosen].mask.trailing_zeros() as usize;
            return Err(fault(ViolationKind::BudgetExhausted, lane, detail));
        }
        let quantum = (256 + self.random.below(1792)).min(left);
        let warp = &mut self.warps[chosen];
        let mut local = std::mem::take(&mut warp.local);
        let mut spaces = Spaces {
            global: &mut *common.global,
            module: &mut common.module,
            constant: &mut common.constant,
            shared: &mut self.shared,
            shared_pieces: &common.shared_pieces,
            local: &mut local,
            local_bytes: common.program.local_bytes() as u64,
            params: &mut common.params,
            checks: common.options.checks,
            tensor_core: common.tensor_core,
            perturb: common.options.perturb,
            fused: false,
            races: &mut self.races,
            mbarriers: &mut self.mbarriers,
            global_races: &mut *common.global_races,
            party: Party::default(),
            taint: &mut common.taint,
            block: self.position,
            pending: &mut self.pending,
        };
        let code = common.program.code();
        let (counters, coverage) = (&mut common.counters, common.options.coverage);
        let mut run = Run { code, warp, spaces: &mut spaces, counters, quantum, coverage };
        let shadowed = run.warp.shadow.is_tainted();
        let mut outcome = if shadowed { run.shadowed() } else { run.dispatch() };
        if outcome.as_ref().is_err_and(|fault| fault.needs_shadow) {
            outcome = run.shadowed();
        }
        warp.local = local;
        match outcome? {
            Pause::Quantum => Ok(()),
            Pause::Barrier => self.barriers.arrive(code, &mut self.warps, chosen, &mut self.races),
            Pause::Finished => {
                self.barriers.after_exit(code, &mut self.warps, chosen, &mut self.races);
                Ok(())
            }
        }
    }

    /// No warp can go on: all have exited, or some wait for ever.
    fn end(&mut self) -> Result<Turn, Halt> {
        match (self.barriers.stuck(&self.warps), self.pending.take()) {
            (Some((warp, fault)), pending) => {
                self.pending = pending;
                Err(self.halt(warp, fault))
            }
            (None, Some(Pending { pc, warp, fault })) => Err(Halt { pc, warp, fault }),
            (None, None) => Ok(Turn::Finished),
        }
    }

    /// Adds where it happened to what a handler found; what was held back goes first.
    #[cold]
    fn halt(&self, warp: usize, fault: Box<Fault>) -> Halt {
        match &self.pending {
            Some(pending) if !fault.kind.is_race() => {
                Halt { pc: pending.pc, warp: pending.warp, fault: pending.fault.clone() }
            }
            _ => Halt { pc: self.warps[warp].pc, warp: warp as u32, fault },
        }
    }
}
