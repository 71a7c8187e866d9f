//! The one test harness: every integration suite is a module of it.

#![expect(clippy::print_stdout, reason = "what a test found is shown by --nocapture")]

mod architecture;
mod bound;
mod brought;
mod builder;
mod campaign;
mod check;
mod cli;
mod closure;
mod coverage;
mod emulate;
mod emulator;
mod fabricated;
mod fidelity;
mod fuzzing;
mod generate;
mod guided;
mod hostile;
mod journal;
mod lse;
mod made;
mod manifest;
mod minimise;
mod mutate;
mod only;
mod origin;
mod planted;
mod print;
mod properties;
mod property;
mod ptx;
mod reduction;
mod relations;
mod replay;
mod reports;
mod rule_out;
mod rules;
mod sanitizer;
mod shrink;
mod store;
mod suspect;
mod values;
mod variants;
mod worker;
mod workspace;
