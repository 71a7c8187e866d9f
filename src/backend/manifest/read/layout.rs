//! Where tensors lie: `[layout]`.

use super::Reader;
use crate::backend::manifest::{Along, Axis, Dimension, ManifestError, SharedBuffer, TensorLayout};
use crate::case::{Domain, StorageKind, TensorName};
use crate::expr::Expr;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Display;

/// Most dimensions of a tensor; more than any kernel has.
const MAX_DIMENSIONS: usize = 12;

/// A tensor's dimensions from the outermost to the innermost, the stride of each axis, or the tensors of a buffer.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected an order such as \"head, token, dim\", a stride for each axis, or a table of tensors"
)]
pub(super) enum RawLayout {
    Order(String),
    Table(BTreeMap<String, RawLayout>),
}

/// Layouts, and the buffers that several tensors lie in.
pub(super) type Layouts = (BTreeMap<TensorName, TensorLayout>, Vec<SharedBuffer>);

/// What `[layout]` says.
pub(super) fn check(
    reader: &Reader<'_>,
    domain: &Domain,
    raw: &BTreeMap<String, RawLayout>,
) -> Result<Layouts, ManifestError> {
    let (mut layouts, mut buffers) = (BTreeMap::new(), Vec::new());
    for (name, raw) in raw {
        let outer = Place { reader, path: vec!["layout", name] };
        let RawLayout::Table(inside) = raw else {
            let tensor = placed(name).ok_or_else(|| outer.expected(&PLACED.map(|t| t.to_string()).join(", "), name))?;
            insert(&mut layouts, &outer, tensor, outer.layout(domain, tensor, raw)?)?;
            continue;
        };
        if let Some(tensor) = placed(name) {
            insert(&mut layouts, &outer, tensor, outer.layout(domain, tensor, raw)?)?;
            continue;
        }
        super::check_name(name).map_err(|message| outer.error(message))?;
        if TensorName::ALL.iter().any(|tensor| tensor.to_string() == *name) {
            return Err(outer.expected(&PLACED.map(|t| t.to_string()).join(", "), name));
        }
        let mut tensors = Vec::new();
        for (name, raw) in inside {
            let inner = Place { reader, path: outer.path.iter().copied().chain([name.as_str()]).collect() };
            let sharing = SHARING.into_iter().find(|tensor| tensor.to_string() == *name);
            let tensor = sharing.ok_or_else(|| inner.expected(&SHARING.map(|t| t.to_string()).join(", "), name))?;
            insert(&mut layouts, &inner, tensor, inner.layout(domain, tensor, raw)?)?;
            tensors.push(tensor);
        }
        check_buffer(&outer, domain, &tensors)?;
        buffers.push(SharedBuffer { name: name.clone(), tensors });
    }
    Ok((layouts, buffers))
}

/// A tensor lies in one place, be it a buffer's.
fn insert(
    layouts: &mut BTreeMap<TensorName, TensorLayout>,
    at: &Place<'_>,
    tensor: TensorName,
    layout: TensorLayout,
) -> Result<(), ManifestError> {
    match layouts.insert(tensor, layout) {
        None => Ok(()),
        Some(_) => Err(at.error(format!("expected one place for {tensor}, found another"))),
    }
}

/// Tensors that a manifest may lay out.
const PLACED: [TensorName; 7] = [
    TensorName::Q,
    TensorName::KNew,
    TensorName::VNew,
    TensorName::Out,
    TensorName::Lse,
    TensorName::KCache,
    TensorName::VCache,
];
/// Tensors that may lie in one buffer.
const SHARING: [TensorName; 5] =
    [TensorName::Q, TensorName::KNew, TensorName::VNew, TensorName::KCache, TensorName::VCache];

fn placed(name: &str) -> Option<TensorName> {
    PLACED.into_iter().find(|tensor| tensor.to_string() == *name)
}

fn is_cache(tensor: TensorName) -> bool {
    matches!(tensor, TensorName::KCache | TensorName::VCache)
}

fn check_buffer(at: &Place<'_>, domain: &Domain, tensors: &[TensorName]) -> Result<(), ManifestError> {
    if tensors.len() < 2 {
        return Err(at.error(format!("expected at least 2 tensors in one buffer, found {}", tensors.len())));
    }
    if let Some(new) = tensors.iter().find(|t| matches!(t, TensorName::KNew | TensorName::VNew) && !domain.append) {
        return Err(at.error(format!("expected no {new}, since the domain has append = false")));
    }
    let caches = tensors.iter().filter(|&&tensor| is_cache(tensor)).count();
    if domain.append && caches != 0 && caches != tensors.len() {
        let message = "expected either caches or tensors of a step, since caches stay from step to step, found both";
        return Err(at.error(message));
    }
    Ok(())
}

/// A key in the file.
struct Place<'a> {
    reader: &'a Reader<'a>,
    path: Vec<&'a str>,
}

impl<'a> Place<'a> {
    fn error(&self, message: impl Display) -> ManifestError {
        self.reader.error_at(&self.path, message)
    }

    fn expected(&self, names: &str, found: &str) -> ManifestError {
        self.error(format!("expected one of {names}, found {found:?}"))
    }

    fn parse(&self, text: &str) -> Result<Expr, ManifestError> {
        self.reader.parse(text.trim()).map_err(|error| self.error(error))
    }

    fn layout(&self, domain: &Domain, tensor: TensorName, raw: &RawLayout) -> Result<TensorLayout, ManifestError> {
        let layout = match raw {
            RawLayout::Order(order) => self.ordered(order, None)?,
            RawLayout::Table(table) => {
                let text = |key: &str| match table.get(key) {
                    None => Ok(None),
                    Some(RawLayout::Order(text)) => Ok(Some(text.as_str())),
                    Some(RawLayout::Table(_)) => Err(self.error(format!("expected a text for {key}, found a table"))),
                };
                let at = text("at")?.map(|at| self.parse(at)).transpose()?;
                match text("order")? {
                    Some(order) => {
                        if let Some(key) = table.keys().find(|key| !["order", "at"].contains(&key.as_str())) {
                            return Err(self.error(format!("expected at alone beside order, found {key:?}")));
                        }
                        self.ordered(order, at)?
                    }
                    None => {
                        let axes = table.keys().filter(|key| *key != "at");
                        let strided = |key: &String| {
                            let stride = self.parse(text(key)?.unwrap_or_default())?;
                            Ok(Dimension { stride: Some(stride), ..self.dimension(key)? })
                        };
                        TensorLayout { at, dimensions: axes.map(strided).collect::<Result<_, _>>()? }
                    }
                }
            }
        };
        self.check(domain, tensor, &layout)?;
        Ok(layout)
    }

    fn ordered(&self, order: &str, at: Option<Expr>) -> Result<TensorLayout, ManifestError> {
        let dimensions = split(order).into_iter().map(|text| self.dimension(text)).collect::<Result<_, _>>()?;
        Ok(TensorLayout { at, dimensions })
    }

    /// `AXIS`, `AXIS / SIZE`, either with ` of LENGTH`, or `PLACE of LENGTH`.
    fn dimension(&self, text: &str) -> Result<Dimension, ManifestError> {
        let (what, of) = text.split_once(" of ").map_or((text, None), |(what, of)| (what, Some(of)));
        let axis = |name: &str| Axis::ALL.into_iter().find(|axis| axis.name() == name.trim());
        let groups = what.split_once('/').and_then(|(name, size)| Some((axis(name)?, size)));
        let along = match (axis(what), groups, of) {
            (Some(axis), ..) => Along::Axis(axis),
            (None, Some((axis, size)), _) => Along::Groups(axis, self.parse(size)?),
            (None, None, Some(_)) => Along::Place(self.parse(what)?),
            (None, None, None) => return Err(self.unknown(what)),
        };
        Ok(Dimension { along, of: of.map(|of| self.parse(of)).transpose()?, stride: None })
    }

    fn unknown(&self, found: &str) -> ManifestError {
        let last = self.path.last().and_then(|name| placed(name));
        let axes =
            if last.is_some_and(is_cache) { "request, page, token, head, dim" } else { "request, token, head, dim" };
        self.error(format!("expected each of {axes} once, found {:?}", found.trim()))
    }

    /// Whether there is each axis that the tensor has, once.
    fn check(&self, domain: &Domain, tensor: TensorName, layout: &TensorLayout) -> Result<(), ManifestError> {
        if layout.dimensions.len() > MAX_DIMENSIONS {
            let found = layout.dimensions.len();
            return Err(self.error(format!("expected at most {MAX_DIMENSIONS} dimensions, found {found}")));
        }
        let mut all: Vec<(Axis, bool)> = layout.axes().collect();
        all.sort_unstable();
        if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(self.unknown(pair[0].0.name()));
        }
        if let Some((axis, _)) = all.iter().find(|(axis, groups)| *groups && !layout.has_whole(*axis)) {
            let name = axis.name();
            return Err(self.error(format!("expected {name} beside {name} / SIZE, found groups alone")));
        }
        let mut axes: Vec<Axis> = all.iter().map(|(axis, _)| *axis).collect();
        axes.dedup();
        let (wanted, said) = match tensor {
            TensorName::KCache | TensorName::VCache => self.cache(domain)?,
            TensorName::Lse => (vec![Axis::Token, Axis::Head], "token and head, and no dim, with or without request"),
            _ => (vec![Axis::Token, Axis::Head, Axis::Dim], "token, head and dim, with or without request"),
        };
        let optional = |axis: &Axis| *axis == Axis::Request && !is_cache(tensor);
        if axes.iter().filter(|axis| !optional(axis)).ne(&wanted) {
            let found = axes.iter().map(|axis| axis.name()).collect::<Vec<_>>().join(", ");
            return Err(self.error(format!("expected {said}, found {found}")));
        }
        Ok(())
    }

    /// The axes of a cache, if the domain leaves no doubt.
    fn cache(&self, domain: &Domain) -> Result<(Vec<Axis>, &'static str), ManifestError> {
        if domain.cache.len() != 1 || domain.row_pad.high() != 0 {
            let message =
                "expected one order in domain.cache and domain.row_pad = 0 beside it, which then decides both";
            return Err(self.error(message));
        }
        let rest = |first: &[Axis]| first.iter().copied().chain([Axis::Token, Axis::Head, Axis::Dim]).collect();
        match domain.storage[..] {
            [StorageKind::PerRequest] => Ok((rest(&[Axis::Request]), "request, token, head and dim")),
            [StorageKind::Paged] => Ok((rest(&[Axis::Page]), "page, token, head and dim")),
            [StorageKind::Packed] => Ok((rest(&[]), "token, head and dim")),
            _ => Err(self.error("expected one kind of domain.storage beside it, found several")),
        }
    }
}

/// The parts between commas that are in no parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0i32;
    text.split(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .collect()
}
