//! Numbers a kernel's caller chooses beside the problem: how many splits, which tile.
//!
//! A kernel's manifest names them and says which values it takes; a case of that kernel gives each a value. A right
//! kernel's result does not depend on them beyond rounding.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Name of a knob: a lower-case letter, then lower-case letters, digits and `_`, at most 32 in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KnobName(String);

/// The value of each knob, in order of their names; none for a kernel without knobs.
pub type Knobs = BTreeMap<KnobName, u32>;

/// Most knobs that a case may have.
pub const MAX_KNOBS: usize = 16;

const MAX_NAME: usize = 32;

impl KnobName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KnobName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= MAX_NAME && name.chars().all(legal) {
            return Ok(Self(name));
        }
        let found: String = name.chars().take(2 * MAX_NAME).collect();
        Err(format!(
            "expected a name of at most {MAX_NAME} lower-case letters, digits and _, a letter first, found {found:?}"
        ))
    }
}

impl FromStr for KnobName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        name.to_owned().try_into()
    }
}

impl From<KnobName> for String {
    fn from(name: KnobName) -> Self {
        name.0
    }
}

impl Borrow<str> for KnobName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KnobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
