//! Entry points that are one, made for several storage types.

use super::Entry;
use super::guess::{Element, Kind};
use crate::float::Dtype;

/// The entries, those that differ by the name of a storage type alone made one with `{dtype}` in its name.
pub(super) fn merged(entries: Vec<Entry>) -> Vec<Entry> {
    let mut merged: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some((name, dtype)) = with_placeholder(&entry.name) else {
            merged.push(entry);
            continue;
        };
        match merged.iter_mut().find(|other| other.name == name && is_alike(other, &entry)) {
            Some(other) => other.dtypes.push(dtype),
            None => merged.push(Entry { name, dtypes: vec![dtype], ..entry }),
        }
    }
    for entry in &mut merged {
        entry.dtypes.sort_unstable_by_key(|dtype| Dtype::ALL.iter().position(|other| other == dtype));
        // One alone keeps its name: others may take its place in a name for other reasons.
        if let [dtype] = entry.dtypes[..] {
            entry.name = entry.name.replacen("{dtype}", &dtype.to_string(), 1);
            entry.dtypes.clear();
        }
    }
    merged
}

/// The name with `{dtype}` for the one word that names a storage type.
fn with_placeholder(name: &str) -> Option<(String, Dtype)> {
    let words: Vec<&str> = name.split('_').collect();
    let dtype_of = |word: &&str| Dtype::ALL.into_iter().find(|dtype| dtype.to_string() == **word);
    let mut found = words.iter().enumerate().filter_map(|(index, word)| Some((index, dtype_of(word)?)));
    let (index, dtype) = found.next().filter(|_| found.next().is_none())?;
    let words: Vec<&str> =
        words.iter().enumerate().map(|(i, word)| if i == index { "{dtype}" } else { word }).collect();
    Some((words.join("_"), dtype))
}

/// Whether a launch of the one is a launch of the other, elements aside.
fn is_alike(one: &Entry, other: &Entry) -> bool {
    let plain = |kind: Kind| match kind {
        Kind::Pointer { element: None | Some(Element::F32 | Element::F16 | Element::Bf16), is_const } => {
            Kind::Pointer { element: None, is_const }
        }
        other => other,
    };
    one.block == other.block
        && one.has_dynamic_shared == other.has_dynamic_shared
        && one.params.len() == other.params.len()
        && one.params.iter().zip(&other.params).all(|(a, b)| a.name == b.name && plain(a.kind) == plain(b.kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::init::{of_function, source};

    fn names(text: &str) -> Vec<(String, usize)> {
        let entries = source::functions(text).iter().map(of_function).collect();
        merged(entries).into_iter().map(|entry| (entry.name, entry.dtypes.len())).collect()
    }

    #[test]
    fn entries_that_differ_by_the_storage_type_are_one() {
        let text = "__global__ void f_bf16(const __nv_bfloat16* q, int n) {} __global__ void f_f16(const half* q, int n) {}\n\
                    __global__ void g_f32_x(float* q) {} __global__ void g_f16_x(half* q, int n) {} __global__ void h(int n) {}";
        let expected = [("f_{dtype}", 2), ("g_f32_x", 0), ("g_f16_x", 0), ("h", 0)];
        assert_eq!(names(text), expected.map(|(name, dtypes)| (name.to_owned(), dtypes)));
        // A name with two of them says nothing of which, and lengths are no elements.
        let text = "__global__ void f_f16_f32(half* q) {} __global__ void f_f32_f32(float* q) {}\n\
                    __global__ void g_f16(int* q) {} __global__ void g_f32(float* q) {}";
        assert!(names(text).iter().all(|(_, dtypes)| *dtypes == 0), "{:?}", names(text));
    }
}
