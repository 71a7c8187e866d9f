//! The sixteen named barriers of a block, and the one of its cluster, which is the block alone.

use super::check::race::{Horizon, SharedRaces, join};
use super::check::{Fault, ViolationKind, fault};
use super::warp::{LANES, Lanes, Warp};
use crate::ptx::Inst;
use crate::ptx::op::{BarrierKind, BarrierReduction, Op};

/// State of a block's barriers.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    barriers: [Barrier; 16],
    /// What warps did before they exited: later barriers come after it.
    exited: Horizon,
    cluster: ClusterBarrier,
}

/// A barrier of two instructions: arriving doesn't wait, and waiting is for the phase that a warp arrived in.
#[derive(Debug, Default)]
struct ClusterBarrier {
    /// Warps that have arrived in this phase.
    arrived: u64,
    /// Warps that have arrived in a phase and not waited yet.
    owing: u64,
    waiting: Vec<usize>,
    horizon: Horizon,
    /// The horizon of the last complete phase.
    complete: Horizon,
}

#[derive(Debug, Default)]
struct Barrier {
    /// Threads that have arrived, whole warps.
    arrived: u32,
    /// Threads to wait for; `None` for all that haven't exited.
    expected: Option<u32>,
    waiting: Vec<usize>,
    ayes: u32,
    nays: u32,
    /// What those that arrived have done, for those that leave.
    horizon: Horizon,
}

impl Barriers {
    /// A warp is at a barrier instruction with all its living lanes.
    pub(super) fn arrive(
        &mut self,
        code: &[Inst],
        warps: &mut [Warp],
        chosen: usize,
        races: &mut SharedRaces,
    ) -> Result<(), Box<Fault>> {
        let warp = &mut warps[chosen];
        let Op::Barrier { kind, .. } = &code[warp.pc as usize].op else {
            return Ok(());
        };
        if matches!(kind, BarrierKind::ClusterArrive | BarrierKind::ClusterWait) {
            return self.arrive_cluster(*kind == BarrierKind::ClusterWait, warps, chosen, races);
        }
        let groups = groups(warp);
        let lane = warp.mask.trailing_zeros() as usize;
        let (mut named, mut differing) = (None, None);
        let (mut ayes, mut nays, mut waits) = (0, 0, true);
        for (pc, mask) in &groups {
            let Op::Barrier { kind, id, count, .. } = &code[*pc as usize].op else {
                return Ok(());
            };
            let (id, ids_differ) = uniform(warp.registers.word(*id), *mask);
            let expected = count.map(|count| uniform(warp.registers.word(count), *mask).0);
            if ids_differ || *named.get_or_insert((id, expected)) != (id, expected) {
                differing = Some((*pc, warp.index, mask.trailing_zeros()));
            }
            if let BarrierKind::Reduce { source, .. } = kind {
                let bits = warp.registers.condition(*source);
                ayes += (bits & mask).count_ones();
                nays += (!bits & mask).count_ones();
            }
            waits = *kind != BarrierKind::Arrive;
        }
        let Some((id, expected)) = named.filter(|_| differing.is_none()) else {
            let mut fault = fault(ViolationKind::DivergentBarrier, lane, "lanes of one warp name different barriers");
            fault.other = differing;
            return Err(fault);
        };
        if let Some(n) = expected
            && (n == 0 || n % LANES as u32 != 0)
        {
            let detail = format!("a barrier for {n} threads, expected a multiple of 32");
            return Err(fault(ViolationKind::BarrierDeadlock, lane, detail));
        }
        let Some(barrier) = self.barriers.get_mut(id as usize) else {
            return Err(fault(ViolationKind::BarrierDeadlock, lane, format!("barrier {id}, expected 0 to 15")));
        };
        if barrier.arrived > 0 && barrier.expected != expected {
            let text = |n: Option<u32>| n.map_or("all threads".to_owned(), |n| format!("{n} threads"));
            let detail =
                format!("barrier {id} for {} while others wait at it for {}", text(expected), text(barrier.expected));
            let mut fault = fault(ViolationKind::BarrierDeadlock, lane, detail);
            fault.other = barrier.waiting.first().map(|w| (warps[*w].pc, *w as u32, 0));
            return Err(fault);
        }
        barrier.expected = expected;
        join(&mut barrier.horizon, &races.release(chosen));
        barrier.arrived += LANES as u32;
        barrier.ayes += ayes;
        barrier.nays += nays;
        if waits {
            warp.at_barrier = Some(warp.pc);
            barrier.waiting.push(chosen);
        } else {
            leave(warp);
        }
        self.release(code, warps, races);
        Ok(())
    }

    fn arrive_cluster(
        &mut self,
        waits: bool,
        warps: &mut [Warp],
        chosen: usize,
        races: &mut SharedRaces,
    ) -> Result<(), Box<Fault>> {
        let (warp, bit) = (&mut warps[chosen], 1u64 << chosen);
        let cluster = &mut self.cluster;
        if waits != (cluster.owing & bit != 0) {
            let detail = if waits {
                "a warp waits for its cluster without having arrived"
            } else {
                "a warp arrives at its cluster's barrier again without having waited"
            };
            return Err(fault(ViolationKind::BarrierDeadlock, warp.mask.trailing_zeros() as usize, detail));
        }
        if !waits {
            cluster.arrived |= bit;
            cluster.owing |= bit;
            join(&mut cluster.horizon, &races.release(chosen));
            warp.pc += 1;
        } else if cluster.arrived & bit != 0 {
            warp.at_barrier = Some(warp.pc);
            cluster.waiting.push(chosen);
        } else {
            cluster.owing &= !bit;
            warp.pc += 1;
            races.acquire(chosen, &cluster.complete);
        }
        self.release_cluster(warps, races);
        Ok(())
    }

    fn release_cluster(&mut self, warps: &mut [Warp], races: &mut SharedRaces) {
        let cluster = &mut self.cluster;
        let missing = |(i, warp): (usize, &Warp)| warp.live != 0 && cluster.arrived >> i & 1 == 0;
        if cluster.arrived == 0 || warps.iter().enumerate().any(missing) {
            return;
        }
        join(&mut cluster.horizon, &self.exited);
        cluster.complete = std::mem::take(&mut cluster.horizon);
        cluster.arrived = 0;
        for waiting in std::mem::take(&mut cluster.waiting) {
            cluster.owing &= !(1 << waiting);
            warps[waiting].pc += 1;
            warps[waiting].at_barrier = None;
            races.acquire(waiting, &cluster.complete);
        }
    }

    /// A warp has exited: those that wait for all may have all.
    pub(super) fn after_exit(&mut self, code: &[Inst], warps: &mut [Warp], chosen: usize, races: &mut SharedRaces) {
        join(&mut self.exited, &races.release(chosen));
        self.release(code, warps, races);
    }

    /// The block can't go on: the first warp that still waits, if any.
    pub(super) fn stuck(&self, warps: &[Warp]) -> Option<(usize, Box<Fault>)> {
        let first = warps.iter().position(|w| w.at_barrier.is_some())?;
        let others: Vec<usize> = (first + 1..warps.len()).filter(|i| warps[*i].at_barrier.is_some()).collect();
        let exited = warps.iter().filter(|w| w.live == 0).count();
        let detail = format!("{} warps wait at barriers that can't complete, {exited} have exited", others.len() + 1);
        let mut fault = fault(ViolationKind::BarrierDeadlock, warps[first].mask.trailing_zeros() as usize, detail);
        let elsewhere = others.iter().find(|i| warps[**i].pc != warps[first].pc).or(others.first());
        fault.other = elsewhere.map(|i| (warps[*i].pc, *i as u32, warps[*i].mask.trailing_zeros()));
        Some((first, fault))
    }

    fn release(&mut self, code: &[Inst], warps: &mut [Warp], races: &mut SharedRaces) {
        self.release_cluster(warps, races);
        let living = warps.iter().filter(|w| w.live != 0).count() as u32 * LANES as u32;
        for barrier in &mut self.barriers {
            if barrier.arrived == 0 || barrier.arrived < barrier.expected.unwrap_or(living) {
                continue;
            }
            for waiting in std::mem::take(&mut barrier.waiting) {
                let warp = &mut warps[waiting];
                for (pc, mask) in groups(warp) {
                    let Op::Barrier { kind: BarrierKind::Reduce { reduction, .. }, .. } = &code[pc as usize].op else {
                        continue;
                    };
                    let lanes = Lanes { mask, all: mask == warp.live };
                    let bits = |holds: bool| if holds { u32::MAX } else { 0 };
                    match reduction {
                        BarrierReduction::And { d } => warp.registers.set_pred(*d, lanes, bits(barrier.nays == 0)),
                        BarrierReduction::Or { d } => warp.registers.set_pred(*d, lanes, bits(barrier.ayes > 0)),
                        BarrierReduction::Popc { d } => warp.registers.set_word(*d, lanes, [barrier.ayes; LANES]),
                    }
                }
                leave(warp);
                warp.at_barrier = None;
                races.acquire(waiting, &barrier.horizon);
                // A barrier for all waits for exits too; a counted one knows only those it counts.
                if barrier.expected.is_none() {
                    races.acquire(waiting, &self.exited);
                }
            }
            *barrier = Barrier::default();
        }
    }
}

/// Lanes of a warp that is at a barrier, by instruction: several only without `.aligned`.
fn groups(warp: &Warp) -> Vec<(u32, u32)> {
    let others = warp.others.iter().map(|g| (g.pc, g.mask));
    std::iter::once((warp.pc, warp.mask)).chain(others).collect()
}

fn leave(warp: &mut Warp) {
    warp.pc += 1;
    for group in &mut warp.others {
        group.pc += 1;
        group.waits = false;
    }
}

/// The value in the first of some lanes, and whether another lane has a different one.
fn uniform(values: &[u32; LANES], mask: u32) -> (u32, bool) {
    let first = values[(mask.trailing_zeros() as usize).min(LANES - 1)];
    (first, (Lanes { mask, all: false }).iter().any(|lane| values[lane] != first))
}
