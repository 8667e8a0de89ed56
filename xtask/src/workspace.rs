//! Where things are in this checkout.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The folder of the workspace's `Cargo.toml`.
pub fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

/// cargo's target folder: the one that this executable was built in.
pub fn target_dir() -> PathBuf {
    let own = env::current_exe()
        .ok()
        .and_then(|exe| exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).map(Path::to_owned));
    own.unwrap_or_else(|| root().join("target"))
}

/// The target folder of the eBPF object, the same that `netfast/build.rs` uses.
pub fn bpf_target_dir() -> PathBuf {
    target_dir().join("bpf")
}

/// The folder for logs of what the verbs ran.
pub fn log_dir() -> PathBuf {
    target_dir().join("xtask")
}
