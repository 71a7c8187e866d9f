//! Makes cases of a domain: from a random generator, from fuzzer bytes, from a campaign's seed and index.
//!
//! Every door leads through [`Space::legalize`], so whatever a door comes up with, what leaves is a Case of the domain.
//!
//! - [`Space::draw`]: random, small on the whole, with the boundaries where kernels break drawn on purpose.
//! - [`Space::case_at`]: the `index`-th case of the campaign `seed`, the same on every machine and in every order.
//! - [`Space::arbitrary`]: decodes bytes, so that a coverage-guided fuzzer's small mutation is a small change.
//! - [`Space::mutate`], [`Space::splice`]: cases near one case, and between two.
//! - [`presets`]: head configurations of models people run.
//! - [`Statistics`]: what has been generated so far, feature by feature.
//!
//! Deliberately absent: proptest (the `property` room builds its strategy on this one) and making cases smaller.

mod arbitrary;
mod budget;
mod dice;
mod draw;
mod legalize;
mod mutate;
pub mod presets;
mod require;
mod statistics;
mod tables;

pub use budget::cost;
pub use draw::DEFAULT_BUDGET;
pub use legalize::{EmptyDomain, Space};
pub use presets::Preset;
pub use statistics::{Feature, Statistics};
