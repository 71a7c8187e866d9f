//! `attnfuzz` finds the shape a grouped-query attention (GQA) CUDA kernel gets wrong.
//!
//! It draws cases a kernel claims to support, runs the kernel's PTX on a GPU or in an emulator, computes the same
//! attention in f64 from its definition, judges each element by a bound that is proven for the kernel's arithmetic,
//! shrinks a failing case to the smallest one, and saves it.
//!
//! # The main path
//!
//! bytes or randomness → [`generate`] → [`case::Case`] → [`backend`] lays out guarded, poisoned memory and runs the kernel
//! → [`outcome::Outcome`] → [`mod@reference`] and [`bound`] on the same rounded inputs → [`oracle::Verdict`] → [`shrink`] asks
//! the same question of smaller cases → [`regression`] saves → [`report`] tells.
//!
//! ```
//! use attnfuzz::backend::{Emulator, Kernel};
//! use attnfuzz::case::Case;
//! use attnfuzz::oracle::{Verdict, examine};
//!
//! let kernel = Kernel::open("gqa_decode")?;
//! // Qwen2.5-Coder-7B: 28 query heads over 4 KV heads, one cached token.
//! let case: Case = "kv=4 g=7 d=128 past=1 dtype=f16 cache=nhd:2 scale=0.088388346 values=normal:0".parse()?;
//! let examined = examine(&Emulator, &kernel, &case)?;
//! assert!(matches!(examined.verdict, Verdict::Agree(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For tests of your own start at [`harness`] and [`property`]; for one launch of any PTX, at [`emulator`].

pub mod backend;
pub mod bound;
pub mod campaign;
pub mod case;
pub mod cli;
pub mod corpus;
pub mod coverage;
pub mod emulator;
pub mod expr;
pub mod float;
pub mod generate;
pub mod guide;
pub mod harness;
pub mod mutate;
pub mod oracle;
pub mod outcome;
pub mod property;
pub mod ptx;
pub mod reference;
pub mod regression;
pub mod report;
pub mod rule_out;
pub mod shrink;
pub mod tensor;
pub mod worker;
