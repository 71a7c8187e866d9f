//! A kernel said in code: the same things that a `kernel.toml` says, through the same checks.

use super::Claim;
use super::kernel::{Kernel, OpenError};
use super::manifest::{Index, ManifestError, Scalar, WorkspaceType};
use crate::case::{Case, TensorName};
use serde::Serialize;
use std::path::PathBuf;
use toml::{Table, Value};

/// Puts a [`Kernel`] together without a file: what it claims, its launches with their arguments in order, and its PTX.
///
/// Expressions are those of a manifest, over the same variables (docs/manifest.md), and everything is checked as a
/// manifest is: nothing is wrong that [`ptx`](Self::ptx) or [`ptx_for`](Self::ptx_for) doesn't tell.
///
/// ```
/// use attnfuzz::backend::KernelBuilder;
/// use attnfuzz::backend::manifest::{Index, Scalar::*};
/// use attnfuzz::case::{Domain, TensorName::*};
/// use attnfuzz::harness::{Harness, Settings};
///
/// let domain = Domain { head_dim: (1..=32).into(), past_len: (0..=16).into(), ..Domain::default() };
/// let kernel = KernelBuilder::new("decode", domain)
///     .launch("gqa_decode_{dtype}", ["batch * num_kv_heads", "ceil(q_per_kv / 8)", "1"], ["128", "1", "1"])
///     .tensors([Q, KNew, VNew, KCache, VCache, Out])
///     .index(Index::PastLen)
///     .value("num_kv_heads", I32)
///     .value("q_per_kv", I32)
///     .value("head_dim", I32)
///     .value("k_stride_request", I64)
///     .value("k_stride_head", I64)
///     .value("k_stride_token", I64)
///     .value("scale", F32)
///     .ptx(include_str!("../../kernels/gqa_decode/kernel.ptx"))?;
/// Harness::of_kernel(kernel).test(&Settings::cases(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct KernelBuilder {
    name: String,
    claim: Claim,
    workspaces: Vec<Table>,
    launches: Vec<Table>,
    layout: Table,
    /// The first call that came too early.
    misplaced: Option<&'static str>,
}

impl KernelBuilder {
    /// A kernel of this name; findings are saved under it.
    pub fn new(name: &str, claim: impl Into<Claim>) -> Self {
        Self {
            name: name.into(),
            claim: claim.into(),
            workspaces: Vec::new(),
            launches: Vec::new(),
            layout: Table::new(),
            misplaced: None,
        }
    }

    /// A launch of a step, after those before it. What follows is said of it: its arguments in order.
    ///
    /// `{dtype}` in the entry's name stands for the case's dtype, any other `{...}` for a whole number.
    #[must_use]
    pub fn launch(mut self, entry: &str, grid: [&str; 3], block: [&str; 3]) -> Self {
        let [grid, block] = [grid, block].map(|dims| Value::Array(dims.map(Value::from).into()));
        let args = Value::Array(Vec::new());
        self.launches.push(table([("entry", entry.into()), ("grid", grid), ("block", block), ("args", args)]));
        self
    }

    /// The launch's dynamic shared memory, an expression; without, none.
    #[must_use]
    pub fn shared_bytes(mut self, bytes: &str) -> Self {
        match self.launches.last_mut() {
            Some(launch) => drop(launch.insert("shared_bytes".into(), bytes.into())),
            None => self.misplaced = self.misplaced.or(Some("shared_bytes")),
        }
        self
    }

    /// The address of a tensor.
    #[must_use]
    pub fn tensor(self, name: TensorName) -> Self {
        self.arg([("tensor", name.to_string().into())])
    }

    /// The addresses of tensors, one after the other.
    #[must_use]
    pub fn tensors(self, names: impl IntoIterator<Item = TensorName>) -> Self {
        names.into_iter().fold(self, Self::tensor)
    }

    /// The address of an `i32` array of lengths, or of a block table in one of its forms.
    #[must_use]
    pub fn index(self, which: Index) -> Self {
        self.arg([(if which.is_table() { "block_table" } else { "lengths" }, which.name().into())])
    }

    /// A null pointer.
    #[must_use]
    pub fn null(self) -> Self {
        self.arg([("null", true.into())])
    }

    /// A struct by value, laid out as C does; `fields` says its fields as arguments are said.
    #[must_use]
    pub fn structure(mut self, fields: impl FnOnce(Self) -> Self) -> Self {
        let outer = self.args().map(std::mem::take);
        self = fields(self);
        match (self.args(), outer) {
            (Some(args), Some(outer)) => {
                let inner = std::mem::replace(args, outer);
                self.arg([("struct", Value::Array(inner))])
            }
            _ => Self { misplaced: self.misplaced.or(Some("struct")), ..self },
        }
    }

    /// How a tensor of a step lies, if not dense in the order of the manual: its axes from the outermost to the innermost, such
    /// as `"head, token, dim"`.
    #[must_use]
    pub fn layout(mut self, tensor: TensorName, axes: &str) -> Self {
        self.layout.insert(tensor.to_string(), axes.into());
        self
    }

    /// The address of a workspace, see [`with_workspace`](Self::with_workspace).
    #[must_use]
    pub fn workspace(self, name: &str) -> Self {
        self.arg([("workspace", name.into())])
    }

    /// A number, by an expression.
    #[must_use]
    pub fn value(self, expression: &str, scalar: Scalar) -> Self {
        self.arg([("value", expression.into()), ("type", word(scalar))])
    }

    /// Memory that launches share, of so many elements (an expression); not initialised.
    #[must_use]
    pub fn with_workspace(mut self, name: &str, dtype: WorkspaceType, elements: &str) -> Self {
        self.workspaces.push(table([("name", name.into()), ("dtype", word(dtype)), ("elements", elements.into())]));
        self
    }

    /// Those of the last launch.
    fn args(&mut self) -> Option<&mut Vec<Value>> {
        self.launches.last_mut().and_then(|launch| launch.get_mut("args")).and_then(Value::as_array_mut)
    }

    fn arg<const N: usize>(mut self, entries: [(&'static str, Value); N]) -> Self {
        let what = entries[0].0;
        match self.args() {
            Some(args) => args.push(Value::Table(table(entries))),
            None => self.misplaced = self.misplaced.or(Some(what)),
        }
        self
    }

    /// The kernel with this PTX for all cases.
    ///
    /// # Errors
    /// What is wrong with what was said, by the key that a manifest has for it, or with the PTX.
    pub fn ptx(self, ptx: impl Into<String>) -> Result<Kernel, OpenError> {
        let (file, manifest) = self.manifest(true)?;
        Kernel::of_texts(&file, &manifest, ptx.into()).map_err(without_line)
    }

    /// The kernel with the PTX that `make` gives for each case, or its reason why there is none: for code with the shape
    /// baked in. See [`Kernel::made_by`].
    ///
    /// # Errors
    /// What is wrong with what was said, by the key that a manifest has for it.
    pub fn ptx_for(
        self,
        make: impl Fn(&Case) -> Result<String, String> + Send + Sync + 'static,
    ) -> Result<Kernel, OpenError> {
        let (file, manifest) = self.manifest(false)?;
        Kernel::made_by(&file, &manifest, make).map_err(without_line)
    }

    /// The text of the manifest that says the same, and what messages call it.
    fn manifest(self, with_ptx: bool) -> Result<(PathBuf, String), OpenError> {
        let file = PathBuf::from(format!("code:{}", self.name));
        let wrong = |key: &str, message: String| ManifestError {
            file: file.clone(),
            line: None,
            key: format!("{key}: "),
            message,
        };
        if let Some(what) = self.misplaced {
            return Err(
                wrong(what, "expected it after the launch that it belongs to, found it before any".into()).into()
            );
        }
        let Claim { domain, numerics, lse, exact_relations } = self.claim;
        let value = |key: &str, value: Result<Value, toml::ser::Error>| value.map_err(|e| wrong(key, e.to_string()));
        let mut manifest = Table::new();
        manifest.insert("name".into(), self.name.into());
        if with_ptx {
            manifest.insert("ptx".into(), "kernel.ptx".into());
        }
        if let Some(base) = lse {
            manifest.insert("lse".into(), Value::Table(table([("base", base.to_string().into())])));
        }
        manifest.insert("domain".into(), value("domain", Value::try_from(domain))?);
        manifest.insert("numerics".into(), value("numerics", Value::try_from(numerics))?);
        let exact = value("relations", Value::try_from(exact_relations))?;
        manifest.insert("relations".into(), Value::Table(table([("exact", exact)])));
        if !self.layout.is_empty() {
            manifest.insert("layout".into(), Value::Table(self.layout));
        }
        for (key, tables) in [("workspace", self.workspaces), ("launch", self.launches)] {
            manifest.insert(key.into(), tables.into_iter().map(Value::Table).collect::<Vec<_>>().into());
        }
        let text = toml::to_string(&manifest).map_err(|e| wrong("manifest", e.to_string()))?;
        Ok((file, text))
    }
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A variant's name in a manifest.
fn word(variant: impl Serialize) -> Value {
    Value::try_from(variant).unwrap_or_else(|_| unreachable!("a variant without fields is a word"))
}

/// Nobody has seen the text that has the line.
fn without_line(error: OpenError) -> OpenError {
    match error {
        OpenError::Manifest(error) => OpenError::Manifest(ManifestError { line: None, ..error }),
        other => other,
    }
}
