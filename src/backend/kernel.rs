//! What is under test: code and manifest, opened and checked against each other.

use super::BackendError;
use super::compile::{self, CompileError, CompileSpec, Edit};
use super::manifest::{Manifest, ManifestError};
use crate::case::codec::fnv1a;
use crate::float::Dtype;
use crate::ptx::{self, Program};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A kernel that passed every check that needs no case.
pub struct Kernel {
    /// What its manifest says.
    pub manifest: Manifest,
    /// Set if it is a planted bug.
    pub mutant: Option<Mutant>,
    origin: Origin,
    /// CUDA source, edits applied.
    source: Option<String>,
    ptx: String,
    ptx_hash: u64,
    /// Each entry point of the domain, lowered for the emulator, or why it can't be.
    programs: BTreeMap<String, Result<Program, ptx::Error>>,
}

/// What a mutant's file says of the bug it plants.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Manifest of the kernel it changes, relative to the mutant's file.
    pub mutant_of: String,
    /// Short name, such as M01.
    pub id: String,
    /// What is wrong, in a sentence.
    pub summary: String,
    /// Class of bug.
    pub class: String,
    /// How hard it is to find, 1 to 4.
    pub tier: u8,
    /// The least a case must have to show it.
    pub needs: String,
    /// Mutated PTX, relative to the mutant's file.
    pub ptx: String,
    /// Changes of the source.
    #[serde(rename = "edit")]
    pub edits: Vec<Edit>,
}

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
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The PTX is wrong.
    #[error("{file}:{error}", file = file.display())]
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
        error: CompileError,
    },
}

/// A kernel that is part of the program.
struct Shipped {
    name: &'static str,
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

const SHIPPED: &[Shipped] = shipped!["gqa_decode"];

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
            let ptx_file = file.with_file_name("kernel.ptx");
            let (source, ptx) = (Some(shipped.source.to_owned()), shipped.ptx.to_owned());
            return Self::build(manifest, None, Origin::Shipped(shipped.name), source, ptx, &file, &ptx_file);
        }
        let path = Path::new(name);
        if !path.exists() {
            return Err(OpenError::Unknown { name: name.into() });
        }
        Self::open_file(path)
    }

    fn open_file(path: &Path) -> Result<Self, OpenError> {
        let text = read(path)?;
        if !is_mutant(&text) {
            let manifest = Manifest::parse(path, &text)?;
            let ptx_file = beside(path, &manifest.ptx);
            let source = manifest.source.as_ref().map(|s| read(&beside(path, s))).transpose()?;
            let ptx = read(&ptx_file)?;
            return Self::build(manifest, None, Origin::File(path.into()), source, ptx, path, &ptx_file);
        }
        let mutant: Mutant = toml::from_str(&text).map_err(|e| toml_error(path, &text, &e))?;
        let parent_file = beside(path, &mutant.mutant_of);
        let mut manifest = Manifest::parse(&parent_file, &read(&parent_file)?)?;
        let edit_error = |error| OpenError::Edit { file: path.into(), error };
        let source = match &manifest.source {
            Some(s) => Some(compile::apply_edits(&read(&beside(&parent_file, s))?, &mutant.edits).map_err(edit_error)?),
            None => None,
        };
        let stem = path.file_stem().map_or_else(|| mutant.id.clone(), |s| s.to_string_lossy().into_owned());
        manifest.name = format!("{}.{stem}", manifest.name);
        manifest.summary.clone_from(&mutant.summary);
        let ptx_file = beside(path, &mutant.ptx);
        let ptx = read(&ptx_file)?;
        Self::build(manifest, Some(mutant), Origin::File(path.into()), source, ptx, path, &ptx_file)
    }

    fn build(
        manifest: Manifest,
        mutant: Option<Mutant>,
        origin: Origin,
        source: Option<String>,
        ptx: String,
        file: &Path,
        ptx_file: &Path,
    ) -> Result<Self, OpenError> {
        let ptx_error = |error| OpenError::Ptx { file: ptx_file.into(), error };
        let module = ptx::parse(&ptx).map_err(ptx_error)?;
        let mut programs = BTreeMap::new();
        for launch in &manifest.launches {
            for &dtype in &manifest.domain.dtype {
                let entry = launch.entry_for(dtype);
                if !module.entries().any(|e| e == entry) {
                    let found = module.entries().collect::<Vec<_>>().join(", ");
                    return Err(ManifestError {
                        file: file.into(),
                        line: None,
                        key: "launch.entry: ".into(),
                        message: format!("expected an entry of {}, found {entry:?}; it has {found}", ptx_file.display()),
                    }
                    .into());
                }
                let program = module.lower(&entry);
                if let Ok(program) = &program {
                    let sizes: Vec<usize> = program.params().iter().map(|p| p.size_bytes).collect();
                    manifest.check_params(file, launch, &entry, &sizes)?;
                }
                programs.insert(entry, program);
            }
        }
        let ptx_hash = fnv1a(ptx.as_bytes());
        Ok(Self { manifest, mutant, origin, source, ptx, ptx_hash, programs })
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

    /// Its PTX.
    pub fn ptx(&self) -> &str {
        &self.ptx
    }

    /// A hash of the PTX.
    pub fn ptx_hash(&self) -> u64 {
        self.ptx_hash
    }

    /// Its CUDA source, a mutant's edits applied.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// How its PTX is made.
    pub fn compile_spec(&self) -> Option<&CompileSpec> {
        self.manifest.compile.as_ref()
    }

    /// The file its PTX came from, if it is on disk: a shipped kernel's is when run from the source tree.
    pub fn ptx_file(&self) -> PathBuf {
        match &self.origin {
            Origin::Shipped(name) => Path::new("kernels").join(name).join("kernel.ptx"),
            Origin::File(path) => beside(path, self.mutant.as_ref().map_or(&self.manifest.ptx, |m| &m.ptx)),
        }
    }

    /// Whether the emulator can run the entry for `dtype`; if not, why.
    pub fn emulator_limit(&self, dtype: Dtype) -> Option<String> {
        self.manifest.launches.iter().find_map(|l| self.program(&l.entry_for(dtype)).err()).map(|e| e.to_string())
    }

    pub(super) fn program(&self, entry: &str) -> Result<&Program, BackendError> {
        match self.programs.get(entry) {
            None => Err(BackendError::NoEntry(entry.into())),
            Some(Err(error)) => Err(BackendError::Unsupported(format!("{}:{error}", self.ptx_file().display()))),
            Some(Ok(program)) => Ok(program),
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({})", self.reference())
    }
}

fn is_mutant(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("mutant_of"))
}

fn toml_error(file: &Path, text: &str, error: &toml::de::Error) -> ManifestError {
    let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    ManifestError { file: file.into(), line, key: String::new(), message: error.message().trim().replace('\n', ", ") }
}

fn beside(file: &Path, relative: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(relative)
}

/// Largest file that is read as a manifest, source or PTX.
const MAX_FILE_BYTES: u64 = 64 << 20;

fn read(file: &Path) -> Result<String, OpenError> {
    let error = |source| OpenError::Read { file: file.into(), source };
    let size = std::fs::metadata(file).map_err(error)?.len();
    if size > MAX_FILE_BYTES {
        let message = format!("expected at most {MAX_FILE_BYTES} bytes, found {size}");
        return Err(error(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message)));
    }
    std::fs::read_to_string(file).map_err(error)
}
