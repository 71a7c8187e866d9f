//! Keeps a kernel's stored PTX honest: makes it from its source, stamps it, and says later whether it still belongs to it.
//!
//! Stored PTX is NVRTC's text, byte for byte, with two changes: `.file` lines lose their folders, so that the text is the
//! same wherever it was made, and a first line is added,
//!
//! ```text
//! // attnfuzz compile: NVRTC 12.4, options `--gpu-architecture=compute_75 -lineinfo`, source 9ae16a3b2f90404f
//! ```
//!
//! The last field is a hash of source, target, options and the source's own headers: without any compiler at hand,
//! [`check`] can still tell PTX whose source has moved on. What it can't see is a change in CUDA's headers; compiling again
//! does.
//!
//! A mutant's source is its parent's with [`Edit`]s applied.

mod source;

use std::fmt;

use super::nvrtc::Nvrtc;

pub use source::{Edit, EditError, Source, SourceFile};

/// How a manifest's `[compile]` table says to make PTX.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompileSpec {
    /// The virtual architecture, such as `compute_75`; absent: [`DEFAULT_ARCH`], or that of the GPU which code is made for.
    pub arch: Option<String>,
    /// Further options, handed to NVRTC as they are.
    pub options: Vec<String>,
    /// Paths of headers, relative to the manifest. The source includes them by file name.
    pub headers: Vec<String>,
    /// Folders to look for further headers in, relative to the manifest. Their files are not part of any hash.
    pub include: Vec<String>,
}

/// The virtual architecture where nothing decides it: the first with arithmetic in bfloat16. Every later device takes its
/// PTX.
pub const DEFAULT_ARCH: &str = "compute_80";

impl CompileSpec {
    /// What is compiled for where there is no GPU to ask.
    pub fn arch(&self) -> &str {
        self.arch.as_deref().unwrap_or(DEFAULT_ARCH)
    }
}

/// What to compile for where the code runs on a GPU of this compute capability, of the architectures that NVRTC knows, as in
/// `[75, 80, 90]`.
///
/// Its own where that is known, with what is of this architecture alone (`wgmma`, TMA's and the like, which have an `a` in
/// their names from 9.0 on): the PTX need run nowhere else. Else the latest before it.
pub(super) fn arch_for((major, minor): (i32, i32), known: &[i32]) -> String {
    let own = 10 * major + minor;
    match known.iter().filter(|&&arch| arch <= own).max() {
        Some(&arch) if arch == own && own >= 90 => format!("compute_{own}a"),
        Some(arch) => format!("compute_{arch}"),
        None => DEFAULT_ARCH.into(),
    }
}

/// Compiles `source` and stamps the result: the text to store.
pub fn compile(nvrtc: &Nvrtc, source: &Source, spec: &CompileSpec) -> Result<String, CompileError> {
    let ptx = nvrtc.compile(source, spec.arch(), &spec.options)?;
    Ok(stamped(&ptx, &Stamp::new(nvrtc.version(), source, spec)))
}

/// Compares stored PTX with its source, by compiling again where `nvrtc` can.
///
/// The stamp is looked at first: a changed source is [`Freshness::SourceChanged`], whatever the compiler.
pub fn check(
    ptx: &str,
    source: &Source,
    spec: &CompileSpec,
    nvrtc: Result<&Nvrtc, &Unavailable>,
) -> Result<Freshness, CompileError> {
    let Some(stamp) = Stamp::parse(ptx) else {
        return Ok(Freshness::Unstamped);
    };
    let current = source_hash(source, spec);
    if stamp.source != current {
        return Ok(Freshness::SourceChanged { stored: stamp.source, current });
    }
    match nvrtc {
        Ok(nvrtc) if nvrtc.version() != stamp.nvrtc => {
            let reason = NotCompared::OtherRelease { made_by: stamp.nvrtc, found: nvrtc.version() };
            Ok(Freshness::SourceMatches(reason))
        }
        Ok(nvrtc) => Ok(compare(ptx, &compile(nvrtc, source, spec)?)),
        Err(reason) => Ok(Freshness::SourceMatches(NotCompared::NoCompiler(reason.clone()))),
    }
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// Compiling the source again gave the stored text.
    Fresh,
    /// The stamp names this source and these options, but the text could not be compared.
    SourceMatches(NotCompared),
    /// The source, a header of its own, target or options are not those that the stamp names.
    SourceChanged {
        /// The hash in the stamp.
        stored: u64,
        /// The hash of the source as it is.
        current: u64,
    },
    /// The same compiler, source and options now give another text.
    TextDiffers {
        /// The first line, counted from 1, that differs.
        line: usize,
    },
    /// The PTX carries no stamp of this program.
    Unstamped,
}

impl Freshness {
    /// Whether nothing speaks against the stored text.
    pub fn is_acceptable(&self) -> bool {
        matches!(self, Self::Fresh | Self::SourceMatches(_))
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => write!(f, "fresh: the source compiles to the stored ptx"),
            Self::SourceMatches(reason) => {
                write!(f, "source unchanged; ptx not compared: {reason}")
            }
            Self::SourceChanged { stored, current } => {
                write!(f, "stale: made from source {stored:016x}, expected {current:016x}")
            }
            Self::TextDiffers { line } => {
                write!(
                    f,
                    "not what the source compiles to: line {line} differs, so it was edited or a header of CUDA changed"
                )
            }
            Self::Unstamped => write!(f, "no stamp: found no `{STAMP_START}` on the first line"),
        }
    }
}

/// Why stored text was not compared with a compiler's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCompared {
    /// There is no compiler to ask.
    #[error(transparent)]
    NoCompiler(Unavailable),
    /// Two releases of NVRTC translate one source differently.
    #[error("made by nvrtc {}.{}, found {}.{}", made_by.0, made_by.1, found.0, found.1)]
    OtherRelease {
        /// The release in the stamp.
        made_by: (u32, u32),
        /// The release at hand.
        found: (u32, u32),
    },
    /// The same release in another build, by the line that NVRTC writes about itself.
    #[error("made by another build of the same nvrtc release")]
    OtherBuild,
}

/// Why there is no NVRTC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The program was built without the feature `cuda`.
    #[error("nvrtc is not available: attnfuzz was built without the feature `cuda`")]
    NotBuiltIn,
    /// No library at any of the places searched.
    #[error(
        "nvrtc is not available: found none through the loader or in python's site-packages; set ATTNFUZZ_NVRTC to \
         its file, or pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12"
    )]
    NvrtcNotFound,
    /// A library was found, and is not one.
    #[error("nvrtc is not available: {} can't be used: {reason}", path.display())]
    NvrtcUnusable {
        /// The library's file.
        path: std::path::PathBuf,
        /// What the loader, or the library, said.
        reason: String,
    },
}

/// Why a source did not become PTX.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// NVRTC found errors in the source or the options.
    #[error("nvrtc rejected `{name}`:\n{log}")]
    Rejected {
        /// The name that the source was compiled under.
        name: String,
        /// NVRTC's log, as it gave it.
        log: String,
    },
    /// A call failed for a reason that has no log.
    #[error("{call} failed: {reason}")]
    CallFailed {
        /// The function of NVRTC's interface.
        call: &'static str,
        /// NVRTC's name for the failure.
        reason: String,
    },
    /// A text to hand to NVRTC can't be a C string.
    #[error("{what} contains a nul byte")]
    NulByte {
        /// Which text.
        what: &'static str,
    },
    /// More options or headers than a C int can count.
    #[error("too many compile options or headers")]
    TooMany,
    /// NVRTC returned bytes that are not text.
    #[error("{call} returned bytes that are not utf-8")]
    NotText {
        /// The function of NVRTC's interface.
        call: &'static str,
    },
}

/// The first line of stored PTX.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    nvrtc: (u32, u32),
    options: String,
    source: u64,
}

impl Stamp {
    fn new(nvrtc: (u32, u32), source: &Source, spec: &CompileSpec) -> Self {
        Self { nvrtc, options: spec.to_string(), source: source_hash(source, spec) }
    }

    /// Reads a stamp back; the options are for people, and not looked at.
    fn parse(ptx: &str) -> Option<Self> {
        let rest = ptx.lines().next()?.strip_prefix(STAMP_START)?.strip_prefix(" NVRTC ")?;
        let (version, rest) = rest.split_once(", options `")?;
        let (options, hash) = rest.rsplit_once("`, source ")?;
        let (major, minor) = version.split_once('.')?;
        Some(Self {
            nvrtc: (major.parse().ok()?, minor.parse().ok()?),
            options: options.to_owned(),
            source: u64::from_str_radix(hash, 16).ok()?,
        })
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nvrtc: (major, minor), options, source } = self;
        write!(f, "{STAMP_START} NVRTC {major}.{minor}, options `{options}`, source {source:016x}")
    }
}

impl fmt::Display for CompileSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--gpu-architecture={}", self.arch())?;
        self.options.iter().try_for_each(|option| write!(f, " {option}"))
    }
}

/// Compares stored text with what the same release of NVRTC made of the same source.
fn compare(stored: &str, compiled: &str) -> Freshness {
    let build = |ptx: &str| ptx.lines().find(|line| line.starts_with(BUILD_LINE)).map(str::to_owned);
    if build(stored) != build(compiled) {
        return Freshness::SourceMatches(NotCompared::OtherBuild);
    }
    if stored == compiled {
        return Freshness::Fresh;
    }
    let same = stored.lines().zip(compiled.lines()).take_while(|(a, b)| a == b).count();
    Freshness::TextDiffers { line: same + 1 }
}

fn stamped(ptx: &str, stamp: &Stamp) -> String {
    format!("{stamp}\n{}", without_folders(ptx))
}

/// PTX whose `.file` lines name files and no folders.
pub(super) fn without_folders(ptx: &str) -> String {
    let mut text = String::with_capacity(ptx.len());
    for line in ptx.split_inclusive('\n') {
        match file_directive(line) {
            Some((before, path, after)) => {
                let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
                text.extend([before, name, after]);
            }
            None => text.push_str(line),
        }
    }
    text
}

/// Splits a `.file 1 "path"` line around its path.
fn file_directive(line: &str) -> Option<(&str, &str, &str)> {
    if !line.trim_start().starts_with(".file") {
        return None;
    }
    let start = line.find('"')? + 1;
    let end = line.rfind('"').filter(|&end| end >= start)?;
    Some((&line[..start], &line[start..end], &line[end..]))
}

/// FNV-1a, 64 bits, over the source, the target, each option, and each header's name and text, a zero byte after each.
pub(super) fn source_hash(source: &Source, spec: &CompileSpec) -> u64 {
    let headers = source.headers.iter().flat_map(|header| [header.name.as_str(), &header.text]);
    let options = spec.options.iter().chain(&spec.include).map(String::as_str);
    let texts = [source.main.text.as_str(), spec.arch()].into_iter().chain(options).chain(headers);
    let bytes = texts.flat_map(|text| text.bytes().chain([0]));
    bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

const STAMP_START: &str = "// attnfuzz compile:";
/// How the line begins in which NVRTC names its full version.
const BUILD_LINE: &str = "// Cuda compilation tools";
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

#[cfg(test)]
mod tests;
