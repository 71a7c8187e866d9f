//! Comparison and selection (PTX ISA, "Comparison and Selection Instructions").

use super::Lowerer;
use super::form::Form;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{Binary32, Compare, Condition, HalfMode, Logic, Op, Pred, Reg, Relation, Word};
use crate::ptx::types::Type;

pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    match form.opcode() {
        "setp" => setp(lw, form),
        "set" => set(lw, form),
        "selp" => selp(lw, form),
        _ => slct(lw, form),
    }
}

const RELATIONS: [(&str, Relation); 18] = [
    ("eq", Relation::Eq),
    ("ne", Relation::Ne),
    ("lt", Relation::Lt),
    ("le", Relation::Le),
    ("gt", Relation::Gt),
    ("ge", Relation::Ge),
    ("lo", Relation::Lt),
    ("ls", Relation::Le),
    ("hi", Relation::Gt),
    ("hs", Relation::Ge),
    ("equ", Relation::Equ),
    ("neu", Relation::Neu),
    ("ltu", Relation::Ltu),
    ("leu", Relation::Leu),
    ("gtu", Relation::Gtu),
    ("geu", Relation::Geu),
    ("num", Relation::Num),
    ("nan", Relation::Nan),
];

const LOGIC: [(&str, Logic); 3] = [("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)];

/// Relation, `.ftz` and boolean combination; the type is left in the form.
fn head(form: &mut Form<'_>) -> Result<(Relation, Option<Logic>, bool), Error> {
    let Some(relation) = form.choice(&RELATIONS) else {
        return Err(form.unsupported("no comparison that this program knows"));
    };
    Ok((relation, form.choice(&LOGIC), form.has("ftz")))
}

fn setp(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let (relation, logic, ftz) = head(form)?;
    let ty = form.ty()?;
    form.done()?;
    let (Some(targets), Some(a), Some(b)) = (form.operands().first(), form.operands().get(1), form.operands().get(2))
    else {
        return Err(form.unsupported("fewer than three operands"));
    };
    let combine = match (logic, form.operands().get(3)) {
        (Some(logic), Some(c)) => Some((logic, lw.condition(c)?)),
        (None, None) => None,
        _ => return Err(form.unsupported("a combination that doesn't fit its operands")),
    };
    let (d, q) = match targets {
        Operand::Pair(d, q) => (lw.pred_destination(d)?, lw.pred_destination(q)?),
        d => (lw.pred_destination(d)?, None),
    };
    let compare = Compare { relation, ty, ftz };
    if matches!(ty, Type::F16x2 | Type::Bf16x2) {
        let a = lw.word_source(a, ty)?;
        let b = lw.word_source(b, ty)?;
        lw.push(Op::CompareHalves { compare, bf16: ty == Type::Bf16x2, d, q, a, b, combine });
        return Ok(());
    }
    push_compare(lw, form, compare, (d, q), (a, b), combine)
}

fn push_compare(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    compare: Compare,
    (d, q): (Option<Pred>, Option<Pred>),
    (a, b): (&Operand, &Operand),
    combine: Option<(Logic, Condition)>,
) -> Result<(), Error> {
    match (lw.source(a, compare.ty)?, lw.source(b, compare.ty)?) {
        (Reg::Word(a), Reg::Word(b)) => lw.push(Op::Compare32 { compare, d, q, a, b, combine }),
        (Reg::Wide(a), Reg::Wide(b)) => lw.push(Op::Compare64 { compare, d, q, a, b, combine }),
        _ => return Err(form.unsupported("operands of different widths")),
    }
    Ok(())
}

/// `set` becomes a comparison and a selection, except on halves.
fn set(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let (relation, logic, ftz) = head(form)?;
    let to = form.ty()?;
    let from = form.ty()?;
    form.done()?;
    let (Some(d), Some(a), Some(b)) = (form.operands().first(), form.operands().get(1), form.operands().get(2)) else {
        return Err(form.unsupported("fewer than three operands"));
    };
    let compare = Compare { relation, ty: from, ftz };
    let packed = matches!(from, Type::F16x2 | Type::Bf16x2);
    if packed {
        let one = match to {
            Type::F16x2 => 0x3c00,
            Type::Bf16x2 => 0x3f80,
            _ => 0xffff,
        };
        let a = lw.word_source(a, from)?;
        let b = lw.word_source(b, from)?;
        let d = lw.word_destination(d, to)?;
        let bf16 = from == Type::Bf16x2;
        if let (Some(logic), Some(c)) = (logic, form.operands().get(3)) {
            let combine = Some((logic, lw.condition(c)?));
            return set_combined(lw, compare, bf16, u32::from(one), (d, a, b), combine);
        }
        let mode = HalfMode { bf16, packed: true, ftz, sat: false, relu: false };
        lw.push(Op::Binary32 { op: Binary32::SetHalf { mode, compare, one }, d, a, b });
        return Ok(());
    }
    let combine = match (logic, form.operands().get(3)) {
        (Some(logic), Some(c)) => Some((logic, lw.condition(c)?)),
        (None, None) => None,
        _ => return Err(form.unsupported("a combination that doesn't fit its operands")),
    };
    let pred = lw.slots.pred();
    push_compare(lw, form, compare, (Some(pred), None), (a, b), combine)?;
    let one = match to {
        Type::F32 => 0x3f80_0000,
        Type::F16 => 0x3c00,
        Type::Bf16 => 0x3f80,
        Type::U32 | Type::S32 | Type::B32 => u32::MAX,
        Type::U16 | Type::S16 | Type::B16 => 0xffff,
        _ => return Err(form.unsupported("no such result type")),
    };
    let d = lw.word_destination(d, to)?;
    let a = lw.slots.constant32(one);
    let b = lw.slots.constant32(0);
    lw.push(Op::Select32 { d, a, b, p: Condition { pred, negated: false } });
    Ok(())
}

/// `set` of packed halves with a predicate: two comparisons, two selections.
fn set_combined(
    lw: &mut Lowerer<'_>,
    compare: Compare,
    bf16: bool,
    one: u32,
    (d, a, b): (Word, Word, Word),
    combine: Option<(Logic, Condition)>,
) -> Result<(), Error> {
    let (low, high) = (lw.slots.pred(), lw.slots.pred());
    lw.push_unguarded(Op::CompareHalves { compare, bf16, d: Some(low), q: Some(high), a, b, combine });
    let (one, zero) = (lw.slots.constant32(one), lw.slots.constant32(0));
    let [low, high] = [low, high].map(|pred| {
        let d = lw.slots.word();
        lw.push_unguarded(Op::Select32 { d, a: one, b: zero, p: Condition { pred, negated: false } });
        d
    });
    lw.push(Op::Binary32 { op: Binary32::Pack16, d, a: low, b: high });
    Ok(())
}

fn selp(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    form.done()?;
    let [d, a, b, p] = form.exactly()?;
    let p = lw.condition(p)?;
    push_select(lw, form, ty, d, (a, b), p)
}

fn slct(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ftz = form.has("ftz");
    let ty = form.ty()?;
    let by = form.ty()?;
    form.done()?;
    let [d, a, b, c] = form.exactly()?;
    let pred = lw.slots.pred();
    let compare = Compare { relation: Relation::Ge, ty: by, ftz };
    let zero = if by == Type::F32 { Operand::F32(0) } else { Operand::Int(0) };
    push_compare(lw, form, compare, (Some(pred), None), (c, &zero), None)?;
    push_select(lw, form, ty, d, (a, b), Condition { pred, negated: false })
}

fn push_select(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    ty: Type,
    d: &Operand,
    (a, b): (&Operand, &Operand),
    p: Condition,
) -> Result<(), Error> {
    let a = lw.source(a, ty)?;
    let b = lw.source(b, ty)?;
    match (lw.destination(d, ty)?, a, b) {
        (Reg::Word(d), Reg::Word(a), Reg::Word(b)) => lw.push(Op::Select32 { d, a, b, p }),
        (Reg::Wide(d), Reg::Wide(a), Reg::Wide(b)) => lw.push(Op::Select64 { d, a, b, p }),
        _ => return Err(form.unsupported("operands of different widths")),
    }
    Ok(())
}
