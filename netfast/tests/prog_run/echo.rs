//! UDP echo (RFC 862) and its guards.

use netfast_common::{Reason::*, Verdict::*, wire::SYN};

use crate::{
    bed::{Bed, CLIENT_SIDE, scenarios},
    frames::{Extension, Frame, tcp, udp},
};

scenarios! {
    an_answer_is_what_came, only_sources_on_the_list, no_answer_can_start_a_loop, not_to_the_host_itself,
    each_source_has_its_rate, only_whole_datagrams_with_a_source,
}

const ECHO: &str = "[[echo]]\nlisten = \"192.0.2.10:7777\"\nallow = [\"198.51.100.0/24\"]\n\
                    [[echo]]\nlisten = \"[2001:db8::10]:7\"\nallow = [\"2001:db8:1::/48\"]\n";

/// The answer: everything swapped, nothing else changed.
fn answer(frame: &Frame) -> Frame {
    Frame { payload: frame.payload.clone(), tags: frame.tags.clone(), ..frame.answer() }
}

fn an_answer_is_what_came(bed: &mut Bed) {
    bed.rules(ECHO);
    let v4 = udp("198.51.100.1:7001", "192.0.2.10:7777");
    let v6 = udp("[2001:db8:1::1]:7001", "[2001:db8::10]:7");
    let long: Vec<u8> = (0..1452u32).map(|i| (i * 31) as u8).collect();
    let with = |frame: &Frame, options: &[u8]| Frame { options: options.to_vec(), ..frame.clone() };
    let cases = [
        ("a datagram", v4.clone()),
        ("nothing in it", v4.payload(b"")),
        ("one byte", v4.payload(b"x")),
        ("a long one", v4.payload(&long)),
        ("padding", Frame { padding: 17, ..v4.payload(b"x") }),
        ("TTL 1 is enough", v4.ttl(1)),
        ("TTL 255", v4.ttl(255)),
        ("no checksum", v4.without_checksum()),
        ("a tag", v4.tagged(&[(0x8100, 9)])),
        ("two tags", v4.tagged(&[(0x88a8, 8), (0x8100, 9)])),
        ("options", with(&v4, &[7, 7, 4, 0, 0, 0, 0, 0])),
        ("IPv6", v6.clone()),
        ("IPv6, nothing in it", v6.payload(b"")),
        ("IPv6, a long one", v6.payload(&long)),
        ("IPv6, a tag", v6.tagged(&[(0x8100, 9)])),
        ("IPv6, hop limit 1", v6.ttl(1)),
        ("IPv6, options", v6.extended(&[Extension::Raw(60, vec![1, 4, 0, 0, 0, 0])])),
    ];
    for (what, frame) in &cases {
        bed.sandbox.forget_lines().unwrap();
        for way in ["by the rules", "by the cache"] {
            let what = format!("{what}, {way}");
            bed.leaves(&what, CLIENT_SIDE.0, frame, Transmit, Echoed, &answer(frame));
        }
    }
    let sent = cases.len() as u64 * 2;
    let counted: u64 =
        bed.sandbox.ids().echoes().iter().map(|id| bed.sandbox.counters().echo(id.index).packets).sum();
    assert_eq!(sent, counted);
}

fn only_sources_on_the_list(bed: &mut Bed) {
    bed.rules(&format!(
        "{ECHO}[[echo]]\nlisten = \"192.0.2.10:7779\"\nallow = [\"10.1.0.0/16\", \"10.3.0.1/32\"]\n"
    ));
    let echo = |source: &str, listen: &str| udp(source, listen).bytes();
    bed.table(&[
        ("on the list", echo("198.51.100.2:7001", "192.0.2.10:7777"), Transmit, Echoed),
        ("not on it", echo("198.51.101.2:7001", "192.0.2.10:7777"), Drop, EchoNotAllowed),
        ("not on it, IPv6", echo("[2001:db8:2::1]:7001", "[2001:db8::10]:7"), Drop, EchoNotAllowed),
        ("first entry", echo("10.1.2.3:7001", "192.0.2.10:7779"), Transmit, Echoed),
        ("second entry", echo("10.3.0.1:7001", "192.0.2.10:7779"), Transmit, Echoed),
        ("beside it", echo("10.3.0.2:7001", "192.0.2.10:7779"), Drop, EchoNotAllowed),
        (
            "on another reflector's list only",
            echo("198.51.100.2:7001", "192.0.2.10:7779"),
            Drop,
            EchoNotAllowed,
        ),
    ]);
    // A line of the cache must not outlive the permission.
    bed.rules("[[echo]]\nlisten = \"192.0.2.10:7777\"\nallow = [\"203.0.113.0/24\"]\n");
    bed.expect("taken off the list", &udp("198.51.100.2:7001", "192.0.2.10:7777"), Drop, EchoNotAllowed);
}

fn no_answer_can_start_a_loop(bed: &mut Bed) {
    bed.rules(&format!("{ECHO}[[echo]]\nlisten = \"203.0.113.1:9999\"\nallow = [\"203.0.113.9/32\"]\n"));
    let from = |port: u16| udp(&format!("198.51.100.3:{port}"), "192.0.2.10:7777");
    // CVE-2024-2169, RFC 4732 2.3: services that answer whatever they are sent.
    for port in [0, 7, 11, 13, 17, 19, 37, 53, 69, 123] {
        bed.expect(&format!("source port {port}"), &from(port), Drop, EchoLoop);
        let v6 = udp(&format!("[2001:db8:1::3]:{port}"), "[2001:db8::10]:7");
        bed.expect(&format!("source port {port}, IPv6"), &v6, Drop, EchoLoop);
    }
    bed.expect("its own port", &from(7777), Drop, EchoLoop);
    bed.expect("the port of another reflector", &from(9999), Drop, EchoLoop);
    for port in [6, 8, 52, 122, 124, 1024, 65_535] {
        bed.expect(&format!("source port {port}"), &from(port), Transmit, Echoed);
    }
}

fn not_to_the_host_itself(bed: &mut Bed) {
    bed.rules(ECHO);
    let own = ["198.51.100.4".parse().unwrap(), "2001:db8:1::4".parse().unwrap()];
    bed.sandbox.datapath().set_locals(&own).unwrap();
    bed.expect("from the host's own address", &udp("198.51.100.4:7001", "192.0.2.10:7777"), Drop, EchoLoop);
    bed.expect("IPv6", &udp("[2001:db8:1::4]:7001", "[2001:db8::10]:7"), Drop, EchoLoop);
    bed.expect("from the one beside it", &udp("198.51.100.5:7001", "192.0.2.10:7777"), Transmit, Echoed);
}

fn each_source_has_its_rate(bed: &mut Bed) {
    bed.rules(&ECHO.replace("allow", "rate = 3\nallow"));
    for source in ["198.51.100.6:7001", "198.51.100.7:7001", "[2001:db8:1::6]:7001"] {
        let listen = if source.starts_with('[') { "[2001:db8::10]:7" } else { "192.0.2.10:7777" };
        let ran: Vec<_> = (0..20)
            .map(|_| bed.run("one of many", CLIENT_SIDE.0, &udp(source, listen).bytes()).reason().unwrap())
            .collect();
        assert_eq!([Echoed; 3], ran[..3], "a second's worth at once");
        let answered = ran.iter().filter(|reason| **reason == Echoed).count();
        let refused = ran.iter().filter(|reason| **reason == EchoRate).count();
        // A slow machine may have earned a token meanwhile.
        assert!(answered + refused == 20 && answered <= 6, "{source}: {ran:?}");
        let other_port = udp(&source.replace(":7001", ":7002"), listen);
        if refused == 17 {
            bed.expect("the rate is the address's, not the port's", &other_port, Drop, EchoRate);
        }
    }
}

fn only_whole_datagrams_with_a_source(bed: &mut Bed) {
    bed.rules(ECHO);
    let v4 = udp("198.51.100.8:7001", "192.0.2.10:7777");
    bed.table(&[
        (
            "a first fragment",
            Frame { fragment: Some((0, true)), ..v4.clone() }.bytes(),
            Pass,
            FragmentedService,
        ),
        ("a later one", Frame { fragment: Some((5, false)), ..v4.clone() }.bytes(), Pass, Fragment),
        ("TCP", tcp("198.51.100.8:7001", "192.0.2.10:7777", SYN).bytes(), Pass, NoService),
        ("ICMP echo is the kernel's", v4.protocol(1).bytes(), Pass, NotTcpUdp),
        ("nobody", udp("0.0.0.0:7001", "192.0.2.10:7777").bytes(), Drop, Martian),
        ("nobody, IPv6", udp("[::]:7001", "[2001:db8::10]:7").bytes(), Drop, Martian),
        (
            "IPv6 without a checksum",
            udp("[2001:db8:1::8]:7001", "[2001:db8::10]:7").without_checksum().bytes(),
            Drop,
            UdpZeroChecksum,
        ),
        ("to all stations", Frame { to: [0xff; 6], ..v4 }.bytes(), Pass, NotOurMac),
    ]);
}
