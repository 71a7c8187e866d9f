//! Integer, bit and carry operations, in i128.

use super::Name;

/// Width and signedness of an integer type.
pub(super) fn integer_type(ty: &str) -> Option<(u32, bool)> {
    let width = ty.strip_prefix(['u', 's', 'b'])?.parse().ok()?;
    Some((width, ty.starts_with('s')))
}

/// The value of a type's bits.
pub(super) fn value(ty: &str, bits: u64) -> Option<i128> {
    let (width, signed) = integer_type(ty)?;
    let bits = mask(bits, width);
    let negative = signed && bits >> (width - 1) == 1;
    Some(i128::from(bits) - if negative { 1 << width } else { 0 })
}

pub(super) fn mask(bits: u64, width: u32) -> u64 {
    if width >= 64 { bits } else { bits & ((1 << width) - 1) }
}

/// The low bits of a value.
pub(super) fn wrap(value: i128, width: u32) -> u64 {
    mask(value as u64, width)
}

/// The range of an integer type.
pub(super) fn range(ty: &str) -> Option<(i128, i128)> {
    let (width, signed) = integer_type(ty)?;
    Some(if signed { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) })
}

pub(super) fn arithmetic(name: &Name<'_>, case: &[u64]) -> Option<u64> {
    let ty = name.ty();
    if let Some(half) = ty.strip_suffix("x2") {
        let name = Name { opcode: name.opcode, modifiers: name.modifiers.clone(), types: vec![half] };
        let at = |shift: u32| arithmetic(&name, &case.iter().map(|v| v >> shift & 0xffff).collect::<Vec<_>>());
        return Some(at(16)? << 16 | at(0)?);
    }
    if ty == "pred" || ["and", "or", "xor", "not", "cnot", "shl", "shr", "popc", "clz", "brev"].contains(&name.opcode) {
        return bitwise(name, case);
    }
    if let Some(result) = fields(name, case) {
        return Some(result);
    }
    let (width, signed) = integer_type(ty)?;
    let at = |i: usize| value(ty, *case.get(i)?);
    let (a, b) = (at(0)?, at(1).unwrap_or(0));
    let full = if name.has("wide") { 2 * width } else { width };
    let saturated = |v: i128| {
        let (low, high) = range(ty).unwrap_or_default();
        if name.has("sat") { v.clamp(low, high) } else { v }
    };
    // Two factors of 64 bits don't fit an i128 unless one is signed, so the unsigned product is taken on its own.
    let product = || match (name.has("hi"), signed) {
        (false, _) => a.wrapping_mul(b),
        (true, true) => (a * b) >> width,
        (true, false) => ((a as u128 * b as u128) >> width) as i128,
    };
    let low24 = |v: i128| if signed { (v << 104) >> 104 } else { v & 0xff_ffff };
    let product24 = || (low24(a) * low24(b)) >> if name.has("hi") { 16 } else { 0 };
    let result = match name.opcode {
        "add" => saturated(a + b),
        "sub" => saturated(a - b),
        "mul" => product(),
        "mad" => {
            // The third operand has the width of the result.
            let c = value(&format!("{}{full}", &ty[..1]), *case.get(2)?)?;
            saturated(product().wrapping_add(c))
        }
        "mul24" => product24(),
        "mad24" => saturated(product24() + at(2)?),
        "sad" => at(2)? + (a - b).abs(),
        // Division by zero is left open by the manual; the devices give all ones.
        "div" | "rem" if b == 0 => -1,
        "div" => a / b,
        "rem" => a % b,
        "min" => relu(name, a.min(b)),
        "max" => relu(name, a.max(b)),
        "abs" => a.abs(),
        "neg" => -a,
        _ => return None,
    };
    Some(wrap(result, full))
}

fn relu(name: &Name<'_>, value: i128) -> i128 {
    if name.has("relu") { value.max(0) } else { value }
}

fn bitwise(name: &Name<'_>, case: &[u64]) -> Option<u64> {
    let ty = name.ty();
    let width = if ty == "pred" { 1 } else { integer_type(ty)?.0 };
    let (a, b) = (mask(case[0], width), case.get(1).copied().unwrap_or(0));
    let amount = b as u32;
    Some(mask(
        match name.opcode {
            "and" => a & b,
            "or" => a | b,
            "xor" => a ^ b,
            "not" => !a,
            "cnot" => u64::from(a == 0),
            "shl" => (u128::from(a) << amount.min(64)) as u64,
            "shr" => (value(ty, a)? >> amount.min(64)) as u64,
            "popc" => u64::from(a.count_ones()),
            "clz" => (0..u64::from(width)).find(|i| a >> (u64::from(width) - 1 - i) & 1 == 1).unwrap_or(width.into()),
            "brev" => (0..width).fold(0, |out, i| out | (a >> i & 1) << (width - 1 - i)),
            _ => return None,
        },
        width,
    ))
}

/// Bit fields, permutations, dot products.
fn fields(name: &Name<'_>, case: &[u64]) -> Option<u64> {
    let ty = name.ty();
    let at = |i: usize| case.get(i).copied().unwrap_or(0);
    let (width, signed) = integer_type(ty)?;
    // The manual: the low byte. The devices, in 64 bits: the whole number.
    let byte = |i: usize| (if width == 64 { at(i).min(0xff) } else { at(i) & 0xff }) as u32;
    match name.opcode {
        "bfe" => {
            let (position, length) = (byte(1), byte(2));
            let top = width - 1;
            let sign = signed && length != 0 && at(0) >> (position + length - 1).min(top) & 1 == 1;
            let bit = |i: u32| {
                if i < length && position + i <= top { at(0) >> (position + i) & 1 } else { u64::from(sign) }
            };
            Some((0..width).fold(0, |out, i| out | bit(i) << i))
        }
        "bfi" => {
            let (position, length) = (byte(2), byte(3));
            let inside = |i: u32| i >= position && i < position + length;
            let bit = |i: u32| if inside(i) { at(0) >> (i - position) & 1 } else { at(1) >> i & 1 };
            Some((0..width).fold(0, |out, i| out | bit(i) << i))
        }
        "bfind" => {
            let a = value(ty, at(0))?;
            let a = mask(if a < 0 { !a } else { a } as u64, width);
            let found = (0..width).rev().find(|i| a >> i & 1 == 1);
            Some(match found {
                None => 0xffff_ffff,
                Some(i) if name.has("shiftamt") => u64::from(width - 1 - i),
                Some(i) => u64::from(i),
            })
        }
        "bmsk" => {
            let (position, length) = (at(0), at(1));
            let (position, length) =
                if name.has("wrap") { (position & 31, length & 31) } else { (position.min(32), length.min(32)) };
            Some((0..32).fold(0, |out, i| out | u64::from(i >= position && i < position + length) << i))
        }
        "szext" => {
            let bits = if name.has("wrap") { at(1) & 31 } else { at(1).min(32) };
            let sign = signed && bits != 0 && at(0) >> (bits - 1) & 1 == 1;
            Some((0..32).fold(0, |out, i| out | (if i < bits { at(0) >> i & 1 } else { sign.into() }) << i))
        }
        "prmt" => Some(permute(name, at(0) | at(1) << 32, at(2))),
        "shf" => {
            let amount = if name.has("wrap") { at(2) & 31 } else { at(2).min(32) };
            let both = u128::from(at(1)) << 32 | u128::from(at(0));
            Some(mask((if name.has("l") { both << amount >> 32 } else { both >> amount }) as u64, 32))
        }
        "dp4a" => dot(name, case, &[(0, 0), (8, 8), (16, 16), (24, 24)], 8),
        "dp2a" => {
            let high = if name.has("hi") { 16 } else { 0 };
            dot(name, case, &[(0, high), (16, high + 8)], 16)
        }
        "fns" => Some(nth_set(at(0) as u32, at(1) as u32, at(2) as i32)),
        _ => None,
    }
}

fn permute(name: &Name<'_>, bytes: u64, selector: u64) -> u64 {
    let c = selector & 3;
    (0..4).fold(0, |out, i| {
        let (index, replicate) = match name.choice(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
            Some("f4e") => ((i + c) % 8, false),
            Some("b4e") => ((8 + c - i) % 8, false),
            Some("rc8") => (c, false),
            Some("ecl") => (i.max(c), false),
            Some("ecr") => (i.min(c), false),
            Some("rc16") => ((c & 1) * 2 + i % 2, false),
            _ => (selector >> (4 * i) & 7, selector >> (4 * i) & 8 != 0),
        };
        let byte = bytes >> (8 * index) & 0xff;
        out | (if replicate { 0xff * (byte >> 7) } else { byte }) << (8 * i)
    })
}

fn dot(name: &Name<'_>, case: &[u64], places: &[(u32, u32)], a_width: u32) -> Option<u64> {
    let [a_type, b_type] = name.types[..] else { return None };
    let part = |ty: &str, width: u32, v: u64| value(&format!("{}{width}", &ty[..1]), v);
    let mut sum = i128::from(case[2]);
    for (a, b) in places {
        sum += part(a_type, a_width, case[0] >> a)? * part(b_type, 8, case[1] >> b)?;
    }
    Some(wrap(sum, 32))
}

/// The position of the n-th set bit from a base, upwards for positive n; the base itself for 0.
fn nth_set(mask: u32, base: u32, offset: i32) -> u64 {
    let steps: Vec<u32> = if offset < 0 { (0..=base).rev().collect() } else { (base..32).collect() };
    let set = steps.into_iter().filter(|i| mask >> i & 1 == 1);
    let found = match offset {
        0 => (mask >> base & 1 == 1).then_some(base),
        n => set.into_iter().nth(n.unsigned_abs() as usize - 1),
    };
    found.map_or(0xffff_ffff, u64::from)
}
