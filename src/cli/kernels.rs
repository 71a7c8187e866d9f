//! `attnfuzz kernels`.

use super::{Exit, Failure};
use crate::backend::{Kernel, shipped_names};

pub(super) fn run() -> Result<Exit, Failure> {
    for name in shipped_names() {
        let kernel = Kernel::open(name).map_err(Failure::usage)?;
        let domain = &kernel.manifest.domain;
        println!("{name}: {}", kernel.manifest.summary);
        let list = |items: Vec<String>| items.join(", ");
        println!("  dtype         {}", list(domain.dtype.iter().map(ToString::to_string).collect()));
        println!("  num_kv_heads  {}", domain.num_kv_heads);
        println!("  q_per_kv      {}", domain.q_per_kv);
        println!("  head_dim      {}", domain.head_dim);
        println!("  batch         {}", domain.batch);
        println!("  q_len         {}", domain.q_len);
        println!("  past_len      {}", domain.past_len);
        println!("  steps         {}", domain.steps);
        println!("  cache         {}", list(domain.cache.iter().map(ToString::to_string).collect()));
        println!("  row_pad       {}", domain.row_pad);
        for (name, range) in &domain.knobs {
            println!("  {name:<13} {range}");
        }
        for &dtype in &domain.dtype {
            if let Some(why) = kernel.emulator_limit(dtype) {
                println!("  not in the emulator with {dtype}: {why}");
            }
        }
    }
    Ok(Exit::Clean)
}
