//! Finds a smaller number that still fails, for one number, when failing need not be monotone.
//!
//! First the smallest number of all; then bisection between a number that passed and the one that fails, which finds
//! *a* boundary; then single numbers that a boundary hides: the few smallest, multiples of 8 and their
//! neighbours, parts of the number, those just below it.
//! Every number that fails starts the bisection again from there.

/// Numbers from the smallest that are tried one by one.
const SMALLEST: u32 = 9;

/// A search below a failing number, told after each proposal whether that one fails too.
#[derive(Clone, Debug)]
pub(super) struct Descent {
    /// Fails.
    high: u32,
    /// What rank 0 stands for.
    offset: u32,
    effort: Effort,
    phase: Phase,
}

/// How many tries a search is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effort {
    /// Only whether the end of an earlier search is still the end: the smallest, half, one less.
    Check,
    /// Bisection alone.
    Bisect,
    /// Bisection, then single numbers.
    Full,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The smallest is being tried.
    Smallest,
    /// `low` passed; what is between is open.
    Bisect { low: u32 },
    /// These are left to try, last first.
    Single { rest: Vec<u32> },
}

impl Descent {
    /// A search below `high`, in ranks: 0 is the smallest, which stands for the number `offset`, 1 for the next.
    pub(super) fn new(high: u32, offset: u32, effort: Effort) -> Self {
        Self { high, offset, effort, phase: Phase::Smallest }
    }

    /// The next number to try, below the failing one; nothing when the search is over.
    pub(super) fn proposal(&mut self) -> Option<u32> {
        if self.high == 0 {
            return None;
        }
        loop {
            match &mut self.phase {
                Phase::Smallest => return Some(0),
                Phase::Bisect { low } if *low + 1 < self.high && self.effort != Effort::Check => {
                    return Some(*low + (self.high - *low) / 2);
                }
                Phase::Bisect { .. } => {
                    self.phase = Phase::Single {
                        rest: match self.effort {
                            Effort::Check => check(self.high),
                            Effort::Bisect => Vec::new(),
                            Effort::Full => singles(self.high, self.offset),
                        },
                    };
                }
                Phase::Single { rest } => {
                    return rest.last().copied();
                }
            }
        }
    }

    /// The answer for the last proposal, `tried`.
    pub(super) fn answer(&mut self, tried: u32, fails: bool) {
        if fails {
            self.high = tried;
            if self.effort == Effort::Check {
                // It is not: search again.
                self.effort = Effort::Full;
            }
        }
        match (&mut self.phase, fails) {
            (Phase::Smallest, _) => self.phase = Phase::Bisect { low: 0 },
            (Phase::Bisect { low }, false) => *low = tried,
            (Phase::Bisect { .. }, true) => {}
            (Phase::Single { rest }, false) => {
                rest.pop();
            }
            // The smaller ones of these are tried.
            (Phase::Single { rest }, true) if tried <= SMALLEST => rest.clear(),
            (Phase::Single { .. }, true) => self.phase = Phase::Bisect { low: 0 },
        }
    }
}

/// The ranks that tell soonest that `high` is no longer the end, last first.
fn check(high: u32) -> Vec<u32> {
    let mut order = vec![high - 1, high / 2];
    order.retain(|&n| n > 0);
    order.dedup();
    order
}

/// Ranks below `high` to try one by one, last first.
fn singles(high: u32, offset: u32) -> Vec<u32> {
    let rank = |n: u32| n.saturating_sub(offset);
    let smallest = 1..=SMALLEST;
    let vectors = (2..=16).map(|eights| rank(8 * eights));
    let parts = [2, 3, 4].map(|part| rank(high.saturating_add(offset) / part));
    let around = (4..10).flat_map(|bit| [0, 2, 1].map(|n| rank((1 << bit) - 1 + n)));
    let below = [8, 7, 6, 5, 4, 3, 2, 1].map(|less| high.saturating_sub(less));
    let all = smallest.chain(vectors).chain(parts).chain(around);
    let mut order: Vec<u32> = Vec::new();
    for n in all.chain(below) {
        if n > 0 && n < high && !order.contains(&n) {
            order.push(n);
        }
    }
    order.reverse();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a search from `start` ends, and how many numbers it tried.
    fn search(start: u32, fails: impl Fn(u32) -> bool) -> (u32, u32) {
        let mut descent = Descent::new(start, 0, Effort::Full);
        let mut tries = 0;
        while let Some(n) = descent.proposal() {
            assert!(n < descent.high);
            tries += 1;
            descent.answer(n, fails(n));
        }
        (descent.high, tries)
    }

    #[test]
    fn a_threshold_is_found_by_bisection() {
        let (end, tries) = search(60_000, |n| n >= 12_345);
        assert_eq!(end, 12_345);
        assert!(tries < 80, "{tries}");
    }

    #[test]
    fn a_boundary_may_hide_a_smaller_failure() {
        for start in [7, 11, 131, 4095, 65_539] {
            assert_eq!(search(start, |n| n % 4 == 3).0, 3);
        }
        assert_eq!(search(31, |n| n > 0 && !n.is_power_of_two()).0, 3);
    }
}
