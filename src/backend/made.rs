//! Code that is made when a case asks for it, and kept.
//!
//! Kernels with their shape baked in have other code for other cases. What decides the code is its recipe; cases with
//! the same recipe share code, so making and lowering it is done once for each, however many threads ask.

use super::BackendError;
use super::code::{Against, Code, entries_of};
use super::kernel::OpenError;
use super::manifest::Manifest;
use crate::case::Case;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Makes PTX for a case, or says why there is none.
pub(super) type MakePtx = dyn Fn(&Case) -> Result<String, String> + Send + Sync;

/// Codes that are kept; beyond, those that were asked for longest ago go first.
const MOST_KEPT: usize = 64;

/// A kernel's code where it depends on the case.
pub(super) struct Made {
    /// What messages call the PTX.
    name: PathBuf,
    make: Box<MakePtx>,
    kept: Mutex<VecDeque<(Recipe, Arc<Slot>)>>,
}

/// What decides a code.
#[derive(Clone, PartialEq, Eq)]
struct Recipe {
    ptx: String,
    /// The entry points that are launched, with the indices of their launches.
    entries: Vec<(usize, String)>,
}

/// Code, once somebody made it; whoever comes meanwhile waits.
type Slot = OnceLock<Result<Arc<Code>, BackendError>>;

impl Made {
    pub(super) fn new(name: &Path, make: Box<MakePtx>) -> Self {
        Self { name: name.into(), make, kept: Mutex::default() }
    }

    /// The code that `case` runs.
    pub(super) fn code(&self, manifest: &Manifest, file: &Path, case: &Case) -> Result<Arc<Code>, BackendError> {
        let ptx = (self.make)(case).map_err(BackendError::NotMade)?;
        let recipe = Recipe { ptx, entries: entries_of(manifest, case)? };
        let slot = self.slot(&recipe);
        let make = || {
            let Recipe { ptx, entries } = recipe;
            let code = Code::with_entries(Against { manifest, file }, &self.name, ptx, &entries);
            code.map(Arc::new).map_err(|error| not_made(&error))
        };
        slot.get_or_init(make).clone()
    }

    fn slot(&self, recipe: &Recipe) -> Arc<Slot> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(known, _)| known == recipe).and_then(|index| kept.remove(index));
        let (recipe, slot) = known.unwrap_or_else(|| (recipe.clone(), Arc::default()));
        if kept.len() == MOST_KEPT {
            kept.pop_front();
        }
        kept.push_back((recipe, slot.clone()));
        slot
    }
}

fn not_made(error: &OpenError) -> BackendError {
    BackendError::NotMade(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_last_is_kept() {
        let made = Made::new(Path::new("made"), Box::new(|_| Err("not asked".into())));
        let recipe = |n: usize| Recipe { ptx: n.to_string(), entries: Vec::new() };
        let first = made.slot(&recipe(0));
        for n in 1..MOST_KEPT {
            made.slot(&recipe(n));
        }
        assert!(Arc::ptr_eq(&first, &made.slot(&recipe(0))));
        let second = made.slot(&recipe(1));
        made.slot(&recipe(MOST_KEPT));
        assert_eq!(made.kept.lock().unwrap().len(), MOST_KEPT);
        assert!(Arc::ptr_eq(&second, &made.slot(&recipe(1))));
        let other_entry = Recipe { entries: vec![(0, "k".into())], ..recipe(1) };
        assert!(!Arc::ptr_eq(&second, &made.slot(&other_entry)));
        for n in 2..=MOST_KEPT + 1 {
            made.slot(&recipe(n));
        }
        assert!(!Arc::ptr_eq(&first, &made.slot(&recipe(0))), "it was asked for longest ago");
    }
}
