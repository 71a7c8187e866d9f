//! What each form means, one case at a time, written from the PTX ISA manual and from IEEE 754.

mod body;
mod convert;
mod eight;
pub(crate) mod exact;
mod float;
mod integer;
mod matrix;
mod select;
mod warp;

use crate::fidelity::forms::form::Form;

/// An instruction's name, taken apart.
pub(crate) struct Name<'n> {
    pub(crate) opcode: &'n str,
    modifiers: Vec<&'n str>,
    pub(crate) types: Vec<&'n str>,
}

const TYPES: [&str; 27] = [
    "u8", "s8", "b8", "u16", "s16", "b16", "u32", "s32", "b32", "u64", "s64", "b64", "u16x2", "s16x2", "f16", "bf16",
    "f16x2", "bf16x2", "f32", "f64", "tf32", "pred", "e4m3x2", "e5m2x2", "b128", "f32x2", "f16x4",
];

impl<'n> Name<'n> {
    pub(crate) fn new(name: &'n str) -> Self {
        let mut parts = name.split_whitespace().next().unwrap_or("").split('.');
        let opcode = parts.next().unwrap_or("");
        let (types, modifiers) = parts.partition(|p| TYPES.contains(p));
        Self { opcode, modifiers, types }
    }

    pub(crate) fn has(&self, modifier: &str) -> bool {
        self.modifiers.contains(&modifier)
    }

    /// The first of `choices` among the modifiers.
    pub(crate) fn choice<'c>(&self, choices: &[&'c str]) -> Option<&'c str> {
        choices.iter().find(|c| self.has(c)).copied()
    }

    /// The last type.
    pub(crate) fn ty(&self) -> &'n str {
        self.types.last().copied().unwrap_or("")
    }
}

/// Results of every case; `None` for a form without a model.
///
/// A result may be `None`: the manual leaves it open.
pub(crate) fn expected(form: &Form, cases: &[Vec<u64>]) -> Option<Vec<Vec<Option<u64>>>> {
    let name = Name::new(&form.name);
    if let Some(results) = warp::expected(form, &name, cases) {
        return Some(results);
    }
    if let Some(results) = matrix::expected(form, &name, cases) {
        return Some(results);
    }
    cases.iter().map(|case| one(form, &name, case)).collect()
}

fn one(form: &Form, name: &Name<'_>, case: &[u64]) -> Option<Vec<Option<u64>>> {
    let several = |values: Vec<u64>| values.into_iter().map(Some).collect::<Vec<_>>();
    if form.name.contains(" in half ") {
        return None;
    }
    let vector = ["v2", "v4"].into_iter().any(|m| name.has(m));
    if !form.name.contains('%') && (form.name.contains(' ') || vector || name.opcode == "mapa") {
        return body::expected(name, case).map(several);
    }
    if form.name.contains('%')
        && let Some(values) = select::special(form, name, case)
    {
        return Some(several(values));
    }
    let single = match name.opcode {
        "mov" => case[0],
        "cvt" if name.has("pack") => convert::pack(name, case)?,
        "cvt" => convert::convert(name, case, form.outputs.first()?.bits())?,
        "setp" | "set" | "selp" | "slct" | "testp" => return select::select(name, case).map(several),
        "atom" | "red" => return select::atomic(name, case).map(several),
        _ => match name.ty() {
            "f16" | "bf16" | "f16x2" | "bf16x2" | "f32" | "f64" => float::arithmetic(name, case)?,
            _ => integer::arithmetic(name, case)?,
        },
    };
    Some(vec![Some(single)])
}
