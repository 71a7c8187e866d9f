//! `wmma` of f16, bf16, tf32 and bytes (PTX ISA, "Warp Level Matrix Load, Store and Multiply-Accumulate").

use super::Lowerer;
use super::form::Form;
use super::memory::resolve;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{AccessSpace, Element, Factor, Fragment, Op, Part, Wmma, WmmaAccess, Word};
use crate::ptx::types::{Space, Type};

/// Rows, columns and inner dimension.
type Shape = (u8, u8, u8);

pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    if !(form.has("sync") && form.has("aligned")) {
        return Err(form.unsupported("other than `.sync.aligned`"));
    }
    let shape = form.choice(&[
        ("m16n16k16", (16, 16, 16)),
        ("m32n8k16", (32, 8, 16)),
        ("m8n32k16", (8, 32, 16)),
        ("m16n16k8", (16, 16, 8)),
    ]);
    let Some(shape) = shape else {
        return Err(form.unsupported("shapes other than m16n16k16, m32n8k16, m8n32k16 and m16n16k8"));
    };
    if form.has("mma") { multiply(lw, form, shape) } else { access(lw, form, shape) }
}

fn access(lw: &mut Lowerer<'_>, form: &mut Form<'_>, shape: Shape) -> Result<(), Error> {
    let is_store = form.has("store");
    if !is_store && !form.has("load") {
        return Err(form.unsupported("other than load, store and mma"));
    }
    let part = form.choice(&[("a", Part::A), ("b", Part::B), ("c", Part::Sums), ("d", Part::Sums)]);
    let Some(part) = part else {
        return Err(form.unsupported("no matrix"));
    };
    let row_major = layout(form)?;
    let named = form.choice(&[("shared", Space::Shared), ("shared::cta", Space::Shared), ("global", Space::Global)]);
    let space = named.map_or(AccessSpace::Generic, AccessSpace::Is);
    let ty = form.ty()?;
    form.done()?;
    let fragment = fragment(form, part, shape, ty)?;
    let (first, second, stride) = match form.operands() {
        [first, second] => (first, second, None),
        [first, second, stride] => (first, second, Some(stride)),
        _ => return Err(form.unsupported("an unexpected number of operands")),
    };
    let (address, registers) = if is_store { (first, second) } else { (second, first) };
    let Operand::Address { base, offset } = address else {
        return lw.operand_error("an address", address);
    };
    let (address, space) = resolve(lw, base, *offset, space)?;
    let stride = stride.map(|s| lw.word_source(s, Type::U32)).transpose()?;
    let words = words(lw, form, registers, fragment, !is_store)?;
    lw.push(Op::WmmaAccess(Box::new(WmmaAccess { is_store, fragment, row_major, space, address, stride, words })));
    Ok(())
}

fn multiply(lw: &mut Lowerer<'_>, form: &mut Form<'_>, shape: Shape) -> Result<(), Error> {
    // How the factors lay in memory; their fragments are the same either way.
    layout(form)?;
    layout(form)?;
    let saturates = form.has("satfinite");
    let first = form.ty()?;
    let second = form.ty()?;
    // The f16 form names the sums only.
    let (d, factor, c_type) = match form.ty() {
        Ok(third) if third == second => (first, second, form.ty()?),
        Ok(_) => return Err(form.unsupported("these element types")),
        Err(_) => (first, Type::F16, second),
    };
    form.done()?;
    let parts = [(Part::Sums, d), (Part::A, factor), (Part::B, factor), (Part::Sums, c_type)];
    let operands = form.exactly::<4>()?;
    let mut fragments = [None; 4];
    for (slot, ((part, ty), operand)) in fragments.iter_mut().zip(parts.into_iter().zip(operands)) {
        let fragment = fragment(form, part, shape, ty)?;
        *slot = Some((fragment, operand));
    }
    let [Some(d), Some(a), Some(b), Some(c)] = fragments else {
        return Err(form.unsupported("these element types"));
    };
    let integer = matches!(factor, Type::U8 | Type::S8);
    if integer != (first == Type::S32) || integer != (c_type == Type::S32) || saturates && !integer {
        return Err(form.unsupported("these element types"));
    }
    if factor != Type::F16 && (d.0.factor.is_some() || c.0.factor.is_some()) {
        return Err(form.unsupported("these element types"));
    }
    let mut operand = |(fragment, operand): (Fragment, &Operand), destination| {
        words(lw, form, operand, fragment, destination).map(|words| (fragment, words))
    };
    let (a, b, c, d) = (operand(a, false)?, operand(b, false)?, operand(c, false)?, operand(d, true)?);
    lw.push(Op::Wmma(Box::new(Wmma { saturates, a, b, c, d })));
    Ok(())
}

/// Takes the next `.row` or `.col`.
fn layout(form: &mut Form<'_>) -> Result<bool, Error> {
    form.choice(&[("row", true), ("col", false)]).ok_or_else(|| form.unsupported("neither `.row` nor `.col`"))
}

fn fragment(form: &Form<'_>, part: Part, (m, n, k): Shape, ty: Type) -> Result<Fragment, Error> {
    let (rows, columns) = match part {
        Part::A => (m, k),
        Part::B => (k, n),
        Part::Sums => (m, n),
    };
    let elements_of_a_lane = (u32::from(rows) * u32::from(columns) / 32) as u8;
    let (factor, registers) = match (part, ty) {
        (Part::Sums, Type::F16) if k == 16 => (Some(Element::Float(Factor::F16)), 4),
        (Part::Sums, Type::F32) => (None, 8),
        (Part::Sums, Type::S32) if k == 16 => (None, 8),
        // Eight registers whatever the shape, as on the first tensor cores.
        (Part::A | Part::B, Type::F16) if k == 16 => (Some(Element::Float(Factor::F16)), 8),
        (Part::A | Part::B, Type::Bf16) if k == 16 => (Some(Element::Float(Factor::Bf16)), elements_of_a_lane / 2),
        (Part::A | Part::B, Type::Tf32) if k == 8 => (Some(Element::Float(Factor::Tf32)), elements_of_a_lane),
        (Part::A | Part::B, Type::U8 | Type::S8) if k == 16 => {
            (Some(Element::Byte { signed: ty == Type::S8 }), elements_of_a_lane / 4)
        }
        _ => return Err(form.unsupported("these element types in this shape")),
    };
    Ok(Fragment { part, rows, columns, factor, registers })
}

fn words(
    lw: &mut Lowerer<'_>,
    form: &Form<'_>,
    operand: &Operand,
    fragment: Fragment,
    destination: bool,
) -> Result<[Word; 8], Error> {
    let Operand::Vector(items) = operand else {
        return lw.operand_error("a fragment", operand);
    };
    if items.len() != usize::from(fragment.registers) {
        return Err(form.unsupported("a fragment of another size"));
    }
    let ty = if fragment.factor.is_none() { Type::F32 } else { Type::B32 };
    let mut out = [Word(0); 8];
    for (slot, item) in out.iter_mut().zip(items) {
        *slot = if destination { lw.word_destination(item, ty)? } else { lw.word_source(item, ty)? };
    }
    Ok(out)
}
