//! Frames at random through the parser and the rewriting, against etherparse; the same frames in every run.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use mutate::Random;
use netfast_common::Reason;

#[path = "../fuzz/check.rs"]
mod check;
#[path = "../../netfast/examples/replay/checksums.rs"]
mod checksums;
#[path = "../fuzz/mutate.rs"]
mod mutate;

/// Checks frames made from one seed and tells how many of them were read, and why the others were not.
fn batch(seed: u64, count: usize) -> (usize, BTreeMap<Reason, usize>) {
    let mut random = Random(seed);
    let (mut read, mut refused) = (0, BTreeMap::new());
    for _ in 0..count {
        let mut frame = mutate::good(&mut random);
        mutate::spoil(&mut random, &mut frame);
        match catch_unwind(AssertUnwindSafe(|| check::check(&frame))) {
            Ok(Ok(packet)) => {
                read += 1;
                if let Some(reason) = packet.unusual() {
                    *refused.entry(reason).or_default() += 1;
                }
            }
            Ok(Err(reason)) => *refused.entry(reason).or_default() += 1,
            Err(panic) => {
                // What a regression test needs.
                eprintln!("frame: {frame:02x?}");
                resume_unwind(panic);
            }
        }
    }
    (read, refused)
}

#[test]
fn no_frame_breaks_anything() {
    let (read, refused) = batch(0x6e65_7466_6173_7401, 1_000_000);
    assert!(read > 300_000, "{read} of a million could be read");
    for reason in [
        Reason::NotIp,
        Reason::Malformed,
        Reason::DeepVlan,
        Reason::SourceRoute,
        Reason::BadChecksum,
        Reason::Martian,
        Reason::TcpFlags,
        Reason::IpOptions,
        Reason::Ipv6Extensions,
        Reason::TinyFragment,
    ] {
        assert!(refused.contains_key(&reason), "no frame was {}: {refused:?}", reason.label());
    }
}

/// `cargo xtask fuzz` runs this one, for as many seconds as `NETFAST_FUZZ_SECONDS` says; the seed is the time's.
#[test]
#[ignore = "runs as long as it is told to: cargo xtask fuzz"]
fn no_frame_breaks_anything_for_longer() {
    let seconds = std::env::var("NETFAST_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let (start, end) = (since_epoch.as_nanos() as u64 | 1, Duration::from_secs(seconds));
    let (began, mut frames, mut seed, mut reads) = (Instant::now(), 0, start, 0);
    println!("first seed {start:#x}");
    while began.elapsed() < end {
        let (read, _) = batch(seed, 100_000);
        (frames, reads, seed) = (frames + 100_000, reads + read, seed.wrapping_add(2));
    }
    println!("{frames} frames, {reads} of them with a five-tuple or a protocol, no fault");
}
