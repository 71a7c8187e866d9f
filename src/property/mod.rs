//! proptest's door: a strategy whose values are drawn by [`generate`](crate::generate) and made smaller by
//! [`shrink`](crate::shrink).
//!
//! All of proptest's own knobs stay in force: it supplies the randomness, decides how many cases run, how long to shrink
//! and where to save. Its saved seeds stand for other cases after a change of the generator, so findings worth keeping are
//! kept as cases.

use crate::case::{Case, Domain};
use crate::generate::{EmptyDomain, Space};
use crate::shrink::Shrinker;
use proptest::arbitrary::any;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Cases of `domain` as a proptest strategy, or why there are none.
///
/// ```
/// use attnfuzz::case::{CacheOrder, Domain, Range};
/// use attnfuzz::float::Dtype;
/// use attnfuzz::property::cases;
/// use proptest::test_runner::TestRunner;
///
/// let domain = Domain {
///     dtype: vec![Dtype::F16],
///     head_dim: Range::List(vec![64, 128]),
///     v_head_dim: None,
///     num_kv_heads: Range::Span(1, 8),
///     q_per_kv: Range::Span(1, 16),
///     batch: Range::Span(1, 4),
///     q_len: Range::Span(1, 1),
///     past_len: Range::Span(0, 4095),
///     steps: Range::Span(1, 1),
///     cache: vec![CacheOrder::Nhd],
///     row_pad: Range::Span(0, 0),
///     any_scale: false,
///     ..Domain::default()
/// };
/// TestRunner::default()
///     .run(&cases(&domain)?, |case| {
///         assert!(domain.excludes(&case).is_none());
///         Ok(())
///     })
///     .unwrap();
/// # Ok::<(), attnfuzz::generate::EmptyDomain>(())
/// ```
pub fn cases(domain: &Domain) -> Result<Cases, EmptyDomain> {
    Space::new(domain).map(Cases::of)
}

/// See [`cases`].
#[derive(Clone, Debug)]
pub struct Cases {
    space: Space,
}

impl Cases {
    /// The cases of a space, within its budget.
    pub fn of(space: Space) -> Self {
        Self { space }
    }
}

impl Strategy for Cases {
    type Tree = CaseTree;
    type Value = Case;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let seed = any::<[u8; 32]>().new_tree(runner)?.current();
        let start = self.space.draw(&mut ChaCha8Rng::from_seed(seed));
        Ok(CaseTree { shrinker: Shrinker::new(start, self.space.domain().clone()) })
    }
}

/// A drawn case and the simpler ones a failure leads to.
#[derive(Clone, Debug)]
pub struct CaseTree {
    shrinker: Shrinker,
}

impl ValueTree for CaseTree {
    type Value = Case;

    fn current(&self) -> Case {
        let open = self.shrinker.open();
        open.unwrap_or(self.shrinker.best()).clone()
    }

    /// The current case fails.
    ///
    /// The search may learn something from a failure and yet keep the case it had ([`Shrinker::accept`]). If it ends with
    /// that, the kept case becomes current again and counts as a change, for proptest tells how the last one failed.
    fn simplify(&mut self) -> bool {
        let failed = self.current();
        self.shrinker.accept();
        self.shrinker.propose().is_some() || *self.shrinker.best() != failed
    }

    /// The current case does not fail.
    ///
    /// When nothing is left to try, the simplest failing case becomes current again, and that counts as a change: proptest
    /// runs it once more and then goes on to the other components of a composite strategy.
    fn complicate(&mut self) -> bool {
        let changes = self.shrinker.open().is_some();
        if changes {
            self.shrinker.reject();
            self.shrinker.propose();
        }
        changes
    }
}
