//! Loads and stores.

use super::{LANES, map1};
use crate::emulator::check::Fault;
use crate::emulator::spaces::{Request, Spaces, Span};
use crate::emulator::warp::{Lanes, Registers};
use crate::ptx::op::{Access, Address, AddressBase, Reg};

#[inline(always)]
pub(in crate::emulator) fn load(
    spaces: &mut Spaces<'_>,
    registers: &mut Registers,
    lanes: Lanes,
    access: &Access,
    d: &[Option<Reg>; 8],
    address: Address,
) -> Result<(), Box<Fault>> {
    let width = usize::from(access.element_bytes);
    let elements = usize::from(access.elements);
    let size = width * elements;
    let addresses = effective(registers, address);
    let mut request = Request { space: access.space, addresses, size, verb: "read" };
    let span = spaces.resolve(lanes, &mut request)?;
    spaces.check_initialised(lanes, &span, size)?;
    spaces.check_read_races(lanes, &span, size, access.strong, access.non_coherent)?;
    match &span {
        Span::Uniform(place) => {
            let bytes = &spaces.segment(*place).bytes[place.offset..place.offset + size];
            for (d, bytes) in d.iter().zip(bytes.chunks_exact(width)) {
                if let Some(d) = d {
                    let value = extend(access, read(bytes));
                    match d {
                        Reg::Word(d) => registers.set_word(*d, lanes, [value as u32; LANES]),
                        Reg::Wide(d) => registers.set_wide(*d, lanes, [value; LANES]),
                    }
                }
            }
        }
        Span::Consecutive { place, first, count } => {
            let bytes = &spaces.segment(*place).bytes[place.offset..place.offset + size * count];
            if *count == LANES && !access.signed && load_full(registers, d, bytes, width, elements) {
                return Ok(());
            }
            for (element, d) in d.iter().enumerate().take(elements) {
                let Some(d) = d else { continue };
                let mut values = [0; LANES];
                for (value, bytes) in values[*first..].iter_mut().zip(bytes.chunks_exact(size)) {
                    *value = extend(access, read(&bytes[element * width..(element + 1) * width]));
                }
                registers.set_values(*d, lanes, values);
            }
        }
        Span::Scattered(places) => {
            for (element, d) in d.iter().enumerate().take(elements) {
                let Some(d) = d else { continue };
                let mut values = [0; LANES];
                for lane in lanes.iter() {
                    let at = places[lane].offset + element * width;
                    values[lane] = extend(access, read(&spaces.segment(places[lane]).bytes[at..at + width]));
                }
                registers.set_values(*d, lanes, values);
            }
        }
    }
    Ok(())
}

#[inline(always)]
pub(in crate::emulator) fn store(
    spaces: &mut Spaces<'_>,
    registers: &Registers,
    lanes: Lanes,
    access: &Access,
    a: &[Reg; 8],
    address: Address,
) -> Result<(), Box<Fault>> {
    let width = usize::from(access.element_bytes);
    let elements = usize::from(access.elements);
    let size = width * elements;
    let addresses = effective(registers, address);
    let mut request = Request { space: access.space, addresses, size, verb: "wrote" };
    let span = spaces.resolve(lanes, &mut request)?;
    spaces.mark_written(lanes, &span, size)?;
    if spaces.watches_writes(&span) {
        return store_watched(spaces, registers, lanes, access, a, &span);
    }
    match &span {
        // Of several lanes writing one place any may win; here it is the last.
        Span::Uniform(place) => {
            let last = 31 - lanes.mask.leading_zeros() as usize;
            let bytes = &mut spaces.segment_mut(*place).bytes[place.offset..place.offset + size];
            for (a, bytes) in a.iter().zip(bytes.chunks_exact_mut(width)) {
                write(bytes, value(registers, *a, last));
            }
        }
        Span::Consecutive { place, first, count } => {
            let bytes = &mut spaces.segment_mut(*place).bytes[place.offset..place.offset + size * count];
            for (element, a) in a.iter().enumerate().take(elements) {
                match a {
                    Reg::Word(word) => {
                        let values = &registers.word(*word)[*first..];
                        for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(size)) {
                            write(&mut bytes[element * width..(element + 1) * width], u64::from(*value));
                        }
                    }
                    Reg::Wide(wide) => {
                        let values = &registers.wide(*wide)[*first..];
                        for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(size)) {
                            write(&mut bytes[element * width..(element + 1) * width], *value);
                        }
                    }
                }
            }
        }
        Span::Scattered(places) => {
            for lane in lanes.iter() {
                for (element, a) in a.iter().enumerate().take(elements) {
                    let at = places[lane].offset + element * width;
                    let value = value(registers, *a, lane);
                    write(&mut spaces.segment_mut(places[lane]).bytes[at..at + width], value);
                }
            }
        }
    }
    Ok(())
}

/// Lane by lane, so that the race check sees each write before it happens.
fn store_watched(
    spaces: &mut Spaces<'_>,
    registers: &Registers,
    lanes: Lanes,
    access: &Access,
    a: &[Reg; 8],
    span: &Span,
) -> Result<(), Box<Fault>> {
    let width = usize::from(access.element_bytes);
    let size = width * usize::from(access.elements);
    for lane in lanes.iter() {
        let place = span.place(lane, size);
        let mut bytes = [0; 32];
        let bytes = &mut bytes[..size];
        for (a, bytes) in a.iter().zip(bytes.chunks_exact_mut(width)) {
            write(bytes, value(registers, *a, lane));
        }
        spaces.check_write_race(place, lane, bytes, access.strong)?;
        spaces.segment_mut(place).bytes[place.offset..place.offset + size].copy_from_slice(bytes);
    }
    Ok(())
}

/// The address of each lane.
#[inline(always)]
pub(in crate::emulator) fn effective(registers: &Registers, address: Address) -> [u64; LANES] {
    let offset = address.offset as u64;
    match address.base {
        AddressBase::Absolute => [offset; LANES],
        // Modulo 2^32, as an H200 does: compilers count down to before the first variable and add the rest here.
        AddressBase::Word(word) => map1(registers.word(word), |a| u64::from(a.wrapping_add(offset as u32))),
        AddressBase::Wide(wide) => map1(registers.wide(wide), |a| a.wrapping_add(offset)),
    }
}

/// Up to eight little-endian bytes.
#[inline(always)]
pub(in crate::emulator) fn read(bytes: &[u8]) -> u64 {
    match bytes {
        [a, b, c, d] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
        [a, b] => u64::from(u16::from_le_bytes([*a, *b])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        _ => bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    }
}

#[inline]
pub(super) fn write(bytes: &mut [u8], value: u64) {
    match bytes.len() {
        4 => bytes.copy_from_slice(&(value as u32).to_le_bytes()),
        2 => bytes.copy_from_slice(&(value as u16).to_le_bytes()),
        8 => bytes.copy_from_slice(&value.to_le_bytes()),
        _ => bytes.iter_mut().zip(value.to_le_bytes()).for_each(|(byte, v)| *byte = v),
    }
}

fn value(registers: &Registers, reg: Reg, lane: usize) -> u64 {
    match reg {
        Reg::Word(word) => u64::from(registers.word(word)[lane]),
        Reg::Wide(wide) => registers.wide(wide)[lane],
    }
}

/// The sign of a loaded value, extended to the width of its register.
#[inline]
pub(in crate::emulator) fn extend(access: &Access, value: u64) -> u64 {
    if !access.signed {
        return value;
    }
    let unused = 64 - 8 * u32::from(access.element_bytes);
    let extended = ((value << unused) as i64 >> unused) as u64;
    if access.register_bits >= 64 { extended } else { extended & ((1 << access.register_bits) - 1) }
}

/// The frequent cases, as loops the compiler can turn into vector code: all lanes, words in words or halves in words.
#[inline(always)]
fn load_full(registers: &mut Registers, d: &[Option<Reg>; 8], bytes: &[u8], width: usize, elements: usize) -> bool {
    let lanes = Lanes { mask: u32::MAX, all: true };
    match (width, elements, d) {
        (4, 1, [Some(Reg::Word(d)), ..]) => {
            let mut out = [0; LANES];
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = u32::from_le_bytes(*bytes);
            }
            registers.set_word(*d, lanes, out);
            true
        }
        (2, 1, [Some(Reg::Word(d)), ..]) => {
            let mut out = [0; LANES];
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = u32::from(u16::from_le_bytes(*bytes));
            }
            registers.set_word(*d, lanes, out);
            true
        }
        (4, 2 | 4 | 8, _) => {
            for (element, d) in d.iter().enumerate().take(elements) {
                let Some(Reg::Word(d)) = d else { return false };
                let mut out = [0; LANES];
                for (lane, out) in out.iter_mut().enumerate() {
                    let at = (lane * elements + element) * 4;
                    *out = read(&bytes[at..at + 4]) as u32;
                }
                registers.set_word(*d, lanes, out);
            }
            true
        }
        _ => false,
    }
}
