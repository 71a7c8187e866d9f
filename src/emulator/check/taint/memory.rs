//! Undefined bytes: loads, stores, atomics, and what a launch leaves behind.

use super::uses::raise;
use super::{Actor, Bytes, Effect, Origin, Shadow, Undefined, WIDEST, matrix};
use crate::emulator::ops::memory::{effective, extend};
use crate::emulator::spaces::{Place, Request, Spaces, Store};
use crate::emulator::warp::{Lanes, Warp};
use crate::ptx::op::{Access, Address, AtomicOp, MbarrierKind, Op, Reg, Slot};
use std::collections::HashMap;

/// Bytes that share an origin.
const GRANULE: usize = 4;

/// What a launch knows about undefined data in memory.
#[derive(Debug, Default)]
pub(in crate::emulator) struct Taint {
    /// The running operation's loads have a shadow, so that they may load what is undefined.
    pub(in crate::emulator) follows: bool,
    /// Undefined data that was stored. An entry counts while its bytes are undefined.
    stored: HashMap<Key, Stored>,
    /// Bytes of which only these bits are undefined, such as those that hold bit-fields; the granule is the byte's offset.
    partly: HashMap<Key, u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    store: Store,
    /// Block, and warp in local memory.
    owner: Option<(u64, u32)>,
    granule: usize,
}

/// What an undefined byte is, and who stored it.
#[derive(Clone, Copy, Debug)]
pub(in crate::emulator) struct Stored {
    pub(in crate::emulator) place: Place,
    pub(in crate::emulator) origin: Origin,
    pub(in crate::emulator) by: Actor,
}

impl Taint {
    /// No undefined data was stored that still counts.
    pub(in crate::emulator) fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// Memory of its own that a block had is gone.
    pub(in crate::emulator) fn end_block(&mut self, block: u64) {
        if !self.stored.is_empty() {
            self.stored.retain(|key, _| key.owner.is_none_or(|(owner, _)| owner != block));
            self.partly.retain(|key, _| key.owner.is_none_or(|(owner, _)| owner != block));
        }
    }

    /// Undefined data in buffers for which `is_left` says so, the first of them.
    pub(in crate::emulator) fn left_behind(&self, is_left: impl Fn(usize, usize) -> bool) -> Option<Stored> {
        let in_buffers = self.stored.iter().filter_map(|(key, stored)| match key.store {
            Store::Global(region) => {
                let granule = key.granule * GRANULE..(key.granule + 1) * GRANULE;
                granule.into_iter().find(|byte| is_left(region, *byte)).map(|byte| (region, byte, stored))
            }
            _ => None,
        });
        let first = in_buffers.min_by_key(|(region, byte, _)| (*region, *byte));
        first.map(|(_, offset, stored)| Stored { place: Place { offset, ..stored.place }, ..*stored })
    }
}

impl Spaces<'_> {
    fn key(&self, place: Place) -> Key {
        let owner = match place.store {
            Store::Shared => Some((self.block, 0)),
            Store::Local => Some((self.block, self.party.warp)),
            _ => None,
        };
        Key { store: place.store, owner, granule: place.offset / GRANULE }
    }

    fn byte_key(&self, place: Place, byte: usize) -> Key {
        Key { granule: place.offset + byte, ..self.key(place) }
    }

    /// The undefined bits of up to eight bytes at a place, given which bytes have any.
    fn undefined_bits(&self, place: Place, undefined: u64) -> u64 {
        if self.taint.partly.is_empty() {
            return widened(undefined);
        }
        let bytes = (0..8).filter(|byte| undefined >> byte & 1 == 1);
        let of = |byte| {
            let written = self.segment(place).written.contains(place.offset + byte);
            self.taint.partly.get(&self.byte_key(place, byte)).filter(|_| written).map_or(u8::MAX, |bits| *bits)
        };
        bytes.fold(0, |bits, byte| bits | u64::from(of(byte)) << (8 * byte))
    }

    /// Undefined bytes among `size` at a place, one bit each.
    pub(in crate::emulator) fn undefined_bytes(&self, place: Place, size: usize) -> u64 {
        !self.segment(place).initialised.bits(place.offset, size) & (u64::MAX >> (64 - size))
    }

    /// Where the first of some undefined bytes comes from, loaded by a lane.
    pub(in crate::emulator) fn origin_of(&self, place: Place, undefined: u64, lane: usize) -> Origin {
        let place = Place { offset: place.offset + undefined.trailing_zeros() as usize, ..place };
        let by = self.actor(lane);
        let stored = self.taint.stored.get(&self.key(place));
        match stored.filter(|_| self.segment(place).written.contains(place.offset)) {
            Some(stored) => stored.origin,
            None => Origin { by, from: Some(place) },
        }
    }

    /// A lane that executes the current instruction.
    pub(in crate::emulator) fn actor(&self, lane: usize) -> Actor {
        Actor { pc: self.party.pc, warp: self.party.warp, lane: lane as u32, block: self.block }
    }

    /// Marks stored bytes, those in `undefined` as that.
    pub(in crate::emulator) fn mark_stored(
        &mut self,
        place: Place,
        size: usize,
        undefined: u64,
        origin: Origin,
        lane: usize,
    ) {
        self.segment_mut(place).initialised.insert(place.offset, size);
        let by = self.actor(lane);
        for byte in (0..size).filter(|byte| undefined >> byte & 1 == 1) {
            let place = Place { offset: place.offset + byte, ..place };
            self.segment_mut(place).initialised.remove(place.offset, 1);
            let key = self.key(place);
            self.taint.stored.insert(key, Stored { place, origin, by });
            if !self.taint.partly.is_empty() {
                let key = self.byte_key(place, 0);
                self.taint.partly.remove(&key);
            }
        }
    }

    pub(in crate::emulator) fn describe(&self, origin: Origin) -> String {
        let Some(place) = origin.from else { return "a register that nothing has written".into() };
        let offset = match place.store {
            Store::Local => place.offset % (self.local_bytes as usize).max(1),
            _ => place.offset,
        };
        format!("byte {offset} of `{}`, which nothing has written", self.segment(place).name)
    }
}

pub(super) fn write(spaces: &mut Spaces<'_>, bytes: Bytes) {
    spaces.mark_stored(bytes.place, bytes.size, bytes.undefined, bytes.origin, bytes.lane);
    for byte in (0..bytes.size).filter(|byte| bytes.undefined >> byte & 1 == 1 && bytes.bits[*byte] != u8::MAX) {
        let key = spaces.byte_key(bytes.place, byte);
        spaces.taint.partly.insert(key, bytes.bits[byte]);
    }
}

/// Whether [`effect`] knows what the operation loads.
pub(super) fn is_followed(op: &Op) -> bool {
    matches!(
        op,
        Op::Load { .. }
            | Op::Store { .. }
            | Op::Atomic { .. }
            | Op::Matrix(_)
            | Op::WmmaAccess(_)
            | Op::CopyAsync(_)
            | Op::Mbarrier(_)
    )
}

/// What an access does to shadows; `None` for other operations. Where an address is wrong, execution will tell.
pub(super) fn effect(op: &Op, warp: &Warp, lanes: Lanes, spaces: &mut Spaces<'_>) -> Option<Effect> {
    let (registers, shadow) = (&warp.registers, &warp.shadow);
    let places = |space, address: Address, size, verb| {
        let mut request = Request { space, addresses: effective(registers, address), size, verb };
        spaces.resolve(lanes, &mut request).ok()
    };
    match op {
        Op::Load { access, d, address } => {
            let size = usize::from(access.element_bytes) * usize::from(access.elements);
            let span = places(access.space, *address, size, "read")?;
            Some(load(access, d, lanes, spaces, |lane| span.place(lane, size)))
        }
        Op::Store { access, a, address } => {
            let size = usize::from(access.element_bytes) * usize::from(access.elements);
            let span = places(access.space, *address, size, "wrote")?;
            let width = usize::from(access.element_bytes);
            let mut effect = Effect::default();
            for lane in lanes.iter() {
                let mut bytes = Bytes::new(lane, span.place(lane, size), size);
                for (element, a) in a.iter().enumerate().take(access.elements.into()) {
                    add_bytes(&mut bytes, shadow, *a, element * width, width);
                }
                effect.bytes.push(bytes);
            }
            // Without a shadow the store itself has marked the bytes.
            (effect.bytes.iter().any(|bytes| bytes.undefined != 0)).then_some(effect)
        }
        Op::Atomic { op, ty, space, d, address, b, c } => {
            let size = ty.size_bytes();
            let span = places(*space, *address, size, "updated")?;
            Some(atomic(*op, size, (*d, *b, *c), lanes, (spaces, shadow), |lane| span.place(lane, size)))
        }
        Op::Matrix(access) => matrix::access(access, warp, lanes, spaces),
        Op::WmmaAccess(access) => matrix::wmma_access(access, warp, lanes, spaces),
        Op::Mbarrier(m) => {
            let span = places(m.space, m.address, 8, "read")?;
            if !matches!(m.kind, MbarrierKind::Init { .. }) {
                for lane in lanes.iter() {
                    let place = span.place(lane, 8);
                    let undefined = spaces.undefined_bytes(place, 8);
                    if undefined != 0 {
                        let origin = spaces.origin_of(place, undefined, lane);
                        // Without checks of races it is for the operation to object.
                        let _ = raise(spaces, spaces.party.pc, lane, "what the instruction does", origin);
                    }
                }
            }
            None
        }
        _ => None,
    }
}

fn load(
    access: &Access,
    d: &[Option<Reg>; 8],
    lanes: Lanes,
    spaces: &Spaces<'_>,
    place: impl Fn(usize) -> Place,
) -> Effect {
    let width = usize::from(access.element_bytes);
    let size = width * usize::from(access.elements);
    let mut effect = Effect::default();
    let bytes: Vec<_> = lanes.iter().map(|lane| (lane, spaces.undefined_bytes(place(lane), size))).collect();
    if bytes.iter().all(|(_, undefined)| *undefined == 0) {
        return effect;
    }
    for (element, d) in d.iter().enumerate().take(access.elements.into()) {
        let Some(d) = d else { continue };
        let mut value = Undefined::NONE;
        for (lane, undefined) in &bytes {
            let own = undefined >> (element * width) & (u64::MAX >> (64 - width));
            if own != 0 {
                let origin = spaces.origin_of(place(*lane), own << (element * width), *lane);
                let mut place = place(*lane);
                place.offset += element * width;
                value.put(*lane, extend(access, spaces.undefined_bits(place, own)), origin);
            }
        }
        effect.registers.push(((*d).into(), value));
    }
    effect
}

/// Lane after lane, as the accesses happen.
fn atomic(
    op: AtomicOp,
    size: usize,
    (d, b, c): (Option<Reg>, Reg, Option<Reg>),
    lanes: Lanes,
    (spaces, shadow): (&Spaces<'_>, &Shadow),
    place: impl Fn(usize) -> Place,
) -> Effect {
    let mut effect = Effect::default();
    let mut old = Undefined::NONE;
    let all = u64::MAX >> (64 - size);
    for lane in lanes.iter() {
        let place = place(lane);
        let before = effect.bytes.iter().rev().find(|b| b.place == place);
        let (undefined, origin) = match before {
            Some(bytes) => (bytes.undefined, bytes.origin),
            None => {
                let undefined = spaces.undefined_bytes(place, size);
                (undefined, if undefined == 0 { Origin::default() } else { spaces.origin_of(place, undefined, lane) })
            }
        };
        if undefined != 0 {
            old.put(lane, widened(undefined), origin);
        }
        let mut bytes = Bytes::new(lane, place, size);
        add_bytes(&mut bytes, shadow, b, 0, size);
        if let Some(c) = c {
            add_bytes(&mut bytes, shadow, c, 0, size);
        }
        if op != AtomicOp::Exch {
            if undefined != 0 {
                bytes = Bytes { undefined: bytes.undefined | undefined, origin, ..bytes };
            }
            bytes.bits = [u8::MAX; WIDEST];
            bytes.undefined = if bytes.undefined != 0 { all } else { 0 };
        }
        effect.bytes.push(bytes);
    }
    effect.registers.extend(d.map(|d| (Slot::from(d), old)));
    effect
}

/// Adds the undefined bytes of a register's low `width`, at an offset into those written.
fn add_bytes(bytes: &mut Bytes, shadow: &Shadow, slot: impl Into<Slot>, offset: usize, width: usize) {
    let Some(undefined) = shadow.undefined(slot) else { return };
    let own = narrowed(undefined.bits[bytes.lane]) & (u64::MAX >> (64 - width));
    if own != 0 {
        bytes.undefined |= own << offset;
        for byte in (0..width.min(8)).filter(|byte| own >> byte & 1 == 1) {
            bytes.bits[offset + byte] = (undefined.bits[bytes.lane] >> (8 * byte)) as u8;
        }
        bytes.origin = undefined.origins[bytes.lane];
    }
}

/// Eight bits for each of the low eight.
pub(super) fn widened(bytes: u64) -> u64 {
    (0..8).filter(|byte| bytes >> byte & 1 == 1).fold(0, |bits, byte| bits | 0xff << (8 * byte))
}

/// One bit for each byte with any.
fn narrowed(bits: u64) -> u64 {
    (0..8).filter(|byte| bits >> (8 * byte) & 0xff != 0).fold(0, |bytes, byte| bytes | 1 << byte)
}
