//! Code that is made when a case asks for it, and kept.
//!
//! Kernels with their shape baked in have other code for other cases. What decides the code is its recipe; cases with
//! the same recipe share code, so making and lowering it is done once for each, however many threads ask.

use super::BackendError;
use super::code::{Against, Code, entries_of};
use super::compiler::{Compiled, Compiler};
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
    maker: Maker,
    kept: Mutex<VecDeque<(Recipe, Arc<Slot>)>>,
}

/// Who makes code.
pub(super) enum Maker {
    /// A closure.
    Closure(Box<MakePtx>),
    /// NVRTC, of the kernel's source.
    Compiler(Box<Compiler>),
}

/// What decides a code.
#[derive(Clone, PartialEq, Eq)]
struct Recipe {
    /// The PTX that a closure gave, or the architecture and the compiler's options.
    of: Vec<String>,
    /// The entry points that are launched, with the indices of their launches.
    entries: Vec<(usize, String)>,
}

/// Code, once somebody made it; whoever comes meanwhile waits.
type Slot = OnceLock<Result<Arc<Code>, BackendError>>;

impl Made {
    pub(super) fn new(name: &Path, maker: Maker) -> Self {
        Self { name: name.into(), maker, kept: Mutex::default() }
    }

    /// The code that `case` runs, on a GPU of this compute capability or in the emulator.
    pub(super) fn code(
        &self,
        manifest: &Manifest,
        file: &Path,
        case: &Case,
        device: Option<(i32, i32)>,
    ) -> Result<Arc<Code>, BackendError> {
        let of = match &self.maker {
            Maker::Closure(make) => vec![make(case).map_err(BackendError::NotMade)?],
            Maker::Compiler(compiler) => {
                let options = compiler.options(manifest, case)?;
                std::iter::once(compiler.arch(device)?).chain(options).collect()
            }
        };
        let recipe = Recipe { of, entries: entries_of(manifest, case)? };
        let slot = self.slot(&recipe);
        slot.get_or_init(|| self.make(Against { manifest, file }, recipe).map(Arc::new)).clone()
    }

    fn make(&self, against: Against<'_>, recipe: Recipe) -> Result<Code, BackendError> {
        let Recipe { mut of, entries } = recipe;
        let Compiled { ptx, symbols } = match &self.maker {
            Maker::Closure(_) => Compiled { ptx: of.pop().unwrap_or_default(), symbols: Vec::new() },
            Maker::Compiler(compiler) => {
                let names: Vec<String> = entries.iter().map(|(_, entry)| entry.clone()).collect();
                let (arch, options) =
                    of.split_first().map_or(("", &[][..]), |(arch, options)| (arch.as_str(), options));
                compiler.compile(arch, options, &names)?
            }
        };
        let symbol = |entry: &str| {
            let index = entries.iter().position(|(_, name)| name == entry);
            index.and_then(|index| symbols.get(index)).map_or_else(|| entry.to_owned(), String::clone)
        };
        Code::with_entries(against, &self.name, ptx, &entries, symbol).map_err(|e| BackendError::NotMade(e.to_string()))
    }

    /// A hash of what code is made of, but for a closure.
    pub(super) fn hash(&self) -> u64 {
        match &self.maker {
            Maker::Closure(_) => 0,
            Maker::Compiler(compiler) => compiler.hash(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_last_is_kept() {
        let made = Made::new(Path::new("made"), Maker::Closure(Box::new(|_| Err("not asked".into()))));
        let recipe = |n: usize| Recipe { of: vec![n.to_string()], entries: Vec::new() };
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
