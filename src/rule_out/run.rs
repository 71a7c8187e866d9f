//! The suspects, one after another.

use super::blame::{Blame, blame};
use super::suspect::{Mark, SUSPECTS, Suspect};
use super::{Account, Config, NEEDED, Report, Standing, limits::limits};
use crate::backend::BackendError;
use crate::backend::manifest::Manifest;
use crate::campaign::{Found, Statistic, minimise};
use crate::case::Case;
use crate::generate::{DEFAULT_BUDGET, EmptyDomain, Space, cost};
use crate::oracle::{Examined, Signature, Verdict};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Cases of each thread that are examined before any of them is looked at.
const AT_ONCE: u64 = 2;
/// Failures of a suspect's cases that others are blamed for, after which the rest would tell nothing new.
const MAX_EXPLAINED: usize = 3;

/// Tries every suspect and tells `sink` of each account once its cases have run; who is blamed may still change by what
/// comes later, so the last word is the report's.
///
/// With a number of cases the report depends on the seed only, not on threads.
///
/// # Errors
/// The kernel claims no case with these heads.
pub fn rule_out(config: &Config, sink: &mut dyn FnMut(&Account)) -> Result<Report, EmptyDomain> {
    let start = Instant::now();
    let domain = &config.kernel.manifest.domain;
    let heads = config.heads.as_ref();
    let domain = heads.and_then(|heads| heads.restrict(domain).ok()).unwrap_or_else(|| domain.clone());
    let space = Space::new(&domain)?;
    let mut inquiry = Inquiry {
        config,
        manifest: Manifest { domain, ..config.kernel.manifest.clone() },
        space,
        start,
        shrinking: Duration::ZERO,
        failures: Vec::new(),
        internal_errors: Vec::new(),
        ended_early: None,
    };
    let threads = rayon::ThreadPoolBuilder::new().num_threads(config.jobs.max(1)).build();
    let mut accounts = Vec::with_capacity(SUSPECTS.len());
    for (index, suspect) in SUSPECTS.iter().enumerate() {
        let account = match &threads {
            Ok(threads) => threads.install(|| inquiry.account(index, suspect)),
            // Without threads of its own, on those of the whole program.
            Err(_) => inquiry.account(index, suspect),
        };
        sink(&account);
        accounts.push(account);
    }
    let mut guilty = inquiry.guilty();
    let names: Vec<&'static str> = guilty.keys().copied().collect();
    for account in &mut accounts {
        if let Some(lines) = guilty.remove(account.suspect) {
            account.standing = Standing::Guilty(lines);
        } else if inquiry.blames(account.suspect) {
            account.standing = Standing::Open(names.clone());
        }
    }
    let met: Vec<&Statistic> = accounts.iter().map(|account| &account.statistic).collect();
    Ok(Report {
        kernel: config.kernel.name().to_owned(),
        device: config.backend.describe(),
        limits: limits(config, &met),
        internal_errors: inquiry.internal_errors,
        ended_early: inquiry.ended_early,
        elapsed: start.elapsed(),
        accounts,
    })
}

struct Inquiry<'a> {
    config: &'a Config,
    /// The kernel's, with those of its claims only that are asked about.
    manifest: Manifest,
    space: Space,
    start: Instant,
    /// Time that shrinking and blaming took, which no suspect's share pays for.
    shrinking: Duration,
    /// Of each finding, its minimal case, signature and who is blamed.
    failures: Vec<(Case, Signature, Blame)>,
    internal_errors: Vec<(String, String)>,
    /// Why no more can be run.
    ended_early: Option<String>,
}

impl Inquiry<'_> {
    /// Whether a failure is blamed on a suspect, if only for what may come of others.
    fn blames(&self, suspect: &str) -> bool {
        self.failures.iter().any(|(_, _, blame)| blame.names.contains(&suspect))
    }

    /// The lines of the minimal cases that each suspect is blamed for, but for those that come of other failures.
    fn guilty(&self) -> BTreeMap<&'static str, Vec<String>> {
        let mut guilty: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (case, signature, blame) in &self.failures {
            let others = self.failures.iter().map(|(_, other, _)| other);
            if !blame.is_symptom(signature, others) {
                blame.names.iter().for_each(|name| guilty.entry(*name).or_default().push(case.to_string()));
            }
        }
        guilty
    }

    fn account(&mut self, index: usize, suspect: &'static Suspect) -> Account {
        let mut account = Account {
            suspect: suspect.name,
            what: suspect.what,
            tried_with: suspect.tried_with,
            standing: Standing::RuledOut,
            statistic: Statistic::default(),
            telling: 0,
            skipped: BTreeMap::new(),
            worst_ratio: 0.0,
            worst_case: None,
            relations: BTreeMap::new(),
            found: Vec::new(),
        };
        if let Some(why) = (suspect.unclaimed)(&self.manifest) {
            account.standing = Standing::NotClaimed(why);
            return account;
        }
        let explained = self.try_cases(index, suspect, &mut account);
        if !explained.is_empty() {
            account.standing = Standing::Open(explained);
        } else if account.telling < NEEDED {
            let most = account.skipped.iter().max_by_key(|(_, count)| **count).map(|(why, _)| why.clone());
            let why = self.ended_early.clone().or(most).filter(|_| account.statistic.cases == 0);
            account.standing = why.map_or(Standing::TooLittle(account.telling), Standing::NotRun);
        }
        account
    }

    /// Runs cases of a suspect; gives those who are blamed for failures, if it is not blamed itself.
    fn try_cases(&mut self, index: usize, suspect: &'static Suspect, account: &mut Account) -> Vec<&'static str> {
        let deadline = self.config.time.map(|time| {
            let spent = self.start.elapsed().saturating_sub(self.shrinking);
            Instant::now() + time.saturating_sub(spent) / (SUSPECTS.len() - index) as u32
        });
        let mut others = Vec::new();
        let mut explained = 0;
        let mut next = 0;
        while self.ended_early.is_none()
            && self.config.cases.is_none_or(|cases| next < cases)
            && deadline.is_none_or(|deadline| Instant::now() < deadline)
        {
            let end = next + AT_ONCE * self.config.jobs.max(1) as u64;
            let end = self.config.cases.map_or(end, |cases| cases.min(end));
            let (kernel, backend) = (&self.config.kernel, &self.config.backend);
            let results: Vec<_> = (next..end)
                .into_par_iter()
                .map(|n| {
                    let case = self.case(suspect, n);
                    let examined = backend.examine(kernel, &case).map(|e| Examined { output: None, ..e });
                    (n, case, examined)
                })
                .collect();
            next = end;
            for (n, case, examined) in results {
                let Some((failing, verdict)) = self.count(suspect, account, case, examined) else { continue };
                let blamed = self.failing(suspect, n, &failing, &verdict, account);
                explained += 1;
                let own = blamed.contains(&suspect.name);
                others.extend(blamed);
                if own || !account.found.is_empty() || explained >= MAX_EXPLAINED {
                    others.sort_unstable();
                    others.dedup();
                    return if own { Vec::new() } else { others };
                }
            }
        }
        others.sort_unstable();
        others.dedup();
        others
    }

    /// The `n`-th case of a suspect: one of the kernel's, in which others are calm.
    fn case(&self, suspect: &Suspect, n: u64) -> Case {
        let domain = self.space.domain();
        // Suspects get cases of their own.
        let salt = crate::case::codec::fnv1a(suspect.name.as_bytes());
        let mut parts = self.space.case_at(self.config.seed ^ salt, n).into_parts();
        parts.relation = None;
        if matches!(suspect.mark, Mark::Fields(_) | Mark::Values) {
            for other in SUSPECTS.iter().filter(|other| other.name != suspect.name) {
                if let Mark::Fields([calm, ..]) = other.mark {
                    calm(&mut parts, domain);
                }
            }
        }
        (suspect.aim)(&mut parts, domain, n as u32);
        // Every recipe meets every relation.
        let recipes = suspect.recipes.len().max(1) as u64;
        if let Some(&recipe) = suspect.recipes.get((n % recipes) as usize) {
            parts.values.recipe = recipe;
        }
        let relations = suspect.relations.len() as u64 + 1;
        parts.relation = suspect.relations.get(((n + n / recipes) % relations) as usize).copied();
        let spare = parts.cache.capacity.saturating_sub(parts.needed_capacity());
        while cost(&parts) > DEFAULT_BUDGET && parts.shape.requests.iter().any(|r| r.past_len > 1 || r.q_len > 1) {
            for request in &mut parts.shape.requests {
                request.past_len /= 2;
                request.q_len = request.q_len.div_ceil(2);
            }
        }
        parts.cache.capacity = parts.needed_capacity().saturating_add(spare);
        self.space.legalize(parts)
    }

    /// Adds a result to an account; gives the case and the verdict if it is a failure.
    fn count(
        &mut self,
        suspect: &Suspect,
        account: &mut Account,
        case: Case,
        examined: Result<Examined, BackendError>,
    ) -> Option<(Case, Verdict)> {
        let Examined { verdict, closer, relation, .. } = match examined {
            Ok(examined) => examined,
            Err(BackendError::Unavailable(why)) => {
                self.ended_early.get_or_insert(why);
                return None;
            }
            Err(BackendError::Internal(message)) => {
                self.internal_errors.push((case.to_string(), message));
                return None;
            }
            Err(limit) => Examined::plain(Verdict::Skip(limit.to_string())),
        };
        if let Some((relation, checked)) = &relation {
            account.relations.entry(*relation).or_default().add(checked);
        }
        account.statistic.add(&case, &verdict);
        let judged = !matches!(verdict, Verdict::Skip(_));
        account.telling += u64::from(judged && (suspect.shows)(&case, self.space.domain()));
        match verdict {
            Verdict::Skip(why) => *account.skipped.entry(why).or_default() += 1,
            Verdict::Agree(agreement) => {
                if agreement.worst_ratio > account.worst_ratio {
                    account.worst_ratio = agreement.worst_ratio;
                    account.worst_case = Some(case.to_string());
                }
                return closer;
            }
            verdict => return Some((case, verdict)),
        }
        None
    }

    /// Makes a failing case small if it is news, and blames someone for it.
    fn failing(
        &mut self,
        suspect: &Suspect,
        n: u64,
        case: &Case,
        verdict: &Verdict,
        account: &mut Account,
    ) -> Vec<&'static str> {
        let started = Instant::now();
        let blamed = self.blamed(suspect, n, case, verdict, account);
        self.shrinking += started.elapsed();
        blamed
    }

    fn blamed(
        &mut self,
        suspect: &Suspect,
        n: u64,
        case: &Case,
        verdict: &Verdict,
        account: &mut Account,
    ) -> Vec<&'static str> {
        let (kernel, backend) = (&self.config.kernel, &*self.config.backend);
        let Some(signature) = verdict.signature() else { return Vec::new() };
        if !self.failures.is_empty() {
            let blamed = blame(kernel, backend, [case, case], &signature).names;
            if !blamed.is_empty() && blamed.iter().all(|name| self.blames(name)) {
                return blamed;
            }
        }
        let found_by = format!("rule-out of {} with seed {}, case {n}", suspect.name, self.config.seed);
        let Some(minimised) = minimise(kernel, backend, case, verdict, found_by, self.config.max_shrink) else {
            return Vec::new();
        };
        self.internal_errors.extend(minimised.internal_errors.into_iter().map(|(case, why)| (case.to_string(), why)));
        let minimal = minimised.finding.case.clone();
        let known = self.failures.iter().find(|(case, known, _)| *case == minimal && known.matches(&signature));
        if let Some((_, _, blamed)) = known {
            return blamed.names.clone();
        }
        let mut blamed = blame(kernel, backend, [&minimal, case], &signature);
        if blamed.names.is_empty() {
            // It does not come back with other values: those who looked for it are the nearest.
            blamed = Blame::of(suspect.name);
        }
        let names = blamed.names.clone();
        self.failures.push((minimal, signature, blamed));
        let store = self.config.store.as_ref();
        let saved = Found::saved(kernel, minimised.finding, minimised.executions, store);
        account.found.push(Found { hung: minimised.hung, ..saved });
        names
    }
}
