//! NVIDIA's run-time compiler, found and loaded while the program runs.
//!
//! Nothing of CUDA is needed to build. [`Nvrtc::find`] looks, in this order, at
//! 1. the file that `ATTNFUZZ_NVRTC` names; if that is set, nothing else is tried;
//! 2. the system's loader, under the names of the releases this crate knows;
//! 3. the site-packages of the active virtual environment, else of `python3`, where
//!    `pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12` puts the library and its headers.
//!
//! The C interface is a handful of functions that no release has changed, so they are bound here by hand; cudarc's binding
//! loads by short name only, and panics where the library is absent. A loaded library stays loaded.
#![expect(unsafe_code, reason = "NVRTC is a C library loaded at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;

use super::compile::Source;
use super::nvrtc_search as search;

pub use super::compile::{CompileError, Unavailable};

/// A loaded NVRTC.
#[derive(Debug)]
pub struct Nvrtc {
    functions: Functions,
    version: (u32, u32),
    path: PathBuf,
    include_dir: Option<PathBuf>,
}

impl Nvrtc {
    /// Finds and loads the library.
    pub fn find() -> Result<Self, Unavailable> {
        if let Some(path) = search::requested() {
            return Self::load(&path).map_err(|reason| Unavailable::NvrtcUnusable { path, reason });
        }
        let by_name = search::LOADER_NAMES.iter().map(Path::new);
        if let Some(nvrtc) = by_name.filter_map(|name| Self::load(name).ok()).next() {
            return Ok(nvrtc);
        }
        let mut failure = Unavailable::NvrtcNotFound;
        for path in search::wheels() {
            match Self::load(&path) {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(reason) => failure = Unavailable::NvrtcUnusable { path, reason },
            }
        }
        Err(failure)
    }

    /// Major and minor version of the library.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The library's file; only its short name where the system doesn't tell what the loader opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder given to the compiler for `#include <...>`, if one was found: `ATTNFUZZ_CUDA_INCLUDE`, else beside the
    /// library, else in the CUDA installation.
    pub fn include_dir(&self) -> Option<&Path> {
        self.include_dir.as_deref()
    }

    /// The architectures that it compiles for, such as 75; none if it does not say, which NVRTC does since CUDA 11.2.
    pub fn architectures(&self) -> Vec<i32> {
        let Some((count, fill)) = self.functions.architectures else { return Vec::new() };
        let mut number: c_int = 0;
        // SAFETY: the signature is NVRTC's, and the pointer is to a live integer that it writes.
        if unsafe { count(&mut number) } != 0 {
            return Vec::new();
        }
        let mut known: Vec<c_int> = vec![0; usize::try_from(number).unwrap_or_default()];
        // SAFETY: the function writes as many integers as it has just said, and there is room for so many.
        if unsafe { fill(known.as_mut_ptr()) } == 0 { known } else { Vec::new() }
    }

    /// Compiles `source` to PTX for `arch` (such as `compute_75`).
    pub fn compile(&self, source: &Source, arch: &str, options: &[String]) -> Result<String, CompileError> {
        self.compile_named(source, arch, options, &[]).map(|(ptx, _)| ptx)
    }

    /// The same, and what the PTX calls each of `names`, expressions that name an entry point in the source, such as
    /// `decode<float, 64>`. They are instantiated by being asked for.
    pub fn compile_named(
        &self,
        source: &Source,
        arch: &str,
        options: &[String],
        names: &[String],
    ) -> Result<(String, Vec<String>), CompileError> {
        let mut arguments = vec![c_string("arch", &format!("--gpu-architecture={arch}"))?];
        for option in options {
            arguments.push(c_string("options", option)?);
        }
        if let Some(dir) = &self.include_dir {
            arguments.push(c_string("include path", &format!("--include-path={}", dir.display()))?);
        }
        for dir in &source.include {
            arguments.push(c_string("include path", &format!("--include-path={}", dir.display()))?);
        }
        let program = Program::new(&self.functions, source)?;
        let names = names.iter().map(|name| c_string("name of an entry", name)).collect::<Result<Vec<_>, _>>()?;
        for name in &names {
            program.ask_for(name)?;
        }
        program.compile(&source.main.name, &arguments)?;
        let symbols = names.iter().map(|name| program.symbol(name)).collect::<Result<_, _>>()?;
        Ok((program.ptx()?, symbols))
    }

    fn load(path: &Path) -> Result<Self, String> {
        preload_builtins(path);
        let library = open(path)?;
        let functions = Functions::bind(library).map_err(|error| error.to_string())?;
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: the signature is NVRTC's, and both pointers are to live integers that it writes.
        let code = unsafe { (functions.version)(&mut major, &mut minor) };
        functions.check("nvrtcVersion", code).map_err(|error| error.to_string())?;
        let unsigned = |number: c_int| u32::try_from(number).unwrap_or_default();
        let path =
            if path.is_absolute() { path.to_owned() } else { search::mapped_file().unwrap_or_else(|| path.to_owned()) };
        let include_dir = search::include_dir(&path);
        Ok(Self { functions, version: (unsigned(major), unsigned(minor)), path, include_dir })
    }
}

/// One `nvrtcProgram`, destroyed when dropped.
struct Program<'a> {
    functions: &'a Functions,
    handle: Handle,
}

impl<'a> Program<'a> {
    fn new(functions: &'a Functions, source: &Source) -> Result<Self, CompileError> {
        let (name, text) = (c_string("name", &source.main.name)?, c_string("source", &source.main.text)?);
        let headers =
            source.headers.iter().map(|h| Ok((c_string("header name", &h.name)?, c_string("header", &h.text)?)));
        let headers = headers.collect::<Result<Vec<_>, CompileError>>()?;
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let count = c_int::try_from(headers.len()).map_err(|_| CompileError::TooMany)?;
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: all strings outlive the call, which copies them; `texts` and `names` hold `count` each.
        let code = unsafe {
            let (text, name) = (text.as_ptr(), name.as_ptr());
            (functions.create_program)(&mut handle, text, name, count, texts.as_ptr(), names.as_ptr())
        };
        functions.check("nvrtcCreateProgram", code)?;
        Ok(Self { functions, handle })
    }

    fn compile(&self, name: &str, arguments: &[CString]) -> Result<(), CompileError> {
        let pointers: Vec<*const c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| CompileError::TooMany)?;
        // SAFETY: the handle is live, and `pointers` holds `count` strings that outlive the call.
        let code = unsafe { (self.functions.compile_program)(self.handle, count, pointers.as_ptr()) };
        if code == COMPILATION_FAILED {
            let log = self.text("nvrtcGetProgramLog", self.functions.log_size, self.functions.log)?;
            return Err(CompileError::Rejected { name: name.to_owned(), log });
        }
        self.functions.check("nvrtcCompileProgram", code)
    }

    /// Before compiling.
    fn ask_for(&self, name: &CStr) -> Result<(), CompileError> {
        // SAFETY: the handle is live, and the call copies the string.
        let code = unsafe { (self.functions.add_name_expression)(self.handle, name.as_ptr()) };
        self.functions.check("nvrtcAddNameExpression", code)
    }

    /// After compiling, for a name that was asked for.
    fn symbol(&self, name: &CStr) -> Result<String, CompileError> {
        let call = "nvrtcGetLoweredName";
        let mut symbol: *const c_char = ptr::null();
        // SAFETY: the handle is live, the string outlives the call, and `symbol` is a live pointer that the call writes.
        let code = unsafe { (self.functions.lowered_name)(self.handle, name.as_ptr(), &mut symbol) };
        self.functions.check(call, code)?;
        if symbol.is_null() {
            return Err(CompileError::CallFailed { call, reason: "no name was given".into() });
        }
        // SAFETY: on success it is a terminated string that lives as long as the program.
        let symbol = unsafe { CStr::from_ptr(symbol) };
        symbol.to_str().map(str::to_owned).map_err(|_| CompileError::NotText { call })
    }

    fn ptx(&self) -> Result<String, CompileError> {
        self.text("nvrtcGetPTX", self.functions.ptx_size, self.functions.ptx)
    }

    /// A text that NVRTC hands out in two calls: its size, terminator included, then its bytes.
    fn text(&self, call: &'static str, size: SizeFn, fill: FillFn) -> Result<String, CompileError> {
        let mut length = 0;
        // SAFETY: the handle is live and `length` is a live size_t that the call writes.
        self.functions.check(call, unsafe { size(self.handle, &mut length) })?;
        let mut bytes = vec![0_u8; length];
        // SAFETY: the handle is live, and the buffer is as long as the library just asked for.
        self.functions.check(call, unsafe { fill(self.handle, bytes.as_mut_ptr().cast()) })?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        String::from_utf8(bytes).map_err(|_| CompileError::NotText { call })
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from nvrtcCreateProgram and is destroyed only here.
        unsafe { (self.functions.destroy_program)(&mut self.handle) };
    }
}

/// An `nvrtcProgram`.
type Handle = *mut c_void;
type SizeFn = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type FillFn = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;

/// The functions of the C interface that are used; an `nvrtcResult` is an int whose zero is success.
#[derive(Debug)]
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    create_program: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy_program: unsafe extern "C" fn(*mut Handle) -> c_int,
    compile_program: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int,
    add_name_expression: unsafe extern "C" fn(Handle, *const c_char) -> c_int,
    lowered_name: unsafe extern "C" fn(Handle, *const c_char, *mut *const c_char) -> c_int,
    ptx_size: SizeFn,
    ptx: FillFn,
    log_size: SizeFn,
    log: FillFn,
    /// How many architectures it knows, and which.
    architectures: Option<(unsafe extern "C" fn(*mut c_int) -> c_int, unsafe extern "C" fn(*mut c_int) -> c_int)>,
}

impl Functions {
    fn bind(library: &'static Library) -> Result<Self, libloading::Error> {
        // SAFETY: each field has the signature that NVRTC's header gives the function of that name, unchanged since its
        // first release; the library is never unloaded, so the pointers stay valid.
        unsafe {
            Ok(Self {
                version: *library.get("nvrtcVersion")?,
                error_string: *library.get("nvrtcGetErrorString")?,
                create_program: *library.get("nvrtcCreateProgram")?,
                destroy_program: *library.get("nvrtcDestroyProgram")?,
                compile_program: *library.get("nvrtcCompileProgram")?,
                add_name_expression: *library.get("nvrtcAddNameExpression")?,
                lowered_name: *library.get("nvrtcGetLoweredName")?,
                ptx_size: *library.get("nvrtcGetPTXSize")?,
                ptx: *library.get("nvrtcGetPTX")?,
                log_size: *library.get("nvrtcGetProgramLogSize")?,
                log: *library.get("nvrtcGetProgramLog")?,
                architectures: match (library.get("nvrtcGetNumSupportedArchs"), library.get("nvrtcGetSupportedArchs")) {
                    (Ok(count), Ok(fill)) => Some((*count, *fill)),
                    _ => None,
                },
            })
        }
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), CompileError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the function accepts any int and returns a static, terminated string.
        let reason = unsafe { CStr::from_ptr((self.error_string)(code)) };
        Err(CompileError::CallFailed { call, reason: reason.to_string_lossy().into_owned() })
    }
}

/// Opens a library for the rest of the process.
fn open(path: &Path) -> Result<&'static Library, String> {
    // SAFETY: loading runs the library's initialisers; NVRTC's and its builtins' only set up their own state.
    let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
    Ok(Box::leak(Box::new(library)))
}

/// Some releases of the wheel don't find their own builtins library; once loaded by its path it is found by name.
fn preload_builtins(path: &Path) {
    let Some(dir) = path.parent().filter(|_| path.is_absolute()) else {
        return;
    };
    for builtins in search::builtins_in(dir) {
        // Not needed by most releases: if it fails, the compile that misses it says so.
        let _ = open(&builtins);
    }
}

fn c_string(what: &'static str, text: &str) -> Result<CString, CompileError> {
    CString::new(text).map_err(|_| CompileError::NulByte { what })
}

/// The code of `NVRTC_ERROR_COMPILATION`, the one failure that has a log.
const COMPILATION_FAILED: c_int = 6;
