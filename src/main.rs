//! The `attnfuzz` program.

fn main() -> std::process::ExitCode {
    attnfuzz::cli::run(std::env::args_os())
}
