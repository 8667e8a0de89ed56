//! QUIC: connection IDs that name a target.

use netfast::datapath::sandbox::mac_of;
use netfast_common::{Reason::*, Verdict::*};

use crate::{
    bed::{Bed, CLIENT_SIDE, scenarios},
    frames::{Frame, socket, udp},
};

scenarios! {
    a_client_that_moves_stays_with_its_target, first_packets_go_by_the_table, a_draining_target_keeps_its_connections,
    ids_follow_the_rules, connection_ids_over_ipv6,
}

const SERVICE: &str = "192.0.2.10:443";
const TARGETS: [(&str, [u8; 2]); 3] =
    [("10.0.0.11:4433", [0x0a, 1]), ("10.0.0.12:4433", [0x0a, 2]), ("10.0.0.13:4433", [0x0b, 0xff])];

fn rules(keys: &str, of_target: impl Fn(usize) -> String) -> String {
    let mut text =
        format!("[[forward]]\nname = \"web\"\nprotocol = \"udp\"\nlisten = \"{SERVICE}\"\n{keys}\n");
    for (number, (address, _)) in TARGETS.iter().enumerate() {
        text.push_str(&format!("[[forward.target]]\naddress = \"{address}\"\n{}\n", of_target(number)));
    }
    text
}

fn with_ids() -> String {
    rules("quic = 2", id)
}

fn id(number: usize) -> String {
    let [a, b] = TARGETS[number].1;
    format!("id = \"{a:02x}{b:02x}\"")
}

/// A packet with a short header whose connection ID names a server.
fn short(id: [u8; 2]) -> Vec<u8> {
    [&[0x41, 0x07][..], &id, &[1, 2, 3, 4], &[0x55; 30]].concat()
}

/// The same with a long header of version 1.
fn long(kind: u8, id: [u8; 2]) -> Vec<u8> {
    [&[0xc0 | kind << 4, 0, 0, 0, 1, 8, 0x07][..], &id, &[1, 2, 3, 4, 5], &[8], &[9; 40]].concat()
}

fn from(port: u16, payload: &[u8]) -> Frame {
    udp(&format!("198.51.100.1:{port}"), SERVICE).payload(payload)
}

/// Number of the target that a packet goes to.
#[track_caller]
fn target_of(bed: &mut Bed, frame: &Frame) -> usize {
    let ran = bed.run("a packet", CLIENT_SIDE.0, &frame.bytes());
    assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()));
    let goes = |target: &str| mac_of(socket(target).ip())[..] == ran.frame[..6];
    TARGETS.iter().position(|(target, _)| goes(target)).unwrap()
}

/// How many of 60 packets of new flows go to each target.
fn spread(bed: &mut Bed, first_port: u16, payload: &[u8]) -> [u32; 3] {
    let mut counts = [0; 3];
    for port in first_port..first_port + 60 {
        counts[target_of(bed, &from(port, payload))] += 1;
    }
    counts
}

fn a_client_that_moves_stays_with_its_target(bed: &mut Bed) {
    bed.rules(&with_ids());
    let mut port = 1000;
    for (number, (address, id)) in TARGETS.iter().enumerate() {
        for payload in [short(*id), long(2, *id)] {
            for _ in 0..20 {
                port += 1;
                assert_eq!(number, target_of(bed, &from(port, &payload)), "port {port}");
            }
        }
        let frame = from(port, &short(*id));
        let sent = bed.nat("and in its flow", &frame, address);
        bed.replied("which answers", &frame, &sent.answer());
        bed.nat("cached", &frame, address);
    }
    bed.rules(&rules("", |_| String::new()));
    assert!(spread(bed, 30_000, &short(TARGETS[0].1)).iter().all(|count| *count > 5), "without the option");
}

fn first_packets_go_by_the_table(bed: &mut Bed) {
    bed.rules(&with_ids());
    let id = TARGETS[1].1;
    let unroutable = [&[0x41, 0xe7][..], &id, &[0; 30]].concat();
    let version_2 = [&long(2, id)[..1], &[0x6b, 0x33, 0x43, 0xcf], &long(2, id)[5..]].concat();
    let mut port = 2000;
    for (what, payload) in [
        ("Initial", long(0, id)),
        ("0-RTT", long(1, id)),
        ("Retry", long(3, id)),
        ("an unknown server", short([0xaa, 0xaa])),
        ("an unroutable connection ID", unroutable),
        ("0-RTT of version 2", version_2),
        ("no QUIC at all", b"short".to_vec()),
        ("nothing", Vec::new()),
    ] {
        port += 100;
        let counts = spread(bed, port, &payload);
        assert!(counts.iter().all(|count| *count > 5), "{what}: {counts:?}");
    }
}

fn a_draining_target_keeps_its_connections(bed: &mut Bed) {
    for (how, stays) in [("keep", true), ("move", false)] {
        let keys = format!("quic = 2\non_drain = \"{how}\"");
        bed.rules(&rules(&keys, |number| {
            format!("{}\n{}", id(number), if number == 2 { "drain = true" } else { "" })
        }));
        let base = if stays { 10_000 } else { 20_000 };
        assert_eq!(0, spread(bed, base, &long(0, TARGETS[2].1))[2], "no new ones");
        let named = spread(bed, base + 100, &short(TARGETS[2].1));
        assert_eq!(if stays { 60 } else { 0 }, named[2], "{how}");
    }
    bed.rules(&rules("quic = 2", |number| format!("{}\ndrain = true", id(number))));
    assert_eq!(2, target_of(bed, &from(30_000, &short(TARGETS[2].1))), "also if none gets new ones");
    bed.expect("which are dropped", &from(30_001, &long(0, TARGETS[2].1)), Drop, NoTarget);
}

fn ids_follow_the_rules(bed: &mut Bed) {
    bed.rules(&with_ids());
    assert_eq!([60, 0, 0], spread(bed, 1000, &short(TARGETS[0].1)));
    bed.rules(&rules("quic = 2", |number| id((number + 1) % 3)));
    assert_eq!([0, 0, 60], spread(bed, 2000, &short(TARGETS[0].1)), "an ID has changed hands");
    bed.rules(&rules("quic = 2", |number| if number == 2 { String::new() } else { id(number) }));
    assert_eq!([60, 0, 0], spread(bed, 3000, &short(TARGETS[0].1)));
    assert!(spread(bed, 4000, &short(TARGETS[2].1)).iter().all(|count| *count > 5), "nobody's any more");
    bed.rules(&rules("quic = 1", |number| format!("id = \"0{number}\"")));
    assert_eq!([0, 60, 0], spread(bed, 5000, &short([1, 0x77])), "shorter IDs");
}

fn connection_ids_over_ipv6(bed: &mut Bed) {
    let service = "[2001:db8::10]:443";
    bed.rules(&format!(
        "[[forward]]\nname = \"web\"\nprotocol = \"udp\"\nlisten = \"{service}\"\nquic = 15\n\
         [[forward.target]]\naddress = \"[fd00::11]:443\"\nid = \"{}\"\n\
         [[forward.target]]\naddress = \"[fd00::12]:443\"\nid = \"{}\"\n",
        "11".repeat(15),
        "12".repeat(15)
    ));
    for (byte, target) in [(0x11, "[fd00::11]:443"), (0x12, "[fd00::12]:443")] {
        let payload = [&[0x41, 0x07][..], &[byte; 15], &[1, 2, 3, 4], &[5; 20]].concat();
        for port in 4000..4020 {
            let frame = udp(&format!("[2001:db8:1::{byte:x}]:{port}"), service).payload(&payload);
            bed.nat("to the one that is named", &frame, target);
        }
    }
}
