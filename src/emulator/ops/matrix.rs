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
use crate::emulator::run::vectors;
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
    // Compiled for the processor's vectors: this is most of what a matrix kernel costs.
    vectors().dispatch(Multiplication { registers, lanes, m, core });
}

struct Multiplication<'a> {
    registers: &'a mut Registers,
    lanes: Lanes,
    m: &'a Mma,
    core: TensorCore,
}

impl pulp::WithSimd for Multiplication<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { registers, lanes, m, core } = self;
        multiply_fragments(registers, lanes, m, core);
    }
}

#[inline(always)]
fn multiply_fragments(registers: &mut Registers, lanes: Lanes, m: &Mma, core: TensorCore) {
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
    // Lane `lane` holds this row and column of the result in its register `i`.
    let place = |lane: usize, i: usize| (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
    let c = |lane: usize, i: usize| {
        if m.half_sums {
            decode_half(false, (registers.word(m.c[i / 2])[lane] >> (16 * (i % 2))) as u16)
        } else {
            f64::from(f32::from_bits(registers.word(m.c[i])[lane]))
        }
    };
    let mut sums = [[0.0; 8]; 16];
    for lane in 0..LANES {
        for i in 0..4 {
            let (row, column) = place(lane, i);
            sums[row][column] = c(lane, i);
        }
    }
    if m.half_sums {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                let products: [Term; 16] = std::array::from_fn(|step| a[row][step].times(b[step][column]));
                *sum = dot_half(core, *sum, &products[..k]);
            }
        }
    } else {
        multiply(core, &a, &b, k, &mut sums);
    }
    let out: [[u32; LANES]; 4] = std::array::from_fn(|r| {
        std::array::from_fn(|lane| {
            let result = |i| {
                let (row, column) = place(lane, i);
                sums[row][column]
            };
            if m.half_sums {
                let half = |i| u32::from(encode_half(false, Rounding::Nearest, result(i)));
                return if r < 2 { half(2 * r) | half(2 * r + 1) << 16 } else { 0 };
            }
            super::float::canonical(result(r) as f32)
        })
    });
    for (d, out) in m.d.iter().zip(&out).take(if m.half_sums { 2 } else { 4 }) {
        registers.set_word(*d, lanes, *out);
    }
}

/// What [`dot`] gives for each of `sums`, a row at a time.
#[inline(always)]
fn multiply(core: TensorCore, a: &[[Term; 16]; 16], b: &[[Term; 8]; 16], k: usize, sums: &mut [[f64; 8]; 16]) {
    let is_finite = |term: &Term| term.value.is_finite();
    let finite_b = b[..k].iter().flatten().all(is_finite);
    for (a, sums) in a.iter().zip(sums) {
        for (a, b) in a[..k].chunks(core.step).zip(b[..k].chunks(core.step)) {
            let finite_sums = sums.iter().all(|sum| sum.is_finite());
            // Zeros change no sum but that of negative zeros.
            let zeros = a.iter().all(|term| term.value == 0.0);
            if zeros && finite_b && finite_sums && !sums.iter().any(|sum| *sum == 0.0 && sum.is_sign_negative()) {
                continue;
            }
            if finite_b && finite_sums && a.iter().all(is_finite) {
                add_finite(core, a, b, sums);
            } else {
                for (column, sum) in sums.iter_mut().enumerate() {
                    let mut products = [Term::ZERO; 16];
                    products.iter_mut().zip(a.iter().zip(b)).for_each(|(p, (a, b))| *p = a.times(b[column]));
                    *sum = add(core, *sum, &products[..a.len()]);
                }
            }
        }
    }
}

/// [`add`] for a row of eight sums, if every number is finite.
#[inline(always)]
fn add_finite(core: TensorCore, a: &[Term], b: &[[Term; 8]], sums: &mut [f64; 8]) {
    const NONE: i32 = i32::MIN;
    let of_sums: [Term; 8] = sums.map(|sum| Term::new(sum, Dtype::F32.min_exponent()));
    let mut largest = of_sums.map(|sum| if sum.value == 0.0 { NONE } else { sum.exponent });
    for (a, b) in a.iter().zip(b) {
        for (largest, b) in largest.iter_mut().zip(b) {
            let product = a.times(*b);
            *largest = (*largest).max(if product.value == 0.0 { NONE } else { product.exponent });
        }
    }
    let shift = largest.map(|largest| if largest == NONE { 0 } else { core.fraction_bits as i32 - largest });
    let up = shift.map(power_of_two);
    // Whole numbers below 2^32, whose sum is exact.
    let mut total: [f64; 8] = std::array::from_fn(|column| (sums[column] * up[column]).trunc());
    for (a, b) in a.iter().zip(b) {
        for ((total, b), up) in total.iter_mut().zip(b).zip(&up) {
            *total += (a.value * b.value * up).trunc();
        }
    }
    for (column, sum) in sums.iter_mut().enumerate() {
        // A sum of zeros is zero, positive unless all of them are negative.
        let negative = |x: f64| x.is_sign_negative();
        let all_negative = || negative(*sum) && a.iter().zip(b).all(|(a, b)| negative(a.value * b[column].value));
        *sum = if largest[column] == NONE {
            if all_negative() { -0.0 } else { 0.0 }
        } else {
            cut(total[column] * power_of_two(-shift[column]))
        };
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
    cut(aligned_sum(core, sum, products))
}

/// `total` cut to f32.
#[inline(always)]
fn cut(total: f64) -> f64 {
    /// Bits of a f64 that a normal f32 has no room for.
    const BELOW_F32: u64 = (1 << 29) - 1;
    if (2f64.powi(-126)..2f64.powi(128)).contains(&total.abs()) {
        return f64::from_bits(total.to_bits() & !BELOW_F32);
    }
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
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Numbers of 16 bits, often zero, of either sign, subnormal, infinite or not a number.
    fn numbers() -> impl Strategy<Value = u16> {
        prop_oneof![4 => any::<u16>(), 4 => 0x3800..0x4200u16, 2 => Just(0), 1 => Just(0x8000), 1 => 0..0x400u16]
    }

    proptest! {
        #[test]
        fn a_row_of_sums_is_its_sums(
            (is_bf16, is_hopper, k8) in any::<(bool, bool, bool)>(),
            a in vec(numbers(), 16 * 16),
            b in vec(numbers(), 16 * 8),
            c in vec(prop_oneof![any::<u32>(), Just(0), Just(1 << 31), 0x3f00_0000..0x4000_0000u32], 16 * 8),
            empty_rows in any::<u16>(),
        ) {
            let (format, core) = (
                if is_bf16 { Factor::Bf16 } else { Factor::F16 },
                if is_hopper { TensorCore::HOPPER } else { TensorCore::AMPERE },
            );
            let k = if k8 { 8 } else { 16 };
            let term = |bits: u16| factor(format, bits.into());
            let mut a: [[Term; 16]; 16] = std::array::from_fn(|row| std::array::from_fn(|step| term(a[16 * row + step])));
            for (row, a) in a.iter_mut().enumerate().filter(|(row, _)| empty_rows >> row & 1 == 1) {
                *a = [if row % 2 == 0 { Term::ZERO } else { term(0x8000) }; 16];
            }
            let b: [[Term; 8]; 16] = std::array::from_fn(|step| std::array::from_fn(|column| term(b[8 * step + column])));
            let sum = |row: usize, column: usize| f64::from(f32::from_bits(c[8 * row + column]));
            let c: [[f64; 8]; 16] = std::array::from_fn(|row| std::array::from_fn(|column| sum(row, column)));
            let mut sums = c;
            multiply(core, &a, &b, k, &mut sums);
            for row in 0..16 {
                for column in 0..8 {
                    let products: [Term; 16] = std::array::from_fn(|step| a[row][step].times(b[step][column]));
                    let expected = dot(core, c[row][column], &products[..k]);
                    let found = sums[row][column];
                    prop_assert!(
                        found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                        "row {row}, column {column}: expected {expected}, found {found}"
                    );
                }
            }
        }
    }

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
