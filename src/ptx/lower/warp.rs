//! Barriers, fences, and instructions across the lanes of a warp (PTX ISA, "Parallel Synchronization and Communication").

use super::Lowerer;
use super::form::Form;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{BarrierKind, BarrierReduction, Op, Pred, ReduxOp, ShuffleMode, VoteMode};
use crate::ptx::types::Type;

/// `bar`, `barrier`, `membar`, `fence`.
pub(super) fn barrier(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if matches!(form.opcode(), "membar" | "fence") {
        // Within a block barriers and clocks say enough.
        lw.push(if form.has("cta") { Op::Nop } else { Op::Fence });
        return Ok(());
    }
    if form.has("warp") {
        form.has("sync");
        form.done()?;
        let [mask] = form.exactly()?;
        let mask = lw.word_source(mask, Type::B32)?;
        lw.push(Op::WarpSync { mask });
        return Ok(());
    }
    if form.has("cluster") {
        return super::cluster::barrier(lw, form);
    }
    form.has("cta");
    let aligned = form.has("aligned") || form.opcode() == "bar";
    let operands = form.operands();
    if form.has("red") {
        return reduction(lw, form, aligned);
    }
    let kind = if form.has("arrive") {
        BarrierKind::Arrive
    } else if form.has("sync") {
        BarrierKind::Sync
    } else {
        return Err(form.unsupported("no such barrier operation"));
    };
    form.done()?;
    let (id, count) = match operands {
        [id] if kind == BarrierKind::Sync => (id, None),
        [id, count] => (id, Some(lw.word_source(count, Type::U32)?)),
        _ => return Err(form.unsupported("an unexpected number of operands")),
    };
    let id = lw.word_source(id, Type::U32)?;
    lw.push(Op::Barrier { kind, id, count, aligned });
    Ok(())
}

fn reduction(lw: &mut Lowerer<'_>, form: &mut Form<'_>, aligned: bool) -> Result<(), Error> {
    let popc = form.has("popc");
    let and = form.has("and");
    form.has("or");
    form.ty()?;
    form.done()?;
    let (d, id, count, source) = match form.operands() {
        [d, id, source] => (d, id, None, source),
        [d, id, count, source] => (d, id, Some(count), source),
        _ => return Err(form.unsupported("an unexpected number of operands")),
    };
    let source = lw.condition(source)?;
    let count = count.map(|c| lw.word_source(c, Type::U32)).transpose()?;
    let id = lw.word_source(id, Type::U32)?;
    let reduction = if popc {
        BarrierReduction::Popc { d: lw.word_destination(d, Type::U32)? }
    } else {
        let d = match lw.pred_destination(d)? {
            Some(d) => d,
            None => lw.slots.pred(),
        };
        if and { BarrierReduction::And { d } } else { BarrierReduction::Or { d } }
    };
    lw.push(Op::Barrier { kind: BarrierKind::Reduce { reduction, source }, id, count, aligned });
    Ok(())
}

/// `shfl`, `vote`, `match`, `redux`, `elect`, `activemask`.
pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if form.opcode() == "activemask" {
        let [d] = form.exactly()?;
        let d = lw.word_destination(d, Type::B32)?;
        lw.push(Op::ActiveMask { d });
        return Ok(());
    }
    if !form.has("sync") {
        return Err(form.unsupported("forms without `.sync`, removed in sm_70"));
    }
    match form.opcode() {
        "shfl" => shuffle(lw, form),
        "vote" => vote(lw, form),
        "match" => matching(lw, form),
        "redux" => redux(lw, form),
        "elect" => super::composed::elect(lw, form),
        _ => Err(form.unsupported("no such warp operation")),
    }
}

fn value_and_pred<'o>(lw: &mut Lowerer<'_>, d: &'o Operand) -> Result<(&'o Operand, Option<Pred>), Error> {
    match d {
        Operand::Pair(d, p) => Ok((d.as_ref(), lw.pred_destination(p)?)),
        d => Ok((d, None)),
    }
}

fn shuffle(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let mode = form.choice(&[
        ("up", ShuffleMode::Up),
        ("down", ShuffleMode::Down),
        ("bfly", ShuffleMode::Bfly),
        ("idx", ShuffleMode::Idx),
    ]);
    let Some(mode) = mode else {
        return Err(form.unsupported("no shuffle mode"));
    };
    form.ty()?;
    form.done()?;
    let [d, a, b, c, mask] = form.exactly()?;
    let (d, p) = value_and_pred(lw, d)?;
    let a = lw.word_source(a, Type::B32)?;
    let b = lw.word_source(b, Type::B32)?;
    let c = lw.word_source(c, Type::B32)?;
    let mask = lw.word_source(mask, Type::B32)?;
    let d = lw.word_destination(d, Type::B32)?;
    lw.push(Op::Shuffle { mode, d, p, a, b, c, mask });
    Ok(())
}

fn vote(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let mode = form.choice(&[
        ("all", VoteMode::All),
        ("any", VoteMode::Any),
        ("uni", VoteMode::Uni),
        ("ballot", VoteMode::Ballot),
    ]);
    let Some(mode) = mode else {
        return Err(form.unsupported("no vote mode"));
    };
    form.ty()?;
    form.done()?;
    let [d, a, mask] = form.exactly()?;
    let a = lw.condition(a)?;
    let mask = lw.word_source(mask, Type::B32)?;
    let (d, p) = if mode == VoteMode::Ballot {
        (lw.word_destination(d, Type::B32)?, None)
    } else {
        (lw.slots.word(), lw.pred_destination(d)?)
    };
    lw.push(Op::Vote { mode, d, p, a, mask });
    Ok(())
}

fn matching(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let all = form.has("all");
    form.has("any");
    let ty = form.ty()?;
    form.done()?;
    let [d, a, mask] = form.exactly()?;
    let (d, p) = value_and_pred(lw, d)?;
    let a = lw.source(a, ty)?;
    let mask = lw.word_source(mask, Type::B32)?;
    let d = lw.word_destination(d, Type::B32)?;
    lw.push(Op::Match { all, d, p, a, mask });
    Ok(())
}

fn redux(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let named = form.choice(&[
        ("add", (ReduxOp::Add, ReduxOp::Add)),
        ("min", (ReduxOp::MinU, ReduxOp::MinS)),
        ("max", (ReduxOp::MaxU, ReduxOp::MaxS)),
        ("and", (ReduxOp::And, ReduxOp::And)),
        ("or", (ReduxOp::Or, ReduxOp::Or)),
        ("xor", (ReduxOp::Xor, ReduxOp::Xor)),
    ]);
    let Some((unsigned, signed)) = named else {
        return Err(form.unsupported("no reduction"));
    };
    let ty = form.ty()?;
    let (abs, nan) = (form.has("abs"), form.has("NaN"));
    form.done()?;
    let op = match (ty, unsigned) {
        (Type::F32, ReduxOp::MinU) => ReduxOp::MinF32 { abs, nan },
        (Type::F32, ReduxOp::MaxU) => ReduxOp::MaxF32 { abs, nan },
        (Type::B32 | Type::U32 | Type::S32, _) if !abs && !nan => {
            if ty.is_signed() {
                signed
            } else {
                unsigned
            }
        }
        _ => return Err(form.unsupported("no such type for this reduction")),
    };
    let [d, a, mask] = form.exactly()?;
    let a = lw.word_source(a, ty)?;
    let mask = lw.word_source(mask, Type::B32)?;
    let d = lw.word_destination(d, ty)?;
    lw.push(Op::Redux { op, d, a, mask });
    Ok(())
}
