//! `attnfuzz check`: whether a manifest says what the kernel does, on three tiny cases.

mod edits;
mod guesses;
mod twist;

use super::init::todos;
use super::{Exit, Failure, kernels};
use crate::backend::{Bound, Emulator, Explained, Kernel, OpenError};
use crate::case::{Case, Poison, Recipe, Request, Values, default_scale};
use crate::oracle::{Examined, Examiner, Verdict};
use guesses::Guess;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(after_help = "\
Runs three tiny cases in the emulator and says what a launch comes to: grid, block and each argument. Where the kernel
disagrees, common mistakes are tried one by one, and those are told with which it would agree: by the line of the manifest
that would have to change, or by what the kernel seems to compute instead.

The exit code is 0 if the kernel agrees, 100 if it doesn't, 2 if the manifest is wrong or not finished, 3 if a case could not
be run, 4 if none could.")]
pub(super) struct CheckArgs {
    /// A manifest
    manifest: PathBuf,
}

pub(super) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let file = args.manifest.display().to_string();
    let text =
        std::fs::read_to_string(&args.manifest).map_err(|e| Failure::usage(format!("can't read {file}: {e}")))?;
    let left = todos(&text);
    if !left.is_empty() {
        let lines: String = left.iter().map(|(line, what)| format!("\n  {file}:{line}: {what}")).collect();
        let lines_left = if left.len() == 1 { "1 line is".into() } else { format!("{} lines are", left.len()) };
        return Err(Failure::usage(format!("{file}: {lines_left} left to do{lines}")));
    }
    let kernel = Kernel::open(&file).map_err(|error| Failure::usage(hinted(&error, &file)))?;
    kernels::claims(&kernel);
    let numerics = if kernel.manifest.numerics_stated {
        "as the manifest says"
    } else {
        "nothing is promised: any order, fast math"
    };
    println!("  numerics      {numerics} (attnfuzz show {file} has every number)");
    let cases = tiny(&kernel);
    if let [.., case] = &cases[..] {
        let launches = kernel.explain(case, 0).map_err(Failure::usage)?;
        println!("\n{case}\nis launched as");
        launches.iter().for_each(tell);
    }
    println!();
    let results: Vec<_> = cases.iter().map(|case| Emulator.examine(&kernel, case)).collect();
    let (mut failing, mut not_run) = (0, 0);
    for (case, result) in cases.iter().zip(&results) {
        let said = match result {
            Ok(Examined { verdict: Verdict::Agree(_), .. }) => "agrees".to_owned(),
            Ok(Examined { verdict: Verdict::Skip(why), .. }) => {
                not_run += 1;
                format!("cannot run: {why}")
            }
            Ok(Examined { verdict, .. }) => {
                failing += 1;
                format!("FAILS: {}", wrong(verdict))
            }
            Err(error) => {
                not_run += 1;
                format!("cannot run: {error}")
            }
        };
        println!("{case}\n   = {said}");
    }
    if failing > 0 {
        tell_guesses(&args.manifest, &text, &kernel, &cases);
        return Ok(Exit::Findings);
    }
    Ok(match not_run {
        0 => {
            println!("\nverdict: the manifest and the kernel agree on these; next: attnfuzz fuzz {file}");
            Exit::Clean
        }
        n if n == cases.len() => {
            println!("\nverdict: nothing could be asked of the kernel here{}", on_a_gpu(&kernel, &file));
            Exit::NothingRan
        }
        _ => Exit::Partly,
    })
}

/// Where a kernel can be asked more than here, if that is known.
fn on_a_gpu(kernel: &Kernel, file: &str) -> String {
    if kernel.manifest.cubin.is_none() {
        return String::new();
    }
    format!(
        ": the emulator runs no machine code, so neither the manifest's mistakes nor the kernel's are guessed at. On a machine \
         with a GPU attnfuzz fuzz {file} tries it"
    )
}

/// What is wrong in a line.
fn wrong(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Diverge(divergence) => divergence.to_string(),
        Verdict::Fault(fault) => format!("{}: {}", fault.kind, fault.detail),
        Verdict::Agree(_) | Verdict::Skip(_) => String::new(),
    }
}

fn hinted(error: &OpenError, file: &str) -> String {
    match error {
        OpenError::Read { file: missing, .. }
            if missing.extension().is_some_and(|e| e == "ptx") && !missing.exists() =>
        {
            format!("{error}: attnfuzz compile {file} makes it from the source (needs NVRTC)")
        }
        _ => error.to_string(),
    }
}

/// Cases that tell mistakes apart and cost next to nothing: the heads, the lengths and the requests are all different
/// numbers where the domain lets them be.
fn tiny(kernel: &Kernel) -> Vec<Case> {
    let shapes: [(u32, u32, &[u32]); 3] = [(1, 2, &[3]), (2, 3, &[5]), (3, 4, &[7, 2])];
    let of = |(index, (num_kv_heads, q_per_kv, past)): (usize, (u32, u32, &[u32]))| {
        let mut parts = kernel.space().smallest().clone().into_parts();
        parts.shape.num_kv_heads = num_kv_heads;
        parts.shape.q_per_kv = q_per_kv;
        parts.shape.head_dim = 8;
        let q_len = kernel.manifest.domain.q_len.nearest(1);
        parts.shape.requests = past.iter().map(|&past_len| Request { past_len, q_len }).collect();
        parts.scale = default_scale(parts.shape.head_dim) * [1.0, 0.75, 1.25][index];
        parts.values = Values { recipe: Recipe::Normal, seed: 1 + index as u32 };
        parts.cache.capacity = 12;
        parts.poison = Poison::Nan;
        kernel.space().legalize(parts)
    };
    let mut cases: Vec<Case> = shapes.into_iter().enumerate().map(of).collect();
    cases.dedup();
    cases
}

fn tell(launch: &Explained) {
    let dims = |dims: &crate::backend::Dims| {
        let [x, y, z] = dims.numbers;
        let said = dims.expressions.join(", ");
        let numbers = format!("{x} x {y} x {z}");
        if said == format!("{x}, {y}, {z}") { numbers } else { format!("{numbers} ({said})") }
    };
    println!("  {}", launch.entry);
    println!("    grid {}, block {}", dims(&launch.grid), dims(&launch.block));
    println!("    {} bytes of dynamic shared memory", launch.shared_bytes);
    let longest = |text: fn(&Bound) -> &str| launch.args.iter().map(|bound| text(bound).len()).max().unwrap_or(0);
    let (places, names) = (longest(|bound| &bound.place), longest(|bound| &bound.to));
    for Bound { place, to, value } in &launch.args {
        println!("    {place:>places$}  {to:<names$}  {value}");
    }
}

/// Most pairs of mistakes that are told: further ones are the same in other words.
const MOST_PAIRS: usize = 3;

/// Says with which common mistake the cases would agree, or with which two.
fn tell_guesses(file: &Path, text: &str, kernel: &Kernel, cases: &[Case]) {
    let shown = file.display();
    let guesses = guesses::all(text);
    let mut right: Vec<&Guess> = guesses.iter().filter(|guess| guesses::helps(guess, kernel)).collect();
    let twists: Vec<_> = twist::ALL.iter().filter(|twist| twist.explains(kernel, cases)).collect();
    let pairs;
    if right.is_empty() && twists.is_empty() {
        pairs = guesses::pairs(text, &guesses);
        right = pairs.iter().filter(|pair| guesses::helps(pair, kernel)).take(MOST_PAIRS).collect();
    }
    for guess in &right {
        println!("\npasses if {}:", guess.what);
        for (line, now) in &guess.lines {
            println!("   = line {line} of {shown}: {}", now.trim().replace('\n', ", then "));
        }
    }
    for twist in &twists {
        println!("\npasses if {}", twist.what);
    }
    if right.is_empty() && twists.is_empty() {
        println!("\nnone of the common mistakes explains it: attnfuzz fuzz {shown} shrinks it to the smallest case");
    }
}
