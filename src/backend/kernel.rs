//! What is under test: code and manifest, opened and checked against each other.

use super::BackendError;
use super::compile::{EditError, Source};
use super::manifest::{Manifest, ManifestError};
use super::plan;
use super::sources::{Mutant, Sources, beside, read};
use crate::case::Case;
use crate::case::codec::fnv1a;
use crate::float::Dtype;
use crate::generate::Space;
use crate::ptx::{self, Program};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a small case costs at most, see [`cost`](crate::generate::cost).
pub const SMALL_BUDGET: u64 = 1 << 11;
/// Warps that a small case's launches have at most, over all steps: where blocks are many, they are what emulating it costs.
pub const SMALL_WARPS: u64 = 64;

/// A kernel that passed every check that needs no case.
pub struct Kernel {
    /// What its manifest says.
    pub manifest: Manifest,
    /// Set if it is a planted bug.
    pub mutant: Option<Mutant>,
    space: Space,
    origin: Origin,
    ptx_file: PathBuf,
    /// CUDA source, edits applied; headers where they were read.
    source: Option<Source>,
    ptx: String,
    ptx_hash: u64,
    manifest_hash: u64,
    /// Each entry point of the domain, lowered for the emulator, or why it can't be.
    programs: Programs,
}

type Programs = BTreeMap<String, Result<Arc<Program>, ptx::Error>>;

/// Where a kernel came from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Shipped(&'static str),
    File(PathBuf),
}

/// Why a kernel can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Neither a shipped kernel nor a file.
    #[error("unknown kernel {name:?}: expected one of {known}, or the path of a kernel.toml", known = shipped_names().join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
    /// A file can't be read.
    #[error("can't read {file}: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Code was named instead of the manifest that goes with it.
    #[error("expected the path of a manifest such as kernel.toml, found {file}: attnfuzz needs to know its arguments, see docs/manifest.md", file = file.display())]
    NotAManifest {
        /// The file.
        file: PathBuf,
    },
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The PTX is wrong.
    #[error("{file}: {error}", file = file.display())]
    Ptx {
        /// The file.
        file: PathBuf,
        /// Where and what.
        error: ptx::Error,
    },
    /// The source's edits can't be applied.
    #[error("{file}: {error}", file = file.display())]
    Edit {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: EditError,
    },
}

/// A kernel that is part of the program.
pub(super) struct Shipped {
    pub(super) name: &'static str,
    manifest: &'static str,
    source: &'static str,
    ptx: &'static str,
}

macro_rules! shipped {
    ($($name:literal),*) => {
        &[$(Shipped {
            name: $name,
            manifest: include_str!(concat!("../../kernels/", $name, "/kernel.toml")),
            source: include_str!(concat!("../../kernels/", $name, "/kernel.cu")),
            ptx: include_str!(concat!("../../kernels/", $name, "/kernel.ptx")),
        }),*]
    };
}

pub(super) const SHIPPED: &[Shipped] = shipped!["gqa_decode", "gqa_decode_paged", "gqa_decode_split_kv", "gqa_prefill"];

/// Headers of the shipped kernels.
const HEADERS: &[(&str, &str)] = &[
    ("common.cuh", include_str!("../../kernels/common.cuh")),
    ("decode_split.cuh", include_str!("../../kernels/decode_split.cuh")),
];

/// Names of the kernels that are part of the program.
pub fn shipped_names() -> Vec<&'static str> {
    SHIPPED.iter().map(|s| s.name).collect()
}

impl Kernel {
    /// Opens a shipped kernel by name, or the manifest (of a kernel or a mutant) at a path.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        if let Some(shipped) = SHIPPED.iter().find(|s| s.name == name) {
            let file = PathBuf::from(format!("kernels/{name}/kernel.toml"));
            let manifest = Manifest::parse(&file, shipped.manifest)?;
            let sources = Sources::built_in(file, manifest, shipped.manifest, shipped.source);
            return Self::build(sources, Origin::Shipped(shipped.name), shipped.ptx.to_owned());
        }
        let path = Path::new(name);
        if !path.exists() {
            return Err(OpenError::Unknown { name: name.into() });
        }
        let is_code = |extension: &std::ffi::OsStr| extension == "ptx" || extension == "cu" || extension == "cubin";
        if path.extension().is_some_and(is_code) {
            return Err(OpenError::NotAManifest { file: path.into() });
        }
        Self::open_file(path)
    }

    fn open_file(path: &Path) -> Result<Self, OpenError> {
        let sources = Sources::read(path)?;
        let ptx = read(&sources.ptx_file)?;
        Self::build(sources, Origin::File(path.into()), ptx)
    }

    fn build(sources: Sources, origin: Origin, ptx: String) -> Result<Self, OpenError> {
        let Sources { file, manifest, manifest_hash, mutant, source, ptx_file } = sources;
        let ptx_error = |error| OpenError::Ptx { file: ptx_file.clone(), error };
        let module = ptx::parse(&ptx).map_err(ptx_error)?;
        let mut programs = BTreeMap::new();
        for launch in &manifest.launches {
            for &dtype in &manifest.domain.dtype {
                let entries: Vec<&str> = module.entries().filter(|e| launch.entry.may_be(e, dtype)).collect();
                if entries.is_empty() {
                    let found = module.entries().collect::<Vec<_>>().join(", ");
                    let wanted = launch.entry.text.replace("{dtype}", &dtype.to_string());
                    return Err(ManifestError {
                        file: file.clone(),
                        line: None,
                        key: "launch.entry: ".into(),
                        message: format!(
                            "expected an entry of {}, found {wanted:?}; it has {found}",
                            ptx_file.display()
                        ),
                    }
                    .into());
                }
                for entry in entries {
                    let program = module.lower(entry);
                    if let Ok(program) = &program {
                        let sizes: Vec<usize> = program.params().iter().map(|p| p.size_bytes).collect();
                        manifest.check_params(&file, launch, entry, &sizes)?;
                    }
                    programs.insert(entry.to_owned(), program.map(Arc::new));
                }
            }
        }
        let space = Space::new(&manifest.domain).map_err(|error| ManifestError {
            file: file.clone(),
            line: None,
            key: "domain: ".into(),
            message: error.to_string(),
        })?;
        let ptx_hash = fnv1a(ptx.as_bytes());
        Ok(Self { manifest, mutant, space, origin, source, ptx_file, ptx, ptx_hash, manifest_hash, programs })
    }

    /// This kernel with other PTX: a mutant. `module` is what `ptx` says, or as much of it as holds all that changed:
    /// entries that it lacks stay what they are.
    ///
    /// # Errors
    /// The first entry of `module` that can't be lowered although the one it replaces could.
    pub fn with_ptx(&self, ptx: String, module: &ptx::Module) -> Result<Self, ptx::Error> {
        let mut programs = self.programs.clone();
        for entry in module.entries() {
            if let Some(program) = programs.get_mut(entry).and_then(|program| program.as_mut().ok()) {
                *program = Arc::new(module.lower(entry)?);
            }
        }
        Ok(Self {
            manifest: self.manifest.clone(),
            mutant: None,
            space: self.space.clone(),
            origin: self.origin.clone(),
            ptx_file: self.ptx_file.clone(),
            source: None,
            ptx_hash: fnv1a(ptx.as_bytes()),
            manifest_hash: self.manifest_hash,
            ptx,
            programs,
        })
    }

    /// Whether its programs are the same as those of `other`, whatever the texts.
    pub fn runs_like(&self, other: &Self) -> bool {
        let same = |own: &Program, other: &Program| std::ptr::eq(own, other) || own.is_same_as(other);
        self.programs.len() == other.programs.len()
            && self.programs.iter().all(|(entry, own)| match (own, other.programs.get(entry)) {
                (Ok(own), Some(Ok(other))) => same(own, other),
                (Err(_), Some(Err(_))) => true,
                _ => false,
            })
    }

    /// The folder where planted bugs of this kernel are, if it is on disk: `kernels/mutants/NAME` beside the kernel's own.
    pub fn mutants_folder(&self) -> PathBuf {
        let manifest = match &self.origin {
            Origin::Shipped(name) => Path::new("kernels").join(name).join("kernel.toml"),
            Origin::File(path) => path.clone(),
        };
        let kernels = manifest.parent().and_then(Path::parent).unwrap_or(Path::new(""));
        kernels.join("mutants").join(self.name())
    }

    /// Its name in reports and folders.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// What [`Kernel::open`] takes to open it again: a shipped kernel's name, or a path.
    pub fn reference(&self) -> String {
        match &self.origin {
            Origin::Shipped(name) => (*name).into(),
            Origin::File(path) => path.display().to_string(),
        }
    }

    /// The cases it claims to support, to draw from.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The same for those who would rather have many small cases than large ones, as fuzz targets do: what is decoded or
    /// mutated costs at most [`SMALL_BUDGET`] and launches at most [`SMALL_WARPS`].
    pub fn small_space(&self) -> Space {
        let manifest = self.manifest.clone();
        let warps = move |case: &Case| plan::warps(&manifest, case).unwrap_or(u64::MAX);
        self.space.clone().with_budget(SMALL_BUDGET).with_limit(SMALL_WARPS, warps)
    }

    /// A file of its CUDA source by the name that line information gives it: where it is or would be, and what it says, a
    /// mutant's edits applied. A header that can't be read is none.
    pub fn source_file(&self, name: &str) -> Option<(PathBuf, String)> {
        let manifest = match (&self.origin, &self.mutant) {
            (Origin::Shipped(name), _) => PathBuf::from(format!("kernels/{name}/kernel.toml")),
            (Origin::File(path), None) => path.clone(),
            (Origin::File(path), Some(mutant)) => beside(path, &mutant.mutant_of),
        };
        let source = self.source.as_ref()?;
        if source.main.name == name {
            return Some((beside(&manifest, self.manifest.source.as_deref()?), source.main.text.clone()));
        }
        let headers = &self.manifest.compile.as_ref()?.headers;
        let header = headers.iter().find(|header| Path::new(header).file_name().is_some_and(|file| file == name))?;
        let path = beside(&manifest, header);
        let edited = source.headers.iter().find(|header| header.name == name).map(|header| header.text.clone());
        let built_in = || match self.origin {
            Origin::Shipped(_) => HEADERS.iter().find(|(header, _)| *header == name).map(|(_, text)| (*text).into()),
            Origin::File(_) => read(&path).ok(),
        };
        let text = edited.or_else(built_in)?;
        Some((path, text))
    }

    /// Where its PTX is, or would be.
    pub fn ptx_file(&self) -> &Path {
        &self.ptx_file
    }

    /// Its PTX.
    pub fn ptx(&self) -> &str {
        &self.ptx
    }

    /// A hash of the PTX.
    pub fn ptx_hash(&self) -> u64 {
        self.ptx_hash
    }

    /// A hash of all that decides how it runs and is judged: the manifest's text and the PTX.
    pub fn content_hash(&self) -> u64 {
        fnv1a(&[self.manifest_hash, self.ptx_hash].map(u64::to_le_bytes).concat())
    }

    /// Its CUDA source, a mutant's edits applied.
    pub fn source(&self) -> Option<&str> {
        self.source.as_ref().map(|source| source.main.text.as_str())
    }

    /// Whether the emulator can run the entry for `dtype`; if not, why.
    pub fn emulator_limit(&self, dtype: Dtype) -> Option<String> {
        let launches = &self.manifest.launches;
        let entries = self.programs.keys().filter(|entry| launches.iter().any(|l| l.entry.may_be(entry, dtype)));
        entries.filter_map(|entry| self.program(entry).err()).map(|e| e.to_string()).next()
    }

    /// Its entry points that the emulator can run, in the order of their names.
    pub(super) fn lowered(&self) -> impl Iterator<Item = (&str, Arc<Program>)> {
        self.programs.iter().filter_map(|(entry, program)| Some((entry.as_str(), Arc::clone(program.as_ref().ok()?))))
    }

    pub(super) fn program(&self, entry: &str) -> Result<&Program, BackendError> {
        match self.programs.get(entry) {
            None => Err(BackendError::NoEntry(entry.into())),
            Some(Err(error)) => Err(BackendError::Unsupported(format!("{}:{error}", self.ptx_file.display()))),
            Some(Ok(program)) => Ok(program),
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({})", self.reference())
    }
}
