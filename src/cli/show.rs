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
            exit = match (examined.verdict, exit) {
                (Verdict::Diverge(_) | Verdict::Fault(_), _) => Exit::Findings,
                (Verdict::Skip(_), Exit::Clean) => Exit::NothingRan,
                (_, exit) => exit,
            };
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
        println!(
            "          request {index}: {} past tokens, queries a step: {}, {kv_len} tokens in the end",
            r.past_len, r.q_len
        );
    }
    let CaseParts {
        dtype,
        scale,
        steps,
        poison,
        schedule_seed,
        cache,
        features,
        values,
        only,
        knobs,
        view,
        relation,
        ..
    } = &**case;
    println!("dtype     {dtype}");
    println!("scale     {scale}");
    println!("steps     {steps}");
    let map = case.cache_map(shape.head_dim);
    println!("cache     {} {}, {} slots a request", cache.storage.kind(), cache.order, cache.capacity);
    let blocks = [("request", map.request_stride()), ("page", map.page_stride())];
    let strides = blocks.into_iter().filter_map(|(name, stride)| Some((name, stride?)));
    for (name, stride) in strides.chain([("head", map.head_stride()), ("token", map.token_stride())]) {
        println!("          {stride} elements from {name} to {name}");
    }
    if let Some(pages) = cache.storage.pages() {
        println!("pages     {} of {} tokens, {} of them unused", case.num_pages(), pages.size, pages.spare);
        for (request, row) in case.block_table().iter().enumerate() {
            println!("          request {request}: {row:?}");
        }
    }
    let yes = |b: bool| if b { "yes" } else { "no" };
    println!("append    {}", yes(features.append));
    println!("causal    {}", yes(features.causal));
    if let Some(window) = features.window {
        println!("window    {window} keys");
    }
    if let Some(cap) = features.softcap {
        println!("softcap   {cap}");
    }
    if features.sinks {
        println!("sinks     one for each query head");
    }
    for (name, n) in knobs {
        println!("knob      {name} is {n}");
    }
    println!("values    {} with seed {}", values.recipe, values.seed);
    if let Some(only) = only {
        println!("non-zero  {}", only.in_words(case));
    }
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
        if case.features.append {
            tensors.push((format!("k_new.{step}"), tensor.k_new, extents(&case.new_token_layout(shape.head_dim))));
            tensors.push((format!("v_new.{step}"), tensor.v_new, extents(&case.new_token_layout(shape.v_head_dim))));
        }
    }
    // Caches are dumped densely, whatever their layout in memory.
    let caches = [("k_cache", &inputs.k_cache, shape.head_dim), ("v_cache", &inputs.v_cache, shape.v_head_dim)];
    for (name, cache, dim) in caches {
        let (tensor, extents) = dense(cache, case, dim);
        tensors.push((name.into(), tensor, extents));
    }
    if let Some(sinks) = inputs.sinks {
        let heads = sinks.len();
        tensors.push(("sinks".into(), sinks, vec![heads]));
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

/// The rows of a cache in the order `[request, kv_head, token, dim]`, up to the longest request; zeros where it has no token.
fn dense(buffer: &Buffer, case: &Case, dim: u32) -> (Buffer, Vec<usize>) {
    let map = case.cache_map(dim);
    let len = |request: u32| case.past_len_at(request as usize, case.steps);
    let longest = (0..case.shape.batch()).map(len).max().unwrap_or(0);
    let size = buffer.dtype().size_bytes();
    let row_bytes = dim as usize * size;
    let mut bytes = Vec::new();
    for request in 0..case.shape.batch() {
        for head in 0..case.shape.num_kv_heads {
            for token in 0..len(request) {
                bytes.extend_from_slice(&buffer.bytes()[map.offset(request, head, token) * size..][..row_bytes]);
            }
            bytes.resize(bytes.len() + (longest - len(request)) as usize * row_bytes, 0);
        }
    }
    let extents = [case.shape.batch(), case.shape.num_kv_heads, longest, dim].map(|n| n as usize);
    (Buffer::from_bytes(buffer.dtype(), bytes), extents.into())
}
