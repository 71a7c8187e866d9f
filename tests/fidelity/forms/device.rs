//! Runs a form on a GPU.

use super::form::{BLOCK, ENTRY, FILL, Form};
use attnfuzz::backend::cuda_raw::{RawArg, RawCuda, RawLaunch};

/// The results of each case.
pub(crate) type Results = Vec<Vec<u64>>;

/// Results of each case, or why the device can't run the form.
pub(crate) fn run(cuda: &RawCuda, form: &Form, cases: &[Vec<u64>]) -> Result<Results, String> {
    let module = cuda.load(&form.ptx()).map_err(|e| e.to_string())?;
    let output = RawArg::Buffer(vec![FILL; cases.len() * form.output_stride()]);
    let mut args = [RawArg::Buffer(form.pack(cases)), output];
    let shape = RawLaunch { grid: [(cases.len() / BLOCK) as u32, 1, 1], block: [BLOCK as u32, 1, 1] };
    module.launch(ENTRY, shape, &mut args).map_err(|e| e.to_string())?;
    let [_, RawArg::Buffer(bytes)] = &args else { return Err("no output buffer".into()) };
    Ok(form.unpack(bytes))
}
