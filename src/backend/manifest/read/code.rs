//! Where a kernel's code comes from: paths, `[compile]`, and the names of entry points.

use super::Reader;
use crate::backend::compile::CompileSpec;
use crate::backend::manifest::{Define, DefineValue, EntryName, ManifestError, NamePart};
use crate::float::Dtype;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path};
use toml::Spanned;

/// Longest name of an entry point and longest text of a macro.
const MAX_TEXT: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCompile {
    arch: Option<String>,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    define: BTreeMap<String, RawDefine>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, an expression, or a text for each of f32, f16 and bf16")]
enum RawDefine {
    Whole(i64),
    Expression(String),
    Texts(BTreeMap<Dtype, String>),
}

/// The keys that say where the code comes from.
pub(super) struct Keys<'a> {
    pub(super) source: Option<&'a str>,
    pub(super) ptx: Option<&'a str>,
    pub(super) cubin: Option<&'a str>,
    pub(super) compile: Option<&'a RawCompile>,
}

/// How the code is compiled, and the macros that depend on the case.
pub(super) fn check(
    reader: &Reader<'_>,
    keys: &Keys<'_>,
    dtypes: &[Dtype],
) -> Result<(Option<CompileSpec>, Vec<Define>), ManifestError> {
    for (key, path) in [("ptx", keys.ptx), ("cubin", keys.cubin), ("source", keys.source)] {
        if let Some(path) = path.filter(|path| !stays_inside(Path::new(path))) {
            let message = format!("expected a path inside the manifest's folder, found {path:?}");
            return Err(reader.error(&(0..0), key, message));
        }
    }
    if keys.cubin.is_some() && keys.ptx.is_some() {
        return Err(reader.error_at(&["cubin"], "expected either ptx or cubin, found both"));
    }
    let Some(compile) = keys.compile else { return Ok((None, Vec::new())) };
    if let Some(source) = keys.source {
        check_headers(reader, &compile.headers, source)?;
    }
    for folder in &compile.include {
        if folder.is_empty() || Path::new(folder).components().any(is_root) {
            let message = format!("expected a folder's path relative to the manifest's folder, found {folder:?}");
            return Err(reader.error_at(&["compile", "include"], message));
        }
    }
    if keys.ptx.or(keys.cubin).is_some() && !compile.define.is_empty() {
        let message =
            "expected neither ptx nor cubin beside it, since macros that depend on the case make other code for each";
        return Err(reader.error_at(&["compile", "define"], message));
    }
    let defines = compile.define.iter().map(|(name, value)| define(reader, name, value, dtypes));
    let defines = defines.collect::<Result<_, _>>()?;
    let spec = CompileSpec {
        arch: compile.arch.clone(),
        options: compile.options.clone(),
        headers: compile.headers.clone(),
        include: compile.include.clone(),
    };
    Ok((Some(spec), defines))
}

fn define(reader: &Reader<'_>, name: &str, value: &RawDefine, dtypes: &[Dtype]) -> Result<Define, ManifestError> {
    let error = |message: String| reader.error_at(&["compile", "define", name], message);
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.len() > 64 || !name.chars().all(legal) || !name.starts_with(|c: char| !c.is_ascii_digit()) {
        return Err(error("expected a macro's name, of letters, digits and _, found another".into()));
    }
    if name.len() == 1 {
        let message = "expected more than a letter: CUDA's own headers have such names for template parameters";
        return Err(error(message.into()));
    }
    let number = |text: &str| {
        let expr = reader.parse(text).map_err(|e| error(e.to_string()))?;
        Ok(DefineValue::Number(Box::new(expr)))
    };
    let value = match value {
        RawDefine::Whole(n) => number(&n.to_string())?,
        RawDefine::Expression(text) => number(text)?,
        RawDefine::Texts(texts) => {
            if let Some(dtype) = dtypes.iter().find(|dtype| !texts.contains_key(dtype)) {
                return Err(error(format!("expected a text for each dtype of the domain, found none for {dtype}")));
            }
            if let Some(text) = texts.values().find(|t| t.len() > MAX_TEXT || t.chars().any(char::is_control)) {
                return Err(error(format!("expected at most {MAX_TEXT} characters of one line, found {text:?}")));
            }
            DefineValue::Text(texts.iter().map(|(&dtype, text)| (dtype, text.clone())).collect())
        }
    };
    Ok(Define { name: name.into(), value })
}

/// An entry point's name: text, `{dtype}`, `{MACRO}` and `{EXPRESSION}`.
pub(super) fn entry_name(
    reader: &Reader<'_>,
    name: &Spanned<String>,
    defines: &[Define],
) -> Result<EntryName, ManifestError> {
    let key = "launch.entry";
    let text = name.get_ref();
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        let message = format!("expected 1 to {MAX_TEXT} characters, none of them a control character, found {text:?}");
        return Err(reader.error(&name.span(), key, message));
    }
    let define = |name: &str| defines.iter().find(|define| define.name == name).map(|define| &define.value);
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let Some((inside, after)) = after.split_once('}') else {
            return Err(reader.error(&name.span(), key, format!("expected }} after each {{, found {text:?}")));
        };
        parts.push(NamePart::Text(before.to_owned()));
        parts.push(match (inside, define(inside)) {
            ("dtype", _) => NamePart::Dtype,
            (_, Some(DefineValue::Text(texts))) => NamePart::Define(texts.clone()),
            (_, Some(DefineValue::Number(expr))) => NamePart::Number(expr.clone()),
            _ => NamePart::Number(Box::new(reader.expr(key, &Spanned::new(name.span(), inside.to_owned()))?)),
        });
        rest = after;
    }
    parts.push(NamePart::Text(rest.to_owned()));
    Ok(EntryName { text: text.clone(), parts })
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

/// Whether a relative path can't lead out of its folder.
fn stays_inside(path: &Path) -> bool {
    path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

fn is_root(component: Component<'_>) -> bool {
    matches!(component, Component::RootDir | Component::Prefix(_))
}
