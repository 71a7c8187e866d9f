//! Operand values that tell right from nearly right: zeros, subnormals, infinities, NaNs, ties, extremes, neighbours of
//! powers of two, values that cancel against an earlier operand, and plain random bits.

use super::form::{Form, Kind};

/// Deterministic random numbers (SplitMix64), the same for ever.
pub(crate) struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }
}

/// A binary floating-point format: widths of its exponent and its fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) exponent: u32,
    pub(crate) fraction: u32,
}

/// The layout of a kind, and how many values a word holds; `None` for what isn't a float.
pub(crate) fn layout(kind: Kind) -> Option<(Layout, u32)> {
    let (exponent, fraction, count) = match kind {
        Kind::F16 => (5, 10, 1),
        Kind::F16x2 => (5, 10, 2),
        Kind::Bf16 => (8, 7, 1),
        Kind::Bf16x2 => (8, 7, 2),
        Kind::F32 => (8, 23, 1),
        Kind::F64 => (11, 52, 1),
        _ => return None,
    };
    Some((Layout { exponent, fraction }, count))
}

/// At least `count` cases of a form, a multiple of `multiple`. A form of one 16-bit operand gets every value.
pub(crate) fn cases(form: &Form, count: usize, multiple: usize) -> Vec<Vec<u64>> {
    let seed =
        form.name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut random = Random(seed);
    if let [kind] = form.inputs[..]
        && kind.bits() == 16
    {
        return (0..1 << 16).map(|v| vec![v]).collect();
    }
    let pools: Vec<Vec<u64>> = form.inputs.iter().map(|k| specials(*k)).collect();
    let combinations = pools.iter().map(Vec::len).fold(1, usize::saturating_mul);
    let mut out: Vec<Vec<u64>> = Vec::with_capacity(count);
    // Every combination of special values where that leaves half the cases for the rest.
    if combinations <= count / 2 {
        for index in 0..combinations {
            let mut rest = index;
            let pick = |pool: &Vec<u64>| {
                let value = pool[rest % pool.len()];
                rest /= pool.len();
                value
            };
            out.push(pools.iter().map(pick).collect());
        }
    }
    while out.len() < count || !out.len().is_multiple_of(multiple) {
        let mut case = Vec::with_capacity(form.inputs.len());
        for (index, kind) in form.inputs.iter().enumerate() {
            let value = draw(&mut random, *kind, &pools[index], &case, &form.inputs);
            case.push(value);
        }
        out.push(case);
    }
    out
}

fn draw(random: &mut Random, kind: Kind, pool: &[u64], earlier: &[u64], kinds: &[Kind]) -> u64 {
    let Some((layout, count)) = layout(kind) else {
        return integer(random, kind, pool, earlier, kinds);
    };
    if count == 1 {
        return float(random, layout, pool, earlier, kinds, kind, 0);
    }
    let halves: Vec<u64> = specials(if kind == Kind::F16x2 { Kind::F16 } else { Kind::Bf16 });
    let low = float(random, layout, &halves, earlier, kinds, kind, 0);
    let high = float(random, layout, &halves, earlier, kinds, kind, 16);
    high << 16 | low
}

/// `shift` picks the half of packed earlier operands that the result goes with.
fn float(
    random: &mut Random,
    layout: Layout,
    pool: &[u64],
    earlier: &[u64],
    kinds: &[Kind],
    kind: Kind,
    shift: u32,
) -> u64 {
    let Layout { exponent, fraction } = layout;
    let width = 1 + exponent + fraction;
    let mask = u64::MAX >> (64 - width);
    let sign = random.below(2) << (width - 1);
    let bias = (1u64 << (exponent - 1)) - 1;
    let mantissa = random.bits() & ((1 << fraction) - 1);
    let like: Vec<u64> =
        earlier.iter().zip(kinds).filter(|(_, k)| **k == kind).map(|(v, _)| v >> shift & mask).collect();
    match random.below(10) {
        0 | 1 => pool[random.below(pool.len() as u64) as usize],
        2 => random.bits() & mask,
        3 | 4 => sign | (bias - 6 + random.below(13)) << fraction | mantissa,
        5 => {
            // Few significant bits: sums and products that are exact or ties.
            let kept = random.below(u64::from(fraction) + 1) as u32;
            sign | (bias - 6 + random.below(13)) << fraction | (mantissa >> kept << kept)
        }
        6 => sign | random.below(3) << fraction | mantissa,
        _ => {
            let Some(&other) = like.get(random.below(like.len().max(1) as u64) as usize) else {
                return sign | random.below(2 * bias + 2) << fraction | mantissa;
            };
            if like.len() == 2 && random.below(2) == 0 {
                // Cancels the product of the two before it, or nearly.
                let product = product(layout, like[0], like[1]) ^ 1 << (width - 1);
                return product.wrapping_add(random.below(5)).wrapping_sub(2) & mask;
            }
            let distance = random.below(u64::from(fraction) + 4);
            match random.below(6) {
                // Product or quotient around the smallest normal number.
                5 => {
                    let smallest = 1 << fraction;
                    let partner = if random.below(2) == 0 {
                        quotient(layout, smallest, other)
                    } else {
                        quotient(layout, other, smallest)
                    };
                    (partner ^ sign).wrapping_add(random.below(5)).wrapping_sub(2) & mask
                }
                0 => other,
                1 => other ^ 1 << (width - 1),
                2 => (other.wrapping_add(random.below(5)).wrapping_sub(2)) & mask,
                3 => other.wrapping_sub(distance << fraction) & mask,
                // A tie: one bit just below the other operand's last.
                _ => {
                    sign | (other.wrapping_sub((u64::from(fraction) + 1) << fraction))
                        & (mask >> 1)
                        & !((1 << fraction) - 1)
                }
            }
        }
    }
}

fn quotient(layout: Layout, a: u64, b: u64) -> u64 {
    match (layout.exponent, layout.fraction) {
        (11, _) => (f64::from_bits(a) / f64::from_bits(b)).to_bits(),
        (8, 23) => u64::from((f32::from_bits(a as u32) / f32::from_bits(b as u32)).to_bits()),
        (8, _) => u64::from((f32::from_bits((a as u32) << 16) / f32::from_bits((b as u32) << 16)).to_bits() >> 16),
        _ => {
            let value = |v: u64| half::f16::from_bits(v as u16).to_f32();
            u64::from(half::f16::from_f32(value(a) / value(b)).to_bits())
        }
    }
}

fn product(layout: Layout, a: u64, b: u64) -> u64 {
    match (layout.exponent, layout.fraction) {
        (11, _) => (f64::from_bits(a) * f64::from_bits(b)).to_bits(),
        (8, 23) => u64::from((f32::from_bits(a as u32) * f32::from_bits(b as u32)).to_bits()),
        (8, _) => u64::from((f32::from_bits((a as u32) << 16) * f32::from_bits((b as u32) << 16)).to_bits() >> 16),
        _ => {
            let value = |v: u64| half::f16::from_bits(v as u16).to_f32();
            u64::from(half::f16::from_f32(value(a) * value(b)).to_bits())
        }
    }
}

fn integer(random: &mut Random, kind: Kind, pool: &[u64], earlier: &[u64], kinds: &[Kind]) -> u64 {
    let mask = u64::MAX >> (64 - kind.bits());
    match kind {
        Kind::Pred => return random.below(2),
        // Without the upper bit of their exponents.
        Kind::Eight if random.below(64) != 0 => return random.bits() & 0xbfbf_bfbf,
        Kind::Shift | Kind::Bit | Kind::Few | Kind::Lane | Kind::Clamp if random.below(8) != 0 => {
            return pool[random.below(pool.len() as u64) as usize];
        }
        Kind::Few | Kind::Lane | Kind::Clamp => return pool[0],
        _ => {}
    }
    let like: Vec<u64> = earlier.iter().zip(kinds).filter(|(_, k)| **k == kind).map(|(v, _)| *v).collect();
    match random.below(8) {
        0 | 1 => pool[random.below(pool.len() as u64) as usize],
        2 => random.bits() >> random.below(64) & mask,
        3 => (random.bits() >> random.below(64)).wrapping_neg() & mask,
        4 if !like.is_empty() => {
            let other = like[random.below(like.len() as u64) as usize];
            other.wrapping_add(random.below(3)).wrapping_sub(1) & mask
        }
        5 if !like.is_empty() => like[random.below(like.len() as u64) as usize].wrapping_neg() & mask,
        _ => random.bits() & mask,
    }
}

fn specials(kind: Kind) -> Vec<u64> {
    if let Some((layout, count)) = layout(kind) {
        let values = special_floats(layout);
        return match count {
            1 => values,
            _ => values.iter().zip(values.iter().rev()).map(|(a, b)| a << 16 | b).collect(),
        };
    }
    let bits = kind.bits();
    match kind {
        Kind::Pred => vec![0, 1],
        Kind::Shift => (0..=66).chain([127, 128, 255, 256, 257, 0x1_0001, u64::from(u32::MAX), 1 << 31]).collect(),
        Kind::Bit => (0..=66).chain([127, 128, 200, 255, 256, 257, 0x120, u64::from(u32::MAX)]).collect(),
        Kind::Few => [0u32, 1, 2, 3, u32::MAX, u32::MAX - 1].map(u64::from).to_vec(),
        Kind::Lane => (0..32).collect(),
        Kind::Clamp => [0x1f, 0, 0x1c1f, 0x181f, 0x100f, 0x1c00, 0x1e01, 0x1f1f, 0x0f, 0x1803].to_vec(),
        _ => {
            let mask = u64::MAX >> (64 - bits);
            let mut values = vec![0, 1, 2, 3, 7, 10, 0x55, 0xaaaa_aaaa_aaaa_aaaa, 0x7f80, 0x0102_0408_1020_4080];
            for power in [7, 8, 15, 16, 23, 24, 31, 32, 52, 53, 62, 63] {
                let value = 1u64 << power;
                values.extend([value, value - 1, value + 1, value.wrapping_neg(), value.wrapping_neg() - 1]);
            }
            values.extend([u64::MAX, u64::MAX - 1]);
            values.iter_mut().for_each(|v| *v &= mask);
            values.sort_unstable();
            values.dedup();
            values
        }
    }
}

fn special_floats(layout: Layout) -> Vec<u64> {
    let Layout { exponent, fraction } = layout;
    let width = 1 + exponent + fraction;
    let bias = (1i64 << (exponent - 1)) - 1;
    let infinity = ((1u64 << exponent) - 1) << fraction;
    let quiet = infinity | 1 << (fraction - 1);
    let mut values = vec![0, 1, 2, 3, (1 << fraction) - 1, 1 << (fraction - 1)];
    values.extend([
        infinity - 1,
        infinity - 2,
        infinity,
        quiet,
        quiet | 5,
        infinity | 1,
        infinity | ((1 << fraction) - 1),
    ]);
    let powers = [
        -1074, -151, -150, -149, -140, -133, -127, -126, -125, -26, -25, -24, -15, -14, -13, -12, -11, -8, -2, -1, 0, 1,
    ];
    let more = [2, 3, 7, 8, 10, 11, 15, 16, 23, 24, 31, 32, 52, 53, 62, 63, 64, 125, 126, 127, 128];
    for power in powers.into_iter().chain(more) {
        let biased = power + bias;
        if biased > 0 && biased < (1 << exponent) - 1 {
            let value = (biased as u64) << fraction;
            values.extend([value - 1, value, value + 1, value | 1 << (fraction - 1), value | 1 << (fraction - 1) | 1]);
        }
    }
    if width == 16 {
        // What `fma.oob` looks for.
        values.push(0x7ff7);
    }
    values.sort_unstable();
    values.dedup();
    let negative: Vec<u64> = values.iter().map(|v| v | 1 << (width - 1)).collect();
    values.extend(negative);
    values
}
