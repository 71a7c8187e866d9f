//! `kernel.toml`: everything needed to drive a kernel that no one here wrote.
//!
//! `read` makes a [`Manifest`] of the text.

mod arg;
mod layout;
mod place;
mod read;

pub use crate::case::variables::{VARIABLES, variables};
pub use arg::{Arg, Index, IndexType, Memory, PagesOf, Pointer, Scalar, Struct};
pub use layout::{Along, Axis, Dimension, LayoutError, Placement, SharedBuffer, TensorLayout};

use crate::bound::{Contract, FormulaError, LseBase};
use crate::case::{Domain, Poison, Relation, TensorName};
use crate::expr::{Expr, ExprError};
use crate::float::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Machine code for a GPU, relative to the manifest's folder; instead of PTX.
    pub cubin: Option<String>,
    /// How the PTX is made from the source.
    pub compile: Option<CompileSpec>,
    /// Macros that depend on the case, where the PTX is made for each.
    pub defines: Vec<Define>,
    /// What the kernel claims to support.
    pub domain: Domain,
    /// What the kernel promises about its arithmetic.
    pub numerics: Contract,
    /// Whether the manifest says so; if not, that is what is assumed of any kernel.
    pub numerics_stated: bool,
    /// Layouts of the tensors that do not lie as this program has them.
    pub layouts: BTreeMap<TensorName, TensorLayout>,
    /// Which of them lie in one buffer.
    pub buffers: Vec<SharedBuffer>,
    /// Relations that hold to the bit because of how the kernel orders its operations.
    pub exact_relations: Vec<Relation>,
    /// The log-sum-exp that the kernel returns; absent if it returns none.
    pub lse: Option<Lse>,
    /// Memory that launches share, in the order of the file.
    pub workspaces: Vec<Workspace>,
    /// Launches of one step, in order.
    pub launches: Vec<Launch>,
    /// Whether the value cache has pages of its own: in the reverse order of the key cache's.
    pub v_pages: bool,
}

/// A macro of the source whose value depends on the case.
#[derive(Clone, Debug)]
pub struct Define {
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub value: DefineValue,
}

/// What a macro stands for.
#[derive(Clone, Debug)]
pub enum DefineValue {
    /// A number.
    Number(Box<Expr>),
    /// A text for each dtype of the domain.
    Text(Vec<(Dtype, String)>),
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
    /// What it holds before the first step.
    pub initial: Initial,
}

/// What a workspace holds before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Nothing that may be read.
    Poison,
    /// Zeros.
    Zero,
    /// The number one.
    One,
    /// Minus infinity.
    MinusInfinity,
    /// This byte everywhere.
    Byte(u8),
}

/// Type of a workspace's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Its format, if its elements are floating-point numbers.
    pub fn float(self, storage: Dtype) -> Option<Dtype> {
        match self {
            Self::Storage => Some(storage),
            Self::F16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::Bf16),
            Self::F32 => Some(Dtype::F32),
            Self::I32 | Self::U32 | Self::I64 | Self::U64 => None,
        }
    }

    /// Bytes of an element.
    pub fn size_bytes(self, storage: Dtype) -> usize {
        match self {
            Self::I64 | Self::U64 => 8,
            other => other.float(storage).unwrap_or(Dtype::F32).size_bytes(),
        }
    }

    /// Bytes of an element that holds `poison`; integers get the bits of a poisoned binary32.
    pub fn poison(self, poison: Poison, storage: Dtype) -> Vec<u8> {
        let dtype = self.float(storage).unwrap_or(Dtype::F32);
        let bits = poison.bits(dtype).to_le_bytes()[..dtype.size_bytes()].to_vec();
        bits.repeat(self.size_bytes(storage) / dtype.size_bytes())
    }

    /// Bytes of an element of a workspace that begins with `initial`; none if that is poison.
    pub fn initial(self, initial: Initial, storage: Dtype) -> Option<Vec<u8>> {
        let size = self.size_bytes(storage);
        let number = |x: f64| match self.float(storage) {
            Some(dtype) => dtype.encode(x).to_le_bytes()[..size].to_vec(),
            // The only whole number asked for is 1: `read` refuses an infinite one.
            None => (x as u64).to_le_bytes()[..size].to_vec(),
        };
        match initial {
            Initial::Poison => None,
            Initial::Zero => Some(vec![0; size]),
            Initial::One => Some(number(1.0)),
            Initial::MinusInfinity => Some(number(f64::NEG_INFINITY)),
            Initial::Byte(byte) => Some(vec![byte; size]),
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
    /// Blocks of a cluster along x, y, z.
    pub cluster: [Expr; 3],
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
    /// A macro's text for each dtype.
    Define(Vec<(Dtype, String)>),
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
        // What is missing from the whole is told on the first line.
        let line = Some(error.span().map_or(1, |span| line_of(text, &span)));
        Self {
            file: file.into(),
            line,
            key: String::new(),
            message: one_line(&error.message().trim().replace('\n', ", ")),
        }
    }
}

/// `text` on one line, its middle left out where it is very long: an error may quote what a file says.
fn one_line(text: &str) -> String {
    /// Characters of the beginning and of the end that stay.
    const KEPT: (usize, usize) = (900, 300);
    let text: String = text.replace(['\n', '\r'], " ");
    let length = text.chars().count();
    if length <= KEPT.0 + KEPT.1 {
        return text;
    }
    let first: String = text.chars().take(KEPT.0).collect();
    let last: String = text.chars().skip(length - KEPT.1).collect();
    format!("{first} ... {last}")
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

impl Manifest {
    /// Reads a manifest's text; `file` is for messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        read::manifest(file, text)
    }

    /// Checks what is known without launches: of a kernel that somebody else launches.
    pub(super) fn check_claim(&self, file: &Path) -> Result<(), ManifestError> {
        let error = |key: String, message| ManifestError { file: file.into(), line: None, key, message };
        read::check_name(&self.name).map_err(|message| error("name: ".into(), message))?;
        for (index, require) in self.domain.require.iter().enumerate() {
            let wrong = |why: ExprError| error(format!("domain.require[{index}].expr: "), why.to_string());
            require.parse(&self.domain).map_err(wrong)?;
        }
        let settings = read::knob_settings(&self.domain);
        let wrong = |(field, why): (&str, FormulaError)| error(format!("numerics.{field}: "), why.to_string());
        self.numerics.check(&settings).map_err(wrong)
    }

    /// Whether it names the same code as `other`, with entries that take as many bytes.
    pub(super) fn runs_the_code_of(&self, other: &Self) -> bool {
        let code = |m: &Self| {
            (m.source.clone(), m.ptx.clone(), m.cubin.clone(), m.compile.clone(), format!("{:?}", m.defines))
        };
        let entries = |m: &Self| -> Vec<(String, Vec<usize>)> {
            let sizes = |launch: &Launch| launch.args.iter().map(Arg::size_bytes).collect();
            m.launches.iter().map(|launch| (launch.entry.text.clone(), sizes(launch))).collect()
        };
        code(self) == code(other) && entries(self) == entries(other)
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
                NamePart::Define(texts) => {
                    texts.iter().find(|(of, _)| *of == dtype).map(|(_, text)| text.clone()).unwrap_or_default()
                }
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
        // Stored code has no macros.
        NamePart::Define(_) => false,
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
