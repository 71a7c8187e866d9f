//! The one test harness: every integration suite is a module of it.

mod emulator;
mod ptx;
