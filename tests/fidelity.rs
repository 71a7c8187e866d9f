//! The emulator against the meaning of each instruction form, written down independently.

#[path = "fidelity/forms/mod.rs"]
pub(crate) mod forms;
