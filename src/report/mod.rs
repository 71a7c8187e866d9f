//! Events and findings for people and machines. Nothing here prints: everything returns text.

pub mod human;
pub mod jsonl;
pub mod mutation;
