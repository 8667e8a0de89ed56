//! The command line against an agent made of canned answers: what it asks for, what it prints, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod changes;
mod endings;
mod files;
mod mock;
mod offline;
mod views;

/// For eyes: keeps the mock up for `NETFAST_SOCKET=… netfast …`.
#[test]
#[ignore = "runs until it is killed"]
fn serve() {
    let mock = mock::Mock::new();
    println!("export NETFAST_SOCKET={}", mock.socket().display());
    std::thread::sleep(std::time::Duration::from_secs(3600));
}
