//! `cvt` and `mov` (PTX ISA, "Data Movement and Conversion Instructions").

use super::Lowerer;
use super::form::Form;
use super::names::{Slot, Symbol};
use crate::float::eight::Eight;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{Binary32, Conversion, HalfMode, Op, Reg, Rounding, Ternary32, Unary32, Word};
use crate::ptx::types::Type;

pub(super) fn cvt(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let integral = form.choice(&[
        ("rni", Rounding::Nearest),
        ("rzi", Rounding::Zero),
        ("rmi", Rounding::Down),
        ("rpi", Rounding::Up),
    ]);
    let rounding = form.rounding();
    let ftz = form.has("ftz");
    let sat = form.has("sat");
    let relu = form.has("relu");
    let satfinite = form.has("satfinite");
    if let Some(format) = form.choice(&[("e4m3x2", Eight::E4m3), ("e5m2x2", Eight::E5m2)]) {
        if rounding != Some(Rounding::Nearest) || integral.is_some() || ftz || sat {
            return Err(form.unsupported("no such conversion of 8-bit floats"));
        }
        return eight(lw, form, format, relu, satfinite);
    }
    let to = form.ty()?;
    let from = form.ty()?;
    form.done()?;
    let narrow = matches!(to, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::Tf32);
    if satfinite && !(narrow && from == Type::F32) {
        return Err(form.unsupported("modifier `.satfinite`"));
    }
    let chosen = integral.or(rounding).unwrap_or(if to.is_float() { Rounding::Nearest } else { Rounding::Zero });
    if matches!(to, Type::F16x2 | Type::Bf16x2) {
        let [d, a, b] = form.exactly()?;
        if from != Type::F32 || ftz {
            return Err(form.unsupported("packed conversions other than from two f32"));
        }
        let a = lw.word_source(a, Type::F32)?;
        let b = lw.word_source(b, Type::F32)?;
        let d = lw.word_destination(d, to)?;
        let mode = HalfMode { bf16: to == Type::Bf16x2, packed: true, ftz: false, sat, relu };
        lw.push(Op::Binary32 { op: Binary32::PackHalf { mode, rounding: chosen, satfinite }, d, a, b });
        return Ok(());
    }
    if matches!(from, Type::F16x2 | Type::Bf16x2 | Type::Tf32 | Type::Pred) || to == Type::Pred {
        return Err(form.unsupported("no such conversion"));
    }
    let [d, a] = form.exactly()?;
    let (a, _) = lw.any_source(a, from)?;
    let (d, destination_bits) = lw.any_destination(d, (to.size_bytes() * 8) as u8)?;
    if usize::from(destination_bits) < to.size_bytes() * 8 {
        return Err(form.unsupported("a destination narrower than its type"));
    }
    let to_integral = integral.is_some();
    let conversion =
        Conversion { from, to, destination_bits, rounding: chosen, to_integral, ftz, sat, relu, satfinite };
    lw.push(Op::Convert { conversion, d, a });
    Ok(())
}

/// Conversions to 8-bit floats saturate, those from them needn't.
fn eight(lw: &mut Lowerer<'_>, form: &mut Form<'_>, format: Eight, relu: bool, satfinite: bool) -> Result<(), Error> {
    let other = form.ty()?;
    form.done()?;
    match (other, satfinite) {
        (Type::F32, true) => {
            let [d, a, b] = form.exactly()?;
            let (a, b) = (lw.word_source(a, Type::F32)?, lw.word_source(b, Type::F32)?);
            let d = lw.word_destination(d, Type::B16)?;
            lw.push(Op::Binary32 { op: Binary32::PackEight { format, relu }, d, a, b });
        }
        (Type::F16x2, true) => {
            let [d, a] = form.exactly()?;
            let a = lw.word_source(a, Type::B32)?;
            let d = lw.word_destination(d, Type::B16)?;
            lw.push(Op::Unary32 { op: Unary32::HalfToEight { format, relu }, d, a });
        }
        (Type::F16x2, false) => {
            let [d, a] = form.exactly()?;
            let a = lw.word_source(a, Type::B16)?;
            let d = lw.word_destination(d, Type::B32)?;
            lw.push(Op::Unary32 { op: Unary32::EightToHalf { format, relu }, d, a });
        }
        _ => return Err(form.unsupported("no such conversion of 8-bit floats")),
    }
    Ok(())
}

/// `cvt.pack.sat`: two integers, saturated, and where there is room for it what was packed before.
pub(super) fn pack_integers(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let format = form.choice(&[
        ("u16", (16, false)),
        ("s16", (16, true)),
        ("u8", (8, false)),
        ("s8", (8, true)),
        ("u4", (4, false)),
        ("s4", (4, true)),
        ("u2", (2, false)),
        ("s2", (2, true)),
    ]);
    let Some((bits, signed)) = format else {
        return Err(form.unsupported("no such packed type"));
    };
    if !(form.has("sat") && form.has("s32")) || form.has("b32") != (bits < 16) {
        return Err(form.unsupported("no such packing conversion"));
    }
    form.done()?;
    let (d, a, b, c) = match form.operands() {
        [d, a, b] if bits == 16 => (d, a, b, lw.slots.constant32(0)),
        [d, a, b, c] if bits < 16 => (d, a, b, lw.word_source(c, Type::B32)?),
        _ => return Err(form.unsupported("an unexpected number of operands")),
    };
    let (a, b) = (lw.word_source(a, Type::S32)?, lw.word_source(b, Type::S32)?);
    let d = lw.word_destination(d, Type::B32)?;
    lw.push(Op::Ternary32 { op: Ternary32::PackSaturated { bits, signed }, d, a, b, c });
    Ok(())
}

pub(super) fn mov(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let (elements, ty) = form.vector_of()?;
    form.done()?;
    let [d, a] = form.exactly()?;
    let (d, a) = (&lw.spread(d)?, &lw.spread(a)?);
    if elements > 1 {
        return match (d, a) {
            (Operand::Vector(d), Operand::Vector(a)) if d.len() == a.len() => mov_vector(lw, form, ty, d, a),
            _ => Err(form.unsupported("operands that aren't vectors of one length")),
        };
    }
    if ty == Type::Pred {
        let a = lw.condition(a)?;
        if let Some(d) = lw.pred_destination(d)? {
            lw.push(Op::PredMov { d, a });
        }
        return Ok(());
    }
    match (d, a) {
        (Operand::Vector(d), _) => unpack(lw, form, ty, d, a),
        (_, Operand::Vector(a)) => pack(lw, form, ty, d, a),
        _ => {
            let a = lw.source(a, ty)?;
            let d = lw.destination(d, ty)?;
            push_mov(lw, form, d, a)
        }
    }
}

/// Element by element, through scratch registers: both sides may name the same ones.
fn mov_vector(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, d: &[Operand], a: &[Operand]) -> Result<(), Error> {
    let mut copies = Vec::new();
    for a in a {
        let a = lw.source(a, ty)?;
        let scratch = match a {
            Reg::Word(_) => Reg::Word(lw.slots.word()),
            Reg::Wide(_) => Reg::Wide(lw.slots.wide()),
        };
        push_mov(lw, form, scratch, a)?;
        copies.push(scratch);
    }
    for (d, a) in d.iter().zip(copies) {
        let d = lw.destination(d, ty)?;
        push_mov(lw, form, d, a)?;
    }
    Ok(())
}

/// A plain copy between registers of one width.
pub(super) fn push_mov(lw: &mut Lowerer<'_>, form: &Form<'_>, d: Reg, a: Reg) -> Result<(), Error> {
    match (d, a) {
        (Reg::Word(d), Reg::Word(a)) => lw.push(Op::Mov32 { d, a }),
        (Reg::Wide(d), Reg::Wide(a)) => lw.push(Op::Mov64 { d, a }),
        _ => return Err(form.unsupported("operands of different widths")),
    }
    Ok(())
}

fn pack(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, d: &Operand, a: &[Operand]) -> Result<(), Error> {
    match (ty.size_bytes(), a) {
        (4, [low, high]) => {
            let a = lw.word_source(low, Type::B16)?;
            let b = lw.word_source(high, Type::B16)?;
            let d = lw.word_destination(d, ty)?;
            lw.push(Op::Binary32 { op: Binary32::Pack16, d, a, b });
        }
        (8, [low, high]) => {
            let low = lw.word_source(low, Type::B32)?;
            let high = lw.word_source(high, Type::B32)?;
            let d = lw.wide_destination(d)?;
            lw.push(Op::PackWords { d, low, high });
        }
        (8, [a0, a1, a2, a3]) => {
            let low = pair(lw, a0, a1)?;
            let high = pair(lw, a2, a3)?;
            let d = lw.wide_destination(d)?;
            lw.push(Op::PackWords { d, low, high });
        }
        _ => return Err(form.unsupported("a vector that doesn't fill the type")),
    }
    Ok(())
}

fn pair(lw: &mut Lowerer<'_>, low: &Operand, high: &Operand) -> Result<Word, Error> {
    let a = lw.word_source(low, Type::B16)?;
    let b = lw.word_source(high, Type::B16)?;
    let d = lw.slots.word();
    lw.push_unguarded(Op::Binary32 { op: Binary32::Pack16, d, a, b });
    Ok(d)
}

fn unpack(lw: &mut Lowerer<'_>, form: &Form<'_>, ty: Type, d: &[Operand], a: &Operand) -> Result<(), Error> {
    let source = lw.source(a, ty)?;
    match (source, d) {
        (Reg::Word(a), [low, high]) if ty.size_bytes() == 4 => extract_halves(lw, a, low, high),
        (Reg::Wide(a), [low, high]) => {
            for (operand, upper) in [(low, false), (high, true)] {
                if !is_sink(operand) {
                    let d = lw.word_destination(operand, Type::B32)?;
                    lw.push(Op::ExtractWord { d, a, upper });
                }
            }
            Ok(())
        }
        (Reg::Wide(a), [d0, d1, d2, d3]) => {
            let (low, high) = (lw.slots.word(), lw.slots.word());
            lw.push_unguarded(Op::ExtractWord { d: low, a, upper: false });
            lw.push_unguarded(Op::ExtractWord { d: high, a, upper: true });
            extract_halves(lw, low, d0, d1)?;
            extract_halves(lw, high, d2, d3)
        }
        _ => Err(form.unsupported("a vector that doesn't fill the type")),
    }
}

fn extract_halves(lw: &mut Lowerer<'_>, a: Word, low: &Operand, high: &Operand) -> Result<(), Error> {
    for (operand, shift) in [(low, 0), (high, 16)] {
        if !is_sink(operand) {
            let d = lw.word_destination(operand, Type::B16)?;
            lw.push(Op::Extract16 { d, a, shift });
        }
    }
    Ok(())
}

fn is_sink(operand: &Operand) -> bool {
    matches!(operand, Operand::Name(name) if name == "_")
}

impl Lowerer<'_> {
    /// The register behind a call parameter, where it is kept in one.
    pub(super) fn parameter_register(&mut self, name: &str) -> Result<Option<Reg>, Error> {
        Ok(match self.lookup(name)? {
            Some(Symbol::Parameter(register)) => match register.slot {
                Slot::Word(word) => Some(Reg::Word(word)),
                Slot::Wide(wide) => Some(Reg::Wide(wide)),
                Slot::Pred(_) => None,
            },
            _ => None,
        })
    }
}
