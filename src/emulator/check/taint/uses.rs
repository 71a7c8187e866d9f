//! Where undefined data breaks a rule.

use super::super::violation::{Fault, ViolationKind, fault};
use super::Origin;
use crate::emulator::spaces::{Pending, Spaces};
use crate::emulator::warp::{Lanes, Warp};
use crate::ptx::op::{Op, Role, Slot};
use crate::ptx::{Guard, Inst};

/// Objects to undefined guards, addresses and whatever else decides what the lanes `exec` are about to do.
#[inline(never)]
pub(in crate::emulator) fn check_uses(
    inst: &Inst,
    warp: &mut Warp,
    exec: u32,
    spaces: &mut Spaces<'_>,
) -> Result<(), Box<Fault>> {
    if let Guard::If(pred) | Guard::Unless(pred) = inst.guard {
        let what = if matches!(inst.op, Op::Branch { .. }) { "the branch" } else { "the guard" };
        check(warp, pred.into(), warp.mask, what, spaces)?;
    }
    if exec == 0 {
        return Ok(());
    }
    let mut found = Ok(());
    inst.op.operands(&mut |role, slot| {
        let what = match role {
            Role::Address => "the address",
            Role::Control => "what the instruction does",
            Role::Result | Role::Source | Role::Exchanged => return,
        };
        if found.is_ok() {
            found = check(warp, slot, exec, what, spaces);
        }
    });
    if let Op::Barrier { .. } = inst.op {
        // Executed when all have arrived.
        warp.shadow.clear_results(&inst.op, Lanes { mask: exec, all: false });
    }
    found
}

fn check(warp: &Warp, slot: Slot, lanes: u32, what: &str, spaces: &mut Spaces<'_>) -> Result<(), Box<Fault>> {
    let Some(undefined) = warp.shadow.undefined(slot) else { return Ok(()) };
    let mut lanes = Lanes { mask: lanes, all: false }.iter();
    match lanes.find(|lane| undefined.bits[*lane] != 0) {
        Some(lane) => raise(spaces, warp.pc, lane, what, undefined.origins[lane]),
        None => Ok(()),
    }
}

/// A violation, held back where a race may turn out to be its cause.
pub(super) fn raise(
    spaces: &mut Spaces<'_>,
    pc: u32,
    lane: usize,
    what: &str,
    origin: Origin,
) -> Result<(), Box<Fault>> {
    if spaces.pending.is_some() {
        return Ok(());
    }
    let data = spaces.describe(origin);
    let fault = report(lane, &format!("{what} depends on {data}"), origin, spaces.block);
    let may_race = origin.from.is_some_and(|place| spaces.may_race(place));
    if !may_race {
        return Err(fault);
    }
    *spaces.pending = Some(Pending { pc, warp: spaces.party.warp, fault });
    Ok(())
}

/// A violation by a lane of the given block, with the data's origin as the second party.
#[cold]
pub(in crate::emulator) fn report(lane: usize, detail: &str, origin: Origin, block: u64) -> Box<Fault> {
    let mut fault = fault(ViolationKind::UninitialisedRead, lane, detail);
    fault.other = Some((origin.by.pc, origin.by.warp, origin.by.lane));
    fault.other_position = (origin.by.block != block).then_some(origin.by.block);
    fault
}
