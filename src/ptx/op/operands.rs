//! Which slots an operation reads and writes, and what for.

use super::{
    Address, AddressBase, BarrierKind, BarrierReduction, Condition, MbarrierKind, Op, Pred, Reg, Wide, Wmma, Word,
};

/// A register of any file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the three files")]
pub enum Slot {
    Word(Word),
    Wide(Wide),
    Pred(Pred),
}

/// What an operation uses a slot for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Written.
    Result,
    /// A value that only the lane's own results depend on.
    Source,
    /// A value that other lanes' results depend on too.
    Exchanged,
    /// Part of an address.
    Address,
    /// Decides what is executed and by whom: a branch's index, a barrier's number, a mask, a source lane.
    Control,
}

impl From<Reg> for Slot {
    fn from(reg: Reg) -> Self {
        match reg {
            Reg::Word(word) => Self::Word(word),
            Reg::Wide(wide) => Self::Wide(wide),
        }
    }
}

impl From<Word> for Slot {
    fn from(word: Word) -> Self {
        Self::Word(word)
    }
}

impl From<Wide> for Slot {
    fn from(wide: Wide) -> Self {
        Self::Wide(wide)
    }
}

impl From<Pred> for Slot {
    fn from(pred: Pred) -> Self {
        Self::Pred(pred)
    }
}

impl From<Condition> for Slot {
    fn from(condition: Condition) -> Self {
        Self::Pred(condition.pred)
    }
}

/// Receives the operands of one operation.
struct Visitor<'a>(&'a mut dyn FnMut(Role, Slot));

impl Visitor<'_> {
    fn one(&mut self, role: Role, slot: impl Into<Slot>) {
        (self.0)(role, slot.into());
    }

    fn all<S: Into<Slot>>(&mut self, role: Role, slots: impl IntoIterator<Item = S>) {
        slots.into_iter().for_each(|slot| self.one(role, slot));
    }

    fn sources<S: Into<Slot>>(&mut self, d: impl Into<Slot>, sources: impl IntoIterator<Item = S>) {
        self.all(Role::Source, sources);
        self.one(Role::Result, d);
    }

    fn address(&mut self, address: Address) {
        match address.base {
            AddressBase::Absolute => {}
            AddressBase::Word(word) => self.one(Role::Address, word),
            AddressBase::Wide(wide) => self.one(Role::Address, wide),
        }
    }
}

impl Op {
    /// Calls `visit` for each slot the operation reads or writes, the guard's not included.
    pub fn operands(&self, visit: &mut dyn FnMut(Role, Slot)) {
        let mut v = Visitor(visit);
        match self {
            Self::Unary32 { d, a, .. } | Self::Mov32 { d, a } | Self::Extract16 { d, a, .. } => v.sources(*d, [*a]),
            Self::Binary32 { d, a, b, .. } => v.sources(*d, [*a, *b]),
            Self::Ternary32 { d, a, b, c, .. } => v.sources(*d, [*a, *b, *c]),
            Self::Carry(carry) => {
                v.all(Role::Source, [carry.a, carry.b].into_iter().chain(carry.c));
                v.all(Role::Source, carry.takes.then_some(carry.flag));
                v.one(Role::Result, carry.d);
                v.all(Role::Result, carry.gives.then_some(carry.flag));
            }
            Self::Bfi32 { d, a, b, position, length } => v.sources(*d, [*a, *b, *position, *length]),
            Self::Unary64 { d, a, .. } | Self::Mov64 { d, a } => v.sources(*d, [*a]),
            Self::Binary64 { d, a, b, .. } => v.sources(*d, [*a, *b]),
            Self::Ternary64 { d, a, b, c, .. } => v.sources(*d, [*a, *b, *c]),
            Self::Shift64 { d, a, b, .. } => v.sources(*d, [Slot::from(*a), Slot::from(*b)]),
            Self::Count64 { d, a, .. } | Self::ExtractWord { d, a, .. } => v.sources(*d, [*a]),
            Self::Bfe64 { d, a, position, length, .. } => {
                v.sources(*d, [Slot::from(*a), Slot::from(*position), Slot::from(*length)]);
            }
            Self::Bfi64 { d, a, b, position, length } => {
                v.all(Role::Source, [*a, *b]);
                v.sources(*d, [*position, *length]);
            }
            Self::MulWide { d, a, b, .. } => v.sources(*d, [*a, *b]),
            Self::MadWide { d, a, b, c, .. } => v.sources(*d, [Slot::from(*a), Slot::from(*b), Slot::from(*c)]),
            Self::Convert { d, a, .. } => v.sources(*d, [*a]),
            Self::Compare32 { d, q, a, b, combine, .. } | Self::CompareHalves { d, q, a, b, combine, .. } => {
                v.all(Role::Source, [*a, *b]);
                v.all(Role::Source, combine.map(|(_, c)| c));
                v.all(Role::Result, [*d, *q].into_iter().flatten());
            }
            Self::Compare64 { d, q, a, b, combine, .. } => {
                v.all(Role::Source, [*a, *b]);
                v.all(Role::Source, combine.map(|(_, c)| c));
                v.all(Role::Result, [*d, *q].into_iter().flatten());
            }
            Self::Select32 { d, a, b, p } => v.sources(*d, [Slot::from(*a), Slot::from(*b), Slot::from(*p)]),
            Self::Select64 { d, a, b, p } => v.sources(*d, [Slot::from(*a), Slot::from(*b), Slot::from(*p)]),
            Self::PredLogic { d, a, b, .. } => v.sources(*d, [*a, *b]),
            Self::PredMov { d, a } => v.sources(*d, [*a]),
            Self::PackWords { d, low, high } => v.sources(*d, [*low, *high]),
            Self::Load { d, address, .. } => {
                v.address(*address);
                v.all(Role::Result, d.iter().flatten().copied());
            }
            Self::Store { access, a, address } => {
                v.address(*address);
                v.all(Role::Source, a.iter().take(access.elements.into()).copied());
            }
            Self::Atomic { d, address, b, c, .. } => {
                v.address(*address);
                v.one(Role::Exchanged, *b);
                v.all(Role::Exchanged, *c);
                v.all(Role::Result, *d);
            }
            Self::Matrix(m) => {
                v.address(m.address);
                let role = if m.is_store { Role::Exchanged } else { Role::Result };
                v.all(role, m.registers.iter().take(m.count.into()).copied());
            }
            Self::Mma(m) => {
                let [a, b] = m.factor_registers();
                let sums = if m.half_sums { 2 } else { 4 };
                v.all(
                    Role::Exchanged,
                    m.a.iter().take(a).chain(m.b.iter().take(b)).chain(m.c.iter().take(sums)).copied(),
                );
                v.all(Role::Result, m.d.iter().take(sums).copied());
            }
            Self::MmaInteger(m) => {
                let [a, b, sums] = m.registers();
                let factors = m.a.iter().take(a).chain(m.b.iter().take(b));
                v.all(Role::Exchanged, factors.chain(m.c.iter().take(sums)).copied());
                v.all(Role::Result, m.d.iter().take(sums).copied());
            }
            Self::MmaDouble(m) => {
                let [a, b, sums] = m.registers();
                let factors = m.a.iter().take(a).chain(m.b.iter().take(b));
                v.all(Role::Exchanged, factors.chain(m.c.iter().take(sums)).copied());
                v.all(Role::Result, m.d.iter().take(sums).copied());
            }
            Self::Wmma(m) => {
                let Wmma { a, b, c, d, .. } = &**m;
                for (fragment, words) in [a, b, c] {
                    v.all(Role::Exchanged, words.iter().take(fragment.registers.into()).copied());
                }
                v.all(Role::Result, d.1.iter().take(d.0.registers.into()).copied());
            }
            Self::WmmaAccess(m) => {
                v.address(m.address);
                v.all(Role::Address, m.stride);
                let role = if m.is_store { Role::Exchanged } else { Role::Result };
                v.all(role, m.words.iter().take(m.fragment.registers.into()).copied());
            }
            Self::CopyAsync(copy) => {
                v.address(copy.to);
                v.address(copy.from);
                v.all(Role::Control, copy.source_bytes);
            }
            Self::Mbarrier(m) => {
                v.address(m.address);
                match m.kind {
                    MbarrierKind::Init { count } => v.one(Role::Control, count),
                    MbarrierKind::Arrive { state, count, transactions, .. } => {
                        v.all(Role::Control, count.into_iter().chain(transactions));
                        v.all(Role::Result, state);
                    }
                    MbarrierKind::Expect { transactions } | MbarrierKind::Complete { transactions } => {
                        v.one(Role::Control, transactions);
                    }
                    MbarrierKind::Test { complete, phase, .. } => {
                        v.one(Role::Control, phase);
                        v.all(Role::Result, complete);
                    }
                    MbarrierKind::Invalidate | MbarrierKind::Copies { .. } => {}
                }
            }
            Self::BadCall { callee } => v.one(Role::Control, *callee),
            Self::BranchIndexed { index, .. } => v.one(Role::Control, *index),
            Self::Barrier { kind, id, count, .. } => {
                v.one(Role::Control, *id);
                v.all(Role::Control, *count);
                if let BarrierKind::Reduce { reduction, source } = kind {
                    v.one(Role::Control, *source);
                    match reduction {
                        BarrierReduction::And { d } | BarrierReduction::Or { d } => v.one(Role::Result, *d),
                        BarrierReduction::Popc { d } => v.one(Role::Result, *d),
                    }
                }
            }
            Self::WarpSync { mask } => v.one(Role::Control, *mask),
            Self::Shuffle { d, p, a, b, c, mask, .. } => {
                v.one(Role::Exchanged, *a);
                v.all(Role::Control, [*b, *c, *mask]);
                v.one(Role::Result, *d);
                v.all(Role::Result, *p);
            }
            Self::Vote { d, p, a, mask, .. } => {
                v.one(Role::Exchanged, *a);
                v.one(Role::Control, *mask);
                v.one(Role::Result, *d);
                v.all(Role::Result, *p);
            }
            Self::Match { d, p, a, mask, .. } => {
                v.one(Role::Exchanged, *a);
                v.one(Role::Control, *mask);
                v.one(Role::Result, *d);
                v.all(Role::Result, *p);
            }
            Self::Redux { d, a, mask, .. } => {
                v.one(Role::Exchanged, *a);
                v.one(Role::Control, *mask);
                v.one(Role::Result, *d);
            }
            Self::ActiveMask { d } => v.one(Role::Result, *d),
            Self::Clock { d } => v.one(Role::Result, *d),
            Self::Print { d, format, arguments } => {
                v.all(Role::Address, [*format, *arguments]);
                v.all(Role::Result, *d);
            }
            Self::AssertFail { message, file, line, function } => {
                v.all(Role::Address, [*message, *file, *function]);
                v.one(Role::Source, *line);
            }
            Self::CopyCommit
            | Self::CopyWait { .. }
            | Self::Prefetch
            | Self::Branch { .. }
            | Self::Exit
            | Self::Trap
            | Self::TooDeep
            | Self::Fence
            | Self::Nop => {}
        }
    }
}
