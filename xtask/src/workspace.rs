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

/// cargo's target folder: the one that this executable was built in. (cargo puts no `CACHEDIR.TAG` into a folder that was there
/// before it, such as a volume.)
pub fn target_dir() -> PathBuf {
    let is_top =
        |dir: &&Path| ["CACHEDIR.TAG", ".rustc_info.json"].iter().any(|file| dir.join(file).is_file());
    let own = env::current_exe().ok().and_then(|exe| exe.ancestors().find(is_top).map(Path::to_owned));
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
