//! Bounds, alignment, rights and initialisation of memory accesses.

use super::violation::{Fault, ViolationKind, fault};
use crate::emulator::memory::Segment;

/// Distance at which the nearest region is no longer worth naming.
const FAR_BYTES: u64 = 1 << 40;
/// Addresses below this come from a null pointer.
const NULL_PAGE_BYTES: u64 = 1 << 16;

/// An access outside every region of its space: the message names the nearest region and the distance.
#[cold]
pub(in crate::emulator) fn out_of_bounds<'s>(
    segments: impl Iterator<Item = &'s Segment>,
    space: &str,
    address: u64,
    size: u64,
    lane: usize,
    verb: &str,
) -> Box<Fault> {
    let distance = |s: &Segment| {
        if address < s.base { s.base - address } else { address.wrapping_add(size).saturating_sub(s.end()) }
    };
    let nearest = segments.min_by_key(|s| distance(s));
    // Nothing that far away is what the address was meant for.
    let nearest = nearest.filter(|s| distance(s) < FAR_BYTES);
    let detail = match nearest {
        None if address < NULL_PAGE_BYTES => {
            format!("{verb} {size} bytes at {address:#x} in {space} memory: through a null pointer")
        }
        Some(s) if address < s.base => {
            format!(
                "{verb} {size} bytes {} bytes before `{}` of {} bytes in {space} memory",
                s.base - address,
                s.name,
                s.bytes.len()
            )
        }
        Some(s) => format!(
            "{verb} {size} bytes at offset {} of `{}`, {} bytes past the end of its {} bytes in {space} memory",
            address - s.base,
            s.name,
            distance(s),
            s.bytes.len()
        ),
        None => format!("{verb} {size} bytes at {address:#x} in {space} memory, where nothing is mapped"),
    };
    fault(ViolationKind::OutOfBounds, lane, detail)
}

/// An address that isn't a multiple of the access's size.
#[cold]
pub(in crate::emulator) fn misaligned(
    segment: &Segment,
    address: u64,
    size: u64,
    lane: usize,
    verb: &str,
) -> Box<Fault> {
    let detail = format!(
        "{verb} {size} bytes at offset {} of `{}`, address {address:#x}, which isn't a multiple of {size}",
        address.wrapping_sub(segment.base),
        segment.name
    );
    fault(ViolationKind::Misaligned, lane, detail)
}

/// A write to a region the kernel may only read.
#[cold]
pub(in crate::emulator) fn read_only(segment: &Segment, address: u64, size: u64, lane: usize) -> Box<Fault> {
    let detail =
        format!("wrote {size} bytes at offset {} of `{}`, which is read-only", address - segment.base, segment.name);
    fault(ViolationKind::ReadOnlyWritten, lane, detail)
}

/// A read of a byte that nobody wrote: what becomes of it is for the warp's shadow to tell.
#[cold]
pub(in crate::emulator) fn uninitialised(segment: &Segment, byte: usize, lane: usize) -> Box<Fault> {
    let detail = format!("read byte {byte} of `{}`, which nothing has written", segment.name);
    let mut fault = fault(ViolationKind::UninitialisedRead, lane, detail);
    fault.needs_shadow = true;
    fault
}
