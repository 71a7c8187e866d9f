//! The entry points of a cubin, and the sizes of their parameters.
//!
//! A cubin is an ELF file. What `ptxas` tells the driver of an entry is in the section `.nv.info.ENTRY`, a row of records:
//! a byte of format, a byte of kind, a half word, and for format 4 so many bytes more. Kind 0x17 is a parameter: its
//! index, its ordinal (half word), its offset (half word), and a word with its size in the upper 14 bits. NVIDIA documents
//! none of this; `cuobjdump -elf` prints it.

use std::collections::BTreeMap;

/// Parameter sizes in bytes of each entry point, by name.
pub(super) type Entries = BTreeMap<String, Vec<usize>>;

const CUDA_MACHINE: u16 = 190;
const SECTION_HEADER_BYTES: usize = 64;
const INFO: &str = ".nv.info.";
/// A record with as many bytes behind it as its half word says.
const SIZED: u8 = 4;
const PARAMETER: u8 = 0x17;
const PARAMETER_BYTES: usize = 12;

/// Reads a cubin. All that its headers speak of must be inside the file: the driver is told an address, and no length.
pub(super) fn entries(file: &[u8]) -> Result<Entries, String> {
    if !file.starts_with(b"\x7fELF\x02\x01") || half(file, 18) != Some(CUDA_MACHINE) {
        return Err("expected a cubin, a 64-bit ELF file for CUDA devices, found something else".into());
    }
    let (start, size, count) = (long(file, 40), half(file, 58), half(file, 60));
    let cut = || "expected a whole cubin, found one that is cut short".to_owned();
    if size != Some(SECTION_HEADER_BYTES as u16) {
        return Err(format!("expected section headers of {SECTION_HEADER_BYTES} bytes, found {size:?}"));
    }
    let headers = slice(file, start, u64::from(count.unwrap_or(0)) * SECTION_HEADER_BYTES as u64).ok_or_else(cut)?;
    let (segments, segment_bytes, segment_count) = (long(file, 32), half(file, 54), half(file, 56));
    let bytes = u64::from(segment_bytes.unwrap_or(0)) * u64::from(segment_count.unwrap_or(0));
    if bytes > 0 {
        slice(file, segments, bytes).ok_or_else(cut)?;
    }
    let (headers, _) = headers.as_chunks::<SECTION_HEADER_BYTES>();
    let mut sections = Vec::with_capacity(headers.len());
    for header in headers {
        // A section without bytes in the file.
        const NOBITS: u32 = 8;
        let has_bytes = word(header, 4) != Some(NOBITS);
        let content =
            if has_bytes { slice(file, long(header, 24), long(header, 32).unwrap_or(0)) } else { Some(&[][..]) };
        sections.push((word(header, 0).unwrap_or(0) as usize, content.ok_or_else(cut)?));
    }
    let names = half(file, 62).and_then(|index| sections.get(usize::from(index))).ok_or_else(cut)?.1;
    let mut entries = Entries::new();
    for (name, content) in &sections {
        let name = names.get(*name..).and_then(|rest| rest.split(|&byte| byte == 0).next()).unwrap_or_default();
        if let Some(entry) = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix(INFO)) {
            entries.insert(entry.to_owned(), parameters(content).ok_or_else(cut)?);
        }
    }
    Ok(entries)
}

fn parameters(mut records: &[u8]) -> Option<Vec<usize>> {
    let mut sizes = BTreeMap::new();
    while let Some((head, rest)) = records.split_first_chunk::<4>() {
        records = rest;
        if head[0] != SIZED {
            continue;
        }
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([head[2], head[3]])))?;
        records = rest;
        if head[1] == PARAMETER && value.len() == PARAMETER_BYTES {
            sizes.insert(half(value, 4)?, (word(value, 8)? >> 18) as usize);
        }
    }
    Some(sizes.into_values().collect())
}

fn slice(file: &[u8], start: Option<u64>, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(start?).ok()?;
    file.get(start..start.checked_add(usize::try_from(size).ok()?)?)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by NVRTC 12.4 for sm_80 of
    /// `struct P { float* a; int n; short s; };`
    /// `extern "C" __global__ void plain(float* out, int n, P p) { out[0] = n + p.s; }`,
    /// a template `decode<T, N>(T*)` and `unmangled(float*)`.
    const CUBIN: &[u8] = include_bytes!("../../tests/made/params.cubin");

    #[test]
    fn parameters_are_told_in_their_order() {
        let entries = entries(CUBIN).unwrap();
        assert_eq!(entries["plain"], [8, 4, 16]);
        assert_eq!(entries["_Z6decodeIfLi64EEvPT_"], [8]);
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn what_is_cut_or_changed_is_told_and_no_panic() {
        for length in 0..CUBIN.len() {
            let cut = entries(&CUBIN[..length]);
            // Behind the last section are the program headers.
            assert!(cut.is_err(), "of {length} bytes");
        }
        for at in 0..CUBIN.len() {
            let mut changed = CUBIN.to_vec();
            changed[at] ^= 0xff;
            let _ = entries(&changed);
        }
        assert!(entries(b"\x7fELF\x02\x01 and no cubin at all, but long enough for one to be looked for").is_err());
    }
}
