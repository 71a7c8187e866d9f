//! `mma.sync` of integers, bits, f64, and of 8-bit floats, which are products of f16.

use super::Lowerer;
use super::form::Form;
use super::matrix::words;
use crate::float::eight::Eight;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{Binary32, Factor, IntegerElement, Mma, MmaDouble, MmaInteger, Op, Rounding, Unary32, Wide, Word};
use crate::ptx::types::Type;

/// Rows and inner dimension.
const INTEGER_SHAPES: [(&str, u8, u16); 8] = [
    ("m8n8k16", 8, 16),
    ("m8n8k32", 8, 32),
    ("m8n8k128", 8, 128),
    ("m16n8k16", 16, 16),
    ("m16n8k32", 16, 32),
    ("m16n8k64", 16, 64),
    ("m16n8k128", 16, 128),
    ("m16n8k256", 16, 256),
];

/// Elements of 8, 4 and 1 bits, with sums of 32.
pub(super) fn integer(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let shape = form.choice(&INTEGER_SHAPES.map(|(name, rows, k)| (name, (rows, k))));
    let Some((rows, k)) = shape else {
        return Err(form.unsupported("no such shape of integers"));
    };
    if !(form.has("row") && form.has("col")) {
        return Err(form.unsupported("layouts other than .row.col"));
    }
    let saturates = form.has("satfinite");
    let types = [("s8", (8u8, true)), ("u8", (8, false)), ("s4", (4, true)), ("u4", (4, false)), ("b1", (1, false))];
    let (Some((bits, a_signed)), Some((b_bits, b_signed))) = (form.next(&types), form.next(&types)) else {
        return Err(form.unsupported("these element types"));
    };
    let logic = form.choice(&[("xor", IntegerElement::Xor), ("and", IntegerElement::And)]);
    let counts = form.has("popc");
    let sums = form.has("s32") && form.has("s32");
    form.done()?;
    let element = match (bits, logic) {
        (1, Some(logic)) if counts && !saturates => logic,
        (4 | 8, None) if !counts => IntegerElement::Bits { bits, a_signed, b_signed },
        _ => return Err(form.unsupported("these element types")),
    };
    // A row fills the words of four lanes once or, of sixteen rows only, twice.
    let words_of_a_row = k * u16::from(bits) / 32;
    if bits != b_bits || !sums || !(words_of_a_row == 4 || words_of_a_row == 8 && rows == 16) {
        return Err(form.unsupported("these element types in this shape"));
    }
    let (halves, chunks) = (usize::from(rows) / 8, usize::from(words_of_a_row) / 4);
    let [d, a, b, c] = form.exactly()?;
    let operands = MmaInteger {
        rows,
        words_of_a_row: words_of_a_row as u8,
        element,
        saturates,
        a: words(lw, form, a, chunks * halves, false, Type::B32)?,
        b: words(lw, form, b, chunks, false, Type::B32)?,
        c: words(lw, form, c, 2 * halves, false, Type::B32)?,
        d: words(lw, form, d, 2 * halves, true, Type::B32)?,
    };
    lw.push(Op::MmaInteger(Box::new(operands)));
    Ok(())
}

/// `m8n8k4` and `m16n8k4`, `k8`, `k16` of f64.
pub(super) fn double(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let shape =
        form.choice(&[("m8n8k4", (8u8, 4u8)), ("m16n8k4", (16, 4)), ("m16n8k8", (16, 8)), ("m16n8k16", (16, 16))]);
    let Some((rows, k)) = shape else {
        return Err(form.unsupported("no such shape of f64"));
    };
    if !(form.has("row") && form.has("col")) {
        return Err(form.unsupported("layouts other than .row.col"));
    }
    let rounding = form.rounding().unwrap_or(Rounding::Nearest);
    for _ in 0..4 {
        if form.ty()? != Type::F64 {
            return Err(form.unsupported("these element types"));
        }
    }
    form.done()?;
    let (halves, steps) = (usize::from(rows) / 8, usize::from(k) / 4);
    let [d, a, b, c] = form.exactly()?;
    let a = wides(lw, form, a, halves * steps, false)?;
    let b = wides(lw, form, b, steps, false)?;
    let c = wides(lw, form, c, 2 * halves, false)?;
    let d = wides(lw, form, d, 2 * halves, true)?;
    lw.push(Op::MmaDouble(Box::new(MmaDouble { rows, k, rounding, d, a, b, c })));
    Ok(())
}

/// Exactly `count` registers; the slots past them are never used.
fn wides<const N: usize>(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    operand: &Operand,
    count: usize,
    destination: bool,
) -> Result<[Wide; N], Error> {
    let items = match operand {
        Operand::Vector(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    if items.len() != count {
        return Err(form.unsupported("a fragment of another size"));
    }
    let mut out = [Wide(0); N];
    for (slot, item) in out.iter_mut().zip(items) {
        *slot = if destination { lw.wide_destination(item)? } else { lw.wide_source(item, Type::F64)? };
    }
    Ok(out)
}

/// `m16n8k32` of 8-bit floats: two products of f16, which hold them exactly.
pub(super) fn eight(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let types = [("e4m3", Eight::E4m3), ("e5m2", Eight::E5m2)];
    let (Some(a_format), Some(b_format)) = (form.next(&types), form.next(&types)) else {
        return Err(form.unsupported("these element types"));
    };
    let known = ["m16n8k32", "row", "col", "f32", "f32"].into_iter().all(|m| form.has(m));
    form.done()?;
    if !known {
        return Err(form.unsupported("8-bit floats other than m16n8k32.row.col with f32 sums"));
    }
    let [d, a, b, c] = form.exactly()?;
    let a: [Word; 4] = words(lw, form, a, 4, false, Type::B32)?;
    let b: [Word; 4] = words(lw, form, b, 2, false, Type::B32)?;
    let c = words(lw, form, c, 4, false, Type::F32)?;
    let d = words(lw, form, d, 4, true, Type::F32)?;
    let between = [(); 4].map(|()| lw.slots.word());
    for (step, (c, d)) in [(c, between), (between, d)].into_iter().enumerate() {
        // Which of a row's sixteen elements meet is all that matters, so each word's lower pair goes first.
        let first = halves(lw, a_format, a[2 * step]);
        let second = halves(lw, a_format, a[2 * step + 1]);
        let [low, high] = halves(lw, b_format, b[step]);
        let a = [first[0], second[0], first[1], second[1]];
        let b = [low, high, low, low];
        lw.push(Op::Mma(Box::new(Mma { k: 16, factor: Factor::F16, half_sums: false, d, a, b, c })));
    }
    Ok(())
}

/// The lower and the upper two 8-bit floats of a word, as f16.
fn halves(lw: &mut Lowerer<'_>, format: Eight, a: Word) -> [Word; 2] {
    let shift = lw.slots.constant32(16);
    let upper = lw.slots.word();
    lw.push_unguarded(Op::Binary32 { op: Binary32::ShrU, d: upper, a, b: shift });
    [a, upper].map(|a| {
        let d = lw.slots.word();
        lw.push_unguarded(Op::Unary32 { op: Unary32::EightToHalf { format, relu: false }, d, a });
        d
    })
}
