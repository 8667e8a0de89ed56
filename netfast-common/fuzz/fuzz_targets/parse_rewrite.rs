//! Parsing and rewriting of any bytes at all. `cargo +nightly fuzz run parse_rewrite` in netfast-common.
#![no_main]

#[path = "../check.rs"]
mod check;
#[path = "../../../netfast/examples/replay/checksums.rs"]
mod checksums;

libfuzzer_sys::fuzz_target!(|frame: &[u8]| {
    let _ = check::check(frame);
});
