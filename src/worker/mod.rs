//! Examining cases in another process, so that a kernel that hangs, spoils the device's context or kills its process
//! costs that process and nothing else.
//!
//! A worker is this program, started as `attnfuzz worker`, that answers questions on its standard input ([`serve`]).
//! [`Isolated`] keeps such processes of a device, asks them, and tells what their deaths mean. [`Spread`] makes one of several
//! devices. [`Sanitizer`] runs cases under NVIDIA's `compute-sanitizer`.

mod isolated;
mod message;
mod process;
mod sanitizer;
mod serve;
mod spread;

pub use isolated::{Isolated, Options};
pub use sanitizer::{Sanitizer, Tool, is_sanitized, serve_bare};
pub use serve::{Pace, serve};
pub use spread::Spread;
