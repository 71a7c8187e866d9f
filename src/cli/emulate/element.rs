//! Elements of buffers and scalar arguments: numbers to bits and back.

use crate::float::Dtype;
use crate::ptx::Type;

/// Types an argument may have. Packed and hardware-only formats are left to `b32`.
const TYPES: [Type; 16] = [
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::B8,
    Type::B16,
    Type::B32,
    Type::B64,
    Type::F16,
    Type::Bf16,
    Type::F32,
    Type::F64,
];

/// The type called `name`, without a dot.
pub(super) fn named(name: &str) -> Option<Type> {
    Type::from_name(name).filter(|ty| TYPES.contains(ty))
}

/// A type's name, without a dot.
pub(super) fn name(ty: Type) -> String {
    ty.to_string().trim_start_matches('.').to_owned()
}

/// Every type's name, for messages.
pub(super) fn all_names() -> String {
    TYPES.map(name).join(" ")
}

/// What a parameter of type `param` may be given: any value of its size that isn't a float where it is an integer, or
/// the other way about. Untyped bits go with all.
pub(super) fn fits(value: Type, param: Type) -> bool {
    let untyped = |ty| matches!(ty, Type::B8 | Type::B16 | Type::B32 | Type::B64);
    value.size_bytes() == param.size_bytes()
        && (untyped(value) || untyped(param) || value == param || !value.is_float() && !param.is_float())
}

/// The bits of `number` as a `ty`, in the low end.
pub(super) fn bits(ty: Type, number: &str) -> Result<u64, String> {
    if ty.is_float() { float_bits(ty, number) } else { integer_bits(ty, number) }
}

fn float_bits(ty: Type, number: &str) -> Result<u64, String> {
    let wrong = || format!("expected a decimal number, inf or nan for {}, found {number:?}", name(ty));
    if number.starts_with("0x") {
        let width = ty.size_bytes() * 8;
        return Err(format!("{} (bits are written b{width}:{number})", wrong()));
    }
    let x: f64 = number.parse().map_err(|_| wrong())?;
    let bits = match ty {
        Type::F64 => x.to_bits(),
        // Parsed as f32 at once, so that it is rounded once.
        Type::F32 => number.parse::<f32>().map_err(|_| wrong())?.to_bits().into(),
        Type::F16 => Dtype::F16.encode(x).into(),
        _ => Dtype::Bf16.encode(x).into(),
    };
    if value(ty, bits).is_infinite() && number.bytes().any(|b| b.is_ascii_digit()) {
        return Err(format!("expected a number that {} can hold, found {number:?}", name(ty)));
    }
    Ok(bits)
}

fn integer_bits(ty: Type, number: &str) -> Result<u64, String> {
    let width = ty.size_bytes() * 8;
    let (low, high) =
        if ty.is_signed() { (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1) } else { (0, (1i128 << width) - 1) };
    let (negative, magnitude) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (digits, radix) = magnitude.strip_prefix("0x").map_or((magnitude, 10), |rest| (rest, 16));
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let magnitude = u64::from_str_radix(digits, radix).ok().filter(|_| plain).map(i128::from);
    let value = magnitude.map(|m| if negative { -m } else { m });
    match value.filter(|v| (low..=high).contains(v)) {
        Some(v) => Ok(v as u64 & mask(width)),
        None => Err(format!("expected an integer of {low} to {high} for {}, found {number:?}", name(ty))),
    }
}

/// Element `index` of 0, 1, 2, …: integers wrap, floats round.
pub(super) fn counted(ty: Type, index: usize) -> u64 {
    if ty.is_float() { encode(ty, index as f64) } else { index as u64 & mask(ty.size_bytes() * 8) }
}

/// An element from 64 random bits: all values of an integer, a float of -1 to 1.
pub(super) fn random(ty: Type, word: u64) -> u64 {
    if ty.is_float() {
        encode(ty, (word >> 11) as f64 * (-52f64).exp2() - 1.0)
    } else {
        word & mask(ty.size_bytes() * 8)
    }
}

/// An element's bits in words: what [`bits`] reads, shortest form.
pub(super) fn text(ty: Type, bits: u64) -> String {
    let width = ty.size_bytes() * 8;
    match ty {
        Type::B8 | Type::B16 | Type::B32 | Type::B64 => format!("{bits:#0digits$x}", digits = width / 4 + 2),
        Type::F32 => format!("{:?}", f32::from_bits(bits as u32)),
        Type::F64 => format!("{:?}", f64::from_bits(bits)),
        Type::F16 => format!("{:?}", half::f16::from_bits(bits as u16).to_f32()),
        Type::Bf16 => format!("{:?}", half::bf16::from_bits(bits as u16).to_f32()),
        _ if ty.is_signed() => (((bits << (64 - width)) as i64) >> (64 - width)).to_string(),
        _ => bits.to_string(),
    }
}

fn encode(ty: Type, x: f64) -> u64 {
    match ty {
        Type::F64 => x.to_bits(),
        Type::F32 => (x as f32).to_bits().into(),
        Type::F16 => Dtype::F16.encode(x).into(),
        _ => Dtype::Bf16.encode(x).into(),
    }
}

fn value(ty: Type, bits: u64) -> f64 {
    match ty {
        Type::F64 => f64::from_bits(bits),
        Type::F32 => Dtype::F32.decode(bits as u32),
        Type::F16 => Dtype::F16.decode(bits as u32),
        _ => Dtype::Bf16.decode(bits as u32),
    }
}

fn mask(width: usize) -> u64 {
    u64::MAX >> (64 - width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(choice in 0..TYPES.len(), word: u64) {
            let ty = TYPES[choice];
            let word = word & mask(ty.size_bytes() * 8);
            let text = text(ty, word);
            let read = bits(ty, &text);
            if ty.is_float() && value(ty, word).is_nan() {
                prop_assert_eq!(text, "NaN");
            } else {
                prop_assert_eq!(read, Ok(word), "{}", text);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(choice in 0..TYPES.len(), text in ".{0,12}") {
            if let Err(why) = bits(TYPES[choice], &text) {
                prop_assert!(why.starts_with("expected ") && why.contains("found "), "{}", why);
            }
        }
    }

    #[test]
    fn numbers_keep_to_their_type() {
        assert_eq!(bits(Type::S8, "-128"), Ok(0x80));
        assert_eq!(bits(Type::U64, "0xffffffffffffffff"), Ok(u64::MAX));
        assert_eq!(bits(Type::F32, "0.5"), Ok(0x3f00_0000));
        assert_eq!(bits(Type::F16, "-inf"), Ok(0xfc00));
        for (ty, wrong) in [
            (Type::S8, "128"),
            (Type::U8, "-1"),
            (Type::U8, "+1"),
            (Type::F16, "70000"),
            (Type::F64, "1e999"),
            (Type::B32, ""),
        ] {
            assert!(bits(ty, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_float_is_not_given_to_an_integer_parameter() {
        assert!(fits(Type::S32, Type::U32) && fits(Type::F32, Type::B32) && fits(Type::B64, Type::F64));
        assert!(!fits(Type::F32, Type::U32) && !fits(Type::U32, Type::U64) && !fits(Type::F16, Type::Bf16));
    }
}
