//! From a manifest's text to a [`Manifest`].
//!
//! The text is read in two steps: TOML into `Raw` (types and unknown keys, by serde), then every expression, name and
//! type into a [`Manifest`]. Both steps answer with the file, the line and the key.

use super::{
    Arg, EntryName, Launch, Lengths, Lse, Manifest, ManifestError, NamePart, Scalar, VARIABLES, Workspace,
    WorkspaceType, line_of,
};
use crate::backend::compile::CompileSpec;
use crate::bound::Contract;
use crate::case::{Domain, KnobName, Knobs, Relation, StorageKind, TensorName};
use crate::expr::Expr;
use serde::Deserialize;
use std::fmt;
use std::ops::Range;
use std::path::{Component, Path};
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
    compile: Option<CompileSpec>,
    domain: Domain,
    #[serde(default)]
    numerics: Contract,
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
#[serde(rename_all = "lowercase")]
enum Init {
    Zero,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLaunch {
    entry: Spanned<String>,
    grid: [Spanned<String>; 3],
    block: [Spanned<String>; 3],
    shared_bytes: Option<Spanned<String>>,
    args: Vec<Spanned<RawArg>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArg {
    tensor: Option<String>,
    lengths: Option<Lengths>,
    block_table: Option<BlockTable>,
    workspace: Option<String>,
    value: Option<String>,
    #[serde(rename = "type")]
    scalar: Option<Scalar>,
}

/// Forms of a block table.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BlockTable {
    /// Rows of the same length, [`Arg::BlockTable`].
    Padded,
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
        ManifestError { file: self.file.into(), line, key: format!("{key}: "), message: message.to_string() }
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
        let names: Vec<&str> = self.variables.iter().map(String::as_str).collect();
        Expr::parse(text.get_ref(), &names).map_err(|e| self.error(&text.span(), key, e))
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
        self.numerics.check(&settings).map_err(|(field, error)| reader.error_at(&["numerics", field], error))?;
        let workspaces = workspaces(reader, self.workspace)?;
        let launches = self.launch.into_iter().map(|launch| launch.check(reader, &workspaces));
        let launches = launches.collect::<Result<Vec<_>, _>>()?;
        if launches.is_empty() {
            return Err(reader.error(&(0..0), "launch", "expected at least one launch, found none"));
        }
        check_domain(reader, &self.domain, &launches)?;
        let has_lse = launches.iter().flat_map(|l| &l.args).any(|arg| matches!(arg, Arg::Tensor(TensorName::Lse)));
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
        for (key, path) in [("ptx", self.ptx.as_ref()), ("source", self.source.as_ref())] {
            if let Some(path) = path.filter(|p| !stays_inside(Path::new(p))) {
                let message = format!("expected a path inside the manifest's folder, found {path:?}");
                return Err(reader.error(&(0..0), key, message));
            }
        }
        if let (Some(compile), Some(source)) = (&self.compile, &self.source) {
            check_headers(reader, &compile.headers, source)?;
        }
        Ok(Manifest {
            name: self.name.into_inner(),
            summary: self.summary,
            source: self.source,
            ptx: self.ptx,
            compile: self.compile,
            domain: self.domain,
            numerics: self.numerics,
            exact_relations: self.relations.exact,
            lse: self.lse,
            workspaces,
            launches,
        })
    }
}

/// What arguments and domain say of each other.
fn check_domain(reader: &Reader<'_>, domain: &Domain, launches: &[Launch]) -> Result<(), ManifestError> {
    let args = || launches.iter().flat_map(|launch| launch.args.iter().zip(&launch.arg_lines));
    let find = |wanted: &dyn Fn(&Arg) -> bool| args().find(|(arg, _)| wanted(arg)).map(|(_, &line)| line);
    let at = |line: usize, message: String| ManifestError {
        file: reader.file.into(),
        line: Some(line),
        key: "launch.args: ".into(),
        message,
    };
    let tensor = |name: TensorName| move |arg: &Arg| matches!(arg, Arg::Tensor(tensor) if *tensor == name);
    if domain.causal.is_empty() {
        return Err(reader.error_at(&["domain", "causal"], "expected true, false or both, found an empty list"));
    }
    if domain.storage.is_empty() {
        return Err(
            reader.error_at(&["domain", "storage"], "expected at least one kind of storage, found an empty list")
        );
    }
    let paged = domain.storage.contains(&StorageKind::Paged);
    if paged != domain.page_size.is_some() {
        let message =
            if paged { "expected it with paged storage, found nothing" } else { "expected it only with paged storage" };
        return Err(reader.error_at(&["domain", "page_size"], message));
    }
    if domain.append && domain.storage.contains(&StorageKind::Packed) {
        let message = "expected append = false with packed storage, which has no room for another token";
        return Err(reader.error_at(&["domain", "storage"], message));
    }
    if let Some(range) = domain.page_size.as_ref().filter(|range| range.low() == 0) {
        return Err(reader.error_at(&["domain", "page_size"], format!("expected at least 1 token, found {range}")));
    }
    if let Some(range) = domain.window.as_ref().filter(|range| range.low() == 0) {
        return Err(reader.error_at(&["domain", "window"], format!("expected at least 1 key, found {range}")));
    }
    for name in [TensorName::KNew, TensorName::VNew] {
        if let Some(line) = find(&tensor(name)).filter(|_| !domain.append) {
            return Err(at(line, format!("expected no {name}, since the domain has append = false")));
        }
    }
    let has_table = find(&|arg| matches!(arg, Arg::BlockTable));
    match (paged, has_table) {
        (false, Some(line)) => Err(at(line, "expected no block table, since the domain has no paged storage".into())),
        (true, None) => Err(reader.error_at(
            &["domain", "storage"],
            "expected an argument { block_table = \"padded\" } for paged storage, found none",
        )),
        _ if domain.sinks != find(&tensor(TensorName::Sinks)).is_some() => {
            let message = "expected sinks = true in the domain and an argument { tensor = \"sinks\" }, or neither";
            Err(reader.error_at(&["domain", "sinks"], message))
        }
        _ => Ok(()),
    }
}

/// An entry point's name: text, `{dtype}` and `{EXPRESSION}`.
fn entry_name(reader: &Reader<'_>, name: &Spanned<String>) -> Result<EntryName, ManifestError> {
    let key = "launch.entry";
    let text = name.get_ref();
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let Some((inside, after)) = after.split_once('}') else {
            return Err(reader.error(&name.span(), key, format!("expected }} after each {{, found {text:?}")));
        };
        parts.push(NamePart::Text(before.to_owned()));
        parts.push(match inside {
            "dtype" => NamePart::Dtype,
            _ => NamePart::Number(Box::new(reader.expr(key, &Spanned::new(name.span(), inside.to_owned()))?)),
        });
        rest = after;
    }
    parts.push(NamePart::Text(rest.to_owned()));
    Ok(EntryName { text: text.clone(), parts })
}

/// A name that can be a folder's.
pub(super) fn check_name(text: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.len() <= 64 && text.chars().all(legal) {
        return Ok(());
    }
    Err(format!("expected 1 to 64 letters, digits, _ or -, found {text:?}"))
}

/// A knob's name must mean the knob, and nothing else, wherever an expression can be.
fn check_knob(reader: &Reader<'_>, name: &KnobName) -> Result<(), ManifestError> {
    let name = name.as_str();
    let taken = VARIABLES.contains(&name) || ["n", "d"].contains(&name);
    let is_variable = Expr::parse(name, &[name]).is_ok_and(|expr| expr.value(&[7.0]) == 7.0);
    if taken || !is_variable || Expr::parse(&format!("{name} + 1"), &[name]).is_err() {
        let message = format!("expected a name that no expression gives another meaning, found {name:?}");
        return Err(reader.error_at(&["domain", "knobs", name], message));
    }
    Ok(())
}

/// The source includes headers by file name, so that names are unique. They may be shared between kernels' folders.
fn check_headers(reader: &Reader<'_>, headers: &[String], source: &str) -> Result<(), ManifestError> {
    let mut names = vec![Path::new(source).file_name()];
    for header in headers {
        let error = |message: String| Err(reader.error_at(&["compile", "headers"], message));
        let path = Path::new(header);
        let Some(name) = path.file_name().filter(|_| path.components().all(|c| !is_root(c))) else {
            return error(format!("expected a file's path relative to the manifest's folder, found {header:?}"));
        };
        if names.contains(&Some(name)) {
            return error(format!("expected each file name once, the source's included, found {name:?} twice"));
        }
        names.push(Some(name));
    }
    Ok(())
}

/// The knobs all at their lowest, and all at their highest.
pub(super) fn knob_settings(domain: &Domain) -> [Knobs; 2] {
    let knobs = || domain.knobs.iter();
    [
        knobs().map(|(name, range)| (name.clone(), range.low())).collect(),
        knobs().map(|(name, range)| (name.clone(), range.high())).collect(),
    ]
}

/// Whether a relative path can't lead out of its folder.
fn stays_inside(path: &Path) -> bool {
    path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

fn is_root(component: Component<'_>) -> bool {
    matches!(component, Component::RootDir | Component::Prefix(_))
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
        workspaces.push(Workspace { name: name.into_inner(), dtype, elements, zeroed: init.is_some() });
    }
    Ok(workspaces)
}

impl RawLaunch {
    fn check(self, reader: &Reader<'_>, workspaces: &[Workspace]) -> Result<Launch, ManifestError> {
        let zero = Spanned::new(0..0, "0".to_owned());
        let arg_lines = self.args.iter().map(|arg| line_of(reader.text, &arg.span())).collect();
        let args = self.args.iter().enumerate().map(|(index, arg)| check_arg(reader, workspaces, index, arg));
        Ok(Launch {
            args: args.collect::<Result<_, _>>()?,
            entry: entry_name(reader, &self.entry)?,
            grid: reader.exprs("launch.grid", &self.grid)?,
            block: reader.exprs("launch.block", &self.block)?,
            shared_bytes: reader.expr("launch.shared_bytes", self.shared_bytes.as_ref().unwrap_or(&zero))?,
            arg_lines,
        })
    }
}

fn check_arg(
    reader: &Reader<'_>,
    workspaces: &[Workspace],
    index: usize,
    arg: &Spanned<RawArg>,
) -> Result<Arg, ManifestError> {
    let key = format!("launch.args[{index}]");
    let span = arg.span();
    let RawArg { tensor, lengths, block_table, workspace, value, scalar } = arg.get_ref();
    match (tensor, lengths, block_table, workspace, value, scalar) {
        (Some(name), None, None, None, None, None) => {
            let tensors = TensorName::ALL;
            let tensor = tensors.into_iter().find(|t| t.to_string() == *name).ok_or_else(|| {
                let names = tensors.map(|t| t.to_string()).join(", ");
                reader.error(&span, &format!("{key}.tensor"), format!("expected one of {names}, found {name:?}"))
            })?;
            Ok(Arg::Tensor(tensor))
        }
        (None, Some(lengths), None, None, None, None) => Ok(Arg::Lengths(*lengths)),
        (None, None, Some(BlockTable::Padded), None, None, None) => Ok(Arg::BlockTable),
        (None, None, None, Some(name), None, None) => {
            workspaces.iter().position(|w| w.name == *name).map(Arg::Workspace).ok_or_else(|| {
                let names = workspaces.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join(", ");
                let message = format!("expected the name of a [[workspace]] ({names}), found {name:?}");
                reader.error(&span, &format!("{key}.workspace"), message)
            })
        }
        (None, None, None, None, Some(text), Some(scalar)) => {
            let expr = reader.expr(&format!("{key}.value"), &Spanned::new(span, text.clone()))?;
            Ok(Arg::Value(Box::new(expr), *scalar))
        }
        _ => Err(reader.error(
            &span,
            &key,
            "expected one of { tensor = NAME }, { lengths = NAME }, { block_table = \"padded\" }, { workspace = NAME } and { value = EXPRESSION, type = TYPE }, found another set of keys",
        )),
    }
}
