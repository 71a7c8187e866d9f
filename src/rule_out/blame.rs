//! Which suspects a failing case is to be blamed on, by experiment.
//!
//! A suspect that fields of a case stand for, such as heads or masks, is blamed if the case agrees once those fields are
//! calm, whatever its values are. What a fault or a tensor tells by itself is blamed on that. Only where neither says
//! anything is the failure in the plain computation, and values tell where: see [`Trial::computation`].
//!
//! The case should be minimal: what a larger one needs in order to fail may be its neighbour's doing.

use super::suspect::{AGGREGATION, Mark, OUTPUT, PRODUCT, SCALE, SOFTMAX, few_keys, plain_scale, suspects};
use crate::backend::Kernel;
use crate::case::{Case, CaseParts, Domain, Recipe};
use crate::oracle::{Examiner, Signature, Verdict};
use crate::outcome::FaultKind;

/// Values with which a changed case must agree before the change is said to have healed it. A kernel that is wrong in a
/// quarter of them passes as healed in 10 %.
const TRIES: u32 = 8;
/// Keys of a case that has few, and more than one.
const FEW_KEYS: u32 = 7;

/// The names of the suspects to blame, in the order of the table; never empty.
pub(super) fn blame(kernel: &Kernel, backend: &dyn Examiner, case: &Case, signature: &Signature) -> Vec<&'static str> {
    let trial = Trial { kernel, backend, domain: kernel.space().domain(), case };
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
    if blamed.is_empty() { vec![trial.computation()] } else { blamed }
}

struct Trial<'a> {
    kernel: &'a Kernel,
    backend: &'a dyn Examiner,
    domain: &'a Domain,
    case: &'a Case,
}

impl Trial<'_> {
    /// Whether the case agrees, with all values that are tried, once it is changed. A change that changes nothing, or after
    /// which the case can't be judged, heals nothing.
    fn heals(&self, change: &dyn Fn(&mut CaseParts)) -> bool {
        self.agrees(change) == Some(true)
    }

    /// As [`Trial::heals`]; nothing where nothing can be told.
    fn agrees(&self, change: &dyn Fn(&mut CaseParts)) -> Option<bool> {
        let mut parts = self.case.clone().into_parts();
        parts.only = None;
        let before = parts.clone();
        change(&mut parts);
        if parts == before {
            return None;
        }
        for attempt in 0..TRIES {
            let mut parts = parts.clone();
            parts.values.seed = parts.values.seed.wrapping_add(attempt);
            parts.schedule_seed = parts.schedule_seed.wrapping_add(attempt);
            parts.cache.capacity = parts.cache.capacity.max(parts.needed_capacity());
            let examined = self.backend.examine(self.kernel, &self.kernel.space().legalize(parts)).ok()?;
            match examined.verdict {
                Verdict::Skip(_) => return None,
                Verdict::Diverge(_) | Verdict::Fault(_) => return Some(false),
                Verdict::Agree(_) if examined.closer.is_some() => return Some(false),
                Verdict::Agree(_) => {}
            }
        }
        Some(true)
    }

    /// Which part of the plain computation is wrong, told by values:
    ///
    /// | case agrees with | equal logits | another scale, or the default one | selected keys | few small logits | |
    /// |---|---|---|---|---|---|
    /// | | no | | | | output if it fails with one key too, else V aggregation |
    /// | | yes | default | | | scale |
    /// | | yes | | no | | Q.K |
    /// | | yes | | yes | no | scale |
    /// | | yes | | yes | yes | softmax |
    ///
    /// Rows of selected keys (`select`) are right whatever the scale is, if it is not far off. With few keys whose products
    /// with the query are small whole numbers (`codes`) there is nothing to rescale and nothing to overflow.
    fn computation(&self) -> &'static str {
        let recipe = |parts: &mut CaseParts, recipe: Recipe| parts.values.recipe = recipe;
        let flat = self.agrees(&|parts| {
            recipe(parts, Recipe::Flat);
            // Flat values of a minimal case are often flat already: then only the elements that aren't 0 change.
            parts.values.seed = parts.values.seed.wrapping_add(TRIES);
        });
        if flat != Some(true) {
            let keys = |most: u32| self.heals(&|parts| few_keys(parts, self.domain, most));
            let fewest = u32::from(!self.domain.append);
            let more = self.heals(&|parts| {
                for request in &mut parts.shape.requests {
                    request.past_len = self.domain.past_len.nearest(request.past_len.max(4));
                }
            });
            return if keys(fewest) || more { AGGREGATION } else { OUTPUT };
        }
        if self.heals(&plain_scale) {
            return SCALE;
        }
        let selected = self.agrees(&|parts| {
            recipe(parts, Recipe::Select);
            more_keys(parts, self.domain);
            plain_scale(parts);
        });
        if selected == Some(false) {
            return PRODUCT;
        }
        let small = self.agrees(&|parts| {
            recipe(parts, Recipe::Codes);
            few_keys(parts, self.domain, FEW_KEYS);
            plain_scale(parts);
        });
        if small == Some(false) { SCALE } else { SOFTMAX }
    }
}

/// At least a few keys, so that selecting some of them says something.
fn more_keys(parts: &mut CaseParts, domain: &Domain) {
    for request in &mut parts.shape.requests {
        request.past_len = domain.past_len.nearest(request.past_len.max(FEW_KEYS));
    }
}
