//! `ldmatrix`, `stmatrix`, `mma.sync` and `cp.async` (PTX ISA, "Warp Level Matrix Instructions", "Asynchronous Copy").

use super::Lowerer;
use super::form::Form;
use super::matrix_exact;
use super::memory::resolve;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{AccessSpace, CopyAsync, Factor, MatrixAccess, Mma, Op, Word};
use crate::ptx::types::{Space, Type};

/// `ldmatrix` and `stmatrix` of 8 by 8 matrices of 16-bit elements.
pub(super) fn access(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if !(form.has("sync") && form.has("aligned") && form.has("m8n8")) {
        return Err(form.unsupported("other than `.sync.aligned.m8n8`"));
    }
    let Some(count) = form.choice(&[("x1", 1u8), ("x2", 2), ("x4", 4)]) else {
        return Err(form.unsupported("no count"));
    };
    let transposed = form.has("trans");
    let shared = form.has("shared") || form.has("shared::cta");
    if form.ty()? != Type::B16 {
        return Err(form.unsupported("elements other than .b16"));
    }
    form.done()?;
    let [first, second] = form.exactly()?;
    let is_store = form.opcode() == "stmatrix";
    let (address, fragments) = if is_store { (first, second) } else { (second, first) };
    let Operand::Address { base, offset } = address else {
        return lw.operand_error("an address", address);
    };
    let space = if shared { AccessSpace::Is(Space::Shared) } else { AccessSpace::Generic };
    let (address, space) = resolve(lw, base, *offset, space)?;
    let registers = words(lw, form, fragments, usize::from(count), !is_store, Type::B32)?;
    lw.push(Op::Matrix(Box::new(MatrixAccess { is_store, count, transposed, space, address, registers })));
    Ok(())
}

/// `mma.sync` of f16, bf16 and tf32.
pub(super) fn mma(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if !(form.has("sync") && form.has("aligned")) {
        return Err(form.unsupported("other than `.sync.aligned`"));
    }
    if form.shows(&["s32"]) {
        return matrix_exact::integer(lw, form);
    }
    if form.shows(&["f64"]) {
        return matrix_exact::double(lw, form);
    }
    if form.shows(&["e4m3", "e5m2"]) {
        return matrix_exact::eight(lw, form);
    }
    let Some(k) = form.choice(&[("m16n8k4", 4u8), ("m16n8k8", 8), ("m16n8k16", 16)]) else {
        return Err(form.unsupported("shapes of floats other than m16n8k4, k8 and k16"));
    };
    if !(form.has("row") && form.has("col")) {
        return Err(form.unsupported("layouts other than .row.col"));
    }
    let types = (form.ty()?, form.ty()?, form.ty()?, form.ty()?);
    form.done()?;
    let (accumulator, factor) = match types {
        (d @ (Type::F16 | Type::F32), Type::F16, Type::F16, c) if d == c && k != 4 => (d, Factor::F16),
        (Type::F32, Type::Bf16, Type::Bf16, Type::F32) if k != 4 => (Type::F32, Factor::Bf16),
        (Type::F32, Type::Tf32, Type::Tf32, Type::F32) if k != 16 => (Type::F32, Factor::Tf32),
        _ => return Err(form.unsupported("these element types")),
    };
    let [d, a, b, c] = form.exactly()?;
    // Two 16-bit elements to a register, one of tf32; 16 by k elements over 32 lanes, and k by 8.
    let per_word = if factor == Factor::Tf32 { 1 } else { 2 };
    let sums = if accumulator == Type::F16 { 2 } else { 4 };
    let sum_type = if accumulator == Type::F16 { Type::B32 } else { Type::F32 };
    let a = words(lw, form, a, usize::from(k) / 2 / per_word, false, Type::B32)?;
    let b = words(lw, form, b, usize::from(k) / 4 / per_word, false, Type::B32)?;
    let c = words(lw, form, c, sums, false, sum_type)?;
    let d = words(lw, form, d, sums, true, sum_type)?;
    lw.push(Op::Mma(Box::new(Mma { k, factor, half_sums: accumulator == Type::F16, d, a, b, c })));
    Ok(())
}

/// Exactly `count` registers; the slots past them repeat the first and are never used.
pub(super) fn words(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    operand: &Operand,
    count: usize,
    destination: bool,
    ty: Type,
) -> Result<[Word; 4], Error> {
    let items = match operand {
        Operand::Vector(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    if items.len() != count {
        return Err(form.unsupported("a fragment of another size"));
    }
    let mut out = [Word(0); 4];
    for (slot, item) in out.iter_mut().zip(items) {
        *slot = if destination { lw.word_destination(item, ty)? } else { lw.word_source(item, ty)? };
    }
    Ok(out)
}

/// `cp.async`, its groups and waits.
pub(super) fn copy(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if !form.has("async") || form.has("bulk") {
        return Err(form.unsupported("other than `cp.async`"));
    }
    if form.has("mbarrier") {
        return super::mbarrier::copies(lw, form);
    }
    if form.has("commit_group") {
        form.done()?;
        lw.push(Op::CopyCommit);
        return Ok(());
    }
    if form.has("wait_all") {
        form.done()?;
        lw.push(Op::CopyWait { pending: None });
        return Ok(());
    }
    if form.has("wait_group") {
        form.done()?;
        let [Operand::Int(n)] = form.exactly()? else {
            return Err(form.unsupported("a count that isn't constant"));
        };
        lw.push(Op::CopyWait { pending: Some(u32::try_from(*n).unwrap_or(u32::MAX)) });
        return Ok(());
    }
    form.ignore(|m| matches!(m, "ca" | "cg") || m.starts_with("L2::"));
    if !((form.has("shared") || form.has("shared::cta")) && form.has("global")) {
        return Err(form.unsupported("other than from global to shared memory"));
    }
    form.done()?;
    let (to, from, bytes, source_bytes) = match form.operands() {
        [to, from, Operand::Int(bytes @ (4 | 8 | 16))] => (to, from, *bytes, None),
        [to, from, Operand::Int(bytes @ (4 | 8 | 16)), source] => {
            (to, from, *bytes, Some(lw.word_source(source, Type::U32)?))
        }
        _ => return Err(form.unsupported("other than 4, 8 or 16 bytes")),
    };
    let (Operand::Address { base, offset }, Operand::Address { base: from_base, offset: from_offset }) = (to, from)
    else {
        return Err(form.unsupported("an operand that isn't an address"));
    };
    let (to, _) = resolve(lw, base, *offset, AccessSpace::Is(Space::Shared))?;
    let (from, _) = resolve(lw, from_base, *from_offset, AccessSpace::Is(Space::Global))?;
    lw.push(Op::CopyAsync(Box::new(CopyAsync { to, from, bytes: bytes as u8, source_bytes })));
    Ok(())
}
