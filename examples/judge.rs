//! Answers questions about cases, one a line, so that a program in any language can search, test or shrink with the
//! emulator and the oracle behind it:
//!
//!     printf 'gqa_decode\tkv=2 g=3 d=8 past=5 dtype=f32 cache=hnd:6 scale=1 values=normal:1\n' \
//!         | cargo run --release --example judge
//!
//! A question is `KERNEL<TAB>CASE`: a shipped kernel's name or the path of a manifest, and a case's one-line form. The
//! answer is one line too: `agree`, `fail: SIGNATURE` (such as `fail: diverge out value`), `skip: WHY` for a case that
//! can't be run or judged, or `error: WHY` for a question that means nothing. `KERNEL<TAB>domain` is answered with the
//! kernel's domain as JSON.
//!
//! `benches/shrinkers/hypothesis_shrink.py` asks so.

#![expect(clippy::print_stdout, reason = "an example's answers")]

use attnfuzz::backend::{Emulator, Kernel};
use attnfuzz::case::Case;
use attnfuzz::oracle::{Verdict, examine};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    let mut kernels = HashMap::new();
    for line in io::stdin().lock().lines() {
        let answer = answer(&mut kernels, &line?).unwrap_or_else(|why| format!("error: {why}"));
        println!("{}", answer.replace('\n', " "));
        io::stdout().flush()?;
    }
    Ok(())
}

fn answer(kernels: &mut HashMap<String, Kernel>, line: &str) -> Result<String, String> {
    let (name, case) = line.split_once('\t').ok_or("expected KERNEL<TAB>CASE, found no tab")?;
    let kernel = match kernels.entry(name.to_owned()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(Kernel::open(name).map_err(|e| e.to_string())?),
    };
    if case == "domain" {
        return serde_json::to_string(&kernel.manifest.domain).map_err(|e| e.to_string());
    }
    let case: Case = case.parse().map_err(|e| format!("{e}"))?;
    Ok(match examine(&Emulator, kernel, &case) {
        Err(error) => format!("skip: {error}"),
        Ok(examined) => match (&examined.verdict, examined.verdict.signature()) {
            (Verdict::Skip(why), _) => format!("skip: {why}"),
            (_, Some(signature)) => format!("fail: {signature}"),
            (_, None) => "agree".into(),
        },
    })
}
