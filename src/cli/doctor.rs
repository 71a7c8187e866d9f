//! `attnfuzz doctor`.

use super::{Exit, Failure};
use crate::backend::{cache_folder, cuda, nvrtc::Nvrtc};
use crate::worker::Sanitizer;

pub(super) fn run() -> Result<Exit, Failure> {
    println!("emulator   always there: kernels run from their PTX, on {} processors", processors());
    match cuda::driver_version() {
        Ok((major, minor)) => println!("driver     CUDA {major}.{minor}"),
        Err(why) => println!(
            "driver     missing: {why}\n           without it kernels run in the emulator only (--backend emulator)"
        ),
    }
    match cuda::devices() {
        Ok(devices) if devices.is_empty() => {
            println!("devices    none: kernels run in the emulator only")
        }
        Ok(devices) => {
            for device in devices {
                let (major, minor) = device.capability;
                let memory = device.memory_bytes >> 30;
                println!(
                    "device {}   {}, compute capability {major}.{minor}, {memory} GiB",
                    device.ordinal, device.name
                );
            }
        }
        Err(_) => println!("devices    unknown: there is no driver to ask"),
    }
    match Sanitizer::find() {
        Ok(program) => println!("sanitizer  {}", program.display()),
        Err(why) => println!("sanitizer  missing: {why}\n           without it --sanitize looks at no case"),
    }
    match Nvrtc::find() {
        Ok(nvrtc) => {
            let (major, minor) = nvrtc.version();
            println!("NVRTC      {major}.{minor}, {}", nvrtc.path().display());
            match nvrtc.include_dir() {
                Some(folder) => println!("headers    {}", folder.display()),
                None => println!("headers    missing: sources that include cuda_fp16.h can't be compiled"),
            }
        }
        Err(why) => println!(
            "NVRTC      missing: {why}\n           without it `attnfuzz compile` can't make PTX; checked-in PTX still runs"
        ),
    }
    match cache_folder() {
        Some(folder) => println!("cache      {}: PTX that was compiled for cases", folder.display()),
        None => println!("cache      none: what is compiled for cases is compiled again each time"),
    }
    Ok(Exit::Clean)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
