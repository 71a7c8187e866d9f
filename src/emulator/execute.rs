//! One operation for some lanes: from the operation to its handler.

use super::check::{Fault, ViolationKind, fault, perturb, unsupported};
use super::ops::atomic::{Atomic, atomic};
use super::ops::warp::{Shuffle, matching, redux, shuffle, vote};
use super::ops::{compare, convert, copy, integer, matrix, matrix_exact, mbarrier, memory, wide, wmma};
use super::print;
use super::run::Counters;
use super::spaces::Spaces;
use super::warp::{LANES, Lanes, Registers, Warp};
use crate::ptx::op::{Condition, Logic, Op, Pred};

#[inline(always)]
pub(super) fn execute(
    op: &Op,
    warp: &mut Warp,
    lanes: Lanes,
    spaces: &mut Spaces<'_>,
    counters: &mut Counters,
) -> Result<(), Box<Fault>> {
    let r = &mut warp.registers;
    match op {
        Op::Unary32 { op, d, a } => {
            let mut out = integer::unary32(*op, r.word(*a));
            if let Some(seed) = spaces.perturb {
                perturb::unary(seed, *op, r.word(*a), &mut out);
            }
            r.set_word(*d, lanes, out);
        }
        Op::Binary32 { op, d, a, b } => {
            let mut out = integer::binary32(*op, r.word(*a), r.word(*b));
            if let Some(seed) = spaces.perturb {
                perturb::binary(seed, *op, (r.word(*a), r.word(*b)), &mut out);
            }
            r.set_word(*d, lanes, out);
        }
        Op::Ternary32 { op, d, a, b, c } => {
            let out = integer::ternary32(*op, spaces.fused, r.word(*a), r.word(*b), r.word(*c));
            r.set_word(*d, lanes, out);
        }
        Op::Carry(operands) => wide::carry(r, lanes, operands),
        Op::Bfi32 { d, a, b, position, length } => {
            let (a, b, p, n) = (r.word(*a), r.word(*b), r.word(*position), r.word(*length));
            let out = std::array::from_fn(|i| integer::bfi(u64::from(a[i]), u64::from(b[i]), p[i], n[i], 32) as u32);
            r.set_word(*d, lanes, out);
        }
        Op::Unary64 { op, d, a } => {
            let out = wide::unary64(*op, r.wide(*a));
            r.set_wide(*d, lanes, out);
        }
        Op::Binary64 { op, d, a, b } => {
            let out = wide::binary64(*op, r.wide(*a), r.wide(*b));
            r.set_wide(*d, lanes, out);
        }
        Op::Ternary64 { op, d, a, b, c } => {
            let out = wide::ternary64(*op, r.wide(*a), r.wide(*b), r.wide(*c));
            r.set_wide(*d, lanes, out);
        }
        Op::Shift64 { op, d, a, b } => {
            let out = wide::shift64(*op, r.wide(*a), r.word(*b));
            r.set_wide(*d, lanes, out);
        }
        Op::Count64 { op, d, a } => {
            let out = wide::count64(*op, r.wide(*a));
            r.set_word(*d, lanes, out);
        }
        Op::Bfe64 { signed, d, a, position, length } => {
            let out = wide::bfe64(*signed, r.wide(*a), r.word(*position), r.word(*length));
            r.set_wide(*d, lanes, out);
        }
        Op::Bfi64 { d, a, b, position, length } => {
            let out = wide::bfi64(r.wide(*a), r.wide(*b), r.word(*position), r.word(*length));
            r.set_wide(*d, lanes, out);
        }
        Op::MulWide { signed, d, a, b } => {
            let out = wide::mul_wide(*signed, r.word(*a), r.word(*b));
            r.set_wide(*d, lanes, out);
        }
        Op::MadWide { signed, d, a, b, c } => {
            let out = wide::mad_wide(*signed, r.word(*a), r.word(*b), r.wide(*c));
            r.set_wide(*d, lanes, out);
        }
        Op::Convert { conversion, d, a } => convert::convert(r, lanes, *conversion, *d, *a),
        Op::Compare32 { compare, d, q, a, b, combine } => {
            let bits = compare::compare32(*compare, r.word(*a), r.word(*b));
            set_compared(r, lanes, bits, (*d, *q), *combine);
        }
        Op::Compare64 { compare, d, q, a, b, combine } => {
            let bits = compare::compare64(*compare, r.wide(*a), r.wide(*b));
            set_compared(r, lanes, bits, (*d, *q), *combine);
        }
        Op::CompareHalves { compare, bf16, d, q, a, b, combine } => {
            let (low, high) = compare::compare_halves(*compare, *bf16, r.word(*a), r.word(*b));
            let (low, high) = (combined(r, low, *combine), combined(r, high, *combine));
            set_pred(r, lanes, *d, low);
            set_pred(r, lanes, *q, high);
        }
        Op::Select32 { d, a, b, p } => {
            let p = r.condition(*p);
            let (a, b) = (r.word(*a), r.word(*b));
            let mut out = [0; LANES];
            for lane in 0..LANES {
                out[lane] = if p & 1 << lane != 0 { a[lane] } else { b[lane] };
            }
            r.set_word(*d, lanes, out);
        }
        Op::Select64 { d, a, b, p } => {
            let p = r.condition(*p);
            let (a, b) = (r.wide(*a), r.wide(*b));
            let mut out = [0; LANES];
            for lane in 0..LANES {
                out[lane] = if p & 1 << lane != 0 { a[lane] } else { b[lane] };
            }
            r.set_wide(*d, lanes, out);
        }
        Op::PredLogic { op, d, a, b } => {
            let bits = logic(*op, r.condition(*a), r.condition(*b));
            r.set_pred(*d, lanes, bits);
        }
        Op::PredMov { d, a } => {
            let bits = r.condition(*a);
            r.set_pred(*d, lanes, bits);
        }
        Op::Mov32 { d, a } => {
            let value = *r.word(*a);
            r.set_word(*d, lanes, value);
        }
        Op::Mov64 { d, a } => {
            let value = *r.wide(*a);
            r.set_wide(*d, lanes, value);
        }
        Op::Extract16 { d, a, shift } => {
            let out = r.word(*a).map(|a| a >> shift & 0xffff);
            r.set_word(*d, lanes, out);
        }
        Op::ExtractWord { d, a, upper } => {
            let shift = if *upper { 32 } else { 0 };
            let out = r.wide(*a).map(|a| (a >> shift) as u32);
            r.set_word(*d, lanes, out);
        }
        Op::PackWords { d, low, high } => {
            let (low, high) = (r.word(*low), r.word(*high));
            let mut out = [0; LANES];
            for lane in 0..LANES {
                out[lane] = u64::from(high[lane]) << 32 | u64::from(low[lane]);
            }
            r.set_wide(*d, lanes, out);
        }
        Op::Load { access, d, address } => memory::load(spaces, r, lanes, access, d, *address)?,
        Op::Store { access, a, address } => memory::store(spaces, r, lanes, access, a, *address)?,
        Op::Atomic { op, ty, space, d, address, b, c } => {
            let operands = Atomic { op: *op, ty: *ty, space: *space, d: *d, address: *address, b: *b, c: *c };
            atomic(spaces, r, lanes, operands)?;
        }
        Op::Shuffle { mode, d, p, a, b, c, mask } => {
            let operands = Shuffle { mode: *mode, d: *d, p: *p, a: *a, b: *b, c: *c, mask: *mask };
            shuffle(r, lanes, operands)?;
        }
        Op::Vote { mode, d, p, a, mask } => vote(r, lanes, *mode, (*d, *p), *a, *mask),
        Op::Match { all, d, p, a, mask } => matching(r, lanes, *all, (*d, *p), *a, *mask),
        Op::Redux { op, d, a, mask } => redux(r, lanes, *op, *d, *a, *mask),
        Op::ActiveMask { d } => r.set_word(*d, lanes, [lanes.mask; LANES]),
        Op::Clock { d } => r.set_values(*d, lanes, [counters.warp_instructions; LANES]),
        Op::Matrix(access) => matrix::access(spaces, r, lanes, access)?,
        Op::Mma(operands) => matrix::mma(r, lanes, operands, spaces.tensor_core),
        Op::Wmma(operands) => wmma::multiply(r, lanes, operands, spaces.tensor_core),
        Op::WmmaAccess(operands) => wmma::access(spaces, r, lanes, operands)?,
        Op::MmaInteger(operands) => matrix_exact::mma_integer(r, lanes, operands),
        Op::MmaDouble(operands) => matrix_exact::mma_double(r, lanes, operands),
        Op::CopyAsync(operands) => copy::issue(spaces, r, &mut warp.copies, lanes, operands)?,
        Op::Mbarrier(operands) => mbarrier::mbarrier(spaces, warp, lanes, operands)?,
        Op::CopyCommit => copy::commit(&mut warp.copies, lanes),
        Op::CopyWait { pending } => copy::wait(spaces, &mut warp.copies, lanes, *pending)?,
        Op::Fence => spaces.global_races.fence(),
        Op::Trap => {
            return Err(fault(ViolationKind::Trap, lanes.first(), "the kernel executed trap"));
        }
        Op::BadCall { callee } => {
            let lane = lanes.first();
            let detail = format!("an indirect call of {:#x}, which is no function of its type", r.wide(*callee)[lane]);
            return Err(fault(ViolationKind::BranchTarget, lane, detail));
        }
        Op::TooDeep => return Err(unsupported(lanes.first(), "a call deeper than calls are inlined")),
        Op::Print { d, format, arguments } => {
            for lane in lanes.iter() {
                let text = print::formatted(spaces, r.wide(*format)[lane], r.wide(*arguments)[lane], lane);
                if counters.printed.len() < print::MAX_LINES {
                    counters.printed.push(text);
                }
            }
            if let Some(d) = d {
                r.set_word(*d, lanes, [0; LANES]);
            }
        }
        Op::AssertFail { message, file, line, function } => {
            let lane = lanes.first();
            let text = |address: u64| print::text_at(spaces, address, lane);
            let detail = format!(
                "assertion `{}` failed in {} at {}:{}",
                text(r.wide(*message)[lane]),
                text(r.wide(*function)[lane]),
                text(r.wide(*file)[lane]),
                r.word(*line)[lane]
            );
            return Err(fault(ViolationKind::AssertFail, lane, detail));
        }
        // Control flow and barriers are the run loop's; the rest changes nothing that can be observed here.
        Op::Prefetch
        | Op::Nop
        | Op::WarpSync { .. }
        | Op::Branch { .. }
        | Op::BranchIndexed { .. }
        | Op::Exit
        | Op::Barrier { .. } => {}
    }
    Ok(())
}

fn logic(op: Logic, a: u32, b: u32) -> u32 {
    match op {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

fn combined(registers: &Registers, bits: u32, combine: Option<(Logic, Condition)>) -> u32 {
    match combine {
        Some((op, c)) => logic(op, bits, registers.condition(c)),
        None => bits,
    }
}

fn set_pred(registers: &mut Registers, lanes: Lanes, pred: Option<Pred>, bits: u32) {
    if let Some(pred) = pred {
        registers.set_pred(pred, lanes, bits);
    }
}

/// `q` gets the negated comparison under the same combination.
#[inline(always)]
fn set_compared(
    registers: &mut Registers,
    lanes: Lanes,
    bits: u32,
    (d, q): (Option<Pred>, Option<Pred>),
    combine: Option<(Logic, Condition)>,
) {
    let (first, second) = (combined(registers, bits, combine), combined(registers, !bits, combine));
    set_pred(registers, lanes, d, first);
    set_pred(registers, lanes, q, second);
}
