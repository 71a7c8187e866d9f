//! `mbarrier` (PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier").

use super::Lowerer;
use super::form::Form;
use super::memory::resolve;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{AccessSpace, Binary32, Mbarrier, MbarrierKind, Op, PENDING_MASK, Reg, Wide};
use crate::ptx::types::{Space, Type};

pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if form.has("shared::cluster") {
        return Err(form.unsupported("barriers of other blocks of a cluster"));
    }
    let space = space(form);
    let no_complete = form.has("noComplete");
    let drops = form.has("arrive_drop");
    let arrives = form.has("arrive") || drops;
    let expects = form.has("expect_tx");
    let name = if arrives {
        "arrive"
    } else if expects {
        "expect_tx"
    } else {
        let names = ["init", "inval", "complete_tx", "test_wait", "try_wait", "pending_count"];
        match form.choice(&names.map(|n| (n, n))) {
            Some(name) => name,
            None => return Err(form.unsupported("no such operation")),
        }
    };
    let parity = form.has("parity");
    form.ignore(|m| matches!(m, "relaxed" | "acquire" | "release" | "cta" | "cluster"));
    if form.ty()? != Type::B64 {
        return Err(form.unsupported("a type other than .b64"));
    }
    form.done()?;
    if name == "pending_count" {
        return pending_count(lw, form);
    }
    let unexpected = || form.unsupported("an unexpected number of operands");
    let (kind, address) = match (name, form.operands()) {
        ("init", [address, count]) => (MbarrierKind::Init { count: lw.word_source(count, Type::U32)? }, address),
        ("inval", [address]) => (MbarrierKind::Invalidate, address),
        ("arrive", [state, address, rest @ ..]) if rest.len() < 2 => {
            let last = rest.first().map(|n| lw.word_source(n, Type::U32)).transpose()?;
            if last.is_none() && (expects || no_complete) {
                return Err(unexpected());
            }
            let (count, transactions) = if expects { (None, last) } else { (last, None) };
            let state = state_destination(lw, state)?;
            (MbarrierKind::Arrive { state, count, transactions, drops, no_complete }, address)
        }
        ("expect_tx", [address, n]) => (MbarrierKind::Expect { transactions: lw.word_source(n, Type::U32)? }, address),
        ("complete_tx", [address, n]) => {
            (MbarrierKind::Complete { transactions: lw.word_source(n, Type::U32)? }, address)
        }
        // How long to wait is a hint.
        ("test_wait" | "try_wait", [complete, address, phase, rest @ ..]) if rest.len() < 2 => {
            let phase = if parity {
                Reg::Word(lw.word_source(phase, Type::U32)?)
            } else {
                Reg::Wide(lw.wide_source(phase, Type::B64)?)
            };
            let complete = lw.pred_destination(complete)?;
            (MbarrierKind::Test { complete, phase, parity }, address)
        }
        _ => return Err(unexpected()),
    };
    push(lw, form, kind, address, space)
}

/// `cp.async.mbarrier.arrive`.
pub(super) fn copies(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let counted = form.has("noinc");
    if !form.has("arrive") {
        return Err(form.unsupported("other than `.arrive`"));
    }
    let space = space(form);
    if form.ty()? != Type::B64 {
        return Err(form.unsupported("a type other than .b64"));
    }
    form.done()?;
    let [address] = form.exactly()?;
    push(lw, form, MbarrierKind::Copies { counted }, address, space)
}

fn space(form: &mut Form<'_>) -> AccessSpace {
    let is_shared = form.has("shared") || form.has("shared::cta");
    if is_shared { AccessSpace::Is(Space::Shared) } else { AccessSpace::Generic }
}

fn push(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    kind: MbarrierKind,
    address: &Operand,
    space: AccessSpace,
) -> Result<(), Error> {
    let Operand::Address { base, offset } = address else {
        return Err(form.unsupported("an operand that isn't an address"));
    };
    let (address, space) = resolve(lw, base, *offset, space)?;
    lw.push(Op::Mbarrier(Box::new(Mbarrier { kind, space, address })));
    Ok(())
}

fn state_destination(lw: &mut Lowerer<'_>, operand: &Operand) -> Result<Option<Wide>, Error> {
    match operand {
        Operand::Name(name) if name == "_" => Ok(None),
        operand => lw.wide_destination(operand).map(Some),
    }
}

/// Arrivals that were still missing, from the low bits of a state.
fn pending_count(lw: &mut Lowerer<'_>, form: &Form<'_>) -> Result<(), Error> {
    let [d, state] = form.exactly()?;
    let a = lw.wide_source(state, Type::B64)?;
    let d = lw.word_destination(d, Type::U32)?;
    let whole = lw.slots.word();
    lw.push_unguarded(Op::ExtractWord { d: whole, a, upper: false });
    let b = lw.slots.constant32(PENDING_MASK);
    lw.push(Op::Binary32 { op: Binary32::And, d, a: whole, b });
    Ok(())
}
