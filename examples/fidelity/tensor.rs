//! How the device's `mma.sync` accumulates: how many fractional bits it keeps, how it cuts them off, how many products
//! it adds at a time.
//!
//! The method is that of Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores" (2021): sums of
//! a large term, its negation and small terms. Random sums then pick, among simple models, those that give every bit.

use crate::forms::device::run;
use crate::forms::form::{BLOCK, Form, forms};
use crate::forms::operands::Random;
use attnfuzz::backend::cuda_raw::RawCuda;
use attnfuzz::float::Dtype;
use std::error::Error;
use std::fmt::Write;

/// A shape and input format, with the start of its form's name.
struct Unit {
    name: &'static str,
    prefix: &'static str,
    depth: usize,
    format: Input,
}

#[derive(Clone, Copy, PartialEq)]
enum Input {
    Half(Dtype),
    Tf32,
}

const UNITS: [Unit; 5] = [
    Unit {
        name: "f16 m16n8k8",
        prefix: "mma.sync.aligned.m16n8k8.row.col.f32.f16",
        depth: 8,
        format: Input::Half(Dtype::F16),
    },
    Unit {
        name: "f16 m16n8k16",
        prefix: "mma.sync.aligned.m16n8k16.row.col.f32.f16",
        depth: 16,
        format: Input::Half(Dtype::F16),
    },
    Unit {
        name: "bf16 m16n8k8",
        prefix: "mma.sync.aligned.m16n8k8.row.col.f32.bf16",
        depth: 8,
        format: Input::Half(Dtype::Bf16),
    },
    Unit {
        name: "bf16 m16n8k16",
        prefix: "mma.sync.aligned.m16n8k16.row.col.f32.bf16",
        depth: 16,
        format: Input::Half(Dtype::Bf16),
    },
    Unit { name: "tf32 m16n8k8", prefix: "mma.sync.aligned.m16n8k8.row.col.f32.tf32", depth: 8, format: Input::Tf32 },
];

/// One sum: `c` plus the products.
#[derive(Clone)]
struct Sum {
    products: Vec<(f64, f64)>,
    c: f32,
}

/// Probes every unit and writes what was found.
pub(crate) fn measure(cuda: &RawCuda, body: &mut String) -> Result<(), Box<dyn Error>> {
    let all = forms();
    for unit in &UNITS {
        let form = all.iter().find(|f| f.name.starts_with(unit.prefix)).ok_or("the table lacks a tensor form")?;
        writeln!(body, "### {}\n", unit.name)?;
        if let Err(error) = probe(cuda, unit, form, body) {
            writeln!(body, "Not measured: {error}.")?;
        }
        writeln!(body)?;
    }
    Ok(())
}

fn probe(cuda: &RawCuda, unit: &Unit, form: &Form, body: &mut String) -> Result<(), Box<dyn Error>> {
    let depth = unit.depth;
    let evaluate = |sums: &[Sum]| evaluate(cuda, unit, form, sums);
    // 1 - 1 + 2^-k in one place: the largest k that survives is the number of fractional bits kept.
    let kept_sums: Vec<Sum> = (18..=28).map(|k| sum(depth, &[(0, 1.0), (1, -1.0), (2, power(-k))], 0.0)).collect();
    let survives: Vec<bool> = evaluate(&kept_sums)?.iter().map(|v| *v != 0.0).collect();
    let kept = survives.iter().take_while(|s| **s).count() as i32 + 17;
    writeln!(
        body,
        "- Fractional bits kept below the largest term's exponent: {kept} (2^-18 to 2^-28 survive: {survives:?})."
    )?;
    let last = power(-kept);
    let cuts = [
        ("1 - 1 + 1.5 u", sum(depth, &[(0, 1.0), (1, -1.0), (2, 1.5 * last)], 0.0)),
        ("1 - 1 - 1.5 u", sum(depth, &[(0, 1.0), (1, -1.0), (2, -1.5 * last)], 0.0)),
        ("1 - 1 + 0.75 u + 0.75 u", sum(depth, &[(0, 1.0), (1, -1.0), (2, 0.75 * last), (3, 0.75 * last)], 0.0)),
        ("c = 1, then - 1 + 1.5 u", sum(depth, &[(0, -1.0), (1, 1.5 * last)], 1.0)),
        ("c = 0.75 u, then 1 - 1", sum(depth, &[(0, 1.0), (1, -1.0)], (0.75 * last) as f32)),
        ("c = 1.5 u, then 1 - 1", sum(depth, &[(0, 1.0), (1, -1.0)], (1.5 * last) as f32)),
    ];
    let sums: Vec<Sum> = cuts.iter().map(|(_, s)| s.clone()).collect();
    for ((what, _), value) in cuts.iter().zip(evaluate(&sums)?) {
        writeln!(body, "- {what} = {} u, with u = 2^-{kept}.", f64::from(value) / last)?;
    }
    // How the sum becomes an f32: 1 plus parts of its last bit, and of the last bit of 2.
    let ends: Vec<(f64, Sum)> = [0.5, 0.75, 1.5, 1.75]
        .into_iter()
        .flat_map(|part| [1.0, -1.0].map(|sign| (sign * part, sign)))
        .map(|(part, sign)| (part, sum(depth, &[(0, sign), (1, part * power(-23))], 0.0)))
        .collect();
    let sums: Vec<Sum> = ends.iter().map(|(_, s)| s.clone()).collect();
    let told: Vec<String> = ends
        .iter()
        .zip(evaluate(&sums)?)
        .map(|((part, _), v)| format!("{part} gives {}", (f64::from(v) - part.signum()) * power(23)))
        .collect();
    writeln!(body, "- 1 (or -1) plus parts of 2^-23: {}.", told.join(", "))?;
    // A small term survives 1 - 1 only if it is added after the two cancelled: which places go together?
    let place = |pair: usize| {
        (0..depth)
            .filter(move |j| *j != pair && *j != pair + 1)
            .map(move |j| (j, sum(depth, &[(pair, 1.0), (pair + 1, -1.0), (j, power(-kept - 2))], 0.0)))
    };
    for pair in (0..depth).step_by(2) {
        let (places, sums): (Vec<usize>, Vec<Sum>) = place(pair).unzip();
        let kept: Vec<usize> =
            places.into_iter().zip(evaluate(&sums)?).filter(|(_, v)| *v != 0.0).map(|(j, _)| j).collect();
        writeln!(body, "- 1 - 1 at places {pair} and {}: a small term survives at places {kept:?}.", pair + 1)?;
    }
    models(unit, body, &evaluate)
}

type Evaluate<'e> = &'e dyn Fn(&[Sum]) -> Result<Vec<f32>, String>;

fn models(unit: &Unit, body: &mut String, evaluate: Evaluate<'_>) -> Result<(), Box<dyn Error>> {
    let mut random = Random(7);
    let sums: Vec<Sum> = (0..1 << 14).map(|i| random_sum(&mut random, unit, i)).collect();
    let found = evaluate(&sums)?;
    let mut shares = Vec::new();
    for block in [4, 8, 16].into_iter().filter(|b| *b <= unit.depth) {
        for bits in 22..=27 {
            for normalised in [false, true] {
                for nearest in [false, true] {
                    let model = Model { block, bits, normalised, nearest };
                    let equal =
                        sums.iter().zip(&found).filter(|(s, v)| model.sum(unit, s).to_bits() == v.to_bits()).count();
                    shares.push((equal, model));
                }
            }
        }
    }
    shares.sort_by_key(|(equal, _)| std::cmp::Reverse(*equal));
    writeln!(body, "\nModels of {} random sums, by the share of bit-equal results:\n", sums.len())?;
    writeln!(body, "| products a step | fractional bits | aligned to | result | bit-equal |\n|---|---|---|---|---|")?;
    for (equal, Model { block, bits, normalised, nearest }) in &shares[..6.min(shares.len())] {
        let aligned = if *normalised { "normalised product" } else { "sum of exponents" };
        let result = if *nearest { "nearest" } else { "truncated" };
        writeln!(
            body,
            "| {block} | {bits} | {aligned} | {result} | {:.4} % |",
            *equal as f64 * 100.0 / sums.len() as f64
        )?;
    }
    Ok(())
}

/// Products and accumulator are aligned to the largest exponent, truncated, added exactly; then the next step.
#[derive(Clone, Copy)]
struct Model {
    block: usize,
    bits: i32,
    /// The exponent of a product is that of its value rather than the sum of its factors' exponents.
    normalised: bool,
    nearest: bool,
}

impl Model {
    fn sum(self, unit: &Unit, sum: &Sum) -> f32 {
        let mut accumulator = sum.c;
        for products in sum.products.chunks(self.block) {
            let own = |(a, b): &(f64, f64)| {
                let sum = floor_log(*a, unit) + floor_log(*b, unit);
                (a * b, if self.normalised { exponent(a * b) } else { sum })
            };
            let mut terms: Vec<(f64, i32)> = products.iter().map(own).collect();
            terms.push((f64::from(accumulator), exponent(f64::from(accumulator)).max(-126)));
            let Some(top) = terms.iter().filter(|(v, _)| *v != 0.0).map(|(_, e)| *e).max() else { continue };
            let unit = power(top - self.bits);
            let total: f64 = terms.iter().map(|(v, _)| (v / unit).trunc()).sum::<f64>() * unit;
            accumulator = total as f32;
            if !self.nearest && f64::from(accumulator).abs() > total.abs() {
                accumulator = f32::from_bits(accumulator.to_bits() - 1);
            }
        }
        accumulator
    }
}

fn floor_log(x: f64, unit: &Unit) -> i32 {
    let lowest = match unit.format {
        Input::Half(dtype) => dtype.min_exponent(),
        Input::Tf32 => -126,
    };
    exponent(x).max(lowest)
}

fn exponent(x: f64) -> i32 {
    if x == 0.0 { -1022 } else { ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023 }
}

fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// A sum with values at some places; each value is split into two factors the formats hold.
fn sum(depth: usize, values: &[(usize, f64)], c: f32) -> Sum {
    let mut products = vec![(0.0, 0.0); depth];
    for (place, value) in values {
        let half = exponent(*value) / 2;
        products[*place] = (value / power(half), power(half));
    }
    Sum { products, c }
}

fn random_sum(random: &mut Random, unit: &Unit, index: usize) -> Sum {
    let bits = match unit.format {
        Input::Half(dtype) => dtype.precision_bits() - 1,
        Input::Tf32 => 10,
    };
    let spread = [1, 3, 6, 10][index % 4];
    let mut number = |bits: u32, spread: i64| {
        let fraction = (random.bits() >> (64 - bits)) as f64 / f64::from(1u32 << bits);
        let scale = power((random.below(2 * spread as u64 + 1) as i64 - spread) as i32);
        let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
        sign * (1.0 + fraction) * scale
    };
    let mut products: Vec<(f64, f64)> = (0..unit.depth).map(|_| (number(bits, spread), number(bits, spread))).collect();
    let c = if index.is_multiple_of(3) { 0.0 } else { number(23, 2 * spread) as f32 };
    if index % 5 == 1 {
        // Leave few terms, and cancel the first.
        products.iter_mut().skip(4).for_each(|p| *p = (0.0, 0.0));
        products[unit.depth - 1] = (-products[0].0, products[0].1);
    }
    Sum { products, c }
}

/// Each sum in row 0, column 0 of a warp's product.
fn evaluate(cuda: &RawCuda, unit: &Unit, form: &Form, sums: &[Sum]) -> Result<Vec<f32>, String> {
    let warps = sums.len().next_multiple_of(BLOCK / 32);
    let mut cases = Vec::with_capacity(warps * 32);
    for warp in 0..warps {
        for lane in 0..32 {
            cases.push(fragments(unit, sums.get(warp), lane, form.inputs.len()));
        }
    }
    let results = run(cuda, form, &cases)?;
    Ok((0..sums.len()).map(|warp| f32::from_bits(results[warp * 32][0] as u32)).collect())
}

/// A lane's registers: A, B, C as the manual lays them out. Only row 0 of A, column 0 of B are not zero.
fn fragments(unit: &Unit, sum: Option<&Sum>, lane: usize, registers: usize) -> Vec<u64> {
    let mut words = vec![0; registers];
    let Some(sum) = sum else { return words };
    let (group, thread) = (lane / 4, lane % 4);
    if group != 0 {
        return words;
    }
    if lane == 0 {
        words[registers - 4] = u64::from(sum.c.to_bits());
    }
    let a_words = if unit.depth == 8 && unit.format != Input::Tf32 { 2 } else { 4 };
    match unit.format {
        Input::Tf32 => {
            for half in 0..2 {
                let (a, b) = sum.products[thread + 4 * half];
                words[2 * half] = u64::from((a as f32).to_bits());
                words[a_words + half] = u64::from((b as f32).to_bits());
            }
        }
        Input::Half(dtype) => {
            for step in 0..unit.depth / 8 {
                let pair = [0, 1].map(|i| sum.products[step * 8 + thread * 2 + i]);
                let pack = |low: f64, high: f64| u64::from(dtype.encode(high) << 16 | dtype.encode(low));
                words[2 * step] = pack(pair[0].0, pair[1].0);
                words[a_words + step] = pack(pair[0].1, pair[1].1);
            }
        }
    }
    words
}
