//! One test for each saved finding under `proptest-regressions/cases`, named after its file, before the suite runs.

use attnfuzz::backend::Emulator;
use attnfuzz::regression::{Finding, Replayed, Store, replay};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let store = Store::new(root.join("proptest-regressions"));
    let files = store.files().unwrap_or_else(|e| panic!("{e}"));
    assert!(!files.is_empty(), "no finding in {}", store.folder().display());
    let trials = files.into_iter().map(|file| {
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        Trial::test(name, move || stays_fixed(&file))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn stays_fixed(file: &Path) -> Result<(), Failed> {
    let finding = Finding::load(file)?;
    let kernel = finding.open_kernel(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let result = replay(&finding, &kernel, &Emulator);
    if result == Replayed::Fixed {
        return Ok(());
    }
    let (word, detail) = (result.word(), result.detail(&finding));
    Err(format!("{word}: {}: {}\n{detail}\nit was: {}", file.display(), finding.line, finding.what()).into())
}
