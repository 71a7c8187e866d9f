//! What a manifest comes to for a case, in words.

use super::manifest::{self, Arg, IndexType, Launch, Memory, PagesOf, Pointer};
use super::{BackendError, Kernel};
use crate::case::{Case, TensorName};
use crate::expr::{Expr, ExprError};

/// A launch of a case, with everything evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explained {
    /// The entry point.
    pub entry: String,
    /// Blocks along x, y, z, and what the manifest says.
    pub grid: Dims,
    /// Threads of a block along x, y, z.
    pub block: Dims,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: i64,
    /// The arguments; of a struct by value its fields.
    pub args: Vec<Bound>,
}

/// What a launch hands over at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bound {
    /// Number of the argument, from 0, and for a field of a struct its byte: `2+16`.
    pub place: String,
    /// What the manifest binds it to.
    pub to: String,
    /// Its value, or what is where it points to.
    pub value: String,
}

/// Three numbers and the expressions that they came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dims {
    /// The numbers.
    pub numbers: [i64; 3],
    /// The expressions.
    pub expressions: [String; 3],
}

impl Kernel {
    /// The launches of step `step` of `case`, in words.
    ///
    /// # Errors
    /// The manifest gives no legal launch for the case.
    pub fn explain(&self, case: &Case, step: u32) -> Result<Vec<Explained>, BackendError> {
        let values = self.manifest.variables(case, step);
        let launches = self.manifest.launches.iter().map(|launch| self.explained(launch, case, step, &values));
        Ok(launches.collect::<Result<_, ExprError>>()?)
    }

    fn explained(&self, launch: &Launch, case: &Case, step: u32, values: &[f64]) -> Result<Explained, ExprError> {
        let mut args = Vec::new();
        for (number, arg) in launch.args.iter().enumerate() {
            self.argument((number, None), arg, (case, step, values), &mut args)?;
        }
        Ok(Explained {
            entry: launch.entry.of(case.dtype, values)?,
            grid: dims(&launch.grid, values)?,
            block: dims(&launch.block, values)?,
            shared_bytes: launch.shared_bytes.whole(values, 0, i64::from(u32::MAX))?,
            args,
        })
    }

    fn argument(
        &self,
        (number, byte): (usize, Option<usize>),
        arg: &Arg,
        (case, step, values): (&Case, u32, &[f64]),
        all: &mut Vec<Bound>,
    ) -> Result<(), ExprError> {
        let (to, value) = match arg {
            Arg::Struct(fields) => {
                for (offset, field) in &fields.fields {
                    let place = (number, Some(byte.unwrap_or(0) + offset));
                    self.argument(place, field, (case, step, values), all)?;
                }
                return Ok(());
            }
            Arg::Value(expr, scalar) => (expr.to_string(), format!("{} {}", word(*scalar), scalar.text(expr, values)?)),
            Arg::Pointer(Pointer { memory, offset }) => {
                let (to, value) = self.memory(*memory, case, step, values)?;
                match offset {
                    None => (to, value),
                    Some(offset) => (to, format!("{} bytes into the {value}", offset.value(values))),
                }
            }
        };
        let place = byte.map_or_else(|| number.to_string(), |byte| format!("{number}+{byte}"));
        all.push(Bound { place, to, value });
        Ok(())
    }

    fn memory(&self, memory: Memory, case: &Case, step: u32, values: &[f64]) -> Result<(String, String), ExprError> {
        Ok(match memory {
            Memory::Null => ("null".into(), "null".into()),
            Memory::Tensor(name) => {
                let layout = self.manifest.layouts.get(&name);
                let value = match layout.and_then(|layout| layout.numbers(name, case, values).ok()) {
                    Some(numbers) => {
                        format!("address of {}, as [layout] says, strides: {}", case.dtype, numbers.text())
                    }
                    None => tensor(name, case),
                };
                (name.to_string(), value)
            }
            Memory::Pointers(name) => (name.to_string(), "address of addresses, one of each request".into()),
            Memory::Buffer(index) => {
                let buffer = &self.manifest.buffers[index];
                let place = |name: &TensorName| {
                    let layout = self.manifest.layouts.get(name)?;
                    let numbers = layout.numbers(*name, case, values).ok()?;
                    Some(format!("{name} from element {}, strides: {}", numbers.start(), numbers.text()))
                };
                let places: Vec<String> = buffer.tensors.iter().filter_map(place).collect();
                (buffer.name.clone(), format!("address of {}: {}", case.dtype, places.join("; ")))
            }
            Memory::Index(index, kind, pages) => {
                let numbers: Vec<String> = index.of_pages(case, step, pages).iter().map(ToString::to_string).collect();
                let kind = if kind == IndexType::I64 { "i64" } else { "i32" };
                let of = if pages == PagesOf::V { " of v" } else { "" };
                (format!("{}{of}", index.name()), format!("address of {kind} [{}]", numbers.join(", ")))
            }
            Memory::Workspace(index) => {
                let workspace = &self.manifest.workspaces[index];
                let elements = workspace.elements.whole(values, 0, i64::MAX)?;
                (workspace.name.clone(), format!("address of {elements} elements that launches share"))
            }
        })
    }
}

/// A type's name in manifests.
fn word(scalar: manifest::Scalar) -> String {
    format!("{scalar:?}").to_lowercase()
}

fn dims(exprs: &[Expr; 3], values: &[f64]) -> Result<Dims, ExprError> {
    let [x, y, z] = exprs.each_ref().map(|expr| expr.whole(values, 1, i64::from(u32::MAX)));
    Ok(Dims { numbers: [x?, y?, z?], expressions: exprs.each_ref().map(ToString::to_string) })
}

fn bracketed(shape: &[u32]) -> String {
    format!("[{}]", shape.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))
}

/// What a tensor's address leads to.
fn tensor(name: TensorName, case: &Case) -> String {
    let shape = &case.shape;
    let (tokens, q_heads, kv_heads) = (shape.total_q_len(), shape.num_q_heads(), shape.num_kv_heads);
    let dense = |dtype: &dyn std::fmt::Display, shape: &[u32], axes: &str| {
        format!("address of {dtype} {} ({axes})", bracketed(shape))
    };
    match name {
        TensorName::Q => dense(&case.dtype, &[tokens, q_heads, shape.head_dim], "token, q_head, dim"),
        TensorName::KNew => dense(&case.dtype, &[tokens, kv_heads, shape.head_dim], "token, kv_head, dim"),
        TensorName::VNew => dense(&case.dtype, &[tokens, kv_heads, shape.v_head_dim], "token, kv_head, dim"),
        TensorName::Out => dense(&case.dtype, &[tokens, q_heads, shape.v_head_dim], "token, q_head, dim"),
        TensorName::Lse => dense(&"f32", &[tokens, q_heads], "token, q_head"),
        TensorName::Sinks if !case.features.sinks => "null: the case has no sinks".into(),
        TensorName::Sinks => dense(&"f32", &[q_heads], "q_head"),
        TensorName::KCache => cache(case, shape.head_dim),
        TensorName::VCache => cache(case, shape.v_head_dim),
    }
}

fn cache(case: &Case, dim: u32) -> String {
    let map = case.cache_map(dim);
    let outer = match (map.request_stride(), map.page_stride()) {
        (Some(stride), _) => format!("request {stride}, "),
        (None, Some(stride)) => format!("page {stride}, "),
        (None, None) => String::new(),
    };
    let (head, token) = (map.head_stride(), map.token_stride());
    format!("address of {} {}, strides: {outer}head {head}, token {token}", case.dtype, case.cache.order)
}
