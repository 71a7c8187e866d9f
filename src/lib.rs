//! `attnfuzz` finds the shape a grouped-query attention (GQA) CUDA kernel gets wrong.

pub mod backend;
pub mod bound;
pub mod campaign;
pub mod case;
pub mod cli;
pub mod emulator;
pub mod expr;
pub mod float;
pub mod generate;
pub mod harness;
pub mod oracle;
pub mod outcome;
pub mod property;
pub mod ptx;
pub mod reference;
pub mod regression;
pub mod report;
pub mod shrink;
pub mod tensor;
