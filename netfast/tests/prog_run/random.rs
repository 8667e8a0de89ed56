//! Frames at random through the real programs: what the parser of the host says is what the programs do, and nothing that
//! the replay tool holds frames to is ever broken.

use std::collections::BTreeMap;

use netfast_common::{
    Reason, Verdict,
    abi::PolicyClass,
    wire::{self, Fragment},
};

use crate::{
    bed::{self, Bed, CLIENT_SIDE, TARGET_SIDE},
    forward::forward,
    judge::judge,
    mutate::{self, Random},
};

/// Frames a run.
const FRAMES: usize = 50_000;

#[test]
fn the_programs_read_as_the_host_does() {
    bed::run(|bed| without_rules(bed, 0x6e65_7466_6173_7403));
}

#[test]
fn rules_for_everything() {
    bed::run(|bed| with_rules(bed, 0x6e65_7466_6173_7405));
}

/// `cargo xtask fuzz --programs` runs this one, for as many seconds as `NETFAST_FUZZ_SECONDS` says; the seed is the time's.
#[test]
#[ignore = "runs as long as it is told to: cargo xtask fuzz --programs"]
fn the_programs_for_longer() {
    bed::run(|bed| {
        let seconds =
            std::env::var("NETFAST_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
        let (began, end) = (std::time::Instant::now(), std::time::Duration::from_secs(seconds));
        let mut seed = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64 | 1;
        let mut frames = 0;
        while began.elapsed() < end {
            println!("{frames} frames; seed {seed:#x}");
            bed.sandbox.reset().unwrap();
            without_rules(bed, seed);
            with_rules(bed, seed.wrapping_add(2));
            (frames, seed) = (frames + 2 * FRAMES, seed.wrapping_add(4));
        }
        println!("{frames} frames, no fault");
    });
}

/// What a frame without rules ends in, by the parser as the host runs it.
fn expected(frame: &[u8]) -> Reason {
    match wire::parse_slice(frame) {
        Err(reason) => reason,
        Ok(packet) if matches!(packet.unusual(), Some(reason) if reason != Reason::IpOptions) => {
            packet.unusual().unwrap()
        }
        Ok(packet) if packet.destination_mac != CLIENT_SIDE.1 => Reason::NotOurMac,
        Ok(packet) if packet.fragment == Fragment::Later => Reason::Fragment,
        Ok(packet) if !packet.has_ports() => Reason::NotTcpUdp,
        Ok(_) => Reason::NoService,
    }
}

fn without_rules(bed: &mut Bed, seed: u64) {
    let mut random = Random(seed);
    let mut seen: BTreeMap<Reason, u32> = BTreeMap::new();
    for number in 0..FRAMES {
        let mut frame = mutate::good(&mut random);
        mutate::spoil(&mut random, &mut frame);
        if frame.len() < 14 {
            continue;
        }
        let ran = bed.sandbox.run(CLIENT_SIDE.0, &frame).unwrap();
        assert_eq!(None, judge(&frame, &ran), "frame {number}: {frame:02x?}");
        // The hot program does not add up headers: what a cached verdict hands to the kernel, the kernel does.
        let cached = expected(&frame) == Reason::BadChecksum && ran.reason() == Some(Reason::NoService);
        assert!(
            cached || Some(expected(&frame)) == ran.reason(),
            "{:?}, not {:?}; frame {number}: {frame:02x?}",
            ran.reason(),
            expected(&frame)
        );
        *seen.entry(expected(&frame)).or_default() += 1;
    }
    let classes = PolicyClass::TABLE.map(|(_, label, ..)| label);
    for reason in Reason::ALL.iter().filter(|reason| classes.contains(&reason.label())) {
        // TCP without a flow needs a forward; options are accepted.
        let elsewhere = matches!(reason, Reason::TcpNoFlow | Reason::IpOptions);
        assert!(elsewhere || seen.contains_key(reason), "no frame was {}", reason.label());
    }
}

fn with_rules(bed: &mut Bed, seed: u64) {
    let mut rules = String::new();
    for (index, (service, target)) in
        [("192.0.2.10", "10.0.0.11"), ("192.0.2.11", "10.0.0.12")].into_iter().enumerate()
    {
        let mode = ["nat", "dnat"][index];
        let (service6, target6) =
            (format!("[2001:db8::{:x}]", 10 + index), format!("[fd00::{}]", 11 + index));
        for (protocol, port) in [("tcp", "80"), ("tcp", "443"), ("udp", "53"), ("udp", "27000-27009")] {
            let name = format!("{protocol}{port}-{index}");
            rules +=
                &forward(&name, protocol, &format!("{service}:{port}"), mode, &format!("{target}:{port}"));
            rules += &forward(
                &format!("{name}-6"),
                protocol,
                &format!("{service6}:{port}"),
                mode,
                &format!("{target6}:{port}"),
            );
        }
    }
    rules += "[[echo]]\nlisten = \"192.0.2.12:443\"\nallow = [\"198.51.100.0/24\"]\nrate = 1000000\n\
              [[echo]]\nlisten = \"[2001:db8::c]:443\"\nallow = [\"2001:db8:1::/48\"]\nrate = 1000000\n\
              [[filter]]\naction = \"drop\"\nsrc = \"198.51.100.6/32\"\n\
              [[filter]]\naction = \"drop\"\nproto = \"tcp\"\nsport = 7\n";
    let mut random = Random(seed);
    let mut seen: BTreeMap<(Verdict, Reason), u32> = BTreeMap::new();
    for number in 0..FRAMES {
        if number % 4000 == 0 {
            bed.rules(&rules);
        }
        let mut frame = mutate::good(&mut random);
        if number % 3 == 0 {
            mutate::spoil(&mut random, &mut frame);
        }
        if frame.len() < 14 {
            continue;
        }
        let ran = bed.sandbox.run(CLIENT_SIDE.0, &frame).unwrap();
        assert_eq!(None, judge(&frame, &ran), "frame {number}: {frame:02x?}");
        seen.entry(ran.counted[0]).and_modify(|count| *count += 1).or_insert(1);
        // Targets answer, and some of their answers are spoilt on the way.
        if ran.verdict() == Some(Verdict::Redirect) && number % 2 == 0 {
            let Some(mut answer) = answer(&ran.frame) else { continue };
            if number % 8 == 0 {
                mutate::spoil(&mut random, &mut answer);
            }
            if answer.len() < 14 {
                continue;
            }
            let ran = bed.sandbox.run(TARGET_SIDE.0, &answer).unwrap();
            assert_eq!(None, judge(&answer, &ran), "answer to frame {number}: {answer:02x?}");
            seen.entry(ran.counted[0]).and_modify(|count| *count += 1).or_insert(1);
        }
    }
    for (verdict, reason, least) in [
        (Verdict::Redirect, Reason::Forwarded, 1000),
        (Verdict::Redirect, Reason::Reply, 500),
        (Verdict::Transmit, Reason::Echoed, 100),
        (Verdict::Drop, Reason::EchoLoop, 10),
        (Verdict::Drop, Reason::FilterDrop, 100),
        (Verdict::Drop, Reason::TtlExpired, 10),
        (Verdict::Pass, Reason::TcpNoFlow, 100),
    ] {
        let count = seen.get(&(verdict, reason)).copied().unwrap_or_default();
        assert!(count >= least, "{count} times {} {}: {seen:?}", verdict.label(), reason.label());
    }
}

/// A frame back: addresses and ports swapped, which leaves the checksums right.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = wire::parse_slice(frame).ok()?;
    let mut answer = frame.to_vec();
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let (at, length) = if packet.version == 4 { (l3 + 12, 4) } else { (l3 + 8, 16) };
    for (at, length) in [(0, 6), (at, length), (l4, 2)] {
        let (first, second) = answer[at..at + 2 * length].split_at_mut(length);
        first.swap_with_slice(second);
    }
    Some(answer)
}
