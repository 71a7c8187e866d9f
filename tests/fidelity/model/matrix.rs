//! Integer and f64 matrix products and `movmatrix`, element by element as the manual's tables place them.

use super::Name;
use super::integer::value;
use crate::fidelity::forms::form::Form;

/// Results of a warp's cases.
type Warp = fn(&Form, &Name<'_>, &[Vec<u64>]) -> Vec<Vec<u64>>;

/// Results of every case of a matrix form.
pub(super) fn expected(form: &Form, name: &Name<'_>, cases: &[Vec<u64>]) -> Option<Vec<Vec<Option<u64>>>> {
    let of_a_warp: Warp = match name.opcode {
        "movmatrix" => |_, _, warp| transposed(warp),
        "wmma" => bytes,
        "mma" if name.ty() == "f64" => double,
        "mma" if name.has("popc") || name.types.first() == Some(&"s32") => product,
        _ => return None,
    };
    let some = |values: Vec<u64>| values.into_iter().map(Some).collect();
    Some(cases.chunks(32).flat_map(|warp| of_a_warp(form, name, warp)).map(some).collect())
}

/// Row i of the matrix is in the lanes 4i to 4i + 3.
fn transposed(warp: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let element = |row: usize, column: usize| warp[4 * row + column / 2][0] >> (16 * (column % 2)) & 0xffff;
    let lane = |lane: usize| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        vec![element(column, row) | element(column + 1, row) << 16]
    };
    (0..32).map(lane).collect()
}

/// Two tiles of 16 by 16 bytes and one of sums, each row after row in the cases of a warp; `b` column after column.
fn bytes(_: &Form, name: &Name<'_>, warp: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let ty = name.types[1];
    let byte = |operand: usize, i: usize| value(ty, warp[i / 8][operand] >> (8 * (i % 8))).unwrap_or(0);
    let before = |i: usize| value("s32", warp[i / 8][2 + i % 8 / 2] >> (32 * (i % 2))).unwrap_or(0);
    let sum = |i: usize| {
        let (row, column) = (i / 16, i % 16);
        let total = before(i) + (0..16).map(|k| byte(0, row * 16 + k) * byte(1, column * 16 + k)).sum::<i128>();
        let total = if name.has("satfinite") { total.clamp(i32::MIN.into(), i32::MAX.into()) } else { total };
        total as u64 & 0xffff_ffff
    };
    let pair = |lane: usize, i: usize| sum(8 * lane + 2 * i) | sum(8 * lane + 2 * i + 1) << 32;
    (0..32).map(|lane| (0..4).map(|i| pair(lane, i)).collect()).collect()
}

/// Fused multiply-adds along k, in its order, as the devices do it.
fn double(form: &Form, name: &Name<'_>, warp: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let sums = form.outputs.len();
    let halves = sums / 2;
    let steps = (form.inputs.len() - sums) / (halves + 1);
    let rounding: Vec<&str> = name.choice(&["rz", "rm", "rp"]).into_iter().collect();
    let fma = Name { opcode: "fma", modifiers: rounding, types: vec!["f64"] };
    let one = |lane: usize, i: usize| {
        let (row, column) = (lane / 4, lane % 4 * 2 + i % 2);
        (0..4 * steps).fold(warp[lane][(halves + 1) * steps + i], |sum, k| {
            let a = warp[row * 4 + k % 4][k / 4 * halves + i / 2];
            let b = warp[column * 4 + k % 4][halves * steps + k / 4];
            super::float::arithmetic(&fma, &[a, b, sum]).unwrap_or(0)
        })
    };
    (0..32).map(|lane| (0..sums).map(|i| one(lane, i)).collect()).collect()
}

fn product(form: &Form, name: &Name<'_>, warp: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let modifiers: Vec<&str> = form.name.split_whitespace().next().unwrap_or("").split('.').collect();
    let s32 = modifiers.iter().position(|m| *m == "s32").unwrap_or(0);
    let (a_type, b_type) = (modifiers[s32 + 1], modifiers[s32 + 2]);
    let bits: usize = a_type[1..].parse().unwrap_or(8);
    let per_word = 32 / bits;
    let rows = if form.outputs.len() == 2 { 8 } else { 16 };
    let sums = form.outputs.len();
    let b_words = (form.inputs.len() - sums) / (1 + rows / 8);
    let a_words = b_words * rows / 8;
    let inner = 4 * per_word * b_words;
    let element = |ty: &str, word: u64, i: usize| {
        let ty = if ty == "b1" { "u1" } else { ty };
        value(ty, word >> (bits * i)).unwrap_or(0)
    };
    let mut a = vec![vec![0; inner]; rows];
    let mut b = vec![vec![0; inner]; 8];
    for (lane, case) in warp.iter().enumerate() {
        let (group, member) = (lane / 4, lane % 4);
        for i in 0..a_words * per_word {
            let register = i / per_word;
            let (row, half) = if rows == 16 { (group + register % 2 * 8, register / 2) } else { (group, register) };
            a[row][member * per_word + i % per_word + half * 4 * per_word] =
                element(a_type, case[register], i % per_word);
        }
        for i in 0..b_words * per_word {
            let row = member * per_word + i % per_word + i / per_word * 4 * per_word;
            b[group][row] = element(b_type, case[a_words + i / per_word], i % per_word);
        }
    }
    let combine = |x: i128, y: i128| if name.has("xor") { x ^ y } else { x * y };
    let sum = |lane: usize, i: usize| {
        let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
        let before = value("s32", warp[lane][a_words + b_words + i]).unwrap_or(0);
        let total = before + a[row].iter().zip(&b[column]).map(|(x, y)| combine(*x, *y)).sum::<i128>();
        let total = if name.has("satfinite") { total.clamp(i32::MIN.into(), i32::MAX.into()) } else { total };
        total as u64 & 0xffff_ffff
    };
    (0..32).map(|lane| (0..sums).map(|i| sum(lane, i)).collect()).collect()
}
