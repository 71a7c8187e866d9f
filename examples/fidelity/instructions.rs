//! Every form on the GPU and in the emulator, bit by bit.

use crate::forms::form::{BLOCK, Class, Form, Kind, forms};
use crate::forms::operands::{self, Layout, layout};
use crate::forms::{device, emulate};
use attnfuzz::backend::cuda_raw::RawCuda;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::sync::Mutex;

const CASES: usize = 1 << 14;

/// What comparing one form gave.
struct Row {
    name: String,
    class: Class,
    cases: usize,
    equal: usize,
    /// Differing cases in which every differing result is a NaN on both sides.
    nan_only: usize,
    worst: String,
    /// Of an approximate form its worst case, of an exact one the differences number 1, 2, 4, 8 and so on.
    examples: Vec<String>,
    /// The first differing cases.
    differing: Vec<String>,
    /// Why one side has no result.
    hardware: Option<String>,
    emulator: Option<String>,
}

/// Compares every form; whether the device ran all, and all exact ones that the emulator has agree.
///
/// `rows` gets the first differing cases of each exact form.
pub(crate) fn measure(cuda: &RawCuda, body: &mut String, rows: &mut String) -> Result<bool, Box<dyn Error>> {
    let differing_rows = rows;
    let gpu = Mutex::new(());
    let rows: Vec<Row> = forms()
        .par_iter()
        .map(|form| {
            let cases = operands::cases(form, CASES, BLOCK);
            let emulated = emulate::run(form, &cases);
            let measured = {
                let _one_at_a_time = gpu.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                device::run(cuda, form, &cases)
            };
            compare(form, &cases, measured, emulated)
        })
        .collect();
    let wrong = |r: &&Row| r.class == Class::Exact && r.hardware.is_none() && r.emulator.is_none() && r.equal < r.cases;
    let count = |f: &dyn Fn(&&Row) -> bool| rows.iter().filter(f).count();
    let both = count(&|r| r.hardware.is_none() && r.emulator.is_none());
    writeln!(
        body,
        "{} forms; {both} ran on both sides, {} of them are exact and agree in every bit, {} are exact and differ; the \
         emulator lacks {}, the device refused {}.\n",
        rows.len(),
        count(&|r| r.class == Class::Exact && r.hardware.is_none() && r.emulator.is_none() && r.equal == r.cases),
        count(&|r| wrong(r)),
        count(&|r| r.emulator.is_some()),
        count(&|r| r.hardware.is_some()),
    )?;
    writeln!(
        body,
        "### Exact forms that differ\n\n| form | cases | bit-equal | differ only in NaN bits | example |\n|---|---|---|---|---|"
    )?;
    for row in rows.iter().filter(|r| wrong(r)) {
        differing_rows.extend(row.differing.iter().map(|line| format!("{line}\n")));
        let Row { name, cases, equal, nan_only, examples, .. } = row;
        writeln!(
            body,
            "| `{name}` | {cases} | {:.3} % | {nan_only} | {} |",
            percent(*equal, *cases),
            examples.join("; ")
        )?;
    }
    writeln!(
        body,
        "\n### Approximate forms and tensor cores\n\nWorst difference of hardware and emulator.\n\n| form | cases | bit-equal | worst difference | example |\n|---|---|---|---|---|"
    )?;
    for row in rows.iter().filter(|r| r.class != Class::Exact && r.hardware.is_none() && r.emulator.is_none()) {
        let Row { name, cases, equal, worst, examples, .. } = row;
        writeln!(
            body,
            "| `{name}` | {cases} | {:.3} % | {worst} | {} |",
            percent(*equal, *cases),
            examples.join("; ")
        )?;
    }
    writeln!(body, "\n### Not compared\n\n| form | emulator | device |\n|---|---|---|")?;
    for row in rows.iter().filter(|r| r.hardware.is_some() || r.emulator.is_some()) {
        let told = |side: &Option<String>| side.clone().unwrap_or_else(|| "ran".into());
        writeln!(body, "| `{}` | {} | {} |", row.name, told(&row.emulator), told(&row.hardware))?;
    }
    writeln!(body, "\n### Exact forms that agree in every bit\n\n| instruction | forms | cases |\n|---|---|---|")?;
    let mut agreeing: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in rows.iter().filter(|r| r.class == Class::Exact && r.equal == r.cases && r.cases > 0) {
        let (forms, cases) = agreeing.entry(row.name.split(['.', ' ']).next().unwrap_or(&row.name)).or_default();
        *forms += 1;
        *cases += row.cases;
    }
    for (opcode, (forms, cases)) in agreeing {
        writeln!(body, "| `{opcode}` | {forms} | {cases} |")?;
    }
    let differing = count(&|r| wrong(r));
    println!("{both} forms compared, {differing} exact ones differ");
    Ok(differing == 0 && rows.iter().all(|r| r.hardware.is_none()))
}

fn percent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn compare(
    form: &Form,
    cases: &[Vec<u64>],
    measured: Result<device::Results, String>,
    emulated: Result<device::Results, String>,
) -> Row {
    let mut row = Row {
        name: form.name.replace('|', "\\|"),
        class: form.class(),
        cases: 0,
        equal: 0,
        nan_only: 0,
        worst: String::new(),
        examples: Vec::new(),
        differing: Vec::new(),
        hardware: measured.as_ref().err().cloned(),
        emulator: emulated.as_ref().err().map(|e| e.split(" (a limit").next().unwrap_or(e).to_owned()),
    };
    let (Ok(measured), Ok(emulated)) = (measured, emulated) else { return row };
    let mut worst = Difference::default();
    for ((case, hardware), emulator) in cases.iter().zip(&measured).zip(&emulated) {
        row.cases += 1;
        if hardware == emulator {
            row.equal += 1;
            continue;
        }
        if row.differing.len() < 64 {
            let [case, hardware, emulator] =
                [hex(case, &form.inputs), hex(hardware, &form.outputs), hex(emulator, &form.outputs)];
            row.differing.push(format!("{} | {case} | {hardware} | {emulator}", form.name));
        }
        let results = hardware.iter().zip(emulator).zip(&form.outputs);
        let nan_only = results.clone().all(|((h, e), k)| h == e || both_nan(*k, *h, *e));
        row.nan_only += usize::from(nan_only);
        let mut larger = false;
        if !nan_only {
            for ((h, e), kind) in results {
                larger |= worst.add(*kind, *h, *e);
            }
        }
        let example = || {
            let [case, hardware, emulator] =
                [hex(case, &form.inputs), hex(hardware, &form.outputs), hex(emulator, &form.outputs)];
            format!("({case}): hardware {hardware}, emulator {emulator}")
        };
        if row.class == Class::Exact {
            if (row.cases - row.equal).is_power_of_two() {
                row.examples.push(example());
            }
        } else if larger || row.examples.is_empty() {
            row.examples = vec![example()];
        }
    }
    row.worst = worst.to_string();
    row
}

fn hex(values: &[u64], kinds: &[Kind]) -> String {
    let one = |(v, k): (&u64, &Kind)| format!("{v:#0width$x}", width = k.bits() as usize / 4 + 2);
    values.iter().zip(kinds).map(one).collect::<Vec<_>>().join(", ")
}

/// The largest differences of float results.
#[derive(Default)]
struct Difference {
    ulps: u64,
    absolute: f64,
    relative: f64,
    /// One side is NaN or infinite, the other isn't.
    special: u64,
}

impl Difference {
    /// Whether it is the largest so far.
    fn add(&mut self, kind: Kind, hardware: u64, emulator: u64) -> bool {
        let Some((layout, count)) = layout(kind) else { return false };
        let width = 1 + layout.exponent + layout.fraction;
        let mut larger = false;
        for part in 0..count {
            let [h, e] = [hardware, emulator].map(|v| v >> (part * width) & (u64::MAX >> (64 - width)));
            let (x, y) = (value(layout, h), value(layout, e));
            if x.is_finite() != y.is_finite() || x.is_nan() != y.is_nan() {
                self.special += 1;
                continue;
            }
            if !x.is_finite() {
                continue;
            }
            let order = |v: u64| {
                let magnitude = (v & (u64::MAX >> (65 - width))) as i64;
                if v >> (width - 1) == 1 { -magnitude } else { magnitude }
            };
            let ulps = order(h).abs_diff(order(e));
            larger |= ulps > self.ulps;
            self.ulps = self.ulps.max(ulps);
            self.absolute = self.absolute.max((x - y).abs());
            self.relative = self.relative.max(if y == 0.0 { 0.0 } else { ((x - y) / y).abs() });
        }
        larger
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ulps, absolute, relative, special } = self;
        write!(f, "{ulps} ulp, absolute 2^{:.2}, relative 2^{:.2}", absolute.log2(), relative.log2())?;
        if *special > 0 { write!(f, ", {special} special") } else { Ok(()) }
    }
}

fn value(layout: Layout, bits: u64) -> f64 {
    match (layout.exponent, layout.fraction) {
        (11, _) => f64::from_bits(bits),
        (8, 23) => f64::from(f32::from_bits(bits as u32)),
        (8, _) => f64::from(f32::from_bits((bits as u32) << 16)),
        _ => half::f16::from_bits(bits as u16).to_f64(),
    }
}

fn both_nan(kind: Kind, a: u64, b: u64) -> bool {
    let Some((layout, count)) = layout(kind) else { return false };
    let width = 1 + layout.exponent + layout.fraction;
    (0..count).all(|part| {
        let [x, y] = [a, b].map(|v| v >> (part * width) & (u64::MAX >> (64 - width)));
        x == y || value(layout, x).is_nan() && value(layout, y).is_nan()
    })
}
