//! `ldmatrix`, `stmatrix`, `mma.sync` and `cp.async` (PTX ISA, "Warp Level Matrix Instructions", "Asynchronous Copy").

use super::Lowerer;
use super::form::Form;
use super::memory::resolve;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{AccessSpace, CopyAsync, Factor, MatrixAccess, Mma, MmaDouble, MmaInteger, Op, Rounding, Word};
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
    if form.has("m8n8k4") {
        return mma_double(lw, form);
    }
    let Some(k) = form.choice(&[("m16n8k32", 32u8), ("m16n8k4", 4), ("m16n8k8", 8), ("m16n8k16", 16)]) else {
        return Err(form.unsupported("shapes other than m16n8k4, k8, k16 and k32, and m8n8k4 of f64"));
    };
    if !(form.has("row") && form.has("col")) {
        return Err(form.unsupported("layouts other than .row.col"));
    }
    let saturates = form.has("satfinite");
    let types = (form.ty()?, form.ty()?, form.ty()?, form.ty()?);
    form.done()?;
    if let (Type::S32, a @ (Type::S8 | Type::U8), b @ (Type::S8 | Type::U8), Type::S32) = types
        && k >= 16
    {
        let [d, a_fragment, b_fragment, c] = form.exactly()?;
        let operands = MmaInteger {
            k,
            a_signed: a == Type::S8,
            b_signed: b == Type::S8,
            saturates,
            a: words(lw, form, a_fragment, usize::from(k) / 8, false, Type::B32)?,
            b: words(lw, form, b_fragment, usize::from(k) / 16, false, Type::B32)?,
            c: words(lw, form, c, 4, false, Type::B32)?,
            d: words(lw, form, d, 4, true, Type::B32)?,
        };
        lw.push(Op::MmaInteger(Box::new(operands)));
        return Ok(());
    }
    if saturates || k == 32 {
        return Err(form.unsupported("these element types"));
    }
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

/// `mma.sync.m8n8k4.row.col.f64`.
fn mma_double(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if !(form.has("row") && form.has("col")) {
        return Err(form.unsupported("layouts other than .row.col"));
    }
    let rounding = form.rounding().unwrap_or(Rounding::Nearest);
    for _ in 0..4 {
        if form.ty()? != Type::F64 {
            return Err(form.unsupported("m8n8k4 of other than f64"));
        }
    }
    form.done()?;
    let [d, a, b, c] = form.exactly()?;
    let (Operand::Vector(d), Operand::Vector(c)) = (d, c) else {
        return Err(form.unsupported("a fragment of another size"));
    };
    let one = |operand: &Operand| match operand {
        Operand::Vector(items) if items.len() == 1 => items[0].clone(),
        single => single.clone(),
    };
    let ([d0, d1], [c0, c1]) = (d.as_slice(), c.as_slice()) else {
        return Err(form.unsupported("a fragment of another size"));
    };
    let a = lw.wide_source(&one(a), Type::F64)?;
    let b = lw.wide_source(&one(b), Type::F64)?;
    let c = [lw.wide_source(c0, Type::F64)?, lw.wide_source(c1, Type::F64)?];
    let d = [lw.wide_destination(d0)?, lw.wide_destination(d1)?];
    lw.push(Op::MmaDouble(Box::new(MmaDouble { rounding, d, a, b, c })));
    Ok(())
}

/// Exactly `count` registers; the slots past them repeat the first and are never used.
fn words(
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
