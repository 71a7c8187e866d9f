//! Measures a GPU and compares the emulator with it: every instruction form bit for bit, the approximate functions over
//! all inputs, the tensor cores' accumulation. Writes a Markdown report.
//!
//! ```text
//! cargo run --release --example fidelity -- report.md          needs a GPU; exit code 1 if an exact form differs
//! cargo run --release --example fidelity -- --forms report.md  of the forms alone, and the cases that differ
//! cargo run --release --example fidelity -- --dump folder      writes the PTX of every form
//! cargo run --release --example fidelity -- --compile          makes sweep.ptx from sweep.cu; needs NVRTC
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks to the terminal")]

#[path = "../../tests/fidelity/forms/mod.rs"]
mod forms;
mod instructions;
mod sweep;
mod tensor;

use attnfuzz::backend::cuda_raw::RawCuda;
use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--dump", folder] => dump(Path::new(folder)).map(|()| true),
        ["--compile"] => sweep::compile().map(|()| true),
        ["--forms", report] => measure_forms(Path::new(report)),
        [report] => measure(Path::new(report)),
        _ => Err("expected a file for the report, --forms and such a file, --dump and a folder, or --compile".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn dump(folder: &Path) -> Result<(), Box<dyn Error>> {
    for (index, form) in forms::form::forms().iter().enumerate() {
        std::fs::write(folder.join(format!("{index:04}.sm_{}.ptx", form.arch)), form.ptx())?;
    }
    Ok(())
}

/// Whether every exact form agrees.
fn measure_forms(report: &Path) -> Result<bool, Box<dyn Error>> {
    let (mut body, mut rows) = (String::new(), String::new());
    let agree = instructions::measure(&RawCuda::open(0)?, &mut body, &mut rows)?;
    std::fs::write(report, body)?;
    std::fs::write(report.with_extension("differences"), rows)?;
    Ok(agree)
}

/// Writes one section of the report.
type Section<'a> = &'a mut dyn FnMut(&mut String) -> Result<(), Box<dyn Error>>;

/// Whether every exact form agrees.
fn measure(report: &Path) -> Result<bool, Box<dyn Error>> {
    let cuda = RawCuda::open(0)?;
    let mut text = format!("# Emulator and hardware\n\nMeasured on {}.\n", cuda.name());
    let mut section = |title: &str, run: Section<'_>| {
        let start = Instant::now();
        let mut body = String::new();
        if let Err(error) = run(&mut body) {
            eprintln!("{title}: {error}");
            let _ = writeln!(body, "Not measured: {error}.");
        }
        let _ = write!(text, "\n## {title}\n\n{body}");
        println!("{title}: {:.1} s", start.elapsed().as_secs_f64());
        // Written after each section, so that a later failure loses nothing.
        std::fs::write(report, &text)
    };
    section("Approximate functions over all inputs", &mut |body| sweep::measure(&cuda, body))?;
    section("Accumulation of tensor cores", &mut |body| tensor::measure(&cuda, body))?;
    let mut agree = false;
    section("Instruction forms", &mut |body| {
        agree = instructions::measure(&cuda, body, &mut String::new())?;
        Ok(())
    })?;
    Ok(agree)
}
