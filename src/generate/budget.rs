//! What running a case costs, and the fields that multiply to it.

use super::tables::{self, Table};
use crate::case::{CaseParts, Domain, Range, Request};

/// Multiply-adds of one of the two products of attention, over all heads, queries and steps: what running a case costs, up to a factor.
///
/// Counted are the keys that a query sees; a query that sees none counts as if it saw one, for its output is written.
pub fn cost(parts: &CaseParts) -> u64 {
    let shape = &parts.shape;
    let pairs = shape.requests.iter().map(|r| pairs(parts, *r)).fold(0, u64::saturating_add);
    [shape.num_kv_heads, shape.q_per_kv, shape.head_dim].iter().fold(pairs, |n, &m| n.saturating_mul(u64::from(m)))
}

/// Pairs of a query and a key that it sees, over all steps.
fn pairs(parts: &CaseParts, request: Request) -> u64 {
    let features = &parts.features;
    let [past, q_len, steps] = [request.past_len, request.q_len, parts.steps].map(u128::from);
    let queries = q_len * steps;
    let end = if features.append { past + queries } else { past };
    // The queries' positions are the last ones before `end`: the sum of f(position + 1) over them, for an f that is 0 up to
    // `from` and grows by 1 with each position from there, is a difference of two triangles.
    let sum = |from: u128| {
        let triangle = |n: u128| n * (n + 1) / 2;
        triangle(end.saturating_sub(from)) - triangle(end.saturating_sub(queries.saturating_add(from)))
    };
    let before_end = match (features.causal, features.append) {
        (true, _) => sum(0),
        (false, true) => queries * past + q_len * q_len * (steps * (steps + 1) / 2),
        (false, false) => queries * past,
    };
    let before_window = features.window.map_or(0, |window| sum(window.into()));
    u64::try_from((before_end - before_window).max(queries)).unwrap_or(u64::MAX)
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
    pub(super) fn table(self, domain: &Domain) -> &'static Table {
        match self {
            Self::KvHeads => &tables::NUM_KV_HEADS,
            Self::QPerKv => &tables::Q_PER_KV,
            Self::HeadDim => &tables::HEAD_DIM,
            Self::Batch => &tables::BATCH,
            Self::Steps => &tables::STEPS,
            Self::QLen if domain.append => &tables::Q_LEN,
            Self::QLen => &tables::Q_LEN_OF_FULL_CACHE,
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

    /// The factor of the cost that `n` stands for. Query tokens that are appended count twice: each sees those before it.
    fn factor(self, n: u32, domain: &Domain) -> u64 {
        let n = u64::from(n);
        match self {
            Self::Steps | Self::QLen if domain.append => n * n,
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
        let room = |axis: &Axis| axis.factor(axis.range(self.domain).low().max(axis.room()), self.domain);
        let room = reserved.iter().map(room).fold(1, u64::saturating_mul);
        let share = self.left / room.max(1);
        let cap = match axis {
            Axis::Steps | Axis::QLen if self.domain.append => share.isqrt(),
            Axis::PastLen => share.saturating_sub(1),
            _ => share,
        };
        u32::try_from(cap).unwrap_or(u32::MAX)
    }

    /// Takes what `n` on `axis` costs.
    pub(super) fn spend(&mut self, axis: Axis, n: u32) {
        self.left /= axis.factor(n, self.domain).max(1);
    }

    /// What is left to multiply with.
    pub(super) fn left(&self) -> u64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;

    /// One key after another.
    fn counted(case: &Case) -> u64 {
        let mut pairs = 0;
        for (index, request) in case.shape.requests.iter().enumerate() {
            let seen = (0..case.steps).flat_map(|step| (0..request.q_len).map(move |query| (step, query)));
            let seen: u64 = seen.map(|(step, query)| case.visible(index, step, query).len() as u64).sum();
            pairs += seen.max(u64::from(case.steps * request.q_len));
        }
        pairs * u64::from(case.shape.num_q_heads() * case.shape.head_dim)
    }

    #[test]
    fn the_cost_is_that_of_the_keys_seen() {
        for features in ["", "append=no"] {
            for causal in ["", "causal=no"] {
                for window in ["", "window=1", "window=3", "window=7", "window=4294967295"] {
                    for (past, q, steps) in [(0, 1, 1), (0, 4, 3), (5, 1, 4), (3, 3, 2), (2, 7, 1), (9, 4, 1)] {
                        let steps = if features.is_empty() { steps } else { 1 };
                        let line = format!(
                            "kv=2 g=3 d=5 past={past},4,0 q={q},0,2 steps={steps} dtype=f32 cache=hnd:40 scale=1 \
                             values=flat:0 {features} {causal} {window}"
                        );
                        let case: Case = line.parse().unwrap();
                        assert_eq!(cost(&case), counted(&case), "{case}");
                    }
                }
            }
        }
    }
}
