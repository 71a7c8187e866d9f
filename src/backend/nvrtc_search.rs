//! Where NVRTC and CUDA's headers may lie on this machine.
//!
//! Only names and folders: nothing here loads a library.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library that the user asked for by `ATTNFUZZ_NVRTC`.
pub(super) fn requested() -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os(LIBRARY_VARIABLE)?);
    // A short name is no file here, and goes to the loader as it is.
    Some(path.canonicalize().unwrap_or(path))
}

/// The libraries that wheels installed, in the active virtual environment, else for `python3`.
pub(super) fn wheels() -> Vec<PathBuf> {
    site_packages().iter().flat_map(|dir| wheels_in(dir)).collect()
}

/// The builtins libraries in the folder of an NVRTC.
pub(super) fn builtins_in(dir: &Path) -> Vec<PathBuf> {
    files_starting_with(dir, BUILTINS_PREFIX)
}

/// The file behind a library that the loader found by its short name.
pub(super) fn mapped_file() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let files = maps.lines().filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])));
    let is_nvrtc = |file: &&Path| file.file_name().is_some_and(|name| is_library_name(&name.to_string_lossy()));
    files.filter(is_nvrtc).map(Path::to_owned).next()
}

/// The folder of CUDA's headers that goes with a library.
pub(super) fn include_dir(library: &Path) -> Option<PathBuf> {
    if let Some(dir) = env::var_os(INCLUDE_VARIABLE) {
        return Some(PathBuf::from(dir));
    }
    let package = library.parent().and_then(Path::parent);
    let beside = package.map(|package| package.join("include"));
    let sibling = package.and_then(Path::parent).map(|nvidia| nvidia.join("cuda_runtime").join("include"));
    let installed = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let installed = installed.map(|root| PathBuf::from(root).join("include"));
    let usual = ["/usr/local/cuda/include", "/usr/include"].into_iter().map(PathBuf::from);
    let mut candidates = sibling.into_iter().chain(beside).chain(installed).chain(usual);
    candidates.find(|dir| dir.join("cuda_fp16.h").is_file())
}

/// The site-packages folders of the active virtual environment, else those that `python3` reports.
fn site_packages() -> Vec<PathBuf> {
    if let Some(root) = env::var_os("VIRTUAL_ENV").map(PathBuf::from) {
        let mut found = vec![root.join("Lib").join("site-packages")];
        for python in files_starting_with(&root.join("lib"), "python3") {
            found.push(python.join("site-packages"));
        }
        return found;
    }
    let script = "import site; print(*site.getsitepackages(), site.getusersitepackages(), sep='\\n')";
    let Ok(output) = Command::new("python3").args(["-c", script]).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
}

/// The NVRTC libraries that wheels installed in one site-packages folder.
fn wheels_in(site_packages: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for package in WHEEL_FOLDERS {
        let dir = site_packages.join("nvidia").join(package);
        let mut libraries = files_starting_with(&dir, LIBRARY_PREFIX);
        libraries.retain(|file| file.file_name().is_some_and(|name| is_library_name(&name.to_string_lossy())));
        found.extend(libraries);
    }
    found
}

/// Whether a file is NVRTC itself, not the alternative build that some wheels carry.
fn is_library_name(name: &str) -> bool {
    name.starts_with(LIBRARY_PREFIX) && !name.contains(".alt")
}

/// The entries of `dir` whose name starts with `prefix`, in order; none if there is no such folder.
fn files_starting_with(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect();
    found.sort();
    found
}

const LIBRARY_VARIABLE: &str = "ATTNFUZZ_NVRTC";
const INCLUDE_VARIABLE: &str = "ATTNFUZZ_CUDA_INCLUDE";

/// What the system's loader may know the library as, newest first.
#[cfg(not(windows))]
pub(super) const LOADER_NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"];
/// What the system's loader may know the library as, newest first.
#[cfg(windows)]
pub(super) const LOADER_NAMES: &[&str] = &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll", "nvrtc64_112_0.dll"];

#[cfg(not(windows))]
const LIBRARY_PREFIX: &str = "libnvrtc.so";
#[cfg(windows)]
const LIBRARY_PREFIX: &str = "nvrtc64_";

#[cfg(not(windows))]
const BUILTINS_PREFIX: &str = "libnvrtc-builtins.so";
#[cfg(windows)]
const BUILTINS_PREFIX: &str = "nvrtc-builtins64_";

/// Where wheels put the library, under `nvidia/`: up to CUDA 12, and from CUDA 13 on.
#[cfg(not(windows))]
const WHEEL_FOLDERS: &[&str] = &["cuda_nvrtc/lib", "cu13/lib"];
#[cfg(windows)]
const WHEEL_FOLDERS: &[&str] = &["cuda_nvrtc/bin", "cu13/bin/x86_64"];

#[cfg(all(test, not(windows)))]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_found_and_their_builtins_passed_over() {
        let site = tempfile::tempdir().unwrap();
        let lib = site.path().join("nvidia/cu13/lib");
        fs::create_dir_all(&lib).unwrap();
        for name in ["libnvrtc.so.13", "libnvrtc.alt.so.13", "libnvrtc-builtins.so.13.0"] {
            fs::write(lib.join(name), "").unwrap();
        }
        assert_eq!(wheels_in(site.path()), [lib.join("libnvrtc.so.13")]);
        assert_eq!(builtins_in(&lib), [lib.join("libnvrtc-builtins.so.13.0")]);
        assert!(wheels_in(&lib).is_empty());
    }
}
