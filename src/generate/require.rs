//! Keeps to the conditions of a domain.
//!
//! No field by itself says what a condition wants, so cases that meet all of them are looked for when the space is made.
//! A case that breaks one takes fields of those: a single one where that is enough, and at worst every one.

use super::legalize::{EmptyDomain, Space};
use super::mutate::{Field, settled};
use crate::case::{Case, CaseParts};

/// Cases that are drawn to find some that meet the conditions.
const DRAWN: u64 = 4096;
/// Requests times steps of those that are drawn: evaluating a condition takes as long.
const WORK: u64 = 1 << 20;
/// Cases found that are enough.
const ENOUGH: usize = 8;
/// Seed of the campaign that they are drawn from.
const SEED: u64 = 0x7265_7175_6972;

impl Space {
    /// The space of `self`, which keeps none of its domain's conditions, that keeps them.
    pub(super) fn keeping_conditions(self) -> Result<Self, EmptyDomain> {
        let Some(first) = self.domain().require.first().cloned() else { return Ok(self) };
        let smallest = self.smallest().clone();
        let (mut found, mut drawn, mut work) = (Vec::new(), 0, 0);
        let mut case = smallest.clone();
        while found.len() < ENOUGH && drawn < DRAWN && work < WORK {
            work += u64::from(case.shape.batch()) * u64::from(case.steps);
            if self.meets(&case) {
                found.push(case);
            }
            case = self.case_at(SEED, drawn);
            drawn += 1;
        }
        let simplest = found.iter().min_by_key(|case| super::cost(case)).cloned().ok_or_else(|| {
            let broken = self.domain().require.iter().find(|require| !require.is_met(self.domain(), &smallest));
            let broken = broken.unwrap_or(&first);
            EmptyDomain::Unmet { drawn, expr: broken.expr.clone(), because: broken.because.clone() }
        })?;
        Ok(self.with_examples(found, simplest))
    }

    fn meets(&self, case: &Case) -> bool {
        self.domain().require.iter().all(|require| require.is_met(self.domain(), case))
    }

    /// `case`, or one near it that meets the domain's conditions. `fit` makes a case of parts.
    pub(super) fn meeting(&self, case: Case, fit: impl Fn(CaseParts) -> Case) -> Case {
        if self.examples().is_empty() || self.meets(&case) {
            return case;
        }
        let examples = self.examples();
        let first = case.schedule_seed as usize % examples.len();
        let examples = || examples.iter().cycle().skip(first).take(examples.len());
        let taken = |case: &Case, field: Field, from: &Case| {
            let mut parts = case.clone().into_parts();
            settled(&mut parts, |parts| field.take(parts, from));
            fit(parts)
        };
        for example in examples() {
            for field in Field::ALL {
                let trial = taken(&case, field, example);
                if self.meets(&trial) {
                    return trial;
                }
            }
        }
        let mut nearer = case;
        for example in examples().take(1) {
            for field in Field::ALL {
                nearer = taken(&nearer, field, example);
                if self.meets(&nearer) {
                    return nearer;
                }
            }
        }
        // What is left that differs from the example is what no field stands for.
        self.smallest().clone()
    }
}
