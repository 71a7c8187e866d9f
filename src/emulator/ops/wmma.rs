//! `wmma.load`, `wmma.store` and `wmma.mma`.
//!
//! The manual leaves it open which element of a matrix is in which register. Here a matrix is cut into the tiles of
//! `mma.sync`, which take their elements as its fragments do: for sums and f16 factors that is what sm_80 does too.
//! Where a fragment has more places than the matrix has elements for a lane, the elements come again.

use super::LANES;
use super::float::canonical;
use super::half::{decode_half, encode_half};
use super::matrix::{TensorCore, Term, dot, dot_half, factor};
use super::memory::{effective, read, write};
use crate::emulator::check::Fault;
use crate::emulator::spaces::{Request, Spaces};
use crate::emulator::warp::{Lanes, Registers};
use crate::ptx::op::{Element, Factor, Fragment, Part, Rounding, Wmma, WmmaAccess, Word};

pub(in crate::emulator) fn access(
    spaces: &mut Spaces<'_>,
    registers: &mut Registers,
    lanes: Lanes,
    m: &WmmaAccess,
) -> Result<(), Box<Fault>> {
    let fragment = m.fragment;
    let per_word = per_word(fragment);
    let size = 4 / per_word;
    let distinct = usize::from(fragment.rows) * usize::from(fragment.columns) / LANES;
    let places = usize::from(fragment.registers) * per_word;
    let mut words = [[0u32; LANES]; 8];
    if m.is_store {
        for (word, slot) in words.iter_mut().zip(m.words) {
            *word = *registers.word(slot);
        }
    }
    for index in 0..distinct {
        let addresses = addresses(registers, m, index);
        let verb = if m.is_store { "wrote" } else { "read" };
        let mut request = Request { space: m.space, addresses, size, verb };
        let span = spaces.resolve(lanes, &mut request)?;
        let (word, shift) = (index / per_word, 8 * size * (index % per_word));
        if m.is_store {
            spaces.mark_written(lanes, &span, size)?;
            for lane in lanes.iter() {
                let place = span.place(lane, size);
                let mut bytes = [0; 4];
                write(&mut bytes[..size], u64::from(words[word][lane] >> shift));
                spaces.check_write_race(place, lane, &bytes[..size], false)?;
                spaces.segment_mut(place).bytes[place.offset..place.offset + size].copy_from_slice(&bytes[..size]);
            }
            continue;
        }
        spaces.check_initialised(lanes, &span, size)?;
        spaces.check_read_races(lanes, &span, size, false, false)?;
        for lane in lanes.iter() {
            let place = span.place(lane, size);
            let value = read(&spaces.segment(place).bytes[place.offset..place.offset + size]) as u32;
            for again in (index..places).step_by(distinct) {
                words[again / per_word][lane] |= value << (8 * size * (again % per_word));
            }
        }
    }
    if !m.is_store {
        for (word, slot) in words.iter().zip(m.words).take(usize::from(fragment.registers)) {
            registers.set_word(slot, lanes, *word);
        }
    }
    Ok(())
}

/// Where each lane's element with the given number is.
pub(in crate::emulator) fn addresses(registers: &Registers, m: &WmmaAccess, index: usize) -> [u64; LANES] {
    let base = effective(registers, m.address);
    let contiguous = u32::from(if m.row_major { m.fragment.columns } else { m.fragment.rows });
    let stride = m.stride.map_or([contiguous; LANES], |s| *registers.word(s));
    let size = 4 / per_word(m.fragment) as u64;
    std::array::from_fn(|lane| {
        let (row, column) = element(m.fragment, lane, index);
        let (major, minor) = if m.row_major { (row, column) } else { (column, row) };
        let elements = (major as u64).wrapping_mul(u64::from(stride[lane])).wrapping_add(minor as u64);
        base[lane].wrapping_add(elements.wrapping_mul(size))
    })
}

pub(in crate::emulator) fn multiply(registers: &mut Registers, lanes: Lanes, m: &Wmma, core: TensorCore) {
    if matches!(m.a.0.factor, Some(Element::Byte { .. })) {
        return multiply_bytes(registers, lanes, m);
    }
    let format = |fragment: Fragment| match fragment.factor {
        Some(Element::Float(format)) => format,
        _ => Factor::Tf32,
    };
    let factors = |fragment: (Fragment, [Word; 8])| {
        matrix(registers, fragment, |bits| factor(format(fragment.0), bits), Term::ZERO)
    };
    let sum = |bits: u32| match m.c.0.factor {
        None => f64::from(f32::from_bits(bits)),
        Some(_) => decode_half(false, bits as u16),
    };
    let (a, b, c) = (factors(m.a), factors(m.b), matrix(registers, m.c, sum, 0.0));
    let (inner, columns) = (usize::from(m.a.0.columns), usize::from(m.b.0.columns));
    let sums = |row: usize, column: usize| {
        let mut products = [Term::ZERO; 16];
        for (k, product) in products.iter_mut().enumerate().take(inner) {
            *product = a[row * inner + k].times(b[k * columns + column]);
        }
        let sum = if m.d.0.factor.is_some() { dot_half } else { dot };
        sum(core, c[row * columns + column], &products[..inner])
    };
    let (fragment, words) = m.d;
    let per_word = per_word(fragment);
    for (r, word) in words.iter().enumerate().take(usize::from(fragment.registers)) {
        let out = std::array::from_fn(|lane| {
            let value = |i: usize| {
                let (row, column) = element(fragment, lane, r * per_word + i);
                sums(row, column)
            };
            if per_word == 1 {
                return canonical(value(0) as f32);
            }
            let half = |i| u32::from(encode_half(false, Rounding::Nearest, value(i)));
            half(0) | half(1) << 16
        });
        registers.set_word(*word, lanes, out);
    }
}

/// Bytes: exact sums that wrap around or saturate.
fn multiply_bytes(registers: &mut Registers, lanes: Lanes, m: &Wmma) {
    let factors = |fragment: (Fragment, [Word; 8])| {
        let signed = matches!(fragment.0.factor, Some(Element::Byte { signed: true }));
        let value = |bits: u32| if signed { i64::from(bits as u8 as i8) } else { i64::from(bits as u8) };
        matrix(registers, fragment, value, 0)
    };
    let (a, b, c) = (factors(m.a), factors(m.b), matrix(registers, m.c, |bits| i64::from(bits as i32), 0));
    let (inner, columns) = (usize::from(m.a.0.columns), usize::from(m.b.0.columns));
    let (fragment, words) = m.d;
    for (r, word) in words.iter().enumerate().take(usize::from(fragment.registers)) {
        let out = std::array::from_fn(|lane| {
            let (row, column) = element(fragment, lane, r);
            let products = (0..inner).map(|k| a[row * inner + k] * b[k * columns + column]);
            let sum = c[row * columns + column] + products.sum::<i64>();
            if m.saturates { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { sum as u32 }
        });
        registers.set_word(*word, lanes, out);
    }
}

/// A fragment's matrix, row after row, its elements made from the bits of each.
fn matrix<T: Copy>(
    registers: &Registers,
    (fragment, words): (Fragment, [Word; 8]),
    element_of: impl Fn(u32) -> T,
    zero: T,
) -> Vec<T> {
    let columns = usize::from(fragment.columns);
    let count = usize::from(fragment.rows) * columns;
    let per_word = per_word(fragment);
    let mut out = vec![zero; count];
    for index in 0..count / LANES {
        let word = registers.word(words[index / per_word]);
        for (lane, bits) in word.iter().enumerate() {
            let (row, column) = element(fragment, lane, index);
            let bits = bits >> (32 / per_word * (index % per_word));
            out[row * columns + column] =
                element_of(if per_word == 1 { bits } else { bits & (u32::MAX >> (32 - 32 / per_word)) });
        }
    }
    out
}

/// Elements to a register.
pub(in crate::emulator) fn per_word(fragment: Fragment) -> usize {
    match fragment.factor {
        Some(Element::Float(Factor::F16 | Factor::Bf16)) => 2,
        Some(Element::Byte { .. }) => 4,
        _ => 1,
    }
}

/// Row and column of the element of a fragment with the given number.
pub(in crate::emulator) fn element(fragment: Fragment, lane: usize, index: usize) -> (usize, usize) {
    let (group, member) = (lane / 4, lane % 4);
    let rows = usize::from(fragment.rows);
    // Along the dimension that lanes of a group of four share: pairs side by side, one of tf32, or four bytes.
    let beside = match fragment.factor {
        Some(Element::Float(Factor::Tf32)) => 1,
        Some(Element::Byte { .. }) => 4,
        _ => 2,
    };
    let (tile, within) = (index / beside, member * beside + index % beside);
    let step = 4 * beside;
    if fragment.part == Part::B {
        let tiles = rows / step;
        (tile % tiles * step + within, tile / tiles * 8 + group)
    } else {
        let tiles = rows / 8;
        (tile % tiles * 8 + group, tile / tiles * step + within)
    }
}
