//! The list of a kernel's mutants, and each of them as a kernel.

use super::Status;
use super::liveness::Names;
use super::operators::edits;
use crate::backend::{Kernel, OpenError};
use crate::case::codec::fnv1a;
use crate::ptx::{self, Idle, Instruction, Module, Place};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

/// A faulty kernel, not built yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// `OPERATOR:LINE`, with `:VARIANT` where an operator has several; `planted:NAME` of a planted bug. Depends on the PTX only.
    pub id: String,
    /// The operator's name.
    pub operator: &'static str,
    /// Line of the PTX that is changed, from 1; 0 of a planted bug, which may change several.
    pub line: u32,
    /// `file:line` of the CUDA source, if the PTX has line information.
    pub source: Option<String>,
    /// The instruction as it was, or what the planted bug is.
    pub before: String,
    /// What is there now; empty if nothing is.
    pub after: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a mutant comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file of `kernels/mutants`.
    Planted(PathBuf),
    /// An edit of the PTX.
    Edited {
        /// Which instruction of the module.
        place: usize,
        /// Whether reaching it is enough to matter, be it executed or not.
        guards: bool,
        /// Why it can't matter, where that is plain from the PTX.
        equivalent: Option<&'static str>,
    },
}

impl Mutant {
    /// What is known of it without a run.
    pub(super) fn known(&self) -> Option<Status> {
        match self.origin {
            Origin::Edited { equivalent, .. } => equivalent.map(|why| Status::Equivalent(why.into())),
            Origin::Planted(_) => None,
        }
    }
}

/// Every mutant of `kernel`: the planted bugs that lie beside it, then the edits of its PTX in the order of its lines.
///
/// # Errors
/// A folder of planted bugs that is there and can't be read, or a kernel without PTX of its own.
pub fn mutants(kernel: &Kernel) -> Result<Vec<Mutant>, OpenError> {
    let ptx = kernel.ptx()?;
    let mut list = if kernel.mutant.is_some() { Vec::new() } else { planted(kernel)? };
    // It parsed when the kernel was opened.
    if let Ok(module) = ptx::parse(ptx) {
        list.extend(edits_of(&module));
    }
    Ok(list)
}

/// Every edit of a module, in the order of its lines.
pub fn edits_of(module: &Module) -> Vec<Mutant> {
    let mut list = edited(module);
    let mut seen = HashSet::new();
    for mutant in &mut list {
        let mut number = 1;
        let id = mutant.id.clone();
        while !seen.insert(mutant.id.clone()) {
            number += 1;
            mutant.id = format!("{id}:{number}");
        }
    }
    list
}

fn planted(kernel: &Kernel) -> Result<Vec<Mutant>, OpenError> {
    let folder = kernel.mutants_folder();
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read = |source| OpenError::Read { file: folder.clone(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(read)? {
        let file = entry.map_err(read)?.path();
        if file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
    }
    files.sort();
    let mutant = |file: PathBuf| {
        let opened = Kernel::open(&file.to_string_lossy())?;
        let summary = opened.mutant.map(|mutant| mutant.summary).unwrap_or_default();
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Mutant {
            id: format!("planted:{name}"),
            operator: "planted",
            line: 0,
            source: None,
            before: String::new(),
            after: summary,
            origin: Origin::Planted(file),
        })
    };
    files.into_iter().map(mutant).collect()
}

fn edited(module: &Module) -> Vec<Mutant> {
    let mut list = Vec::new();
    let places = module.places();
    let mut functions: HashMap<&str, Vec<&Instruction>> = HashMap::new();
    for place in &places {
        functions.entry(place.function).or_default().push(place.instruction);
    }
    let names: HashMap<&str, Names> = functions.into_iter().map(|(name, code)| (name, Names::of(&code))).collect();
    let idle = idle_lines(module);
    for (index, place) in places.iter().enumerate() {
        let Some(names) = names.get(place.function) else { continue };
        let line = place.instruction.at.line;
        let unread = names.is_dead(place.instruction) || idle.unread.contains(&line);
        for edit in edits(place.instruction, names) {
            let equivalent = if unread {
                Some("nothing reads what the instruction gives")
            } else {
                let left_out = edit.operator == "drop" && idle.repeated.contains(&line);
                left_out.then_some("the register holds that constant already")
            };
            let variant = if edit.variant.is_empty() { String::new() } else { format!(":{}", edit.variant) };
            list.push(Mutant {
                id: format!("{}:{line}{variant}", edit.operator),
                operator: edit.operator,
                line,
                source: place.source.map(|(path, line)| format!("{path}:{line}")),
                before: place.instruction.to_string(),
                after: edit.text,
                origin: Origin::Edited { place: index, guards: edit.guards, equivalent },
            });
        }
    }
    list
}

/// Lines idle in every kernel they are part of.
fn idle_lines(module: &Module) -> Idle {
    let mut idle = Idle::default();
    let mut busy = Idle::default();
    for program in module.entries().filter_map(|entry| module.lower(entry).ok()) {
        let own = program.idle();
        for line in program.code().iter().map(|inst| inst.line) {
            let sort = |own: &BTreeSet<u32>, idle: &mut BTreeSet<u32>, busy: &mut BTreeSet<u32>| {
                if own.contains(&line) { idle } else { busy }.insert(line);
            };
            sort(&own.unread, &mut idle.unread, &mut busy.unread);
            sort(&own.repeated, &mut idle.repeated, &mut busy.repeated);
        }
    }
    idle.unread.retain(|line| !busy.unread.contains(line));
    idle.repeated.retain(|line| !busy.repeated.contains(line));
    idle
}

/// A kernel with what its mutants are made from.
pub(super) struct Subject<'k> {
    pub(super) kernel: &'k Kernel,
    module: &'k Module,
    places: Vec<Place<'k>>,
}

impl<'k> Subject<'k> {
    pub(super) fn new(kernel: &'k Kernel, module: &'k Module) -> Self {
        Self { kernel, module, places: module.places() }
    }

    /// The mutant as a kernel, or why it is none worth running.
    pub(super) fn build(&self, mutant: &Mutant) -> Result<Kernel, Status> {
        let stillborn = |error: String| Status::Stillborn(error);
        let built = match &mutant.origin {
            Origin::Planted(file) => Kernel::open(&file.to_string_lossy()).map_err(|e| stillborn(e.to_string()))?,
            Origin::Edited { place, .. } => {
                let place = &self.places[*place];
                let module = self.module.replaced(place, &mutant.after).map_err(|e| stillborn(e.to_string()))?;
                let ptx = self.kernel.ptx().map_err(|e| stillborn(e.to_string()))?;
                let ptx = place.spliced(ptx, &mutant.after).unwrap_or_default();
                self.kernel.with_ptx(ptx, &module).map_err(|e| stillborn(e.to_string()))?
            }
        };
        if built.runs_like(self.kernel) {
            return Err(Status::Equivalent("it lowers to the same program".into()));
        }
        Ok(built)
    }
}

/// `count` of `mutants`, drawn by `seed`, in the order they had.
pub fn sample(mutants: Vec<Mutant>, count: usize, seed: u64) -> Vec<Mutant> {
    let draw = |mutant: &Mutant| mixed(fnv1a(format!("{seed}:{}", mutant.id).as_bytes()));
    let mut draws: Vec<u64> = mutants.iter().map(draw).collect();
    if count >= draws.len() {
        return mutants;
    }
    draws.sort_unstable();
    let limit = draws[count];
    mutants.into_iter().filter(|mutant| draw(mutant) < limit).collect()
}

/// Names that differ in their last letters only have hashes that lie close together; these don't.
fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
