//! Events and findings for people and machines. Nothing here prints: everything returns text.

pub mod coverage;
pub mod html;
pub mod human;
pub mod jsonl;
pub mod junit;
pub mod lcov;
mod markup;
pub mod mutation;
pub mod record;
pub mod rule_out;
pub mod sarif;
mod svg;
