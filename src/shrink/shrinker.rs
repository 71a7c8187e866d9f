//! The search, step by step.

use super::descent::{Descent, Effort};
use super::knob::Knob;
use super::moves::Move;
use super::order::{Complexity, complexity};
use super::reduction::Reduction;
use crate::case::{Case, Domain, Only, Range};
use std::collections::{HashMap, HashSet, VecDeque};

/// A search for a simpler failing case that waits for each answer.
///
/// ```
/// # use attnfuzz::{case::{CacheOrder, Case, Domain, Range}, float::Dtype, shrink::Shrinker};
/// # let domain = Domain { dtype: Dtype::ALL.to_vec(), head_dim: Range::Span(1, 256), v_head_dim: None,
/// #     num_kv_heads: Range::Span(1, 8), q_per_kv: Range::Span(1, 64), batch: Range::Span(1, 4),
/// #     q_len: Range::Span(1, 1), past_len: Range::Span(0, 4096), steps: Range::Span(1, 4),
/// #     cache: vec![CacheOrder::Hnd, CacheOrder::Nhd], row_pad: Range::Span(0, 16), any_scale: true,
/// #     ..Domain::default() };
/// let start: Case = "kv=4 g=28 d=128 past=9,33 dtype=f16 cache=nhd:40 scale=0.088388346 values=normal:42".parse()?;
/// let mut shrinker = Shrinker::new(start, domain);
/// while let Some(case) = shrinker.propose() {
///     if case.shape.q_per_kv > 6 { shrinker.accept() } else { shrinker.reject() }
/// }
/// assert_eq!(shrinker.best().to_string(), "kv=1 g=7 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
/// # Ok::<(), attnfuzz::case::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Shrinker {
    domain: Domain,
    best: Case,
    least: Complexity,
    /// One-line forms of everything proposed.
    tried: HashSet<String>,
    /// Where the last search of each knob ended.
    ends: HashMap<Knob, u32>,
    /// Passes left of this round.
    agenda: VecDeque<Pass>,
    current: Current,
    /// Proposed and not yet answered.
    open: Option<Case>,
    /// Whether this round found something.
    improved: bool,
    /// What became of the values since a round found something.
    values: Values,
}

/// How far the search for few elements is: it comes when the rounds find nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Values {
    Untouched,
    /// Nothing could be made 0, or what could be has been looked at.
    Done,
    /// Fewer elements are left than before: a last look at all else.
    Fewer,
}

/// One way to look for simpler cases.
#[derive(Clone, Copy, Debug)]
enum Pass {
    List(Move),
    /// A knob at its lowest, once.
    Lowest(Knob),
    /// A knob turned down as far as it goes.
    Down(Knob),
    /// Elements made 0.
    Values,
}

/// The pass under way.
#[derive(Clone, Debug)]
enum Current {
    Nothing,
    List {
        kind: Move,
        /// Last first.
        rest: Vec<Case>,
    },
    Lowest,
    Down {
        knob: Knob,
        range: Range,
        descent: Descent,
        /// The open proposal.
        rank: u32,
    },
    Values(Reduction),
}

impl Shrinker {
    /// A search in `domain` from `start`, which fails.
    pub fn new(start: Case, domain: Domain) -> Self {
        let agenda = first_round(&start);
        Self {
            domain,
            least: complexity(&start),
            tried: HashSet::from([start.to_string()]),
            best: start,
            ends: HashMap::new(),
            agenda,
            current: Current::Nothing,
            open: None,
            improved: false,
            values: Values::Untouched,
        }
    }

    /// The simplest case known to fail.
    pub fn best(&self) -> &Case {
        &self.best
    }

    /// The simplest case known to fail.
    pub fn into_best(self) -> Case {
        self.best
    }

    /// The proposal that waits for an answer.
    pub fn open(&self) -> Option<&Case> {
        self.open.as_ref()
    }

    /// The next case to try, or nothing if the search is over. A proposal not answered counts as rejected.
    pub fn propose(&mut self) -> Option<Case> {
        if self.open.is_some() {
            self.reject();
        }
        loop {
            let candidate = match &mut self.current {
                Current::Nothing | Current::Lowest => {
                    let pass = self.next_pass()?;
                    self.start(pass)
                }
                Current::List { rest, .. } => {
                    let candidate = rest.pop();
                    if candidate.is_none() {
                        self.current = Current::Nothing;
                    }
                    candidate
                }
                Current::Down { knob, range, descent, rank } => match descent.proposal() {
                    None => {
                        self.ends.insert(*knob, knob.of(&self.best));
                        self.current = Current::Nothing;
                        None
                    }
                    Some(proposal) => {
                        *rank = proposal;
                        let number = range.nth(proposal);
                        let candidate = number.and_then(|n| knob.turned(&self.best, n)).map(|case| trimmed(&case));
                        if candidate.as_ref().is_none_or(|c| !self.is_new(c)) {
                            self.answer(false);
                            None
                        } else {
                            candidate
                        }
                    }
                },
                Current::Values(reduction) => match reduction.proposal(&self.best) {
                    None => {
                        self.current = Current::Nothing;
                        None
                    }
                    Some(only) => {
                        let candidate = self.best.with(|parts| parts.only = Some(only)).ok();
                        if candidate.as_ref().is_none_or(|c| !self.is_new(c)) {
                            self.answer(false);
                            None
                        } else {
                            candidate
                        }
                    }
                },
            };
            if let Some(case) = candidate.map(|case| trimmed(&case)).filter(|c| self.is_new(c)) {
                if let Current::Values(reduction) = &mut self.current {
                    reduction.count();
                }
                self.tried.insert(case.to_string());
                self.open = Some(case.clone());
                return Some(case);
            }
        }
    }

    /// The open proposal fails too: the search goes on from it. Only where it fails with every element 0 the best case keeps all
    /// its values.
    pub fn accept(&mut self) {
        let Some(case) = self.open.take() else {
            return;
        };
        if let Current::Values(reduction) = &self.current {
            if reduction.is_question() {
                self.answer(true);
                return;
            }
            self.values = Values::Fewer;
        } else {
            self.improved = true;
            self.values = Values::Untouched;
        }
        self.least = complexity(&case);
        self.best = case;
        self.answer(true);
        if let Current::List { kind, rest } = &mut self.current {
            *rest = kind.candidates(&self.best, &self.domain);
            rest.reverse();
        }
    }

    /// The open proposal does not fail.
    pub fn reject(&mut self) {
        if self.open.take().is_some() {
            self.answer(false);
        }
    }

    fn answer(&mut self, fails: bool) {
        match &mut self.current {
            Current::Down { descent, rank, .. } => descent.answer(*rank, fails),
            Current::Values(reduction) => reduction.answer(&self.best, fails),
            Current::Nothing | Current::Lowest | Current::List { .. } => {}
        }
    }

    /// Whether a candidate is worth an execution.
    fn is_new(&self, case: &Case) -> bool {
        complexity(case) < self.least && self.domain.excludes(case).is_none() && !self.tried.contains(&case.to_string())
    }

    fn next_pass(&mut self) -> Option<Pass> {
        if self.agenda.is_empty() {
            if std::mem::take(&mut self.improved) {
                self.agenda = round(&self.best);
            } else if self.values == Values::Untouched {
                self.values = Values::Done;
                self.agenda.push_back(Pass::Values);
            } else if self.values == Values::Fewer {
                self.values = Values::Done;
                self.agenda = last_round(&self.best);
            }
        }
        self.agenda.pop_front()
    }

    /// Starts a pass; a pass of one candidate gives that at once.
    fn start(&mut self, pass: Pass) -> Option<Case> {
        self.current = Current::Nothing;
        match pass {
            Pass::List(kind) => {
                let mut rest = kind.candidates(&self.best, &self.domain);
                rest.reverse();
                self.current = Current::List { kind, rest };
                None
            }
            Pass::Values => {
                self.current = Current::Values(Reduction::new(&self.best));
                None
            }
            Pass::Lowest(knob) => {
                self.current = Current::Lowest;
                let lowest = knob.range(&self.domain).low();
                knob.is_in(&self.best).then(|| knob.turned(&self.best, lowest)).flatten()
            }
            Pass::Down(knob) => {
                if knob.is_in(&self.best) {
                    let range = knob.range(&self.domain);
                    let offset = match &range {
                        Range::Span(low, _) => *low,
                        Range::List(_) => 0,
                    };
                    let number = knob.of(&self.best);
                    let effort = if self.ends.get(&knob) == Some(&number) { Effort::Check } else { knob.effort() };
                    self.current = Current::Down {
                        descent: Descent::new(range.rank(number), offset, effort),
                        knob,
                        range,
                        rank: 0,
                    };
                }
                None
            }
        }
    }
}

/// Big steps that often succeed, before anything that takes many tries.
fn first_round(case: &Case) -> VecDeque<Pass> {
    let big = [Move::Drop, Move::Plain].map(Pass::List);
    let knobs = Knob::all(case).into_iter().map(Pass::Lowest);
    big.into_iter().chain(knobs).chain(round(case)).collect()
}

fn round(case: &Case) -> VecDeque<Pass> {
    let shape = Move::OF_SHAPE.map(Pass::List);
    let knobs = Knob::all(case).into_iter().map(Pass::Down);
    let decoration = Move::OF_DECORATION.map(Pass::List);
    shape.into_iter().chain(knobs).chain(decoration).collect()
}

/// What may have become possible when few elements are left, cheaply.
fn last_round(case: &Case) -> VecDeque<Pass> {
    let moves = [Move::Drop, Move::Recipe, Move::ValueSeed].map(Pass::List);
    let knobs = Knob::all(case).into_iter().map(Pass::Lowest);
    moves.into_iter().chain(knobs).collect()
}

/// A case without the names of elements that it doesn't have. A case derived from another has that one's elements.
fn trimmed(case: &Case) -> Case {
    let Some(only) = case.only.as_ref().filter(|_| case.view.is_none()) else { return case.clone() };
    let kept = only.regions().iter().filter_map(|region| Some(region.within(case)?.widened(case))).collect();
    let kept = Only::new(kept).filter(|kept| kept != only);
    kept.and_then(|kept| case.with(|parts| parts.only = Some(kept)).ok()).unwrap_or_else(|| case.clone())
}
