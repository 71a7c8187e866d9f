//! From a manifest's text to a [`Manifest`].
//!
//! The text is read in two steps: TOML into `Raw` (types and unknown keys, by serde), then every expression, name and
//! type into a [`Manifest`]. Both steps answer with the file, the line and the key.

mod arg;
mod code;
mod domain;
mod layout;

pub(super) use domain::knob_settings;

use super::{
    Define, Initial, Launch, Lse, Manifest, ManifestError, Memory, PagesOf, VARIABLES, Workspace, WorkspaceType,
    line_of, one_line,
};
use crate::bound::Contract;
use crate::case::{Domain, KnobName, Relation, TensorName};
use crate::expr::{Expr, ExprError};
use crate::float::Dtype;
use arg::{Named, RawArg, check_arg};
use code::{Keys, RawCompile, entry_name};
use domain::{check_domain, check_knob};
use layout::RawLayout;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads a manifest's text; `file` is for messages.
pub(super) fn manifest(file: &Path, text: &str) -> Result<Manifest, ManifestError> {
    let raw: Raw = toml::from_str(text).map_err(|e| ManifestError::of_toml(file, text, &e))?;
    let variables = VARIABLES.into_iter().chain(raw.domain.knobs.keys().map(KnobName::as_str));
    let variables: Vec<String> = variables.map(str::to_owned).collect();
    raw.check(&Reader { file, text, variables })
}

/// The file as serde reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    #[serde(default)]
    summary: String,
    source: Option<String>,
    ptx: Option<String>,
    cubin: Option<String>,
    compile: Option<RawCompile>,
    domain: Domain,
    numerics: Option<Contract>,
    #[serde(default)]
    layout: BTreeMap<String, RawLayout>,
    #[serde(default)]
    relations: RawRelations,
    lse: Option<Lse>,
    #[serde(default)]
    workspace: Vec<RawWorkspace>,
    launch: Vec<RawLaunch>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelations {
    exact: Vec<Relation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkspace {
    name: Spanned<String>,
    dtype: WorkspaceType,
    elements: Spanned<String>,
    init: Option<Init>,
}

/// What a workspace holds before the first step, if not poison.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected \"poison\", \"zero\", \"ones\", \"-inf\" or { byte = 0 to 255 }")]
enum Init {
    Number(InitNumber),
    Byte { byte: u8 },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InitNumber {
    Poison,
    Zero,
    Ones,
    #[serde(rename = "-inf")]
    MinusInfinity,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLaunch {
    entry: Spanned<String>,
    grid: [Spanned<String>; 3],
    block: [Spanned<String>; 3],
    cluster: Option<[Spanned<String>; 3]>,
    shared_bytes: Option<Spanned<String>>,
    args: Vec<Spanned<RawArg>>,
}

/// Makes errors with lines.
struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    /// Names that expressions may use.
    variables: Vec<String>,
}

impl Reader<'_> {
    fn error(&self, span: &Range<usize>, key: &str, message: impl fmt::Display) -> ManifestError {
        let line = Some(line_of(self.text, span));
        // What the file says may stand in both.
        let [key, message] = [format!("{key}: "), message.to_string()].map(|text| one_line(&text));
        ManifestError { file: self.file.into(), line, key, message }
    }

    /// The error of a value that serde gives no place: the key leads there.
    fn error_at(&self, path: &[&str], message: impl fmt::Display) -> ManifestError {
        self.error(&self.span(path).unwrap_or(0..0), &path.join("."), message)
    }

    fn span(&self, path: &[&str]) -> Option<Range<usize>> {
        let root = DeTable::parse(self.text).ok()?;
        let mut table = root.get_ref();
        let (last, tables) = path.split_last()?;
        for &key in tables {
            let DeValue::Table(inner) = table.get(key)?.get_ref() else { return None };
            table = inner;
        }
        table.get_key_value(*last).map(|(key, _)| key.span())
    }

    fn expr(&self, key: &str, text: &Spanned<String>) -> Result<Expr, ManifestError> {
        self.parse(text.get_ref()).map_err(|e| self.error(&text.span(), key, e))
    }

    fn parse(&self, text: &str) -> Result<Expr, ExprError> {
        let names: Vec<&str> = self.variables.iter().map(String::as_str).collect();
        Expr::parse(text, &names)
    }

    fn exprs(&self, key: &str, texts: &[Spanned<String>; 3]) -> Result<[Expr; 3], ManifestError> {
        let [x, y, z] = texts;
        Ok([self.expr(key, x)?, self.expr(key, y)?, self.expr(key, z)?])
    }

    fn check_name(&self, name: &Spanned<String>, key: &str) -> Result<(), ManifestError> {
        check_name(name.get_ref()).map_err(|message| self.error(&name.span(), key, message))
    }
}

impl Raw {
    fn check(self, reader: &Reader<'_>) -> Result<Manifest, ManifestError> {
        reader.check_name(&self.name, "name")?;
        for name in self.domain.knobs.keys() {
            check_knob(reader, name)?;
        }
        let settings = knob_settings(&self.domain);
        let numerics_stated = self.numerics.is_some();
        let numerics = self.numerics.unwrap_or_default();
        numerics.check(&settings).map_err(|(field, error)| reader.error_at(&["numerics", field], error))?;
        let workspaces = workspaces(reader, self.workspace)?;
        let keys = Keys {
            source: self.source.as_deref(),
            ptx: self.ptx.as_deref(),
            cubin: self.cubin.as_deref(),
            compile: self.compile.as_ref(),
        };
        let (compile, defines) = code::check(reader, &keys, &self.domain.dtype)?;
        domain::check_cache(reader, &self.domain)?;
        let (layouts, buffers) = layout::check(reader, &self.domain, &self.layout)?;
        let launches = self
            .launch
            .into_iter()
            .map(|launch| launch.check(reader, &Named { workspaces: &workspaces, buffers: &buffers }, &defines));
        let launches = launches.collect::<Result<Vec<_>, _>>()?;
        if launches.is_empty() {
            return Err(reader.error(&(0..0), "launch", "expected at least one launch, found none"));
        }
        check_domain(reader, &self.domain, &launches)?;
        let is_lse = |memory: &Memory| matches!(memory, Memory::Tensor(name) | Memory::Pointers(name) if *name == TensorName::Lse);
        let has_lse = launches.iter().flat_map(|l| &l.args).any(|arg| arg.takes(is_lse));
        match (self.lse.is_some(), has_lse) {
            (true, false) => {
                return Err(reader.error_at(&["lse"], "expected an argument { tensor = \"lse\" }, found none"));
            }
            (false, true) => {
                let message = "expected it, since a launch has the argument { tensor = \"lse\" }, found nothing";
                return Err(reader.error_at(&["lse"], message));
            }
            _ => {}
        }
        let is_of_v = |memory: &Memory| matches!(memory, Memory::Index(_, _, PagesOf::V));
        let v_pages = launches.iter().flat_map(|l| &l.args).any(|arg| arg.takes(is_of_v));
        Ok(Manifest {
            name: self.name.into_inner(),
            summary: self.summary,
            source: self.source,
            ptx: self.ptx,
            compile,
            defines,
            cubin: self.cubin,
            domain: self.domain,
            numerics,
            numerics_stated,
            layouts,
            buffers,
            exact_relations: self.relations.exact,
            lse: self.lse,
            workspaces,
            launches,
            v_pages,
        })
    }
}

/// A name that can be a folder's.
pub(super) fn check_name(text: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.len() <= 64 && text.chars().all(legal) {
        return Ok(());
    }
    Err(format!("expected 1 to 64 letters, digits, _ or -, found {text:?}"))
}

fn workspaces(reader: &Reader<'_>, raw: Vec<RawWorkspace>) -> Result<Vec<Workspace>, ManifestError> {
    let mut workspaces = Vec::<Workspace>::new();
    for RawWorkspace { name, dtype, elements, init } in raw {
        reader.check_name(&name, "workspace.name")?;
        if workspaces.iter().any(|other| other.name == *name.get_ref()) {
            let message = format!("expected each name once, found {:?} twice", name.get_ref());
            return Err(reader.error(&name.span(), "workspace.name", message));
        }
        let elements = reader.expr("workspace.elements", &elements)?;
        let initial = match init {
            None | Some(Init::Number(InitNumber::Poison)) => Initial::Poison,
            Some(Init::Number(InitNumber::Zero)) => Initial::Zero,
            Some(Init::Number(InitNumber::Ones)) => Initial::One,
            Some(Init::Number(InitNumber::MinusInfinity)) => Initial::MinusInfinity,
            Some(Init::Byte { byte }) => Initial::Byte(byte),
        };
        if initial == Initial::MinusInfinity && dtype.float(Dtype::F32).is_none() {
            let message = "expected a type of floating-point numbers for \"-inf\", found one of whole numbers";
            return Err(reader.error(&name.span(), "workspace.init", message));
        }
        workspaces.push(Workspace { name: name.into_inner(), dtype, elements, initial });
    }
    Ok(workspaces)
}

impl RawLaunch {
    fn check(self, reader: &Reader<'_>, named: &Named<'_>, defines: &[Define]) -> Result<Launch, ManifestError> {
        let number = |n: &str| Spanned::new(0..0, n.to_owned());
        let (zero, ones) = (number("0"), ["1", "1", "1"].map(number));
        let arg_lines = self.args.iter().map(|arg| line_of(reader.text, &arg.span())).collect();
        let args = self.args.iter().enumerate().map(|(index, arg)| check_arg(reader, named, index, arg));
        Ok(Launch {
            args: args.collect::<Result<_, _>>()?,
            entry: entry_name(reader, &self.entry, defines)?,
            grid: reader.exprs("launch.grid", &self.grid)?,
            block: reader.exprs("launch.block", &self.block)?,
            cluster: reader.exprs("launch.cluster", self.cluster.as_ref().unwrap_or(&ones))?,
            shared_bytes: reader.expr("launch.shared_bytes", self.shared_bytes.as_ref().unwrap_or(&zero))?,
            arg_lines,
        })
    }
}
