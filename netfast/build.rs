//! Builds the eBPF object that the agent carries inside, and tells the library where it is.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[path = "../xtask/src/toolchain.rs"]
#[expect(dead_code, reason = "the other half of it is for xtask")]
mod toolchain;

fn main() -> ExitCode {
    match toolchain::find() {
        Ok(toolchain) => match build(&toolchain) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // With a failing exit code cargo shows all that the inner cargo said.
                println!("cargo::error={error}");
                ExitCode::FAILURE
            }
        },
        Err(missing) => {
            // Without one it prints this line alone.
            println!("cargo::error={missing}");
            ExitCode::SUCCESS
        }
    }
}

fn build(toolchain: &toolchain::Toolchain) -> io::Result<()> {
    let out_dir = dir_from_env("OUT_DIR")?;
    let manifest_dir = dir_from_env("CARGO_MANIFEST_DIR")?;
    let workspace =
        manifest_dir.parent().ok_or_else(|| io::Error::other("netfast is outside its workspace"))?;

    for source in [
        "Cargo.lock",
        "Cargo.toml",
        "netfast-common/Cargo.toml",
        "netfast-common/src",
        "netfast-ebpf",
        "netfast/build.rs",
        "xtask/src/toolchain.rs",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());

    let object = toolchain.build(workspace, &target_dir(&out_dir))?;
    // A copy: the shared target folder may be rebuilt by another cargo while rustc reads this one.
    for (variable, object) in [
        ("NETFAST_EBPF_OBJECT", object.clone()),
        ("NETFAST_BENCH_OBJECT", object.with_file_name("netfast-bench")),
    ] {
        let copy = out_dir.join(variable);
        fs::copy(&object, &copy)?;
        println!("cargo::rustc-env={variable}={}", copy.display());
    }
    Ok(())
}

fn dir_from_env(name: &str) -> io::Result<PathBuf> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(format!("cargo sets no {name}")))
}

/// The target folder of the eBPF build: `bpf` in the outer cargo's target folder.
///
/// So debug, release, test and clippy builds share one eBPF build. The outer cargo holds the lock of its own profile's
/// folder, never the one of this folder. Cargo marks the top of a target folder by a `CACHEDIR.TAG` if it has made it, and
/// keeps `.rustc_info.json` there in any case.
fn target_dir(out_dir: &Path) -> PathBuf {
    let is_top =
        |dir: &&Path| ["CACHEDIR.TAG", ".rustc_info.json"].iter().any(|file| dir.join(file).is_file());
    out_dir.ancestors().find(is_top).unwrap_or(out_dir).join("bpf")
}
