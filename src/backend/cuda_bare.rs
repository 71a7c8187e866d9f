//! A kernel's launches on a GPU with nothing around them: no guard zones, no verdict. For benchmarks and memory checkers.
//!
//! [`BareCuda::time`] gives tensors numbers around 1 that are made on the device, so that cases of many gigabytes can be
//! timed. [`BareCuda::launch`] gives each tensor an allocation of its own, just as large and initialised just where the
//! case says so, so that a tool such as `compute-sanitizer` sees every byte a kernel should not touch.

#![expect(unsafe_code, reason = "the driver API is C")]

use super::cuda::{Module, Ready, Unavailable, devices};
use super::plan::{Initialised, Plan, PlannedLaunch, Region};
use super::{BackendError, Code, Kernel, Run};
use crate::case::Case;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::time::Duration;

/// A GPU.
pub struct BareCuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    capability: (i32, i32),
    /// Memory that is overwritten before each timed launch, so that none finds its inputs in the L2 cache.
    flush: sys::CUdeviceptr,
}

/// Larger than the L2 cache of any GPU.
const FLUSH_BYTES: usize = 256 << 20;
/// Bytes of numbers that inputs are tiled with.
const TILE_BYTES: usize = 2 << 20;

impl BareCuda {
    /// Opens the GPU with this index.
    ///
    /// # Errors
    /// [`Unavailable`] where there is no driver or no such GPU.
    pub fn open(ordinal: usize) -> Result<Self, Unavailable> {
        let found = devices()?;
        let Some(device) = found.get(ordinal) else {
            return Err(Unavailable(format!("expected a CUDA device below {}, found {ordinal}", found.len())));
        };
        let unavailable = |e: DriverError| Unavailable(format!("the CUDA driver answers {:?}", e.0));
        let context = CudaContext::new(ordinal).map_err(unavailable)?;
        let stream = context.new_stream().map_err(unavailable)?;
        // SAFETY: the context is current, and the size is not 0.
        let flush = unsafe { result::malloc_sync(FLUSH_BYTES) }.map_err(unavailable)?;
        Ok(Self { context, stream, name: device.name.clone(), capability: device.capability, flush })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes read and written a second by a copy of `size_bytes` from the device to itself, the best of `samples`.
    ///
    /// # Errors
    /// The driver's answer, too little memory among them.
    pub fn copy_rate(&self, size_bytes: usize, samples: usize) -> Result<f64, BackendError> {
        self.bind()?;
        let [from, to] = [self.memory(size_bytes)?, self.memory(size_bytes)?];
        let copy = || {
            // SAFETY: both allocations have so many bytes, and live until the stream is waited for.
            unsafe { result::memcpy_dtod_async(to.0, from.0, size_bytes, self.stream.cu_stream()) }
        };
        let times = self.times(samples, copy)?;
        let best = times.into_iter().min().unwrap_or_default();
        Ok(2.0 * size_bytes as f64 / best.as_secs_f64())
    }

    /// How long all launches of the first step of `case` take together, `samples` times, each from cold caches.
    ///
    /// # Errors
    /// No entry, no legal launch, or the driver's answer.
    pub fn time(&self, kernel: &Kernel, case: &Case, samples: usize) -> Result<Vec<Duration>, BackendError> {
        self.bind()?;
        let mut plan = Plan::sketch(kernel, case)?;
        let code = kernel.code_on(case, Some(self.capability))?;
        let mut module = Loaded::new(&code)?;
        let tile = self.tile(case)?;
        let mut memory = Vec::with_capacity(plan.regions.len());
        for region in &mut plan.regions {
            let device = self.memory(region.size_bytes.max(region.bytes.len()))?;
            if region.writable && matches!(region.initialised, Initialised::All) {
                // A workspace that starts with a number, be it another one: time does not tell.
                // SAFETY: the allocation has so many bytes.
                unsafe { result::memset_d8_async(device.0, 0, region.size_bytes, self.stream.cu_stream()) }
                    .map_err(trouble)?;
            } else if region.bytes.is_empty() {
                self.fill(&device, region.size_bytes, &tile)?;
            } else {
                write_addresses(region, &memory);
                // SAFETY: the allocation has as many bytes; the copy is waited for below, before `plan` ends.
                unsafe { result::memcpy_htod_async(device.0, &region.bytes, self.stream.cu_stream()) }
                    .map_err(trouble)?;
            }
            memory.push(device);
        }
        self.stream.synchronize().map_err(trouble)?;
        let mut launches = Vec::new();
        for launch in plan.steps.first().into_iter().flatten() {
            launches.push(module.ready(code.symbol(&launch.entry), launch, &memory)?);
        }
        self.times(samples, || launches.iter_mut().try_for_each(|launch| launch.start(self.stream.cu_stream())))
    }

    /// Runs every step of `case` once. What it leaves is dropped: a checker that watches says what was wrong.
    ///
    /// # Errors
    /// No entry, no legal launch, or the driver's answer, a fault of the kernel among them.
    pub fn launch(&self, kernel: &Kernel, case: &Case) -> Result<(), BackendError> {
        self.bind()?;
        let mut plan = Plan::new(kernel, case, Run::first(case))?;
        let code = kernel.code_on(case, Some(self.capability))?;
        let mut module = Loaded::with_lines(&code)?;
        let stream = self.stream.cu_stream();
        let mut memory = Vec::with_capacity(plan.regions.len());
        for region in &mut plan.regions {
            let device = self.memory(region.size_bytes)?;
            write_addresses(region, &memory);
            let whole = 0..region.bytes.len();
            let ranges = match &region.initialised {
                Initialised::All => std::slice::from_ref(&whole),
                Initialised::Nothing => &[],
                Initialised::Ranges(ranges) => ranges,
            };
            for range in ranges.iter().filter(|range| !range.is_empty()) {
                let (to, from) = (device.0 + range.start as u64, &region.bytes[range.clone()]);
                // SAFETY: the allocation is as large as the region; the copy is waited for below, before `plan` ends.
                unsafe { result::memcpy_htod_async(to, from, stream) }.map_err(trouble)?;
            }
            memory.push(device);
        }
        self.stream.synchronize().map_err(trouble)?;
        for launch in plan.steps.iter().flatten() {
            module.ready(code.symbol(&launch.entry), launch, &memory)?.start(stream).map_err(trouble)?;
        }
        self.stream.synchronize().map_err(trouble)
    }

    /// Times what `start` puts into the stream, after one run that is not counted.
    fn times(
        &self,
        samples: usize,
        mut start: impl FnMut() -> Result<(), DriverError>,
    ) -> Result<Vec<Duration>, BackendError> {
        let stream = self.stream.cu_stream();
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(trouble);
        let (before, after) = (event()?, event()?);
        let mut times = Vec::with_capacity(samples);
        let mut sample = |times: &mut Vec<Duration>| -> Result<(), DriverError> {
            // SAFETY: the memory is as large, the events are of this context, and all is waited for before it ends.
            unsafe {
                result::memset_d8_async(self.flush, 0, FLUSH_BYTES, stream)?;
                result::event::record(before, stream)?;
                start()?;
                result::event::record(after, stream)?;
                self.stream.synchronize()?;
                let milliseconds = result::event::elapsed(before, after)?;
                times.push(Duration::from_secs_f64(f64::from(milliseconds) / 1e3));
            }
            Ok(())
        };
        let outcome = (0..=samples).try_for_each(|_| sample(&mut times));
        for event in [before, after] {
            // SAFETY: each was made above and is given back once.
            let _ = unsafe { result::event::destroy(event) };
        }
        outcome.map_err(trouble)?;
        times.remove(0);
        Ok(times)
    }

    fn bind(&self) -> Result<(), BackendError> {
        self.context.bind_to_thread().map_err(trouble)
    }

    fn memory(&self, size_bytes: usize) -> Result<Memory, BackendError> {
        // SAFETY: the context is current (bind) and the size is not 0.
        unsafe { result::malloc_sync(size_bytes.max(1)) }.map(Memory).map_err(trouble)
    }

    /// Device memory with numbers of the case's dtype, of both signs and several exponents.
    fn tile(&self, case: &Case) -> Result<Memory, BackendError> {
        let mut state = 1_u64;
        let values: Vec<f64> = (0..TILE_BYTES / case.dtype.size_bytes())
            .map(|_| {
                // Knuth's generator; only the high bits are used.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f64 / f64::from(1 << 23) - 1.0
            })
            .collect();
        let bytes = crate::tensor::Buffer::of_values(case.dtype, &values).into_bytes();
        let tile = self.memory(TILE_BYTES)?;
        // SAFETY: the allocation has as many bytes as are copied, and the copy is waited for.
        unsafe { result::memcpy_htod_async(tile.0, &bytes, self.stream.cu_stream()) }.map_err(trouble)?;
        self.stream.synchronize().map_err(trouble)?;
        Ok(tile)
    }

    fn fill(&self, device: &Memory, size_bytes: usize, tile: &Memory) -> Result<(), BackendError> {
        for start in (0..size_bytes).step_by(TILE_BYTES) {
            let part = TILE_BYTES.min(size_bytes - start);
            // SAFETY: both allocations have so many bytes from there on, and live until the stream is waited for.
            unsafe { result::memcpy_dtod_async(device.0 + start as u64, tile.0, part, self.stream.cu_stream()) }
                .map_err(trouble)?;
        }
        Ok(())
    }
}

impl Drop for BareCuda {
    fn drop(&mut self) {
        // SAFETY: it came from malloc_sync and is given back once; nothing runs.
        let _ = unsafe { result::free_sync(self.flush) };
    }
}

/// Device memory of its own.
struct Memory(sys::CUdeviceptr);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it came from malloc_sync and is given back once; whoever used it has waited.
        let _ = unsafe { result::free_sync(self.0) };
    }
}

/// Writes the addresses of regions before it that a region holds.
fn write_addresses(region: &mut Region, memory: &[Memory]) {
    for address in std::mem::take(&mut region.addresses) {
        address.write(&mut region.bytes, |index| memory[index].0);
    }
}

/// A loaded module; unloaded when dropped.
struct Loaded(Module);

impl Loaded {
    fn new(code: &Code) -> Result<Self, BackendError> {
        Module::load(code)?.map(Self).map_err(trouble)
    }

    /// The same, so that tools can tell lines of the CUDA source, where the PTX names them.
    fn with_lines(code: &Code) -> Result<Self, BackendError> {
        // Machine code has its lines or not.
        let Some(ptx) = code.ptx() else { return Self::new(code) };
        let image = CString::new(ptx).map_err(|_| BackendError::Unavailable("the PTX holds a NUL byte".into()))?;
        let mut module = std::ptr::null_mut();
        let mut options = [sys::CUjit_option::CU_JIT_GENERATE_LINE_INFO];
        // The driver takes the value of this option in place of a pointer.
        let mut values = [std::ptr::without_provenance_mut::<c_void>(1)];
        // SAFETY: the image is a NUL-terminated string; there is one option and one value, alive during the call.
        unsafe {
            sys::cuModuleLoadDataEx(
                &raw mut module,
                image.as_ptr().cast(),
                1,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        }
        .result()
        .map_err(trouble)?;
        Ok(Self(Module::of(module)))
    }

    fn ready(&mut self, symbol: &str, launch: &PlannedLaunch, memory: &[Memory]) -> Result<Ready, BackendError> {
        let function = self.0.function(symbol, launch)?.map_err(trouble)?;
        Ok(Ready::new(function, launch, |region| memory[region].0))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: the module was loaded once and nothing of it is running.
        let _ = unsafe { result::module::unload(self.0.handle()) };
    }
}

fn trouble(error: DriverError) -> BackendError {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |n| n.to_string_lossy().into_owned());
    match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => BackendError::OutOfMemory("the device".into()),
        _ => BackendError::Unavailable(name),
    }
}
