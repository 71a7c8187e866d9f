//! `attnfuzz init`: the manifest of a kernel, as far as its code tells.

mod entries;
mod guess;
mod source;
mod write;

use write::TODO;
pub(super) use write::todos;

use super::{Exit, Failure};
use crate::backend::compile::{CompileSpec, Source};
use crate::backend::nvrtc::Nvrtc;
use crate::float::Dtype;
use crate::ptx::{self, Module};
use cpp_demangle::{DemangleOptions, Symbol};
use guess::Kind;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  attnfuzz init my_decode.cu                   writes my_decode.toml
  attnfuzz init my_decode.ptx -o kernel.toml --entry my_decode_f16

CUDA source is compiled when a case runs, by NVRTC; where there is none, or it rejects the source, the .ptx of the same name
beside it is taken if it is there. Entry points that differ by f32, f16 or bf16 in their names alone become one.

PTX has no names of parameters: for a .ptx they are taken from the .cu of the same name beside it, if there is one. Every
guess says that it is one. What can't be guessed is a line with TODO, and `attnfuzz check` names those that are left.")]
pub(super) struct InitArgs {
    /// CUDA source or PTX
    file: PathBuf,
    /// The manifest to write [default: beside the file, with the ending .toml]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Entry point to take, where there are several: its name in the PTX or in the source
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Write over a manifest that is there
    #[arg(long)]
    force: bool,
}

/// A kernel function, from whatever is known of it.
#[derive(Clone, Debug)]
struct Entry {
    /// Its name in the code that is run.
    name: String,
    /// Its name for people.
    shown: String,
    /// The storage types that stand in the place of `{dtype}` in its name.
    dtypes: Vec<Dtype>,
    params: Vec<Parameter>,
    /// Threads of a block, where the code says so, and what says it.
    block: Option<(String, &'static str)>,
    /// See [`source::Function::block_indices`].
    block_indices: Option<[Vec<String>; 3]>,
    has_dynamic_shared: bool,
    /// See [`source::Function::template`].
    template: Vec<(String, Option<String>)>,
}

#[derive(Clone, Debug)]
struct Parameter {
    name: Option<String>,
    /// As the source or the demangled name writes it, else the PTX type.
    ty: String,
    kind: Kind,
}

/// What the manifest is written from.
struct Found {
    entries: Vec<Entry>,
    /// How the entries were found, for the manifest's head.
    how: String,
    /// File names beside the manifest.
    source: Option<String>,
    ptx: Option<String>,
}

pub(super) fn run(args: &InitArgs) -> Result<Exit, Failure> {
    let output = args.output.clone().unwrap_or_else(|| args.file.with_extension("toml"));
    if output.exists() && !args.force {
        let message = format!("{} is there already: --force writes over it, -o names another", output.display());
        return Err(Failure::usage(message));
    }
    let mut found = match args.file.extension().and_then(|e| e.to_str()) {
        Some("cu") => of_source(&args.file)?,
        Some("ptx") => of_ptx(&args.file)?,
        _ => return Err(Failure::usage(format!("expected a .cu or .ptx file, found {}", args.file.display()))),
    };
    let names = |entries: &[Entry]| entries.iter().map(|e| e.shown.as_str()).collect::<Vec<_>>().join(", ");
    if found.entries.is_empty() {
        return Err(Failure::usage(format!("{}: expected a kernel, found none ({})", args.file.display(), found.how)));
    }
    if let Some(wanted) = &args.entry {
        let is_it = |e: &Entry| e.name == *wanted || e.shown == *wanted || base(&e.shown) == wanted;
        let kept: Vec<Entry> = found.entries.iter().filter(|e| is_it(e)).cloned().collect();
        if kept.is_empty() {
            return Err(Failure::usage(format!(
                "--entry: expected one of {}, found {wanted:?}",
                names(&found.entries)
            )));
        }
        found.entries = kept;
    }
    let one = entries::merged(std::mem::take(&mut found.entries));
    found.entries = one;
    let stem = output.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let stem =
        if stem == "kernel" { args.file.file_stem().unwrap_or_default().to_string_lossy().into_owned() } else { stem };
    let text = write::manifest(&write::legal_name(&stem), &found);
    let written = if args.force { fs::write(&output, &text) } else { create_new(&output, &text) };
    written.map_err(|e| Failure::usage(format!("can't write {}: {e}", output.display())))?;
    let (guessed, todo) = (text.lines().filter(|line| line.contains("  # guessed")).count(), todos(&text).len());
    println!("{}: written, {} ({})", output.display(), counted(found.entries.len(), "kernel"), found.how);
    println!("   = {}, {} to do", counted(guessed, "guess"), todo);
    if found.entries.len() > 1 {
        println!("   = --entry takes one of them: {}", names(&found.entries));
    }
    println!("   = next: finish it, then attnfuzz check {}", output.display());
    Ok(Exit::Clean)
}

fn counted(n: usize, what: &str) -> String {
    let plural = if what.ends_with('s') { "es" } else { "s" };
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}{plural}") }
}

/// Never over a file that came meanwhile.
fn create_new(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| Failure::usage(format!("can't read {}: {e}", path.display())))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// From CUDA source: compiled if that can be done here, else from the PTX beside it, else read.
fn of_source(path: &Path) -> Result<Found, Failure> {
    let text = read(path)?;
    let functions = source::functions(&text);
    let name = file_name(path);
    let why = match Nvrtc::find() {
        Err(_) => "NVRTC is not there, see attnfuzz doctor".to_owned(),
        Ok(nvrtc) => {
            let spec = CompileSpec::default();
            match nvrtc.compile(&Source::of(&name, &text), spec.arch(), &spec.options) {
                Err(error) => {
                    let error = error.to_string();
                    format!("NVRTC says: {}", error.lines().find(|line| line.contains("error")).unwrap_or(&error))
                }
                Ok(ptx) => {
                    let module = ptx::parse(&ptx).map_err(|e| Failure::usage(format!("what NVRTC made: {e}")))?;
                    let (major, minor) = nvrtc.version();
                    let mut entries = of_module(&module, &functions);
                    entries.iter_mut().for_each(|entry| entry.name = without_arguments(&entry.shown).to_owned());
                    // Of a template there is nothing in the PTX that nobody asked for.
                    let templates = functions.iter().filter(|f| !f.template.is_empty());
                    entries.extend(
                        templates
                            .filter(|f| !entries.iter().any(|e| base(&e.shown) == f.name))
                            .map(of_function)
                            .collect::<Vec<_>>(),
                    );
                    let how = format!("compiled by NVRTC {major}.{minor}");
                    return Ok(Found { entries, how, source: Some(name), ptx: None });
                }
            }
        }
    };
    let ptx = path.with_extension("ptx");
    if ptx.exists() {
        let found = of_ptx(&ptx)?;
        return Ok(Found { how: format!("{}: {why}", found.how), source: Some(name), ..found });
    }
    let entries = functions.iter().map(of_function).collect();
    Ok(Found { entries, how: format!("signatures read, not compiled: {why}"), source: Some(name), ptx: None })
}

/// From PTX, with the names of its source if that is beside it.
fn of_ptx(path: &Path) -> Result<Found, Failure> {
    let text = read(path)?;
    let module = ptx::parse(&text).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let beside = path.with_extension("cu");
    let functions = if beside.exists() { source::functions(&read(&beside)?) } else { Vec::new() };
    let how = if functions.is_empty() {
        "from the PTX alone".to_owned()
    } else {
        format!("from the PTX, with the names in {}", beside.display())
    };
    Ok(Found { entries: of_module(&module, &functions), how, source: None, ptx: Some(file_name(path)) })
}

/// The entries of a module, with names from the functions that they were made of.
fn of_module(module: &Module, functions: &[source::Function]) -> Vec<Entry> {
    let of_signature = |signature: ptx::Signature| {
        let demangled = demangled(&signature.name);
        let shown = demangled.clone().unwrap_or_else(|| signature.name.clone());
        let count = signature.params.len();
        let alike = || functions.iter().filter(|f| f.params.len() == count);
        let made = || alike().next().filter(|f| f.is_macro && alike().count() == 1);
        let function = alike().find(|f| f.name == base(&shown)).or_else(made);
        let types = demangled.as_deref().map(types_of).filter(|types| types.len() == count);
        let params = signature.params.iter().enumerate().map(|(index, (name, ty, size))| {
            let in_source = function.map(|f| &f.params[index]);
            let of_ptx = Kind::of_param(*ty, *size);
            let written = types.as_ref().map(|types| types[index].clone()).or(in_source.map(|(ty, _)| ty.clone()));
            let kind = written.as_deref().map_or(of_ptx, |text| refined(Kind::of_type(text), of_ptx));
            // Compilers number the parameters; whoever writes PTX names them.
            let named = (!name.starts_with(&signature.name)).then(|| name.trim_start_matches('%').to_owned());
            Parameter {
                name: in_source.and_then(|(_, name)| name.clone()).or(named.filter(|n| !is_numbered(n))),
                ty: written
                    .unwrap_or_else(|| if *size == ty.size_bytes() { ty.to_string() } else { format!("{size} bytes") }),
                kind,
            }
        });
        Entry {
            params: params.collect(),
            block: signature
                .block
                .map(|(threads, directive)| (threads.to_string(), directive))
                .or_else(|| bounds(function)),
            block_indices: function.map(|f| f.block_indices.clone()),
            has_dynamic_shared: signature.has_dynamic_shared,
            template: Vec::new(),
            dtypes: Vec::new(),
            name: signature.name,
            shown,
        }
    };
    module.signatures().into_iter().map(of_signature).collect()
}

/// What the type says, unless the PTX knows it to be something else: a struct, or a number where a pointer was read.
fn refined(written: Kind, of_ptx: Kind) -> Kind {
    match (written, of_ptx) {
        (_, Kind::Bytes(_)) | (Kind::Unknown, _) => of_ptx,
        _ => written,
    }
}

fn is_numbered(name: &str) -> bool {
    name.trim_end_matches(|c: char| c.is_ascii_digit()).ends_with("param_")
}

/// A function that was read only.
fn of_function(function: &source::Function) -> Entry {
    let params = function.params.iter().map(|(ty, name)| Parameter {
        name: name.clone(),
        kind: Kind::of_type(ty),
        ty: ty.clone(),
    });
    Entry {
        // What a macro makes has a name that only the preprocessor knows.
        name: if function.is_macro { TODO.to_owned() } else { function.name.clone() },
        shown: function.name.clone(),
        dtypes: Vec::new(),
        params: params.collect(),
        block: bounds(Some(function)),
        block_indices: Some(function.block_indices.clone()),
        has_dynamic_shared: function.has_dynamic_shared,
        template: function.template.clone(),
    }
}

fn bounds(function: Option<&source::Function>) -> Option<(String, &'static str)> {
    let bounds = function?.launch_bounds.clone()?;
    bounds.parse::<u32>().is_ok().then_some((bounds, "__launch_bounds__"))
}

/// A C++ name for people; nothing if it is none.
fn demangled(name: &str) -> Option<String> {
    let symbol = Symbol::new(name).ok()?;
    symbol.demangle_with_options(&DemangleOptions::new().no_return_type()).ok()
}

/// A function's name without its arguments.
fn without_arguments(shown: &str) -> &str {
    let mut depth = 0i32;
    let end = shown.find(|c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        c == '(' && depth == 0
    });
    &shown[..end.unwrap_or(shown.len())]
}

/// A function's name without its arguments and namespaces.
fn base(shown: &str) -> &str {
    let name = shown.split(['(', '<']).next().unwrap_or(shown);
    name.rsplit([' ', ':']).next().unwrap_or(name)
}

/// Types of the parameters in a demangled name.
fn types_of(demangled: &str) -> Vec<String> {
    let Some(inside) = demangled.find('(').map(|at| demangled[at + 1..].trim_end_matches(')')) else {
        return Vec::new();
    };
    source::split(inside).into_iter().map(|ty| ty.trim().to_owned()).filter(|ty| !ty.is_empty()).collect()
}
