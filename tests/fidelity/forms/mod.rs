//! Instruction forms: a table of them, the PTX of each, operand values, and how to run one in the emulator.
//!
//! Shared by the test suite and by `examples/fidelity`, which runs the same forms on a GPU.

#[cfg(feature = "cuda")]
pub(crate) mod device;
pub(crate) mod emulate;
pub(crate) mod expand;
pub(crate) mod form;
pub(crate) mod operands;
mod seldom;
mod table;
