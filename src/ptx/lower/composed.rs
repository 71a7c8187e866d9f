//! Instructions that are a few simpler operations: rare multiplications, sums of differences, bit masks, `testp`.

use super::Lowerer;
use super::form::Form;
use crate::ptx::ast::Operand;
use crate::ptx::error::Error;
use crate::ptx::op::{
    Binary32, Binary64, Compare, Condition, Logic, Op, Packed, Pred, Reg, Relation, ShuffleMode, Ternary32, Unary32,
    VoteMode, Wide, Word,
};
use crate::ptx::types::Type;

/// An instruction of a family that has none of these otherwise; `None` where it isn't one of them.
pub(super) fn arithmetic(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<Option<()>, Error> {
    if let Some(signed) = form.choice(&[("u16x2", false), ("s16x2", true)]) {
        return packed(lw, form, signed).map(Some);
    }
    match form.opcode() {
        "sad" if form.shows(&["u16", "s16"]) => sad16(lw, form).map(Some),
        "sad" if form.shows(&["u64", "s64"]) => sad64(lw, form).map(Some),
        "min" | "max" if form.shows(&["s32"]) && form.has("relu") => relu(lw, form).map(Some),
        "mad" if form.shows(&["u16", "s16"]) && !form.shows(&["lo"]) => mad16(lw, form).map(Some),
        "mad" if form.shows(&["sat"]) && form.shows(&["s32"]) => mad_sat(lw, form).map(Some),
        _ => Ok(None),
    }
}

/// `dp2a`, `mad24`, `fns`, `bmsk`, `szext`.
pub(super) fn lower(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    match form.opcode() {
        "dp2a" => {
            let high = high(form)?;
            let a_signed = form.ty()?.is_signed();
            let b_signed = form.ty()?.is_signed();
            ternary(lw, form, Ternary32::Dp2a { a_signed, b_signed, high })
        }
        "mad24" => mad24(lw, form),
        "fns" => {
            form.ty()?;
            ternary(lw, form, Ternary32::Fns)
        }
        _ => field(lw, form),
    }
}

fn packed(lw: &mut Lowerer<'_>, form: &mut Form<'_>, signed: bool) -> Result<(), Error> {
    let relu = signed && form.has("relu");
    let op = match (form.opcode(), signed) {
        ("add", _) if !relu => Packed::Add,
        ("min", false) => Packed::MinU,
        ("min", true) => Packed::MinS { relu },
        ("max", false) => Packed::MaxU,
        ("max", true) => Packed::MaxS { relu },
        _ => return Err(form.unsupported("no such form of two 16-bit integers")),
    };
    super::arithmetic::binary32(lw, form, Type::B32, Binary32::Packed(op))
}

fn ternary(lw: &mut Lowerer<'_>, form: &Form<'_>, op: Ternary32) -> Result<(), Error> {
    form.done()?;
    let ([a, b, c], d) = words(lw, form, [Type::B32; 3], Type::B32)?;
    lw.push(Op::Ternary32 { op, d, a, b, c });
    Ok(())
}

/// Takes `.lo` or `.hi`.
fn high(form: &mut Form<'_>) -> Result<bool, Error> {
    form.choice(&[("lo", false), ("hi", true)]).ok_or_else(|| form.unsupported("neither `.lo` nor `.hi`"))
}

/// Three sources and a destination of at most 32 bits.
fn words(lw: &mut Lowerer<'_>, form: &Form<'_>, types: [Type; 3], result: Type) -> Result<([Word; 3], Word), Error> {
    let [d, a, b, c] = form.exactly()?;
    let sources = [lw.word_source(a, types[0])?, lw.word_source(b, types[1])?, lw.word_source(c, types[2])?];
    Ok((sources, lw.word_destination(d, result)?))
}

impl Lowerer<'_> {
    /// An intermediate result.
    fn step(&mut self, op: Binary32, a: Word, b: Word) -> Word {
        let d = self.slots.word();
        self.push_unguarded(Op::Binary32 { op, d, a, b });
        d
    }

    fn wide_step(&mut self, op: Binary64, a: Wide, b: Wide) -> Wide {
        let d = self.slots.wide();
        self.push_unguarded(Op::Binary64 { op, d, a, b });
        d
    }
}

fn sad16(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    form.done()?;
    let ([a, b, c], d) = words(lw, form, [ty; 3], ty)?;
    let (min, max) =
        if ty.is_signed() { (Binary32::MinS16, Binary32::MaxS16) } else { (Binary32::MinU, Binary32::MaxU) };
    let (less, greater) = (lw.step(min, a, b), lw.step(max, a, b));
    let difference = lw.step(Binary32::Sub16, greater, less);
    lw.push(Op::Binary32 { op: Binary32::Add16, d, a: difference, b: c });
    Ok(())
}

fn sad64(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    form.done()?;
    let [d, a, b, c] = form.exactly()?;
    let (a, b, c) = (lw.wide_source(a, ty)?, lw.wide_source(b, ty)?, lw.wide_source(c, ty)?);
    let d = lw.wide_destination(d)?;
    let (min, max) = if ty.is_signed() { (Binary64::MinS, Binary64::MaxS) } else { (Binary64::MinU, Binary64::MaxU) };
    let (less, greater) = (lw.wide_step(min, a, b), lw.wide_step(max, a, b));
    let difference = lw.wide_step(Binary64::Sub, greater, less);
    lw.push(Op::Binary64 { op: Binary64::Add, d, a: difference, b: c });
    Ok(())
}

fn relu(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let ty = form.ty()?;
    form.done()?;
    let [d, a, b] = form.exactly()?;
    let (a, b) = (lw.word_source(a, ty)?, lw.word_source(b, ty)?);
    let d = lw.word_destination(d, ty)?;
    let op = if form.opcode() == "min" { Binary32::MinS } else { Binary32::MaxS };
    let chosen = lw.step(op, a, b);
    let zero = lw.slots.constant32(0);
    lw.push(Op::Binary32 { op: Binary32::MaxS, d, a: chosen, b: zero });
    Ok(())
}

/// `mad.hi` and `mad.wide` of 16 bits.
fn mad16(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let wide = form.choice(&[("hi", false), ("wide", true)]);
    let ty = form.ty()?;
    form.done()?;
    let signed = ty.is_signed();
    let (result, product, sum) = match (wide, signed) {
        (Some(true), true) => (Type::B32, Binary32::MulWideS16, Binary32::Add),
        (Some(true), false) => (Type::B32, Binary32::MulLo, Binary32::Add),
        (Some(false), true) => (ty, Binary32::MulHiS16, Binary32::Add16),
        (Some(false), false) => (ty, Binary32::MulHiU16, Binary32::Add16),
        (None, _) => return Err(form.unsupported("none of `.lo`, `.hi` and `.wide`")),
    };
    let ([a, b, c], d) = words(lw, form, [ty, ty, result], result)?;
    let product = lw.step(product, a, b);
    lw.push(Op::Binary32 { op: sum, d, a: product, b: c });
    Ok(())
}

/// `mad.hi.sat.s32`.
fn mad_sat(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    form.has("sat");
    if !high(form)? {
        return Err(form.unsupported("modifier `.sat`"));
    }
    multiply_add(lw, form, Binary32::MulHiS, Binary32::AddSatS)
}

fn mad24(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let high = high(form)?;
    let signed = form.shows(&["s32"]);
    let sat = form.has("sat");
    if sat && !(high && signed) {
        return Err(form.unsupported("modifier `.sat`"));
    }
    let product = match (high, signed) {
        (false, false) => Binary32::Mul24LoU,
        (false, true) => Binary32::Mul24LoS,
        (true, false) => Binary32::Mul24HiU,
        (true, true) => Binary32::Mul24HiS,
    };
    multiply_add(lw, form, product, if sat { Binary32::AddSatS } else { Binary32::Add })
}

fn multiply_add(lw: &mut Lowerer<'_>, form: &mut Form<'_>, product: Binary32, sum: Binary32) -> Result<(), Error> {
    let ty = form.ty()?;
    form.done()?;
    let ([a, b, c], d) = words(lw, form, [ty; 3], ty)?;
    let product = lw.step(product, a, b);
    lw.push(Op::Binary32 { op: sum, d, a: product, b: c });
    Ok(())
}

/// `bmsk`: ones inserted into zeros. `szext`: a field from bit 0.
fn field(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let limit = form.choice(&[("clamp", (Binary32::MinU, 32)), ("wrap", (Binary32::And, 31))]);
    let Some((limit, by)) = limit else {
        return Err(form.unsupported("neither `.clamp` nor `.wrap`"));
    };
    let ty = form.ty()?;
    form.done()?;
    let [d, a, b] = form.exactly()?;
    let (a, b) = (lw.word_source(a, ty)?, lw.word_source(b, Type::U32)?);
    let d = lw.word_destination(d, ty)?;
    let by = lw.slots.constant32(by);
    let zero = lw.slots.constant32(0);
    let length = lw.step(limit, b, by);
    if form.opcode() == "bmsk" {
        let position = lw.step(limit, a, by);
        let ones = lw.slots.constant32(u32::MAX);
        lw.push(Op::Bfi32 { d, a: ones, b: zero, position, length });
    } else {
        let op = if ty.is_signed() { Ternary32::BfeS } else { Ternary32::BfeU };
        lw.push(Op::Ternary32 { op, d, a, b: zero, c: length });
    }
    Ok(())
}

/// `testp`: the magnitude's bits, less a bound, compared without sign. Zero is normal, so that takes two tests.
pub(super) fn testp(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    const TESTS: [&str; 6] = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
    let Some(test) = form.choice(&TESTS.map(|t| (t, t))) else {
        return Err(form.unsupported("no test"));
    };
    let ty = form.ty()?;
    form.done()?;
    let (infinity, normal): (u64, u64) = match ty {
        Type::F32 => (0x7f80_0000, 0x80_0000),
        Type::F64 => (0x7ff0 << 48, 0x10 << 48),
        _ => return Err(form.unsupported("types other than .f32 and .f64")),
    };
    let [d, a] = form.exactly()?;
    let a = lw.source(a, ty)?;
    let Some(d) = lw.pred_destination(d)? else {
        return Ok(());
    };
    let (relation, less, bound) = match test {
        "finite" => (Relation::Lt, 0, infinity),
        "infinite" => (Relation::Eq, 0, infinity),
        "number" => (Relation::Le, 0, infinity),
        "notanumber" => (Relation::Gt, 0, infinity),
        "normal" => (Relation::Ge, 1, normal - 1),
        _ => (Relation::Lt, 1, normal - 1),
    };
    if test == "normal" {
        let finite = Condition { pred: lw.slots.pred(), negated: false };
        compare_magnitude(lw, finite.pred, a, (Relation::Lt, 0, infinity), None);
        compare_magnitude(lw, d, a, (relation, less, bound), Some((Logic::And, finite)));
    } else {
        compare_magnitude(lw, d, a, (relation, less, bound), None);
    }
    Ok(())
}

fn compare_magnitude(
    lw: &mut Lowerer<'_>,
    d: Pred,
    a: Reg,
    (relation, less, bound): (Relation, u64, u64),
    combine: Option<(Logic, Condition)>,
) {
    let d = Some(d);
    match a {
        Reg::Word(a) => {
            let [ones, less, b] = [0x7fff_ffff, less as u32, bound as u32].map(|v| lw.slots.constant32(v));
            let magnitude = lw.step(Binary32::And, a, ones);
            let a = lw.step(Binary32::Sub, magnitude, less);
            let compare = Compare { relation, ty: Type::U32, ftz: false };
            lw.push(Op::Compare32 { compare, d, q: None, a, b, combine });
        }
        Reg::Wide(a) => {
            let [ones, less, b] = [u64::MAX >> 1, less, bound].map(|v| lw.slots.constant64(v));
            let magnitude = lw.wide_step(Binary64::And, a, ones);
            let a = lw.wide_step(Binary64::Sub, magnitude, less);
            let compare = Compare { relation, ty: Type::U64, ftz: false };
            lw.push(Op::Compare64 { compare, d, q: None, a, b, combine });
        }
    }
}

/// `movmatrix`: both halves of a word come from the lanes that hold the transposed places.
pub(super) fn movmatrix(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let whole = ["sync", "aligned", "m8n8", "trans", "b16"].into_iter().all(|m| form.has(m));
    form.done()?;
    if !whole {
        return Err(form.unsupported("other than `.sync.aligned.m8n8.trans.b16`"));
    }
    let [d, a] = form.exactly()?;
    let a = lw.word_source(a, Type::B32)?;
    let d = lw.word_destination(d, Type::B32)?;
    let lane = lw.word_source(&Operand::Name("%laneid".to_owned()), Type::U32)?;
    let [mask, clamp, four, three, two] = [u32::MAX, 0x1f, 4, 3, 2].map(|v| lw.slots.constant32(v));
    // Lane 4r + c holds the row r, columns 2c and 2c + 1.
    let row = lw.step(Binary32::And, lane, three);
    let row = lw.step(Binary32::Shl, row, three);
    let column = lw.step(Binary32::ShrU, lane, three);
    let first = lw.step(Binary32::Add, row, column);
    let second = lw.step(Binary32::Add, first, four);
    let odd = lw.step(Binary32::And, lane, four);
    let shift = lw.step(Binary32::Shl, odd, two);
    let [low, high] = [first, second].map(|b| {
        let word = lw.slots.word();
        lw.push(Op::Shuffle { mode: ShuffleMode::Idx, d: word, p: None, a, b, c: clamp, mask });
        lw.step(Binary32::ShrU, word, shift)
    });
    lw.push(Op::Binary32 { op: Binary32::Pack16, d, a: low, b: high });
    Ok(())
}

/// `elect.sync`: the lowest lane of those that meet is the leader.
pub(super) fn elect(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    form.done()?;
    let [d, mask] = form.exactly()?;
    let Operand::Pair(d, p) = d else {
        return lw.operand_error("a register and a predicate", d);
    };
    let mask = lw.word_source(mask, Type::B32)?;
    let d = lw.word_destination(d, Type::B32)?;
    let p = lw.pred_destination(p)?;
    let all = Condition { pred: lw.slots.pred(), negated: false };
    lw.slots.constants.preds.push((all.pred, true));
    let members = lw.slots.word();
    lw.push(Op::Vote { mode: VoteMode::Ballot, d: members, p: None, a: all, mask });
    let reversed = lw.slots.word();
    lw.push(Op::Unary32 { op: Unary32::Brev, d: reversed, a: members });
    lw.push(Op::Unary32 { op: Unary32::Clz, d, a: reversed });
    let lane = lw.word_source(&Operand::Name("%laneid".to_owned()), Type::U32)?;
    let compare = Compare { relation: Relation::Eq, ty: Type::U32, ftz: false };
    lw.push(Op::Compare32 { compare, d: p, q: None, a: d, b: lane, combine: None });
    Ok(())
}
