//! `vprintf` and the texts of failed assertions.

use super::ops::memory::read;
use super::spaces::{Request, Spaces, Span};
use super::warp::{LANES, Lanes};
use crate::ptx::op::AccessSpace;

/// Lines kept of one launch.
pub(super) const MAX_LINES: usize = 64;
/// Bytes kept of one text.
const MAX_TEXT: usize = 1024;

/// A zero-terminated text at a generic address; what can't be read is left out.
pub(super) fn text_at(spaces: &Spaces<'_>, address: u64, lane: usize) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_TEXT {
        match value_at(spaces, address.wrapping_add(bytes.len() as u64), 1, lane) {
            Some(0) | None => break,
            Some(byte) => bytes.push(byte as u8),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text `vprintf` would print: conversions of integers, floats, characters and strings.
pub(super) fn formatted(spaces: &Spaces<'_>, format: u64, arguments: u64, lane: usize) -> String {
    let format = text_at(spaces, format, lane);
    let mut out = String::new();
    let mut chars = format.chars();
    let mut at = arguments;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut longs = 0;
        loop {
            let Some(conversion) = chars.next() else {
                return out;
            };
            match conversion {
                'l' | 'z' | 'j' | 't' => longs += 1,
                '0'..='9' | '.' | '-' | '+' | ' ' | '#' | 'h' => {}
                '%' => {
                    out.push('%');
                    break;
                }
                _ => {
                    let size = if longs > 0 || matches!(conversion, 'f' | 'e' | 'g' | 'a' | 's' | 'p' | 'F' | 'E' | 'G')
                    {
                        8
                    } else {
                        4
                    };
                    at = at.next_multiple_of(size);
                    let value = value_at(spaces, at, size as usize, lane).unwrap_or(0);
                    at = at.wrapping_add(size);
                    out.push_str(&one(spaces, conversion, value, size, lane));
                    break;
                }
            }
        }
    }
    out
}

fn one(spaces: &Spaces<'_>, conversion: char, value: u64, size: u64, lane: usize) -> String {
    match conversion {
        'd' | 'i' if size == 8 => (value as i64).to_string(),
        'd' | 'i' => (value as i32).to_string(),
        'u' => value.to_string(),
        'x' | 'X' => format!("{value:x}"),
        'o' => format!("{value:o}"),
        'c' => char::from(value as u8).to_string(),
        'p' => format!("{value:#x}"),
        's' => text_at(spaces, value, lane),
        _ => f64::from_bits(value).to_string(),
    }
}

fn value_at(spaces: &Spaces<'_>, address: u64, size: usize, lane: usize) -> Option<u64> {
    let lanes = Lanes { mask: 1 << lane, all: false };
    let mut request = Request { space: AccessSpace::Generic, addresses: [address; LANES], size, verb: "read" };
    let place = match spaces.resolve(lanes, &mut request).ok()? {
        Span::Uniform(place) | Span::Consecutive { place, .. } => place,
        Span::Scattered(places) => places[lane],
    };
    spaces.segment(place).bytes.get(place.offset..place.offset + size).map(read)
}
