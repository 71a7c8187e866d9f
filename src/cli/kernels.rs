//! `attnfuzz kernels`, and what `attnfuzz show` says of a kernel.

use super::{Exit, Failure};
use crate::backend::{Kernel, shipped_names};
use crate::bound::Constant;
use crate::case::{Domain, StorageKind};

pub(super) fn run() -> Result<Exit, Failure> {
    for name in shipped_names() {
        claims(&Kernel::open(name).map_err(Failure::usage)?);
    }
    Ok(Exit::Clean)
}

/// What a kernel claims to support.
pub(super) fn claims(kernel: &Kernel) {
    let domain = &kernel.manifest.domain;
    println!("{}: {}", kernel.name(), kernel.manifest.summary);
    let list = |items: Vec<String>| items.join(", ");
    println!("  dtype         {}", list(domain.dtype.iter().map(ToString::to_string).collect()));
    println!("  num_kv_heads  {}", domain.num_kv_heads);
    println!("  q_per_kv      {}", domain.q_per_kv);
    println!("  head_dim      {}", domain.head_dim);
    if let Some(range) = &domain.v_head_dim {
        println!("  v_head_dim    {range}");
    }
    println!("  batch         {}", domain.batch);
    println!("  q_len         {}", domain.q_len);
    println!("  past_len      {}", domain.past_len);
    println!("  steps         {}", domain.steps);
    println!("  cache         {}", list(domain.cache.iter().map(ToString::to_string).collect()));
    println!("  row_pad       {}", domain.row_pad);
    more_claims(domain);
    for (name, range) in &domain.knobs {
        println!("  {:<13} {range} (knob)", name.as_str());
    }
    for require in &domain.require {
        println!("  requires      {}: {}", require.expr, require.because);
    }
    for &dtype in &domain.dtype {
        if let Some(why) = kernel.emulator_limit(dtype) {
            println!("  not in the emulator with {dtype}: {why}");
        }
    }
}

/// What a domain claims beyond what every kernel must be able to do.
fn more_claims(domain: &Domain) {
    if domain.storage != [StorageKind::PerRequest] {
        let kinds: Vec<String> = domain.storage.iter().map(ToString::to_string).collect();
        println!("  storage       {}", kinds.join(", "));
    }
    if let Some(range) = &domain.page_size {
        println!("  page_size     {range}");
    }
    if !domain.append {
        println!("  append        no: every key is in the cache from the start");
    }
    if domain.causal.contains(&false) {
        println!("  causal        {}", if domain.causal.contains(&true) { "yes or no" } else { "no" });
    }
    if let Some(range) = &domain.window {
        println!("  window        none, or {range}");
    }
    for (name, claimed) in [("softcap", domain.softcap), ("sinks", domain.sinks)] {
        if claimed {
            println!("  {name:<13} none, or any");
        }
    }
}

/// Everything about a kernel: what it claims, how it is launched, what it promises about its arithmetic.
pub(super) fn describe(kernel: &Kernel) -> Result<(), Failure> {
    let manifest = &kernel.manifest;
    claims(kernel);
    for launch in &manifest.launches {
        let [x, y, z] = &launch.grid;
        println!("  launch        {} in a grid of {x} by {y} by {z}", launch.entry);
    }
    for workspace in &manifest.workspaces {
        println!("  workspace     {} of {} elements", workspace.name, workspace.elements);
    }
    if let Some(lse) = manifest.lse {
        println!("  lse           returned, base {}", lse.base);
    }
    let text = toml::to_string(&manifest.numerics)
        .map_err(|e| Failure { exit: Exit::Internal, message: format!("the contract can't be written: {e}") })?;
    println!("\n[numerics]\n{}", text.trim_end().replace("\n[", "\n[numerics."));
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let mut used = Constant::all().filter(|constant| words.contains(&constant.name.as_str())).peekable();
    if used.peek().is_some() {
        println!();
    }
    for constant in used {
        println!("{} = {} = {:.4e}: {}", constant.name, constant.as_str(), constant.value(), constant.source);
    }
    Ok(())
}
