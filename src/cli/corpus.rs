//! `attnfuzz corpus`.

use super::{Exit, Failure};
use crate::backend::{Kernel, shipped_names};
use crate::corpus::{self, Entry};
use crate::guide::reduce;
use clap::Subcommand;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct CorpusArgs {
    #[command(subcommand)]
    command: CorpusCommand,
}

#[derive(Subcommand)]
enum CorpusCommand {
    /// Remove entries that reach nothing that cheaper ones don't reach
    #[command(after_help = "\
Each entry is run once in the emulator, and what it reaches in its kernel is recorded. What stays reaches as much. Files that
are no entries, entries of other kernels, and those on which the kernel faults or that can't be run are told and stay.

The exit code is 3 if there are such, else 0.")]
    Minimise {
        /// Folder of entries, such as a fuzz target's or --corpus of a guided campaign
        folder: PathBuf,
        /// Paths of kernel.toml, of kernels other than the shipped ones
        kernels: Vec<String>,
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) fn run(args: &CorpusArgs) -> Result<Exit, Failure> {
    let CorpusCommand::Minimise { folder, kernels, dry_run } = &args.command;
    minimise(folder, kernels, *dry_run)
}

/// The entries of a folder. Says which files are none; those stay as they are.
pub(super) fn read(folder: &Path) -> Result<Vec<(PathBuf, Entry)>, Failure> {
    let mut entries = Vec::new();
    for entry in corpus::load_each(folder).map_err(|error| Failure::usage(format!("corpus: {error}")))? {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(error) => eprintln!("warning: passed over: {error}"),
        }
    }
    Ok(entries)
}

fn minimise(folder: &Path, kernels: &[String], dry_run: bool) -> Result<Exit, Failure> {
    let files = corpus::load_each(folder).map_err(Failure::usage)?.len();
    let entries = read(folder)?;
    let mut is_whole = entries.len() == files;
    let opened = kernels.iter().map(|path| Kernel::open(path).map_err(Failure::usage));
    let shipped = shipped_names().into_iter().filter(|name| entries.iter().any(|(_, entry)| entry.kernel == *name));
    let shipped = shipped.map(|name| Kernel::open(name).map_err(Failure::usage));
    let kernels: BTreeMap<String, Kernel> = shipped
        .chain(opened)
        .map(|kernel| kernel.map(|kernel| (kernel.name().to_owned(), kernel)))
        .collect::<Result<_, _>>()?;
    let mut by_kernel: BTreeMap<&str, Vec<&(PathBuf, Entry)>> = BTreeMap::new();
    for entry in &entries {
        by_kernel.entry(&entry.1.kernel).or_default().push(entry);
    }
    for (name, entries) in by_kernel {
        let Some(kernel) = kernels.get(name) else {
            eprintln!("warning: {} entries of {name} stay: its kernel.toml was not given", entries.len());
            is_whole = false;
            continue;
        };
        let cases: Vec<_> = entries.iter().map(|(_, entry)| entry.case.clone()).collect();
        let reduced = reduce(kernel, &cases);
        for (index, why) in &reduced.untold {
            eprintln!("warning: {} stays: {why}", entries[*index].0.display());
            is_whole = false;
        }
        let redundant = (0..entries.len()).filter(|index| reduced.kept.binary_search(index).is_err());
        for path in redundant.map(|index| &entries[index].0) {
            if dry_run {
                println!("{}", path.display());
            } else {
                std::fs::remove_file(path)
                    .map_err(|error| Failure::usage(format!("can't remove {}: {error}", path.display())))?;
            }
        }
        println!(
            "{name}: {} of {} entries reach {} of {} points",
            reduced.kept.len(),
            entries.len(),
            reduced.reached,
            reduced.existing
        );
    }
    Ok(if is_whole { Exit::Clean } else { Exit::Partly })
}
