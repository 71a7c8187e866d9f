//! Which suspects a failing case is to be blamed on, by experiment.
//!
//! A suspect that fields of a case stand for, such as heads or masks, is blamed if the case agrees once those fields are
//! calm, whatever its values are: then a fault, or the tensor that is wrong, is what comes of them. What a fault or a tensor
//! tells by itself is blamed where no field does so alone. Only where neither says anything is the failure in the plain
//! computation, and the relation that is broken tells where, or values do: see [`Trial::computation`].
//!
//! The case should be minimal: what a larger one needs in order to fail may be its neighbour's doing.
//!
//! Of a failure that some values show only, agreeing a few times is no evidence, the less so with fewer rows to fail in. A
//! change is tried with so many values that a case which it leaves as it was would agree with all of them in one of 150.

use super::suspect::{AGGREGATION, Mark, OUTPUT, PRODUCT, SCALE, SOFTMAX, few_keys, plain_scale, suspects};
use crate::backend::Kernel;
use crate::case::{Case, CaseParts, Domain, Recipe};
use crate::oracle::{Examiner, Signature, Verdict};
use crate::outcome::FaultKind;

/// Seeds of values that are looked for with which the case fails; one where each costs a process.
const FAILING: usize = 8;
/// Seeds of values that a case is tried with at most, to find those.
const MAX_TRIES: u32 = 128;
/// Failures that the seeds with which a change is tried would lead to, if it changed nothing: exp(-5) is one of 150.
const MISSED: u64 = 5;
/// Seeds that a change is tried with at most; one that needs more can't be told from none.
const MAX_TRIED: u64 = 400;
/// Keys of a case that has few, and more than one.
const FEW_KEYS: u32 = 7;
/// Keys whose sum takes more bits than binary16 has.
const MANY_KEYS: u32 = 127;

/// Whom a failure is blamed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blame {
    /// Names, in the order of the table; none if the case does not fail again.
    pub(super) names: Vec<&'static str>,
    /// Whether the case agrees without any one of them.
    by_field: bool,
}

/// Blames suspects for a failure.
///
/// `case` may fail with few of its values only, the elements that are not 0; `found` is the case before it was shrunk.
pub(super) fn blame(
    kernel: &Kernel,
    backend: &dyn Examiner,
    [case, found]: [&Case; 2],
    signature: &Signature,
) -> Blame {
    let failing = if is_deadly(signature) { 1 } else { FAILING };
    let domain = kernel.space().domain();
    let trial = |case: Case| Trial { kernel, backend, domain, case, tries: Vec::new(), failing: 0 }.with_tries(failing);
    // The smallest shape, with values of its kind or, where few of them were what it takes, with ordinary ones.
    let ordinary = || case.with(|parts| (parts.values.recipe, parts.only) = (Recipe::Normal, None)).ok();
    let trial = trial(case.clone()).or_else(|| ordinary().and_then(trial)).or_else(|| trial(found.clone()));
    let Some(trial) = trial else { return Blame { names: Vec::new(), by_field: false } };
    let told = |mark: &Mark| match mark {
        Mark::Class(classes) => classes.iter().any(|class| signature.class.starts_with(class)),
        Mark::Faults(kinds) => kinds.iter().any(|kind| is_fault(signature, *kind)),
        Mark::Fields(_) | Mark::Values => false,
    };
    let healed = |mark: &Mark| match mark {
        Mark::Fields(calms) => calms.iter().any(|calm| trial.heals(&|parts| calm(parts, trial.domain))),
        _ => false,
    };
    let names = |is: &dyn Fn(&Mark) -> bool| -> Vec<&'static str> {
        suspects().filter(|suspect| is(&suspect.mark)).map(|suspect| suspect.name).collect()
    };
    let fields = names(&healed);
    if fields.len() == 1 {
        return Blame { names: fields, by_field: true };
    }
    let mut blamed = names(&|mark| told(mark));
    let by_field = !fields.is_empty();
    blamed.extend(fields);
    if blamed.is_empty() {
        blamed.push(of_relation(case, signature).unwrap_or_else(|| trial.computation()));
    }
    Blame { names: blamed, by_field }
}

impl Blame {
    /// Of a failure that nothing is known of but that it came to `name`.
    pub(super) fn of(name: &'static str) -> Self {
        Self { names: vec![name], by_field: false }
    }

    /// Whether a failure with this signature is but what comes of `others`: no relation is kept by wrong values, the
    /// log-sum-exp is of the sums that the output is of, and a key that is lost or misplaced leaves something unwritten.
    pub(super) fn is_symptom<'a>(
        &self,
        signature: &Signature,
        mut others: impl Iterator<Item = &'a Signature>,
    ) -> bool {
        let is_of = |prefix: &'static str| move |other: &Signature| other.class.starts_with(prefix);
        let unwritten = [FaultKind::UninitialisedRead, FaultKind::ReadsPoison];
        !self.by_field
            && if is_of("relation ")(signature) {
                others.any(|other| !is_of("relation ")(other))
            } else if is_of("diverge lse")(signature) {
                others.any(is_of("diverge out"))
            } else if unwritten.into_iter().any(|kind| is_fault(signature, kind)) {
                others.any(is_of("diverge "))
            } else {
                false
            }
    }
}

fn is_fault(signature: &Signature, kind: FaultKind) -> bool {
    signature.class.strip_prefix("fault ") == Some(kind.name())
}

/// Whether each such failure costs a process, and perhaps as long as a case may take.
fn is_deadly(signature: &Signature) -> bool {
    [FaultKind::Hang, FaultKind::Crash].into_iter().any(|kind| is_fault(signature, kind))
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
    case: Case,
    /// Seeds of values, relative to the case's, with which a changed case must agree before the change is said to have
    /// healed it. First those with which the case itself fails.
    tries: Vec<u32>,
    /// How many of them those are.
    failing: u64,
}

impl Trial<'_> {
    /// Whether the case agrees, with all values that are tried, once it is changed. A change that changes nothing, or after
    /// which the case can't be judged, heals nothing.
    fn heals(&self, change: &dyn Fn(&mut CaseParts)) -> bool {
        self.agrees(change) == Some(true)
    }

    /// With so many seeds that it fails with, if there are; nothing if there is none.
    fn with_tries(mut self, wanted: usize) -> Option<Self> {
        let mut parts = self.case.clone().into_parts();
        parts.only = None;
        let mut others = Vec::new();
        for attempt in 0..MAX_TRIES {
            if self.tries.len() == wanted {
                break;
            }
            let agrees = self.examine(&parts, attempt) != Some(false);
            if agrees { others.push(attempt) } else { self.tries.push(attempt) }
        }
        self.failing = self.tries.len() as u64;
        self.tries.extend(others);
        (self.failing > 0).then_some(self)
    }

    /// Seeds that a change must agree with, if it leaves the case so many rows; nothing if they are too many.
    fn needed(&self, parts: &CaseParts) -> Option<u64> {
        let rows = |parts: &CaseParts| {
            let shape = &parts.shape;
            let tokens: u64 = shape.requests.iter().map(|request| u64::from(request.q_len)).sum();
            u64::from(shape.num_kv_heads) * u64::from(shape.q_per_kv) * tokens * u64::from(parts.steps)
        };
        let needed = MISSED * self.tries.len() as u64 * rows(&self.case);
        let needed = needed.div_ceil((self.failing * rows(parts)).max(1));
        (needed <= MAX_TRIED).then(|| needed.max(self.tries.len() as u64))
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
        let needed = self.needed(&parts)?;
        let further = self.tries.len() as u32..;
        for attempt in self.tries.iter().copied().chain(further).take(needed as usize) {
            if !self.examine(&parts, attempt)? {
                return Some(false);
            }
        }
        Some(true)
    }

    /// Whether the case agrees with other values of its kind; nothing if it can't be judged.
    fn examine(&self, parts: &CaseParts, attempt: u32) -> Option<bool> {
        self.verdict(parts, attempt).map(|verdict| verdict.signature().is_none())
    }

    /// What is to be said of the case with other values of its kind.
    fn verdict(&self, parts: &CaseParts, attempt: u32) -> Option<Verdict> {
        let mut parts = parts.clone();
        parts.values.seed = parts.values.seed.wrapping_add(attempt);
        parts.schedule_seed = parts.schedule_seed.wrapping_add(attempt);
        let examined = self.backend.examine(self.kernel, &self.kernel.space().legalize(parts)).ok()?;
        match (examined.verdict, examined.closer) {
            (Verdict::Skip(_), _) => None,
            (Verdict::Agree(_), Some((_, closer))) => Some(closer),
            (verdict, _) => Some(verdict),
        }
    }

    /// Whether the case with values of this kind is wrong by no more than another rounding of the output.
    fn is_rounding(&self, recipe: Recipe) -> bool {
        let mut parts = self.case.clone().into_parts();
        (parts.only, parts.values.recipe) = (None, recipe);
        let wrong =
            (0..MAX_TRIES).find_map(|attempt| self.verdict(&parts, attempt).filter(|v| v.signature().is_some()));
        let Some(Verdict::Diverge(wrong)) = wrong else { return false };
        let one = self.case.dtype.spacing(wrong.found.abs().max(wrong.expected.abs()));
        (wrong.found - wrong.expected).abs() <= one
    }

    /// Which part of the plain computation is wrong, told by values, in this order:
    ///
    /// 1. Equal logits (`flat`), also over many keys, fail: the sum of V is wrong; with one key, whatever the values are, or by
    ///    no more than a rounding, it is the output.
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
        // The lengths at which tiles are full, and those beside empty ones, are right in many kernels that are wrong.
        let full: fn(u32) -> u32 = if self.domain.append { |_| 127 } else { |_| 128 };
        let at_some_length = |recipe: Option<Recipe>| {
            [full, |past| past.max(4)].into_iter().any(|keys| {
                self.heals(&|parts| {
                    recipe.into_iter().for_each(|recipe| plain(parts, recipe));
                    with_keys(parts, keys);
                })
            })
        };
        let fewest = u32::from(!self.domain.append);
        let one_key = || {
            self.agrees(&|parts| {
                plain(parts, Recipe::Normal);
                plain_scale(parts);
                few_keys(parts, self.domain, fewest);
            })
        };
        let flat_fails = flat(|past| past) == Some(false) || flat(|past| past.max(MANY_KEYS)) == Some(false);
        if one_key() == Some(false) && !at_some_length(Some(Recipe::Flat)) {
            return OUTPUT;
        }
        if flat_fails {
            let healed = self.heals(&|parts| few_keys(parts, self.domain, fewest)) || at_some_length(None);
            return if healed && !self.is_rounding(Recipe::Flat) { AGGREGATION } else { OUTPUT };
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
