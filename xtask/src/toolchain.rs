//! Finds the toolchain that compiles the eBPF side, and builds the eBPF object with it.
//!
//! Two toolchains can do it, tried in this order:
//!
//! 1. **rustup**: a `nightly` with the `rust-src` component; `core` is compiled along (`-Z build-std`).
//! 2. **distribution**: `/usr/bin/rustc` with a prebuilt `core` for BPF beside it, as Debian's `rustc-web` with
//!    `libstd-rust-web-dev-bpf`. It is a stable compiler, so `RUSTC_BOOTSTRAP=1` opens the unstable features that
//!    aya-ebpf uses.
//!
//! Either needs a `bpf-linker` that was built against the same major version of LLVM as the rustc.
//!
//! Only `std` is used here, because `netfast/build.rs` includes this file as a module of its own: what
//! `cargo build` does and what `cargo xtask build-ebpf` does cannot drift apart.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The BPF target of this host's byte order: the program runs in the kernel of the machine that loads it.
pub const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// The bpf-linker release that `cargo xtask setup` installs.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// The major versions of LLVM that this bpf-linker release can be built against.
pub const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// The cargo profile of the eBPF object, declared in the workspace's `Cargo.toml`.
const PROFILE: &str = "bpf";

/// `[[bin]] name` of the crate netfast-ebpf.
const OBJECT_NAME: &str = "netfast";

/// A rustc that can compile for BPF, and the linker that fits it.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: Rustc,
    /// The `bpf-linker` executable.
    pub linker: PathBuf,
}

/// A rustc that can compile for BPF.
#[derive(Debug, Clone)]
pub struct Rustc {
    /// Where it comes from.
    pub origin: Origin,
    /// Its release, as `1.96.0`.
    pub release: String,
    /// The major version of its LLVM; the linker has to agree with it.
    pub llvm: u32,
}

/// Where a rustc comes from, which decides how it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `rustup run nightly`, with the source of `core`.
    Rustup,
    /// This executable, with a prebuilt `core`.
    Distribution(PathBuf),
}

/// What is missing for the eBPF side; its text is one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// No rustc on this machine can compile for BPF.
    Rustc,
    /// There is a rustc and no linker for its major version of LLVM.
    Linker(u32),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the eBPF toolchain is missing (")?;
        match self {
            Self::Rustc => f.write_str("no rustc that compiles for BPF")?,
            Self::Linker(llvm) => write!(f, "no bpf-linker for LLVM {llvm}")?,
        }
        f.write_str("): run `cargo xtask setup`")
    }
}

impl std::error::Error for Missing {}

/// Finds a complete toolchain.
///
/// # Errors
/// What is missing, of the toolchain that comes nearest.
pub fn find() -> Result<Toolchain, Missing> {
    let candidates = rustcs();
    for rustc in &candidates {
        if let Some(linker) = linker_for(rustc) {
            return Ok(Toolchain { rustc: rustc.clone(), linker });
        }
    }
    Err(candidates.first().map_or(Missing::Rustc, |rustc| Missing::Linker(rustc.llvm)))
}

/// Every rustc of this machine that can compile for BPF, the preferred one first.
pub fn rustcs() -> Vec<Rustc> {
    rustup_nightly().into_iter().chain(distribution(Path::new("/usr/bin/rustc"))).collect()
}

fn rustup_nightly() -> Option<Rustc> {
    let nightly_rustc = || {
        let mut command = Command::new("rustup");
        // A look must not become a download.
        command.env("RUSTUP_AUTO_INSTALL", "0").args(["run", "nightly", "rustc"]);
        command
    };
    let sysroot = stdout_of(nightly_rustc().args(["--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !core.is_file() {
        return None;
    }
    Rustc::from_version(Origin::Rustup, &stdout_of(nightly_rustc().arg("-vV"))?)
}

fn distribution(rustc: &Path) -> Option<Rustc> {
    let libdir = stdout_of(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
    let has_core = fs::read_dir(libdir.trim()).ok()?.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    });
    if !has_core {
        return None;
    }
    Rustc::from_version(Origin::Distribution(rustc.into()), &stdout_of(Command::new(rustc).arg("-vV"))?)
}

impl Rustc {
    fn from_version(origin: Origin, verbose: &str) -> Option<Self> {
        let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
        Some(Self { origin, release: field("release:")?.into(), llvm })
    }
}

impl fmt::Display for Rustc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Rustup => f.write_str("rustup's nightly")?,
            Origin::Distribution(path) => write!(f, "{}", path.display())?,
        }
        write!(f, " {} (LLVM {})", self.release, self.llvm)
    }
}

/// The folder for tools that `cargo xtask setup` builds: `${XDG_CACHE_HOME:-$HOME/.cache}/netfast/tools`.
pub fn tools_dir() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .unwrap_or_else(|| set("HOME").unwrap_or_else(|| PathBuf::from("/root")).join(".cache"))
        .join("netfast/tools")
}

/// The bpf-linker that fits `rustc`: the one in the tools folder, if it was built for this LLVM.
///
/// For rustup's nightly one on `PATH` will do as well; it does not tell its LLVM, so it is taken at its user's word.
pub fn linker_for(rustc: &Rustc) -> Option<PathBuf> {
    let tools = tools_dir();
    let own = tools.join("bin/bpf-linker");
    if own.is_file() && installed_linker_fits(&tools, rustc.llvm) {
        return Some(own);
    }
    if rustc.origin != Origin::Rustup {
        return None;
    }
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join("bpf-linker")).find(|file| file.is_file())
}

/// Reads version and features of the installed bpf-linker from cargo's own record of what it installed there.
fn installed_linker_fits(tools: &Path, llvm: u32) -> bool {
    let Some(features) = installed_features(tools, "bpf-linker", BPF_LINKER_VERSION) else { return false };
    features.split(',').any(|feature| feature.trim_matches('"') == linker_feature(llvm))
}

/// The features, a comma-separated list of quoted names, with which `cargo install --root ROOT` installed a package;
/// `None` if it did not install this version.
pub fn installed_features(root: &Path, package: &str, version: &str) -> Option<String> {
    let record = fs::read_to_string(root.join(".crates2.json")).ok()?;
    let (_, entry) = record.split_once(&format!("\"{package} {version} "))?;
    let (_, features) = entry.split_once("\"features\":[")?;
    Some(features.split(']').next()?.to_owned())
}

/// The feature of bpf-linker that links this major version of LLVM.
pub fn linker_feature(llvm: u32) -> String {
    format!("llvm-{llvm}")
}

impl Toolchain {
    /// Builds netfast-ebpf into `target_dir` and returns the path of the object file; that of the benchmark's programs,
    /// `netfast-bench`, stands beside it.
    ///
    /// `workspace` is the folder of the workspace's `Cargo.toml`. `target_dir` may be shared by several builds, cargo
    /// locks it, but must not be the one of a cargo that waits for this build.
    ///
    /// # Errors
    /// When cargo cannot be run or fails; what it had to say is on standard error by then.
    pub fn build(&self, workspace: &Path, target_dir: &Path) -> io::Result<PathBuf> {
        let mut command = self.cargo("build", workspace, target_dir);
        let status = command.status()?;
        if !status.success() {
            return Err(io::Error::other(format!(
                "building netfast-ebpf with {} failed: {status}",
                self.rustc
            )));
        }
        Ok(target_dir.join(TARGET).join(PROFILE).join(OBJECT_NAME))
    }

    /// `cargo SUBCOMMAND` for the package netfast-ebpf and the BPF target, set up for this toolchain.
    pub fn cargo(&self, subcommand: &str, workspace: &Path, target_dir: &Path) -> Command {
        let mut command = match &self.rustc.origin {
            Origin::Rustup => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Origin::Distribution(_) => Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
        };
        self.arguments(&mut command, subcommand, workspace, target_dir);
        command
    }

    /// Clippy for netfast-ebpf and the BPF target; for a distribution's rustc it is the one beside that.
    pub fn clippy(&self, workspace: &Path, target_dir: &Path) -> Command {
        let Origin::Distribution(rustc) = &self.rustc.origin else {
            return self.cargo("clippy", workspace, target_dir);
        };
        let mut command = Command::new(rustc.with_file_name("cargo-clippy"));
        self.arguments(&mut command, "clippy", workspace, target_dir);
        // It calls this cargo; the one of the same version need not be installed.
        command.env("CARGO", env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
    }

    fn arguments(&self, command: &mut Command, subcommand: &str, workspace: &Path, target_dir: &Path) {
        forget_outer_cargo(command);
        command
            .current_dir(workspace)
            .arg(subcommand)
            .args(["--package", "netfast-ebpf", "--bins", "--profile", PROFILE, "--target", TARGET])
            .arg("--target-dir")
            .arg(target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags(workspace).join("\x1f"));
        match &self.rustc.origin {
            Origin::Rustup => command.args(["-Z", "build-std=core"]),
            Origin::Distribution(rustc) => command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1"),
        };
    }

    fn rustflags(&self, workspace: &Path) -> Vec<String> {
        vec![
            format!("-Clinker={}", self.linker.display()),
            // BTF is made from the debug information: the verifier's log, `bpftool` and BTF maps need it.
            "-Cdebuginfo=2".into(),
            "-Clink-arg=--btf".into(),
            // Ends of ways that look alike are not joined: each jump to a joint one is an instruction and a break in the hot path's code.
            "-Clink-arg=--llvm-args=--enable-tail-merge=0".into(),
            // 32-bit arithmetic and its jumps (Linux 5.1): less code, and a verifier that knows more of it.
            "-Ctarget-cpu=v3".into(),
            // The same source gives the same object wherever it is checked out.
            format!("--remap-path-prefix={}=netfast", workspace.display()),
        ]
    }
}

/// Takes away what an outer cargo (of a build script, of `cargo xtask`) leaves in the environment.
///
/// Its RUSTFLAGS are the host's; its wrapper may be clippy-driver; its RUSTC is another one. What a user sets to reach
/// a registry or to colour the output stays.
///
/// RUSTUP_TOOLCHAIN has to stay: without it rustup obeys the `rust-toolchain.toml` of whatever crate is being compiled,
/// and some ask for components, for which rustup would replace the user's toolchain by the newest. For the same reason
/// it is told to install nothing by itself.
pub fn forget_outer_cargo(command: &mut Command) {
    command.env("RUSTUP_AUTO_INSTALL", "0");
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const DROPPED: [&str; 19] = [
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_LINKER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
        "DEBUG",
        "HOST",
        "MAKEFLAGS",
        "MFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "TARGET",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargos = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if cargos || DROPPED.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
}

/// Standard output of a command that succeeds; `None` if it cannot be run or fails.
fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
