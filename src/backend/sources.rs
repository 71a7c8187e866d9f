//! The files a kernel is made of, on disk or built in: manifest, source, PTX, and the edits of a mutant.

use super::compile::{CompileSpec, Edit, Source, SourceFile};
use super::kernel::{OpenError, SHIPPED};
use super::manifest::{Manifest, ManifestError};
use crate::case::codec::fnv1a;
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};

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
    /// Mutated PTX, relative to the mutant's file; absent where the parent's is compiled for each case too.
    pub ptx: Option<String>,
    /// Changes of the source.
    #[serde(rename = "edit")]
    pub edits: Vec<Edit>,
}

/// Everything about a kernel but its PTX.
pub(super) struct Sources {
    /// The file that was named: a manifest or a mutant.
    pub(super) file: PathBuf,
    pub(super) manifest: Manifest,
    /// A hash of the manifest's text.
    pub(super) manifest_hash: u64,
    pub(super) mutant: Option<Mutant>,
    /// CUDA source, edits applied.
    pub(super) source: Option<Source>,
    pub(super) code: CodeFile,
}

/// Where a kernel's code is.
pub(super) enum CodeFile {
    Ptx(PathBuf),
    Cubin(PathBuf),
    /// It is made of the source.
    None,
}

impl CodeFile {
    fn of(file: &Path, ptx: Option<&String>, cubin: Option<&String>) -> Self {
        let cubin = || cubin.map_or(Self::None, |cubin| Self::Cubin(beside(file, cubin)));
        ptx.map_or_else(cubin, |ptx| Self::Ptx(beside(file, ptx)))
    }
}

/// What `attnfuzz compile` needs of a kernel. Its PTX need not be there yet.
#[derive(Clone, Debug)]
pub struct CompileJob {
    /// CUDA source and its headers.
    pub source: Source,
    /// Target and options.
    pub spec: CompileSpec,
    /// Where the PTX belongs.
    pub ptx_file: PathBuf,
}

impl CompileJob {
    /// Reads the manifest (of a kernel or a mutant) at a path, or that of a shipped kernel in the source tree below the
    /// current folder.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        let shipped = SHIPPED.iter().any(|s| s.name == name);
        let path = if shipped { Path::new("kernels").join(name).join("kernel.toml") } else { name.into() };
        if !shipped && !path.exists() {
            return Err(OpenError::Unknown { name: name.into() });
        }
        let mut sources = Sources::read(&path)?;
        if sources.mutant.is_none() {
            sources = sources.with_headers()?;
        }
        let missing = |key: &str| {
            OpenError::Manifest(ManifestError {
                file: sources.file.clone(),
                line: None,
                key: format!("{key}: "),
                message: "expected it, since the kernel is to be compiled, found nothing".into(),
            })
        };
        Ok(Self {
            source: sources.source.clone().ok_or_else(|| missing("source"))?,
            spec: sources.manifest.compile.clone().ok_or_else(|| missing("compile"))?,
            ptx_file: match &sources.code {
                CodeFile::Ptx(file) => file.clone(),
                _ => return Err(missing("ptx")),
            },
        })
    }
}

impl Sources {
    pub(super) fn read(path: &Path) -> Result<Self, OpenError> {
        let text = read(path)?;
        let is_mutant = toml::from_str::<toml::Table>(&text).is_ok_and(|table| table.contains_key("mutant_of"));
        if is_mutant { Self::of_mutant(path, &text) } else { Self::of_kernel(path, &text) }
    }

    /// Those of a kernel that is part of the program; the headers that its PTX was made with are not.
    pub(super) fn built_in(file: PathBuf, manifest: Manifest, text: &str, source: &str) -> Self {
        Self {
            manifest_hash: fnv1a(text.as_bytes()),
            code: CodeFile::of(&file, manifest.ptx.as_ref(), None),
            source: manifest.source.as_ref().map(|name| Source::of(name, source)),
            file,
            manifest,
            mutant: None,
        }
    }

    fn of_kernel(path: &Path, text: &str) -> Result<Self, OpenError> {
        let manifest = Manifest::parse(path, text)?;
        let files = [("source", &manifest.source), ("ptx", &manifest.ptx), ("cubin", &manifest.cubin)];
        for (key, file) in files.iter().filter_map(|(key, file)| Some((key, file.as_deref()?))) {
            check_inside(path, key, file)?;
        }
        let source =
            manifest.source.as_ref().map(|name| Ok::<_, OpenError>(Source::of(name, read(&beside(path, name))?)));
        Ok(Self {
            file: path.into(),
            source: source.transpose()?,
            code: CodeFile::of(path, manifest.ptx.as_ref(), manifest.cubin.as_ref()),
            mutant: None,
            manifest,
            manifest_hash: fnv1a(text.as_bytes()),
        })
    }

    /// Reads the headers too: whoever compiles needs them, whoever runs the PTX doesn't.
    pub(super) fn with_headers(mut self) -> Result<Self, OpenError> {
        let (Some(source), Some(compile)) = (&mut self.source, &self.manifest.compile) else { return Ok(self) };
        source.include = compile.include.iter().map(|folder| beside(&self.file, folder)).collect();
        for header in &compile.headers {
            let file = beside(&self.file, header);
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let error = |error: OpenError| ManifestError {
                file: self.file.clone(),
                line: None,
                key: "compile.headers: ".into(),
                message: error.to_string(),
            };
            source.headers.push(SourceFile { name, text: read(&file).map_err(error)? });
        }
        Ok(self)
    }

    fn of_mutant(path: &Path, text: &str) -> Result<Self, OpenError> {
        let mutant: Mutant = toml::from_str(text).map_err(|e| ManifestError::of_toml(path, text, &e))?;
        let parent_file = beside(path, &mutant.mutant_of);
        let parent = Self::of_kernel(&parent_file, &read(&parent_file)?)?.with_headers()?;
        let edit =
            |source: Source| source.edited(&mutant.edits).map_err(|error| OpenError::Edit { file: path.into(), error });
        let source = parent.source.map(edit).transpose()?;
        let mut manifest = parent.manifest;
        let stem = path.file_stem().map_or_else(|| mutant.id.clone(), |s| s.to_string_lossy().into_owned());
        manifest.name = format!("{}.{stem}", manifest.name);
        manifest.summary.clone_from(&mutant.summary);
        if manifest.ptx.is_some() != mutant.ptx.is_some() {
            let message = "expected it if the kernel that is changed has it, and not otherwise".into();
            let (file, key) = (path.into(), "ptx: ".into());
            return Err(ManifestError { file, line: None, key, message }.into());
        }
        let code = CodeFile::of(path, mutant.ptx.as_ref(), None);
        let manifest_hash = parent.manifest_hash;
        Ok(Self { file: path.into(), source, code, mutant: Some(mutant), manifest, manifest_hash })
    }
}

/// A file that the manifest says is in its folder must not be elsewhere, be it through a link.
fn check_inside(manifest: &Path, key: &str, file: &str) -> Result<(), OpenError> {
    let folder = manifest.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // What is not there is told by who reads it.
    let (Ok(folder), Ok(found)) = (folder.canonicalize(), beside(manifest, file).canonicalize()) else { return Ok(()) };
    if found.starts_with(&folder) {
        return Ok(());
    }
    let message = format!("expected a file inside the manifest's folder, found a link to {}", found.display());
    Err(ManifestError { file: manifest.into(), line: None, key: format!("{key}: "), message }.into())
}

pub(super) fn beside(file: &Path, relative: &str) -> PathBuf {
    let path = file.parent().unwrap_or(Path::new("")).join(relative);
    // `a/b/../c` reads as `a/c` in messages.
    let mut short = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir if short.file_name().is_some() => {
                short.pop();
            }
            part => short.push(part),
        }
    }
    short
}

/// Largest file that is read as a manifest, source or PTX.
const MAX_FILE_BYTES: u64 = 64 << 20;

pub(super) fn read(file: &Path) -> Result<String, OpenError> {
    let error = |source| OpenError::Read { file: file.into(), source };
    String::from_utf8(read_bytes(file)?)
        .map_err(|_| error(io::Error::new(io::ErrorKind::InvalidData, "expected text in UTF-8, found other bytes")))
}

pub(super) fn read_bytes(file: &Path) -> Result<Vec<u8>, OpenError> {
    let error = |source| OpenError::Read { file: file.into(), source };
    let metadata = std::fs::metadata(file).map_err(error)?;
    if !metadata.is_file() {
        return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "expected a file, found a folder or a device")));
    }
    if metadata.len() > MAX_FILE_BYTES {
        let message = format!("expected at most {MAX_FILE_BYTES} bytes, found {}", metadata.len());
        return Err(error(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    std::fs::read(file).map_err(error)
}
