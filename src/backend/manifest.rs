//! `kernel.toml`: everything needed to drive a kernel that no one here wrote.
//!
//! The file is read in two steps: TOML into `Raw` (types and unknown keys, by serde), then every expression, name and
//! type into a [`Manifest`]. Both steps answer with the file, the line and the key.

use crate::bound::Contract;
use crate::case::{Case, Domain, Relation, TensorName};
use crate::expr::{Expr, ExprError};
use serde::Deserialize;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;

use super::compile::CompileSpec;

/// A checked manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The kernel's name, used in reports and as a folder's name: letters, digits, `_`, `-`.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// CUDA source, relative to the manifest's folder.
    pub source: Option<String>,
    /// PTX, relative to the manifest's folder.
    pub ptx: String,
    /// How the PTX is made from the source.
    pub compile: Option<CompileSpec>,
    /// What the kernel claims to support.
    pub domain: Domain,
    /// What the kernel promises about its arithmetic.
    pub numerics: Contract,
    /// Relations that hold to the bit because of how the kernel orders its operations.
    pub exact_relations: Vec<Relation>,
    /// Launches of one step, in order.
    pub launches: Vec<Launch>,
}

/// One launch of a step.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Entry point; `{dtype}` stands for the case's dtype.
    pub entry: String,
    /// Blocks along x, y, z.
    pub grid: [Expr; 3],
    /// Threads of a block along x, y, z.
    pub block: [Expr; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: Expr,
    /// Arguments in the kernel's order.
    pub args: Vec<Arg>,
    /// Line of each argument in the manifest.
    arg_lines: Vec<usize>,
}

/// One kernel argument.
#[derive(Clone, Debug)]
pub enum Arg {
    /// Address of a tensor's first element.
    Tensor(TensorName),
    /// Address of an `i32` array with one length for each request.
    Lengths(Lengths),
    /// A number.
    Value(Box<Expr>, Scalar),
}

/// Arrays of lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// Tokens in the cache before the step.
    PastLen,
    /// Tokens in the cache after the step.
    KvLen,
}

/// Type of a number argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scalar {
    /// 32-bit signed.
    I32,
    /// 64-bit signed.
    I64,
    /// 32-bit unsigned.
    U32,
    /// 64-bit unsigned.
    U64,
    /// binary32.
    F32,
    /// binary64.
    F64,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{file}{line}: {key}{message}", file = file.display(), line = Colon(*line))]
pub struct ManifestError {
    /// The file.
    pub file: PathBuf,
    /// Line from 1, if it has one.
    pub line: Option<usize>,
    /// The key, with `: ` behind it, or nothing.
    pub key: String,
    /// Expected and found.
    pub message: String,
}

impl ManifestError {
    /// What the TOML reader said.
    pub(super) fn of_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| line_of(text, &span));
        Self { file: file.into(), line, key: String::new(), message: error.message().trim().replace('\n', ", ") }
    }
}

/// Line of a span's start, from 1.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}

struct Colon(Option<usize>);

impl fmt::Display for Colon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// Variables of manifest expressions, in the order of [`variables`].
pub const VARIABLES: [&str; 20] = [
    "batch",
    "num_kv_heads",
    "q_per_kv",
    "num_q_heads",
    "head_dim",
    "v_head_dim",
    "total_q_len",
    "q_len_max",
    "past_len_max",
    "kv_len_max",
    "capacity",
    "scale",
    "step",
    "element_bytes",
    "k_stride_request",
    "k_stride_head",
    "k_stride_token",
    "v_stride_request",
    "v_stride_head",
    "v_stride_token",
];

/// Values of [`VARIABLES`] for one step. Lengths in tokens, strides in elements.
pub fn variables(case: &Case, step: u32) -> [f64; VARIABLES.len()] {
    let shape = &case.shape;
    let max = |f: &dyn Fn(usize) -> u32| f64::from((0..shape.requests.len()).map(f).max().unwrap_or(0));
    let k = case.cache_layout(shape.head_dim);
    let v = case.cache_layout(shape.v_head_dim);
    [
        f64::from(shape.batch()),
        f64::from(shape.num_kv_heads),
        f64::from(shape.q_per_kv),
        f64::from(shape.num_q_heads()),
        f64::from(shape.head_dim),
        f64::from(shape.v_head_dim),
        f64::from(shape.total_q_len()),
        max(&|r| shape.requests[r].q_len),
        max(&|r| case.past_len_at(r, step)),
        max(&|r| case.past_len_at(r, step + 1)),
        f64::from(case.cache.capacity),
        f64::from(case.scale),
        f64::from(step),
        case.dtype.size_bytes() as f64,
        k.strides()[0] as f64,
        k.strides()[1] as f64,
        k.strides()[2] as f64,
        v.strides()[0] as f64,
        v.strides()[1] as f64,
        v.strides()[2] as f64,
    ]
}

impl Scalar {
    /// Bytes of an argument of this type.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The argument's bytes for `expr`, or why it doesn't fit.
    pub fn bytes(self, expr: &Expr, values: &[f64]) -> Result<Vec<u8>, ExprError> {
        Ok(match self {
            Self::I32 => (expr.whole(values, i64::from(i32::MIN), i64::from(i32::MAX))? as i32).to_le_bytes().to_vec(),
            Self::U32 => (expr.whole(values, 0, i64::from(u32::MAX))? as u32).to_le_bytes().to_vec(),
            Self::I64 => expr.whole(values, -(1 << 53), 1 << 53)?.to_le_bytes().to_vec(),
            Self::U64 => expr.whole(values, 0, 1 << 53)?.to_le_bytes().to_vec(),
            Self::F32 => (expr.value(values) as f32).to_le_bytes().to_vec(),
            Self::F64 => expr.value(values).to_le_bytes().to_vec(),
        })
    }
}

impl Arg {
    /// Bytes the argument takes in the kernel's parameter space; also its alignment.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Tensor(_) | Self::Lengths(_) => 8,
            Self::Value(_, scalar) => scalar.size_bytes(),
        }
    }
}

impl Manifest {
    /// Reads a manifest's text; `file` is for messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        let reader = Reader { file, text };
        let raw: Raw = toml::from_str(text).map_err(|e| ManifestError::of_toml(file, text, &e))?;
        raw.check(&reader)
    }

    /// Checks each launch's arguments against an entry's real parameter list, given as sizes in bytes.
    pub fn check_params(
        &self,
        file: &Path,
        launch: &Launch,
        entry: &str,
        sizes: &[usize],
    ) -> Result<(), ManifestError> {
        let error = |line, key: String, message| Err(ManifestError { file: file.into(), line, key, message });
        if sizes.len() != launch.args.len() {
            let message =
                format!("expected {} arguments as entry {entry} has, found {}", sizes.len(), launch.args.len());
            return error(launch.arg_lines.first().copied(), "launch.args: ".into(), message);
        }
        for (index, (arg, &size)) in launch.args.iter().zip(sizes).enumerate() {
            if arg.size_bytes() != size {
                let message = format!("expected {size} bytes as entry {entry} has, found {}", arg.size_bytes());
                return error(launch.arg_lines.get(index).copied(), format!("launch.args[{index}]: "), message);
            }
        }
        Ok(())
    }
}

impl Launch {
    /// Name of the entry point for a case.
    pub fn entry_for(&self, dtype: crate::float::Dtype) -> String {
        self.entry.replace("{dtype}", &dtype.to_string())
    }
}

/// The file as serde reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    #[serde(default)]
    summary: String,
    source: Option<String>,
    ptx: String,
    compile: Option<CompileSpec>,
    domain: Domain,
    #[serde(default)]
    numerics: Contract,
    #[serde(default)]
    relations: RawRelations,
    launch: Vec<RawLaunch>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelations {
    exact: Vec<Relation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLaunch {
    entry: String,
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
    value: Option<String>,
    #[serde(rename = "type")]
    scalar: Option<Scalar>,
}

/// Makes errors with lines.
struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn error(&self, span: &Range<usize>, key: &str, message: impl fmt::Display) -> ManifestError {
        let line = Some(line_of(self.text, span));
        ManifestError { file: self.file.into(), line, key: format!("{key}: "), message: message.to_string() }
    }

    fn expr(&self, key: &str, text: &Spanned<String>) -> Result<Expr, ManifestError> {
        Expr::parse(text.get_ref(), &VARIABLES).map_err(|e| self.error(&text.span(), key, e))
    }

    fn exprs(&self, key: &str, texts: &[Spanned<String>; 3]) -> Result<[Expr; 3], ManifestError> {
        let [x, y, z] = texts;
        Ok([self.expr(key, x)?, self.expr(key, y)?, self.expr(key, z)?])
    }
}

impl Raw {
    fn check(self, reader: &Reader<'_>) -> Result<Manifest, ManifestError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name = self.name.get_ref();
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            let message = format!("expected 1 to 64 letters, digits, _ or -, found {name:?}");
            return Err(reader.error(&self.name.span(), "name", message));
        }
        let launches = self.launch.into_iter().map(|launch| launch.check(reader)).collect::<Result<Vec<_>, _>>()?;
        if launches.is_empty() {
            return Err(reader.error(&(0..0), "launch", "expected at least one launch, found none"));
        }
        for (key, path) in [("ptx", Some(&self.ptx)), ("source", self.source.as_ref())] {
            if let Some(path) = path.filter(|p| !stays_inside(Path::new(p))) {
                let message = format!("expected a path inside the manifest's folder, found {path:?}");
                return Err(reader.error(&(0..0), key, message));
            }
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
            launches,
        })
    }
}

/// Whether a relative path can't lead out of its folder.
fn stays_inside(path: &Path) -> bool {
    path.components().all(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir))
}

impl RawLaunch {
    fn check(self, reader: &Reader<'_>) -> Result<Launch, ManifestError> {
        let zero = Spanned::new(0..0, "0".to_owned());
        let arg_lines = self.args.iter().map(|arg| line_of(reader.text, &arg.span())).collect();
        let args =
            self.args.iter().enumerate().map(|(index, arg)| check_arg(reader, index, arg)).collect::<Result<_, _>>()?;
        Ok(Launch {
            entry: self.entry,
            grid: reader.exprs("launch.grid", &self.grid)?,
            block: reader.exprs("launch.block", &self.block)?,
            shared_bytes: reader.expr("launch.shared_bytes", self.shared_bytes.as_ref().unwrap_or(&zero))?,
            args,
            arg_lines,
        })
    }
}

fn check_arg(reader: &Reader<'_>, index: usize, arg: &Spanned<RawArg>) -> Result<Arg, ManifestError> {
    let key = format!("launch.args[{index}]");
    let span = arg.span();
    match arg.get_ref() {
        RawArg { tensor: Some(name), lengths: None, value: None, scalar: None } => {
            let tensors = [
                TensorName::Q,
                TensorName::KNew,
                TensorName::VNew,
                TensorName::KCache,
                TensorName::VCache,
                TensorName::Out,
            ];
            let tensor = tensors.into_iter().find(|t| t.to_string() == *name).ok_or_else(|| {
                let names = tensors.map(|t| t.to_string()).join(", ");
                reader.error(&span, &format!("{key}.tensor"), format!("expected one of {names}, found {name:?}"))
            })?;
            Ok(Arg::Tensor(tensor))
        }
        RawArg { tensor: None, lengths: Some(lengths), value: None, scalar: None } => Ok(Arg::Lengths(*lengths)),
        RawArg { tensor: None, lengths: None, value: Some(text), scalar: Some(scalar) } => {
            let expr = reader.expr(&format!("{key}.value"), &Spanned::new(span, text.clone()))?;
            Ok(Arg::Value(Box::new(expr), *scalar))
        }
        _ => Err(reader.error(
            &span,
            &key,
            "expected one of { tensor = NAME }, { lengths = NAME } and { value = EXPRESSION, type = TYPE }, found another set of keys",
        )),
    }
}
