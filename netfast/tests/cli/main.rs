//! The command line against an agent made of canned answers: what it asks for, what it prints, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod mock;

use mock::{Mock, Ran, netfast};

/// For eyes: keeps the mock up for `NETFAST_SOCKET=… netfast …`.
#[test]
#[ignore = "runs until it is killed"]
fn serve() {
    let mock = Mock::new();
    println!("export NETFAST_SOCKET={}", mock.socket().display());
    std::thread::sleep(std::time::Duration::from_secs(3600));
}

#[test]
fn smoke() {
    assert!(Mock::new().run("forward list").good().contains("web"));
    let _ = Ran::of(netfast().arg("--version")).good();
}
