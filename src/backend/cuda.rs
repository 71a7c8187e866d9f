//! The CUDA backend: the kernel's PTX on a GPU, through the driver loaded at run time.
//!
//! Every tensor of a case's runs lies in one arena, between guard zones, so a case is one copy to the device, its launches,
//! and one copy back; then guards and inputs are compared byte for byte. What a GPU can't see (reads out of bounds within
//! the arena, uninitialised reads, races) is the emulator's to find, or shows as a result that changes with the poison.
//!
//! A kernel that faults leaves a context that can't be trusted: the backend refuses every later run and says why. Opened with
//! [`Cuda::open`] it has one case at a time on the device, so that a fault is that case's. [`Cuda::open_shared`] has as many
//! as there are threads, several times as fast, and blames none for a fault: it is for processes whose parent asks again for
//! each case alone.

#![expect(unsafe_code, reason = "the driver API is C; every call of it in the project is here")]

use super::plan::{Plan, PlannedLaunch, Region};
use super::{Backend, BackendError, BackendKind, Code, Image, Kernel, Run, elements_times_keys};
use crate::case::Case;
use crate::outcome::{Fault, FaultKind, Outcome};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes before and after every tensor that no kernel may touch.
const GUARD_BYTES: usize = 512;
/// What they hold: as binary32, binary16 or bfloat16 a number no recipe makes.
const GUARD_BYTE: u8 = 0xa5;
/// Alignment of a tensor, as cudaMalloc gives.
const ALIGNMENT: usize = 256;
/// Tensors of a case up to which its runs are on the device at once.
const TOGETHER_BYTES: usize = 64 << 20;
/// How long the launches of one case may take before the kernel counts as hung.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// The same for each query element times key.
const TIME_LIMIT_PER_ELEMENT: Duration = Duration::from_micros(1);
/// Dynamic shared memory that needs no attribute.
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// A GPU.
pub struct Cuda {
    /// Never given back: after a hang the driver would wait for the kernel, and the process's end frees everything.
    context: ManuallyDrop<Arc<CudaContext>>,
    name: String,
    capability: (i32, i32),
    /// Streams with their memory, one for each thread that runs at the same time.
    idle: Mutex<Vec<Lane>>,
    modules: Mutex<HashMap<u64, Module>>,
    /// Held while a case is on the device; nothing where several may be.
    turn: Option<Mutex<()>>,
    /// Held while work is put into a stream. The driver has a lock of its own, at which threads would spin.
    submitting: Mutex<()>,
    /// Why the context can't be used any more.
    lost: Mutex<Option<String>>,
}

/// A stream and the arena it works in.
struct Lane {
    stream: Arc<CudaStream>,
    /// Told when everything in the stream is done; waiting for it does not keep a processor busy.
    done: sys::CUevent,
    device: sys::CUdeviceptr,
    capacity: usize,
    /// The arena's copy on the host.
    host: Pinned,
}

/// Page-locked host memory, which the device copies from and to by itself.
struct Pinned {
    /// Null while the capacity is 0.
    start: *mut u8,
    capacity: usize,
    /// Bytes in use.
    len: usize,
}

// SAFETY: the memory belongs to this value alone, and the driver lets any thread use and free it.
unsafe impl Send for Pinned {}

// SAFETY: the stream, the event and the memory belong to this value alone, and the driver lets any thread use them.
unsafe impl Send for Lane {}

/// A loaded module. It lives as long as the process.
#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: a CUmodule is a handle that the driver lets any thread use while its context is current.
unsafe impl Send for Module {}

/// What the driver says of the machine.
#[derive(Clone, Debug)]
pub struct Device {
    /// Index, as `--device` counts.
    pub ordinal: usize,
    /// Marketing name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Device memory in bytes.
    pub memory_bytes: usize,
}

/// Why there is no GPU to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Version of the CUDA driver API, as (major, minor).
pub fn driver_version() -> Result<(i32, i32), Unavailable> {
    check_library()?;
    let mut version = 0;
    // SAFETY: the library is there (checked above) and the pointer is to a live i32.
    unsafe { sys::cuDriverGetVersion(&raw mut version).result() }.map_err(unavailable)?;
    Ok((version / 1000, version % 1000 / 10))
}

/// Every GPU the driver shows.
pub fn devices() -> Result<Vec<Device>, Unavailable> {
    check_library()?;
    let count = CudaContext::device_count().map_err(unavailable)?;
    (0..count.max(0) as usize)
        .map(|ordinal| {
            let context = CudaContext::new(ordinal).map_err(unavailable)?;
            Ok(Device {
                ordinal,
                name: context.name().map_err(unavailable)?,
                capability: context.compute_capability().map_err(unavailable)?,
                memory_bytes: context.total_mem().map_err(unavailable)?,
            })
        })
        .collect()
}

fn check_library() -> Result<(), Unavailable> {
    // cudarc panics when it can't load the library, so ask before the first call of it.
    // SAFETY: loads the driver's library, whose initialisers have no preconditions.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(Unavailable("no CUDA driver: libcuda can't be loaded".into()))
}

fn unavailable(error: DriverError) -> Unavailable {
    Unavailable(format!("the CUDA driver answers {}", describe(error)))
}

fn describe(error: DriverError) -> String {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |n| n.to_string_lossy().into_owned());
    let text = error.error_string().map_or_else(|_| String::new(), |s| format!(" ({})", s.to_string_lossy()));
    name + &text
}

impl Cuda {
    /// Opens the GPU with this index, for one case at a time.
    ///
    /// # Errors
    /// [`Unavailable`] where there is no driver or no such GPU.
    pub fn open(ordinal: usize) -> Result<Self, Unavailable> {
        Self::new(ordinal, Some(Mutex::default()))
    }

    /// The same for as many cases at a time as threads ask. A kernel's fault or hang is nobody's then: every case that is
    /// on the device gets [`BackendError::Unavailable`], and a hang is waited for without end.
    ///
    /// # Errors
    /// As [`Cuda::open`].
    pub fn open_shared(ordinal: usize) -> Result<Self, Unavailable> {
        Self::new(ordinal, None)
    }

    fn new(ordinal: usize, turn: Option<Mutex<()>>) -> Result<Self, Unavailable> {
        let devices = devices()?;
        let device = devices
            .get(ordinal)
            .ok_or_else(|| Unavailable(format!("expected a CUDA device below {}, found {ordinal}", devices.len())))?;
        let context = CudaContext::new(ordinal).map_err(unavailable)?;
        let name = format!("cuda:{ordinal} {}", device.name);
        let (idle, modules, submitting, lost) = Default::default();
        let (context, capability) = (ManuallyDrop::new(context), device.capability);
        Ok(Self { context, name, capability, idle, modules, turn, submitting, lost })
    }

    fn lane(&self) -> Result<Lane, DriverError> {
        if let Some(lane) = lock(&self.idle).pop() {
            return Ok(lane);
        }
        Ok(Lane {
            stream: self.context.new_stream()?,
            done: result::event::create(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)?,
            device: 0,
            capacity: 0,
            host: Pinned { start: std::ptr::null_mut(), capacity: 0, len: 0 },
        })
    }

    fn module(&self, code: &Code) -> Result<Module, BackendError> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(&code.hash()) {
            return Ok(*module);
        }
        let module = load(code)?
            .map_err(|e| if is_bad_code(e) { BackendError::NotLoaded(describe(e)) } else { self.trouble(e) })?;
        modules.insert(code.hash(), Module(module));
        Ok(Module(module))
    }

    /// Carries out plans of one case in `lane`, one after another. Outcomes end with the first fault.
    fn execute(
        &self,
        kernel: &Kernel,
        case: &Case,
        plans: &[Plan],
        lane: &mut Lane,
    ) -> Result<Vec<Outcome>, BackendError> {
        let arena = Arena::of(plans);
        lane.reserve(arena.size_bytes).map_err(|e| self.trouble(e))?;
        let plans = &*with_addresses(plans, |run, region| lane.device + arena.starts[run][region] as u64);
        arena.fill(plans, &mut lane.host);
        {
            let _turn = self.turn.as_ref().map(lock);
            self.check_usable()?;
            if let Some(fault) = self.on_device(kernel, case, plans, lane, &arena)? {
                return Ok(vec![Outcome::Fault(fault)]);
            }
        }
        let mut outcomes = Vec::with_capacity(plans.len());
        for (run, plan) in plans.iter().enumerate() {
            let stray = |index: usize| plan.stray(case, index, &lane.host[arena.range(run, plan, index)]);
            let damage = arena.damage(run, plan, &lane.host);
            if let Some(fault) = damage.or_else(|| (0..plan.regions.len()).find_map(stray)) {
                outcomes.push(Outcome::Fault(fault));
                break;
            }
            let output = plan.output(case, |index| lane.host[arena.range(run, plan, index)].to_vec());
            outcomes.push(Outcome::Output(output));
        }
        Ok(outcomes)
    }

    /// Copies the lane's arena to the device, launches, and copies it back. Returns a fault of the kernel, if any.
    fn on_device(
        &self,
        kernel: &Kernel,
        case: &Case,
        plans: &[Plan],
        lane: &mut Lane,
        arena: &Arena,
    ) -> Result<Option<Fault>, BackendError> {
        let code = kernel.code_on(case, Some(self.capability))?;
        let module = self.module(&code)?;
        let stream = lane.stream.cu_stream();
        let submitting = lock(&self.submitting);
        // SAFETY: `device` has at least `host.len()` bytes (reserve), and `host` lives until the stream is waited for.
        unsafe { result::memcpy_htod_async(lane.device, &lane.host, stream) }.map_err(|e| self.trouble(e))?;
        let launches =
            plans.iter().enumerate().flat_map(|(run, plan)| plan.steps.iter().flatten().map(move |l| (run, l)));
        let mut refused = None;
        for (run, launch) in launches {
            match self.launch(module, code.symbol(&launch.entry), launch, lane, &arena.starts[run])? {
                Ok(()) => {}
                Err(error) if is_refusal(error) => {
                    refused = Some(Fault::new(FaultKind::LaunchFailed, describe(error)));
                    break;
                }
                Err(error) => return self.blame(error, case),
            }
        }
        // Waited for before the copy back, which would itself wait, and for ever, for a kernel that hangs.
        let elements = u32::try_from(elements_times_keys(case)).unwrap_or(u32::MAX);
        let limit = TIME_LIMIT + TIME_LIMIT_PER_ELEMENT * elements;
        match if self.turn.is_some() { self.wait(lane, limit) } else { Ok(true) } {
            Ok(true) => {}
            Ok(false) => {
                let why = format!("the kernel did not end within {:.1} s", limit.as_secs_f64());
                *lock(&self.lost) = Some(format!("{why} with the case {case}"));
                return Ok(Some(Fault::new(FaultKind::Hang, why)));
            }
            Err(error) => return self.blame(error, case),
        }
        let copied = copy_back(lane);
        drop(submitting);
        // SAFETY: the event is of this context.
        match copied.and_then(|()| unsafe { result::event::synchronize(lane.done) }) {
            Ok(()) => Ok(refused),
            Err(error) => self.blame(error, case),
        }
    }

    /// The fault of `case`, if no other was on the device.
    fn blame(&self, error: DriverError, case: &Case) -> Result<Option<Fault>, BackendError> {
        if self.turn.is_some() {
            return self.after_fault(error, case).map(Some);
        }
        let why = format!("the context was lost with several cases in it: {}", describe(error));
        lock(&self.lost).get_or_insert_with(|| why.clone());
        Err(BackendError::Unavailable(why))
    }

    fn check_usable(&self) -> Result<(), BackendError> {
        match &*lock(&self.lost) {
            None => Ok(()),
            Some(why) => Err(BackendError::Unavailable(format!("{} can't be used any more: {why}", self.name))),
        }
    }

    fn launch(
        &self,
        module: Module,
        symbol: &str,
        launch: &PlannedLaunch,
        lane: &Lane,
        starts: &[usize],
    ) -> Result<Result<(), DriverError>, BackendError> {
        let function = match function(module.0, symbol, launch)? {
            Ok(function) => function,
            Err(error) => return Ok(Err(error)),
        };
        let mut args = launch.arg_bytes(|region| lane.device + starts[region] as u64);
        Ok(start(function, launch, &mut args, lane.stream.cu_stream()))
    }

    /// Waits for the lane's stream; false when the time is up.
    fn wait(&self, lane: &Lane, limit: Duration) -> Result<bool, DriverError> {
        let start = Instant::now();
        loop {
            // SAFETY: the stream belongs to the lane.
            match unsafe { sys::cuStreamQuery(lane.stream.cu_stream()) } {
                CUresult::CUDA_SUCCESS => return Ok(true),
                CUresult::CUDA_ERROR_NOT_READY if start.elapsed() > limit => return Ok(false),
                CUresult::CUDA_ERROR_NOT_READY if start.elapsed() > Duration::from_millis(2) => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                CUresult::CUDA_ERROR_NOT_READY => std::hint::spin_loop(),
                other => return Err(DriverError(other)),
            }
        }
    }

    /// A driver error that a kernel can't have caused.
    fn trouble(&self, error: DriverError) -> BackendError {
        match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => BackendError::OutOfMemory(self.name.clone()),
            _ => BackendError::Unavailable(format!("{}: {}", self.name, describe(error))),
        }
    }

    /// An error that came after a launch: the kernel's doing where the code says so, and the end of this context.
    fn after_fault(&self, error: DriverError, case: &Case) -> Result<Fault, BackendError> {
        let kind = match error.0 {
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS => FaultKind::OutOfBounds,
            CUresult::CUDA_ERROR_MISALIGNED_ADDRESS => FaultKind::Misaligned,
            CUresult::CUDA_ERROR_ASSERT => FaultKind::Trap,
            CUresult::CUDA_ERROR_LAUNCH_TIMEOUT => FaultKind::Hang,
            CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC => FaultKind::DeviceError,
            _ => return Err(self.trouble(error)),
        };
        *lock(&self.lost) = Some(format!("{} after the case {case}", describe(error)));
        Ok(Fault::new(kind, describe(error)))
    }
}

/// Has the lane's arena copied back, and its event told, once everything before is done.
fn copy_back(lane: &mut Lane) -> Result<(), DriverError> {
    let stream = lane.stream.cu_stream();
    // SAFETY: as for the copy to the device; the event is of the lane's context.
    unsafe {
        result::memcpy_dtoh_async(&mut lane.host, lane.device, stream)?;
        result::event::record(lane.done, stream)
    }
}

/// Loads code into the current context. The inner error is the driver's answer.
pub(super) fn load(code: &Code) -> Result<Result<sys::CUmodule, DriverError>, BackendError> {
    match code.image() {
        Image::Ptx(ptx) => {
            let nul = |_| BackendError::NotLoaded("the PTX holds a NUL byte".into());
            let image = CString::new(ptx.as_str()).map_err(nul)?;
            // SAFETY: the image is a NUL-terminated string, as cuModuleLoadData wants for PTX.
            Ok(unsafe { result::module::load_data(image.as_ptr().cast()) })
        }
        // SAFETY: a cubin whose headers speak of nothing outside the file, which was seen when it was opened.
        Image::Cubin(cubin) => Ok(unsafe { result::module::load_data(cubin.as_ptr().cast()) }),
    }
}

/// The entry of a launch, allowed as much shared memory as the launch asks for. The inner error is the driver's answer to
/// that.
pub(super) fn function(
    module: sys::CUmodule,
    symbol: &str,
    launch: &PlannedLaunch,
) -> Result<Result<sys::CUfunction, DriverError>, BackendError> {
    let no_entry = || BackendError::NoEntry(launch.entry.clone());
    let entry = CString::new(symbol).map_err(|_| no_entry())?;
    // SAFETY: the module is loaded in the current context.
    let function = unsafe { result::module::get_function(module, entry) }.map_err(|_| no_entry())?;
    if launch.shared_bytes > PLAIN_SHARED_BYTES {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of a loaded module; the driver checks the value.
        let set = unsafe { result::function::set_function_attribute(function, attribute, launch.shared_bytes as i32) };
        return Ok(set.map(|()| function));
    }
    Ok(Ok(function))
}

/// Puts a launch into a stream. `args` were checked against the entry's parameter sizes when the kernel was opened.
pub(super) fn start(
    function: sys::CUfunction,
    launch: &PlannedLaunch,
    args: &mut [Vec<u8>],
    stream: sys::CUstream,
) -> Result<(), DriverError> {
    let mut pointers: Vec<*mut c_void> = args.iter_mut().map(|bytes| bytes.as_mut_ptr().cast()).collect();
    let PlannedLaunch { grid, block, cluster: [x, y, z], shared_bytes, .. } = *launch;
    let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (grid, block);
    if [x, y, z] == [1; 3] {
        let (grid, block) = ((grid_x, grid_y, grid_z), (block_x, block_y, block_z));
        // SAFETY: there are as many arguments as the entry has parameters, each of its size, and the driver copies them
        // before it returns. What the kernel does with its pointers is what is under test.
        return unsafe { result::launch_kernel(function, grid, block, shared_bytes, stream, &mut pointers) };
    }
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z } },
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
    unsafe { sys::cuLaunchKernelEx(&raw const config, function, pointers.as_mut_ptr(), std::ptr::null_mut()).result() }
}

/// Whether the driver can't make sense of a module's code, which tells nothing of the device.
fn is_bad_code(error: DriverError) -> bool {
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
fn is_refusal(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_INVALID_VALUE
            | CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
            | CUresult::CUDA_ERROR_NOT_SUPPORTED
    )
}

impl Backend for Cuda {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        self.check_usable()?;
        let mut outcomes = self.carry_out(kernel, case, &[Plan::new(kernel, case, run)?])?;
        outcomes.pop().ok_or_else(|| BackendError::Unavailable("a run without an outcome".into()))
    }

    fn run_each(&self, kernel: &Kernel, case: &Case, runs: &[Run]) -> Result<Vec<Outcome>, BackendError> {
        self.check_usable()?;
        let Some((&first, rest)) = runs.split_first() else { return Ok(Vec::new()) };
        let mut plans = vec![Plan::new(kernel, case, first)?];
        if plans[0].size_bytes() > TOGETHER_BYTES {
            let mut outcomes = self.carry_out(kernel, case, &plans)?;
            for run in rest {
                if matches!(outcomes.last(), Some(Outcome::Fault(_))) {
                    break;
                }
                outcomes.extend(self.carry_out(kernel, case, &[plans[0].under(case, run.poison)])?);
            }
            return Ok(outcomes);
        }
        for run in rest {
            plans.push(plans[0].under(case, run.poison));
        }
        self.carry_out(kernel, case, &plans)
    }

    fn lost(&self) -> Option<String> {
        lock(&self.lost).clone()
    }
}

impl Cuda {
    /// Carries out plans of one case in a lane of their own.
    fn carry_out(&self, kernel: &Kernel, case: &Case, plans: &[Plan]) -> Result<Vec<Outcome>, BackendError> {
        self.context.bind_to_thread().map_err(|e| self.trouble(e))?;
        let mut lane = self.lane().map_err(|e| self.trouble(e))?;
        let outcomes = self.execute(kernel, case, plans, &mut lane);
        if lock(&self.lost).is_none() {
            lock(&self.idle).push(lane);
        } else {
            // The stream may still be running, and giving its memory back would wait for it.
            std::mem::forget(lane);
        }
        outcomes
    }
}

impl Lane {
    fn reserve(&mut self, size_bytes: usize) -> Result<(), DriverError> {
        self.host.resize(size_bytes)?;
        if size_bytes <= self.capacity {
            return Ok(());
        }
        self.release()?;
        let capacity = size_bytes.next_power_of_two().max(1 << 20);
        // SAFETY: the context is current (run) and the size is not 0.
        self.device = unsafe { result::malloc_sync(capacity) }?;
        self.capacity = capacity;
        Ok(())
    }

    fn release(&mut self) -> Result<(), DriverError> {
        if self.capacity == 0 {
            return Ok(());
        }
        self.capacity = 0;
        // SAFETY: `device` came from malloc_sync and is given back once; every run ends with its stream waited for.
        unsafe { result::free_sync(self.device) }
    }
}

impl Pinned {
    /// Makes it so many bytes long; what they hold is not kept.
    fn resize(&mut self, size_bytes: usize) -> Result<(), DriverError> {
        if size_bytes > self.capacity {
            self.release()?;
            let capacity = size_bytes.next_power_of_two().max(1 << 20);
            // SAFETY: the context is current (run) and the size is not 0.
            let start: *mut u8 = unsafe { result::malloc_host(capacity, 0) }?.cast();
            // SAFETY: so many bytes were just allocated; the driver leaves them uninitialised, and a slice may not be.
            unsafe { start.write_bytes(GUARD_BYTE, capacity) };
            (self.start, self.capacity) = (start, capacity);
        }
        self.len = size_bytes;
        Ok(())
    }

    fn release(&mut self) -> Result<(), DriverError> {
        if self.capacity == 0 {
            return Ok(());
        }
        (self.capacity, self.len) = (0, 0);
        // SAFETY: `start` came from malloc_host and is given back once; every run ends with its stream waited for.
        unsafe { result::free_host(self.start.cast()) }
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.capacity == 0 {
            return &[];
        }
        // SAFETY: `len` is at most the capacity, every byte of which was written when it was allocated. No copy runs while
        // a slice is alive but those that borrow the slice until their stream is waited for.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.capacity == 0 {
            return &mut [];
        }
        // SAFETY: as for `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A failure here means the context is gone, and its memory with it.
        let _ = self.release();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // SAFETY: the event was made with the lane and is given back once; nothing waits for it.
        let _ = unsafe { result::event::destroy(self.done) };
        // A failure here means the context is gone, and its memory with it.
        let _ = self.release();
    }
}

/// Where each region of each plan lies.
struct Arena {
    starts: Vec<Vec<usize>>,
    /// Where each plan's last guard zone ends.
    ends: Vec<usize>,
    size_bytes: usize,
}

impl Arena {
    fn of(plans: &[Plan]) -> Self {
        let mut end = 0;
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for plan in plans {
            let place = |region: &Region| {
                let start = (end + GUARD_BYTES).next_multiple_of(ALIGNMENT);
                end = start + region.bytes.len();
                start
            };
            starts.push(plan.regions.iter().map(place).collect());
            end += GUARD_BYTES;
            ends.push(end);
        }
        Self { starts, ends, size_bytes: end }
    }

    fn range(&self, run: usize, plan: &Plan, index: usize) -> std::ops::Range<usize> {
        let start = self.starts[run][index];
        start..start + plan.regions[index].bytes.len()
    }

    fn fill(&self, plans: &[Plan], host: &mut [u8]) {
        let mut guard_start = 0;
        for (run, plan) in plans.iter().enumerate() {
            for (index, region) in plan.regions.iter().enumerate() {
                let range = self.range(run, plan, index);
                host[guard_start..range.start].fill(GUARD_BYTE);
                guard_start = range.end;
                host[range].copy_from_slice(&region.bytes);
            }
        }
        host[guard_start..].fill(GUARD_BYTE);
    }

    /// The first guard byte or input byte of a run that is not what it was.
    fn damage(&self, run: usize, plan: &Plan, host: &[u8]) -> Option<Fault> {
        let host = &host[..self.ends[run]];
        let mut guard_start = if run == 0 { 0 } else { self.ends[run - 1] };
        for (index, region) in plan.regions.iter().enumerate() {
            let range = self.range(run, plan, index);
            if let Some(distance) = host[guard_start..range.start].iter().rev().position(|&b| b != GUARD_BYTE) {
                let detail = format!("{} bytes before {} (of {} bytes)", distance + 1, region.name, region.bytes.len());
                return Some(Fault::new(FaultKind::GuardTouched, detail));
            }
            guard_start = range.end;
            if !region.writable && host[range.clone()] != region.bytes {
                let byte = host[range].iter().zip(&region.bytes).position(|(a, b)| a != b).unwrap_or(0);
                return Some(Fault::new(
                    FaultKind::InputModified,
                    format!("{} was changed at byte {byte}", region.name),
                ));
            }
        }
        let last = host[guard_start..].iter().position(|&b| b != GUARD_BYTE)?;
        let name = plan.regions.last().map_or("", |r| &r.name);
        Some(Fault::new(FaultKind::GuardTouched, format!("{last} bytes after the end of {name}")))
    }
}

/// Plans whose regions hold the addresses of others, where `of` gives them for a run and a region.
fn with_addresses(plans: &[Plan], of: impl Fn(usize, usize) -> u64) -> Cow<'_, [Plan]> {
    if plans.iter().flat_map(|plan| &plan.regions).all(|region| region.addresses.is_empty()) {
        return Cow::Borrowed(plans);
    }
    let mut plans = plans.to_vec();
    for (run, plan) in plans.iter_mut().enumerate() {
        for region in &mut plan.regions {
            for address in std::mem::take(&mut region.addresses) {
                address.write(&mut region.bytes, |region| of(run, region));
            }
        }
    }
    Cow::Owned(plans)
}

/// Takes a lock whose data stays good even if a thread panicked while it held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
