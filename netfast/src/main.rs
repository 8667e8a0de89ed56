//! The binary: `netfast agent` is the daemon, every other verb its client. See `netfast::cli`.

fn main() -> std::process::ExitCode {
    netfast::cli::main()
}
