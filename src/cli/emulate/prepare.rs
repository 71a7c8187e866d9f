//! Arguments and a kernel's parameters to global memory and a parameter block.

use super::argument::{Argument, Fill, Rights, Value};
use super::element;
use crate::emulator::{Initialised, Memory, Region, RegionId};
use crate::ptx::{Param, Program, Type};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::Read;
use std::path::Path;

/// Bytes of all buffers together.
const MAX_BUFFER_BYTES: u64 = 1 << 30;
/// Bytes of a parameter block; devices take fewer.
const MAX_PARAM_BYTES: usize = 1 << 16;
/// Bytes of local memory of a thread, as devices have.
const MAX_LOCAL_BYTES: usize = 512 << 10;
/// What a byte holds that nothing has written.
const POISON: u8 = 0xa5;

/// A launch's memory and parameters.
pub(super) struct Prepared {
    pub(super) memory: Memory,
    pub(super) params: Vec<u8>,
    /// In the order of the arguments.
    pub(super) buffers: Vec<Buffer>,
}

/// A buffer that an argument made.
pub(super) struct Buffer {
    pub(super) name: String,
    /// The argument's number, from 1; none for a buffer in a struct.
    number: Option<usize>,
    pub(super) region: RegionId,
    /// Type of its elements.
    pub(super) ty: Type,
}

/// Gives each parameter of `program` its argument.
pub(super) fn prepare(program: &Program, arguments: &[Argument]) -> Result<Prepared, String> {
    let params = program.params();
    let with_list = |why: String| format!("{why}\n{}", parameter_list(program));
    if arguments.len() != params.len() {
        return Err(with_list(format!("expected {} --arg, found {}", params.len(), arguments.len())));
    }
    if program.param_bytes() > MAX_PARAM_BYTES {
        return Err(format!("expected at most {MAX_PARAM_BYTES} bytes of parameters, found {}", program.param_bytes()));
    }
    let mut builder =
        Builder { memory: Memory::new(), buffers: Vec::new(), pointers: Vec::new(), left: MAX_BUFFER_BYTES };
    let mut block = vec![0; program.param_bytes()];
    for ((param, argument), number) in params.iter().zip(arguments).zip(1..) {
        let wrong = |why| with_list(format!("--arg {number} ({}): {why}", argument.text));
        let name = argument.name.as_deref().unwrap_or(&param.name);
        let part = builder.top(param, argument, name, number).map_err(wrong)?;
        if part.bytes.len() != param.size_bytes {
            let (wanted, found) = (describe(param), part.bytes.len());
            return Err(wrong(format!("expected {wanted} for `{}`, found {found} bytes", param.name)));
        }
        block[param.offset..][..param.size_bytes].copy_from_slice(&part.bytes);
        builder.pointers.extend(part.pointers.into_iter().map(|p| Pointer { at: param.offset + p.at, number, ..p }));
    }
    for pointer in std::mem::take(&mut builder.pointers) {
        let buffer = find(&builder.buffers, &pointer.name).map_err(|why| {
            with_list(format!("--arg {} ({}): {why}", pointer.number, arguments[pointer.number - 1].text))
        })?;
        let address = builder.memory.address(buffer.region).wrapping_add(pointer.offset);
        block[pointer.at..][..8].copy_from_slice(&address.to_le_bytes());
    }
    Ok(Prepared { memory: builder.memory, params: block, buffers: builder.buffers })
}

/// The buffer that `key` names: by its name, or by its argument's number.
pub(super) fn find<'b>(buffers: &'b [Buffer], key: &str) -> Result<&'b Buffer, String> {
    let number = key.parse::<usize>().ok();
    let is_it = |b: &&Buffer| b.name == key || number.is_some() && b.number == number;
    buffers.iter().find(is_it).ok_or_else(|| {
        let names: Vec<String> = buffers.iter().map(|b| format!("`{}`", b.name)).collect();
        let names = if names.is_empty() { "none, since no argument is one".into() } else { names.join(", ") };
        format!("expected the name of a buffer ({names}) or its argument's number, found {key:?}")
    })
}

/// The kernel's parameters, one a line.
pub(super) fn parameter_list(program: &Program) -> String {
    let params = program.params();
    if params.is_empty() {
        return format!("`{}` has no parameters", program.name());
    }
    let line = |(param, number): (&Param, usize)| format!("\n  {number}  {}  {}", describe(param), param.name);
    format!("the parameters of `{}` are:", program.name()) + &params.iter().zip(1..).map(line).collect::<String>()
}

/// A parameter's type in words.
fn describe(param: &Param) -> String {
    if is_array(param) { format!("{} bytes", param.size_bytes) } else { param.ty.to_string() }
}

fn is_array(param: &Param) -> bool {
    param.size_bytes != param.ty.size_bytes()
}

/// Reads a regular file of at most `limit` bytes.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("can't read {}: {why}", path.display());
    let metadata = std::fs::metadata(path).map_err(|e| wrong(&e))?;
    // Pipes and devices may have no end.
    if !metadata.is_file() {
        return Err(wrong(&"expected a regular file, found something else"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| wrong(&e))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
    if bytes.len() as u64 > limit {
        return Err(wrong(&format!("expected at most {limit} bytes, found {}", metadata.len())));
    }
    Ok(bytes)
}

/// Bytes of a parameter or a field.
struct Part {
    bytes: Vec<u8>,
    align: usize,
    pointers: Vec<Pointer>,
}

/// An address to be filled in once every buffer is mapped.
struct Pointer {
    /// Byte within the part, later within the parameter block.
    at: usize,
    name: String,
    offset: u64,
    number: usize,
}

struct Builder {
    memory: Memory,
    buffers: Vec<Buffer>,
    pointers: Vec<Pointer>,
    /// Bytes that buffers may still take.
    left: u64,
}

impl Builder {
    fn top(&mut self, param: &Param, argument: &Argument, name: &str, number: usize) -> Result<Part, String> {
        let is_address =
            matches!(argument.value, Value::Filled { .. } | Value::File { .. } | Value::Null | Value::Pointer { .. });
        match &argument.value {
            Value::File { rights: None, path } if is_array(param) => {
                return Ok(plain(read_file(path, MAX_PARAM_BYTES as u64)?, 1));
            }
            Value::Scalar { ty, .. } if !is_array(param) && !element::fits(*ty, param.ty) => {
                return Err(format!("expected {} for `{}`, found {ty}", param.ty, param.name));
            }
            _ if is_address && (is_array(param) || !element::fits(Type::U64, param.ty)) => {
                return Err(format!("expected {} for `{}`, found an address", describe(param), param.name));
            }
            _ => {}
        }
        self.part(argument, name, Some(number), number as u64)
    }

    fn part(&mut self, argument: &Argument, name: &str, number: Option<usize>, seed: u64) -> Result<Part, String> {
        Ok(match &argument.value {
            Value::Scalar { ty, bits } => plain(bits.to_le_bytes()[..ty.size_bytes()].to_vec(), ty.size_bytes()),
            Value::Null => plain(vec![0; 8], 8),
            Value::Bytes(bytes) => plain(bytes.clone(), 1),
            Value::Pointer { name, offset } => Part {
                pointers: vec![Pointer { at: 0, name: name.clone(), offset: *offset, number: 0 }],
                ..plain(vec![0; 8], 8)
            },
            Value::Filled { rights, ty, count, fill } => {
                let size = self.claim((*count as u64).checked_mul(ty.size_bytes() as u64))?;
                let bytes = filled(*ty, *count, size, *fill, seed);
                let initialised = if *fill == Fill::Uninitialised { Initialised::None } else { Initialised::All };
                self.map(name, number, *ty, bytes, initialised, *rights)?
            }
            Value::File { rights, path } => {
                let bytes = read_file(path, self.left)?;
                self.claim(Some(bytes.len() as u64))?;
                let rights = rights.unwrap_or(Rights::ReadWrite);
                self.map(name, number, Type::B8, bytes, Initialised::All, rights)?
            }
            Value::Fields(fields) => self.fields(fields, name, seed)?,
        })
    }

    fn fields(&mut self, fields: &[Argument], name: &str, seed: u64) -> Result<Part, String> {
        let mut whole = plain(Vec::new(), 1);
        for (field, number) in fields.iter().zip(1..) {
            let own = format!("{name}.{number}");
            let seed = seed.wrapping_mul(1000).wrapping_add(number);
            let part = self
                .part(field, field.name.as_deref().unwrap_or(&own), None, seed)
                .map_err(|why| format!("field {number} ({}): {why}", field.text))?;
            let at = whole.bytes.len().next_multiple_of(part.align);
            whole.bytes.resize(at, 0);
            whole.bytes.extend(part.bytes);
            whole.align = whole.align.max(part.align);
            whole.pointers.extend(part.pointers.into_iter().map(|p| Pointer { at: at + p.at, ..p }));
        }
        let size = whole.bytes.len().next_multiple_of(whole.align);
        whole.bytes.resize(size, 0);
        Ok(whole)
    }

    fn claim(&mut self, size: Option<u64>) -> Result<usize, String> {
        match size.and_then(|size| Some((size, self.left.checked_sub(size)?))) {
            Some((size, left)) => {
                self.left = left;
                Ok(size as usize)
            }
            None => Err(format!("expected at most {MAX_BUFFER_BYTES} bytes of buffers in all, found more")),
        }
    }

    fn map(
        &mut self,
        name: &str,
        number: Option<usize>,
        ty: Type,
        bytes: Vec<u8>,
        initialised: Initialised,
        rights: Rights,
    ) -> Result<Part, String> {
        if self.buffers.iter().any(|b| b.name == name) {
            return Err(format!("expected a name of its own, found {name:?} twice"));
        }
        let writable = rights == Rights::ReadWrite;
        let region = self.memory.map(Region { name: name.to_owned(), bytes, initialised, writable, misalign: 0 });
        self.buffers.push(Buffer { name: name.to_owned(), number, region, ty });
        Ok(plain(self.memory.address(region).to_le_bytes().to_vec(), 8))
    }
}

fn plain(bytes: Vec<u8>, align: usize) -> Part {
    Part { bytes, align, pointers: Vec::new() }
}

fn filled(ty: Type, count: usize, size: usize, fill: Fill, seed: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(if let Fill::Random(Some(given)) = fill { given } else { seed });
    let mut element = |index| match fill {
        Fill::Iota => element::counted(ty, index),
        Fill::Random(_) => element::random(ty, random.next_u64()),
        Fill::Every(bits) => bits,
        Fill::Zero | Fill::Uninitialised => 0,
    };
    match fill {
        Fill::Zero => vec![0; size],
        Fill::Uninitialised => vec![POISON; size],
        _ => (0..count).flat_map(|index| element(index).to_le_bytes().into_iter().take(ty.size_bytes())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::argument::parse;
    use super::*;
    use proptest::prelude::*;

    /// A kernel with these parameters that does nothing.
    fn kernel(params: &str) -> Program {
        let text = format!(".version 8.4\n.target sm_80\n.address_size 64\n.visible .entry k({params}) {{ ret; }}");
        crate::ptx::parse(&text).and_then(|m| m.lower("k")).unwrap_or_else(|e| panic!("{e}"))
    }

    fn prepared(params: &str, arguments: &[&str]) -> Result<Prepared, String> {
        let arguments: Vec<Argument> = arguments.iter().map(|a| parse(a).unwrap()).collect();
        prepare(&kernel(params), &arguments)
    }

    fn refused(params: &str, arguments: &[&str]) -> String {
        prepared(params, arguments).err().unwrap_or_else(|| panic!("{arguments:?} is taken for {params}"))
    }

    #[test]
    fn values_lie_where_the_kernel_reads_them() {
        let p = prepared(".param .u32 n, .param .u64 x, .param .b16 h", &["u32:7", "buf:u16:3:iota", "f16:1"]).unwrap();
        assert_eq!(p.params[..8], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(p.params[8..16], p.memory.address(p.buffers[0].region).to_le_bytes());
        assert_eq!(p.params[16..], [0, 0x3c]);
        assert_eq!(p.memory.bytes(p.buffers[0].region), [0, 0, 1, 0, 2, 0]);
        assert_eq!((p.buffers[0].name.as_str(), p.buffers[0].ty), ("x", Type::U16));
    }

    #[test]
    fn structs_are_laid_out_as_in_c() {
        let param = ".param .align 8 .b8 s[32]";
        let p = prepared(param, &["{u8:1, u32:2, x=buf:u8:4:zero, {u16:3, u8:4}, u8:5}"]).unwrap();
        assert_eq!(p.params[..8], [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(p.params[8..16], p.memory.address(p.buffers[0].region).to_le_bytes());
        assert_eq!(p.params[16..], [3, 0, 4, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..16]);
        assert!(prepared(".param .align 8 .b8 s[24]", &["{u8:1,u64:2,u8:3}"]).is_ok());
        assert!(refused(param, &["{u8:1}"]).contains("expected 32 bytes for `s`, found 1 bytes"));
    }

    #[test]
    fn pointers_lead_into_other_buffers() {
        let two = ".param .u64 x, .param .u64 y";
        let p = prepared(two, &["ptr:2+4", "buf:u8:16:zero"]).unwrap();
        let base = p.memory.address(p.buffers[0].region);
        assert_eq!(p.params[..8], (base + 4).to_le_bytes());
        let why = refused(two, &["ptr:z", "buf:u8:16:zero"]);
        assert!(why.starts_with("--arg 1 (ptr:z): expected the name of a buffer (`y`)"), "{why}");
    }

    #[test]
    fn every_mistake_comes_with_the_parameters() {
        let params = ".param .u64 x, .param .f32 a, .param .align 4 .b8 s[12]";
        for (arguments, part) in [
            (&["null"][..], "expected 3 --arg, found 1"),
            (&["u32:1", "f32:1", "hex:00"], "--arg 1 (u32:1): expected .u64 for `x`, found .u32"),
            (&["null", "u32:1", "hex:00"], "--arg 2 (u32:1): expected .f32 for `a`, found .u32"),
            (&["null", "null", "hex:00"], "--arg 2 (null): expected .f32 for `a`, found an address"),
            (&["null", "f32:1", "hex:00"], "--arg 3 (hex:00): expected 12 bytes for `s`, found 1 bytes"),
            (&["null", "f32:1", "buf:u8:12:zero"], "expected 12 bytes for `s`, found an address"),
            (&["file:/nowhere", "f32:1", "hex:00"], "--arg 1 (file:/nowhere): can't read /nowhere"),
            (&["file:/", "f32:1", "hex:00"], "expected a regular file"),
            (&["buf:u64:18446744073709551615:zero", "f32:1", "hex:00"], "expected at most 1073741824 bytes"),
            (
                &["a=buf:u8:1:zero", "f32:1", "{a=buf:u8:1:zero,u32:1}"],
                "field 1 (a=buf:u8:1:zero): expected a name of its own",
            ),
        ] {
            let why = refused(params, arguments);
            assert!(why.contains(part), "{arguments:?}: {why}");
            assert!(why.ends_with("are:\n  1  .u64  x\n  2  .f32  a\n  3  12 bytes  s"), "{why}");
        }
    }

    #[test]
    fn random_buffers_differ_and_repeat() {
        let two = ".param .u64 x, .param .u64 y";
        let bytes = |arguments: &[&str]| {
            let p = prepared(two, arguments).unwrap();
            [0, 1].map(|i| p.memory.bytes(p.buffers[i].region).to_vec())
        };
        let [x, y] = bytes(&["buf:f32:64:random", "buf:f32:64:random"]);
        assert_ne!(x, y);
        assert_eq!(bytes(&["buf:f32:64:random", "buf:f32:64:random:1"]), [x.clone(), x.clone()]);
        let value = |c: &[u8]| f32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        assert!(x.chunks(4).all(|c| (-1.0..=1.0).contains(&value(c))));
    }

    #[test]
    fn a_kernel_no_device_would_take_is_refused() {
        let module = |params: &str, body: &str| {
            let text = format!(".version 8.4\n.target sm_80\n.visible .entry k({params}) {{ {body} ret; }}");
            let program = crate::ptx::parse(&text).unwrap().lower("k").unwrap();
            prepare(&program, &vec![parse("hex:00").unwrap(); program.params().len()]).err().unwrap()
        };
        assert!(module(".param .b8 p[60000000]", "").contains("expected at most 65536 bytes of parameters"));
        assert!(module("", ".local .b8 l[60000000];").contains("expected at most 524288 bytes of local memory"));
    }

    proptest! {
        #[test]
        fn a_scalar_is_its_bits(word: u64, shift in 0usize..4) {
            let ty = [Type::B8, Type::B16, Type::B32, Type::B64][shift];
            let bytes = &word.to_le_bytes()[..1 << shift];
            let digits: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
            let p = prepared(&format!(".param {ty} x"), &[&format!("{}:0x{digits}", element::name(ty))]).unwrap();
            prop_assert_eq!(&p.params, bytes);
        }
    }
}
