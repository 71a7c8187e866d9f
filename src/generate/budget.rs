//! What running a case costs, and the fields that multiply to it.

use super::tables::{self, Table};
use crate::case::{CaseParts, Domain, Range};

/// Multiply-adds of one of the two products of attention, over all heads, queries and steps: what running a case costs, up to a factor.
pub fn cost(parts: &CaseParts) -> u64 {
    let shape = &parts.shape;
    let pairs = shape
        .requests
        .iter()
        .map(|r| {
            let tokens = u64::from(parts.steps) * u64::from(r.q_len);
            // Token i of those sees the past, the tokens before it and itself.
            tokens * u64::from(r.past_len) + tokens * (tokens + 1) / 2
        })
        .fold(0, u64::saturating_add);
    [shape.num_kv_heads, shape.q_per_kv, shape.head_dim].iter().fold(pairs, |n, &m| n.saturating_mul(u64::from(m)))
}

/// The numbers that the cost of a case is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    KvHeads,
    QPerKv,
    HeadDim,
    Batch,
    Steps,
    QLen,
    PastLen,
}

impl Axis {
    /// Every axis, lengths last, so that they get what the others leave of a budget.
    pub(super) const ALL: [Self; 7] =
        [Self::KvHeads, Self::QPerKv, Self::HeadDim, Self::Batch, Self::Steps, Self::QLen, Self::PastLen];

    /// Where a kernel breaks.
    pub(super) fn table(self) -> &'static Table {
        match self {
            Self::KvHeads => &tables::NUM_KV_HEADS,
            Self::QPerKv => &tables::Q_PER_KV,
            Self::HeadDim => &tables::HEAD_DIM,
            Self::Batch => &tables::BATCH,
            Self::Steps => &tables::STEPS,
            Self::QLen => &tables::Q_LEN,
            Self::PastLen => &tables::PAST_LEN,
        }
    }

    /// What a kernel claims.
    pub(super) fn range(self, domain: &Domain) -> &Range {
        match self {
            Self::KvHeads => &domain.num_kv_heads,
            Self::QPerKv => &domain.q_per_kv,
            Self::HeadDim => &domain.head_dim,
            Self::Batch => &domain.batch,
            Self::Steps => &domain.steps,
            Self::QLen => &domain.q_len,
            Self::PastLen => &domain.past_len,
        }
    }

    /// Whether the axis counts tokens of one request's queries.
    pub(super) fn is_tokens(self) -> bool {
        matches!(self, Self::Steps | Self::QLen)
    }

    /// What it takes for the axis to be told from the others.
    fn room(self) -> u32 {
        match self {
            Self::Steps | Self::QLen => 1,
            Self::KvHeads | Self::Batch => 2,
            Self::QPerKv => 3,
            Self::HeadDim => 5,
            Self::PastLen => 8,
        }
    }

    /// The factor of the cost that `n` stands for. Query tokens count twice: each sees those before it.
    fn factor(self, n: u32) -> u64 {
        let n = u64::from(n);
        match self {
            Self::Steps | Self::QLen => n * n,
            Self::PastLen => n + 1,
            _ => n,
        }
    }
}

/// A budget being spent, factor by factor.
pub(super) struct Purse<'a> {
    domain: &'a Domain,
    left: u64,
}

impl<'a> Purse<'a> {
    pub(super) fn new(domain: &'a Domain, budget: u64) -> Self {
        Self { domain, left: budget }
    }

    /// The most that `axis` may have if the axes in `reserved` are to have a little room too.
    pub(super) fn cap(&self, axis: Axis, reserved: &[Axis]) -> u32 {
        let room = |axis: &Axis| axis.factor(axis.range(self.domain).low().max(axis.room()));
        let room = reserved.iter().map(room).fold(1, u64::saturating_mul);
        let share = self.left / room.max(1);
        let cap = match axis {
            Axis::Steps | Axis::QLen => share.isqrt(),
            Axis::PastLen => share.saturating_sub(1),
            _ => share,
        };
        u32::try_from(cap).unwrap_or(u32::MAX)
    }

    /// Takes what `n` on `axis` costs.
    pub(super) fn spend(&mut self, axis: Axis, n: u32) {
        self.left /= axis.factor(n).max(1);
    }

    /// What is left to multiply with.
    pub(super) fn left(&self) -> u64 {
        self.left
    }
}
