//! Extended-precision integer arithmetic (PTX ISA, "Extended-Precision Integer Arithmetic Instructions").
//!
//! The manual's `CC.CF` is a predicate of its own, one bit a lane. `subc` takes it as a borrow.

use super::Lowerer;
use super::form::Form;
use crate::ptx::error::Error;
use crate::ptx::op::{Carried, Carry, Op};
use crate::ptx::types::Type;

/// `addc`, `subc`, `madc`, and `add`, `sub`, `mad` whose `.cc` has been taken.
pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let takes = form.opcode().ends_with('c');
    let gives = !takes || form.has("cc");
    let high = form.choice(&[("lo", false), ("hi", true)]);
    let ty = form.ty()?;
    form.done()?;
    if !matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64) {
        return Err(form.unsupported("a carry chain of a type other than .u32, .s32, .u64 and .s64"));
    }
    let op = match (form.opcode(), high) {
        ("add" | "addc", None) => Carried::Add,
        ("sub" | "subc", None) => Carried::Sub,
        ("mad" | "madc", Some(false)) => Carried::MadLo,
        ("mad" | "madc", Some(true)) if ty.is_signed() => Carried::MadHiS,
        ("mad" | "madc", Some(true)) => Carried::MadHiU,
        _ => return Err(form.unsupported("no such form with a carry flag")),
    };
    let (d, a, b, c) = if high.is_some() {
        let [d, a, b, c] = form.exactly()?;
        (d, a, b, Some(c))
    } else {
        let [d, a, b] = form.exactly()?;
        (d, a, b, None)
    };
    let a = lw.source(a, ty)?;
    let b = lw.source(b, ty)?;
    let c = c.map(|c| lw.source(c, ty)).transpose()?;
    let d = lw.destination(d, ty)?;
    let flag = match lw.carry {
        Some(flag) => flag,
        None => *lw.carry.insert(lw.slots.pred()),
    };
    lw.push(Op::Carry(Box::new(Carry { op, d, a, b, c, flag, takes, gives })));
    Ok(())
}
