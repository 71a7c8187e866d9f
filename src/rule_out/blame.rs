//! Which suspects a failing case is to be blamed on, by experiment.
//!
//! A suspect that fields of a case stand for, such as heads or masks, is blamed if the case agrees once those fields are
//! calm, whatever its values are. What a fault or a tensor tells by itself is blamed on that. Only where neither says
//! anything is the failure in the plain computation, and the relation that is broken tells where, or values do: see
//! [`Trial::computation`].
//!
//! The case should be minimal: what a larger one needs in order to fail may be its neighbour's doing.

use super::suspect::{AGGREGATION, Mark, OUTPUT, PRODUCT, SCALE, SOFTMAX, few_keys, plain_scale, suspects};
use crate::backend::Kernel;
use crate::case::{Case, CaseParts, Domain, Recipe};
use crate::oracle::{Examiner, Signature, Verdict};
use crate::outcome::FaultKind;

/// Seeds of values that are looked for with which the case fails.
const FAILING: usize = 8;
/// Seeds of values that a case is tried with at most.
const MAX_TRIES: u32 = 24;
/// Keys of a case that has few, and more than one.
const FEW_KEYS: u32 = 7;
/// Keys whose sum takes more bits than binary16 has.
const MANY_KEYS: u32 = 127;

/// The names of the suspects to blame, in the order of the table; none if the case does not fail again.
///
/// `case` may fail with few of its values only, the elements that are not 0; `found` is the case before it was shrunk.
pub(super) fn blame(
    kernel: &Kernel,
    backend: &dyn Examiner,
    [case, found]: [&Case; 2],
    signature: &Signature,
) -> Vec<&'static str> {
    let trial = |case| Trial { kernel, backend, domain: kernel.space().domain(), case, tries: Vec::new() }.with_tries();
    let trial = trial(case).or_else(|| trial(found));
    let Some(trial) = trial else { return Vec::new() };
    let told = |mark: &Mark| match mark {
        Mark::Class(classes) => classes.iter().any(|class| signature.class.starts_with(class)),
        Mark::Faults(kinds) => {
            kinds.iter().copied().map(FaultKind::name).any(|name| signature.class == format!("fault {name}"))
        }
        Mark::Fields(_) | Mark::Values => false,
    };
    let healed = |mark: &Mark| match mark {
        Mark::Fields(calms) => calms.iter().any(|calm| trial.heals(&|parts| calm(parts, trial.domain))),
        _ => false,
    };
    let blamed = suspects().filter(|suspect| told(&suspect.mark) || healed(&suspect.mark));
    let blamed: Vec<_> = blamed.map(|suspect| suspect.name).collect();
    if blamed.is_empty() { vec![of_relation(case, signature).unwrap_or_else(|| trial.computation())] } else { blamed }
}

/// The suspect in the plain computation whose cases alone ask for the relation that is broken, if that is what is wrong. Values
/// would say less: the relation changes them.
fn of_relation(case: &Case, signature: &Signature) -> Option<&'static str> {
    let relation = case.relation.filter(|relation| signature.class == format!("relation {relation}"))?;
    let of_values = suspects().filter(|suspect| matches!(suspect.mark, Mark::Values));
    let mut asking = of_values.filter(|suspect| suspect.relations.contains(&relation));
    let only = asking.next()?;
    asking.next().is_none().then_some(only.name)
}

struct Trial<'a> {
    kernel: &'a Kernel,
    backend: &'a dyn Examiner,
    domain: &'a Domain,
    case: &'a Case,
    /// Seeds of values, relative to the case's, with which a changed case must agree before the change is said to have
    /// healed it. First those with which the case itself fails.
    tries: Vec<u32>,
}

impl Trial<'_> {
    /// Whether the case agrees, with all values that are tried, once it is changed. A change that changes nothing, or after
    /// which the case can't be judged, heals nothing.
    fn heals(&self, change: &dyn Fn(&mut CaseParts)) -> bool {
        self.agrees(change) == Some(true)
    }

    /// With seeds enough to trust; nothing if the case fails with none.
    fn with_tries(mut self) -> Option<Self> {
        let mut parts = self.case.clone().into_parts();
        parts.only = None;
        let mut others = Vec::new();
        for attempt in 0..MAX_TRIES {
            if self.tries.len() == FAILING {
                break;
            }
            let agrees = self.examine(&parts, attempt) != Some(false);
            if agrees { others.push(attempt) } else { self.tries.push(attempt) }
        }
        let fails = !self.tries.is_empty();
        self.tries.extend(others);
        fails.then_some(self)
    }

    /// As [`Trial::heals`]; nothing where nothing can be told.
    fn agrees(&self, change: &dyn Fn(&mut CaseParts)) -> Option<bool> {
        let mut parts = self.case.clone().into_parts();
        parts.only = None;
        let before = parts.clone();
        change(&mut parts);
        parts.cache.capacity = parts.cache.capacity.max(parts.needed_capacity());
        if parts == before {
            return None;
        }
        for &attempt in &self.tries {
            if !self.examine(&parts, attempt)? {
                return Some(false);
            }
        }
        Some(true)
    }

    /// Whether the case agrees with other values of its kind; nothing if it can't be judged.
    fn examine(&self, parts: &CaseParts, attempt: u32) -> Option<bool> {
        let mut parts = parts.clone();
        parts.values.seed = parts.values.seed.wrapping_add(attempt);
        parts.schedule_seed = parts.schedule_seed.wrapping_add(attempt);
        let examined = self.backend.examine(self.kernel, &self.kernel.space().legalize(parts)).ok()?;
        match examined.verdict {
            Verdict::Skip(_) => None,
            Verdict::Diverge(_) | Verdict::Fault(_) => Some(false),
            Verdict::Agree(_) => Some(examined.closer.is_none()),
        }
    }

    /// Which part of the plain computation is wrong, told by values, in this order:
    ///
    /// 1. Equal logits (`flat`), also over many keys, fail: the sum of V is wrong; with one key it is the output.
    /// 2. Few small logits (`codes`: products that are small whole numbers, nothing to rescale, nothing to overflow) fail:
    ///    the scale is wrong if rows of selected keys (`select`), which hold for any scale near the right one, agree, and
    ///    else the products.
    /// 3. Few logits of the usual size (`normal`) fail: the products lose precision.
    /// 4. Otherwise it takes many keys or large logits: softmax.
    fn computation(&self) -> &'static str {
        let plain = |parts: &mut CaseParts, recipe: Recipe| {
            parts.values.recipe = recipe;
            // Of a kind that may be the case's own already, but not the same values.
            parts.values.seed = parts.values.seed.wrapping_add(MAX_TRIES);
        };
        let with_keys = |parts: &mut CaseParts, keys: fn(u32) -> u32| {
            for request in &mut parts.shape.requests {
                request.past_len = self.domain.past_len.nearest(keys(request.past_len));
            }
        };
        let flat = |keys: fn(u32) -> u32| {
            self.agrees(&|parts| {
                plain(parts, Recipe::Flat);
                with_keys(parts, keys);
            })
        };
        if flat(|past| past) == Some(false) || flat(|past| past.max(MANY_KEYS)) == Some(false) {
            let fewest = u32::from(!self.domain.append);
            // The lengths at which tiles are full, and those beside empty ones, are right in many kernels that are wrong.
            let full: fn(u32) -> u32 = if self.domain.append { |_| 127 } else { |_| 128 };
            let lengths = [full, |past| past.max(4)];
            let healed = self.heals(&|parts| few_keys(parts, self.domain, fewest))
                || lengths.iter().any(|&keys| self.heals(&|parts| with_keys(parts, keys)));
            return if healed { AGGREGATION } else { OUTPUT };
        }
        let few = |recipe: Recipe, factor: f32| {
            self.agrees(&|parts| {
                plain(parts, recipe);
                few_keys(parts, self.domain, FEW_KEYS);
                with_keys(parts, |past| past.max(FEW_KEYS));
                plain_scale(parts);
                parts.scale *= factor;
            })
        };
        let selected = || {
            self.agrees(&|parts| {
                plain(parts, Recipe::Select);
                with_keys(parts, |past| past.max(FEW_KEYS));
                plain_scale(parts);
            })
        };
        if few(Recipe::Codes, 1.0) == Some(false) || few(Recipe::Codes, 0.5) == Some(false) {
            return if selected() == Some(false) { PRODUCT } else { SCALE };
        }
        if few(Recipe::Normal, 1.0) == Some(false) { PRODUCT } else { SOFTMAX }
    }
}
