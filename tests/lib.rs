//! The one test harness: every integration suite is a module of it.

#![expect(clippy::print_stdout, reason = "what a test found is shown by --nocapture")]

mod architecture;
mod bound;
mod cli;
mod emulator;
mod ptx;
