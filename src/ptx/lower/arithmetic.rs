//! Integer, f32, f64 and half arithmetic (PTX ISA, "Integer Arithmetic" to "Half Precision").

use super::Lowerer;
use super::form::Form;
use crate::ptx::error::Error;
use crate::ptx::op::{
    Binary32, Binary64, FloatMode, HalfMode, MinMaxMode, Op, Rounding, Ternary32, Ternary64, Unary32, Unary64, Word,
};
use crate::ptx::types::Type;

pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let opcode = form.opcode();
    if matches!(opcode, "dp4a") {
        return dp4a(lw, form);
    }
    let part = form.choice(&[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)]);
    let mixed = form.operands().len();
    let ty = form.ty()?;
    match ty {
        Type::F32 => f32_operation(lw, form),
        Type::F64 => f64_operation(lw, form),
        Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => half_operation(lw, form, ty),
        _ if mixed == 2 => integer_unary(lw, form, ty),
        _ if mixed == 4 => integer_ternary(lw, form, ty, part),
        _ => integer_binary(lw, form, ty, part),
    }
}

/// `rcp`, `sqrt`, `ex2` and the other functions of one value.
pub(super) fn function(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    let approx = form.has("approx");
    match ty {
        Type::F32 => {
            let mode = form.float_mode();
            let ftz = mode.ftz;
            let op = match (form.opcode(), approx) {
                ("rcp", true) => Unary32::RcpApprox { ftz },
                ("rcp", false) => Unary32::RcpF32(mode),
                ("sqrt", true) => Unary32::SqrtApprox { ftz },
                ("sqrt", false) => Unary32::SqrtF32(mode),
                ("rsqrt", true) => Unary32::RsqrtApprox { ftz },
                ("sin", true) => Unary32::SinApprox { ftz },
                ("cos", true) => Unary32::CosApprox { ftz },
                ("lg2", true) => Unary32::Lg2Approx { ftz },
                ("ex2", true) => Unary32::Ex2Approx { ftz },
                ("tanh", true) if !ftz => Unary32::TanhApprox,
                _ => return Err(form.unsupported("no such form")),
            };
            unary32(lw, form, ty, op)
        }
        Type::F64 => {
            let mode = form.float_mode();
            let op = match (form.opcode(), approx) {
                ("rcp", false) => Unary64::RcpF64(mode.rounding),
                ("sqrt", false) => Unary64::SqrtF64(mode.rounding),
                ("rcp", true) => Unary64::RcpApproxF64,
                ("rsqrt", true) => Unary64::RsqrtApproxF64 { ftz: mode.ftz },
                _ => return Err(form.unsupported("no such f64 form")),
            };
            unary64(lw, form, op)
        }
        Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => {
            let mode = form.half_mode(ty)?;
            let op = match (form.opcode(), approx) {
                ("ex2", true) => Unary32::Ex2Half(mode),
                ("tanh", true) => Unary32::TanhHalf(mode),
                _ => return Err(form.unsupported("no such half form")),
            };
            unary32(lw, form, ty, op)
        }
        _ => Err(form.unsupported("no such type for this function")),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Low,
    High,
    Wide,
}

fn unary32(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, op: Unary32) -> Result<(), Error> {
    form.done()?;
    let [d, a] = form.exactly()?;
    let a = lw.word_source(a, ty)?;
    let d = lw.word_destination(d, ty)?;
    lw.push(Op::Unary32 { op, d, a });
    Ok(())
}

fn unary64(lw: &mut Lowerer<'_>, form: &Form<'_>, op: Unary64) -> Result<(), Error> {
    form.done()?;
    let [d, a] = form.exactly()?;
    let a = lw.wide_source(a, Type::F64)?;
    let d = lw.wide_destination(d)?;
    lw.push(Op::Unary64 { op, d, a });
    Ok(())
}

pub(super) fn binary32(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, op: Binary32) -> Result<(), Error> {
    form.done()?;
    let [d, a, b] = form.exactly()?;
    let a = lw.word_source(a, ty)?;
    let b = lw.word_source(b, ty)?;
    let d = lw.word_destination(d, ty)?;
    lw.push(Op::Binary32 { op, d, a, b });
    Ok(())
}

pub(super) fn binary64(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, op: Binary64) -> Result<(), Error> {
    form.done()?;
    let [d, a, b] = form.exactly()?;
    let a = lw.wide_source(a, ty)?;
    let b = lw.wide_source(b, ty)?;
    let d = lw.wide_destination(d)?;
    lw.push(Op::Binary64 { op, d, a, b });
    Ok(())
}

fn ternary32(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, op: Ternary32) -> Result<(), Error> {
    form.done()?;
    let [d, a, b, c] = form.exactly()?;
    let a = lw.word_source(a, ty)?;
    let b = lw.word_source(b, ty)?;
    let c = lw.word_source(c, ty)?;
    let d = lw.word_destination(d, ty)?;
    lw.push(Op::Ternary32 { op, d, a, b, c });
    Ok(())
}

fn f32_operation(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let opcode = form.opcode();
    let approx = form.has("approx");
    let full = form.has("full");
    let nan = form.has("NaN");
    let xorsign_abs = form.has("xorsign");
    if xorsign_abs && !form.has("abs") {
        return Err(form.unsupported("`.xorsign` without `.abs`"));
    }
    let mode = form.float_mode();
    let ftz = mode.ftz;
    let min_max = MinMaxMode { nan, ftz, xorsign_abs };
    let op = match opcode {
        "add" => Binary32::AddF32(mode),
        "sub" => Binary32::SubF32(mode),
        "mul" => Binary32::MulF32(mode),
        "div" if approx => Binary32::DivApproxF32 { ftz },
        "div" if full => Binary32::DivFullF32 { ftz },
        "div" => Binary32::DivF32(mode),
        "copysign" => Binary32::CopysignF32,
        "min" | "max" if form.operands().len() == 4 && !xorsign_abs => return min_max_of_three(lw, form, min_max),
        "min" => Binary32::MinF32(min_max),
        "max" => Binary32::MaxF32(min_max),
        "fma" | "mad" => return ternary32(lw, form, Type::F32, Ternary32::FmaF32(mode)),
        "neg" => return unary32(lw, form, Type::F32, Unary32::NegF32 { ftz }),
        "abs" => return unary32(lw, form, Type::F32, Unary32::AbsF32 { ftz }),
        _ => return Err(form.unsupported("no such f32 form")),
    };
    binary32(lw, form, Type::F32, op)
}

/// `min` and `max` of three values: those of two, twice. `.abs` takes all magnitudes first.
fn min_max_of_three(lw: &mut Lowerer<'_>, form: &mut Form<'_>, mode: MinMaxMode) -> Result<(), Error> {
    let abs = form.has("abs");
    form.done()?;
    let [d, sources @ ..] = form.exactly::<4>()?;
    let mut values = [Word(0); 3];
    for (value, source) in values.iter_mut().zip(sources) {
        *value = lw.word_source(source, Type::F32)?;
        if abs {
            let a = std::mem::replace(value, lw.slots.word());
            lw.push_unguarded(Op::Unary32 { op: Unary32::AbsF32 { ftz: mode.ftz }, d: *value, a });
        }
    }
    let d = lw.word_destination(d, Type::F32)?;
    let op = if form.opcode() == "min" { Binary32::MinF32(mode) } else { Binary32::MaxF32(mode) };
    let [a, b, c] = values;
    let first = lw.slots.word();
    lw.push_unguarded(Op::Binary32 { op, d: first, a, b });
    lw.push(Op::Binary32 { op, d, a: first, b: c });
    Ok(())
}

fn f64_operation(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let FloatMode { rounding, ftz: _, sat } = form.float_mode();
    if rounding == Rounding::NearestAway || sat {
        return Err(form.unsupported("no such f64 form"));
    }
    let op = match form.opcode() {
        "add" => Binary64::AddF64(rounding),
        "sub" => Binary64::SubF64(rounding),
        "mul" => Binary64::MulF64(rounding),
        "div" => Binary64::DivF64(rounding),
        "min" => Binary64::MinF64,
        "max" => Binary64::MaxF64,
        "copysign" => Binary64::CopysignF64,
        "neg" => return unary64(lw, form, Unary64::NegF64),
        "abs" => return unary64(lw, form, Unary64::AbsF64),
        "fma" | "mad" => return ternary64(lw, form, Type::F64, Ternary64::FmaF64(rounding)),
        _ => return Err(form.unsupported("no such f64 form")),
    };
    binary64(lw, form, Type::F64, op)
}

fn half_operation(lw: &mut Lowerer<'_>, form: &mut Form<'_>, ty: Type) -> Result<(), Error> {
    let opcode = form.opcode();
    let nan = form.has("NaN");
    let oob = opcode == "fma" && form.has("oob");
    let xorsign_abs = form.has("xorsign");
    if xorsign_abs {
        form.has("abs");
    }
    let mode: HalfMode = form.half_mode(ty)?;
    let min_max = MinMaxMode { nan, ftz: mode.ftz, xorsign_abs };
    let op = match opcode {
        "add" => Binary32::AddHalf(mode),
        "sub" => Binary32::SubHalf(mode),
        "mul" => Binary32::MulHalf(mode),
        "min" => Binary32::MinHalf(mode, min_max),
        "max" => Binary32::MaxHalf(mode, min_max),
        "fma" if oob => return ternary32(lw, form, ty, Ternary32::FmaHalfOob(mode)),
        "fma" => return ternary32(lw, form, ty, Ternary32::FmaHalf(mode)),
        "neg" => return unary32(lw, form, ty, Unary32::NegHalf(mode)),
        "abs" => return unary32(lw, form, ty, Unary32::AbsHalf(mode)),
        _ => return Err(form.unsupported("no such half form")),
    };
    binary32(lw, form, ty, op)
}

fn integer_unary(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type) -> Result<(), Error> {
    let negate = form.opcode() == "neg";
    match (ty, form.opcode()) {
        (Type::S16 | Type::B16, "neg" | "abs") => {
            unary32(lw, form, ty, if negate { Unary32::Neg16 } else { Unary32::Abs16 })
        }
        (Type::S32 | Type::B32, "neg" | "abs") => {
            unary32(lw, form, ty, if negate { Unary32::Neg } else { Unary32::Abs })
        }
        (Type::S64 | Type::B64, "neg" | "abs") => unary64(lw, form, if negate { Unary64::Neg } else { Unary64::Abs }),
        _ => Err(form.unsupported("no such integer form")),
    }
}

fn integer_binary(lw: &mut Lowerer<'_>, form: &mut Form<'_>, ty: Type, part: Option<Part>) -> Result<(), Error> {
    use Type::{S16, S32, S64, U16, U32, U64};
    if form.opcode() == "mul" && part == Some(Part::Wide) {
        return mul_wide(lw, form, ty);
    }
    let high = part == Some(Part::High);
    let sat = form.has("sat");
    let op32 = match (form.opcode(), ty) {
        ("add", S32) if sat => Binary32::AddSatS,
        ("sub", S32) if sat => Binary32::SubSatS,
        _ if sat => return Err(form.unsupported("modifier `.sat`")),
        ("add", U32 | S32 | Type::B32) => Binary32::Add,
        ("sub", U32 | S32 | Type::B32) => Binary32::Sub,
        ("mul", U32) if high => Binary32::MulHiU,
        ("mul", S32) if high => Binary32::MulHiS,
        ("mul", U32 | S32) => Binary32::MulLo,
        ("mul24", U32) if !high => Binary32::Mul24LoU,
        ("mul24", S32) if !high => Binary32::Mul24LoS,
        ("mul24", U32) => Binary32::Mul24HiU,
        ("mul24", S32) => Binary32::Mul24HiS,
        ("div", U32 | U16) => Binary32::DivU,
        ("div", S32) => Binary32::DivS,
        ("rem", U32 | U16) => Binary32::RemU,
        ("rem", S32) => Binary32::RemS,
        ("min", U32 | U16) => Binary32::MinU,
        ("max", U32 | U16) => Binary32::MaxU,
        ("min", S32) => Binary32::MinS,
        ("max", S32) => Binary32::MaxS,
        ("add", U16 | S16) => Binary32::Add16,
        ("sub", U16 | S16) => Binary32::Sub16,
        ("mul", U16) if high => Binary32::MulHiU16,
        ("mul", S16) if high => Binary32::MulHiS16,
        ("mul", U16 | S16) => Binary32::MulLo16,
        ("div", S16) => Binary32::DivS16,
        ("rem", S16) => Binary32::RemS16,
        ("min", S16) => Binary32::MinS16,
        ("max", S16) => Binary32::MaxS16,
        (_, U64 | S64 | Type::B64) => return integer_binary64(lw, form, ty, high),
        _ => return Err(form.unsupported("no such integer form")),
    };
    binary32(lw, form, ty, op32)
}

fn integer_binary64(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, high: bool) -> Result<(), Error> {
    let signed = ty.is_signed();
    let pick = |unsigned, signed_op| if signed { signed_op } else { unsigned };
    let op = match form.opcode() {
        "add" => Binary64::Add,
        "sub" => Binary64::Sub,
        "mul" if high => pick(Binary64::MulHiU, Binary64::MulHiS),
        "mul" => Binary64::MulLo,
        "div" => pick(Binary64::DivU, Binary64::DivS),
        "rem" => pick(Binary64::RemU, Binary64::RemS),
        "min" => pick(Binary64::MinU, Binary64::MinS),
        "max" => pick(Binary64::MaxU, Binary64::MaxS),
        _ => return Err(form.unsupported("no such 64-bit form")),
    };
    binary64(lw, form, ty, op)
}

fn mul_wide(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type) -> Result<(), Error> {
    form.done()?;
    let [d, a, b] = form.exactly()?;
    let a = lw.word_source(a, ty)?;
    let b = lw.word_source(b, ty)?;
    match ty {
        Type::U16 | Type::S16 => {
            let d = lw.word_destination(d, Type::B32)?;
            let op = if ty == Type::S16 { Binary32::MulWideS16 } else { Binary32::MulLo };
            lw.push(Op::Binary32 { op, d, a, b });
        }
        Type::U32 | Type::S32 => {
            let d = lw.wide_destination(d)?;
            lw.push(Op::MulWide { signed: ty.is_signed(), d, a, b });
        }
        _ => return Err(form.unsupported("no such widening form")),
    }
    Ok(())
}

fn integer_ternary(lw: &mut Lowerer<'_>, form: &mut Form<'_>, ty: Type, part: Option<Part>) -> Result<(), Error> {
    let op = match (form.opcode(), ty, part) {
        ("mad", Type::U32 | Type::S32, Some(Part::Wide)) => return mad_wide(lw, form, ty),
        ("mad", Type::U32 | Type::S32, Some(Part::Low)) => Ternary32::MadLo,
        ("mad", Type::U32, Some(Part::High)) => Ternary32::MadHiU,
        ("mad", Type::S32, Some(Part::High)) => Ternary32::MadHiS,
        ("mad", Type::U16 | Type::S16, Some(Part::Low)) => Ternary32::MadLo16,
        ("sad", Type::U32, None) => Ternary32::SadU,
        ("sad", Type::S32, None) => Ternary32::SadS,
        ("mad", Type::U64 | Type::S64, Some(Part::Low)) => {
            return ternary64(lw, form, ty, Ternary64::MadLo);
        }
        ("mad", Type::U64, Some(Part::High)) => return ternary64(lw, form, ty, Ternary64::MadHiU),
        ("mad", Type::S64, Some(Part::High)) => return ternary64(lw, form, ty, Ternary64::MadHiS),
        _ => return Err(form.unsupported("no such three-input integer form")),
    };
    ternary32(lw, form, ty, op)
}

fn mad_wide(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type) -> Result<(), Error> {
    form.done()?;
    let [d, a, b, c] = form.exactly()?;
    let a = lw.word_source(a, ty)?;
    let b = lw.word_source(b, ty)?;
    let c = lw.wide_source(c, Type::B64)?;
    let d = lw.wide_destination(d)?;
    lw.push(Op::MadWide { signed: ty.is_signed(), d, a, b, c });
    Ok(())
}

fn ternary64(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, op: Ternary64) -> Result<(), Error> {
    form.done()?;
    let [d, a, b, c] = form.exactly()?;
    let a = lw.wide_source(a, ty)?;
    let b = lw.wide_source(b, ty)?;
    let c = lw.wide_source(c, ty)?;
    let d = lw.wide_destination(d)?;
    lw.push(Op::Ternary64 { op, d, a, b, c });
    Ok(())
}

fn dp4a(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let a_signed = form.ty()?.is_signed();
    let b_signed = form.ty()?.is_signed();
    ternary32(lw, form, Type::B32, Ternary32::Dp4a { a_signed, b_signed })
}
