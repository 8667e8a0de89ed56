//! `cargo xtask demo` itself, with the released agent that `cargo xtask test` has built.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The demo, ready to run; `None` where there is no released agent.
fn demo() -> Option<Command> {
    let Some(binary) = std::env::var_os("NETFAST_BIN") else {
        println!("skipped: NETFAST_BIN names no agent (`cargo xtask test` sets it)");
        return None;
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["demo", "--binary"]).arg(binary).stdin(Stdio::null());
    Some(command)
}

/// Namespaces and folders of demos with this process id.
fn left(pid: u32) -> Vec<String> {
    let prefix = format!("nf-demo-{pid}-");
    let folders = ["/run/netns".into(), std::env::temp_dir()];
    let entries = folders.into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

#[test]
fn every_step_of_the_story_holds() {
    let Some(mut demo) = demo() else { return };
    let began = Instant::now();
    let child = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("checks held") && !text.contains('✗'), "{text}");
    assert!(text.contains("UDP echoes/s"), "{text}");
    assert_eq!(Vec::<String>::new(), left(pid));
    println!("{:.0?}", began.elapsed());
}

#[test]
fn an_interrupted_story_leaves_nothing() {
    let Some(mut demo) = demo() else { return };
    let mut child = demo.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    // Into the agent's part: its folder on the bpffs is there.
    let end = Instant::now() + Duration::from_secs(60);
    let pins = std::env::temp_dir().join(format!("nf-demo-{pid}-0/bpf/netfast"));
    while !pins.exists() {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "the agent never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(Some(130), child.wait().unwrap().code());
    assert_eq!(Vec::<String>::new(), left(pid));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&format!("nf-demo-{pid}-")), "{mounts}");
}
