//! `attnfuzz emulate`: one launch of any kernel, with arguments from the command line. Knows nothing of attention.

mod argument;
mod element;
mod prepare;
mod render;

use super::{Exit, Failure};
use crate::emulator::{Launch, Options, Stop, TensorCore, observe};
use crate::ptx::{self, Module, Program, Type};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of a PTX text.
const MAX_TEXT_BYTES: u64 = 1 << 28;

const GRAMMAR: &str = "\
Arguments, in the order of the kernel's parameters (attnfuzz emulate FILE.ptx --list shows them):
  TYPE:NUMBER               a number: u32:7  s64:-1  f32:0.5  f16:1  b32:0x3f800000
  [ro:|rw:]buf:TYPE:COUNT:FILL
                            the address of a new buffer; FILL is zero, iota (0, 1, 2, …),
                            random[:SEED] (floats of -1 to 1), =NUMBER, or uninit (not to be read)
  [ro:|rw:]file:PATH        the address of a buffer with a file's bytes;
                            where the parameter is an array of bytes: those bytes
  ptr:NAME[+BYTES]          an address in another argument's buffer
  null                      the null pointer
  hex:0011AAFF              the bytes of the parameter itself
  {ARG,ARG,…}               a struct of such arguments, laid out as C does
Types are u8 to u64, s8 to s64, b8 to b64 (bits), f16, bf16, f32, f64.
NAME= before any of them names it in reports, --print and --write [default: the parameter's name].
A kernel may write a buffer unless it is ro. The seed of random is the argument's number by default.

Examples:
  attnfuzz emulate saxpy.ptx --list
  attnfuzz emulate saxpy.ptx --grid 4 --block 256 --arg u32:1000 --arg f32:2 \\
      --arg ro:buf:f32:1000:iota --arg y=buf:f32:1000:=1.5 --print y:f32:8
  attnfuzz emulate norm.ptx --entry rms_norm --grid 2,8 --block 128 --shared 4096 \\
      --arg out=buf:f16:2048:uninit --arg in=ro:file:input.bin --arg '{u32:128,f32:1e-6}' \\
      --write out=output.bin

Exit codes: 0 no rule broken, 2 usage, 4 the emulator can't run this kernel, 100 a rule broken.";

#[derive(clap::Args)]
#[command(after_help = GRAMMAR)]
pub(super) struct EmulateArgs {
    /// The PTX text
    #[arg(value_name = "FILE.ptx")]
    file: PathBuf,
    /// List the kernels with their parameters, and run nothing
    #[arg(long)]
    list: bool,
    /// Which kernel [default: the only one]
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Blocks
    #[arg(long, value_name = "X[,Y[,Z]]", value_parser = dimensions, required_unless_present = "list")]
    grid: Option<[u32; 3]>,
    /// Threads of a block
    #[arg(long, value_name = "X[,Y[,Z]]", value_parser = dimensions, required_unless_present = "list")]
    block: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    shared: u32,
    /// The next argument; see below
    #[arg(long = "arg", value_name = "ARG")]
    arguments: Vec<String>,
    /// Draws the order in which blocks and warps run
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Warp instructions after which the kernel counts as hung
    #[arg(long, value_name = "N", default_value_t = 1_000_000_000)]
    budget: u64,
    /// Print the start of a buffer after the launch
    #[arg(long, value_name = "NAME[:TYPE[:COUNT]]")]
    print: Vec<String>,
    /// Write a buffer's bytes to a file after the launch
    #[arg(long, value_name = "NAME=PATH")]
    write: Vec<String>,
    /// Say how large the program is, how full its warps were and how much of each buffer was written
    #[arg(long)]
    trace_stats: bool,
    /// Say which outcomes each guard and comparison had
    #[arg(long)]
    coverage: bool,
    /// How tensor cores add [default: as those of the text's .target]
    #[arg(long, value_enum, value_name = "GENERATION")]
    tensor_core: Option<Generation>,
}

/// A generation of tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Generation {
    /// sm_80 to sm_89
    Ampere,
    /// sm_90 and later
    Hopper,
}

pub(super) fn run(args: &EmulateArgs) -> Result<Exit, Failure> {
    let file = args.file.display();
    let text = prepare::read_file(&args.file, MAX_TEXT_BYTES).map_err(Failure::usage)?;
    let text = String::from_utf8(text)
        .map_err(|_| Failure::usage(format!("{file}: expected UTF-8 text, found other bytes")))?;
    let module = ptx::parse(&text).map_err(|e| unreadable(&args.file, &e))?;
    if args.list && module.entries().next().is_some() {
        print!("{}", render::listing(&module));
        return Ok(Exit::Clean);
    }
    let entry = entry(&module, args).map_err(|why| Failure::usage(format!("{file}: {why}")))?;
    let program = module.lower(entry).map_err(|e| unreadable(&args.file, &e))?;
    launch_and_tell(args, &program)
}

fn launch_and_tell(args: &EmulateArgs, program: &Program) -> Result<Exit, Failure> {
    let arguments = args.arguments.iter().zip(1..).map(|(text, number)| {
        let wrong = |why| format!("--arg {number} ({text}): {why}\n{}", prepare::parameter_list(program));
        argument::parse(text).map_err(wrong)
    });
    let arguments = arguments.collect::<Result<Vec<_>, _>>().map_err(Failure::usage)?;
    let mut prepared = prepare::prepare(program, &arguments).map_err(Failure::usage)?;
    let buffers = &prepared.buffers;
    let prints = args.print.iter().map(|text| Print::parse(text, buffers)).collect::<Result<Vec<_>, _>>();
    let prints = prints.map_err(Failure::usage)?;
    let writes = args.write.iter().map(|text| write_target(text, buffers)).collect::<Result<Vec<_>, _>>();
    let writes = writes.map_err(Failure::usage)?;

    let shape = Launch {
        // clap asks for both unless --list is there.
        grid: args.grid.unwrap_or([1; 3]),
        block: args.block.unwrap_or([1; 3]),
        dynamic_shared_bytes: args.shared as usize,
        params: &prepared.params,
    };
    let options = Options {
        schedule_seed: args.seed,
        instruction_budget: args.budget,
        coverage: args.coverage,
        threads: std::thread::available_parallelism().map_or(1, NonZero::get),
        tensor_core: args.tensor_core.map(|generation| match generation {
            Generation::Ampere => TensorCore::AMPERE,
            Generation::Hopper => TensorCore::HOPPER,
        }),
        ..Options::default()
    };
    let start = Instant::now();
    let (stats, outcome) = observe(program, &mut prepared.memory, &shape, &options);
    for line in &stats.printed {
        println!("{}", line.strip_suffix('\n').unwrap_or(line));
    }
    let exit = match outcome {
        Ok(()) => {
            println!("{}", render::finished(program.name(), &stats));
            Exit::Clean
        }
        Err(Stop::Violation(violation)) => {
            print!("{}", render::violation(program.name(), &violation));
            Exit::Findings
        }
        Err(stop @ Stop::Unsupported { .. }) => {
            return Err(Failure { exit: Exit::NothingRan, message: stop.to_string() });
        }
        Err(stop @ Stop::BadLaunch(_)) => return Err(Failure::usage(stop)),
    };
    let seconds = start.elapsed().as_secs_f64();
    let memory = &prepared.memory;
    if args.trace_stats {
        print!("{}", render::trace(&stats, program, memory, buffers, seconds));
    }
    if args.coverage {
        print!("{}", render::coverage(program, &stats.coverage));
    }
    for print in prints {
        println!("{}", render::contents(print.buffer, memory, print.ty, print.count));
    }
    for (buffer, path) in writes {
        let written = std::fs::write(&path, memory.bytes(buffer.region));
        written.map_err(|e| Failure::usage(format!("can't write {}: {e}", path.display())))?;
    }
    Ok(exit)
}

/// A text that can't become a program: the file's fault, or our limit.
fn unreadable(file: &Path, error: &ptx::Error) -> Failure {
    let is_limit = matches!(error, ptx::Error::Unsupported { .. } | ptx::Error::TooLarge { .. });
    let exit = if is_limit { Exit::NothingRan } else { Exit::Usage };
    Failure { exit, message: format!("{}: {error}", file.display()) }
}

/// The kernel to run.
fn entry<'m>(module: &'m Module, args: &'m EmulateArgs) -> Result<&'m str, String> {
    let entries: Vec<&str> = module.entries().collect();
    let list = || entries.iter().map(|e| format!("\n  {e}")).collect::<String>();
    match (&args.entry, &entries[..]) {
        (_, []) => Err("expected a kernel (.entry), found none".into()),
        (Some(name), _) if entries.contains(&name.as_str()) => Ok(name),
        (Some(name), _) => Err(format!("expected --entry to be one of these, found {name:?}:{}", list())),
        (None, [one]) => Ok(one),
        (None, _) => Err(format!("expected --entry, since there are several:{}", list())),
    }
}

/// `X`, `X,Y` or `X,Y,Z`; what is left out is 1.
fn dimensions(text: &str) -> Result<[u32; 3], String> {
    let mut out = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err(format!("expected up to three numbers, found {}", parts.len()));
    }
    for (slot, part) in out.iter_mut().zip(parts) {
        *slot = part.parse().map_err(|_| format!("expected a number, found {part:?}"))?;
    }
    Ok(out)
}

/// A `--print`.
struct Print<'b> {
    buffer: &'b prepare::Buffer,
    ty: Type,
    count: Option<usize>,
}

impl<'b> Print<'b> {
    fn parse(text: &str, buffers: &'b [prepare::Buffer]) -> Result<Self, String> {
        let wrong = |why: String| format!("--print {text}: {why}");
        let mut parts = text.splitn(3, ':');
        let buffer = prepare::find(buffers, parts.next().unwrap_or("")).map_err(wrong)?;
        let ty = match parts.next() {
            None => buffer.ty,
            Some(name) => element::named(name)
                .ok_or_else(|| wrong(format!("expected a type ({}), found {name:?}", element::all_names())))?,
        };
        let count = parts
            .next()
            .map(|count| count.parse().map_err(|_| wrong(format!("expected a number of elements, found {count:?}"))));
        Ok(Self { buffer, ty, count: count.transpose()? })
    }
}

fn write_target<'b>(text: &str, buffers: &'b [prepare::Buffer]) -> Result<(&'b prepare::Buffer, PathBuf), String> {
    let wrong = |why: String| format!("--write {text}: {why}");
    let Some((name, path)) = text.split_once('=') else {
        return Err(wrong(format!("expected NAME=PATH, found {text:?}")));
    };
    Ok((prepare::find(buffers, name).map_err(wrong)?, path.into()))
}
