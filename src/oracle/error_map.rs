//! Which elements of a run's outputs are wrong: for a picture, not for a verdict.

use super::judge::allowed;
use super::rows::for_each_row;
use crate::backend::Kernel;
use crate::bound;
use crate::case::Case;
use crate::outcome::Output;

/// The judged elements of one query token of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPlane {
    /// Step, from 0.
    pub step: u32,
    /// Token of the step's output.
    pub token: u64,
    /// Whether each element is right, `[q_head, v_head_dim]`; nothing where it was not judged.
    pub right: Vec<Vec<Option<bool>>>,
}

/// The elements of `output`, which a run of `case` left, by step and token.
pub fn error_map(kernel: &Kernel, case: &Case, output: &Output) -> Vec<ErrorPlane> {
    let shape = &case.shape;
    let tokens = shape.total_q_len();
    let blank = vec![vec![None; shape.v_head_dim as usize]; shape.num_q_heads() as usize];
    let planes = (0..case.steps).flat_map(|step| (0..u64::from(tokens)).map(move |token| (step, token)));
    let mut planes: Vec<ErrorPlane> =
        planes.map(|(step, token)| ErrorPlane { step, token, right: blank.clone() }).collect();
    for_each_row(case, |row| {
        let Some(allowed) = allowed(case, &kernel.manifest, &row) else { return };
        let [token, head] = row.at;
        let plane = &mut planes[(row.step * tokens) as usize + token as usize];
        let start = case.output_layout().offset(&[token, head, 0]);
        for (dim, &bound) in allowed.out.iter().enumerate() {
            let found = output.out[row.step as usize].value(start + dim);
            plane.right[head as usize][dim] = Some(bound::accepts(found, row.reference.o[dim], bound, case.dtype));
        }
    });
    planes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Emulator, Run};
    use crate::outcome::Outcome;

    fn map(kernel: &str, line: &str) -> (Case, Vec<ErrorPlane>) {
        let kernel = Kernel::open(kernel).unwrap();
        let case: Case = line.parse().unwrap();
        let Ok(Outcome::Output(output)) = Emulator.run(&kernel, &case, Run::first(&case)) else { panic!("no output") };
        let map = error_map(&kernel, &case, &output);
        (case, map)
    }

    const LINE: &str = "kv=2 g=3 d=8 past=2,0 dtype=f32 cache=hnd:4 scale=1 values=codes:0 steps=2";

    /// Group of 3 padded to 4: the second KV head is taken for 3 / 4 = 0, and no other.
    #[test]
    fn exactly_the_heads_that_a_planted_bug_misplaces_are_marked() {
        let mutant = "kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml";
        let (case, map) = map(mutant, LINE);
        assert_eq!(map.len(), (case.steps * case.shape.total_q_len()) as usize);
        for plane in &map {
            for (head, row) in plane.right.iter().enumerate() {
                assert_eq!(row.len(), 8);
                assert!(row.iter().all(|right| *right == Some(head < 3)), "head {head} of {plane:?}");
            }
        }
    }

    #[test]
    fn nothing_is_marked_in_a_right_kernel() {
        let (_, map) = map("gqa_decode", LINE);
        assert!(map.iter().flat_map(|plane| &plane.right).flatten().all(|right| *right == Some(true)));
    }
}
