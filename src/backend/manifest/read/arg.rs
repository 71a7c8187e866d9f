//! The arguments of a launch.

use super::Reader;
use crate::backend::manifest::{
    Arg, Index, IndexType, ManifestError, Memory, PagesOf, Pointer, Scalar, SharedBuffer, Struct, Workspace,
};
use crate::case::TensorName;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use std::fmt::Display;
use std::ops::Range;
use toml::Spanned;

/// Most bytes of a struct: what a launch's parameters may have together.
const MAX_STRUCT_BYTES: usize = 4096;
/// Structs inside of structs.
const MAX_DEPTH: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArg {
    tensor: Option<String>,
    lengths: Option<String>,
    block_table: Option<String>,
    pointers: Option<String>,
    workspace: Option<String>,
    null: Option<bool>,
    value: Option<String>,
    /// Read one by one: serde's own recursion takes a hundred times the stack.
    #[serde(rename = "struct")]
    fields: Option<Vec<toml::Value>>,
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Whose pages a block table names.
    of: Option<String>,
    /// Bytes from the start of the memory.
    offset: Option<String>,
    /// Bytes from the start of the struct that it is a field of.
    at: Option<usize>,
    /// Of a struct, in bytes.
    align: Option<usize>,
    packed: Option<bool>,
}

/// What arguments may name beside tensors.
pub(super) struct Named<'a> {
    pub(super) workspaces: &'a [Workspace],
    pub(super) buffers: &'a [SharedBuffer],
}

/// What argument `index` says.
pub(super) fn check_arg(
    reader: &Reader<'_>,
    named: &Named<'_>,
    index: usize,
    arg: &Spanned<RawArg>,
) -> Result<Arg, ManifestError> {
    let place = Place { reader, named, span: arg.span() };
    place.arg(&format!("launch.args[{index}]"), arg.get_ref(), 0)
}

/// An argument in the file, with all that is in it.
struct Place<'a> {
    reader: &'a Reader<'a>,
    named: &'a Named<'a>,
    span: Range<usize>,
}

impl Place<'_> {
    fn error(&self, key: &str, message: impl Display) -> ManifestError {
        self.reader.error(&self.span, key, message)
    }

    /// Not inlined: what serde makes of it takes hundreds of kilobytes of stack, and `fields` is recursive.
    #[inline(never)]
    fn raw(&self, key: &str, field: &toml::Value) -> Result<RawArg, ManifestError> {
        field.clone().try_into().map_err(|error: toml::de::Error| self.error(key, error.message().trim()))
    }

    fn arg(&self, key: &str, raw: &RawArg, depth: usize) -> Result<Arg, ManifestError> {
        let kinds = [
            ("tensor", raw.tensor.is_some()),
            ("lengths", raw.lengths.is_some()),
            ("block_table", raw.block_table.is_some()),
            ("pointers", raw.pointers.is_some()),
            ("workspace", raw.workspace.is_some()),
            ("null", raw.null.is_some()),
            ("value", raw.value.is_some()),
            ("struct", raw.fields.is_some()),
        ];
        let given: Vec<&str> = kinds.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        let [kind] = given[..] else {
            let names = kinds.map(|(name, _)| name).join(", ");
            let found = if given.is_empty() { "none".into() } else { given.join(" and ") };
            return Err(self.error(key, format!("expected one of the keys {names}, found {found}")));
        };
        let modifiers: [(&str, bool, &[&str]); 5] = [
            ("type", raw.kind.is_some(), &["value", "lengths", "block_table"]),
            ("of", raw.of.is_some(), &["block_table"]),
            ("offset", raw.offset.is_some(), &["tensor", "lengths", "block_table", "pointers", "workspace"]),
            ("align", raw.align.is_some(), &["struct"]),
            ("packed", raw.packed.is_some(), &["struct"]),
        ];
        if let Some((name, _, of)) = modifiers.iter().find(|(_, given, of)| *given && !of.contains(&kind)) {
            let message = format!("expected it beside {} only, found it beside {kind}", of.join(", "));
            return Err(self.error(&format!("{key}.{name}"), message));
        }
        if raw.at.is_some() && depth == 0 {
            return Err(self.error(&format!("{key}.at"), "expected it for a field of a struct only"));
        }
        let memory = match kind {
            "value" => return self.value(key, raw),
            "struct" => return self.fields(key, raw, depth).map(Arg::Struct),
            "null" if raw.null == Some(true) => Memory::Null,
            "null" => return Err(self.error(&format!("{key}.null"), "expected true, found false")),
            "tensor" => match self.named.buffers.iter().position(|buffer| Some(&buffer.name) == raw.tensor.as_ref()) {
                Some(buffer) => Memory::Buffer(buffer),
                None => Memory::Tensor(self.tensor(&format!("{key}.tensor"), raw.tensor.as_deref())?),
            },
            "pointers" => {
                let key = format!("{key}.pointers");
                let tensor = self.tensor(&key, raw.pointers.as_deref())?;
                if tensor == TensorName::Sinks {
                    return Err(self.error(&key, "expected a tensor with rows of each request, found \"sinks\""));
                }
                Memory::Pointers(tensor)
            }
            "workspace" => self.workspace(&format!("{key}.workspace"), raw.workspace.as_deref().unwrap_or_default())?,
            "lengths" => self.index(key, "lengths", raw.lengths.as_deref(), &Index::LENGTHS, raw)?,
            _ => self.index(key, "block_table", raw.block_table.as_deref(), &Index::TABLES, raw)?,
        };
        let expr = |text: &String| self.expr(&format!("{key}.offset"), text).map(Box::new);
        Ok(Arg::Pointer(Pointer { memory, offset: raw.offset.as_ref().map(expr).transpose()? }))
    }

    fn expr(&self, key: &str, text: &str) -> Result<crate::expr::Expr, ManifestError> {
        self.reader.parse(text).map_err(|error| self.error(key, error))
    }

    fn value(&self, key: &str, raw: &RawArg) -> Result<Arg, ManifestError> {
        let expr = self.expr(&format!("{key}.value"), raw.value.as_deref().unwrap_or_default())?;
        let key = format!("{key}.type");
        let Some(name) = &raw.kind else { return Err(self.error(&key, "expected the number's type, found nothing")) };
        Ok(Arg::Value(Box::new(expr), self.named::<Scalar>(&key, name)?))
    }

    /// What serde knows by a name.
    fn named<'de, T: Deserialize<'de>>(&self, key: &str, name: &'de str) -> Result<T, ManifestError> {
        let name: StrDeserializer<'de, ValueError> = name.into_deserializer();
        T::deserialize(name).map_err(|error| self.error(key, error))
    }

    fn tensor(&self, key: &str, name: Option<&str>) -> Result<TensorName, ManifestError> {
        let (tensors, name) = (TensorName::ALL, name.unwrap_or_default());
        tensors.into_iter().find(|t| t.to_string() == name).ok_or_else(|| {
            let names = tensors.map(|t| t.to_string()).join(", ");
            self.error(key, format!("expected one of {names}, found {name:?}"))
        })
    }

    fn workspace(&self, key: &str, name: &str) -> Result<Memory, ManifestError> {
        self.named.workspaces.iter().position(|w| w.name == name).map(Memory::Workspace).ok_or_else(|| {
            let names = self.named.workspaces.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join(", ");
            self.error(key, format!("expected the name of a [[workspace]] ({names}), found {name:?}"))
        })
    }

    fn index(
        &self,
        key: &str,
        kind: &str,
        name: Option<&str>,
        all: &[Index],
        raw: &RawArg,
    ) -> Result<Memory, ManifestError> {
        let name = name.unwrap_or_default();
        let index = all.iter().find(|index| index.name() == name).ok_or_else(|| {
            let names = all.iter().map(|index| index.name()).collect::<Vec<_>>().join(", ");
            self.error(&format!("{key}.{kind}"), format!("expected one of {names}, found {name:?}"))
        })?;
        let of = |name: &String| self.named::<IndexType>(&format!("{key}.type"), name);
        let kind = raw.kind.as_ref().map_or(Ok(IndexType::default()), of)?;
        let of = |name: &String| self.named::<PagesOf>(&format!("{key}.of"), name);
        let pages = raw.of.as_ref().map_or(Ok(PagesOf::default()), of)?;
        if raw.of.is_some() && !index.names_pages() {
            let names = all.iter().filter(|index| index.names_pages()).map(|index| index.name()).collect::<Vec<_>>();
            let message = format!("expected it beside {} only, found it beside {}", names.join(", "), index.name());
            return Err(self.error(&format!("{key}.of"), message));
        }
        Ok(Memory::Index(*index, kind, pages))
    }

    /// Places fields as C does, but where the manifest says otherwise.
    fn fields(&self, key: &str, raw: &RawArg, depth: usize) -> Result<Struct, ManifestError> {
        let key = format!("{key}.struct");
        if depth == MAX_DEPTH {
            return Err(
                self.error(&key, format!("expected at most {MAX_DEPTH} structs inside of each other, found more"))
            );
        }
        let packed = raw.packed == Some(true);
        let (mut fields, mut size_bytes, mut align_bytes) = (Vec::new(), 0usize, 1usize);
        for (index, field) in raw.fields.iter().flatten().enumerate() {
            let key = format!("{key}[{index}]");
            let field = self.raw(&key, field)?;
            let arg = self.arg(&key, &field, depth + 1)?;
            let align = if packed { 1 } else { arg.align_bytes() };
            let start = field.at.unwrap_or_else(|| size_bytes.next_multiple_of(align));
            if start < size_bytes {
                let message = format!("expected at least {size_bytes}, where the field before ends, found {start}");
                return Err(self.error(&format!("{key}.at"), message));
            }
            size_bytes = start.saturating_add(arg.size_bytes());
            if size_bytes > MAX_STRUCT_BYTES {
                return Err(
                    self.error(&key, format!("expected a struct of at most {MAX_STRUCT_BYTES} bytes, found more"))
                );
            }
            // A field that the manifest places decides nothing.
            if field.at.is_none() {
                align_bytes = align_bytes.max(align);
            }
            fields.push((start, arg));
        }
        if fields.is_empty() {
            return Err(self.error(&key, "expected at least one field, found none"));
        }
        if let Some(align) = raw.align {
            if !align.is_power_of_two() || align > 128 {
                let message = format!("expected a power of two from 1 to 128, found {align}");
                return Err(self.error(&key.replace(".struct", ".align"), message));
            }
            align_bytes = align;
        }
        Ok(Struct { fields, size_bytes: size_bytes.next_multiple_of(align_bytes), align_bytes })
    }
}
