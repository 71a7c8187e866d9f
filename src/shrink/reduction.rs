//! Finds a small set of elements that must keep their values, when every other element may be 0.
//!
//! This is delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002) with the
//! subsets that the axes suggest: whole tensors, then halves of the requests, KV heads, members, tokens and dims of what is
//! left. What can't go as a whole is bisected: without its second half, or else without its first, or else each half by
//! itself, breadth first. So `n` elements among `N` cost about `2 n log2 N` executions. At the end whatever is left is tried
//! once more, for what was needed beside something else may no longer be.
//!
//! If the case fails when every element is 0, values don't matter; then it keeps all of them, which says as much and is of
//! more use as a test when the bug is gone.

use crate::case::values::Role;
use crate::case::{Axis, Case, Only, Region, Span};
use std::collections::VecDeque;

/// Executions that one search may take. 4 elements among a million take about 160.
const MAX_EXECUTIONS: u32 = 250;
/// Regions beyond which nothing is bisected any more: what needs so many is not told by a few elements.
const ENOUGH_REGIONS: usize = 16;

/// A search under way.
#[derive(Clone, Debug)]
pub(super) struct Reduction {
    /// The elements that the failing case keeps, disjoint.
    kept: Vec<Region>,
    agenda: VecDeque<Try>,
    executions: u32,
    /// Whether something went since all that is kept was last tried.
    smaller: bool,
}

/// Regions to go without, all of them kept so far.
#[derive(Clone, Debug)]
struct Try {
    gone: Vec<Region>,
    then: Then,
}

/// What an answer to a [`Try`] leads to.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// If it fails without anything, the search is over.
    Question,
    /// Nothing.
    Go,
    /// One region, bisected if it can't go.
    Bisect,
    /// The second half of a region that can't go as a whole, and here is its first.
    SecondHalf(Region),
    /// The first half, the second being needed with it.
    FirstHalf(Region),
}

impl Reduction {
    /// A search from a failing case. A case derived from another has elements that its shape doesn't tell: there is
    /// nothing to search.
    pub(super) fn new(case: &Case) -> Self {
        let mut search = Self { kept: Vec::new(), agenda: VecDeque::new(), executions: 0, smaller: false };
        if case.view.is_some() {
            return search;
        }
        let within = |region: Region| region.within(case);
        match &case.only {
            Some(only) => search.kept = only.regions().iter().copied().filter_map(within).collect(),
            None => {
                search.kept =
                    [Role::Q, Role::K, Role::Sink, Role::V].map(Region::whole).into_iter().filter_map(within).collect();
                let but_v = search.kept.iter().copied().filter(|region| region.role() != Role::V).collect();
                search.agenda.push_back(Try { gone: search.kept.clone(), then: Then::Question });
                // Most often K and Q only make weights, and V tells what is read.
                search.agenda.push_back(Try { gone: but_v, then: Then::Go });
            }
        }
        search.try_each();
        search
    }

    /// The elements to keep in the next case to try; nothing when the search is over. It stays the same until answered.
    pub(super) fn proposal(&mut self, case: &Case) -> Option<Only> {
        while self.executions < MAX_EXECUTIONS {
            match self.agenda.front() {
                Some(one) if one.gone.iter().all(|region| self.kept.contains(region)) => {
                    let rest = self.kept.iter().copied().filter(|region| !one.gone.contains(region)).collect();
                    match Only::new(merged(case, rest)) {
                        Some(only) => return Some(only),
                        None => self.answer(case, false),
                    }
                }
                Some(_) => {
                    self.agenda.pop_front();
                }
                None if std::mem::take(&mut self.smaller) => {
                    let kept = merged(case, std::mem::take(&mut self.kept));
                    self.kept = kept.into_iter().filter_map(|region| region.within(case)).collect();
                    self.try_each();
                }
                None => break,
            }
        }
        None
    }

    /// Whether the open proposal is only to learn something, not to go on from.
    pub(super) fn is_question(&self) -> bool {
        matches!(self.agenda.front(), Some(Try { then: Then::Question, .. }))
    }

    /// Counts an execution of the open proposal.
    pub(super) fn count(&mut self) {
        self.executions += 1;
    }

    /// The answer for the open proposal; `case` is the one that failed before.
    pub(super) fn answer(&mut self, case: &Case, fails: bool) {
        let Some(Try { gone, then }) = self.agenda.pop_front() else { return };
        if fails && matches!(then, Then::Question) {
            self.agenda.clear();
            return;
        }
        if fails {
            self.kept.retain(|region| !gone.contains(region));
            self.smaller = true;
        }
        match (then, fails) {
            (Then::Question | Then::Go, _) | (Then::Bisect, true) => {}
            (Then::Bisect, false) => self.bisect(case, gone[0]),
            (Then::SecondHalf(first), true) => self.bisect(case, first),
            (Then::SecondHalf(first), false) => {
                self.agenda.push_front(Try { gone: vec![first], then: Then::FirstHalf(gone[0]) });
            }
            (Then::FirstHalf(second), true) => self.bisect(case, second),
            (Then::FirstHalf(second), false) => {
                self.bisect(case, gone[0]);
                self.bisect(case, second);
            }
        }
    }

    /// Tries to go without each region that is kept. V comes last: where few of its elements are left, less of the others matters.
    fn try_each(&mut self) {
        self.agenda.extend(self.kept.iter().map(|&region| Try { gone: vec![region], then: Then::Bisect }));
    }

    /// Has the halves of a region tried that can't go as a whole.
    fn bisect(&mut self, case: &Case, region: Region) {
        if self.kept.len() >= ENOUGH_REGIONS {
            return;
        }
        let Some((first, second)) = halves(case, region) else { return };
        self.kept.retain(|&other| other != region);
        self.kept.extend([first, second]);
        self.agenda.push_back(Try { gone: vec![second], then: Then::SecondHalf(first) });
    }
}

/// The halves of a region along its first axis that has two elements of the case.
fn halves(case: &Case, region: Region) -> Option<(Region, Region)> {
    let axes: &[Axis] = region.role().axes();
    let &axis = axes.iter().find(|&&axis| region.span(axis).count() > 1)?;
    let Span { first, last } = region.span(axis);
    let middle = first + (last - first) / 2;
    let half = |first, last| region.with(axis, Span { first, last }).within(case);
    match (half(first, middle), half(middle + 1, last)) {
        (Some(first), Some(second)) => Some((first, second)),
        // A half may be requests without tokens.
        (Some(one), None) | (None, Some(one)) => halves(case, one),
        (None, None) => None,
    }
}

/// The same elements of a case in fewer regions, where two differ in one axis only and meet there. Widened first, or two
/// requests of different lengths would differ in their tokens too.
fn merged(case: &Case, regions: Vec<Region>) -> Vec<Region> {
    let mut regions: Vec<Region> = regions.into_iter().map(|region| region.widened(case)).collect();
    regions.sort_unstable();
    let mut at = 0;
    while at < regions.len() {
        let other = (0..regions.len()).find_map(|i| Some((i, joined(regions[at], regions[i])?)));
        match other {
            Some((i, joined)) => {
                regions[at] = joined.widened(case);
                regions.remove(i);
                at = 0;
            }
            None => at += 1,
        }
    }
    regions
}

/// Two regions as one, if the second goes on where the first ends.
fn joined(first: Region, second: Region) -> Option<Region> {
    let axes = first.role().axes().iter();
    let mut apart = axes.filter(|&&axis| first.span(axis) != second.span(axis));
    let &axis = apart.next().filter(|_| first.role() == second.role())?;
    let meet = first.span(axis).last.checked_add(1) == Some(second.span(axis).first);
    let span = Span { first: first.span(axis).first, last: second.span(axis).last };
    (meet && apart.next().is_none()).then(|| first.with(axis, span))
}
