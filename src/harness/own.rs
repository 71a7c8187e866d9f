//! A kernel of the caller's own, in a test of theirs: a closure under test, and one call that replays, searches, shrinks
//! and saves.

use super::{Failure, Harness};
use crate::backend::closure::{Closure, Inputs, Outputs};
use crate::backend::{Claim, Emulator, Kernel, OpenError};
use crate::case::Case;
use crate::regression::Store;
use std::path::PathBuf;

/// How long [`Harness::test`] searches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Cases that must agree; 256 unless `ATTNFUZZ_CASES` says otherwise.
    pub cases: u64,
    /// Which cases; 0 unless `ATTNFUZZ_SEED` says otherwise.
    pub seed: u64,
}

impl Settings {
    /// So many cases of seed 0.
    pub fn cases(cases: u64) -> Self {
        Self { cases, seed: 0 }
    }

    /// What the environment says: `ATTNFUZZ_CASES` and `ATTNFUZZ_SEED`.
    ///
    /// # Errors
    /// One of them is no number.
    pub fn from_env() -> Result<Self, String> {
        let number = |name: &str, default: u64| match super::variable(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name}: expected a number of at least 0, found {text:?}")),
        };
        Ok(Self { cases: number("ATTNFUZZ_CASES", 256)?, seed: number("ATTNFUZZ_SEED", 0)? })
    }
}

impl Harness {
    /// A closure as the subject: it is called for each step of a case, with the tensors of that step, and gives what its
    /// kernel made of them.
    ///
    /// Whatever it runs is judged: a launcher of yours on a GPU, a library, a kernel for another API. Its panics are findings,
    /// and so is an output of the wrong size. A panic is told with the finding and not on the terminal, for which a panic hook
    /// is set once that leaves all others to the hook that was there. `name` is best the name of the test: findings are saved
    /// under it. Findings are not saved unless [`saving_below`](Self::saving_below) says where.
    ///
    /// ```
    /// use attnfuzz::case::{Case, Domain};
    /// use attnfuzz::harness::{Harness, Inputs, Outputs, Settings};
    ///
    /// /// Stands for your launcher: attention of one query token per request over the cache. Query head `h` has the
    /// /// keys and values of KV head `kv_head(h)`.
    /// fn decode(case: &Case, inputs: &Inputs, kv_head: impl Fn(u32) -> u32) -> Outputs {
    ///     let [q, k, v] = [&inputs.q, &inputs.k_cache, &inputs.v_cache].map(|tensor| tensor.as_slice::<f32>());
    ///     let dim = case.shape.head_dim as usize;
    ///     let mut out = Vec::new();
    ///     for (request, &past_len) in (0..).zip(&inputs.past_len) {
    ///         for head in 0..case.shape.num_q_heads() {
    ///             let q = &q[out.len()..][..dim];
    ///             let row = |token| inputs.k_layout.offset(request, kv_head(head), token);
    ///             let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
    ///             let tokens = 0..past_len as u32;
    ///             let logits: Vec<f32> = tokens.map(|token| inputs.scale * dot(&k[row(token)..][..dim])).collect();
    ///             let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    ///             let weights: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    ///             let sum: f32 = weights.iter().sum();
    ///             out.extend((0..dim).map(|i| {
    ///                 (0..).zip(&weights).map(|(token, weight)| weight * v[row(token) + i]).sum::<f32>() / sum
    ///             }));
    ///         }
    ///     }
    ///     Outputs::new(out)
    /// }
    ///
    /// let domain = Domain {
    ///     head_dim: [16, 64].into(),
    ///     q_per_kv: (1..=8).into(),
    ///     past_len: (1..=128).into(),
    ///     append: false,
    ///     ..Domain::default()
    /// };
    /// let right = Harness::of_closure("decode", domain.clone(), |case, inputs| {
    ///     decode(case, &inputs, |head| head / case.shape.q_per_kv)
    /// })?;
    /// right.test(&Settings::cases(64))?;
    ///
    /// // The group size rounded up to a power of two, as llama.cpp once had it.
    /// let folder = tempfile::tempdir()?;
    /// let wrong = Harness::of_closure("decode_wrong", domain, |case, inputs| {
    ///     decode(case, &inputs, |head| head / case.shape.q_per_kv.next_power_of_two())
    /// })?
    /// .saving_below(folder.path());
    /// let report = wrong.test(&Settings::cases(64)).unwrap_err();
    /// // Shrunk: two KV heads of three query heads each, the fourth of which takes the wrong one.
    /// assert!(report.contains("kv=2 g=3 d=16 past=1 "), "{report}");
    /// assert_eq!(std::fs::read_dir(folder.path().join("cases/decode_wrong"))?.count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The name is no folder's, the domain is empty, or the contract is none.
    pub fn of_closure(
        name: &str,
        claim: impl Into<Claim>,
        subject: impl Fn(&Case, Inputs) -> Outputs + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let kernel = Kernel::without_code(name, claim.into())?;
        Ok(Self { kernel, backend: Box::new(Closure(subject)), store: None })
    }

    /// A kernel that is open already, on the emulator. Findings are not saved.
    pub fn of_kernel(kernel: Kernel) -> Self {
        Self { kernel, backend: Box::new(Emulator), store: None }
    }

    /// The same, with findings saved below `root`, such as `proptest-regressions` beside a crate's `Cargo.toml`.
    #[must_use]
    pub fn saving_below(self, root: impl Into<PathBuf>) -> Self {
        Self { store: Some(Store::new(root)), ..self }
    }

    /// All there is to a test of a kernel: its saved findings must stay fixed, and so many new cases must agree. The first
    /// that doesn't is shrunk and saved.
    ///
    /// # Errors
    /// The whole report, ready to print. A case that can't be run is an error too: nothing that was not judged may read as
    /// a pass.
    pub fn test(&self, settings: &Settings) -> Result<(), String> {
        if let Some(store) = &self.store {
            self.replay_from(store)?;
        }
        (0..settings.cases).try_for_each(|index| {
            let case = self.kernel.space().case_at(settings.seed, index);
            self.check_on(&*self.backend, &case).map_err(|failure| match failure {
                Failure::Report(report) => format!("case {index} of seed {}:\n{report}", settings.seed),
                other => other.to_string(),
            })
        })
    }
}

/// A test of a closure: `test_kernel!(NAME, CLAIM, CLOSURE)`.
///
/// `CLAIM` is a [`Domain`](crate::case::Domain) or a [`Claim`](crate::backend::Claim), `CLOSURE` what
/// [`Harness::of_closure`](crate::harness::Harness::of_closure) takes. Findings are saved in `proptest-regressions` beside the
/// `Cargo.toml` of the crate that has the test, and run first from then on. [`Settings::from_env`](crate::harness::Settings::from_env)
/// says how many cases run.
///
/// ```
/// use attnfuzz::case::{Case, Domain};
/// use attnfuzz::harness::{Inputs, Outputs};
///
/// fn decode_on_my_gpu(case: &Case, inputs: Inputs) -> Outputs {
///     // Copy to the device, launch, copy back.
///     # Outputs::new(inputs.out)
/// }
///
/// attnfuzz::test_kernel!(my_decode, Domain { append: false, ..Domain::default() }, decode_on_my_gpu);
/// ```
#[macro_export]
macro_rules! test_kernel {
    ($(#[$attribute:meta])* $name:ident, $claim:expr, $subject:expr $(,)?) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions");
            let harness = $crate::harness::Harness::of_closure(stringify!($name), $claim, $subject);
            let tested = harness.map_err(|error| error.to_string()).and_then(|harness| {
                harness.saving_below(root).test(&$crate::harness::Settings::from_env()?)
            });
            if let Err(report) = tested {
                panic!("{report}");
            }
        }
    };
}
