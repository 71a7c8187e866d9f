//! A stream with memory of its own on the device and on the host.

#![expect(unsafe_code, reason = "the driver API is C")]

use super::arena::GUARD_BYTE;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A stream and the memory it works in.
pub(super) struct Lane {
    stream: Arc<CudaStream>,
    /// Told when everything in the stream is done; waiting for it does not keep a processor busy.
    done: sys::CUevent,
    device: sys::CUdeviceptr,
    /// As large as `device`.
    host: Pinned,
}

// SAFETY: the stream, the event and the memory belong to this value alone, and the driver lets any thread use them.
unsafe impl Send for Lane {}
// SAFETY: what a shared reference reaches in the host's memory is for the callers of `part` to keep apart.
unsafe impl Sync for Lane {}

impl Lane {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        Ok(Self {
            stream: context.new_stream()?,
            done: result::event::create(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)?,
            device: 0,
            host: Pinned { start: std::ptr::null_mut(), capacity: 0 },
        })
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    /// Address of its memory on the device.
    pub(super) fn address(&self) -> u64 {
        self.device
    }

    /// Waits for what is under way in it, and sees to memory for so many bytes on both sides; what is in it is not kept.
    pub(super) fn reserve(&mut self, size_bytes: usize) -> Result<(), DriverError> {
        self.wait_for_copy()?;
        if size_bytes <= self.host.capacity {
            return Ok(());
        }
        self.release()?;
        let capacity = size_bytes.next_power_of_two().max(1 << 20);
        let host = Pinned::new(capacity)?;
        // SAFETY: the context is current, as for everything a caller does here, and the size is not 0.
        self.device = unsafe { result::malloc_sync(capacity) }?;
        self.host = host;
        Ok(())
    }

    fn release(&mut self) -> Result<(), DriverError> {
        if self.host.capacity == 0 {
            return Ok(());
        }
        self.host = Pinned { start: std::ptr::null_mut(), capacity: 0 };
        // SAFETY: `device` came from malloc_sync and is given back once; every use ends with the stream waited for.
        unsafe { result::free_sync(self.device) }
    }

    /// Bytes of the host's memory.
    ///
    /// # Safety
    /// Nobody else, the device's copies among them, may use these bytes for as long as the slice lives.
    #[expect(clippy::mut_from_ref, reason = "callers keep their parts apart")]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [u8] {
        if range.is_empty() {
            return &mut [];
        }
        assert!(range.end <= self.host.capacity, "bytes {range:?} of {}", self.host.capacity);
        // SAFETY: the range lies within the allocation, every byte of which was written when it was made; the rest is the
        // caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.host.start.add(range.start), range.len()) }
    }

    /// Has the first bytes copied to the device.
    ///
    /// # Safety
    /// Nobody may use those bytes until the lane was waited for.
    pub(super) unsafe fn copy_to_device(&self, size_bytes: usize) -> Result<(), DriverError> {
        // SAFETY: both allocations have as many bytes (part, reserve), and are left alone meanwhile.
        unsafe { result::memcpy_htod_async(self.device, self.part(0..size_bytes), self.stream()) }
    }

    /// Has the first bytes copied back, and the lane's event told, once everything before is done.
    ///
    /// # Safety
    /// As for [`Self::copy_to_device`].
    pub(super) unsafe fn copy_back(&self, size_bytes: usize) -> Result<(), DriverError> {
        // SAFETY: as for the copy to the device; the event is of the lane's context.
        unsafe {
            result::memcpy_dtoh_async(self.part(0..size_bytes), self.device, self.stream())?;
            result::event::record(self.done, self.stream())
        }
    }

    /// Waits for the last [`Self::copy_back`], if there was one.
    pub(super) fn wait_for_copy(&self) -> Result<(), DriverError> {
        // SAFETY: the event is of the lane's context.
        unsafe { result::event::synchronize(self.done) }
    }

    /// Waits for everything in the stream; false when the time is up.
    pub(super) fn wait(&self, limit: Duration) -> Result<bool, DriverError> {
        let start = Instant::now();
        loop {
            // SAFETY: the stream belongs to the lane.
            match unsafe { sys::cuStreamQuery(self.stream()) } {
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
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Cases may have been given up before anyone waited for them.
        let _ = self.wait_for_copy();
        // SAFETY: the event was made with the lane and is given back once; nothing waits for it.
        let _ = unsafe { result::event::destroy(self.done) };
        // A failure here means the context is gone, and its memory with it.
        let _ = self.release();
    }
}

/// Page-locked host memory, which the device copies from and to by itself.
struct Pinned {
    /// Null while the capacity is 0.
    start: *mut u8,
    capacity: usize,
}

impl Pinned {
    fn new(capacity: usize) -> Result<Self, DriverError> {
        // SAFETY: the context is current and the size is not 0.
        let start: *mut u8 = unsafe { result::malloc_host(capacity, 0) }?.cast();
        // SAFETY: so many bytes were just allocated; the driver leaves them uninitialised, and a slice may not be.
        unsafe { start.write_bytes(GUARD_BYTE, capacity) };
        Ok(Self { start, capacity })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: `start` came from malloc_host and is given back once; every use ends with its stream waited for. A
            // failure means the context is gone, and its memory with it.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}
