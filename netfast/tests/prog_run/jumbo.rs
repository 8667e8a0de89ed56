//! Frames in more than one buffer (XDP multi-buffer): jumbo frames, split headers.

use netfast::datapath::{Direction, sandbox::FIRST_BUFFER};
use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::NextHop,
    wire::{ACK, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, scenarios},
    forward::forward,
    frames::{Frame, tcp, udp},
};

scenarios! {
    jumbo_frames_are_forwarded_and_counted_whole, jumbo_frames_that_do_not_fit, jumbo_echo,
    headers_are_read_from_the_first_buffer, lengths_beyond_the_last_buffer,
}

/// Payload of a frame that needs three buffers.
const JUMBO: [u8; 8900] = {
    let mut payload = [0; 8900];
    let mut at = 0;
    while at < payload.len() {
        payload[at] = (at * 7 / 3) as u8;
        at += 1;
    }
    payload
};

/// The ways to the targets take frames of 9000 bytes.
fn wide(bed: &mut Bed, targets: &[&str]) {
    for target in targets {
        let way = bed.way(target);
        bed.sandbox.set_way(target.parse().unwrap(), Some(NextHop { mtu: 9000, ..way }));
    }
}

fn jumbo_frames_are_forwarded_and_counted_whole(bed: &mut Bed) {
    wide(bed, &["10.0.0.11", "fd00::11"]);
    bed.rules(
        &[
            forward("web", "tcp", "192.0.2.10:80", "nat", "10.0.0.11:8080"),
            forward("web6", "tcp", "[2001:db8::10]:80", "nat", "[fd00::11]:8080"),
            forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.11:5353"),
            forward("dns6", "udp", "[2001:db8::10]:53", "nat", "[fd00::11]:5353"),
        ]
        .concat(),
    );
    let mut bytes = 0;
    for (source, service, target) in [
        ("198.51.100.1:4001", "192.0.2.10:80", "10.0.0.11:8080"),
        ("[2001:db8:1::1]:4001", "[2001:db8::10]:80", "[fd00::11]:8080"),
    ] {
        let (data, sent) = bed.connect(source, service, target);
        for _ in 0..2 {
            let out = bed.nat("jumbo data", &data.payload(&JUMBO), target);
            assert!(out.bytes().len() > 2 * 4096);
            bed.replied("jumbo data back", &data, &sent.answer().flags(ACK).payload(&JUMBO));
            bed.nat("a small one between", &data, target);
        }
        bytes += 2 * data.payload(&JUMBO).bytes().len() as u64;
    }
    for (source, service, target) in [
        ("198.51.100.1:4001", "192.0.2.10:53", "10.0.0.11:5353"),
        ("[2001:db8:1::1]:4001", "[2001:db8::10]:53", "[fd00::11]:5353"),
    ] {
        let query = udp(source, service).payload(&JUMBO);
        for _ in 0..2 {
            let sent = bed.nat("jumbo datagram", &query, target);
            bed.replied("jumbo answer", &query, &sent.answer().payload(&JUMBO));
        }
        bytes += 2 * query.bytes().len() as u64;
    }
    let indexes: Vec<u16> = bed.sandbox.ids().forwards().iter().map(|f| f.targets[0].index).collect();
    let counted =
        |direction| indexes.iter().map(|i| bed.sandbox.counters().target(*i, direction).bytes).sum::<u64>();
    // Handshakes and the small ones between come on top: less than 100 bytes each.
    for direction in [Direction::ToTarget, Direction::ToClient] {
        assert!((bytes..bytes + 1000).contains(&counted(direction)), "{bytes} {}", counted(direction));
    }
}

fn jumbo_frames_that_do_not_fit(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.11:5353"));
    let query = udp("198.51.100.1:4001", "192.0.2.10:53");
    bed.nat("small", &query, "10.0.0.11:5353");
    for length in [1473, FIRST_BUFFER - 42, FIRST_BUFFER - 41, 9000, 60_000] {
        bed.expect("beyond 1500", &query.payload(&vec![7; length]), Drop, MtuExceeded);
    }
    bed.nat("the largest that fits", &query.payload(&[7; 1472]), "10.0.0.11:5353");
}

fn jumbo_echo(bed: &mut Bed) {
    bed.rules("[[echo]]\nlisten = \"192.0.2.10:7\"\nallow = [\"198.51.100.0/24\"]\n");
    let ping = udp("198.51.100.1:4001", "192.0.2.10:7").payload(&JUMBO);
    for _ in 0..2 {
        let back = Frame { payload: JUMBO.to_vec(), ..ping.answer() };
        bed.leaves("echo", CLIENT_SIDE.0, &ping, Transmit, Echoed, &back);
    }
    let index = bed.sandbox.ids().echoes()[0].index;
    assert_eq!(2 * ping.bytes().len() as u64, bed.sandbox.counters().echo(index).bytes);
}

/// BPF_PROG_TEST_RUN takes a length of the first buffer from kernel 6.18 on.
fn can_split() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let can = version >= (6, 18);
    if !can {
        eprintln!("skipped: the kernel {release} cannot split a frame's headers from its rest");
    }
    can
}

fn headers_are_read_from_the_first_buffer(bed: &mut Bed) {
    bed.rules(&forward("web", "tcp", "192.0.2.10:80", "nat", "10.0.0.11:8080"));
    let (data, sent) = bed.connect("198.51.100.1:4001", "192.0.2.10:80", "10.0.0.11:8080");
    if !can_split() {
        return;
    }
    let data = data.payload(&[1; 1000]);
    let out = data.forwarded(sent.from, sent.to, sent.source, sent.destination);
    for first in [54, 60, 200] {
        let ran = bed.sandbox.run_split(CLIENT_SIDE.0, &data.bytes(), first).unwrap();
        assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()), "{first}");
        assert_eq!(out.bytes(), ran.frame, "headers and {first} bytes in all in the first buffer");
    }
    for first in [14, 20, 34, 53] {
        let ran = bed.sandbox.run_split(CLIENT_SIDE.0, &data.bytes(), first).unwrap();
        assert_eq!((Some(Drop), Some(HeadersSplit)), (ran.verdict(), ran.reason()), "{first}");
    }
    let ran =
        bed.sandbox.run_split(CLIENT_SIDE.0, &tcp("198.51.100.1:4002", "192.0.2.10:80", SYN).bytes(), 30);
    assert_eq!(Some(HeadersSplit), ran.unwrap().reason());
}

fn lengths_beyond_the_last_buffer(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.11:5353"));
    let mut frame = udp("198.51.100.1:4001", "192.0.2.10:53").payload(&JUMBO).bytes();
    frame.pop();
    bed.expect_on("one byte is missing", CLIENT_SIDE.0, &frame, Drop, Malformed);
}
