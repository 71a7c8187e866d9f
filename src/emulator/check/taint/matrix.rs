//! Undefined elements of matrices: an element of a product is undefined if one of its row, of its column, or of the sums
//! before it is, so that padding that is computed with and thrown away is nobody's fault.

use super::{Bytes, Effect, Origin, Shadow, Undefined, memory::widened};
use crate::emulator::ops::matrix::element as row_element;
use crate::emulator::ops::memory::effective;
use crate::emulator::ops::wmma::{addresses, element, per_word};
use crate::emulator::spaces::{Request, Spaces};
use crate::emulator::warp::{LANES, Lanes, Warp};
use crate::ptx::op::{MatrixAccess, Op, Slot, Wmma, WmmaAccess};

/// The most rows or columns.
const EDGE: usize = 32;

/// Undefined rows and columns of the factors, and elements of what is added to.
struct Product {
    rows: [Option<Origin>; EDGE],
    columns: [Option<Origin>; EDGE],
    sums: Vec<Option<Origin>>,
}

impl Product {
    fn new() -> Self {
        Self { rows: [None; EDGE], columns: [None; EDGE], sums: vec![None; EDGE * EDGE] }
    }

    /// A register of results, `per_word` elements in each lane.
    fn result(&self, slot: Slot, per_word: usize, at: impl Fn(usize, usize) -> (usize, usize)) -> (Slot, Undefined) {
        let mut value = Undefined::NONE;
        for (lane, index) in (0..LANES).flat_map(|lane| (0..per_word).map(move |index| (lane, index))) {
            let (row, column) = at(lane, index);
            if let Some(origin) = self.rows[row].or(self.columns[column]).or(self.sums[row * EDGE + column]) {
                value.put(lane, place_of(per_word, index), origin);
            }
        }
        (slot, value)
    }
}

/// `mma` and `wmma.mma`; `None` for other operations.
pub(super) fn effect(op: &Op, shadow: &Shadow) -> Option<Effect> {
    match op {
        Op::Mma(m) => {
            let ([a, b], per_word) = (m.factor_registers(), if m.half_sums { 2 } else { 1 });
            let used = 4 / per_word;
            Some(tile(shadow, 2, &m.a[..a], &m.b[..b], &m.c[..used], &m.d[..used], per_word))
        }
        Op::MmaInteger(m) => {
            let ([a, b, sums], row_halves) = (m.registers(), usize::from(m.rows) / 8);
            Some(tile(shadow, row_halves, &m.a[..a], &m.b[..b], &m.c[..sums], &m.d[..sums], 1))
        }
        Op::MmaDouble(m) => {
            let ([a, b, sums], row_halves) = (m.registers(), usize::from(m.rows) / 8);
            Some(tile(shadow, row_halves, &m.a[..a], &m.b[..b], &m.c[..sums], &m.d[..sums], 1))
        }
        Op::Wmma(m) => Some(wmma(shadow, m)),
        _ => None,
    }
}

/// The tiles of `mma.sync` have their rows, columns and sums in the same lanes whatever the format. Registers of `a` take
/// turns between the upper and the lower eight rows, where there are both.
fn tile<S: Copy + Into<Slot>>(
    shadow: &Shadow,
    row_halves: usize,
    a: &[S],
    b: &[S],
    c: &[S],
    d: &[S],
    per_word: usize,
) -> Effect {
    let at = |lane: usize, index: usize| (lane / 4 + 8 * (index / 2), lane % 4 * 2 + index % 2);
    let mut product = Product::new();
    for (r, slot) in a.iter().enumerate() {
        each(shadow, *slot, 1, |lane, _, origin| product.rows[lane / 4 + 8 * (r % row_halves)] = Some(origin));
    }
    for slot in b {
        each(shadow, *slot, 1, |lane, _, origin| product.columns[lane / 4] = Some(origin));
    }
    for (r, slot) in c.iter().enumerate() {
        each(shadow, *slot, per_word, |lane, half, origin| {
            let (row, column) = at(lane, r * per_word + half);
            product.sums[row * EDGE + column] = Some(origin);
        });
    }
    let result =
        |(r, slot): (usize, &S)| product.result((*slot).into(), per_word, |lane, index| at(lane, r * per_word + index));
    Effect { registers: d.iter().enumerate().map(result).collect(), bytes: Vec::new() }
}

fn wmma(shadow: &Shadow, m: &Wmma) -> Effect {
    let mut product = Product::new();
    for (number, (fragment, words)) in [&m.a, &m.b, &m.c].into_iter().enumerate() {
        let per_word = per_word(*fragment);
        let distinct = usize::from(fragment.rows) * usize::from(fragment.columns) / LANES;
        for (r, word) in words.iter().enumerate().take(fragment.registers.into()) {
            each(shadow, *word, per_word, |lane, half, origin| {
                let index = r * per_word + half;
                if index < distinct {
                    let (row, column) = element(*fragment, lane, index);
                    match number {
                        0 => product.rows[row] = Some(origin),
                        1 => product.columns[column] = Some(origin),
                        _ => product.sums[row * EDGE + column] = Some(origin),
                    }
                }
            });
        }
    }
    let (fragment, words) = &m.d;
    let per_word = per_word(*fragment);
    let result = |(r, word): (usize, &_)| {
        let at = |lane, index| element(*fragment, lane, r * per_word + index);
        product.result(Slot::Word(*word), per_word, at)
    };
    let registers = words.iter().enumerate().take(fragment.registers.into()).map(result).collect();
    Effect { registers, bytes: Vec::new() }
}

/// `ldmatrix` and `stmatrix`.
pub(super) fn access(m: &MatrixAccess, warp: &Warp, lanes: Lanes, spaces: &Spaces<'_>) -> Option<Effect> {
    const ROW_BYTES: usize = 16;
    let count = usize::from(m.count);
    let givers = Lanes { mask: lanes.mask & (u32::MAX >> (32 - 8 * count)), all: false };
    let addresses = effective(&warp.registers, m.address);
    let mut request = Request { space: m.space, addresses, size: ROW_BYTES, verb: "read" };
    let span = spaces.resolve(givers, &mut request).ok()?;
    let mut effect = Effect::default();
    for (matrix, slot) in m.registers.iter().enumerate().take(count) {
        let place = |row: usize| span.place(8 * matrix + row, ROW_BYTES);
        if m.is_store {
            let bytes = |row| {
                let (lane, place) = (8 * matrix + row, place(row));
                Bytes::new(lane, place, ROW_BYTES)
            };
            let mut rows: [Bytes; 8] = std::array::from_fn(bytes);
            each(&warp.shadow, *slot, 2, |lane, half, origin| {
                let (row, column) = row_element(lane, half, m.transposed);
                rows[row].undefined |= 0b11 << (2 * column);
                rows[row].origin = origin;
            });
            effect.bytes.extend(rows);
            continue;
        }
        let rows: [u64; 8] = std::array::from_fn(|row| spaces.undefined_bytes(place(row), ROW_BYTES));
        let mut value = Undefined::NONE;
        for (lane, half) in (0..LANES).flat_map(|lane| [(lane, 0), (lane, 1)]) {
            let (row, column) = row_element(lane, half, m.transposed);
            let own = rows[row] & 0b11 << (2 * column);
            if own != 0 {
                let origin = spaces.origin_of(place(row), own, 8 * matrix + row);
                value.put(lane, widened(own >> (2 * column)) << (16 * half), origin);
            }
        }
        effect.registers.push((Slot::Word(*slot), value));
    }
    Some(effect)
}

/// `wmma.load` and `wmma.store`.
pub(super) fn wmma_access(m: &WmmaAccess, warp: &Warp, lanes: Lanes, spaces: &Spaces<'_>) -> Option<Effect> {
    let per_word = per_word(m.fragment);
    let size = 4 / per_word;
    let distinct = usize::from(m.fragment.rows) * usize::from(m.fragment.columns) / LANES;
    let used = usize::from(m.fragment.registers);
    let mut values = vec![Undefined::NONE; used];
    let mut effect = Effect::default();
    for index in 0..distinct {
        let addresses = addresses(&warp.registers, m, index);
        let mut request = Request { space: m.space, addresses, size, verb: "read" };
        let span = spaces.resolve(lanes, &mut request).ok()?;
        let (word, shift) = (index / per_word, 8 * size * (index % per_word));
        for lane in lanes.iter() {
            let place = span.place(lane, size);
            if m.is_store {
                let source = warp.shadow.undefined(m.words[word]);
                let own = source.map_or(0, |s| s.bits[lane] >> shift) & (u64::MAX >> (64 - 8 * size));
                let origin = source.map_or(Origin::default(), |s| s.origins[lane]);
                let undefined = if own == 0 { 0 } else { (1 << size) - 1 };
                effect.bytes.push(Bytes { undefined, origin, ..Bytes::new(lane, place, size) });
                continue;
            }
            let undefined = spaces.undefined_bytes(place, size);
            if undefined != 0 {
                let origin = spaces.origin_of(place, undefined, lane);
                for again in (index..used * per_word).step_by(distinct) {
                    values[again / per_word].put(lane, widened(undefined) << (8 * size * (again % per_word)), origin);
                }
            }
        }
    }
    if !m.is_store {
        effect.registers = m.words.iter().zip(values).map(|(word, value)| (Slot::Word(*word), value)).collect();
    }
    Some(effect)
}

/// The bits of an element in its register; a single one has it all.
fn place_of(per_word: usize, index: usize) -> u64 {
    let width = 32 / per_word;
    if per_word == 1 { u64::MAX } else { (u64::MAX >> (64 - width)) << (width * index) }
}

/// Calls `visit` for each undefined element of a register.
fn each(shadow: &Shadow, slot: impl Into<Slot>, per_word: usize, mut visit: impl FnMut(usize, usize, Origin)) {
    let Some(undefined) = shadow.undefined(slot) else { return };
    for (lane, bits) in undefined.bits.iter().enumerate() {
        for index in 0..per_word {
            if bits & place_of(per_word, index) != 0 {
                visit(lane, index, undefined.origins[lane]);
            }
        }
    }
}
