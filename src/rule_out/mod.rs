//! Is this kernel the culprit? The question of someone whose model is wrong and who suspects its attention.
//!
//! [`SUSPECTS`] are the things an attention kernel gets wrong, one by one. Each is tried with cases of its own, in which
//! the others are as calm as the kernel lets them be. What fails is shrunk, and blamed by experiment: a suspect is blamed
//! if the minimal case agrees once that suspect alone is calmed.
//!
//! [`rule_out`] says for each suspect which cases ran, over which space, how close to their bounds they came, and, in
//! words, what none of this covers.

mod blame;
mod limits;
mod run;
mod suspect;

pub use run::rule_out;
pub use suspect::{SUSPECTS, Suspect, suspects};

use crate::backend::Kernel;
use crate::campaign::{Found, RelationCount, Statistic};
use crate::case::{Domain, Range, Relation};
use crate::oracle::Examiner;
use crate::regression::Store;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Cases that could have shown a suspect, all of which must agree before it is ruled out: with fewer, a fault that shows in
/// one case of ten would be missed more often than once in twenty times (0.9^29 < 0.05).
pub const NEEDED: u64 = 29;

/// Which kernel, where, and for how long.
#[derive(Clone)]
pub struct Config {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// The device.
    pub backend: Arc<dyn Examiner>,
    /// Heads and dims to keep to; absent: every one that the kernel claims.
    pub heads: Option<Heads>,
    /// Cases of each suspect; absent: until its share of the time is up.
    pub cases: Option<u64>,
    /// Wall-clock limit of it all, without shrinking.
    pub time: Option<Duration>,
    /// Which cases.
    pub seed: u64,
    /// Threads.
    pub jobs: usize,
    /// Executions a finding may be shrunk with.
    pub max_shrink: u32,
    /// Where findings are saved; absent: nowhere.
    pub store: Option<Store>,
}

/// Heads and dims of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub num_q_heads: u32,
    /// KV heads, of which `num_q_heads` is a multiple.
    pub num_kv_heads: u32,
    /// Elements of a query or key row.
    pub head_dim: u32,
    /// Elements of a value row.
    pub v_head_dim: u32,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the kernel.
    pub kernel: String,
    /// Description of the device.
    pub device: String,
    /// One for each suspect, in order.
    pub accounts: Vec<Account>,
    /// What nothing here covers, in words.
    pub limits: Vec<String>,
    /// Cases on which this program went wrong, with what it said.
    pub internal_errors: Vec<(String, String)>,
    /// Why the device could not be used any more.
    pub ended_early: Option<String>,
    /// Wall-clock time.
    pub elapsed: Duration,
}

/// What is known of one suspect.
#[derive(Clone, Debug)]
pub struct Account {
    /// The suspect's name.
    pub suspect: &'static str,
    /// What it is.
    pub what: &'static str,
    /// What its cases have in common.
    pub tried_with: &'static str,
    /// What is to be said of it.
    pub standing: Standing,
    /// What its own cases were like.
    pub statistic: Statistic,
    /// Judged cases of its own in which it has a part, so that they could have shown it.
    pub telling: u64,
    /// Cases not judged, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Largest error over bound of an agreeing case.
    pub worst_ratio: f64,
    /// The case it came from, in one line.
    pub worst_case: Option<String>,
    /// What came of the relations that its cases asked for.
    pub relations: BTreeMap<Relation, RelationCount>,
    /// Findings that its cases led to, whoever is to blame.
    pub found: Vec<Found>,
}

/// What is to be said of a suspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every case agreed, and they are at least [`NEEDED`] that could have shown it.
    RuledOut,
    /// Every case agreed, but only so many could have shown it.
    TooLittle(u64),
    /// The kernel has no such thing, for this reason.
    NotClaimed(&'static str),
    /// A minimal case fails that would not without it. The line of each such case.
    Guilty(Vec<String>),
    /// Cases of its own fail, but for what these other suspects do.
    Open(Vec<&'static str>),
    /// None of its cases could be judged.
    NotRun(String),
}

impl Report {
    /// Whether the kernel is wrong.
    pub fn is_guilty(&self) -> bool {
        self.accounts.iter().any(|account| !account.found.is_empty())
    }

    /// Cases judged.
    pub fn cases(&self) -> u64 {
        self.accounts.iter().map(|account| account.statistic.cases).sum()
    }

    /// Whether enough is known of every suspect that the kernel has.
    pub fn is_complete(&self) -> bool {
        let lacks = |standing: &Standing| matches!(standing, Standing::NotRun(_) | Standing::TooLittle(_));
        self.ended_early.is_none() && !self.accounts.iter().any(|account| lacks(&account.standing))
    }
}

impl Heads {
    /// `domain` with these heads and dims only.
    ///
    /// # Errors
    /// The kernel does not claim them.
    pub fn restrict(&self, domain: &Domain) -> Result<Domain, String> {
        let q_per_kv = self.num_q_heads / self.num_kv_heads;
        let one = |n: u32| Range::Span(n, n);
        let claims = |name: &str, n: u32, range: &Range| {
            range.contains(n).then_some(()).ok_or_else(|| format!("{name} is {n}, the kernel claims {range}"))
        };
        claims("num_kv_heads", self.num_kv_heads, &domain.num_kv_heads)?;
        claims("q_per_kv", q_per_kv, &domain.q_per_kv)?;
        claims("head_dim", self.head_dim, &domain.head_dim)?;
        let same = one(self.head_dim);
        claims("v_head_dim", self.v_head_dim, domain.v_head_dim.as_ref().unwrap_or(&same))?;
        Ok(Domain {
            num_kv_heads: one(self.num_kv_heads),
            q_per_kv: one(q_per_kv),
            head_dim: one(self.head_dim),
            v_head_dim: domain.v_head_dim.is_some().then(|| one(self.v_head_dim)),
            ..domain.clone()
        })
    }
}

impl FromStr for Heads {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("expected Q_HEADS:KV_HEADS:HEAD_DIM[:V_HEAD_DIM] such as 28:4:128, found {s:?}");
        let numbers: Vec<u32> = s.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let (num_q_heads, num_kv_heads, head_dim, v_head_dim) = match numbers[..] {
            [q, kv, dim] => (q, kv, dim, dim),
            [q, kv, dim, v_dim] => (q, kv, dim, v_dim),
            _ => return Err(wrong()),
        };
        if num_kv_heads == 0 || num_q_heads == 0 || !num_q_heads.is_multiple_of(num_kv_heads) {
            return Err(format!(
                "expected query heads that are a multiple of the KV heads, found {num_q_heads} over {num_kv_heads}"
            ));
        }
        Ok(Self { num_q_heads, num_kv_heads, head_dim, v_head_dim })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RuledOut => f.write_str("ruled out"),
            Self::TooLittle(telling) => {
                write!(f, "not ruled out: too little ran, {telling} of at least {NEEDED} cases that could show it")
            }
            Self::NotClaimed(why) => write!(f, "not claimed: {why}"),
            Self::Guilty(_) => f.write_str("guilty"),
            Self::Open(others) => write!(f, "open: its failures need {}", others.join(" and ")),
            Self::NotRun(why) => write!(f, "not run: {why}"),
        }
    }
}
