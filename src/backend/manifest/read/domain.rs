//! The domain of a manifest: legal by itself, and in line with what the launches take.

use super::Reader;
use crate::backend::manifest::{Launch, ManifestError, Memory, VARIABLES};
use crate::case::{Domain, KnobName, Knobs, StorageKind, TensorName};
use crate::expr::Expr;

/// What arguments and domain say of each other.
pub(super) fn check_domain(reader: &Reader<'_>, domain: &Domain, launches: &[Launch]) -> Result<(), ManifestError> {
    let args = || launches.iter().flat_map(|launch| launch.args.iter().zip(&launch.arg_lines));
    let find = |wanted: &dyn Fn(&Memory) -> bool| args().find(|(arg, _)| arg.takes(wanted)).map(|(_, &line)| line);
    let at = |line: usize, message: String| ManifestError {
        file: reader.file.into(),
        line: Some(line),
        key: "launch.args: ".into(),
        message,
    };
    let tensor = |name: TensorName| move |memory: &Memory| matches!(memory, Memory::Tensor(found) | Memory::Pointers(found) if *found == name);
    let paged = domain.storage.contains(&StorageKind::Paged);
    for (index, require) in domain.require.iter().enumerate() {
        let key = format!("domain.require[{index}].");
        let error = |field: &str, message: String| {
            let path = ["domain", "require"];
            let found = reader.error_at(&path, message);
            ManifestError { key: format!("{key}{field}: "), ..found }
        };
        require.parse(domain).map_err(|e| error("expr", e.to_string()))?;
        if require.because.trim().is_empty() {
            return Err(error("because", "expected a reason, found nothing".into()));
        }
    }
    for name in [TensorName::KNew, TensorName::VNew] {
        if let Some(line) = find(&tensor(name)).filter(|_| !domain.append) {
            return Err(at(line, format!("expected no {name}, since the domain has append = false")));
        }
    }
    let pointers = |memory: &Memory| matches!(memory, Memory::Pointers(name) if matches!(name, TensorName::KCache | TensorName::VCache));
    if let Some(line) = find(&pointers).filter(|_| paged) {
        return Err(at(line, "expected no pointers to each request's cache, since pages are shared".into()));
    }
    let table = find(&|memory| matches!(memory, Memory::Index(index, ..) if index.is_table()));
    let places = find(&|memory| matches!(memory, Memory::Index(index, ..) if index.finds_tokens()));
    match (paged, if paged { places } else { table }) {
        (false, Some(line)) => Err(at(line, "expected no block table, since the domain has no paged storage".into())),
        (true, None) => Err(reader.error_at(
            &["domain", "storage"],
            "expected an argument { block_table = \"padded\" }, \"padded_slots\" or \"kv_indices\" for paged storage, found none",
        )),
        _ if domain.sinks != find(&tensor(TensorName::Sinks)).is_some() => {
            let message = "expected sinks = true in the domain and an argument { tensor = \"sinks\" }, or neither";
            Err(reader.error_at(&["domain", "sinks"], message))
        }
        _ => Ok(()),
    }
}

/// What the domain says of masks and of the cache.
pub(super) fn check_cache(reader: &Reader<'_>, domain: &Domain) -> Result<(), ManifestError> {
    let paged = domain.storage.contains(&StorageKind::Paged);
    if domain.causal.is_empty() {
        return Err(reader.error_at(&["domain", "causal"], "expected true, false or both, found an empty list"));
    }
    if domain.storage.is_empty() {
        return Err(
            reader.error_at(&["domain", "storage"], "expected at least one kind of storage, found an empty list")
        );
    }
    if paged != domain.page_size.is_some() {
        let message =
            if paged { "expected it with paged storage, found nothing" } else { "expected it only with paged storage" };
        return Err(reader.error_at(&["domain", "page_size"], message));
    }
    if domain.append && domain.storage.contains(&StorageKind::Packed) {
        let message = "expected append = false with packed storage, which has no room for another token";
        return Err(reader.error_at(&["domain", "storage"], message));
    }
    if let Some(range) = domain.page_size.as_ref().filter(|range| range.low() == 0) {
        return Err(reader.error_at(&["domain", "page_size"], format!("expected at least 1 token, found {range}")));
    }
    if let Some(range) = domain.window.as_ref().filter(|range| range.low() == 0) {
        return Err(reader.error_at(&["domain", "window"], format!("expected at least 1 key, found {range}")));
    }
    Ok(())
}

/// A knob's name must mean the knob, and nothing else, wherever an expression can be.
pub(super) fn check_knob(reader: &Reader<'_>, name: &KnobName) -> Result<(), ManifestError> {
    let name = name.as_str();
    let taken = VARIABLES.contains(&name) || ["n", "d"].contains(&name);
    let is_variable = Expr::parse(name, &[name]).is_ok_and(|expr| expr.value(&[7.0]) == 7.0);
    if taken || !is_variable || Expr::parse(&format!("{name} + 1"), &[name]).is_err() {
        let message = format!("expected a name that no expression gives another meaning, found {name:?}");
        return Err(reader.error_at(&["domain", "knobs", name], message));
    }
    Ok(())
}

/// The knobs all at their lowest, and all at their highest.
pub(in crate::backend::manifest) fn knob_settings(domain: &Domain) -> [Knobs; 2] {
    let knobs = || domain.knobs.iter();
    [
        knobs().map(|(name, range)| (name.clone(), range.low())).collect(),
        knobs().map(|(name, range)| (name.clone(), range.high())).collect(),
    ]
}
