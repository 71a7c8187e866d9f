//! The one test harness: every integration suite is a module of it.

mod architecture;
mod bound;
mod cli;
mod emulator;
mod fidelity;
mod generate;
mod manifest;
mod origin;
mod planted;
mod properties;
mod property;
mod ptx;
mod replay;
mod shrink;
