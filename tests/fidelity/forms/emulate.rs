//! Runs a form in the emulator, with the tensor cores of sm_90: what hardware at hand is compared with.

use super::form::{BLOCK, ENTRY, FILL, Form};
use attnfuzz::emulator::{Initialised, Launch, Memory, Options, Region, TensorCore, launch};
use attnfuzz::ptx;

/// Results of each case, or why the emulator can't run the form.
pub(crate) fn run(form: &Form, cases: &[Vec<u64>]) -> Result<Vec<Vec<u64>>, String> {
    assert_eq!(cases.len() % BLOCK, 0, "{}: the cases fill whole blocks", form.name);
    let program = ptx::parse(&form.ptx()).and_then(|m| m.lower(ENTRY)).map_err(|e| e.to_string())?;
    let mut memory = Memory::new();
    let mut map = |name: &str, bytes: Vec<u8>, writable: bool| {
        memory.map(Region { name: name.into(), bytes, initialised: Initialised::All, writable, misalign: 0 })
    };
    let input = map("input", form.pack(cases), false);
    let output = map("output", vec![FILL; cases.len() * form.output_stride()], true);
    let params: Vec<u8> = [input, output].iter().flat_map(|r| memory.address(*r).to_le_bytes()).collect();
    let shape = Launch {
        grid: [(cases.len() / BLOCK) as u32, 1, 1],
        block: [BLOCK as u32, 1, 1],
        dynamic_shared_bytes: 0,
        params: &params,
    };
    let options = Options { tensor_core: Some(TensorCore::HOPPER), ..Options::default() };
    launch(&program, &mut memory, &shape, &options).map_err(|stop| stop.to_string())?;
    Ok(form.unpack(memory.bytes(output)))
}
