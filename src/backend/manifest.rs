//! `kernel.toml`: everything needed to drive a kernel that no one here wrote.
//!
//! `read` makes a [`Manifest`] of the text.

mod read;

use crate::bound::{Contract, FormulaError, LseBase};
use crate::case::{Case, Domain, Poison, Relation, TensorName};
use crate::expr::{Expr, ExprError};
use crate::float::Dtype;
use serde::Deserialize;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

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
    /// PTX, relative to the manifest's folder; absent if the code is made for each case.
    pub ptx: Option<String>,
    /// How the PTX is made from the source.
    pub compile: Option<CompileSpec>,
    /// What the kernel claims to support.
    pub domain: Domain,
    /// What the kernel promises about its arithmetic.
    pub numerics: Contract,
    /// Relations that hold to the bit because of how the kernel orders its operations.
    pub exact_relations: Vec<Relation>,
    /// The log-sum-exp that the kernel returns; absent if it returns none.
    pub lse: Option<Lse>,
    /// Memory that launches share, in the order of the file.
    pub workspaces: Vec<Workspace>,
    /// Launches of one step, in order.
    pub launches: Vec<Launch>,
}

/// What a kernel says of the log-sum-exp it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lse {
    /// Base of its logarithm.
    pub base: LseBase,
}

/// Memory that belongs to no tensor: partial results that one launch leaves for the next.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Its name in arguments and reports.
    pub name: String,
    /// Type of its elements.
    pub dtype: WorkspaceType,
    /// Elements; the most over the steps of a case, since it is kept from step to step.
    pub elements: Expr,
    /// Whether it is zero before the first step. If not, it is poison.
    pub zeroed: bool,
}

/// Type of a workspace's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceType {
    /// The case's dtype.
    Storage,
    /// binary32.
    F32,
    /// binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// 32-bit signed.
    I32,
    /// 32-bit unsigned.
    U32,
    /// 64-bit signed.
    I64,
    /// 64-bit unsigned.
    U64,
}

impl WorkspaceType {
    /// Bytes of an element that holds `poison`; integers get the bits of a poisoned binary32.
    pub fn poison(self, poison: Poison, storage: Dtype) -> Vec<u8> {
        let float = |dtype: Dtype| poison.bits(dtype).to_le_bytes()[..dtype.size_bytes()].to_vec();
        match self {
            Self::Storage => float(storage),
            Self::F16 => float(Dtype::F16),
            Self::Bf16 => float(Dtype::Bf16),
            Self::F32 | Self::I32 | Self::U32 => float(Dtype::F32),
            Self::I64 | Self::U64 => float(Dtype::F32).repeat(2),
        }
    }
}

/// One launch of a step.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Entry point.
    pub entry: EntryName,
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

/// Name of an entry point, with placeholders: `{dtype}` for the case's dtype, or `{EXPRESSION}` for a whole number.
#[derive(Clone, Debug)]
pub struct EntryName {
    /// As it is written.
    pub text: String,
    parts: Vec<NamePart>,
}

#[derive(Clone, Debug)]
enum NamePart {
    Text(String),
    Dtype,
    Number(Box<Expr>),
}

/// One kernel argument.
#[derive(Clone, Debug)]
pub enum Arg {
    /// Address of a tensor's first element; null for sinks that the case has not.
    Tensor(TensorName),
    /// Address of an `i32` array of lengths.
    Lengths(Lengths),
    /// Address of the block table: `i32`, `[request, page]`, rows of `pages_per_request` entries. Those behind a request's
    /// last page are [`NO_PAGE`](crate::case::NO_PAGE).
    BlockTable,
    /// Address of the workspace with this place in [`Manifest::workspaces`].
    Workspace(usize),
    /// A number.
    Value(Box<Expr>, Scalar),
}

/// Arrays of lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// Tokens in the cache before the step, one for each request.
    PastLen,
    /// Tokens in the cache after the step, one for each request.
    KvLen,
    /// Query tokens of the step, one for each request.
    QLen,
    /// Query tokens of the step in all requests before each, and in all.
    CuQLen,
    /// Tokens in the cache after the step in all requests before each, and in all.
    CuKvLen,
}

impl Lengths {
    /// Every array.
    pub const ALL: [Self; 5] = [Self::PastLen, Self::KvLen, Self::QLen, Self::CuQLen, Self::CuKvLen];

    /// Its name in arguments and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::PastLen => "past_len",
            Self::KvLen => "kv_len",
            Self::QLen => "q_len",
            Self::CuQLen => "cu_q_len",
            Self::CuKvLen => "cu_kv_len",
        }
    }

    /// What it holds at `step`.
    pub fn of(self, case: &Case, step: u32) -> Vec<u32> {
        let requests = 0..case.shape.requests.len();
        let each = |len: &dyn Fn(usize) -> u32| requests.clone().map(len).collect::<Vec<u32>>();
        let sums = |lens: Vec<u32>| {
            let sums = lens.into_iter().scan(0u32, |sum, n| {
                *sum = sum.wrapping_add(n);
                Some(*sum)
            });
            std::iter::once(0).chain(sums).collect()
        };
        let q_lens = || each(&|r| case.shape.requests[r].q_len);
        let kv_lens = || each(&|r| case.kv_len_at(r, step));
        match self {
            Self::PastLen => each(&|r| case.past_len_at(r, step)),
            Self::KvLen => kv_lens(),
            Self::QLen => q_lens(),
            Self::CuQLen => sums(q_lens()),
            Self::CuKvLen => sums(kv_lens()),
        }
    }
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

/// Variables of manifest expressions, in the order of [`variables`]; the kernel's knobs come after them.
pub const VARIABLES: [&str; 30] = [
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
    "total_kv_len",
    "causal",
    "window",
    "softcap",
    "sinks",
    "page_size",
    "num_pages",
    "pages_per_request",
    "k_stride_page",
    "v_stride_page",
];

/// Values of [`VARIABLES`] and then of the knobs of `domain` for one step. Lengths in tokens, strides in elements.
///
/// `causal` and `sinks` are 0 or 1; `window` and `softcap` are 0 if there is none. A stride that the cache has not, such as
/// that from request to request in a packed one, is NaN, which no argument takes.
pub fn variables(domain: &Domain, case: &Case, step: u32) -> Vec<f64> {
    let shape = &case.shape;
    let max = |f: &dyn Fn(usize) -> u32| f64::from((0..shape.requests.len()).map(f).max().unwrap_or(0));
    let k = case.cache_map(shape.head_dim);
    let v = case.cache_map(shape.v_head_dim);
    let stride = |stride: Option<u64>| stride.map_or(f64::NAN, |n| n as f64);
    let page_size = case.cache.storage.pages().map_or(f64::NAN, |pages| f64::from(pages.size));
    let features = &case.features;
    let total_kv_len: u64 = (0..shape.requests.len()).map(|r| u64::from(case.kv_len_at(r, step))).sum();
    let fixed: [f64; VARIABLES.len()] = [
        f64::from(shape.batch()),
        f64::from(shape.num_kv_heads),
        f64::from(shape.q_per_kv),
        f64::from(shape.num_q_heads()),
        f64::from(shape.head_dim),
        f64::from(shape.v_head_dim),
        f64::from(shape.total_q_len()),
        max(&|r| shape.requests[r].q_len),
        max(&|r| case.past_len_at(r, step)),
        max(&|r| case.kv_len_at(r, step)),
        f64::from(case.cache.capacity),
        f64::from(case.scale),
        f64::from(step),
        case.dtype.size_bytes() as f64,
        stride(k.request_stride()),
        k.head_stride() as f64,
        k.token_stride() as f64,
        stride(v.request_stride()),
        v.head_stride() as f64,
        v.token_stride() as f64,
        total_kv_len as f64,
        f64::from(u8::from(features.causal)),
        f64::from(features.window.unwrap_or(0)),
        f64::from(features.softcap.unwrap_or(0.0)),
        f64::from(u8::from(features.sinks)),
        page_size,
        case.num_pages() as f64,
        f64::from(case.pages_per_request()),
        stride(k.page_stride()),
        stride(v.page_stride()),
    ];
    let knobs = domain.knobs.keys().map(|name| case.knobs.get(name).map_or(f64::NAN, |&n| f64::from(n)));
    fixed.into_iter().chain(knobs).collect()
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
            Self::Tensor(_) | Self::Lengths(_) | Self::BlockTable | Self::Workspace(_) => 8,
            Self::Value(_, scalar) => scalar.size_bytes(),
        }
    }
}

impl Manifest {
    /// Reads a manifest's text; `file` is for messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        read::manifest(file, text)
    }

    /// Checks what is known without launches: of a kernel that somebody else launches.
    pub(super) fn check_claim(&self, file: &Path) -> Result<(), ManifestError> {
        let error = |key: String, message| ManifestError { file: file.into(), line: None, key, message };
        read::check_name(&self.name).map_err(|message| error("name: ".into(), message))?;
        let settings = read::knob_settings(&self.domain);
        let wrong = |(field, why): (&str, FormulaError)| error(format!("numerics.{field}: "), why.to_string());
        self.numerics.check(&settings).map_err(wrong)
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

impl EntryName {
    /// The entry point for a dtype and values of [`VARIABLES`] and knobs.
    pub fn of(&self, dtype: Dtype, values: &[f64]) -> Result<String, ExprError> {
        let part = |part: &NamePart| {
            Ok(match part {
                NamePart::Text(text) => text.clone(),
                NamePart::Dtype => dtype.to_string(),
                NamePart::Number(expr) => expr.whole(values, 0, i64::from(u32::MAX))?.to_string(),
            })
        };
        self.parts.iter().map(part).collect()
    }

    /// Whether `entry` is the entry point for a dtype and some numbers.
    pub fn may_be(&self, entry: &str, dtype: Dtype) -> bool {
        may_be(&self.parts, entry, &dtype.to_string())
    }
}

fn may_be(parts: &[NamePart], entry: &str, dtype: &str) -> bool {
    let Some((first, rest)) = parts.split_first() else { return entry.is_empty() };
    match first {
        NamePart::Text(text) => entry.strip_prefix(text.as_str()).is_some_and(|tail| may_be(rest, tail, dtype)),
        NamePart::Dtype => entry.strip_prefix(dtype).is_some_and(|tail| may_be(rest, tail, dtype)),
        NamePart::Number(_) => {
            let digits = entry.bytes().take_while(u8::is_ascii_digit).count();
            (1..=digits).any(|n| may_be(rest, &entry[n..], dtype))
        }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
