//! Undefined bits of results that come from registers alone.

use super::{Effect, Origin, Undefined};
use crate::emulator::ops::convert::one as convert;
use crate::emulator::ops::integer::{bfi, binary32, ternary32, unary32};
use crate::emulator::ops::warp::source_lane;
use crate::emulator::ops::wide::{bfe64, bfi64, shift64, unary64};
use crate::emulator::ops::{compare, map2};
use crate::emulator::warp::{LANES, Lanes, Warp};
use crate::ptx::op::{
    Binary32, Binary64, Condition, HalfMode, Logic, Op, Pred, Role, Slot, Ternary32, Unary32, Unary64, Word,
};

/// What an operation does to shadows; `None` if its operands are defined.
pub(super) fn effect(op: &Op, warp: &Warp, lanes: Lanes) -> Option<Effect> {
    let shadow = &warp.shadow;
    let (mut own, mut exchanged, mut results) = (Vec::new(), Vec::new(), Vec::new());
    op.operands(&mut |role, slot| match role {
        Role::Source => own.extend(shadow.undefined(slot)),
        Role::Exchanged => exchanged.extend(shadow.undefined(slot)),
        Role::Result => results.push(slot),
        Role::Address | Role::Control => {}
    });
    if own.is_empty() && exchanged.is_empty() {
        return None;
    }
    let effect = |registers| Some(Effect { registers, bytes: Vec::new() });
    if !exchanged.is_empty() {
        return effect(exchange(op, warp, lanes, &exchanged, &results));
    }
    let origin = |lane: usize| own.iter().find(|u| u.bits[lane] != 0).map_or(Origin::default(), |u| u.origins[lane]);
    let origins = std::array::from_fn(origin);
    let any = || std::array::from_fn(|lane| if own.iter().any(|u| u.bits[lane] != 0) { u64::MAX } else { 0 });
    let values = predicates(op, warp).unwrap_or_else(|| {
        let bits = exact(op, warp).unwrap_or_else(any);
        results.iter().map(|slot| (*slot, bits)).collect()
    });
    effect(values.into_iter().map(|(slot, bits)| (slot, Undefined { bits, origins })).collect())
}

/// Operations across lanes.
fn exchange(op: &Op, warp: &Warp, lanes: Lanes, sources: &[&Undefined], results: &[Slot]) -> Vec<(Slot, Undefined)> {
    let registers = &warp.registers;
    if let Op::Shuffle { mode, d, b, c, .. } = op {
        let (b, c) = (registers.word(*b), registers.word(*c));
        let mut value = Undefined::NONE;
        for lane in lanes.iter() {
            let (source, _) = source_lane(*mode, lane as u32, b[lane], c[lane]);
            value.put(lane, sources[0].bits[source as usize], sources[0].origins[source as usize]);
        }
        return vec![(Slot::Word(*d), value)];
    }
    let masks = match op {
        Op::Vote { mask, .. } | Op::Match { mask, .. } | Op::Redux { mask, .. } => *registers.word(*mask),
        _ => [u32::MAX; LANES],
    };
    let first = |members: u32| {
        let mut all = sources.iter().flat_map(|s| (0..LANES).map(move |lane| (lane, s)));
        all.find(|(lane, s)| members >> lane & 1 == 1 && s.bits[*lane] != 0).map(|(lane, s)| s.origins[lane])
    };
    let mut value = Undefined::NONE;
    for lane in lanes.iter() {
        if let Some(origin) = first(masks[lane] & lanes.mask) {
            value.put(lane, u64::MAX, origin);
        }
    }
    results.iter().map(|slot| (*slot, value.clone())).collect()
}

/// Undefined lanes of predicates, exact for logic.
fn predicates(op: &Op, warp: &Warp) -> Option<Vec<(Slot, [u64; LANES])>> {
    let (registers, shadow) = (&warp.registers, &warp.shadow);
    let state = |c: Condition| (registers.condition(c), shadow.pred(c.pred));
    let combined = |bits: u32, undefined: u32, combine: &Option<(Logic, Condition)>| match combine {
        Some((op, c)) => logic(*op, (bits, undefined), state(*c)),
        None => undefined,
    };
    let spread =
        |pred: Pred, undefined: u32| (pred.into(), std::array::from_fn(|lane| u64::from(undefined >> lane & 1)));
    let both = |bits: u32, undefined: u32, d: &Option<Pred>, q: &Option<Pred>, combine: &Option<(Logic, Condition)>| {
        let first = d.map(|d| spread(d, combined(bits, undefined, combine)));
        let second = q.map(|q| spread(q, combined(!bits, undefined, combine)));
        first.into_iter().chain(second).collect()
    };
    match op {
        Op::PredMov { d, a } => Some(vec![spread(*d, shadow.pred(a.pred))]),
        Op::PredLogic { op, d, a, b } => Some(vec![spread(*d, logic(*op, state(*a), state(*b)))]),
        Op::Compare32 { compare, d, q, a, b, combine } => {
            let bits = compare::compare32(*compare, registers.word(*a), registers.word(*b));
            Some(both(bits, shadow.pred(*a) | shadow.pred(*b), d, q, combine))
        }
        Op::Compare64 { compare, d, q, a, b, combine } => {
            let bits = compare::compare64(*compare, registers.wide(*a), registers.wide(*b));
            Some(both(bits, shadow.pred(*a) | shadow.pred(*b), d, q, combine))
        }
        Op::CompareHalves { compare, bf16, d, q, a, b, combine } => {
            let (low, high) = compare::compare_halves(*compare, *bf16, registers.word(*a), registers.word(*b));
            let undefined = map2(&shadow.bits(*a), &shadow.bits(*b), |a, b| a | b);
            let half = |shift: u32| super::lanes_with(&undefined.map(|bits| bits >> shift & 0xffff));
            let first = d.map(|d| spread(d, combined(low, half(0), combine)));
            let second = q.map(|q| spread(q, combined(high, half(16), combine)));
            Some(first.into_iter().chain(second).collect())
        }
        _ => None,
    }
}

/// Lanes in which the undefined bits of two predicates matter.
fn logic(op: Logic, (a, a_undefined): (u32, u32), (b, b_undefined): (u32, u32)) -> u32 {
    match op {
        Logic::And => (a_undefined | b_undefined) & (a | a_undefined) & (b | b_undefined),
        Logic::Or => (a_undefined | b_undefined) & (!a | a_undefined) & (!b | b_undefined),
        Logic::Xor => a_undefined | b_undefined,
    }
}

/// Undefined bits of the one result, where they are known better than "all or nothing".
fn exact(op: &Op, warp: &Warp) -> Option<[u64; LANES]> {
    let (r, s) = (&warp.registers, &warp.shadow);
    let wide = |bits: [u32; LANES]| bits.map(u64::from);
    // Undefined wherever an operand is that says which bits go where.
    let steered = |bits: [u64; LANES], by: &[Word]| {
        let by = by.iter().fold(0, |lanes, slot| lanes | s.pred(*slot));
        std::array::from_fn(|lane| if by >> lane & 1 == 1 { u64::MAX } else { bits[lane] })
    };
    Some(match op {
        Op::Mov32 { a, .. } => s.bits(*a),
        Op::Mov64 { a, .. } => s.bits(*a),
        Op::Extract16 { a, shift, .. } => s.bits(*a).map(|bits| bits >> shift & 0xffff),
        Op::ExtractWord { a, upper, .. } => s.bits(*a).map(|bits| if *upper { bits >> 32 } else { bits }),
        Op::PackWords { low, high, .. } => map2(&s.bits(*low), &s.bits(*high), |low, high| low | high << 32),
        Op::Select32 { a, b, p, .. } => {
            selected((wide(*r.word(*a)), s.bits(*a)), (wide(*r.word(*b)), s.bits(*b)), r.condition(*p), s.pred(p.pred))
        }
        Op::Select64 { a, b, p, .. } => {
            selected((*r.wide(*a), s.bits(*a)), (*r.wide(*b), s.bits(*b)), r.condition(*p), s.pred(p.pred))
        }
        Op::Unary32 { op, a, .. } => match op {
            Unary32::Not => s.bits(*a),
            Unary32::Not16 => s.bits(*a).map(|bits| bits & 0xffff),
            Unary32::Brev => wide(unary32(*op, &s.word(*a))),
            Unary32::NegHalf(mode) | Unary32::AbsHalf(mode) | Unary32::Ex2Half(mode) | Unary32::TanhHalf(mode) => {
                halves(*mode, s.bits(*a))
            }
            _ => return None,
        },
        Op::Unary64 { op: Unary64::Not, a, .. } => s.bits(*a),
        Op::Unary64 { op: op @ Unary64::Brev, a, .. } => unary64(*op, &s.bits(*a)),
        Op::Binary32 { op, a, b, .. } => match op {
            Binary32::And | Binary32::Or | Binary32::Xor => {
                let table = match op {
                    Binary32::And => 0xc0,
                    Binary32::Or => 0xfc,
                    _ => 0x3c,
                };
                let values = [r.word(*a), r.word(*b)].map(|v| wide(*v));
                bitwise(table, [values[0], values[1], [0; LANES]], [s.bits(*a), s.bits(*b), [0; LANES]])
            }
            Binary32::Shl | Binary32::ShrU | Binary32::ShrS | Binary32::Shl16 | Binary32::ShrS16 => {
                steered(wide(binary32(*op, &s.word(*a), r.word(*b))), &[*b])
            }
            Binary32::Pack16 => wide(binary32(*op, &s.word(*a), &s.word(*b))),
            Binary32::PackHalf { .. } => map2(&s.bits(*a), &s.bits(*b), |upper, lower| {
                (if upper != 0 { 0xffff_0000 } else { 0 }) | (if lower != 0 { 0xffff } else { 0 })
            }),
            Binary32::AddHalf(mode)
            | Binary32::SubHalf(mode)
            | Binary32::MulHalf(mode)
            | Binary32::MinHalf(mode, _)
            | Binary32::MaxHalf(mode, _)
            | Binary32::SetHalf { mode, .. } => halves(*mode, map2(&s.bits(*a), &s.bits(*b), |a, b| a | b)),
            _ => return None,
        },
        Op::Binary64 { op: op @ (Binary64::And | Binary64::Or | Binary64::Xor), a, b, .. } => {
            let table = match op {
                Binary64::And => 0xc0,
                Binary64::Or => 0xfc,
                _ => 0x3c,
            };
            bitwise(table, [*r.wide(*a), *r.wide(*b), [0; LANES]], [s.bits(*a), s.bits(*b), [0; LANES]])
        }
        Op::Ternary32 { op, a, b, c, .. } => match op {
            Ternary32::Lop3(table) => {
                let values = [a, b, c].map(|slot| wide(*r.word(*slot)));
                bitwise(*table, values, [a, b, c].map(|slot| s.bits(*slot)))
            }
            Ternary32::Prmt
            | Ternary32::PrmtF4e
            | Ternary32::PrmtB4e
            | Ternary32::PrmtRc8
            | Ternary32::PrmtEcl
            | Ternary32::PrmtEcr
            | Ternary32::PrmtRc16
            | Ternary32::ShfL { .. }
            | Ternary32::ShfR { .. } => {
                steered(wide(ternary32(*op, false, &s.word(*a), &s.word(*b), r.word(*c))), &[*c])
            }
            Ternary32::BfeU | Ternary32::BfeS => {
                steered(wide(ternary32(*op, false, &s.word(*a), r.word(*b), r.word(*c))), &[*b, *c])
            }
            Ternary32::FmaHalf(mode) => {
                let two = map2(&s.bits(*a), &s.bits(*b), |a, b| a | b);
                halves(*mode, map2(&two, &s.bits(*c), |a, b| a | b))
            }
            _ => return None,
        },
        Op::Bfi32 { a, b, position, length, .. } => {
            let (a, b, p, n) = (s.bits(*a), s.bits(*b), r.word(*position), r.word(*length));
            steered(std::array::from_fn(|i| bfi(a[i], b[i], p[i], n[i], 32)), &[*position, *length])
        }
        Op::Shift64 { op, a, b, .. } => steered(shift64(*op, &s.bits(*a), r.word(*b)), &[*b]),
        Op::Bfe64 { signed, a, position, length, .. } => {
            let (p, n) = (r.word(*position), r.word(*length));
            steered(bfe64(*signed, &s.bits(*a), p, n), &[*position, *length])
        }
        Op::Bfi64 { a, b, position, length, .. } => {
            let (p, n) = (r.word(*position), r.word(*length));
            steered(bfi64(&s.bits(*a), &s.bits(*b), p, n), &[*position, *length])
        }
        Op::Convert { conversion: c, a, .. } if !c.from.is_float() && !c.to.is_float() && !c.sat => {
            s.bits(*a).map(|bits| convert(c, bits))
        }
        _ => return None,
    })
}

/// The defined source that a defined predicate chooses; otherwise what the two don't agree on.
fn selected(
    (a, a_undefined): ([u64; LANES], [u64; LANES]),
    (b, b_undefined): ([u64; LANES], [u64; LANES]),
    chosen: u32,
    open: u32,
) -> [u64; LANES] {
    std::array::from_fn(|lane| match (open >> lane & 1, chosen >> lane & 1) {
        (0, 1) => a_undefined[lane],
        (0, _) => b_undefined[lane],
        _ => a_undefined[lane] | b_undefined[lane] | (a[lane] ^ b[lane]),
    })
}

/// Bits of a truth table's result that change with an undefined bit.
fn bitwise(table: u8, values: [[u64; LANES]; 3], undefined: [[u64; LANES]; 3]) -> [u64; LANES] {
    let result = |[a, b, c]: [u64; 3]| {
        (0..8u32).filter(|row| table >> row & 1 == 1).fold(0, |bits, row| {
            let pick = |value: u64, bit: u32| if row >> bit & 1 == 1 { value } else { !value };
            bits | (pick(a, 2) & pick(b, 1) & pick(c, 0))
        })
    };
    std::array::from_fn(|lane| {
        let value: [u64; 3] = std::array::from_fn(|i| values[i][lane]);
        (1..8u32).fold(0, |differing, flips| {
            let flipped = std::array::from_fn(|i| value[i] ^ if flips >> i & 1 == 1 { undefined[i][lane] } else { 0 });
            differing | (result(value) ^ result(flipped))
        })
    })
}

/// Each half undefined as a whole.
fn halves(mode: HalfMode, bits: [u64; LANES]) -> [u64; LANES] {
    bits.map(|bits| {
        let low = if bits & 0xffff != 0 { 0xffff } else { 0 };
        let high = if mode.packed && bits & 0xffff_0000 != 0 { 0xffff_0000 } else { 0 };
        low | high
    })
}
