//! What a device loads of a kernel, and what the emulator runs of it.

use super::BackendError;
use super::cubin;
use super::kernel::OpenError;
use super::manifest::{Launch, Manifest, ManifestError};
use crate::case::codec::fnv1a;
use crate::float::Dtype;
use crate::ptx::{self, Module, Program};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A kernel's code for all its cases, or for some of them: entry points that were checked against the manifest.
#[derive(Clone)]
pub struct Code {
    image: Image,
    hash: u64,
    /// Where the image is, or would be; for messages.
    file: PathBuf,
    /// Each entry point that may be launched, by the name that the manifest has for it. Of a cubin there are none.
    entries: BTreeMap<String, Entry>,
}

/// What a device loads.
#[derive(Clone)]
pub enum Image {
    /// PTX, for the emulator and for any device.
    Ptx(String),
    /// Machine code of one architecture.
    Cubin(Vec<u8>),
}

#[derive(Clone)]
struct Entry {
    /// What the code calls it.
    symbol: String,
    /// Lowered for the emulator, or why it can't be.
    program: Result<Arc<Program>, ptx::Error>,
}

/// What code is checked against: a manifest, and the file it was read from.
#[derive(Clone, Copy)]
pub(super) struct Against<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) file: &'a Path,
}

impl Code {
    /// Code that has an entry point of every launch for every dtype of the domain.
    pub(super) fn for_all(against: Against<'_>, ptx_file: &Path, ptx: String) -> Result<Self, OpenError> {
        let (mut code, module) = Self::parsed(ptx_file, ptx)?;
        for launch in &against.manifest.launches {
            for &dtype in &against.manifest.domain.dtype {
                let entries: Vec<&str> = module.entries().filter(|e| launch.entry.may_be(e, dtype)).collect();
                if entries.is_empty() {
                    let wanted = launch.entry.text.replace("{dtype}", &dtype.to_string());
                    return Err(code.no_entry(against, module.entries(), &wanted));
                }
                for entry in entries {
                    code.add(against, launch, &module, entry, entry)?;
                }
            }
        }
        Ok(code)
    }

    /// Code that has these entry points, each of the launch with that index and with that name in the code.
    pub(super) fn with_entries(
        against: Against<'_>,
        ptx_file: &Path,
        ptx: String,
        entries: &[(usize, String)],
        symbol: impl Fn(&str) -> String,
    ) -> Result<Self, OpenError> {
        let (mut code, module) = Self::parsed(ptx_file, ptx)?;
        for (launch, entry) in entries {
            let symbol = symbol(entry);
            if !module.entries().any(|found| found == symbol) {
                return Err(code.no_entry(against, module.entries(), entry));
            }
            code.add(against, &against.manifest.launches[*launch], &module, entry, &symbol)?;
        }
        Ok(code)
    }

    /// Machine code that has an entry point of every launch for every dtype of the domain.
    pub(super) fn of_cubin(against: Against<'_>, file: &Path, cubin: Vec<u8>) -> Result<Self, OpenError> {
        let bad = |why| OpenError::Cubin { file: file.into(), why };
        let entries = cubin::entries(&cubin).map_err(bad)?;
        let hash = fnv1a(&cubin);
        let code = Self { image: Image::Cubin(cubin), hash, file: file.into(), entries: BTreeMap::new() };
        for launch in &against.manifest.launches {
            for &dtype in &against.manifest.domain.dtype {
                let mut found = entries.iter().filter(|(entry, _)| launch.entry.may_be(entry, dtype)).peekable();
                if found.peek().is_none() {
                    let wanted = launch.entry.text.replace("{dtype}", &dtype.to_string());
                    return Err(code.no_entry(against, entries.keys().map(String::as_str), &wanted));
                }
                for (entry, sizes) in found {
                    against.manifest.check_params(against.file, launch, entry, sizes)?;
                }
            }
        }
        Ok(code)
    }

    fn parsed(ptx_file: &Path, ptx: String) -> Result<(Self, Module), OpenError> {
        let module = ptx::parse(&ptx).map_err(|error| OpenError::Ptx { file: ptx_file.into(), error })?;
        Ok((Self::of_ptx(ptx_file, ptx, BTreeMap::new()), module))
    }

    fn of_ptx(file: &Path, ptx: String, entries: BTreeMap<String, Entry>) -> Self {
        Self { hash: fnv1a(ptx.as_bytes()), image: Image::Ptx(ptx), file: file.into(), entries }
    }

    fn add(
        &mut self,
        against: Against<'_>,
        launch: &Launch,
        module: &Module,
        entry: &str,
        symbol: &str,
    ) -> Result<(), OpenError> {
        let program = module.lower(symbol);
        if let Ok(program) = &program {
            let sizes: Vec<usize> = program.params().iter().map(|p| p.size_bytes).collect();
            against.manifest.check_params(against.file, launch, entry, &sizes)?;
        }
        self.entries.insert(entry.into(), Entry { symbol: symbol.into(), program: program.map(Arc::new) });
        Ok(())
    }

    fn no_entry<'e>(&self, against: Against<'_>, found: impl Iterator<Item = &'e str>, wanted: &str) -> OpenError {
        let found = found.collect::<Vec<_>>().join(", ");
        let file = self.file.display();
        OpenError::Manifest(ManifestError {
            file: against.file.into(),
            line: None,
            key: "launch.entry: ".into(),
            message: format!("expected an entry of {file}, found {wanted:?}; it has {found}"),
        })
    }

    /// The same with other PTX. `module` is what `ptx` says, or as much of it as holds all that changed.
    pub(super) fn replaced(&self, ptx: String, module: &Module) -> Result<Self, ptx::Error> {
        let mut code = Self::of_ptx(&self.file, ptx, self.entries.clone());
        for name in module.entries() {
            if let Some(program) = code.entries.get_mut(name).and_then(|entry| entry.program.as_mut().ok()) {
                *program = Arc::new(module.lower(name)?);
            }
        }
        Ok(code)
    }

    /// Whether its programs are the same as those of `other`, whatever the texts.
    pub(super) fn runs_like(&self, other: &Self) -> bool {
        let same = |own: &Program, other: &Program| std::ptr::eq(own, other) || own.is_same_as(other);
        self.entries.len() == other.entries.len()
            && self.entries.iter().all(|(name, own)| {
                match (&own.program, other.entries.get(name).map(|entry| &entry.program)) {
                    (Ok(own), Some(Ok(other))) => same(own, other),
                    (Err(_), Some(Err(_))) => true,
                    _ => false,
                }
            })
    }

    /// What a device loads.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Its PTX, if it is not machine code.
    pub fn ptx(&self) -> Option<&str> {
        match &self.image {
            Image::Ptx(ptx) => Some(ptx),
            Image::Cubin(_) => None,
        }
    }

    /// A hash of the image.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What the code calls an entry point that the manifest calls `entry`.
    pub fn symbol<'c>(&'c self, entry: &'c str) -> &'c str {
        self.entries.get(entry).map_or(entry, |entry| &entry.symbol)
    }

    /// Where its PTX is, or would be.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Why the emulator can't run an entry point that `wanted` picks, if there is such a one.
    pub(super) fn limit(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        if self.ptx().is_none() {
            return Some(self.is_cubin());
        }
        let wanted = self.entries.keys().filter(|name| wanted(name));
        wanted.filter_map(|name| self.program(name).err()).map(|error| error.to_string()).next()
    }

    /// Its entry points that the emulator can run, in the order of their names.
    pub(super) fn lowered(&self) -> impl Iterator<Item = (&str, Arc<Program>)> {
        let entries = self.entries.iter();
        entries.filter_map(|(name, entry)| Some((name.as_str(), Arc::clone(entry.program.as_ref().ok()?))))
    }

    /// An entry point as the emulator runs it.
    pub(super) fn program(&self, entry: &str) -> Result<&Program, BackendError> {
        match self.entries.get(entry).map(|entry| &entry.program) {
            None if self.ptx().is_none() => Err(BackendError::Unsupported(self.is_cubin())),
            None => Err(BackendError::NoEntry(entry.into())),
            Some(Err(error)) => Err(BackendError::Unsupported(format!("{}:{error}", self.file.display()))),
            Some(Ok(program)) => Ok(program),
        }
    }

    fn is_cubin(&self) -> String {
        format!("{} is machine code, which only a GPU runs", self.file.display())
    }
}

/// The entry points that `case` launches, each with the index of its launch.
pub(super) fn entries_of(manifest: &Manifest, case: &crate::case::Case) -> Result<Vec<(usize, String)>, BackendError> {
    let mut entries = Vec::new();
    for step in 0..case.steps {
        let values = manifest.variables(case, step);
        for (index, launch) in manifest.launches.iter().enumerate() {
            entries.push((index, launch.entry.of(case.dtype, &values)?));
        }
    }
    entries.sort();
    entries.dedup();
    Ok(entries)
}

/// Whether an entry point of some launch has this name for `dtype`.
pub(super) fn is_entry_for(manifest: &Manifest, name: &str, dtype: Dtype) -> bool {
    manifest.launches.iter().any(|launch| launch.entry.may_be(name, dtype))
}
