//! Named errors of functions and instructions, for the formulas of contracts.

use super::formula::Formula;
use crate::case::Knobs;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// An error that a contract can name instead of stating a number.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Upper-case name; one that ends in an architecture, such as `_SM90`, was measured there.
    pub name: String,
    value: Formula,
    /// Where the number comes from.
    pub source: String,
}

impl Constant {
    /// Every constant, in order of their names.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        CONSTANTS.values()
    }

    /// The constant of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        // The table's own values are formulas, and not in terms of each other.
        name.starts_with(|c: char| c.is_ascii_uppercase()).then(|| CONSTANTS.get(name)).flatten()
    }

    /// Its value: a relative error, unless its source says it is absolute.
    pub fn value(&self) -> f64 {
        self.value.eval(1, 1, &Knobs::new())
    }

    /// Its value as it was written.
    pub fn as_str(&self) -> &str {
        self.value.as_str()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    value: Formula,
    source: String,
}

static CONSTANTS: LazyLock<BTreeMap<String, Constant>> = LazyLock::new(|| {
    let entries: BTreeMap<String, Entry> = toml::from_str(include_str!("constants.toml"))
        .unwrap_or_else(|error| unreachable!("the constants are well-formed, please report: {error}"));
    let constant =
        |(name, entry): (String, Entry)| (name.clone(), Constant { name, value: entry.value, source: entry.source });
    entries.into_iter().map(constant).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_constant_is_a_small_number_with_a_source() {
        assert!(Constant::all().count() >= 15);
        for constant in Constant::all() {
            let value = constant.value();
            assert!(value > 0.0 && value < 3.0, "{}: {value}", constant.name);
            assert!(constant.source.len() > 20, "{}", constant.name);
            let legal = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            assert!(constant.name.chars().all(legal), "{}", constant.name);
            assert_eq!(constant.name.parse::<Formula>().unwrap().eval(7, 9, &Knobs::new()), value);
        }
    }

    #[test]
    fn what_was_measured_is_within_what_is_documented() {
        for measured in Constant::all().filter(|constant| constant.name.ends_with("_SM90")) {
            let documented = Constant::named(measured.name.trim_end_matches("_SM90")).unwrap();
            // `__expf` is documented as a constant and a part that grows with its argument, measured as a whole.
            let grows = if documented.name == "FAST_EXPF" { 89.0 * 2f64.powi(-24) * fast_expf_slope() } else { 0.0 };
            assert!(measured.value() <= documented.value() + grows, "{}", measured.name);
        }
    }

    fn fast_expf_slope() -> f64 {
        Constant::named("FAST_EXPF_SLOPE").unwrap().value()
    }
}
