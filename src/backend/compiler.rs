//! Code that NVRTC compiles of a kernel's source when a case asks for it.
//!
//! What a case decides are the macros of `[compile.define]` and the entry points' names. The PTX is kept in a folder of
//! the user's caches, under a hash of everything it is made of; where that can't be told, because the source may include
//! files that were not read here, it is made again by each process.

use super::BackendError;
use super::compile::{CompileError, CompileSpec, Source, arch_for, source_hash, without_folders};
use super::manifest::{Define, DefineValue, Manifest, ManifestError};
use super::nvrtc::Nvrtc;
use super::sources::Sources;
use crate::backend::kernel::OpenError;
use crate::case::Case;
use crate::case::codec::fnv1a;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What compiles a kernel's source.
pub(super) struct Compiler {
    source: Source,
    spec: CompileSpec,
    defines: Vec<Define>,
    nvrtc: OnceLock<Result<Nvrtc, BackendError>>,
    cache: Option<PathBuf>,
}

/// PTX, and what it calls the entry points that were asked for.
#[derive(Debug, PartialEq)]
pub(super) struct Compiled {
    pub(super) ptx: String,
    pub(super) symbols: Vec<String>,
}

impl Compiler {
    /// What compiles a kernel without stored code.
    pub(super) fn of(sources: &Sources) -> Result<Self, OpenError> {
        let Some(source) = sources.source.clone() else {
            let message = "expected it, or cubin, or source to compile for each case, found none of them".into();
            let (file, key) = (sources.file.clone(), "ptx: ".into());
            return Err(ManifestError { file, line: None, key, message }.into());
        };
        let spec = sources.manifest.compile.clone().unwrap_or_default();
        let defines = sources.manifest.defines.clone();
        let unread = !spec.include.is_empty() || spec.options.iter().any(|option| includes(option));
        let cache = if unread { None } else { cache_folder() };
        Ok(Self { source, spec, defines, nvrtc: OnceLock::new(), cache })
    }

    /// The source's file name.
    pub(super) fn name(&self) -> &str {
        &self.source.main.name
    }

    /// A hash of all that code is made of but the case.
    pub(super) fn hash(&self) -> u64 {
        source_hash(&self.source, &self.spec)
    }

    /// The options that `case` asks for.
    pub(super) fn options(&self, manifest: &Manifest, case: &Case) -> Result<Vec<String>, BackendError> {
        let mut options: Option<Vec<String>> = None;
        for step in 0..case.steps {
            let values = manifest.variables(case, step);
            let option =
                |define: &Define| Ok(format!("--define-macro={}={}", define.name, define.text(case, &values)?));
            let of_step = self.defines.iter().map(option).collect::<Result<Vec<_>, BackendError>>()?;
            let first = options.get_or_insert_with(|| of_step.clone());
            if let Some((was, is)) = first.iter().zip(&of_step).find(|(was, is)| was != is) {
                let why = format!("compile.define: expected the same in each step, found {was} and then {is}");
                return Err(BackendError::Launch(why));
            }
        }
        Ok(options.unwrap_or_default())
    }

    /// What to compile for: what the manifest says, else what a GPU of this compute capability is.
    pub(super) fn arch(&self, device: Option<(i32, i32)>) -> Result<String, BackendError> {
        Ok(match (&self.spec.arch, device) {
            (None, Some(capability)) => arch_for(capability, &self.nvrtc()?.architectures()),
            _ => self.spec.arch().to_owned(),
        })
    }

    fn nvrtc(&self) -> Result<&Nvrtc, BackendError> {
        let missing = |error: super::nvrtc::Unavailable| {
            BackendError::Unavailable(format!("{} has to be compiled, and {error}", self.source.main.name))
        };
        self.nvrtc.get_or_init(|| Nvrtc::find().map_err(missing)).as_ref().map_err(BackendError::clone)
    }

    /// Compiles for `arch` with `options` of a case for the entry points that the source calls `names`.
    pub(super) fn compile(&self, arch: &str, options: &[String], names: &[String]) -> Result<Compiled, BackendError> {
        let nvrtc = self.nvrtc()?;
        let options: Vec<String> = self.spec.options.iter().chain(options).cloned().collect();
        let file = self
            .cache
            .as_ref()
            .map(|folder| folder.join(format!("{:016x}.ptx", self.key(nvrtc, arch, &options, names))));
        if let Some(kept) = file.as_deref().and_then(|file| kept(file, names.len())) {
            return Ok(kept);
        }
        let (ptx, symbols) = nvrtc
            .compile_named(&self.source, arch, &options, names)
            .map_err(|error: CompileError| BackendError::NotMade(error.to_string()))?;
        let compiled = Compiled { ptx: without_folders(&ptx), symbols };
        if let Some(file) = file {
            // Where it can't be kept it is made again: that costs time, and no answer depends on it.
            let _ = keep(&file, &compiled);
        }
        Ok(compiled)
    }

    fn key(&self, nvrtc: &Nvrtc, arch: &str, options: &[String], names: &[String]) -> u64 {
        let (major, minor) = nvrtc.version();
        let include = nvrtc.include_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
        let fixed = [
            format!("{major}.{minor}"),
            arch.to_owned(),
            include,
            format!("{:016x}", self.hash()),
            self.name().to_owned(),
        ];
        let texts = fixed.iter().chain(options).chain(names);
        fnv1a(&texts.flat_map(|text| text.bytes().chain([0])).collect::<Vec<u8>>())
    }
}

impl Define {
    /// The text that the macro stands for.
    fn text(&self, case: &Case, values: &[f64]) -> Result<String, BackendError> {
        match &self.value {
            DefineValue::Text(texts) => {
                let text = texts.iter().find(|(dtype, _)| *dtype == case.dtype).map(|(_, text)| text.clone());
                text.ok_or_else(|| BackendError::Launch(format!("compile.define.{} has no {}", self.name, case.dtype)))
            }
            DefineValue::Number(expr) => {
                let value = expr.value(values);
                if !value.is_finite() {
                    let why = format!("compile.define.{}: expected {expr} to be a number, found {value}", self.name);
                    return Err(BackendError::Launch(why));
                }
                // Both read back as the same number in C; in parentheses, for they may be negative.
                let whole = value.fract() == 0.0 && value.abs() <= 2f64.powi(53);
                Ok(if whole { format!("({})", value as i64) } else { format!("({value:?})") })
            }
        }
    }
}

/// Whether an option of NVRTC's has it read files of its own.
fn includes(option: &str) -> bool {
    ["-I", "--include-path", "-include", "--pre-include", "-default-device-include"]
        .iter()
        .any(|o| option.starts_with(o))
}

/// The folder that made PTX is kept in: below `ATTNFUZZ_CACHE`, else below the user's caches. None if that is set and empty.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if env::var_os("ATTNFUZZ_CACHE").is_some() {
        return set("ATTNFUZZ_CACHE");
    }
    let home = || set("HOME").map(|home| home.join(".cache"));
    let caches = set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA")).or_else(home);
    caches.filter(|path| path.is_absolute()).map(|path| path.join("attnfuzz").join("ptx"))
}

/// How a kept file begins; a hash of all behind the line follows.
const HEAD: &str = "// attnfuzz kept this, ";
/// How the lines begin that have the entry points' names in the PTX.
const SYMBOL: &str = "// entry ";

/// What a file has, if it is whole.
fn kept(file: &Path, symbols: usize) -> Option<Compiled> {
    let text = fs::read_to_string(file).ok()?;
    let (head, mut rest) = text.split_once('\n')?;
    let hash = u64::from_str_radix(head.strip_prefix(HEAD)?, 16).ok()?;
    if fnv1a(rest.as_bytes()) != hash {
        return None;
    }
    let mut found = Vec::with_capacity(symbols);
    for _ in 0..symbols {
        let (line, after) = rest.split_once('\n')?;
        found.push(line.strip_prefix(SYMBOL)?.to_owned());
        rest = after;
    }
    Some(Compiled { ptx: rest.to_owned(), symbols: found })
}

/// Writes a file that nobody sees half written.
fn keep(file: &Path, compiled: &Compiled) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder)?;
    let symbols: String = compiled.symbols.iter().map(|symbol| format!("{SYMBOL}{symbol}\n")).collect();
    let rest = symbols + &compiled.ptx;
    let mut whole = tempfile::NamedTempFile::new_in(folder)?;
    write!(whole, "{HEAD}{:016x}\n{rest}", fnv1a(rest.as_bytes()))?;
    whole.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_back_unless_it_was_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep").join("k.ptx");
        let compiled = Compiled { ptx: ".version 8.4\nret;\n".into(), symbols: vec!["_Z1kv".into(), "k".into()] };
        assert_eq!(kept(&file, 2), None);
        keep(&file, &compiled).unwrap();
        assert_eq!(kept(&file, 2), Some(compiled));
        assert_eq!(kept(&file, 3), None, "one name too many is asked for");
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            fs::write(&file, &whole[..at]).unwrap();
            assert_eq!(kept(&file, 2), None, "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&file, &changed).unwrap();
            assert_eq!(kept(&file, 2), None, "changed at {at}");
        }
    }

    #[test]
    fn what_the_manifest_says_goes_before_what_the_device_is() {
        let arch = |stated: Option<&str>, device| {
            let spec = CompileSpec { arch: stated.map(str::to_owned), ..CompileSpec::default() };
            let source = Source::of("k.cu", "");
            let compiler = Compiler { source, spec, defines: Vec::new(), nvrtc: OnceLock::new(), cache: None };
            compiler.arch(device)
        };
        assert_eq!(arch(Some("compute_75"), Some((9, 0))), Ok("compute_75".to_owned()));
        assert_eq!(
            (arch(Some("compute_75"), None), arch(None, None)),
            (Ok("compute_75".into()), Ok("compute_80".into()))
        );
    }

    #[test]
    fn options_that_read_files_are_known() {
        assert!(includes("-I/usr/include") && includes("--include-path=a") && includes("-include"));
        assert!(!includes("-lineinfo") && !includes("--use_fast_math"));
    }
}
