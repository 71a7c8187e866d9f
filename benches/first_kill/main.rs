//! How many cases, and how much processor time, it takes until a planted bug is noticed: by draws of the generator, by a
//! campaign that is guided by the kernel's coverage, and by a grid as other projects' tests have.
//!
//!     taskset -c 0 cargo bench --bench first_kill                     every planted bug, 10 seeds, at most 400 cases each
//!     cargo bench --bench first_kill -- gqa_decode/m38 gqa_prefill    those whose path contains one of these
//!     cargo bench --bench first_kill -- --coverage                    points reached after N cases instead
//!
//! `ATTNFUZZ_SEEDS` and `ATTNFUZZ_CASES` set other numbers of seeds and cases. All three are judged by the same oracle. Times are
//! of one thread; `taskset` keeps the emulator from starting more for large launches.
//!
//! A search that finds nothing counts with its limit of cases and the time they took, so what is not found by either way counts
//! alike for both.

#[path = "../common/mod.rs"]
mod common;
mod grid;

use attnfuzz::backend::{BackendError, CoverageMap, Kernel, Points, Recording, shipped_names};
use attnfuzz::case::Case;
use attnfuzz::guide::{AHEAD, Guide};
use attnfuzz::oracle::{Verdict, examine};
use comfy_table::{Table, presets};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A bug that draws find in more cases than this, by the median, is a hard one.
const HARD: f64 = 20.0;

/// What a search came to.
#[derive(Clone, Copy)]
struct Search {
    /// Number of the first case that noticed the bug, from 1.
    found: Option<u64>,
    cases: u64,
    took: Duration,
}

/// What came of one case.
enum Judged {
    Noticed,
    Agrees(CoverageMap),
    /// Not run: nothing is known.
    Skipped,
}

fn judge(kernel: &Kernel, points: &Points, case: &Case) -> Judged {
    let recording = Recording::new(points);
    match examine(&recording, kernel, case) {
        Ok(examined) if examined.verdict.signature().is_some() || examined.closer.is_some() => Judged::Noticed,
        Ok(examined) if matches!(examined.verdict, Verdict::Agree(_)) => Judged::Agrees(recording.take()),
        // Some planted bugs keep only part of their kernel's entries.
        Ok(_) | Err(BackendError::NoEntry(_)) => Judged::Skipped,
        Err(error) => panic!("{} {case}: {error}", kernel.name()),
    }
}

/// Judges cases until one notices something.
fn search(kernel: &Kernel, points: &Points, cases: impl IntoIterator<Item = Case>) -> Search {
    let (start, mut tried) = (processor_time(), 0);
    for case in cases {
        tried += 1;
        if let Judged::Noticed = judge(kernel, points, &case) {
            return Search { found: Some(tried), cases: tried, took: processor_time() - start };
        }
    }
    Search { found: None, cases: tried, took: processor_time() - start }
}

/// As a guided campaign does; `told` hears how many cases are done.
fn guided(kernel: &Kernel, points: &Arc<Points>, seed: u64, limit: u64, told: &mut dyn FnMut(u64, &Guide)) -> Search {
    let start = processor_time();
    let mut guide = Guide::new(kernel, points.clone(), seed, []);
    let mut planned: VecDeque<Case> = (0..AHEAD).map(|_| guide.plan()).collect();
    for cases in 1..=limit {
        let case = planned.pop_front().expect("as many planned as judged");
        match judge(kernel, points, &case) {
            Judged::Noticed => return Search { found: Some(cases), cases, took: processor_time() - start },
            Judged::Agrees(reached) => _ = guide.learn(&case, Some(&reached)),
            Judged::Skipped => _ = guide.learn(&case, None),
        }
        told(cases, &guide);
        planned.push_back(guide.plan());
    }
    Search { found: None, cases: limit, took: processor_time() - start }
}

/// What came of one planted bug.
struct Row {
    name: String,
    drawn: Vec<Search>,
    guided: Vec<Search>,
    grid: Search,
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn main() {
    let (seeds, limit) = (common::number("ATTNFUZZ_SEEDS", 10), common::number("ATTNFUZZ_CASES", 400));
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if wanted.iter().any(|arg| arg == "--coverage") {
        println!("{}", coverage(seeds, limit));
        return;
    }
    let folders = shipped_names().into_iter().map(|name| format!("kernels/mutants/{name}"));
    let paths = folders.flat_map(|folder| common::manifests(&folder)).map(|path| path.display().to_string());
    let is_wanted = |path: &String| wanted.is_empty() || wanted.iter().any(|part| path.contains(part));
    let mut rows = Vec::new();
    for path in paths.filter(is_wanted) {
        let kernel = Kernel::open(&path).expect("a planted bug opens");
        let points = Arc::new(Points::of(&kernel));
        let draws = |seed| (0..limit).map(move |index| (seed, index));
        let drawn = |seed| draws(seed).map(|(seed, index)| kernel.space().case_at(seed, index));
        let row = Row {
            name: kernel.name().to_owned(),
            drawn: (0..seeds).map(|seed| search(&kernel, &points, drawn(seed))).collect(),
            guided: (0..seeds).map(|seed| guided(&kernel, &points, seed, limit, &mut |_, _| {})).collect(),
            grid: search(&kernel, &points, grid::cases(&kernel)),
        };
        println!("{}", line(&row));
        rows.push(row);
    }
    println!("{} planted bugs, {seeds} seeds, at most {limit} cases a search", rows.len());
    println!("{}", summary(&rows));
}

/// A row of the table in the documentation.
fn line(row: &Row) -> String {
    let [drawn, guided] = [&row.drawn, &row.guided].map(|searches| {
        let found = searches.iter().filter(|search| search.found.is_some()).count();
        format!("{} | {:.2} | {found}", median(searches, cases), median(searches, seconds))
    });
    let grid = row.grid.found.map_or_else(|| format!("never of {}", row.grid.cases), |found| found.to_string());
    format!("| {} | {drawn} | {guided} | {grid} |", row.name)
}

fn summary(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "bugs",
        "number",
        "drawn: cases",
        "guided: cases",
        "guided/drawn: cases",
        "guided/drawn: time",
        "guided in fewer",
        "in more",
        "grid finds",
    ]);
    let hard = |row: &&Row| median(&row.drawn, cases) > HARD;
    let kinds: [(&str, Vec<&Row>); 3] = [
        ("all", rows.iter().collect()),
        ("hard", rows.iter().filter(hard).collect()),
        ("others", rows.iter().filter(|row| !hard(row)).collect()),
    ];
    for (name, rows) in kinds {
        let mean = |of: &dyn Fn(&Row) -> f64| geometric_mean(rows.iter().map(|row| of(row)));
        let ratio = |of: fn(&Search) -> f64| mean(&|row| mean_of(&row.guided, of) / mean_of(&row.drawn, of));
        let compared = |order: std::cmp::Ordering| {
            rows.iter().filter(|row| total(&row.guided).cmp(&total(&row.drawn)) == order).count().to_string()
        };
        table.add_row([
            name.to_owned(),
            rows.len().to_string(),
            format!("{:.1}", mean(&|row| mean_of(&row.drawn, cases))),
            format!("{:.1}", mean(&|row| mean_of(&row.guided, cases))),
            format!("{:.2}", ratio(cases)),
            format!("{:.2}", ratio(seconds)),
            compared(std::cmp::Ordering::Less),
            compared(std::cmp::Ordering::Greater),
            rows.iter().filter(|row| row.grid.found.is_some()).count().to_string(),
        ]);
    }
    table
}

/// Points of the shipped kernels that are reached after so many cases, drawn and guided: medians over the seeds.
fn coverage(seeds: u64, limit: u64) -> Table {
    let marks: Vec<u64> = [25, 50, 100, 200, 400, 800].into_iter().filter(|&mark| mark <= limit).collect();
    let mut table = Table::new();
    let header = ["kernel", "points", "cases are"].map(str::to_owned).into_iter();
    let header = header.chain(marks.iter().map(|mark| format!("after {mark}"))).chain(["time".to_owned()]);
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    for name in shipped_names() {
        let kernel = Kernel::open(name).expect("a shipped kernel opens");
        let points = Arc::new(Points::of(&kernel));
        let drawn = |seed| {
            let (start, mut all, mut reached) = (processor_time(), points.none(), Vec::new());
            for index in 0..limit {
                if let Judged::Agrees(map) = judge(&kernel, &points, &kernel.space().case_at(seed, index)) {
                    all.merge(&map);
                }
                reached.extend(marks.contains(&(index + 1)).then(|| all.count()));
            }
            (reached, processor_time() - start)
        };
        let by_guide = |seed| {
            let mut reached = Vec::new();
            let search = guided(&kernel, &points, seed, limit, &mut |cases, guide| {
                reached.extend(marks.contains(&cases).then(|| guide.reach().reached));
            });
            (reached, search.took)
        };
        for (way, runs) in [
            ("drawn", (0..seeds).map(drawn).collect::<Vec<_>>()),
            ("guided", (0..seeds).map(by_guide).collect::<Vec<_>>()),
        ] {
            let at = |place: usize| middle(runs.iter().map(|(reached, _)| reached[place] as f64).collect());
            let took = middle(runs.iter().map(|(_, took)| took.as_secs_f64()).collect());
            let row = [name.to_owned(), points.len().to_string(), way.to_owned()].into_iter();
            let reached = (0..marks.len()).map(|place| format!("{}", at(place)));
            table.add_row(row.chain(reached).chain([format!("{took:.1} s")]));
        }
    }
    table
}

fn cases(search: &Search) -> f64 {
    search.cases as f64
}

fn seconds(search: &Search) -> f64 {
    search.took.as_secs_f64()
}

fn total(searches: &[Search]) -> u64 {
    searches.iter().map(|search| search.cases).sum()
}

fn mean_of(searches: &[Search], of: fn(&Search) -> f64) -> f64 {
    searches.iter().map(of).sum::<f64>() / searches.len().max(1) as f64
}

fn median(searches: &[Search], of: fn(&Search) -> f64) -> f64 {
    middle(searches.iter().map(of).collect())
}

fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    if numbers.len() % 2 == 1 { numbers[half] } else { (numbers[half - 1] + numbers[half]) / 2.0 }
}

fn geometric_mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let logs: Vec<f64> = numbers.map(f64::ln).collect();
    (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp()
}

/// Processor time of this thread, or time since the start where the system doesn't tell.
fn processor_time() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}
