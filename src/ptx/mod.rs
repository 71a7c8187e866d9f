//! PTX text to a validated, lowered program. Knows no attention and executes nothing.
//!
//! [`parse`] turns text into a [`Module`], [`Module::lower`] turns one of its kernels into a [`Program`]: calls inlined,
//! registers numbered, branch targets resolved, every instruction checked against the one table of operations.
//! The text may be hostile: parsing and lowering take time and memory proportional to it (times a stated limit for
//! inlined calls) and never panic.
//!
//! Source: the PTX ISA manual, versions 8.4 and 9.0. Not read: textures, surfaces, 32-bit addressing, indirect calls.

mod ast;
mod edit;
mod error;
mod idle;
mod lexer;
mod lower;
pub mod op;
mod parser;
mod print;
mod program;
mod types;
mod unwritten;

pub use ast::{Base, Instruction, Module, Operand, Signature};
pub use edit::Place;
pub use error::{Error, Position};
pub use idle::Idle;
pub use parser::parse;
pub use program::{
    CONST_WINDOW, Constants, Global, Guard, Inst, LOCAL_WINDOW, MODULE_GLOBALS, PARAM_WINDOW, Param, Program,
    SHARED_WINDOW, SharedVariable, WINDOW_BYTES,
};
pub use types::{Space, Type};
