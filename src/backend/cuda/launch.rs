//! Code in a context, and launches of its entry points.

#![expect(unsafe_code, reason = "the driver API is C")]

use super::super::plan::{LaunchConfig, PlannedLaunch};
use super::super::{BackendError, Code, Image};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use std::collections::HashMap;
use std::ffi::{CString, c_void};

/// Dynamic shared memory that needs no attribute.
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// A loaded module. It lives as long as its context.
pub(in crate::backend) struct Module {
    handle: sys::CUmodule,
    /// Entry points that were asked for, by the names that the code has for them.
    functions: HashMap<String, Function>,
}

// SAFETY: a CUmodule is a handle that the driver lets any thread use while its context is current.
unsafe impl Send for Module {}

/// An entry point.
#[derive(Clone, Copy)]
pub(in crate::backend) struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that its launches may ask for.
    shared_bytes: u32,
}

// SAFETY: as for a module.
unsafe impl Send for Function {}

impl Module {
    /// Loads code into the current context. The inner error is the driver's answer.
    pub(in crate::backend) fn load(code: &Code) -> Result<Result<Self, DriverError>, BackendError> {
        let handle = match code.image() {
            Image::Ptx(ptx) => {
                let nul = |_| BackendError::NotLoaded("the PTX holds a NUL byte".into());
                let image = CString::new(ptx.as_str()).map_err(nul)?;
                // SAFETY: the image is a NUL-terminated string, as cuModuleLoadData wants for PTX.
                unsafe { result::module::load_data(image.as_ptr().cast()) }
            }
            // SAFETY: a cubin whose headers speak of nothing outside the file, which was seen when it was opened.
            Image::Cubin(cubin) => unsafe { result::module::load_data(cubin.as_ptr().cast()) },
        };
        Ok(handle.map(Self::of))
    }

    /// A module that was loaded into the current context.
    pub(in crate::backend) fn of(handle: sys::CUmodule) -> Self {
        Self { handle, functions: HashMap::new() }
    }

    /// What the driver knows it by.
    pub(in crate::backend) fn handle(&self) -> sys::CUmodule {
        self.handle
    }

    /// The entry of a launch, by the name that the code has for it, allowed as much shared memory as the launch asks for. The
    /// inner error is the driver's answer, other than that there is no such entry.
    pub(in crate::backend) fn function(
        &mut self,
        symbol: &str,
        launch: &PlannedLaunch,
    ) -> Result<Result<Function, DriverError>, BackendError> {
        let mut function = match self.functions.get(symbol) {
            Some(function) => *function,
            None => match self.find(symbol) {
                Ok(function) => function,
                Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) => {
                    return Err(BackendError::NoEntry(launch.entry.clone()));
                }
                // Such as that the context was lost meanwhile.
                Err(error) => return Ok(Err(error)),
            },
        };
        let wanted = launch.config.shared_bytes;
        // Never lowered: another thread may be about to launch with more.
        if wanted > function.shared_bytes {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a loaded module; the driver checks the value.
            let set = unsafe { result::function::set_function_attribute(function.handle, attribute, wanted as i32) };
            match set {
                Ok(()) => function.shared_bytes = wanted,
                Err(error) => return Ok(Err(error)),
            }
        }
        self.functions.insert(symbol.to_owned(), function);
        Ok(Ok(function))
    }

    fn find(&self, symbol: &str) -> Result<Function, DriverError> {
        let symbol = CString::new(symbol).map_err(|_| DriverError(CUresult::CUDA_ERROR_NOT_FOUND))?;
        // SAFETY: the module is loaded in the current context.
        let handle = unsafe { result::module::get_function(self.handle, symbol) }?;
        Ok(Function { handle, shared_bytes: PLAIN_SHARED_BYTES })
    }
}

/// A launch with everything that the driver wants of it.
pub(in crate::backend) struct Ready {
    function: Function,
    config: LaunchConfig,
    args: Vec<Vec<u8>>,
}

impl Ready {
    /// `launch` of its entry `function`, where regions are at the addresses that `of` gives.
    pub(in crate::backend) fn new(function: Function, launch: &PlannedLaunch, of: impl Fn(usize) -> u64) -> Self {
        Self { function, config: launch.config, args: launch.arg_bytes(of) }
    }

    /// Puts it into a stream.
    pub(in crate::backend) fn start(&mut self, stream: sys::CUstream) -> Result<(), DriverError> {
        let Self { function: Function { handle, .. }, config, args } = self;
        let mut pointers: Vec<*mut c_void> = args.iter_mut().map(|bytes| bytes.as_mut_ptr().cast()).collect();
        let LaunchConfig { grid, block, cluster: [x, y, z], shared_bytes } = *config;
        let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (grid, block);
        if [x, y, z] == [1; 3] {
            let (grid, block) = ((grid_x, grid_y, grid_z), (block_x, block_y, block_z));
            // SAFETY: there are as many arguments as the entry has parameters, each of its size (checked when the kernel was
            // opened), and the driver copies them before it returns. What the kernel does with its pointers is what is under
            // test.
            return unsafe { result::launch_kernel(*handle, grid, block, shared_bytes, stream, &mut pointers) };
        }
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z },
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: block_x,
            blockDimY: block_y,
            blockDimZ: block_z,
            sharedMemBytes: shared_bytes,
            hStream: stream,
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        // SAFETY: as for a launch without clusters; configuration and attribute live until the call returns.
        unsafe {
            sys::cuLaunchKernelEx(&raw const config, *handle, pointers.as_mut_ptr(), std::ptr::null_mut()).result()
        }
    }
}

/// Whether the driver can't make sense of a module's code, which tells nothing of the device.
pub(super) fn is_bad_code(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_INVALID_IMAGE
            | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUresult::CUDA_ERROR_INVALID_SOURCE
    )
}

/// Whether the driver refused the launch itself, which leaves the context whole.
pub(super) fn is_refusal(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_INVALID_VALUE
            | CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
            | CUresult::CUDA_ERROR_NOT_SUPPORTED
    )
}
