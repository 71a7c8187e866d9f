//! The rounds of a run: every mutant first gets a few cases, then those that live get more.
//!
//! Cases come in waves, each as many as all before. A mutant gets its share of a wave: cases that killed much for little
//! in earlier rounds in turns with those that show what the others don't, and a long one if no other gets to its line.
//! All of that depends on seed and mutants only; time decides nothing but where a run stops, so more time never loses a
//! kill.

use super::build::{Mutant, Subject};
use super::pool::{Pooled, by_novelty};
use super::trial::{Trial, trial};
use super::{Config, MutantResult, Progress, Report, Status};
use crate::backend::Kernel;
use crate::ptx;
use rayon::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Cases of the first wave.
const FIRST_WAVE: u64 = 256;
/// Cases that a mutant is tried on in the first round of a wave; each round after it has twice as many.
const FIRST_ROUND: usize = 2;
/// Cases that a mutant is tried on in the first wave; each wave doubles it. Far fewer than there are: what survives so
/// many is more likely to die of a case of the next wave, and if it can't die it takes no more time than others. But
/// where few are left, trials on two mutants' worth of the cases so far cost no more than to draw as many.
const FIRST_SHARE: usize = 8;
/// A case is long in the first wave if it costs this many times the median; each wave doubles that. Long cases are for
/// mutants that no other reaches.
const LONG: u64 = 4;

/// Tries `mutants` of `kernel` on its cases until all are dead or the budget is spent.
pub fn run(kernel: &Kernel, mutants: Vec<Mutant>, config: &Config, progress: &(dyn Fn(Progress) + Sync)) -> Report {
    let start = Instant::now();
    // It parsed when the kernel was opened; one without has no mutants.
    let module = kernel.ptx().ok().and_then(|ptx| ptx::parse(ptx).ok());
    let threads = rayon::ThreadPoolBuilder::new().num_threads(config.jobs.max(1)).build();
    let mut hunt = Hunt {
        config,
        progress,
        deadline: start + config.budget,
        states: mutants.iter().map(|mutant| State { settled: mutant.known(), ..State::default() }).collect(),
        pool: Vec::new(),
        drawn: 0,
        unusable: 0,
        first_unusable: None,
        trials: AtomicU64::new(0),
        killed: AtomicUsize::new(0),
        mutants: &mutants,
    };
    if let (Some(module), Ok(threads)) = (&module, &threads) {
        let subject = Subject::new(kernel, module);
        threads.install(|| hunt.hunt(&subject));
    }
    let Hunt { states, pool, unusable, first_unusable, trials, .. } = hunt;
    let results = mutants.iter().zip(states).map(|(mutant, state)| state.result(mutant.clone(), &pool)).collect();
    Report {
        kernel: kernel.name().to_owned(),
        seed: config.seed,
        results,
        cases: pool.len(),
        unusable,
        first_unusable,
        trials: trials.into_inner(),
        elapsed: start.elapsed(),
    }
}

struct Hunt<'a> {
    config: &'a Config,
    progress: &'a (dyn Fn(Progress) + Sync),
    deadline: Instant,
    mutants: &'a [Mutant],
    states: Vec<State>,
    pool: Vec<Pooled>,
    /// Cases drawn so far, of use or not.
    drawn: u64,
    unusable: usize,
    first_unusable: Option<String>,
    trials: AtomicU64,
    killed: AtomicUsize,
}

/// What is known of one mutant so far.
#[derive(Default)]
struct State {
    /// Set once there is nothing left to find out.
    settled: Option<Status>,
    /// Cases it agreed on, by their place in the pool.
    tried: Vec<usize>,
    busy: Duration,
    worst_ratio: f64,
}

/// One mutant's part of a round.
#[derive(Default)]
struct Attempt {
    settled: Option<Status>,
    /// Cases it was tried on, and whether that killed it.
    trials: Vec<(usize, bool)>,
    busy: Duration,
    worst_ratio: f64,
}

impl Hunt<'_> {
    fn hunt(&mut self, subject: &Subject<'_>) {
        let mut wave = 0;
        while self.states.iter().any(|state| state.settled.is_none()) && !self.is_late() {
            let before = self.drawn;
            self.draw(subject.kernel, FIRST_WAVE << wave.min(20) >> u32::from(wave > 0));
            self.rounds(subject, wave);
            wave += 1;
            let is_open = |(index, state): (usize, &State)| {
                let left = || (0..self.pool.len()).any(|case| self.is_open(index, case));
                state.settled.is_none() && left()
            };
            if self.drawn == before && !self.states.iter().enumerate().any(is_open) {
                return;
            }
        }
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Adds up to `count` cases to the pool.
    fn draw(&mut self, kernel: &Kernel, count: u64) {
        let end = self.config.cases.map_or(u64::MAX, |cases| cases).min(self.drawn.saturating_add(count));
        let profile = |index| {
            let case = kernel.space().case_at(self.config.seed, index);
            (!self.is_late()).then(|| (case.to_string(), Pooled::new(kernel, case)))
        };
        let indices: Vec<u64> = (self.drawn..end).collect();
        let profiled: Vec<_> = indices.into_par_iter().map(profile).collect();
        // A case that came too late ends the wave, so that the pool is always the first cases of the seed.
        for (line, pooled) in profiled.into_iter().map_while(|profiled| profiled) {
            self.drawn += 1;
            match pooled {
                Ok(pooled) => self.pool.push(pooled),
                Err(why) => {
                    self.unusable += 1;
                    self.first_unusable.get_or_insert(format!("{line}: {why}"));
                }
            }
        }
    }

    /// Tries what lives on its share of the cases so far.
    fn rounds(&mut self, subject: &Subject<'_>, wave: u32) {
        let mut costs: Vec<u64> = self.pool.iter().map(|pooled| pooled.cost).collect();
        costs.sort_unstable();
        let limit = costs.get(costs.len() / 2).copied().unwrap_or(0).saturating_mul(LONG << wave.min(30));
        let (short, mut long): (Vec<usize>, Vec<usize>) =
            (0..self.pool.len()).partition(|&case| self.pool[case].cost <= limit);
        long.sort_by_key(|&case| (self.pool[case].cost, case));
        let novel = by_novelty(&self.pool, &short);
        let live = self.states.iter().filter(|state| state.settled.is_none()).count().max(1);
        let share = (FIRST_SHARE << wave.min(30)).max(2 * self.pool.len() / live);
        let mut count = FIRST_ROUND;
        loop {
            let order = self.order(&short, &novel);
            let next = |index: usize| {
                let tried = self.states[index].tried.len();
                let open = |cases: &[usize], count| -> Vec<usize> {
                    cases.iter().copied().filter(|&case| self.is_open(index, case)).take(count).collect()
                };
                let mut cases = open(&order, share.saturating_sub(tried).min(count));
                if cases.is_empty() && tried <= wave as usize {
                    cases = open(&long, 1);
                }
                (index, cases)
            };
            let live = (0..self.states.len()).filter(|&index| self.states[index].settled.is_none());
            let work: Vec<(usize, Vec<usize>)> = live.map(next).filter(|(_, cases)| !cases.is_empty()).collect();
            if work.is_empty() || self.is_late() {
                return;
            }
            count *= 2;
            let attempts: Vec<(usize, Attempt)> =
                work.par_iter().map(|(index, cases)| (*index, self.attempt(subject, *index, cases))).collect();
            self.pool.iter_mut().for_each(Pooled::fade);
            for (index, attempt) in attempts {
                self.book(index, attempt);
            }
        }
    }

    /// Those of most promise and the next ones by novelty in turns. Promise alone would come to small cases only, which
    /// kill most mutants and never those that need a large one.
    fn order(&self, cases: &[usize], novel: &[usize]) -> Vec<usize> {
        let pool = &self.pool;
        let mut promising = cases.to_vec();
        promising.sort_by(|&a, &b| pool[b].promise().total_cmp(&pool[a].promise()).then(a.cmp(&b)));
        let mut seen = vec![false; pool.len()];
        let turns = novel.iter().zip(promising).flat_map(|(&a, b)| [a, b]);
        turns.filter(|&case| !std::mem::replace(&mut seen[case], true)).collect()
    }

    /// Whether the mutant may differ on the case and wasn't tried on it.
    fn is_open(&self, index: usize, case: usize) -> bool {
        self.pool[case].covers(&self.mutants[index]) && !self.states[index].tried.contains(&case)
    }

    fn attempt(&self, subject: &Subject<'_>, index: usize, cases: &[usize]) -> Attempt {
        let mut attempt = Attempt::default();
        if self.is_late() {
            return attempt;
        }
        let start = Instant::now();
        match subject.build(&self.mutants[index]) {
            Err(status) => attempt.settled = Some(status),
            Ok(mutant) => self.try_on(&mutant, cases, &mut attempt),
        }
        attempt.busy = start.elapsed();
        if matches!(attempt.settled, Some(Status::Killed { .. })) {
            self.killed.fetch_add(1, Ordering::Relaxed);
        }
        let trials = attempt.trials.len() as u64;
        (self.progress)(Progress {
            mutants: self.mutants.len(),
            killed: self.killed.load(Ordering::Relaxed),
            trials: self.trials.fetch_add(trials, Ordering::Relaxed) + trials,
            cases: self.pool.len(),
        });
        attempt
    }

    fn try_on(&self, mutant: &Kernel, cases: &[usize], attempt: &mut Attempt) {
        for &case in cases {
            if self.is_late() {
                return;
            }
            let pooled = &self.pool[case];
            // A mutant may bring the emulator to where no kernel did; that must not end the run.
            let result = catch_unwind(AssertUnwindSafe(|| trial(mutant, pooled)))
                .unwrap_or_else(|_| Trial::CannotRun("internal error of the emulator, please report it".into()));
            attempt.settled = match result {
                Trial::Agreed(ratio) => {
                    attempt.trials.push((case, false));
                    attempt.worst_ratio = attempt.worst_ratio.max(ratio);
                    continue;
                }
                Trial::Killed(by) => {
                    attempt.trials.push((case, true));
                    Some(Status::Killed { by, case: pooled.case.to_string() })
                }
                Trial::CannotRun(why) => Some(Status::Stillborn(why)),
            };
            return;
        }
    }

    fn book(&mut self, index: usize, attempt: Attempt) {
        let state = &mut self.states[index];
        state.settled = attempt.settled;
        state.busy += attempt.busy;
        state.worst_ratio = state.worst_ratio.max(attempt.worst_ratio);
        for (case, killed) in attempt.trials {
            state.tried.push(case);
            self.pool[case].tries += 1.0;
            self.pool[case].kills += f64::from(u8::from(killed));
        }
    }
}

impl State {
    fn result(self, mutant: Mutant, pool: &[Pooled]) -> MutantResult {
        let is_covered = || pool.is_empty() || pool.iter().any(|pooled| pooled.covers(&mutant));
        let status = match self.settled {
            Some(status) => status,
            None if !self.tried.is_empty() => Status::Survived,
            None if is_covered() => Status::NotTried,
            None => Status::NotExecuted,
        };
        MutantResult { mutant, status, tried: self.tried.len() as u64, busy: self.busy, worst_ratio: self.worst_ratio }
    }
}
