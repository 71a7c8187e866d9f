//! `mbarrier`: barriers in shared memory that count arrivals and transactions, phase after phase.
//!
//! An object is its 64 bits of shared memory, in a layout of this program's own. What those that arrived had done becomes
//! known to a warp whose test finds the phase complete, and to no other. To the race check an object's initialisation
//! and invalidation are writes and all else reads: using an object that another thread has just made is a race.
//!
//! `cp.async.mbarrier.arrive` lets the lane's copies land at once; others see them with the phase. A lane that reads its
//! own copies before the phase is complete isn't noticed.

use super::LANES;
use super::copy;
use super::memory::{effective, read, write};
use crate::emulator::check::race::{Horizon, join};
use crate::emulator::check::{Fault, ViolationKind, fault};
use crate::emulator::spaces::{Place, Request, Spaces};
use crate::emulator::warp::{Lanes, Warp};
use crate::ptx::op::{Mbarrier, MbarrierKind, PENDING_MASK, Reg, Word};
use std::collections::HashMap;

/// What threads that arrived at the objects of a block had done.
#[derive(Clone, Debug, Default)]
pub(in crate::emulator) struct Arrivals(HashMap<usize, Arrived>);

#[derive(Clone, Debug, Default)]
struct Arrived {
    /// In the phase that runs.
    running: Horizon,
    /// By the end of the phase before.
    complete: Horizon,
}

impl Arrivals {
    pub(in crate::emulator) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The largest count of arrivals, and of transactions in either direction.
const MAX: i64 = PENDING_MASK as i64;
const BYTES: usize = 8;

/// An object's contents.
#[derive(Clone, Copy)]
struct State {
    /// Arrivals the phase waits for.
    pending: i64,
    /// Arrivals of a whole phase.
    expected: i64,
    /// Transactions the phase waits for.
    transactions: i64,
    odd: bool,
}

impl State {
    /// The highest bit tells an object from other contents.
    fn decode(bits: u64) -> Option<Self> {
        let field = |shift: u32| (bits >> shift) as i64 & MAX;
        let transactions = (bits >> 40 & 0x1f_ffff) as i64 - MAX;
        (bits >> 63 == 1).then_some(Self {
            pending: field(0),
            expected: field(20),
            transactions,
            odd: bits >> 62 & 1 == 1,
        })
    }

    fn encode(self) -> u64 {
        let Self { pending, expected, transactions, odd } = self;
        1 << 63 | u64::from(odd) << 62 | ((transactions + MAX) as u64) << 40 | (expected as u64) << 20 | pending as u64
    }

    /// Starts the next phase if nothing is missing.
    fn advance(&mut self) -> bool {
        let complete = self.pending == 0 && self.transactions == 0;
        if complete {
            self.pending = self.expected;
            self.odd = !self.odd;
        }
        complete
    }
}

pub(in crate::emulator) fn mbarrier(
    spaces: &mut Spaces<'_>,
    warp: &mut Warp,
    lanes: Lanes,
    m: &Mbarrier,
) -> Result<(), Box<Fault>> {
    let addresses = effective(&warp.registers, m.address);
    let initialises = matches!(m.kind, MbarrierKind::Init { .. } | MbarrierKind::Invalidate);
    let verb = if initialises { "wrote" } else { "read" };
    let span = spaces.resolve(lanes, &mut Request { space: m.space, addresses, size: BYTES, verb })?;
    for lane in lanes.iter() {
        if !span.place(lane, BYTES).is_shared() {
            return Err(fault(ViolationKind::OutOfBounds, lane, "an mbarrier object outside shared memory"));
        }
    }
    if let MbarrierKind::Init { .. } = m.kind {
        spaces.mark_written(lanes, &span, BYTES)?;
    } else {
        spaces.check_initialised(lanes, &span, BYTES)?;
    }
    if !initialises {
        spaces.check_read_races(lanes, &span, BYTES, false, false)?;
    }
    if let MbarrierKind::Copies { .. } = m.kind {
        copy::wait(spaces, &mut warp.copies, lanes, None)?;
    }
    let mut states = [0; LANES];
    let mut complete = 0;
    let released = match m.kind {
        MbarrierKind::Arrive { .. } | MbarrierKind::Copies { .. } => Some(spaces.races.release(warp.index as usize)),
        _ => None,
    };
    for lane in lanes.iter() {
        let place = span.place(lane, BYTES);
        if initialises {
            let bits = match m.kind {
                MbarrierKind::Init { count } => initial(warp.registers.word(count)[lane], lane)?,
                _ => 0,
            };
            spaces.check_write_race(place, lane, &bits.to_le_bytes(), false)?;
            set(spaces, place, bits);
            spaces.mbarriers.0.remove(&place.offset);
            continue;
        }
        let bits = read(&spaces.segment(place).bytes[place.offset..place.offset + BYTES]);
        let Some(mut state) = State::decode(bits) else {
            // Held back: whoever initialises it later races with this, and that is the better report.
            if spaces.pending.is_some() {
                continue;
            }
            let detail = format!("shared+{:#x} is used as an mbarrier that nobody initialised", place.offset);
            return Err(fault(ViolationKind::UninitialisedRead, lane, detail));
        };
        states[lane] = bits;
        let arrived = spaces.mbarriers.0.entry(place.offset).or_default();
        if let Some(released) = &released {
            join(&mut arrived.running, released);
        }
        let number = |word: Word| i64::from(warp.registers.word(word)[lane]);
        let mut ends = false;
        match m.kind {
            MbarrierKind::Test { phase, parity, .. } => {
                let before = match phase {
                    Reg::Word(word) if parity => number(word) & 1 == 1,
                    phase => warp.registers.values(phase)[lane] >> 62 & 1 == 1,
                };
                if state.odd != before {
                    complete |= 1 << lane;
                    let known = arrived.complete;
                    spaces.races.acquire(warp.index as usize, &known);
                }
                continue;
            }
            MbarrierKind::Arrive { count, transactions, drops, no_complete, .. } => {
                let count = count.map_or(1, number);
                state.transactions += transactions.map_or(0, number);
                state.pending -= count;
                state.expected -= if drops { count } else { 0 };
                if count == 0 || state.pending < 0 || state.expected < 0 {
                    let detail = format!("{count} arrivals at an mbarrier that waits for {}", state.pending + count);
                    return Err(fault(ViolationKind::BarrierDeadlock, lane, detail));
                }
                ends = state.pending == 0;
                if no_complete && ends && state.transactions == 0 {
                    let detail = "an arrival with .noComplete completes the phase";
                    return Err(fault(ViolationKind::BarrierDeadlock, lane, detail));
                }
            }
            MbarrierKind::Copies { counted: true } => {
                state.pending -= 1;
                if state.pending < 0 {
                    let detail = "an arrival of copies at an mbarrier that waits for none";
                    return Err(fault(ViolationKind::BarrierDeadlock, lane, detail));
                }
                ends = state.pending == 0;
            }
            // One more is expected and has arrived: the phase ends by others.
            MbarrierKind::Copies { counted: false } => {}
            MbarrierKind::Expect { transactions } => state.transactions += number(transactions),
            MbarrierKind::Complete { transactions } => {
                state.transactions -= number(transactions);
                ends = true;
            }
            MbarrierKind::Init { .. } | MbarrierKind::Invalidate => {}
        }
        if state.transactions.abs() > MAX {
            let detail = format!("{} transactions at an mbarrier, expected at most {MAX}", state.transactions);
            return Err(fault(ViolationKind::BarrierDeadlock, lane, detail));
        }
        if ends && state.advance() {
            arrived.complete = arrived.running;
        }
        set(spaces, place, state.encode());
    }
    match m.kind {
        MbarrierKind::Test { complete: Some(d), .. } => warp.registers.set_pred(d, lanes, complete),
        MbarrierKind::Arrive { state: Some(d), .. } => warp.registers.set_wide(d, lanes, states),
        _ => {}
    }
    Ok(())
}

fn initial(count: u32, lane: usize) -> Result<u64, Box<Fault>> {
    let expected = i64::from(count);
    if !(1..=MAX).contains(&expected) {
        let detail = format!("an mbarrier for {count} arrivals, expected 1 to {MAX}");
        return Err(fault(ViolationKind::BarrierDeadlock, lane, detail));
    }
    Ok(State { pending: expected, expected, transactions: 0, odd: false }.encode())
}

fn set(spaces: &mut Spaces<'_>, place: Place, bits: u64) {
    write(&mut spaces.segment_mut(place).bytes[place.offset..place.offset + BYTES], bits);
}
