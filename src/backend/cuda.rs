//! The CUDA backend: the kernel's PTX on a GPU, through the driver loaded at run time.
//!
//! Every tensor of a case's runs lies in one arena, between guard zones (`arena`). Arenas of several cases lie one after
//! another in a batch (`batch`): one copy to the device, the launches of all, one copy back and one event; then guards and
//! inputs are compared byte for byte. What a GPU can't see (reads out of bounds within the arena, uninitialised reads, races)
//! is the emulator's to find, or shows as a result that changes with the poison.
//!
//! A kernel that faults leaves a context that can't be trusted: the backend refuses every later run and says why. Opened with
//! [`Cuda::open`] it has one case at a time on the device, so that what happens there is that case's doing.
//! [`Cuda::open_shared`] has as many as are begun, several times as fast, and blames none for a fault; a case may even suffer
//! from what another writes out of its bounds. It is for processes whose parent asks again for each case alone.

#![expect(unsafe_code, reason = "the driver API is C")]

mod arena;
mod batch;
mod launch;
mod memory;

pub(super) use launch::{Module, Ready};

use super::plan::Plan;
use super::{Backend, BackendError, BackendKind, Begun, Code, Kernel, Run, elements_times_keys};
use crate::case::{Case, Poison};
use crate::outcome::{Fault, FaultKind, Outcome};
use arena::{ALIGNMENT, Arena};
use batch::{Batches, Limits, Seat};
use cudarc::driver::CudaContext;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUresult};
use launch::{Function, is_bad_code, is_refusal};
use memory::Lane;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Tensors of a case up to which its runs are on the device at once.
const TOGETHER_BYTES: usize = 64 << 20;
/// How long the launches of one case may take before the kernel counts as hung.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// The same for each query element times key.
const TIME_LIMIT_PER_ELEMENT: Duration = Duration::from_micros(1);
/// A case has a batch of its own.
const ALONE: Limits = Limits { seats: 1, size_bytes: 0, alignment: ALIGNMENT };
/// Small ones share.
const SHARED: Limits = Limits { seats: 8, size_bytes: 8 << 20, ..ALONE };

/// A GPU.
pub struct Cuda {
    /// Never given back: after a hang the driver would wait for the kernel, and the process's end frees everything.
    context: ManuallyDrop<Arc<CudaContext>>,
    name: String,
    capability: (i32, i32),
    modules: Mutex<HashMap<u64, Module>>,
    batches: Batches<Lane, Job, Submitted>,
    /// Held while a case is on the device; nothing where several may be.
    turn: Option<Mutex<()>>,
    /// Held while work is put into a stream. The driver has a lock of its own, at which threads would spin.
    submitting: Mutex<()>,
    /// Why the context can't be used any more.
    lost: Mutex<Option<String>>,
}

/// The launches of a case, one run after another.
type Job = Vec<Ready>;
/// Of each case of a batch, the kernel's fault or the limit that kept it from being launched, if there was one.
type Submitted = Result<Arc<[Option<Result<Fault, BackendError>>]>, DriverError>;

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

    /// The same for as many cases at a time as are begun. A kernel's fault or hang is nobody's then: every case that is
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
        let (modules, submitting, lost) = Default::default();
        let batches = Batches::new(if turn.is_some() { ALONE } else { SHARED });
        let (context, capability) = (ManuallyDrop::new(context), device.capability);
        Ok(Self { context, name, capability, modules, batches, turn, submitting, lost })
    }

    /// The entry of each launch of a plan, in order; or the fault of one that the device can't start.
    fn functions(&self, code: &Code, plan: &Plan) -> Result<Result<Vec<Function>, Fault>, BackendError> {
        let mut modules = lock(&self.modules);
        let module = match modules.entry(code.hash()) {
            Entry::Occupied(module) => module.into_mut(),
            Entry::Vacant(place) => place.insert(Module::load(code)?.map_err(|error| {
                if is_bad_code(error) { BackendError::NotLoaded(describe(error)) } else { self.trouble(error) }
            })?),
        };
        let mut functions = Vec::new();
        for launch in plan.steps.iter().flatten() {
            match module.function(code.symbol(&launch.entry), launch)? {
                Ok(function) => functions.push(function),
                Err(error) if is_refusal(error) => return Ok(Err(refusal(error))),
                Err(error) => return Err(self.trouble(error)),
            }
        }
        Ok(Ok(functions))
    }

    /// Writes an arena into a place in a batch. The inner error is the fault of a launch that the device can't start.
    fn place(&self, kernel: &Kernel, arena: Arena) -> Result<Result<Placed<'_>, Fault>, BackendError> {
        self.context.bind_to_thread().map_err(|e| self.trouble(e))?;
        let code = kernel.code_on(&arena.case, Some(self.capability))?;
        let functions = match self.functions(&code, &arena.plan)? {
            Ok(functions) => functions,
            Err(fault) => return Ok(Err(fault)),
        };
        let seat = self.batches.seat(arena.size_bytes(), || Lane::new(&self.context), Lane::reserve);
        let seat = seat.map_err(|e| self.trouble(e))?;
        let base = seat.lane().address() + seat.range().start as u64;
        // SAFETY: these bytes are the seat's alone, and no copy of them begins before it has handed in.
        arena.fill(base, unsafe { seat.lane().part(seat.range()) });
        let mut job = Vec::with_capacity(arena.runs() * functions.len());
        for run in 0..arena.runs() {
            for (launch, &function) in arena.plan.steps.iter().flatten().zip(&functions) {
                job.push(Ready::new(function, launch, |region| arena.address(base, run, region)));
            }
        }
        Ok(Ok(Placed { cuda: self, arena, seat, base, job: Some(job) }))
    }

    fn carry_out(&self, kernel: &Kernel, arena: Arena) -> Result<Vec<Outcome>, BackendError> {
        match self.place(kernel, arena)? {
            Ok(placed) => placed.outcomes(),
            Err(fault) => Ok(vec![Outcome::Fault(fault)]),
        }
    }

    /// Has a batch copied to the device and launched, and copied back where there is no time limit.
    fn submit(&self, lane: &Lane, size_bytes: usize, jobs: Vec<Option<Job>>) -> Submitted {
        let _submitting = lock(&self.submitting);
        let mut stops = vec![None; jobs.len()];
        // SAFETY: every seat has handed in, and its bytes are left alone until the lane was waited for.
        unsafe { lane.copy_to_device(size_bytes) }?;
        for (job, stop) in jobs.into_iter().zip(&mut stops) {
            for mut launch in job.into_iter().flatten() {
                match launch.start(lane.stream()) {
                    Err(error) if is_refusal(error) => *stop = Some(Ok(refusal(error))),
                    Err(error) if is_out_of_memory(error) => *stop = Some(Err(self.trouble(error))),
                    started => {
                        started?;
                        continue;
                    }
                }
                break;
            }
        }
        if self.turn.is_none() {
            // SAFETY: as for the copy to the device.
            unsafe { lane.copy_back(size_bytes) }?;
        }
        Ok(stops.into())
    }

    /// Says why the context can't be used from now on. The device may still be at work in it.
    fn lose(&self, why: String) {
        lock(&self.lost).get_or_insert(why);
        self.batches.abandon();
    }

    /// The fault of `case` that an error after its launches tells of, if no other was on the device.
    fn blame(&self, error: DriverError, case: &Case) -> Result<Fault, BackendError> {
        if self.turn.is_none() {
            let why = format!("the context was lost with several cases in it: {}", describe(error));
            self.lose(why.clone());
            return Err(BackendError::Unavailable(why));
        }
        self.lose(format!("{} after the case {case}", describe(error)));
        let kind = fault_kind(error).ok_or_else(|| self.trouble(error))?;
        Ok(Fault::new(kind, describe(error)))
    }

    /// What `runs` have in common, and the poison of each.
    fn plan(&self, kernel: &Kernel, case: &Case, runs: &[Run]) -> Result<(Arc<Plan>, Vec<Poison>), BackendError> {
        self.check_usable()?;
        let plan = Plan::new(kernel, case, runs.first().copied().unwrap_or_else(|| Run::first(case)))?;
        Ok((Arc::new(plan), runs.iter().map(|run| run.poison).collect()))
    }

    fn run_planned(
        &self,
        kernel: &Kernel,
        case: &Case,
        (plan, poisons): (Arc<Plan>, Vec<Poison>),
    ) -> Result<Vec<Outcome>, BackendError> {
        if plan.size_bytes() <= TOGETHER_BYTES {
            return self.carry_out(kernel, Arena::of(case.clone(), plan, poisons));
        }
        let mut outcomes = Vec::with_capacity(poisons.len());
        for poison in poisons {
            outcomes.extend(self.carry_out(kernel, Arena::of(case.clone(), plan.clone(), vec![poison]))?);
            if matches!(outcomes.last(), Some(Outcome::Fault(_))) {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Hands a case in with others; runs it now if it is too large for that, or must be alone.
    fn begin_planned(
        &self,
        kernel: &Kernel,
        case: &Case,
        (plan, poisons): (Arc<Plan>, Vec<Poison>),
    ) -> Result<Begun<'_>, BackendError> {
        if self.turn.is_some() || plan.size_bytes() * poisons.len() > SHARED.size_bytes {
            let outcomes = self.run_planned(kernel, case, (plan, poisons))?;
            return Ok(Box::new(|| Ok(outcomes)));
        }
        Ok(match self.place(kernel, Arena::of(case.clone(), plan, poisons))? {
            Ok(mut placed) => {
                placed.hand_in();
                Box::new(|| placed.outcomes())
            }
            Err(fault) => Box::new(|| Ok(vec![Outcome::Fault(fault)])),
        })
    }

    fn check_usable(&self) -> Result<(), BackendError> {
        match &*lock(&self.lost) {
            None => Ok(()),
            Some(why) => Err(BackendError::Unavailable(format!("{} can't be used any more: {why}", self.name))),
        }
    }

    /// A driver error that a kernel can't have caused.
    fn trouble(&self, error: DriverError) -> BackendError {
        if is_out_of_memory(error) {
            return BackendError::OutOfMemory(self.name.clone());
        }
        BackendError::Unavailable(format!("{}: {}", self.name, describe(error)))
    }
}

fn is_out_of_memory(error: DriverError) -> bool {
    error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// What a kernel did, if the driver's answer after a launch is the kernel's doing.
fn fault_kind(error: DriverError) -> Option<FaultKind> {
    Some(match error.0 {
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS => FaultKind::OutOfBounds,
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS => FaultKind::Misaligned,
        CUresult::CUDA_ERROR_ASSERT => FaultKind::Trap,
        CUresult::CUDA_ERROR_LAUNCH_TIMEOUT => FaultKind::Hang,
        CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC => FaultKind::DeviceError,
        _ => return None,
    })
}

/// A case in its place in a batch.
struct Placed<'c> {
    cuda: &'c Cuda,
    arena: Arena,
    seat: Seat<'c, Lane, Job, Submitted>,
    /// Address of the arena on the device.
    base: u64,
    /// Until it is handed in.
    job: Option<Job>,
}

impl Placed<'_> {
    fn hand_in(&mut self) {
        if let Some(job) = self.job.take() {
            self.seat.hand_in(job, |lane, size_bytes, jobs| self.cuda.submit(lane, size_bytes, jobs));
        }
    }

    /// What became of each run, up to the first that ended in a fault.
    fn outcomes(mut self) -> Result<Vec<Outcome>, BackendError> {
        let cuda = self.cuda;
        let turn = cuda.turn.as_ref().map(lock);
        cuda.check_usable()?;
        self.hand_in();
        let submitted = self.seat.submitted(|lane, size_bytes, jobs| cuda.submit(lane, size_bytes, jobs));
        let submitted = submitted.ok_or_else(|| {
            BackendError::Internal("a thread panicked while it submitted this case with others".into())
        })?;
        let ended = match (&submitted, &turn) {
            (Err(error), _) => Err(*error),
            (Ok(_), None) => self.seat.lane().wait_for_copy(),
            (Ok(_), Some(_)) => match self.wait_within(time_limit(&self.arena.case)) {
                Ok(None) => Ok(()),
                Ok(Some(hang)) => return Ok(vec![Outcome::Fault(hang)]),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = ended {
            return Ok(vec![Outcome::Fault(cuda.blame(error, &self.arena.case)?)]);
        }
        drop(turn);
        if let Some(stop) = submitted.ok().and_then(|stops| stops[self.seat.index()].clone()) {
            return Ok(vec![Outcome::Fault(stop?)]);
        }
        // SAFETY: these bytes are the seat's alone, and the copies of them have ended.
        Ok(self.arena.outcomes(self.base, unsafe { self.seat.lane().part(self.seat.range()) }))
    }

    /// Waits for a case that is alone on the device and copies it back; if it takes too long, that is its fault.
    fn wait_within(&self, limit: Duration) -> Result<Option<Fault>, DriverError> {
        let lane = self.seat.lane();
        // Before the copy back, which would itself wait, and for ever, for a kernel that hangs.
        if !lane.wait(limit)? {
            let why = format!("the kernel did not end within {:.1} s", limit.as_secs_f64());
            self.cuda.lose(format!("{why} with the case {}", self.arena.case));
            return Ok(Some(Fault::new(FaultKind::Hang, why)));
        }
        // SAFETY: the bytes are the seat's alone, whose batch this is, and are left alone until the wait ends.
        unsafe { lane.copy_back(self.seat.range().end) }?;
        lane.wait_for_copy().map(|()| None)
    }
}

/// How long the launches of a case may take.
fn time_limit(case: &Case) -> Duration {
    let elements = u32::try_from(elements_times_keys(case)).unwrap_or(u32::MAX);
    TIME_LIMIT + TIME_LIMIT_PER_ELEMENT * elements
}

/// A launch that the driver refuses.
fn refusal(error: DriverError) -> Fault {
    Fault::new(FaultKind::LaunchFailed, describe(error))
}

impl Backend for Cuda {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let mut outcomes = self.run_each(kernel, case, &[run])?;
        outcomes.pop().ok_or_else(|| BackendError::Internal("a run without an outcome".into()))
    }

    fn run_each(&self, kernel: &Kernel, case: &Case, runs: &[Run]) -> Result<Vec<Outcome>, BackendError> {
        self.run_planned(kernel, case, self.plan(kernel, case, runs)?)
    }

    fn begin(&self, kernel: &Kernel, case: &Case, runs: &[Run]) -> Begun<'_> {
        let begun = self.plan(kernel, case, runs).and_then(|planned| self.begin_planned(kernel, case, planned));
        begun.unwrap_or_else(|error| Box::new(|| Err(error)))
    }

    fn lost(&self) -> Option<String> {
        lock(&self.lost).clone()
    }
}

/// Takes a lock whose data stays good even if a thread panicked while it held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
