//! Events and findings for people and machines. Nothing here prints: everything returns text.

pub mod coverage;
pub mod human;
pub mod jsonl;
pub mod lcov;
pub mod mutation;
pub mod rule_out;
