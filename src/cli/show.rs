//! `attnfuzz show`.

use super::{Exit, Failure, ShowArgs, backends, kernels};
use crate::backend::manifest::Lse;
use crate::backend::{Kernel, shipped_names};
use crate::case::{Case, CaseParts, Inputs};
use crate::oracle::{self, Verdict};
use crate::outcome::Output;
use crate::regression::Finding;
use crate::tensor::{Buffer, Layout};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

pub(super) fn run(args: &ShowArgs) -> Result<Exit, Failure> {
    let path = Path::new(&args.case);
    if shipped_names().contains(&args.case.as_str()) || is_manifest(path) {
        kernels::describe(&Kernel::open(&args.case).map_err(Failure::usage)?)?;
        return Ok(Exit::Clean);
    }
    let (case, kernel) = if path.is_file() {
        let (_, finding) = Finding::load_all(path).map_err(Failure::usage)?.swap_remove(0);
        let kernel = match &args.kernel {
            Some(name) => Kernel::open(name).map_err(Failure::usage)?,
            None => finding.open_kernel(path).map_err(Failure::usage)?,
        };
        (finding.case, Some(kernel))
    } else {
        let case = args.case.parse::<Case>().map_err(|e| Failure::usage(format!("case {:?}: {e}", args.case)))?;
        (case, args.kernel.as_ref().map(|name| Kernel::open(name)).transpose().map_err(Failure::usage)?)
    };
    describe(&case);
    let mut exit = Exit::Clean;
    let mut outputs = Vec::new();
    if let Some(kernel) = &kernel {
        for backend in backends::open(&args.backend)? {
            let examined = oracle::examine(&*backend, kernel, &case).map_err(Failure::usage)?;
            let verdict = match &examined.verdict {
                Verdict::Agree(a) => {
                    format!("agrees, worst error/bound {:.3} over {} elements", a.worst_ratio, a.elements)
                }
                Verdict::Diverge(d) => format!("diverges: {d}"),
                Verdict::Fault(f) => format!("faults: {}: {}", f.kind, f.detail),
                Verdict::Skip(why) => format!("not judged: {why}"),
            };
            println!("{} on {}: {verdict}", kernel.name(), backend.describe());
            if matches!(examined.verdict, Verdict::Diverge(_) | Verdict::Fault(_)) {
                exit = Exit::Findings;
            }
            outputs.extend(examined.output.map(|output| (backend.kind().to_string(), output)));
        }
    }
    if let Some(folder) = &args.dump {
        let file = folder.join(format!("{}.safetensors", case.id()));
        let lse = kernel.as_ref().and_then(|kernel| kernel.manifest.lse);
        dump(&case, &outputs, lse, &file)
            .map_err(|e| Failure::usage(format!("can't write {}: {e}", file.display())))?;
        println!("written: {}", file.display());
    }
    Ok(exit)
}

/// Whether the file is a kernel's or a mutant's manifest rather than a finding.
fn is_manifest(path: &Path) -> bool {
    let table = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
    table.is_some_and(|table| table.contains_key("launch") || table.contains_key("mutant_of"))
}

fn describe(case: &Case) {
    let shape = &case.shape;
    println!("case {}", case.id());
    println!("{case}");
    println!();
    let heads = (shape.num_q_heads(), shape.num_kv_heads, shape.q_per_kv);
    println!("heads     {} query heads over {} KV heads, {} per KV head", heads.0, heads.1, heads.2);
    println!("head_dim  {} (values {})", shape.head_dim, shape.v_head_dim);
    println!("batch     {} requests", shape.batch());
    for (index, r) in shape.requests.iter().enumerate() {
        let kv_len = case.past_len_at(index, case.steps);
        println!("          request {index}: {} past tokens, {} new a step, {kv_len} in the end", r.past_len, r.q_len);
    }
    let CaseParts { dtype, scale, steps, poison, schedule_seed, cache, values, knobs, view, relation, .. } = &**case;
    println!("dtype     {dtype}");
    println!("scale     {scale}");
    println!("steps     {steps}");
    let strides = case.cache_layout(shape.head_dim);
    println!(
        "cache     {}, {} slots, strides {:?} elements (request, head, token, dim)",
        cache.order,
        cache.capacity,
        strides.strides()
    );
    for (name, n) in knobs {
        println!("knob      {name} is {n}");
    }
    println!("values    {} with seed {}", values.recipe, values.seed);
    println!("poison    {poison}, schedule seed {schedule_seed}");
    if let Some(view) = view {
        println!("view      {view}: the values are another case's, looked up or changed so");
    }
    if let Some(relation) = relation {
        println!("relation  {relation} is judged too");
    }
}

/// One file with every tensor, named `q.0`, `out.reference.0`, `out.emulator.0` and so on, by step.
fn dump(
    case: &Case,
    outputs: &[(String, Output)],
    lse: Option<Lse>,
    file: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let inputs = Inputs::of(case, case.poison);
    let shape = &case.shape;
    let mut tensors: Vec<(String, Buffer, Vec<usize>)> = Vec::new();
    let extents = |layout: &Layout| layout.extents().iter().map(|&n| n as usize).collect::<Vec<_>>();
    for (step, tensor) in inputs.steps.into_iter().enumerate() {
        tensors.push((format!("q.{step}"), tensor.q, extents(&case.query_layout())));
        tensors.push((format!("k_new.{step}"), tensor.k_new, extents(&case.new_token_layout(shape.head_dim))));
        tensors.push((format!("v_new.{step}"), tensor.v_new, extents(&case.new_token_layout(shape.v_head_dim))));
    }
    // Caches are dumped densely, [request, kv_head, token, dim], whatever their layout in memory.
    let caches = [("k_cache", &inputs.k_cache, shape.head_dim), ("v_cache", &inputs.v_cache, shape.v_head_dim)];
    for (name, cache, dim) in caches {
        let layout = case.cache_layout(dim);
        tensors.push((name.into(), dense(cache, &layout), extents(&layout)));
    }
    let out = case.output_layout();
    let mut reference: Vec<Buffer> =
        (0..case.steps).map(|_| Buffer::filled(crate::float::Dtype::F32, out.span(), 0)).collect();
    let lse_layout = case.lse_layout();
    let mut reference_lse: Vec<Buffer> =
        (0..case.steps).map(|_| Buffer::filled(crate::float::Dtype::F32, lse_layout.span(), 0)).collect();
    oracle::for_each_row(case, |row| {
        let value = lse.map_or(0.0, |lse| lse.base.of_nats(row.reference.lse));
        reference_lse[row.step as usize].set_values(lse_layout.offset(&row.at), &[value]);
        let start = out.offset(&[row.at[0], row.at[1], 0]);
        for (dim, &o) in row.reference.o.iter().enumerate() {
            reference[row.step as usize].set_bits(start + dim, crate::float::Dtype::F32.encode(o));
        }
    });
    for (step, buffer) in reference.into_iter().enumerate() {
        tensors.push((format!("out.reference.{step}"), buffer, extents(&out)));
    }
    if lse.is_some() {
        for (step, buffer) in reference_lse.into_iter().enumerate() {
            tensors.push((format!("lse.reference.{step}"), buffer, extents(&lse_layout)));
        }
    }
    for (backend, output) in outputs {
        for (step, buffer) in output.lse.iter().enumerate() {
            tensors.push((format!("lse.{backend}.{step}"), buffer.clone(), extents(&lse_layout)));
        }
        for (step, buffer) in output.out.iter().enumerate() {
            tensors.push((format!("out.{backend}.{step}"), buffer.clone(), extents(&out)));
        }
    }
    let views = tensors.iter().map(|(name, buffer, extents)| {
        let dtype = match buffer.dtype() {
            crate::float::Dtype::F32 => Dtype::F32,
            crate::float::Dtype::F16 => Dtype::F16,
            crate::float::Dtype::Bf16 => Dtype::BF16,
        };
        Ok((name.clone(), TensorView::new(dtype, extents.clone(), buffer.bytes())?))
    });
    let views: Vec<_> = views.collect::<Result<_, safetensors::SafeTensorError>>()?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let metadata = std::collections::HashMap::from([("case".to_owned(), case.to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), file)?;
    Ok(())
}

fn dense(buffer: &Buffer, layout: &Layout) -> Buffer {
    let [requests, heads, tokens, dims] = [0, 1, 2, 3].map(|axis| layout.extents()[axis]);
    let mut bytes = Vec::new();
    let row_bytes = dims as usize * buffer.dtype().size_bytes();
    for request in 0..requests {
        for head in 0..heads {
            for token in 0..tokens {
                let start = layout.offset(&[request, head, token, 0]) * buffer.dtype().size_bytes();
                bytes.extend_from_slice(&buffer.bytes()[start..][..row_bytes]);
            }
        }
    }
    Buffer::from_bytes(buffer.dtype(), bytes)
}
