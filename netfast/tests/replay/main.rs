//! The replay tool: its form, its judgement, and captures that nobody here made.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../examples/replay/capture.rs"]
mod capture;
#[path = "../../examples/replay/checksums.rs"]
mod checksums;
mod corpus;
mod form;
#[path = "../../examples/replay/judge.rs"]
mod judge;
mod judgement;
mod reading;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// Runs the tool.
fn replay<'a>(args: impl IntoIterator<Item = &'a str>) -> Output {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    let tool = TOOL.get_or_init(|| {
        // target/PROFILE/deps/replay-HASH -> target/PROFILE/examples/replay
        let profile = std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
        let tool = profile.join("examples/replay");
        if !tool.exists() {
            // `cargo test --test replay` builds no examples.
            let mut cargo = Command::new(env!("CARGO"));
            let built =
                cargo.args(["build", "--quiet", "--package", "netfast", "--example", "replay"]).status();
            assert!(built.unwrap().success());
        }
        tool
    });
    Command::new(tool).args(args).output().unwrap()
}

/// Runs the tool with `--json` and expects an exit code; returns the report.
#[track_caller]
fn report<'a>(args: impl IntoIterator<Item = &'a str>, code: i32) -> serde_json::Value {
    let output = replay(args.into_iter().chain(["--json"]));
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(Some(code), output.status.code(), "{error}{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A file in a temporary folder.
fn file(folder: &tempfile::TempDir, name: &str, contents: &[u8]) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A DNS query from 198.51.100.1 to 192.0.2.10, as etherparse builds it.
fn query(payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([198, 51, 100, 1], [192, 0, 2, 10], 64)
        .udp(40_000, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}
