//! What holds of any text that is read as a manifest, for fuzz targets.

use crate::backend::manifest::{Arg, Manifest};
use crate::generate::Space;
use std::path::Path;

/// Most cases of a manifest that is right that are evaluated.
const CASES: u64 = 2;

/// Reads `text` as a manifest and, if it is one, makes cases of its domain and evaluates its expressions.
///
/// # Panics
/// It is read differently the second time, an error does not say where it is, or a case is outside of the domain.
pub fn check(text: &str) {
    let file = Path::new("kernel.toml");
    let (first, second) = (Manifest::parse(file, text), Manifest::parse(file, text));
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert_eq!(format!("{first:?}"), format!("{second:?}"), "a manifest is read differently the second time");
            evaluate(&first);
        }
        (Err(first), Err(second)) => {
            assert_eq!(first, second, "an error differs the second time");
            let lines = text.lines().count().max(1) + 1;
            assert!(first.line.is_some_and(|line| (1..=lines).contains(&line)), "no line: {first}");
            assert!(!first.message.is_empty() && !first.to_string().contains('\n'), "not one line: {first}");
        }
        (first, second) => panic!("{first:?} and then {second:?}"),
    }
}

/// Any answer will do, if there is one.
fn evaluate(manifest: &Manifest) {
    let Ok(space) = Space::new(&manifest.domain) else { return };
    let space = space.with_budget(1 << 10);
    for index in 0..CASES {
        let case = space.case_at(0, index);
        assert_eq!(space.domain().excludes(&case), None, "{case}");
        let all: Vec<Vec<f64>> = (0..case.steps).map(|step| manifest.variables(&case, step)).collect();
        for (name, place) in manifest.placements(&case, &all).into_iter().flatten().flatten() {
            let (ends, elements) = (place.end(), place.offsets().count());
            assert!(place.offsets().all(|offset| offset < ends) && elements == place.len(), "{name} of {case}");
        }
        let values = all.into_iter().next().unwrap_or_default();
        for launch in &manifest.launches {
            let _ = launch.entry.of(case.dtype, &values);
            let exprs = launch.grid.iter().chain(&launch.block).chain(&launch.cluster).chain([&launch.shared_bytes]);
            exprs.for_each(|expr| drop(expr.whole(&values, 0, i64::MAX)));
            launch.args.iter().for_each(|arg| evaluate_arg(arg, &values));
        }
    }
}

fn evaluate_arg(arg: &Arg, values: &[f64]) {
    match arg {
        Arg::Value(expr, scalar) => {
            if let Ok(bytes) = scalar.bytes(expr, values) {
                assert_eq!(bytes.len(), scalar.size_bytes());
            }
        }
        Arg::Struct(fields) => {
            let mut end = 0;
            for (start, field) in &fields.fields {
                assert!(end <= *start, "fields overlap");
                end = start + field.size_bytes();
                evaluate_arg(field, values);
            }
            assert!(end <= fields.size_bytes);
        }
        Arg::Pointer(_) => {}
    }
}
