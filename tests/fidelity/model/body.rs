//! Forms that are bodies of several instructions under one name.

use super::Name;

pub(super) fn expected(name: &Name<'_>, case: &[u64]) -> Option<Vec<u64>> {
    Some(match name.opcode {
        // What was stored and loaded again, or loaded under a policy.
        "ld" => vec![case[0]],
        "mapa" if name.has("shared::cluster") => vec![case[0]],
        // Ranks and places are 0, their numbers 1.
        "mapa" => vec![(case[0] + 2) & 0xffff_ffff],
        // The first result is for the right space.
        "isspacep" => vec![1, 0, 0],
        "atom" | "red" => return vector(name, case),
        _ => return None,
    })
}

/// Old elements, then new ones.
fn vector(name: &Name<'_>, case: &[u64]) -> Option<Vec<u64>> {
    let (old, b) = case.split_at(case.len() / 2);
    let one = |(old, b): (&u64, &u64)| Some(super::select::atomic(name, &[*old, *b])?[1]);
    let new: Option<Vec<u64>> = old.iter().zip(b).map(one).collect();
    Some(if name.opcode == "red" { new? } else { [old.to_vec(), new?].concat() })
}
