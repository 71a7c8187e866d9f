//! Logic, shift and bit-field instructions (PTX ISA, "Logic and Shift Instructions").

use super::Lowerer;
use super::arithmetic::{binary32, binary64};
use super::form::Form;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{
    Binary32, Binary64, Compare, Condition, Count64, Logic, Op, Reg, Relation, Shift64, Ternary32, Unary32, Unary64,
};
use crate::ptx::types::Type;

pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    match form.opcode() {
        "and" | "or" | "xor" => bitwise(lw, form),
        "not" | "cnot" | "brev" => bitwise_unary(lw, form),
        "shl" | "shr" => shift(lw, form),
        "shf" => funnel(lw, form),
        "popc" | "clz" | "bfind" => count(lw, form),
        "bfe" | "bfi" => bit_field(lw, form),
        "prmt" => {
            let op = form.choice(&[
                ("f4e", Ternary32::PrmtF4e),
                ("b4e", Ternary32::PrmtB4e),
                ("rc8", Ternary32::PrmtRc8),
                ("ecl", Ternary32::PrmtEcl),
                ("ecr", Ternary32::PrmtEcr),
                ("rc16", Ternary32::PrmtRc16),
            ]);
            form.ty()?;
            ternary(lw, form, op.unwrap_or(Ternary32::Prmt))
        }
        _ => lop3(lw, form),
    }
}

fn ternary(lw: &mut Lowerer<'_>, form: &Form<'_>, op: Ternary32) -> Result<(), Error> {
    form.done()?;
    let [d, a, b, c] = form.exactly()?;
    let a = lw.word_source(a, Type::B32)?;
    let b = lw.word_source(b, Type::B32)?;
    let c = lw.word_source(c, Type::B32)?;
    let d = lw.word_destination(d, Type::B32)?;
    lw.push(Op::Ternary32 { op, d, a, b, c });
    Ok(())
}

fn bitwise(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    let (logic, op32, op64) = match form.opcode() {
        "and" => (Logic::And, Binary32::And, Binary64::And),
        "or" => (Logic::Or, Binary32::Or, Binary64::Or),
        _ => (Logic::Xor, Binary32::Xor, Binary64::Xor),
    };
    match ty {
        Type::Pred => {
            form.done()?;
            let [d, a, b] = form.exactly()?;
            let a = lw.condition(a)?;
            let b = lw.condition(b)?;
            if let Some(d) = lw.pred_destination(d)? {
                lw.push(Op::PredLogic { op: logic, d, a, b });
            }
            Ok(())
        }
        Type::B64 => binary64(lw, form, ty, op64),
        Type::B32 | Type::B16 => binary32(lw, form, ty, op32),
        _ => Err(form.unsupported("no such type for a bitwise operation")),
    }
}

fn bitwise_unary(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    form.done()?;
    let [d, a] = form.exactly()?;
    if ty == Type::Pred && form.opcode() == "not" {
        let a = lw.condition(a)?;
        if let Some(d) = lw.pred_destination(d)? {
            lw.push(Op::PredMov { d, a: Condition { negated: !a.negated, ..a } });
        }
        return Ok(());
    }
    let (op32, op64) = match (form.opcode(), ty) {
        ("not", Type::B16) => (Unary32::Not16, Unary64::Not),
        ("not", Type::B32 | Type::B64) => (Unary32::Not, Unary64::Not),
        ("cnot", Type::B16 | Type::B32 | Type::B64) => (Unary32::Cnot, Unary64::Cnot),
        ("brev", Type::B32 | Type::B64) => (Unary32::Brev, Unary64::Brev),
        _ => return Err(form.unsupported("no such form")),
    };
    let a = lw.source(a, ty)?;
    match (lw.destination(d, ty)?, a) {
        (Reg::Word(d), Reg::Word(a)) => lw.push(Op::Unary32 { op: op32, d, a }),
        (Reg::Wide(d), Reg::Wide(a)) => lw.push(Op::Unary64 { op: op64, d, a }),
        _ => return Err(form.unsupported("operands of different widths")),
    }
    Ok(())
}

/// Shift amounts are 32 bits whatever the type; 16-bit shifts write 16 bits.
fn shift(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    form.done()?;
    let [d, a, b] = form.exactly()?;
    let left = form.opcode() == "shl";
    let a = lw.source(a, ty)?;
    let b = lw.word_source(b, Type::U32)?;
    match (lw.destination(d, ty)?, a) {
        (Reg::Wide(d), Reg::Wide(a)) => {
            let op = match (left, ty.is_signed()) {
                (true, _) => Shift64::Shl,
                (false, true) => Shift64::ShrS,
                (false, false) => Shift64::ShrU,
            };
            lw.push(Op::Shift64 { op, d, a, b });
        }
        (Reg::Word(d), Reg::Word(a)) => {
            let op = match (left, ty) {
                (true, Type::B32) => Binary32::Shl,
                (true, Type::B16) => Binary32::Shl16,
                (false, Type::S32) => Binary32::ShrS,
                (false, Type::S16) => Binary32::ShrS16,
                (false, Type::U32 | Type::B32 | Type::U16 | Type::B16) => Binary32::ShrU,
                _ => return Err(form.unsupported("no such type for a shift")),
            };
            lw.push(Op::Binary32 { op, d, a, b });
        }
        _ => return Err(form.unsupported("operands of different widths")),
    }
    Ok(())
}

fn funnel(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let left = form.has("l");
    if !left && !form.has("r") {
        return Err(form.unsupported("no direction"));
    }
    let wrap = form.has("wrap");
    if !wrap && !form.has("clamp") {
        return Err(form.unsupported("neither `.wrap` nor `.clamp`"));
    }
    form.ty()?;
    ternary(lw, form, if left { Ternary32::ShfL { wrap } } else { Ternary32::ShfR { wrap } })
}

fn count(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let shiftamt = form.has("shiftamt");
    let ty = form.ty()?;
    form.done()?;
    let [d, a] = form.exactly()?;
    let a = lw.source(a, ty)?;
    let d = lw.word_destination(d, Type::U32)?;
    match a {
        Reg::Word(a) => {
            let op = match form.opcode() {
                "popc" => Unary32::Popc,
                "clz" => Unary32::Clz,
                _ if ty.is_signed() => Unary32::BfindS { shiftamt },
                _ => Unary32::BfindU { shiftamt },
            };
            lw.push(Op::Unary32 { op, d, a });
        }
        Reg::Wide(a) => {
            let op = match form.opcode() {
                "popc" => Count64::Popc,
                "clz" => Count64::Clz,
                _ if ty.is_signed() => Count64::BfindS { shiftamt },
                _ => Count64::BfindU { shiftamt },
            };
            lw.push(Op::Count64 { op, d, a });
        }
    }
    Ok(())
}

fn bit_field(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    form.done()?;
    if form.opcode() == "bfe" {
        let [d, a, position, length] = form.exactly()?;
        let a = lw.source(a, ty)?;
        let position = lw.word_source(position, Type::U32)?;
        let length = lw.word_source(length, Type::U32)?;
        let signed = ty.is_signed();
        match (lw.destination(d, ty)?, a) {
            (Reg::Word(d), Reg::Word(a)) => {
                let op = if signed { Ternary32::BfeS } else { Ternary32::BfeU };
                lw.push(Op::Ternary32 { op, d, a, b: position, c: length });
            }
            (Reg::Wide(d), Reg::Wide(a)) => lw.push(Op::Bfe64 { signed, d, a, position, length }),
            _ => return Err(form.unsupported("operands of different widths")),
        }
        return Ok(());
    }
    let [d, a, b, position, length] = form.exactly()?;
    let a = lw.source(a, ty)?;
    let b = lw.source(b, ty)?;
    let position = lw.word_source(position, Type::U32)?;
    let length = lw.word_source(length, Type::U32)?;
    match (lw.destination(d, ty)?, a, b) {
        (Reg::Word(d), Reg::Word(a), Reg::Word(b)) => lw.push(Op::Bfi32 { d, a, b, position, length }),
        (Reg::Wide(d), Reg::Wide(a), Reg::Wide(b)) => lw.push(Op::Bfi64 { d, a, b, position, length }),
        _ => return Err(form.unsupported("operands of different widths")),
    }
    Ok(())
}

fn lop3(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let logic = form.choice(&[("and", Logic::And), ("or", Logic::Or)]);
    form.ty()?;
    form.done()?;
    let (d, p, a, b, c, table, q) = match (form.operands(), logic) {
        ([d, a, b, c, table], None) => (d, None, a, b, c, table, None),
        ([Operand::Pair(d, p), a, b, c, table, q], Some(logic)) => {
            (d.as_ref(), lw.pred_destination(p)?, a, b, c, table, Some((logic, lw.condition(q)?)))
        }
        _ => return Err(form.unsupported("operands that don't fit its form")),
    };
    let Operand::Int(table @ 0..=255) = table else {
        return Err(form.unsupported("a truth table that isn't a constant up to 255"));
    };
    let a = lw.word_source(a, Type::B32)?;
    let b = lw.word_source(b, Type::B32)?;
    let c = lw.word_source(c, Type::B32)?;
    let d = lw.word_destination(d, Type::B32)?;
    lw.push(Op::Ternary32 { op: Ternary32::Lop3(*table as u8), d, a, b, c });
    if q.is_some() {
        let compare = Compare { relation: Relation::Ne, ty: Type::U32, ftz: false };
        let zero = lw.slots.constant32(0);
        lw.push(Op::Compare32 { compare, d: p, q: None, a: d, b: zero, combine: q });
    }
    Ok(())
}
