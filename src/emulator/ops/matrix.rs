//! `ldmatrix`, `stmatrix` and `mma.sync` of floats below f64.
//!
//! Tensor cores don't round each addition: they align all products and the accumulator to the largest exponent, cut
//! each to a fixed number of bits, add exactly and cut the result (Fasi et al., "Numerical behavior of NVIDIA tensor
//! cores", 2021). A product isn't normalised first: its exponent is the sum of its factors' (measured, see
//! docs/fidelity.md). How many bits and how many products at a time differs between generations: [`TensorCore`].

use super::LANES;
use super::half::{decode_half, encode_half};
use super::memory::{effective, read, write};
use crate::emulator::check::Fault;
use crate::emulator::spaces::{Request, Spaces};
use crate::emulator::warp::{Lanes, Registers};
use crate::float::Dtype;
use crate::float::fused::{Direction, to_f32_directed};
use crate::ptx::op::{Factor, MatrixAccess, Mma, Rounding};

/// How a generation of tensor cores adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorCore {
    /// Bits kept below the largest exponent.
    pub fraction_bits: u32,
    /// Products added at a time; longer sums go in steps of it.
    pub step: usize,
}

impl TensorCore {
    /// sm_80 to sm_89.
    pub const AMPERE: Self = Self { fraction_bits: 24, step: 8 };
    /// sm_90 and later.
    pub const HOPPER: Self = Self { fraction_bits: 25, step: 16 };

    /// That of a `.target`, such as `sm_90a`: [`Self::HOPPER`] from sm_90 on, [`Self::AMPERE`] before.
    pub fn of_target(target: &str) -> Self {
        let digits: String =
            target.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        if digits.parse::<u32>().is_ok_and(|arch| arch >= 90) { Self::HOPPER } else { Self::AMPERE }
    }
}

/// `ldmatrix`/`stmatrix`: lanes 8j to 8j+7 give the addresses of the rows of matrix j.
pub(in crate::emulator) fn access(
    spaces: &mut Spaces<'_>,
    registers: &mut Registers,
    lanes: Lanes,
    m: &MatrixAccess,
) -> Result<(), Box<Fault>> {
    const ROW_BYTES: usize = 16;
    let count = usize::from(m.count);
    let givers = Lanes { mask: lanes.mask & (u32::MAX >> (32 - 8 * count)), all: false };
    let verb = if m.is_store { "wrote" } else { "read" };
    let addresses = effective(registers, m.address);
    let mut request = Request { space: m.space, addresses, size: ROW_BYTES, verb };
    let span = spaces.resolve(givers, &mut request)?;
    if m.is_store {
        spaces.mark_written(givers, &span, ROW_BYTES)?;
    } else {
        spaces.check_initialised(givers, &span, ROW_BYTES)?;
        spaces.check_read_races(givers, &span, ROW_BYTES, false, false)?;
    }
    for (matrix, register) in m.registers.iter().enumerate().take(count) {
        let mut elements = [[0u16; 8]; 8];
        if m.is_store {
            let fragment = *registers.word(*register);
            for (lane, word) in fragment.iter().enumerate() {
                for half in 0..2 {
                    let (row, column) = element(lane, half, m.transposed);
                    elements[row][column] = (word >> (16 * half)) as u16;
                }
            }
        }
        for (row, elements) in elements.iter_mut().enumerate() {
            let lane = 8 * matrix + row;
            let place = span.place(lane, ROW_BYTES);
            if m.is_store {
                let mut bytes = [0; ROW_BYTES];
                for (bytes, element) in bytes.chunks_exact_mut(2).zip(elements.iter()) {
                    write(bytes, u64::from(*element));
                }
                spaces.check_write_race(place, lane, &bytes, false)?;
                spaces.segment_mut(place).bytes[place.offset..place.offset + ROW_BYTES].copy_from_slice(&bytes);
            } else {
                let bytes = &spaces.segment(place).bytes[place.offset..place.offset + ROW_BYTES];
                for (bytes, element) in bytes.chunks_exact(2).zip(elements) {
                    *element = read(bytes) as u16;
                }
            }
        }
        if !m.is_store {
            let fragment = std::array::from_fn(|lane| {
                let half = |half| {
                    let (row, column) = element(lane, half, m.transposed);
                    u32::from(elements[row][column])
                };
                half(0) | half(1) << 16
            });
            registers.set_word(*register, lanes, fragment);
        }
    }
    Ok(())
}

/// Row and column of a lane's lower (0) or upper (1) half.
pub(in crate::emulator) fn element(lane: usize, half: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, lane % 4 * 2 + half);
    if transposed { (column, row) } else { (row, column) }
}

/// `mma.sync.m16n8k*`.
pub(in crate::emulator) fn mma(registers: &mut Registers, lanes: Lanes, m: &Mma, core: TensorCore) {
    let k = usize::from(m.k);
    let mut a = [[Term::ZERO; 16]; 16];
    let mut b = [[Term::ZERO; 8]; 16];
    for lane in 0..LANES {
        let (group, member) = (lane / 4, lane % 4);
        if m.factor == Factor::Tf32 {
            let value = |bits: u32| factor(m.factor, bits);
            for (r, word) in m.a.iter().enumerate().take(k / 2) {
                a[group + 8 * (r % 2)][member + 4 * (r / 2)] = value(registers.word(*word)[lane]);
            }
            for (r, word) in m.b.iter().enumerate().take(k / 4) {
                b[member + 4 * r][group] = value(registers.word(*word)[lane]);
            }
        } else {
            for half in 0..2 {
                let value = |bits: u32| factor(m.factor, bits >> (16 * half) & 0xffff);
                for (r, word) in m.a.iter().enumerate().take(k / 4) {
                    a[group + 8 * (r % 2)][member * 2 + 8 * (r / 2) + half] = value(registers.word(*word)[lane]);
                }
                for (r, word) in m.b.iter().enumerate().take(k / 8) {
                    b[member * 2 + 8 * r + half][group] = value(registers.word(*word)[lane]);
                }
            }
        }
    }
    let result = |lane: usize, i: usize| {
        let (row, column) = (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
        let before = if m.half_sums {
            decode_half(false, (registers.word(m.c[i / 2])[lane] >> (16 * (i % 2))) as u16)
        } else {
            f64::from(f32::from_bits(registers.word(m.c[i])[lane]))
        };
        let mut products = [Term::ZERO; 16];
        for (step, product) in products.iter_mut().enumerate().take(k) {
            *product = a[row][step].times(b[step][column]);
        }
        if m.half_sums { dot_half(core, before, &products[..k]) } else { dot(core, before, &products[..k]) }
    };
    let out: [[u32; LANES]; 4] = std::array::from_fn(|r| {
        std::array::from_fn(|lane| {
            if m.half_sums {
                let half = |i| u32::from(encode_half(false, Rounding::Nearest, result(lane, i)));
                return if r < 2 { half(2 * r) | half(2 * r + 1) << 16 } else { 0 };
            }
            super::float::canonical(result(lane, r) as f32)
        })
    });
    for (d, out) in m.d.iter().zip(&out).take(if m.half_sums { 2 } else { 4 }) {
        registers.set_word(*d, lanes, *out);
    }
}

/// A number with the exponent that alignment goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    value: f64,
    exponent: i32,
}

impl Term {
    pub(super) const ZERO: Self = Self { value: 0.0, exponent: 0 };

    /// Subnormals of a format count as having its smallest exponent.
    fn new(value: f64, smallest_exponent: i32) -> Self {
        let exponent = (value.to_bits() >> 52 & 0x7ff) as i32 - 1023;
        Self { value, exponent: exponent.max(smallest_exponent) }
    }

    /// The exact product.
    pub(super) fn times(self, other: Self) -> Self {
        Self { value: self.value * other.value, exponent: self.exponent + other.exponent }
    }
}

/// A factor of the given format from the low bits of a register.
pub(super) fn factor(format: Factor, bits: u32) -> Term {
    match format {
        Factor::F16 => Term::new(decode_half(false, bits as u16), Dtype::F16.min_exponent()),
        Factor::Bf16 => Term::new(decode_half(true, bits as u16), Dtype::Bf16.min_exponent()),
        Factor::Tf32 => Term::new(f64::from(f32::from_bits(bits & !0x1fff)), Dtype::F32.min_exponent()),
    }
}

/// A sum along k, in the tensor core's steps.
pub(super) fn dot(core: TensorCore, before: f64, products: &[Term]) -> f64 {
    products.chunks(core.step).fold(before, |sum, products| add(core, sum, products))
}

/// A sum for an f16 result, which is rounded from the last step's whole sum.
pub(super) fn dot_half(core: TensorCore, before: f64, products: &[Term]) -> f64 {
    let (first, last) = products.split_at((products.len() - 1) / core.step * core.step);
    aligned_sum(core, dot(core, before, first), last)
}

/// One step, cut to f32.
fn add(core: TensorCore, sum: f64, products: &[Term]) -> f64 {
    let total = aligned_sum(core, sum, products);
    // What is too large for f32 becomes infinite, although the rest is cut.
    if total.abs() >= 2f64.powi(128) {
        return f64::INFINITY.copysign(total);
    }
    f64::from(to_f32_directed(total, Direction::Zero))
}

/// Align, cut, add.
fn aligned_sum(core: TensorCore, sum: f64, products: &[Term]) -> f64 {
    let terms = || products.iter().copied().chain(std::iter::once(Term::new(sum, Dtype::F32.min_exponent())));
    if terms().any(|t| !t.value.is_finite()) {
        return terms().map(|t| t.value).sum();
    }
    let Some(largest) = terms().filter(|t| t.value != 0.0).map(|t| t.exponent).max() else {
        return terms().map(|t| t.value).sum();
    };
    let shift = core.fraction_bits as i32 - largest;
    let (up, down) = (power_of_two(shift), power_of_two(-shift));
    let total: i64 = terms().map(|t| (t.value * up) as i64).sum();
    total as f64 * down
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).clamp(1, 2046) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_choose_their_tensor_cores() {
        let found = ["sm_75", "sm_89", "sm_90a", "sm_100", "", "sm_"].map(TensorCore::of_target);
        assert_eq!(found.map(|core| core == TensorCore::HOPPER), [false, false, true, true, false, false]);
    }

    #[test]
    fn a_product_is_aligned_by_its_factors_exponents() {
        // 1.5 * 1.5 counts as 2^0, so that 2^-25 is the last bit kept, although the product reaches 2^1.
        let term = |a: f64, b: f64| Term::new(a, -14).times(Term::new(b, -14));
        let small = term(2f64.powi(-12), 2f64.powi(-13));
        let sum = |products: &[Term]| dot(TensorCore::HOPPER, 0.0, products);
        assert_eq!(sum(&[term(1.5, 1.5), small, term(-1.5, 1.5)]), 2f64.powi(-25));
        assert_eq!(sum(&[term(2.0, 1.0), small, term(-2.0, 1.0)]), 0.0);
    }
}
