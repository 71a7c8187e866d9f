//! Loads, stores, atomics and address windows (PTX ISA, "Data Movement" and "Parallel Synchronization").

use super::Lowerer;
use super::convert::push_mov;
use super::form::Form;
use super::names::Symbol;
use crate::ptx::ast::{Base, Operand};
use crate::ptx::error::Error;
use crate::ptx::op::{
    Access, AccessSpace, Address, AddressBase, AtomicOp, Binary64, Compare, Op, Reg, Relation, Wide, Word,
};
use crate::ptx::program::{CONST_WINDOW, LOCAL_WINDOW, MODULE_GLOBALS, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::types::{Space, Type};

pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if form.opcode().starts_with("prefetch") {
        lw.push(Op::Prefetch);
        return Ok(());
    }
    let space = space(form);
    let non_coherent = form.has("nc");
    let releases = form.has("release");
    let strong = form.has("volatile") | form.has("relaxed") | form.has("acquire") | releases | form.has("mmio");
    let releases = releases && !form.has("cta");
    form.ignore(is_hint);
    let (elements, ty) = form.vector_of()?;
    form.done()?;
    if ty.size_bytes() * usize::from(elements) > 32 {
        return Err(form.unsupported("a vector of more than 32 bytes"));
    }
    let is_store = form.opcode() == "st";
    let [first, second] = match form.operands() {
        // A cache policy may follow; it changes no value.
        [first, second] | [first, second, _] => [first, second],
        _ => return Err(form.unsupported("other than two operands")),
    };
    let (address, value) = if is_store { (first, second) } else { (second, first) };
    let Operand::Address { base, offset } = address else {
        return lw.operand_error("an address", address);
    };
    if let (AccessSpace::Is(Space::Param), Base::Name(name)) = (space, base)
        && let Some(register) = lw.parameter_register(name)?
    {
        return parameter_move(lw, form, ty, (register, *offset), value, is_store);
    }
    let (address, space) = resolve(lw, base, *offset, space)?;
    let mut access = Access {
        space,
        element_bytes: ty.size_bytes() as u8,
        elements,
        signed: ty.is_signed(),
        register_bits: 32,
        non_coherent,
        strong,
    };
    let value = &lw.spread(value)?;
    let values = match value {
        Operand::Vector(items) => items.as_slice(),
        _ => std::slice::from_ref(value),
    };
    if values.len() != usize::from(elements) {
        return Err(form.unsupported("a vector that doesn't fit its modifier"));
    }
    if is_store {
        let mut a = [Reg::Word(Word(0)); 8];
        for (slot, operand) in a.iter_mut().zip(values) {
            let (reg, bits) = lw.any_source(operand, ty)?;
            if usize::from(bits) < ty.size_bytes() * 8 {
                return lw.operand_error(&format!("a register of at least {} bytes", ty.size_bytes()), operand);
            }
            *slot = reg;
        }
        if releases {
            lw.push(Op::Fence);
        }
        lw.push(Op::Store { access, a, address });
        return Ok(());
    }
    let mut d = [None; 8];
    for (slot, operand) in d.iter_mut().zip(values) {
        let (reg, bits) = lw.any_destination(operand, (ty.size_bytes() * 8) as u8)?;
        if usize::from(bits) < ty.size_bytes() * 8 {
            return lw.operand_error(&format!("a register of at least {} bytes", ty.size_bytes()), operand);
        }
        access.register_bits = bits;
        *slot = Some(reg);
    }
    lw.push(Op::Load { access, d, address });
    Ok(())
}

/// Call parameters of scalar type are registers, so their loads and stores are copies.
fn parameter_move(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    ty: Type,
    (register, offset): (Reg, i64),
    value: &Operand,
    is_store: bool,
) -> Result<(), Error> {
    if offset != 0 {
        return Err(form.unsupported("part of a scalar call parameter"));
    }
    if is_store {
        let (a, _) = lw.any_source(value, ty)?;
        return match (register, a) {
            (Reg::Word(d), Reg::Wide(a)) => {
                lw.push(Op::ExtractWord { d, a, upper: false });
                Ok(())
            }
            (d, a) => push_mov(lw, form, d, a),
        };
    }
    let (d, _) = lw.any_destination(value, (ty.size_bytes() * 8) as u8)?;
    match (d, register) {
        (Reg::Word(d), Reg::Wide(a)) => lw.push(Op::ExtractWord { d, a, upper: false }),
        (Reg::Wide(d), Reg::Word(low)) => {
            if ty.is_signed() {
                return Err(form.unsupported("a sign-extending read of a call parameter"));
            }
            let high = lw.slots.constant32(0);
            lw.push(Op::PackWords { d, low, high });
        }
        (d, a) => return push_mov(lw, form, d, a),
    }
    Ok(())
}

/// The address of an operand and the space it is in.
pub(super) fn resolve(
    lw: &mut Lowerer<'_>,
    base: &Base,
    offset: i64,
    space: AccessSpace,
) -> Result<(Address, AccessSpace), Error> {
    let Base::Name(name) = base else {
        return Ok((Address { base: AddressBase::Absolute, offset }, space));
    };
    match lw.symbol(name, "register or variable")? {
        Symbol::Register(_) => {
            let source = lw.any_source(&Operand::Name(name.clone()), Type::B64)?.0;
            let base = match source {
                Reg::Word(word) => AddressBase::Word(word),
                Reg::Wide(wide) => AddressBase::Wide(wide),
            };
            Ok((Address { base, offset }, space))
        }
        Symbol::Memory { space: own, address } => {
            let window = match (space, own) {
                (AccessSpace::Generic, own) => window(own),
                _ => 0,
            };
            let space = match (space, own) {
                (AccessSpace::Is(Space::Param), Space::Local) => AccessSpace::Is(Space::Local),
                _ => space,
            };
            let at = (window + address).wrapping_add(offset as u64) as i64;
            Ok((Address { base: AddressBase::Absolute, offset: at }, space))
        }
        _ => {
            let Reg::Wide(wide) = lw.address_of(name, 0, 64)? else {
                return Err(Error::syntax(lw.at, "a variable", format!("`{name}`")));
            };
            let window = if space == AccessSpace::Generic { SHARED_WINDOW as i64 } else { 0 };
            Ok((Address { base: AddressBase::Wide(wide), offset: offset.wrapping_add(window) }, space))
        }
    }
}

fn space(form: &mut Form<'_>) -> AccessSpace {
    let named = form.choice(&[
        ("global", Space::Global),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        // A block is a cluster of its own.
        ("shared::cluster", Space::Shared),
        ("local", Space::Local),
        ("const", Space::Const),
        ("param", Space::Param),
        ("param::entry", Space::Param),
        ("param::func", Space::Param),
    ]);
    named.map_or(AccessSpace::Generic, AccessSpace::Is)
}

/// Modifiers that change caching or the reach of ordering, never a value.
fn is_hint(modifier: &str) -> bool {
    matches!(
        modifier,
        "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "weak" | "cta" | "cluster" | "gpu" | "sys" | "unified"
    ) || modifier.starts_with("L1::")
        || modifier.starts_with("L2::")
        || modifier.starts_with("level::")
}

fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Const => CONST_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Global | Space::Reg => 0,
    }
}

/// `createpolicy` and `applypriority`: caches change no value, so a policy is any number.
pub(super) fn policy(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if form.opcode() == "createpolicy"
        && let Some(d) = form.operands().first()
    {
        let d = lw.wide_destination(d)?;
        let a = lw.slots.constant64(0);
        lw.push(Op::Mov64 { d, a });
    }
    Ok(())
}

/// `cvta` and `isspacep`.
pub(super) fn windows(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let to = form.has("to");
    let AccessSpace::Is(space) = space(form) else {
        return Err(form.unsupported("no state space"));
    };
    if form.opcode() == "isspacep" {
        return is_in_space(lw, form, space);
    }
    let ty = form.ty()?;
    form.done()?;
    if ty.size_bytes() != 8 {
        return Err(form.unsupported("32-bit addresses"));
    }
    let [d, a] = form.exactly()?;
    let a = lw.wide_source(a, Type::U64)?;
    let d = lw.wide_destination(d)?;
    match window(space) {
        0 => lw.push(Op::Mov64 { d, a }),
        start => {
            let b = lw.slots.constant64(start);
            let op = if to { Binary64::Sub } else { Binary64::Add };
            lw.push(Op::Binary64 { op, d, a, b });
        }
    }
    Ok(())
}

/// `alloca`, `stacksave` and `stackrestore`: a pointer into a part of the local frame, which ends where the frame does.
pub(super) fn stack(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if form.ty()?.size_bytes() != 8 {
        return Err(form.unsupported("32-bit addresses"));
    }
    form.done()?;
    let Some(top) = lw.stack else {
        return Err(form.unsupported("no stack"));
    };
    let (d, size, align) = match (form.opcode(), form.operands()) {
        ("stacksave", [d]) => {
            let d = lw.wide_destination(d)?;
            lw.push(Op::Mov64 { d, a: top });
            return Ok(());
        }
        ("stackrestore", [a]) => {
            let a = lw.wide_source(a, Type::U64)?;
            lw.push(Op::Mov64 { d: top, a });
            return Ok(());
        }
        ("alloca", [d, size]) => (d, size, 8),
        ("alloca", [d, size, Operand::Int(align)]) if align.is_power_of_two() => (d, size, *align),
        _ => return Err(form.unsupported("unexpected operands")),
    };
    let size = lw.wide_source(size, Type::U64)?;
    let d = lw.wide_destination(d)?;
    let (start, next) = (lw.slots.wide(), lw.slots.wide());
    let (below, mask) = (lw.slots.constant64(align - 1), lw.slots.constant64(align.wrapping_neg()));
    lw.push_unguarded(Op::Binary64 { op: Binary64::Add, d: start, a: top, b: below });
    lw.push_unguarded(Op::Binary64 { op: Binary64::And, d: start, a: start, b: mask });
    lw.push_unguarded(Op::Binary64 { op: Binary64::Add, d: next, a: start, b: size });
    lw.push(Op::Mov64 { d: top, a: next });
    lw.push(Op::Mov64 { d, a: start });
    Ok(())
}

fn is_in_space(lw: &mut Lowerer<'_>, form: &Form<'_>, space: Space) -> Result<(), Error> {
    form.done()?;
    let [d, a] = form.exactly()?;
    let a = lw.wide_source(a, Type::U64)?;
    let Some(d) = lw.pred_destination(d)? else {
        return Ok(());
    };
    let (start, size) = match space {
        Space::Global => (MODULE_GLOBALS, u64::MAX - MODULE_GLOBALS),
        _ => (window(space), WINDOW_BYTES),
    };
    let relative: Wide = lw.slots.wide();
    let start = lw.slots.constant64(start);
    let size = lw.slots.constant64(size);
    lw.push_unguarded(Op::Binary64 { op: Binary64::Sub, d: relative, a, b: start });
    let compare = Compare { relation: Relation::Lt, ty: Type::U64, ftz: false };
    lw.push(Op::Compare64 { compare, d: Some(d), q: None, a: relative, b: size, combine: None });
    Ok(())
}

/// `atom` and `red` of a vector: each element is updated on its own.
fn atomic_vector(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    op: AtomicOp,
    ty: Type,
    elements: usize,
    space: AccessSpace,
) -> Result<(), Error> {
    let fits = match ty {
        Type::F32 => op == AtomicOp::Add && elements < 8,
        Type::F16x2 | Type::Bf16x2 => elements < 8,
        Type::F16 | Type::Bf16 => true,
        _ => false,
    };
    if !fits || !matches!(op, AtomicOp::Add | AtomicOp::Min | AtomicOp::Max) || space == AccessSpace::Is(Space::Shared)
    {
        return Err(form.unsupported("no such vector form"));
    }
    let (d, address, b) = match form.operands() {
        [d, address, b] if form.opcode() == "atom" => (Some(d), address, b),
        [address, b] if form.opcode() == "red" => (None, address, b),
        _ => return Err(form.unsupported("an unexpected number of operands")),
    };
    let Operand::Address { base, offset } = address else {
        return lw.operand_error("an address", address);
    };
    let Operand::Vector(b) = b else {
        return lw.operand_error("a vector", b);
    };
    let d = match d {
        None => None,
        Some(Operand::Vector(d)) => Some(d.as_slice()),
        Some(d) => return lw.operand_error("a vector", d),
    };
    if b.len() != elements || d.is_some_and(|d| d.len() != elements) {
        return Err(form.unsupported("a vector that doesn't fit its modifier"));
    }
    let (address, space) = resolve(lw, base, *offset, space)?;
    let mut results = Vec::new();
    for (i, b) in b.iter().enumerate() {
        let b = lw.source(b, ty)?;
        let result = match d {
            Some(d) => {
                let scratch = lw.slots.word();
                results.push((lw.word_destination(&d[i], ty)?, scratch));
                Some(Reg::Word(scratch))
            }
            None => None,
        };
        let address = Address { offset: address.offset.wrapping_add((i * ty.size_bytes()) as i64), ..address };
        lw.push(Op::Atomic { op, ty, space, d: result, address, b, c: None });
    }
    // A result may be written to a register that later elements read, so all are copied at the end.
    for (d, a) in results {
        lw.push(Op::Mov32 { d, a });
    }
    Ok(())
}

/// `atom` and `red`.
pub(super) fn atomic(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let space = space(form);
    // Such an access is one with a fence before it.
    if form.has("release") | form.has("acq_rel") && !form.has("cta") {
        lw.push(Op::Fence);
    }
    form.ignore(|m| is_hint(m) || matches!(m, "relaxed" | "acquire" | "noftz"));
    let Some(op) = form.choice(&[
        ("add", AtomicOp::Add),
        ("min", AtomicOp::Min),
        ("max", AtomicOp::Max),
        ("and", AtomicOp::And),
        ("or", AtomicOp::Or),
        ("xor", AtomicOp::Xor),
        ("inc", AtomicOp::Inc),
        ("dec", AtomicOp::Dec),
        ("exch", AtomicOp::Exch),
        ("cas", AtomicOp::Cas),
    ]) else {
        return Err(form.unsupported("no atomic operation that this program knows"));
    };
    let elements = form.choice(&[("v2", 2), ("v4", 4), ("v8", 8)]);
    let ty = form.ty()?;
    form.done()?;
    if let Some(elements) = elements {
        return atomic_vector(lw, form, op, ty, elements, space);
    }
    let returns = form.opcode() == "atom";
    let sources = if op == AtomicOp::Cas { 2 } else { 1 };
    let operands = form.operands();
    if operands.len() != sources + 1 + usize::from(returns) {
        return Err(form.unsupported("an unexpected number of operands"));
    }
    let (d, rest) = match operands {
        [d, rest @ ..] if returns => (Some(lw.destination(d, ty)?), rest),
        rest => (None, rest),
    };
    let [Operand::Address { base, offset }, b, rest @ ..] = rest else {
        return Err(form.unsupported("an operand that isn't an address"));
    };
    let (address, space) = resolve(lw, base, *offset, space)?;
    let b = lw.source(b, ty)?;
    let c = rest.first().map(|c| lw.source(c, ty)).transpose()?;
    lw.push(Op::Atomic { op, ty, space, d, address, b, c });
    Ok(())
}
