//! Runs one warp: picks the group of lanes to execute, handles control flow and convergence, hands the rest to `ops`.
//!
//! Lanes of a warp have program counters of their own (as since sm_70) and run in groups of equal ones, the lowest
//! first, so that lanes that parted meet again at the first instruction they share. An instruction that needs other
//! lanes waits for them; only when nobody can move is that a fault.

use super::check::taint::{self, check_uses};
use super::check::{Fault, ViolationKind, fault};
use super::coverage::{Coverage, decision};
use super::execute::execute;
use super::spaces::Spaces;
use super::warp::{Group, Lanes, Warp};
use crate::ptx::op::{Op, Word};
use crate::ptx::{Guard, Inst};
use std::sync::LazyLock;

/// Why a warp stopped running for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Its share of instructions is used up.
    Quantum,
    /// All its living lanes are at the barrier instruction at its program counter.
    Barrier,
    /// Every lane has exited.
    Finished,
}

/// Counters of a launch.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) warp_instructions: u64,
    pub(super) lane_instructions: u64,
    pub(super) printed: Vec<String>,
    pub(super) coverage: Coverage,
}

/// Instructions after which lanes that run apart take turns instead of the lowest program counter going first.
const TURN: u32 = 1 << 14;

/// The widest vectors this processor has; none if the environment variable `ATTNFUZZ_VECTORS` is `none`, to see that the
/// results are the same.
pub(super) fn vectors() -> pulp::Arch {
    static VECTORS: LazyLock<pulp::Arch> = LazyLock::new(|| match std::env::var("ATTNFUZZ_VECTORS").as_deref() {
        Ok("none") => pulp::Arch::Scalar,
        _ => pulp::Arch::new(),
    });
    *VECTORS
}

/// A warp about to run.
pub(super) struct Run<'a, 's> {
    pub(super) code: &'a [Inst],
    pub(super) warp: &'a mut Warp,
    pub(super) spaces: &'a mut Spaces<'s>,
    pub(super) counters: &'a mut Counters,
    /// Instructions to run at most.
    pub(super) quantum: u64,
    /// Whether to record coverage.
    pub(super) coverage: bool,
}

impl Run<'_, '_> {
    /// Runs with the widest vectors this processor has.
    pub(super) fn dispatch(&mut self) -> Result<Pause, Box<Fault>> {
        vectors().dispatch(self)
    }

    /// Runs along with the warp's shadow, which takes so much longer that vectors don't matter.
    #[inline(never)]
    pub(super) fn shadowed(&mut self) -> Result<Pause, Box<Fault>> {
        self.spaces.fused = false;
        self.counted::<true>()
    }

    #[inline(always)]
    fn counted<const SHADOW: bool>(&mut self) -> Result<Pause, Box<Fault>> {
        let (mut steps, mut lane_steps) = (0, 0);
        let outcome = run::<SHADOW>(self, (&mut steps, &mut lane_steps));
        self.counters.warp_instructions += steps;
        self.counters.lane_instructions += lane_steps;
        outcome
    }
}

impl pulp::WithSimd for &mut Run<'_, '_> {
    type Output = Result<Pause, Box<Fault>>;

    /// Compiled once for each kind of processor, with the handlers that are inlined here.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Self::Output {
        let vectors = S::F32_LANES > 1;
        self.spaces.fused = vectors;
        self.counted::<false>()
    }
}

#[inline(always)]
fn run<const SHADOW: bool>(
    run: &mut Run<'_, '_>,
    (steps, lane_steps): (&mut u64, &mut u64),
) -> Result<Pause, Box<Fault>> {
    let Run { code, warp, spaces, counters, quantum, coverage } = run;
    let (code, quantum, coverage) = (*code, *quantum, *coverage);
    let mut limit = warp.next_ready();
    spaces.party.warp = warp.index;
    loop {
        if *steps >= quantum {
            return Ok(Pause::Quantum);
        }
        *steps += 1;
        let inst = &code[warp.pc as usize];
        let exec = match inst.guard {
            Guard::Always => warp.mask,
            Guard::If(p) => warp.mask & warp.registers.pred(p),
            Guard::Unless(p) => warp.mask & !warp.registers.pred(p),
        };
        *lane_steps += u64::from(exec.count_ones());
        if coverage {
            counters.coverage.executed(warp.pc, exec);
            if inst.guard != Guard::Always {
                counters.coverage.guard(warp.pc, exec, warp.mask);
            }
        }
        if SHADOW {
            check_uses(inst, warp, exec, spaces)?;
        }
        match &inst.op {
            Op::Branch { target, .. } => {
                branch(warp, exec, *target);
                if !regroup(code, warp)? {
                    return Ok(Pause::Finished);
                }
                limit = warp.next_ready();
                continue;
            }
            Op::BranchIndexed { index, targets } => {
                branch_indexed(warp, exec, *index, targets)?;
                if !regroup(code, warp)? {
                    return Ok(Pause::Finished);
                }
                limit = warp.next_ready();
                continue;
            }
            Op::Exit => {
                warp.live &= !exec;
                warp.mask &= !exec;
                warp.pc += 1;
                if !regroup(code, warp)? {
                    return Ok(Pause::Finished);
                }
                limit = warp.next_ready();
                continue;
            }
            Op::Barrier { .. }
            | Op::WarpSync { .. }
            | Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Redux { .. }
            | Op::Matrix(_)
            | Op::Mma(_)
            | Op::MmaInteger(_)
            | Op::Wmma(_)
            | Op::WmmaAccess(_)
            | Op::MmaDouble(_)
                if exec != 0 =>
            {
                let arrived = converge(code, warp, exec)?;
                if arrived == 0 {
                    if !regroup(code, warp)? {
                        return Ok(Pause::Finished);
                    }
                    limit = warp.next_ready();
                    continue;
                }
                if let Op::Barrier { .. } = &inst.op {
                    return Ok(Pause::Barrier);
                }
                if let Op::WarpSync { mask } = &inst.op {
                    spaces.races.warp_sync(warp.index as usize, arrived, warp.live, warp.registers.word(*mask));
                }
                let lanes = Lanes { mask: arrived, all: arrived == warp.live };
                spaces.party.pc = warp.pc;
                step::<SHADOW>(&inst.op, warp, lanes, spaces, counters)?;
                warp.pc += 1;
                limit = warp.next_ready();
            }
            op => {
                if exec != 0 {
                    let lanes = Lanes { mask: exec, all: exec == warp.live };
                    spaces.party.pc = warp.pc;
                    step::<SHADOW>(op, warp, lanes, spaces, counters)?;
                    if coverage && let Some(decision) = decision(op) {
                        counters.coverage.decision(warp.pc, warp.registers.condition(decision), exec);
                    }
                }
                warp.pc += 1;
            }
        }
        if warp.pc >= limit {
            if !regroup(code, warp)? {
                return Ok(Pause::Finished);
            }
            limit = warp.next_ready();
        }
    }
}

#[inline(always)]
fn step<const SHADOW: bool>(
    op: &Op,
    warp: &mut Warp,
    lanes: Lanes,
    spaces: &mut Spaces<'_>,
    counters: &mut Counters,
) -> Result<(), Box<Fault>> {
    if SHADOW { taint::execute(op, warp, lanes, spaces, counters) } else { execute(op, warp, lanes, spaces, counters) }
}

/// Sends the lanes of `taken` to `target`, the rest of the group to the next instruction.
#[inline]
fn branch(warp: &mut Warp, taken: u32, target: u32) {
    if taken == warp.mask {
        warp.pc = target;
        return;
    }
    if taken != 0 {
        warp.others.push(Group { pc: target, mask: taken, waits: false });
        warp.mask &= !taken;
    }
    warp.pc += 1;
}

fn branch_indexed(warp: &mut Warp, exec: u32, index: Word, targets: &[u32]) -> Result<(), Box<Fault>> {
    let indices = *warp.registers.word(index);
    let lanes = Lanes { mask: exec, all: false };
    for lane in lanes.iter() {
        let Some(target) = targets.get(indices[lane] as usize) else {
            let detail = format!("index {} into a list of {} targets", indices[lane], targets.len());
            return Err(fault(ViolationKind::BranchTarget, lane, detail));
        };
        warp.others.push(Group { pc: *target, mask: 1 << lane, waits: false });
    }
    warp.mask &= !exec;
    warp.pc += 1;
    Ok(())
}

/// Merges groups that met and picks the one to run: the lowest that can. False when no lane lives.
#[inline]
fn regroup(code: &[Inst], warp: &mut Warp) -> Result<bool, Box<Fault>> {
    if warp.others.is_empty() {
        warp.apart = 0;
        return Ok(warp.mask != 0);
    }
    regroup_apart(code, warp)
}

#[inline(never)]
fn regroup_apart(code: &[Inst], warp: &mut Warp) -> Result<bool, Box<Fault>> {
    if warp.mask != 0 {
        let current = Group { pc: warp.pc, mask: warp.mask, waits: false };
        warp.others.push(current);
    }
    warp.mask = 0;
    warp.others.retain(|g| g.mask != 0);
    warp.others.sort_unstable_by_key(|g| (g.waits, g.pc));
    warp.others.dedup_by(|next, kept| {
        let meet = next.pc == kept.pc && next.waits == kept.waits;
        if meet {
            kept.mask |= next.mask;
        }
        meet
    });
    let ready = warp.others.iter().take_while(|g| !g.waits).count();
    warp.apart = if warp.others.len() > 1 { warp.apart.saturating_add(1) } else { 0 };
    let chosen = match ready {
        0 => match unblock(code, warp)? {
            Some(chosen) => chosen,
            None => return Ok(false),
        },
        // Lanes that spin on what others do would starve them; now and then the others go first.
        ready if warp.apart > TURN => (warp.apart / TURN) as usize % ready,
        _ => 0,
    };
    let group = warp.others.remove(chosen);
    warp.pc = group.pc;
    warp.mask = group.mask;
    Ok(true)
}

/// With every group waiting, finds one whose missing lanes have exited. Nobody to wait for is a fault.
fn unblock(code: &[Inst], warp: &mut Warp) -> Result<Option<usize>, Box<Fault>> {
    for (index, group) in warp.others.iter().enumerate() {
        if able(code, warp, group.pc, group.mask)? != 0 {
            return Ok(Some(index));
        }
    }
    // A warp operation names the lanes it misses, so it says more than a barrier that others wait at.
    let is_barrier = |g: &Group| matches!(code[g.pc as usize].op, Op::Barrier { .. });
    let operation = warp.others.iter().position(|g| !is_barrier(g));
    let primary = operation.unwrap_or(0);
    let Some(group) = warp.others.get(primary).copied() else {
        return Ok(None);
    };
    let others: Vec<Group> = warp.others.iter().copied().filter(|g| *g != group).collect();
    let elsewhere: Vec<String> =
        others.iter().map(|g| format!("lanes {:#010x} at ptx {}", g.mask, code[g.pc as usize].line)).collect();
    let elsewhere = elsewhere.join(", ");
    let (kind, what) = match operation {
        Some(_) => (ViolationKind::AbsentLane, "a warp operation"),
        None => (ViolationKind::DivergentBarrier, "a barrier"),
    };
    let detail = format!("lanes {:#010x} wait at {what} for lanes that never come: {elsewhere}", group.mask);
    warp.pc = group.pc;
    let mut fault = fault(kind, group.mask.trailing_zeros() as usize, detail);
    fault.other = others.first().map(|g| (g.pc, warp.index, g.mask.trailing_zeros()));
    Err(fault)
}

/// Brings the lanes together that the instruction at the program counter needs: those of the running group for which it
/// is executed, and those already waiting there. Returns the lanes that can go, now the running group, or 0.
fn converge(code: &[Inst], warp: &mut Warp, exec: u32) -> Result<u32, Box<Fault>> {
    let pc = warp.pc;
    if exec != warp.mask {
        warp.others.push(Group { pc: pc + 1, mask: warp.mask & !exec, waits: false });
        warp.mask = exec;
    }
    if !warp.others.is_empty() {
        let mut met = 0;
        warp.others.retain(|g| {
            let here = g.waits && g.pc == pc;
            if here {
                met |= g.mask;
            }
            !here
        });
        warp.mask |= met;
    }
    let able = able(code, warp, pc, warp.mask)?;
    if able != warp.mask {
        warp.others.push(Group { pc, mask: warp.mask & !able, waits: true });
        warp.mask = able;
    }
    Ok(able)
}

/// Which of the lanes `here`, all at `pc`, have everyone with them that the instruction needs.
#[inline]
fn able(code: &[Inst], warp: &Warp, pc: u32, here: u32) -> Result<u32, Box<Fault>> {
    let mask = match &code[pc as usize].op {
        // Without `.aligned` the others may be at other barrier instructions of the same kind.
        Op::Barrier { kind, aligned: false, .. } if here != warp.live => {
            let meets = |g: &Group| match &code[g.pc as usize].op {
                Op::Barrier { kind: other, aligned, .. } => {
                    g.waits && !aligned && std::mem::discriminant(kind) == std::mem::discriminant(other)
                }
                _ => false,
            };
            return Ok(if warp.others.iter().all(meets) { here } else { 0 });
        }
        Op::Barrier { .. }
        | Op::Matrix(_)
        | Op::Mma(_)
        | Op::MmaInteger(_)
        | Op::MmaDouble(_)
        | Op::Wmma(_)
        | Op::WmmaAccess(_) => {
            return Ok(if here == warp.live { here } else { 0 });
        }
        Op::WarpSync { mask }
        | Op::Shuffle { mask, .. }
        | Op::Vote { mask, .. }
        | Op::Match { mask, .. }
        | Op::Redux { mask, .. } => warp.registers.word(*mask),
        _ => return Ok(here),
    };
    let first = mask[(here.trailing_zeros() as usize).min(31)];
    if here == warp.live && first & here == here && mask.iter().all(|m| *m == first) {
        return Ok(here);
    }
    let mut able = 0;
    for lane in (Lanes { mask: here, all: false }).iter() {
        let own = mask[lane];
        if own >> lane & 1 == 0 {
            let detail = format!("lane {lane} isn't in its own mask {own:#010x}");
            return Err(fault(ViolationKind::WarpMask, lane, detail));
        }
        if own & warp.live & !here == 0 {
            able |= 1 << lane;
        }
    }
    for lane in (Lanes { mask: able, all: false }).iter() {
        let own = mask[lane];
        let differing = (Lanes { mask: own & able, all: false }).iter().find(|other| mask[*other] != own);
        if let Some(other) = differing {
            let detail = format!(
                "lane {lane} names lane {other} in its mask {own:#010x}, which names {:#010x} itself",
                mask[other]
            );
            return Err(fault(ViolationKind::WarpMask, lane, detail));
        }
    }
    Ok(able)
}
