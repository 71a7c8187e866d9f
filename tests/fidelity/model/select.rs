//! Comparison, selection, atomic operations, and the bodies of several instructions.

use super::Name;
use super::exact::{Rounding, Value};
use super::float::{flush, format};
use super::integer::{integer_type, mask, value};
use crate::fidelity::forms::form::Form;
use std::cmp::Ordering;

const RELATIONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

fn holds(name: &Name<'_>, ty: &str, a: u64, b: u64) -> Option<bool> {
    let order = match format(ty) {
        Some(format) => {
            let at = |v| format.decode(if name.has("ftz") { flush(format, v) } else { v });
            at(a).compare(&at(b))
        }
        None => Some(value(ty, a)?.cmp(&value(ty, b)?)),
    };
    let relation = name.choice(&RELATIONS)?;
    let Some(order) = order else {
        return Some(relation == "nan" || relation.len() == 3 && relation.ends_with('u'));
    };
    Some(match relation {
        "eq" | "equ" => order == Ordering::Equal,
        "ne" | "neu" => order != Ordering::Equal,
        "lt" | "ltu" | "lo" => order == Ordering::Less,
        "le" | "leu" | "ls" => order != Ordering::Greater,
        "gt" | "gtu" | "hi" => order == Ordering::Greater,
        "ge" | "geu" | "hs" => order != Ordering::Less,
        relation => relation == "num",
    })
}

fn combined(name: &Name<'_>, test: bool, with: Option<bool>) -> bool {
    match (name.choice(&["and", "or", "xor"]), with) {
        (Some("and"), Some(c)) => test && c,
        (Some("or"), Some(c)) => test || c,
        (Some(_), Some(c)) => test != c,
        _ => test,
    }
}

pub(super) fn select(name: &Name<'_>, case: &[u64]) -> Option<Vec<u64>> {
    let ty = name.ty();
    let predicate = case.get(2).map(|c| *c != 0);
    match name.opcode {
        "setp" => Some(vec![combined(name, holds(name, ty, case[0], case[1])?, predicate).into()]),
        "set" => {
            let to = name.types[0];
            let yes = match format(to) {
                Some(format) => format.encode(&Value::Finite(super::exact::Number::integer(1)), Rounding::Nearest),
                None => mask(u64::MAX, integer_type(to)?.0),
            };
            let one = |a, b| Some(if combined(name, holds(name, ty, a, b)?, predicate) { yes } else { 0 });
            if ty.ends_with("x2") {
                let at = |i: u32| one(case[0] >> i & 0xffff, case[1] >> i & 0xffff);
                return Some(vec![at(16)? << 16 | at(0)?]);
            }
            Some(vec![one(case[0], case[1])?])
        }
        "selp" => Some(vec![if predicate? { case[0] } else { case[1] }]),
        "slct" => {
            let c = case[2];
            let not_negative = match format(ty) {
                Some(format) => {
                    let c = if name.has("ftz") { flush(format, c) } else { c };
                    matches!(format.decode(c).compare(&format.decode(0)), Some(Ordering::Equal | Ordering::Greater))
                }
                None => value(ty, c)? >= 0,
            };
            Some(vec![if not_negative { case[0] } else { case[1] }])
        }
        "testp" => {
            let format = format(ty)?;
            let decoded = format.decode(case[0]);
            let zero = case[0] & !format.sign() == 0;
            let finite = matches!(decoded, Value::Finite(_));
            let nan = decoded == Value::Nan;
            Some(vec![u64::from(match name.modifiers[0] {
                "finite" => finite,
                "infinite" => !finite && !nan,
                "number" => !nan,
                "notanumber" => nan,
                // Zero counts as normal.
                "normal" => finite && (zero || !format.is_subnormal(case[0])),
                _ => format.is_subnormal(case[0]) && !zero,
            })])
        }
        _ => None,
    }
}

/// Old value, then what is in memory.
pub(super) fn atomic(name: &Name<'_>, case: &[u64]) -> Option<Vec<u64>> {
    let ty = name.ty();
    let (old, b) = (case[0], case[1]);
    let width = integer_type(ty).map(|(w, _)| w);
    let wins = |less: bool| Some(if (value(ty, b)? < value(ty, old)?) == less { b } else { old });
    let operation = name.choice(&["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"])?;
    let new = match operation {
        "add" => match width {
            Some(width) => mask(old.wrapping_add(b), width),
            // The units of the memory return a NaN as it is.
            None if ty == "f64" && !name.has("shared") && [old, b].iter().any(|v| super::exact::F64.is_nan(*v)) => {
                if super::exact::F64.is_nan(b) {
                    b
                } else {
                    old
                }
            }
            None if ty == "f64" && super::exact::F64.is_nan(old) => old | 1 << 51,
            None => {
                // In global memory sums of f32 are flushed.
                let modifiers = if ty == "f32" && !name.has("shared") { vec!["ftz"] } else { Vec::new() };
                let name = Name { opcode: "add", modifiers, types: vec![ty] };
                super::float::arithmetic(&name, &[old, b])?
            }
        },
        "min" | "max" if width.is_none() => {
            let name = Name { opcode: operation, modifiers: Vec::new(), types: vec![ty] };
            super::float::arithmetic(&name, &[old, b])?
        }
        "min" => wins(true)?,
        "max" => wins(false)?,
        "inc" => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        "dec" => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        "and" => old & b,
        "or" => old | b,
        "xor" => old ^ b,
        "exch" => b,
        "cas" => {
            if old == b {
                case[2]
            } else {
                old
            }
        }
        _ => return None,
    };
    Some(vec![old, new])
}

/// Forms written out with their operands.
pub(super) fn special(form: &Form, name: &Name<'_>, case: &[u64]) -> Option<Vec<u64>> {
    let at = |i: usize| u128::from(case.get(i).copied().unwrap_or(0));
    let low = |v: u128| v as u64 & 0xffff_ffff;
    match name.opcode {
        "add" => {
            let width = form.outputs[0].bits();
            let first = at(0) + at(1);
            let second = at(2) + at(3) + (first >> width);
            Some(vec![mask(first as u64, width), low(second), low(second >> 32)])
        }
        "sub" => {
            let width = form.outputs[0].bits();
            let first = at(0).wrapping_sub(at(1));
            let second = at(2).wrapping_sub(at(3)).wrapping_sub(u128::from(at(0) < at(1)));
            let borrow = at(2) < at(3) + u128::from(at(0) < at(1));
            let third = if borrow { u64::MAX } else { 0 };
            Some([first as u64, second as u64, third].map(|v| mask(v, width)).to_vec())
        }
        "mad" => {
            let (ty, width) = (name.ty(), form.outputs[0].bits());
            let product =
                if ty.starts_with('s') { (value(ty, case[0])? * value(ty, case[1])?) as u128 } else { at(0) * at(1) };
            let halves = [mask(product as u64, width), mask((product >> width) as u64, width)];
            let [own, other] = if name.has("hi") { [halves[1], halves[0]] } else { halves };
            let first = u128::from(own) + at(2);
            let second = u128::from(other) + at(3) + (first >> width);
            Some(vec![mask(first as u64, width), mask(second as u64, width)])
        }
        "lop3" => {
            let table = form.name.split([' ', ',', ';']).find_map(|word| word.strip_prefix("0x"))?;
            let table = u64::from_str_radix(table, 16).ok()?;
            let index = |i: u32| (case[0] >> i & 1) << 2 | (case[1] >> i & 1) << 1 | case[2] >> i & 1;
            let d = (0..32).fold(0, |out, i| out | (table >> index(i) & 1) << i);
            let q = case.get(3).map(|q| (*q != 0) != form.name.contains('!'));
            Some(if q.is_some() { vec![d, combined(name, d != 0, q).into()] } else { vec![d] })
        }
        "cvt" => Some(vec![super::convert::convert(name, case, 32)?]),
        "setp" => {
            let ty = name.ty();
            let with = case.get(2).map(|c| (*c != 0) != form.name.contains('!'));
            if ty.ends_with("x2") {
                let at = |shift: u32| holds(name, ty, case[0] >> shift & 0xffff, case[1] >> shift & 0xffff);
                return Some(vec![combined(name, at(0)?, with).into(), combined(name, at(16)?, with).into()]);
            }
            let test = holds(name, ty, case[0], case[1])?;
            Some(vec![combined(name, test, with).into(), combined(name, !test, with).into()])
        }
        "mov" => {
            let widths = |kinds: &[crate::fidelity::forms::form::Kind]| kinds[0].bits();
            let width = widths(&form.inputs).min(widths(&form.outputs));
            if form.outputs.len() == 1 {
                return Some(vec![case[0] | case[1] << width]);
            }
            Some((0..form.outputs.len()).map(|i| mask(case[0] >> (i as u32 * width), width)).collect())
        }
        "ld" | "ldu" => load(form, name, case),
        "st" => store(form, name, case),
        _ => None,
    }
}

fn load(form: &Form, name: &Name<'_>, case: &[u64]) -> Option<Vec<u64>> {
    let bytes: Vec<u8> = case.iter().flat_map(|v| v.to_le_bytes()).collect();
    let offset: usize = form.name.rsplit_once('+')?.1.split(']').next()?.parse().ok()?;
    let ty = name.ty();
    let size = integer_type(ty).map_or_else(|| format(ty).map_or(0, |f| f.width()), |(w, _)| w) as usize / 8;
    let element = |(i, kind): (usize, &crate::fidelity::forms::form::Kind)| {
        let place = &bytes[offset + i * size..][..size];
        let bits = place.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        mask(value(ty, bits).map_or(bits, |v| v as u64), kind.bits())
    };
    Some(form.outputs.iter().enumerate().map(element).collect())
}

fn store(form: &Form, name: &Name<'_>, case: &[u64]) -> Option<Vec<u64>> {
    let mut bytes = [crate::fidelity::forms::form::FILL; 32];
    let place = form.name.split(']').next()?.rsplit_once('+').map_or(0, |(_, at)| at.parse().unwrap_or(0));
    let ty = name.types[0];
    let size = integer_type(ty).map_or_else(|| format(ty).map_or(0, |f| f.width()), |(w, _)| w) as usize / 8;
    for (i, value) in case.iter().enumerate() {
        bytes[place + i * size..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    let start = place / 8 * 8;
    let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|b| bytes[start + 8 * i + b]));
    Some((0..form.outputs.len()).map(word).collect())
}
