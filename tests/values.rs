//! Each family of values does to attention what it is there for.

use attnfuzz::case::{Case, Recipe};
use attnfuzz::oracle::for_each_row;

/// The logits and results of every row of a case with 300 keys.
struct Seen {
    logits: Vec<Vec<f64>>,
    outputs: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
}

fn seen(recipe: Recipe, dtype: &str) -> Seen {
    let line = format!("kv=2 g=16 d=64 past=299 dtype={dtype} cache=hnd:300 scale=0.125 values={recipe}:5");
    let case: Case = line.parse().unwrap();
    let mut seen = Seen { logits: Vec::new(), outputs: Vec::new(), values: Vec::new() };
    for_each_row(&case, |row| {
        seen.logits.push(row.reference.raw_logits().to_vec());
        seen.outputs.push(row.reference.o.clone());
        seen.values.push(row.reference.v.to_vec());
    });
    seen
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Keys within so much of the largest logit.
fn near_the_top(logits: &[f64], distance: f64) -> usize {
    let top = greatest(logits);
    logits.iter().filter(|s| **s >= top - distance).count()
}

#[test]
fn ones_give_one() {
    let outputs = seen(Recipe::Ones, "f16").outputs;
    assert!(outputs.iter().flatten().all(|o| (o - 1.0).abs() < 1e-12));
}

#[test]
fn selectors_leave_no_key_between_all_and_nothing() {
    for recipe in [Recipe::Select, Recipe::Mixed] {
        let rows = seen(recipe, "bf16").logits;
        let exact = |row: &&Vec<f64>| {
            greatest(row) == 0.0 && row.iter().any(|s| *s != 0.0) && row.iter().all(|s| *s == 0.0 || *s < -115.0)
        };
        let half = |row: &&Vec<f64>| (100..200).contains(&near_the_top(row, 1.0));
        let all = rows.len();
        let share = if recipe == Recipe::Select { all / 2 } else { all / 16 };
        assert!(rows.iter().filter(exact).count() >= share, "{recipe}");
        assert!(rows.iter().filter(exact).filter(half).count() >= 2, "{recipe}: rows that select about half");
    }
}

#[test]
fn a_sink_draws_most_of_the_weight() {
    let rows = seen(Recipe::Sink, "f32").logits;
    assert!(rows.iter().all(|row| row[0] > greatest(&row[1..]) + 5.0));
}

#[test]
fn extreme_logits_are_near_a_hundred_thousand() {
    let rows = seen(Recipe::Extreme, "f16").logits;
    let largest = rows.iter().flatten().fold(0f64, |a, s| a.max(s.abs()));
    assert!((1e5..1e7).contains(&largest), "{largest}");
    // With the scale taken out, what a kernel adds up doesn't fit f16.
    assert!(largest / 0.125 > 65_504.0);
}

#[test]
fn cold_logits_are_all_far_below_zero() {
    let rows = seen(Recipe::Cold, "bf16").logits;
    assert!(rows.iter().flatten().all(|s| *s < -150.0));
}

#[test]
fn spikes_are_at_the_ends_of_tiles() {
    let rows = seen(Recipe::Spikes, "f32").logits;
    // Seed 5: tiles of 32, of which 300 keys have 10 starts and 9 ends.
    assert!(rows.iter().all(|row| near_the_top(row, 12.0) == 19));
}

#[test]
fn ties_are_close_and_some_exact() {
    let rows = seen(Recipe::Ties, "bf16").logits;
    for row in &rows {
        assert!(near_the_top(row, 0.5) == row.len());
        let mut sorted = row.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).any(|pair| pair[0] == pair[1]));
        assert!(sorted.windows(2).any(|pair| pair[0] != pair[1]));
    }
}

#[test]
fn cancelling_values_leave_little() {
    let Seen { values, .. } = seen(Recipe::Cancel, "f32");
    let rows: Vec<&[f64]> = values[0].chunks(64).collect();
    assert!(rows.iter().flat_map(|row| row.iter()).all(|v| v.abs() > 40.0));
    let mean: f64 = rows.iter().map(|row| row[3]).sum::<f64>() / rows.len() as f64;
    assert!(mean.abs() < 2.0, "{mean}");
}

#[test]
fn tiny_values_are_around_the_smallest_normal_number() {
    for (dtype, smallest) in [("f16", 2f64.powi(-14)), ("bf16", 2f64.powi(-126)), ("f32", 2f64.powi(-126))] {
        let values = seen(Recipe::Tiny, dtype).values.concat();
        assert!(values.iter().any(|v| v.abs() < smallest) && values.iter().any(|v| v.abs() >= smallest));
        assert!(values.iter().all(|v| *v != 0.0 && v.abs() <= 2.0 * smallest), "{dtype}");
    }
}

#[test]
fn underflowing_weights_span_the_band_where_binary32_loses_them() {
    let rows = seen(Recipe::Underflow, "f32").logits;
    let below = |row: &Vec<f64>, low: f64, high: f64| {
        let top = greatest(row);
        row.iter().filter(|s| (low..high).contains(&(**s - top))).count()
    };
    // exp is normal down to -87.3, subnormal down to -103.3, then 0.
    assert!(rows.iter().all(|row| below(row, -200.0, -103.3) > 20 && below(row, -103.3, -87.3) > 20));
    assert!(rows.iter().all(|row| near_the_top(row, 20.0) >= 40));
}

#[test]
fn every_family_is_told_apart() {
    let mut lines: Vec<String> = Vec::new();
    for recipe in Recipe::ALL {
        let Seen { logits, values, .. } = seen(recipe, "f32");
        let line = format!("{:?} {:?}", &logits[0][..40], &values[0][..40]);
        assert!(!lines.contains(&line), "{recipe} is like another");
        lines.push(line);
    }
}
