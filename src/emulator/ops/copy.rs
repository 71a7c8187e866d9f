//! `cp.async`: bytes leave at once, arrive at the wait.
//!
//! From issue to wait the destination counts as uninitialised, for the issuing thread and for all others; the race check
//! sees a write at both ends. Source bytes are read at issue: a source that changes in between isn't noticed.

use super::memory::effective;
use crate::emulator::check::Fault;
use crate::emulator::check::taint::Origin;
use crate::emulator::spaces::{Request, Spaces};
use crate::emulator::warp::{Copies, Lanes, PendingCopy, Registers};
use crate::ptx::Space;
use crate::ptx::op::{AccessSpace, CopyAsync};

pub(in crate::emulator) fn issue(
    spaces: &mut Spaces<'_>,
    registers: &Registers,
    copies: &mut Copies,
    lanes: Lanes,
    copy: &CopyAsync,
) -> Result<(), Box<Fault>> {
    let size = usize::from(copy.bytes);
    let addresses = effective(registers, copy.to);
    let mut to = Request { space: AccessSpace::Is(Space::Shared), addresses, size, verb: "wrote" };
    let to = spaces.resolve(lanes, &mut to)?;
    spaces.mark_written(lanes, &to, size)?;
    let addresses = effective(registers, copy.from);
    let mut issued = Vec::new();
    // All sources first: an instruction that reads what nobody wrote is executed again with the warp's shadow.
    for lane in lanes.iter() {
        let one = Lanes { mask: 1 << lane, all: false };
        let wanted = copy.source_bytes.map_or(size, |n| (registers.word(n)[lane] as usize).min(size));
        let (mut bytes, mut undefined, mut origin) = ([0; 16], 0, Origin::default());
        if wanted > 0 {
            let mut from = Request { space: AccessSpace::Is(Space::Global), addresses, size, verb: "read" };
            // Fewer source bytes than copied still need the full alignment, but only their own bounds.
            from.size = if wanted == size { size } else { 1 };
            let span = spaces.resolve(one, &mut from)?;
            let place = span.place(lane, 1);
            spaces.check_readable(place, wanted, lane)?;
            if spaces.taint.follows {
                undefined = spaces.undefined_bytes(place, wanted);
                origin = spaces.origin_of(place, undefined, lane);
            }
            bytes[..wanted].copy_from_slice(&spaces.segment(place).bytes[place.offset..place.offset + wanted]);
        }
        let (lane, group, place) = (lane as u8, copies.open[lane], to.place(lane, size));
        issued.push(PendingCopy { lane, group, place, bytes, size: copy.bytes, undefined, origin });
    }
    for copy in &issued {
        spaces.check_write_race(copy.place, copy.lane.into(), &copy.bytes[..size], false)?;
        spaces.segment_mut(copy.place).initialised.remove(copy.place.offset, size);
    }
    copies.pending.append(&mut issued);
    Ok(())
}

/// `cp.async.commit_group`: copies so far form a group of the thread.
pub(in crate::emulator) fn commit(copies: &mut Copies, lanes: Lanes) {
    for lane in lanes.iter() {
        copies.open[lane] += 1;
    }
}

/// `cp.async.wait_group`: all but the latest `pending` groups land; without a number, everything does.
pub(in crate::emulator) fn wait(
    spaces: &mut Spaces<'_>,
    copies: &mut Copies,
    lanes: Lanes,
    pending: Option<u32>,
) -> Result<(), Box<Fault>> {
    let open = copies.open;
    let (landing, left): (Vec<_>, Vec<_>) = std::mem::take(&mut copies.pending).into_iter().partition(|copy| {
        let lane = usize::from(copy.lane);
        let waits = lanes.mask >> lane & 1 == 1;
        // Groups are numbered from 0; the open one isn't committed and lands only with `wait_all`.
        waits && pending.is_none_or(|n| copy.group.saturating_add(n) < open[lane])
    });
    copies.pending = left;
    for copy in landing {
        let (place, size) = (copy.place, usize::from(copy.size));
        let bytes = &copy.bytes[..size];
        spaces.check_write_race(place, copy.lane.into(), bytes, false)?;
        spaces.segment_mut(place).bytes[place.offset..place.offset + size].copy_from_slice(bytes);
        spaces.mark_stored(place, size, copy.undefined, copy.origin, copy.lane.into());
    }
    Ok(())
}
