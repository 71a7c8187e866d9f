//! Which case of a kernel to run next, by what the cases before it reached in the kernel's code.
//!
//! A [`Guide`] keeps the cases that were the first to reach a [point](crate::backend::Points) and plans new ones near them. Part
//! of what it plans are still the draws of an unguided campaign, in their order: most of it while draws reach more new points than
//! changed cases do, and a quarter at least. To choose what to change, it draws a point, the
//! likelier the fewer cases reached it, and takes the cheapest kept case that reaches it: a case whose descendants keep reaching
//! the same rare point makes that point common, and so its own turn rarer.
//!
//! A plan is a function of the seed, its number and the results told so far. Who tells results in the order of their cases, each
//! when [`AHEAD`] more are planned, gets the same cases however many threads run them.

mod reduce;

pub use reduce::{Reduced, reduce};

use crate::backend::{CoverageMap, Kernel, Points};
use crate::case::Case;
use crate::generate::{Space, cost};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::iter::Sum;
use std::sync::Arc;

/// Cases that are planned before the result of the first one is told, and then always ahead of the results.
///
/// Enough for as many threads to have work, and little enough for what was learnt to be used soon.
pub const AHEAD: u64 = 32;

/// Of a way of making cases, how much of its yield the next case of it leaves.
const MEMORY: f64 = 15.0 / 16.0;
/// The least share of cases that are made either way.
const LEAST: f64 = 0.25;
/// One changed case in so many has fields of two kept ones.
const SPLICED: u32 = 4;

/// Salt of the generator of a plan's decisions.
const PLAN: &[u8; 16] = b"attnfuzz guide 1";

/// A kernel's kept cases, and what was reached.
pub struct Guide {
    seed: u64,
    /// What is drawn from, and changed within.
    space: Space,
    points: Arc<Points>,
    /// Cases that come before any other.
    first: VecDeque<Case>,
    kept: Vec<Kept>,
    reached: CoverageMap,
    /// For each point how many cases reached it, and the cheapest kept one of them.
    of_point: Vec<(u32, usize)>,
    planned: u64,
    drawn: u64,
    /// For each planned case whose result was not told, in order, how it was made.
    ways: VecDeque<Way>,
    /// New points per case of draws and of changed cases, of late.
    yields: [f64; 2],
}

/// How a case was made.
#[derive(Clone, Copy)]
enum Way {
    Drawn,
    Changed,
    Given,
}

struct Kept {
    case: Case,
    cost: u64,
}

/// How far a guide is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Cases that are kept.
    pub kept: usize,
    /// Points that one of them reaches.
    pub reached: usize,
    /// Points that the kernel has.
    pub existing: usize,
}

impl Sum for Reach {
    fn sum<I: Iterator<Item = Self>>(several: I) -> Self {
        several.fold(Self::default(), |all, one| Self {
            kept: all.kept + one.kept,
            reached: all.reached + one.reached,
            existing: all.existing + one.existing,
        })
    }
}

impl Guide {
    /// Plans the cases of the campaign `seed` on `kernel`. Those of `first` come before any other, each pulled into the kernel's
    /// domain.
    pub fn new(kernel: &Kernel, points: Arc<Points>, seed: u64, first: impl IntoIterator<Item = Case>) -> Self {
        let space = kernel.space().clone();
        let first = first.into_iter().map(|case| space.legalize(case.into_parts())).collect();
        let (reached, of_point) = (points.none(), vec![(0, 0); points.len()]);
        Self {
            seed,
            space,
            points,
            first,
            kept: Vec::new(),
            reached,
            of_point,
            planned: 0,
            drawn: 0,
            ways: VecDeque::new(),
            yields: [0.0; 2],
        }
    }

    /// The next case.
    pub fn plan(&mut self) -> Case {
        let number = self.planned;
        self.planned += 1;
        if let Some(case) = self.first.pop_front() {
            self.ways.push_back(Way::Given);
            return case;
        }
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&number.to_le_bytes());
        key[16..].copy_from_slice(PLAN);
        let mut rng = ChaCha8Rng::from_seed(key);
        let chance = f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0);
        if self.kept.is_empty() || chance < self.share_of_draws() {
            self.ways.push_back(Way::Drawn);
            self.drawn += 1;
            return self.space.case_at(self.seed, self.drawn - 1);
        }
        self.ways.push_back(Way::Changed);
        let case = &self.kept[self.choose(&mut rng)].case;
        if one_in(SPLICED, &mut rng) {
            let other = &self.kept[self.choose(&mut rng)].case;
            return self.space.mutate(&self.space.splice(case, other, &mut rng), &mut rng);
        }
        self.space.mutate(case, &mut rng)
    }

    fn share_of_draws(&self) -> f64 {
        let [drawn, changed] = self.yields;
        let share = if drawn + changed > 0.0 { drawn / (drawn + changed) } else { 0.5 };
        share.clamp(LEAST, 1.0 - LEAST)
    }

    /// Learns what became of the oldest planned case that it was not told of: what it reached if the kernel agreed on it. Whether
    /// the case is kept: it reached something new.
    pub fn learn(&mut self, case: &Case, reached: Option<&CoverageMap>) -> bool {
        let new = reached.map_or(0, |reached| self.reached.merge(reached));
        if let Some(way @ (Way::Drawn | Way::Changed)) = self.ways.pop_front() {
            let of_late = &mut self.yields[way as usize];
            *of_late = MEMORY * *of_late + (1.0 - MEMORY) * new as f64;
        }
        let Some(reached) = reached else { return false };
        let is_new = new > 0;
        let cost = cost(case);
        let place = self.kept.len();
        for point in reached.iter() {
            let (cases, cheapest) = &mut self.of_point[point as usize];
            if is_new && (*cases == 0 || cost < self.kept[*cheapest].cost) {
                *cheapest = place;
            }
            *cases = cases.saturating_add(1);
        }
        if is_new {
            self.kept.push(Kept { case: case.clone(), cost });
        }
        is_new
    }

    /// The kept case to change next: the cheapest that reaches a point, drawn with a weight of one over the cases that reached it.
    fn choose(&self, rng: &mut impl RngCore) -> usize {
        let weight = |cases: u32| u64::from(u32::MAX).checked_div(u64::from(cases)).unwrap_or(0);
        let all: u64 = self.of_point.iter().map(|&(cases, _)| weight(cases)).sum();
        let mut left = rng.next_u64().checked_rem(all).unwrap_or(0);
        for &(cases, cheapest) in &self.of_point {
            match left.checked_sub(weight(cases)) {
                Some(rest) => left = rest,
                None => return cheapest,
            }
        }
        0
    }

    /// The points that are told of.
    pub fn points(&self) -> &Arc<Points> {
        &self.points
    }

    /// The kept cases, in the order in which they came.
    pub fn kept(&self) -> impl Iterator<Item = &Case> {
        self.kept.iter().map(|kept| &kept.case)
    }

    /// How far it is.
    pub fn reach(&self) -> Reach {
        Reach { kept: self.kept.len(), reached: self.reached.count(), existing: self.points.len() }
    }
}

fn one_in(n: u32, rng: &mut impl RngCore) -> bool {
    rng.next_u32().is_multiple_of(n)
}
