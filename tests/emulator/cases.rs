//! One small program per instruction and per check, with what must happen in its comments.
//!
//! `run/*.ptx` must finish with the stated results, `fault/*.ptx` must break the stated rule at the stated line. Each is
//! run under several schedules and must end the same way under all of them.
//!
//! ```text
//! // block: 64                 threads (32); also grid: and shared:
//! // param: u32 1 2 3          a read-only region of these values (also: iota N, V xN)
//! // param: out u32 32         a writable region of 32 uninitialised values
//! // param: inout u32 0 x4     a writable region of these values
//! // param: value u64 7        a plain parameter
//! // run: u32 1 2 3            what the next writable region must hold
//! st.global.u32 [a], r;        //~ VIOLATION OutOfBounds
//! ```

use crate::ptx::texts;
use attnfuzz::emulator::{BitMap, Initialised, Launch, Memory, Options, Region, RegionId, Stop, launch};
use attnfuzz::ptx::parse;
use std::path::Path;

const SCHEDULES: u64 = 8;

#[test]
fn programs_give_the_stated_results() {
    for path in texts("tests/emulator/run") {
        let case = Case::read(&path);
        for seed in 0..SCHEDULES {
            let mut memory = Memory::new();
            let (outcome, regions) = case.run(&mut memory, seed);
            if let Err(stop) = outcome {
                panic!("{}, schedule {seed}: {stop}", path.display());
            }
            assert!(regions.len() >= case.results.len(), "{}: more results than regions", path.display());
            for (region, expected) in regions.iter().zip(&case.results) {
                let found = case.values(memory.bytes(*region), expected.len());
                assert_eq!(found, *expected, "{}, schedule {seed}", path.display());
            }
        }
    }
}

#[test]
fn faulty_programs_break_the_stated_rule() {
    for path in texts("tests/emulator/fault") {
        let case = Case::read(&path);
        let [(line, kind)] = &case.violations[..] else { panic!("{}: one `//~ VIOLATION`", path.display()) };
        for seed in 0..SCHEDULES {
            let mut memory = Memory::new();
            let (outcome, _) = case.run(&mut memory, seed);
            let Err(Stop::Violation(violation)) = outcome else {
                panic!("{}, schedule {seed}: expected {kind}, found {outcome:?}", path.display());
            };
            assert_eq!(violation.kind.name(), kind, "{}, schedule {seed}: {violation}", path.display());
            let lines = [Some(violation.site.ptx_line), violation.other.as_ref().map(|o| o.ptx_line)];
            assert!(lines.contains(&Some(*line)), "{}, schedule {seed}: {violation}", path.display());
        }
    }
}

struct Case {
    text: String,
    block: u32,
    grid: u32,
    shared: usize,
    params: Vec<Param>,
    results: Vec<Vec<u64>>,
    result_type: String,
    violations: Vec<(u32, String)>,
}

enum Param {
    Value(Vec<u8>),
    Region { bytes: Vec<u8>, writable: bool, initialised: bool },
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut case = Self {
            text: text.clone(),
            block: 32,
            grid: 1,
            shared: 0,
            params: Vec::new(),
            results: Vec::new(),
            result_type: "u32".into(),
            violations: Vec::new(),
        };
        for (line, number) in text.lines().zip(1..) {
            if let Some((_, kind)) = line.split_once("//~ VIOLATION ") {
                case.violations.push((number, kind.trim().to_owned()));
            }
            let Some((key, rest)) = line.strip_prefix("// ").and_then(|l| l.split_once(": ")) else {
                continue;
            };
            let words: Vec<&str> = rest.split_whitespace().collect();
            let bytes = |ty: &str, words: &[&str]| {
                values(words, ty).iter().flat_map(|v| v.to_le_bytes().into_iter().take(size(ty))).collect()
            };
            match (key, &words[..]) {
                ("block", [n]) => case.block = n.parse().unwrap(),
                ("grid", [n]) => case.grid = n.parse().unwrap(),
                ("shared", [n]) => case.shared = n.parse().unwrap(),
                ("param", ["value", ty, rest @ ..]) => case.params.push(Param::Value(bytes(ty, rest))),
                ("param", ["out", ty, n]) => {
                    let bytes = vec![0; size(ty) * n.parse::<usize>().unwrap()];
                    case.params.push(Param::Region { bytes, writable: true, initialised: false });
                }
                ("param", ["inout", ty, rest @ ..]) => {
                    case.params.push(Param::Region { bytes: bytes(ty, rest), writable: true, initialised: true });
                }
                ("param", [ty, rest @ ..]) => {
                    case.params.push(Param::Region { bytes: bytes(ty, rest), writable: false, initialised: true });
                }
                ("run", [ty, rest @ ..]) => {
                    case.result_type = (*ty).to_owned();
                    case.results.push(values(rest, ty));
                }
                _ => {}
            }
        }
        case
    }

    fn run(&self, memory: &mut Memory, seed: u64) -> (Result<(), Stop>, Vec<RegionId>) {
        let module = parse(&self.text).unwrap_or_else(|e| panic!("{e}\n{}", self.text));
        let name = module.entries().next().unwrap().to_owned();
        let program = module.lower(&name).unwrap_or_else(|e| panic!("{e}\n{}", self.text));
        let (mut params, mut writable_regions) = (Vec::new(), Vec::new());
        for (index, param) in self.params.iter().enumerate() {
            match param {
                Param::Value(bytes) => {
                    while params.len() % bytes.len() != 0 {
                        params.push(0);
                    }
                    params.extend(bytes);
                }
                Param::Region { bytes, writable, initialised } => {
                    let id = memory.map(Region {
                        name: format!("p{index}"),
                        bytes: bytes.clone(),
                        initialised: Initialised::These(BitMap::new(bytes.len(), *initialised)),
                        writable: *writable,
                        misalign: 0,
                    });
                    while params.len() % 8 != 0 {
                        params.push(0);
                    }
                    params.extend(memory.address(id).to_le_bytes());
                    if *writable {
                        writable_regions.push(id);
                    }
                }
            }
        }
        let shape = Launch {
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            dynamic_shared_bytes: self.shared,
            params: &params,
        };
        let options = Options { schedule_seed: seed, instruction_budget: 4_000_000, ..Options::default() };
        (launch(&program, memory, &shape, &options).map(|_| ()), writable_regions)
    }

    fn values(&self, bytes: &[u8], count: usize) -> Vec<u64> {
        let chunks = bytes.chunks(size(&self.result_type));
        chunks.take(count).map(|c| c.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))).collect()
    }
}

fn size(ty: &str) -> usize {
    ty[1..].parse::<usize>().unwrap() / 8
}

/// `1 2 3`, `iota 32`, `7 x32`, floats for f32 and f64, hexadecimal bits for any type.
fn values(words: &[&str], ty: &str) -> Vec<u64> {
    let mut out: Vec<u64> = Vec::new();
    if let ["iota", n] = words {
        return (0..n.parse().unwrap())
            .map(|i: u64| if ty == "f32" { u64::from((i as f32).to_bits()) } else { i })
            .collect();
    }
    for word in words {
        if let Some(n) = word.strip_prefix('x') {
            let last = *out.last().unwrap();
            out.extend(std::iter::repeat_n(last, n.parse::<usize>().unwrap() - 1));
        } else if let Some(hex) = word.strip_prefix("0x") {
            out.push(u64::from_str_radix(hex, 16).unwrap());
        } else {
            out.push(match ty {
                "f32" => u64::from(word.parse::<f32>().unwrap().to_bits()),
                "f64" => word.parse::<f64>().unwrap().to_bits(),
                _ => word.parse::<i64>().unwrap() as u64 & (u64::MAX >> (64 - 8 * size(ty))),
            });
        }
    }
    out
}
