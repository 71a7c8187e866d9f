//! `mma.sync` of integers, bits and f64, whose sums don't depend on the generation of tensor cores.

use super::LANES;
use super::float::direction;
use super::wide::fma;
use crate::emulator::warp::{Lanes, Registers};
use crate::ptx::op::{IntegerElement, MmaDouble, MmaInteger};

/// Words of a row of `a`, or a column of `b`, at most.
const CHUNKS: usize = 8;

/// Exact sums, which wrap around or saturate.
pub(in crate::emulator) fn mma_integer(registers: &mut Registers, lanes: Lanes, m: &MmaInteger) {
    let row_halves = usize::from(m.rows) / 8;
    let chunks = usize::from(m.words_of_a_row);
    let mut a = [[0u32; CHUNKS]; 16];
    let mut b = [[0u32; CHUNKS]; 8];
    for lane in 0..LANES {
        let (group, member) = (lane / 4, lane % 4);
        for chunk in 0..chunks / 4 {
            for half in 0..row_halves {
                let word = m.a[chunk * row_halves + half];
                a[group + 8 * half][chunk * 4 + member] = registers.word(word)[lane];
            }
            b[group][chunk * 4 + member] = registers.word(m.b[chunk])[lane];
        }
    }
    let out: [[u32; LANES]; 4] = std::array::from_fn(|i| {
        std::array::from_fn(|lane| {
            let (row, column) = (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
            let pairs = a[row].iter().zip(&b[column]).take(chunks);
            let products: i64 = pairs.map(|(a, b)| products(m.element, *a, *b)).sum();
            let sum = products + i64::from(registers.word(m.c[i])[lane] as i32);
            let sum = if m.saturates { sum.clamp(i32::MIN.into(), i32::MAX.into()) } else { sum };
            sum as u32
        })
    });
    for (d, out) in m.d.iter().zip(out).take(2 * row_halves) {
        registers.set_word(*d, lanes, out);
    }
}

/// The sum of the products of the elements of two words.
fn products(element: IntegerElement, a: u32, b: u32) -> i64 {
    let value = |signed: bool, bits: u32, word: u32, i: u32| {
        let top = word << (32 - bits * (i + 1));
        if signed { i64::from(top as i32 >> (32 - bits)) } else { i64::from(top >> (32 - bits)) }
    };
    match element {
        IntegerElement::Xor => (a ^ b).count_ones().into(),
        IntegerElement::And => (a & b).count_ones().into(),
        IntegerElement::Bits { bits, a_signed, b_signed } => {
            let bits = u32::from(bits);
            (0..32 / bits).map(|i| value(a_signed, bits, a, i) * value(b_signed, bits, b, i)).sum()
        }
    }
}

/// f64: fused multiply-adds along k. The manual leaves their order open.
pub(in crate::emulator) fn mma_double(registers: &mut Registers, lanes: Lanes, m: &MmaDouble) {
    let row_halves = usize::from(m.rows) / 8;
    let way = direction(m.rounding);
    let out: [[u64; LANES]; 4] = std::array::from_fn(|i| {
        if i >= 2 * row_halves {
            return [0; LANES];
        }
        let c = registers.wide(m.c[i]);
        std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, lane % 4 * 2 + i % 2);
            let term = |k: usize| {
                let a = registers.wide(m.a[k / 4 * row_halves + i / 2])[row * 4 + k % 4];
                let b = registers.wide(m.b[k / 4])[column * 4 + k % 4];
                (a, b)
            };
            let terms = (0..usize::from(m.k)).map(term);
            terms.fold(c[lane], |sum, (a, b)| fma(a, b, sum, way))
        })
    });
    for (d, out) in m.d.iter().zip(out).take(2 * row_halves) {
        registers.set_wide(*d, lanes, out);
    }
}
