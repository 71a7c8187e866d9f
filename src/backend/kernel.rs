//! What is under test: code and manifest, opened and checked against each other.

use super::BackendError;
use super::claim::Claim;
use super::code::{Against, Code, is_entry_for};
use super::compile::{EditError, Source};
use super::compiler::Compiler;
use super::made::{Made, Maker};
use super::manifest::{Manifest, ManifestError};
use super::plan;
use super::sources::{CodeFile, Mutant, Sources, beside, read, read_bytes};
use crate::case::Case;
use crate::case::codec::fnv1a;
use crate::float::Dtype;
use crate::generate::Space;
use crate::ptx::{self, Program};
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
    /// CUDA source, edits applied; headers where they were read.
    source: Option<Source>,
    subject: Subject,
    manifest_hash: u64,
}

/// What runs.
#[derive(Clone)]
enum Subject {
    /// The same code for every case.
    Fixed(Arc<Code>),
    /// Code that is made when a case asks for it.
    Made(Arc<Made>),
}

/// Where a kernel came from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Shipped(&'static str),
    File(PathBuf),
    /// A program's own, and what messages call it.
    Code(PathBuf),
}

/// What names a kernel of [`Origin::Code`] in findings.
const IN_CODE: &str = "code:";

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
    /// A kernel that only the program knows that made the finding.
    #[error("the kernel {name:?} is made in code: run the test that makes it, which replays its findings first")]
    InCode {
        /// Its name.
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
    /// The machine code is none.
    #[error("{file}: {why}", file = file.display())]
    Cubin {
        /// The file.
        file: PathBuf,
        /// Expected and found.
        why: String,
    },
    /// The source's edits can't be applied.
    #[error("{file}: {error}", file = file.display())]
    Edit {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        error: EditError,
    },
    /// What was asked for needs one PTX text.
    #[error(transparent)]
    NoPtx(#[from] NoPtx),
}

/// A kernel has no PTX that all its cases run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kernel} has no PTX of its own: {why}")]
pub struct NoPtx {
    /// Name of the kernel.
    pub kernel: String,
    /// What it has instead.
    pub why: &'static str,
}

/// Why there is no such mutant of a kernel's PTX.
#[derive(Debug, thiserror::Error)]
pub enum MutantError {
    /// The kernel has none.
    #[error(transparent)]
    NoPtx(#[from] NoPtx),
    /// What it was changed to can't be run.
    #[error(transparent)]
    Ptx(#[from] ptx::Error),
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
            let ptx_file = beside(&file, manifest.ptx.as_deref().unwrap_or_default());
            let against = Against { manifest: &manifest, file: &file };
            let subject = Subject::Fixed(Arc::new(Code::for_all(against, &ptx_file, shipped.ptx.to_owned())?));
            let sources = Sources::built_in(file, manifest, shipped.manifest, shipped.source);
            return Self::new(sources, Origin::Shipped(shipped.name), subject);
        }
        if let Some(name) = name.strip_prefix(IN_CODE) {
            return Err(OpenError::InCode { name: name.into() });
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
        let origin = Origin::File(path.into());
        let file = sources.file.clone();
        let against = Against { manifest: &sources.manifest, file: &file };
        let subject = match &sources.code {
            CodeFile::Ptx(ptx) => Subject::Fixed(Arc::new(Code::for_all(against, ptx, read(ptx)?)?)),
            CodeFile::Cubin(cubin) => Subject::Fixed(Arc::new(Code::of_cubin(against, cubin, read_bytes(cubin)?)?)),
            CodeFile::None => {
                // Whoever runs stored PTX needs no header; here it is compiled.
                let sources = if sources.mutant.is_none() { sources.with_headers()? } else { sources };
                let compiler = Compiler::of(&sources)?;
                let name = format!("the PTX of {}", compiler.name());
                let made = Made::new(Path::new(&name), Maker::Compiler(Box::new(compiler)));
                return Self::new(sources, origin, Subject::Made(Arc::new(made)));
            }
        };
        Self::new(sources, origin, subject)
    }

    /// A kernel without code: its cases and what is known of it, for [`Closure`](super::closure::Closure) to run.
    pub(crate) fn without_code(name: &str, claim: Claim) -> Result<Self, OpenError> {
        let file = PathBuf::from(format!("{IN_CODE}{name}"));
        let manifest = claim.into_manifest(name);
        manifest.check_claim(&file)?;
        let space = space(&manifest, &file)?;
        let said = format!("{:?} {:?} {:?}", manifest.domain, manifest.numerics, manifest.lse);
        Ok(Self {
            manifest_hash: fnv1a(said.as_bytes()),
            mutant: None,
            space,
            origin: Origin::Code(file.clone()),
            source: None,
            subject: Subject::Made(Arc::new(Made::new(&file, Maker::Closure(Box::new(no_code))))),
            manifest,
        })
    }

    fn new(sources: Sources, origin: Origin, subject: Subject) -> Result<Self, OpenError> {
        let Sources { file, manifest, manifest_hash, mutant, source, .. } = sources;
        let space = space(&manifest, &file)?;
        Ok(Self { manifest, mutant, space, origin, source, subject, manifest_hash })
    }

    /// A kernel whose PTX `make` gives for each case, or says why there is none: code with the shape baked in, by another
    /// compiler than NVRTC. `manifest` is the text of a `kernel.toml` without `ptx` and `source`, `file` what messages call it.
    ///
    /// `make` is asked before each run of a case and must answer the same each time. What it gives is checked against the
    /// manifest when it is first seen; what it takes to check and lower it is kept for the last few texts. Worker
    /// processes can't ask a closure, so such a kernel runs in this process.
    ///
    /// # Errors
    /// The manifest is wrong.
    pub fn made_by(
        file: &Path,
        manifest: &str,
        make: impl Fn(&Case) -> Result<String, String> + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let manifest_hash = fnv1a(manifest.as_bytes());
        let manifest = Manifest::parse(file, manifest)?;
        let (ptx, cubin) = (manifest.ptx.is_some(), manifest.cubin.is_some());
        for (key, given) in [("ptx", ptx), ("cubin", cubin), ("source", manifest.source.is_some())] {
            if given {
                let message = "expected nothing, since the code is made for each case".into();
                return Err(ManifestError { file: file.into(), line: None, key: format!("{key}: "), message }.into());
            }
        }
        let space = space(&manifest, file)?;
        let made = Made::new(Path::new("the PTX made for the case"), Maker::Closure(Box::new(make)));
        let subject = Subject::Made(Arc::new(made));
        let origin = Origin::Code(file.into());
        Ok(Self { manifest, mutant: None, space, origin, source: None, subject, manifest_hash })
    }

    /// A kernel from the texts of its manifest and its PTX; `file` is what messages call the manifest.
    pub(crate) fn of_texts(file: &Path, manifest: &str, ptx: String) -> Result<Self, OpenError> {
        let manifest_hash = fnv1a(manifest.as_bytes());
        let manifest = Manifest::parse(file, manifest)?;
        let code = Code::for_all(Against { manifest: &manifest, file }, Path::new("the PTX"), ptx)?;
        let (space, origin) = (space(&manifest, file)?, Origin::Code(file.into()));
        let subject = Subject::Fixed(Arc::new(code));
        Ok(Self { manifest, mutant: None, space, origin, source: None, subject, manifest_hash })
    }

    /// This kernel's code, driven as another manifest's text says; nothing if that is wrong, or speaks of other code.
    pub(crate) fn driven_by(&self, manifest: &str) -> Option<Self> {
        let file = self.file();
        let manifest_hash = fnv1a(manifest.as_bytes());
        let manifest = Manifest::parse(&file, manifest).ok()?;
        if !manifest.runs_the_code_of(&self.manifest) {
            return None;
        }
        let (space, origin) = (space(&manifest, &file).ok()?, Origin::Code(file));
        let subject = self.subject.clone();
        Some(Self { manifest, mutant: None, space, origin, source: None, subject, manifest_hash })
    }

    /// This kernel with other PTX for every case: a mutant. `module` is what `ptx` says, or as much of it as holds all
    /// that changed: entries that it lacks stay what they are.
    ///
    /// # Errors
    /// The first entry of `module` that can't be lowered although the one it replaces could. A kernel without PTX of its
    /// own has no mutants of it.
    pub fn with_ptx(&self, ptx: String, module: &ptx::Module) -> Result<Self, MutantError> {
        self.ptx()?;
        let code = self.fixed()?.replaced(ptx, module)?;
        Ok(Self {
            manifest: self.manifest.clone(),
            mutant: None,
            space: self.space.clone(),
            origin: self.origin.clone(),
            source: None,
            subject: Subject::Fixed(Arc::new(code)),
            manifest_hash: self.manifest_hash,
        })
    }

    /// Whether its programs are the same as those of `other`, whatever the texts.
    pub fn runs_like(&self, other: &Self) -> bool {
        matches!((self.fixed(), other.fixed()), (Ok(own), Ok(other)) if own.runs_like(other))
    }

    /// The code that `case` runs in the emulator.
    ///
    /// # Errors
    /// It is made for the case, and can't be.
    pub fn code_for(&self, case: &Case) -> Result<Arc<Code>, BackendError> {
        self.code_on(case, None)
    }

    /// The same for a GPU of this compute capability: compiled for that one, where it is compiled for the case and the
    /// manifest leaves that open.
    pub(super) fn code_on(&self, case: &Case, device: Option<(i32, i32)>) -> Result<Arc<Code>, BackendError> {
        match &self.subject {
            Subject::Fixed(code) => Ok(code.clone()),
            Subject::Made(made) => made.code(&self.manifest, &self.file(), case, device),
        }
    }

    /// The one code of all cases.
    fn fixed(&self) -> Result<&Code, NoPtx> {
        match &self.subject {
            Subject::Fixed(code) => Ok(code),
            Subject::Made(_) => Err(self.no_ptx("it is made for each case")),
        }
    }

    fn no_ptx(&self, why: &'static str) -> NoPtx {
        NoPtx { kernel: self.name().into(), why }
    }

    /// The file that messages about the manifest name.
    fn file(&self) -> PathBuf {
        match &self.origin {
            Origin::Shipped(name) => Path::new("kernels").join(name).join("kernel.toml"),
            Origin::File(path) | Origin::Code(path) => path.clone(),
        }
    }

    /// The folder where planted bugs of this kernel are, if it is on disk: `kernels/mutants/NAME` beside the kernel's own.
    pub fn mutants_folder(&self) -> PathBuf {
        let manifest = self.file();
        let kernels = manifest.parent().and_then(Path::parent).unwrap_or(Path::new(""));
        kernels.join("mutants").join(self.name())
    }

    /// Its name in reports and folders.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// What [`Kernel::open`] takes to open it again: a shipped kernel's name, or a path. Of a kernel made in code, what it
    /// knows as such.
    pub fn reference(&self) -> String {
        match &self.origin {
            Origin::Shipped(name) => (*name).into(),
            Origin::File(path) => path.display().to_string(),
            Origin::Code(_) => format!("{IN_CODE}{}", self.name()),
        }
    }

    /// The test that makes the kernel of this [`reference`](Self::reference), if it is made in code.
    pub fn test_of(reference: &str) -> Option<&str> {
        reference.strip_prefix(IN_CODE)
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
            (Origin::Code(_), _) => return None,
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
            Origin::Code(_) => None,
        };
        let text = edited.or_else(built_in)?;
        Some((path, text))
    }

    /// Where its PTX is, or would be.
    ///
    /// # Errors
    /// As [`Kernel::ptx`].
    pub fn ptx_file(&self) -> Result<&Path, NoPtx> {
        self.ptx()?;
        Ok(self.fixed()?.file())
    }

    /// Its PTX.
    ///
    /// # Errors
    /// Its cases have no PTX in common.
    pub fn ptx(&self) -> Result<&str, NoPtx> {
        self.fixed()?.ptx().ok_or_else(|| self.no_ptx("it is machine code"))
    }

    /// A hash of the PTX, if its cases have one in common.
    pub(super) fn ptx_hash(&self) -> Option<u64> {
        self.fixed().ok().map(Code::hash)
    }

    /// A hash of all that decides how it runs and is judged: the manifest's text and the PTX, or what it is made of, but
    /// for a closure.
    pub fn content_hash(&self) -> u64 {
        let code = match &self.subject {
            Subject::Fixed(code) => code.hash(),
            Subject::Made(made) => made.hash(),
        };
        fnv1a(&[self.manifest_hash, code].map(u64::to_le_bytes).concat())
    }

    /// Its CUDA source, a mutant's edits applied.
    pub fn source(&self) -> Option<&str> {
        self.source.as_ref().map(|source| source.main.text.as_str())
    }

    /// Why the emulator can't run the entry for `dtype`, as far as that is known before there is a case.
    pub fn emulator_limit(&self, dtype: Dtype) -> Option<String> {
        self.fixed().ok()?.limit(|entry| is_entry_for(&self.manifest, entry, dtype))
    }

    /// Its entry points that the emulator can run, in the order of their names; none if its cases have none in common.
    pub(super) fn lowered(&self) -> impl Iterator<Item = (&str, Arc<Program>)> {
        self.fixed().ok().into_iter().flat_map(Code::lowered)
    }
}

/// What a closure's kernel says to whoever would run its code.
fn no_code(_: &Case) -> Result<String, String> {
    Err("it is a closure, which only its harness can run".into())
}

/// The cases that a manifest claims.
fn space(manifest: &Manifest, file: &Path) -> Result<Space, OpenError> {
    let wrong = |error: crate::generate::EmptyDomain| ManifestError {
        file: file.into(),
        line: None,
        key: "domain: ".into(),
        message: error.to_string(),
    };
    Ok(Space::new(&manifest.domain).map_err(wrong)?)
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({})", self.reference())
    }
}
