//! The eBPF toolchain: a rustc for BPF and the bpf-linker that fits it.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use super::apt;
use crate::{
    commands,
    toolchain::{self, BPF_LINKER_LLVM, BPF_LINKER_VERSION, Origin, Rustc},
};

/// Debian's rustc and its prebuilt `core` for BPF. It sits beside a rustup in a home folder.
const RUSTC_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

const RUSTUP_WAY: &str =
    "`rustup toolchain install nightly --component rust-src --component clippy`, then this again";

/// What [`install`] would do, in one line.
pub fn plan() -> String {
    let linker = |llvm: &str| {
        format!(
            "bpf-linker {BPF_LINKER_VERSION} by cargo install, with packages llvm-{llvm}-dev libpolly-{llvm}-dev g++"
        )
    };
    match choose() {
        Some(rustc) => format!("{} is there; {}", rustc, linker(&rustc.llvm.to_string())),
        None => {
            format!("packages {}; {} (NN: the LLVM of that rustc)", RUSTC_PACKAGES.join(" "), linker("NN"))
        }
    }
}

/// The best rustc of this machine for which a linker can be had.
fn choose() -> Option<Rustc> {
    toolchain::rustcs().into_iter().find(|rustc| {
        BPF_LINKER_LLVM.contains(&rustc.llvm)
            && (llvm_config(rustc.llvm).is_file() || apt::can_be_had(&format!("llvm-{}-dev", rustc.llvm)))
    })
}

/// Installs what is missing of the toolchain.
pub fn install() -> Result<()> {
    let rustc = match choose() {
        Some(rustc) => rustc,
        None => {
            install_rustc()?;
            toolchain::rustcs()
                .into_iter()
                .find(|rustc| rustc.origin != Origin::Rustup)
                .with_context(|| format!("{} cannot compile for BPF", RUSTC_PACKAGES.join(" ")))?
        }
    };
    if toolchain::linker_for(&rustc).is_none() {
        install_linker(rustc.llvm)?;
    }
    toolchain::find()?;
    Ok(())
}

fn install_rustc() -> Result<()> {
    if let Some(rustc) = toolchain::rustcs().first() {
        eprintln!("setup: no bpf-linker can be built for {rustc}: taking the distribution's rustc instead");
    }
    apt::install(&RUSTC_PACKAGES).with_context(|| {
        format!(
            "no rustc for BPF: Debian's rustc-web cannot be installed here (it conflicts with Debian's packages rustc and \
             rustup, and other systems lack it); the other way: {RUSTUP_WAY}"
        )
    })
}

fn llvm_config(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-config"))
}

/// bpf-linker links the LLVM of its build dynamically, so it is built here for the LLVM that the rustc has.
fn install_linker(llvm: u32) -> Result<()> {
    if !BPF_LINKER_LLVM.contains(&llvm) {
        bail!(
            "bpf-linker {BPF_LINKER_VERSION} knows LLVM {} to {}, the rustc has {llvm}",
            BPF_LINKER_LLVM.start(),
            BPF_LINKER_LLVM.end()
        );
    }
    if !llvm_config(llvm).is_file() || commands::find("g++").is_none() {
        let [dev, polly] = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        apt::install(&[&dev, &polly, "g++"])?;
    }
    eprintln!(
        "setup: building bpf-linker {BPF_LINKER_VERSION} for LLVM {llvm} (about a minute on two cores)"
    );
    let mut command = cargo_install("bpf-linker", BPF_LINKER_VERSION);
    command
        .args(["--force", "--no-default-features", "--features", &toolchain::linker_feature(llvm)])
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    commands::quiet("bpf-linker", &mut command)
}

/// `cargo install` into the tools folder.
pub fn cargo_install(package: &str, version: &str) -> Command {
    let mut command = commands::cargo();
    toolchain::forget_outer_cargo(&mut command);
    command
        .args(["install", package, "--version", version, "--locked", "--root"])
        .arg(toolchain::tools_dir());
    command
}
