//! Any PTX on a GPU: text, an entry, arguments, bytes in and bytes out.
//!
//! Nothing here knows kernels or cases. It is how the emulator is compared with hardware instruction by instruction
//! (`examples/fidelity`). A launch that faults ends the context: every later one answers an error.

#![expect(unsafe_code, reason = "the driver API is C")]

use super::cuda::{Unavailable, devices};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// A GPU that takes raw PTX.
pub struct RawCuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
}

/// An argument of a launch, in the order of the entry's parameters.
#[derive(Clone, Debug)]
pub enum RawArg {
    /// Device memory with these contents; the parameter is its address. Holds what the kernel left there afterwards.
    Buffer(Vec<u8>),
    /// The parameter's own bytes.
    Bytes(Vec<u8>),
}

/// Shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct RawLaunch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
}

/// Why PTX could not be run to its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("can't {doing}: {reason}")]
pub struct RawError {
    /// What was being done.
    pub doing: &'static str,
    /// What the driver answers.
    pub reason: String,
}

/// A loaded module; unloaded when dropped.
pub struct RawModule<'c> {
    module: sys::CUmodule,
    cuda: &'c RawCuda,
}

impl RawCuda {
    /// Opens the GPU with this index.
    ///
    /// # Errors
    /// [`Unavailable`] where there is no driver or no such GPU.
    pub fn open(ordinal: usize) -> Result<Self, Unavailable> {
        let found = devices()?;
        let Some(device) = found.get(ordinal) else {
            return Err(Unavailable(format!("expected a CUDA device below {}, found {ordinal}", found.len())));
        };
        let (major, minor) = device.capability;
        let name = format!("{} (sm_{major}{minor})", device.name);
        let unavailable = |e: DriverError| Unavailable(format!("the CUDA driver answers {:?}", e.0));
        let context = CudaContext::new(ordinal).map_err(unavailable)?;
        let stream = context.new_stream().map_err(unavailable)?;
        Ok(Self { context, stream, name })
    }

    /// The device's name and compute capability.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compiles PTX for the device and loads it.
    ///
    /// # Errors
    /// The driver's answer to PTX it can't assemble, or a lost context.
    pub fn load(&self, ptx: &str) -> Result<RawModule<'_>, RawError> {
        self.context.bind_to_thread().map_err(failed("use the context"))?;
        let image =
            CString::new(ptx).map_err(|_| RawError { doing: "load the PTX", reason: "it holds a NUL byte".into() })?;
        // SAFETY: the image is a NUL-terminated string, as cuModuleLoadData wants for PTX.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(failed("load the PTX"))?;
        Ok(RawModule { module, cuda: self })
    }
}

impl RawModule<'_> {
    /// Runs an entry with `args` and waits for it. Buffers then hold what the kernel left in them.
    ///
    /// The caller answers for the number and sizes of the arguments: the driver reads as many bytes as the entry
    /// declares, so each is checked to have at least 8 bytes of backing.
    ///
    /// # Errors
    /// The driver's answer: no such entry, a refused launch, a fault of the kernel.
    pub fn launch(&self, entry: &str, shape: RawLaunch, args: &mut [RawArg]) -> Result<(), RawError> {
        self.cuda.context.bind_to_thread().map_err(failed("use the context"))?;
        let entry =
            CString::new(entry).map_err(|_| RawError { doing: "find the entry", reason: "a NUL byte".into() })?;
        // SAFETY: the module is loaded in the current context.
        let function = unsafe { result::module::get_function(self.module, entry) }.map_err(failed("find the entry"))?;
        let mut memory = Vec::with_capacity(args.len());
        let outcome = self.run(function, shape, args, &mut memory);
        for device in memory {
            // SAFETY: the pointer came from malloc_sync below and is given back once.
            let _ = unsafe { result::free_sync(device) };
        }
        outcome
    }

    fn run(
        &self,
        function: sys::CUfunction,
        shape: RawLaunch,
        args: &mut [RawArg],
        memory: &mut Vec<sys::CUdeviceptr>,
    ) -> Result<(), RawError> {
        let stream = self.cuda.stream.cu_stream();
        let mut params: Vec<Vec<u8>> = Vec::with_capacity(args.len());
        for arg in args.iter() {
            params.push(match arg {
                RawArg::Bytes(bytes) => {
                    let mut bytes = bytes.clone();
                    bytes.resize(bytes.len().max(8), 0);
                    bytes
                }
                RawArg::Buffer(bytes) => {
                    // SAFETY: the context is current and the size is not 0.
                    let device = unsafe { result::malloc_sync(bytes.len().max(1)) }.map_err(failed("allocate"))?;
                    memory.push(device);
                    // In the kernel's stream: a copy outside may still be on its way when it returns.
                    // SAFETY: the allocation has as many bytes as are copied, and `bytes` outlives the wait below.
                    unsafe { result::memcpy_htod_async(device, bytes, stream) }
                        .map_err(failed("copy to the device"))?;
                    device.to_le_bytes().to_vec()
                }
            });
        }
        // Copies to the device may still be under way when they return, and the kernel's stream doesn't wait for them.
        self.cuda.context.synchronize().map_err(failed("finish the copies"))?;
        let mut pointers: Vec<*mut c_void> = params.iter_mut().map(|p| p.as_mut_ptr().cast()).collect();
        let [grid, block] = [shape.grid, shape.block].map(|[x, y, z]| (x, y, z));
        // SAFETY: the parameters live until the launch returns, by when the driver has copied them. What the kernel
        // does with its pointers happens in device memory.
        unsafe { result::launch_kernel(function, grid, block, 0, stream, &mut pointers) }.map_err(failed("launch"))?;
        self.cuda.stream.synchronize().map_err(failed("finish the kernel"))?;
        let buffers = args.iter_mut().filter_map(|arg| match arg {
            RawArg::Buffer(bytes) => Some(bytes),
            RawArg::Bytes(_) => None,
        });
        for (bytes, device) in buffers.zip(memory.iter()) {
            // SAFETY: as for the copy to the device.
            unsafe { result::memcpy_dtoh_async(bytes, *device, stream) }.map_err(failed("copy from the device"))?;
        }
        self.cuda.stream.synchronize().map_err(failed("copy from the device"))
    }
}

impl Drop for RawModule<'_> {
    fn drop(&mut self) {
        // SAFETY: the module was loaded once and nothing of it is running: every launch waits.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

fn failed(doing: &'static str) -> impl Fn(DriverError) -> RawError {
    move |error| {
        let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |n| n.to_string_lossy().into_owned());
        RawError { doing, reason: name }
    }
}
