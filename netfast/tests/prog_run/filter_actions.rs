//! What filter rules ask of TCP flags, ICMP types and VLANs, and what they do beyond dropping: reject, limit, count.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::InterfaceAddress,
    addr,
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, scenarios},
    frames::{Frame, tcp, udp},
};

scenarios! {
    flags, icmp_types, vlans, lists_and_sets, policies, counting_goes_on, a_refusal_is_told, refusals_by_kind,
    a_limit_drops_what_is_over_it, a_limit_for_each_source, a_limit_in_bits,
}

const CLIENT: &str = "198.51.100.7:40000";
const HOST: &str = "192.0.2.10:22";

fn icmp(kind: u8, code: u8) -> Frame {
    udp(CLIENT, HOST).protocol(1).payload(&[kind, code, 0, 0, 0, 1, 0, 1, 9, 9, 9, 9])
}

/// Packets that each rule has counted.
pub fn counts(bed: &Bed) -> Vec<u64> {
    let counters = bed.sandbox.counters();
    bed.sandbox.ids().filters().iter().map(|id| counters.filter(id.index).packets).collect()
}

fn flags(bed: &mut Bed) {
    bed.rules("[[filter]]\naction = \"drop\"\nproto = \"tcp\"\nflags = \"syn/syn,ack,fin,rst\"");
    let with = |flags| tcp(CLIENT, HOST, flags);
    bed.expect("an opening", &with(SYN), Drop, FilterDrop);
    bed.expect("an opening that pushes", &with(SYN | 8), Drop, FilterDrop);
    bed.expect("the answer to one", &with(SYN | ACK), Pass, NoService);
    bed.expect("data", &with(ACK), Pass, NoService);
    bed.expect("not TCP", &udp(CLIENT, HOST), Pass, NoService);
    bed.expect("a later fragment", &Frame { fragment: Some((5, false)), ..with(SYN) }, Pass, Fragment);
    bed.rules("[[filter]]\naction = \"drop\"\nproto = \"tcp\"\nflags = \"rst\"");
    bed.expect("a reset", &with(RST | ACK), Drop, FilterDrop);
    bed.expect("an end", &with(FIN | ACK), Pass, NoService);
}

fn icmp_types(bed: &mut Bed) {
    bed.rules("[[filter]]\naction = \"drop\"\nproto = \"icmp\"\nicmp = [\"echo-request\", \"3/4\"]");
    bed.expect("an echo request", &icmp(8, 0), Drop, FilterDrop);
    bed.expect("fragmentation needed", &icmp(3, 4), Drop, FilterDrop);
    bed.expect("an echo reply", &icmp(0, 0), Pass, NotTcpUdp);
    let later = Frame { fragment: Some((5, false)), ..icmp(8, 0) };
    bed.expect("a later fragment", &later, Pass, Fragment);
    bed.rules("[[filter]]\naction = \"drop\"\nproto = \"icmpv6\"\nicmp = \"neighbour-solicitation\"");
    let six =
        |kind| udp("[2001:db8::7]:1", "[2001:db8::10]:2").protocol(58).payload(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    bed.expect("a solicitation", &six(135), Drop, FilterDrop);
    bed.expect("an advertisement", &six(136), Pass, NotTcpUdp);
}

fn vlans(bed: &mut Bed) {
    let frame = udp(CLIENT, HOST);
    bed.rules("[[filter]]\naction = \"drop\"\nvlan = 7");
    bed.expect("in the VLAN", &frame.tagged(&[(0x8100, 7)]), Drop, FilterDrop);
    bed.expect("the innermost tag counts", &frame.tagged(&[(0x88a8, 1), (0x8100, 7)]), Drop, FilterDrop);
    let other = frame.tagged(&[(0x8100, 8)]);
    assert_ne!(Some(Drop), bed.run("in another one", CLIENT_SIDE.0, &other.bytes()).verdict());
    bed.expect("untagged", &frame, Pass, NoService);
    bed.rules("[[filter]]\naction = \"drop\"\nvlan = 0");
    bed.expect("untagged", &frame, Drop, FilterDrop);
}

fn lists_and_sets(bed: &mut Bed) {
    bed.rules(
        "[[set]]\nname = \"bad\"\naddresses = [\"198.51.100.0/24\", \"198.51.100.7\", \"2001:db8::/32\"]\n\
         [[filter]]\naction = \"count\"\nname = \"bad\"\nsrc = \"@bad\"\n\
         [[filter]]\naction = \"drop\"\nsrc = [\"@bad\", \"203.0.113.9\"]\nproto = [\"tcp\", \"udp\"]\ndport = [22, \"50-60\", 55]\n",
    );
    bed.expect("of the set", &tcp(CLIENT, HOST, SYN), Drop, FilterDrop);
    bed.expect("IPv6 of the set", &udp("[2001:db8::7]:1", "[2001:db8::10]:60"), Drop, FilterDrop);
    bed.expect("beside the set", &udp("203.0.113.9:1", "192.0.2.10:50"), Drop, FilterDrop);
    bed.expect("another source", &udp("203.0.113.8:1", "192.0.2.10:50"), Pass, NoService);
    bed.expect("another port", &tcp(CLIENT, "192.0.2.10:61", SYN), Pass, NoService);
    // An address that is in a set twice is counted once.
    assert_eq!(vec![3, 3], counts(bed));
}

fn policies(bed: &mut Bed) {
    bed.rules(
        "[[filter]]\naction = \"allow\"\nproto = \"tcp\"\ndport = 22\n[[policy]]\ninterface = \"nf-client\"\nfilter = \"drop\"\n",
    );
    bed.expect("what a rule allows", &tcp(CLIENT, HOST, SYN), Pass, NoService);
    bed.expect("all else", &tcp(CLIENT, "192.0.2.10:23", SYN), Drop, FilterDrop);
    bed.expect("of either version", &udp("[2001:db8::7]:1", "[2001:db8::10]:2"), Drop, FilterDrop);
    assert_eq!(vec![1, 2], counts(bed), "the policy counts behind the rules");
    let there = Frame { to: crate::bed::TARGET_SIDE.1, ..udp(CLIENT, HOST) }.bytes();
    bed.expect_on("another interface", crate::bed::TARGET_SIDE.0, &there, Pass, NoService);
}

fn counting_goes_on(bed: &mut Bed) {
    bed.rules(
        "[[filter]]\naction = \"count\"\nsrc = \"198.51.100.0/24\"\n[[filter]]\naction = \"count\"\nproto = \"udp\"\n\
         [[filter]]\naction = \"drop\"\nproto = \"tcp\"\n[[filter]]\naction = \"count\"\n",
    );
    bed.expect("counted and dropped", &tcp(CLIENT, HOST, SYN), Drop, FilterDrop);
    bed.expect("counted three times, and on its way", &udp(CLIENT, HOST), Pass, NoService);
    bed.expect("another source", &udp("203.0.113.7:1", HOST), Pass, NoService);
    assert_eq!(vec![2, 2, 1, 2], counts(bed));
}

/// The host knows its own addresses, to answer from.
pub fn at_home(bed: &Bed) {
    let [v4, v6] = ["198.51.100.254", "2001:db8:1::fe"].map(|text| text.parse::<IpAddr>().unwrap());
    let own = InterfaceAddress { v4: addr::from_ip(v4), v6: addr::from_ip(v6) };
    bed.sandbox.datapath().set_answer_addresses(&[(CLIENT_SIDE.0, own)]).unwrap();
    let locals: Vec<IpAddr> =
        ["192.0.2.10", "2001:db8::10"].iter().map(|text| text.parse().unwrap()).collect();
    bed.sandbox.datapath().set_locals(&[&locals[..], &[v4, v6]].concat()).unwrap();
}

/// ICMP type and code, or TCP flags, of an answer to the client.
fn told(bed: &mut Bed, what: &str, frame: &Frame) -> (u8, u8) {
    let ran = bed.run(what, CLIENT_SIDE.0, &frame.bytes());
    assert_eq!((Some(Transmit), Some(FilterReject)), (ran.verdict(), ran.reason()), "{what}");
    let packet = SlicedPacket::from_ethernet(&ran.frame).unwrap();
    let to: IpAddr = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => ip.header().destination_addr().into(),
        NetSlice::Ipv6(ip) => ip.header().destination_addr().into(),
        NetSlice::Arp(_) => panic!("{what}: ARP"),
    };
    assert_eq!(frame.source.ip(), to, "{what}");
    match packet.transport.as_ref().unwrap() {
        TransportSlice::Icmpv4(icmp) => (icmp.type_u8(), icmp.code_u8()),
        TransportSlice::Icmpv6(icmp) => (icmp.type_u8(), icmp.code_u8()),
        TransportSlice::Tcp(tcp) => (if tcp.rst() { RST } else { 0 }, u8::from(tcp.ack())),
        other => panic!("{what}: {other:?}"),
    }
}

fn a_refusal_is_told(bed: &mut Bed) {
    bed.rules("[[filter]]\naction = \"reject\"\nname = \"no\"\n");
    at_home(bed);
    assert_eq!((RST, 1), told(bed, "an opening is reset", &tcp(CLIENT, HOST, SYN)));
    assert_eq!((RST, 0), told(bed, "so is data, from where it stands", &tcp(CLIENT, HOST, ACK)));
    assert_eq!((3, 3), told(bed, "UDP gets port unreachable", &udp(CLIENT, HOST)));
    assert_eq!((1, 4), told(bed, "of IPv6, too", &udp("[2001:db8::7]:1", "[2001:db8::10]:2")));
    bed.expect("a reset is never answered", &tcp(CLIENT, HOST, RST), Drop, FilterReject);
    bed.expect("nor is an ICMP error", &icmp(3, 1), Drop, FilterReject);
    assert_eq!(vec![6], counts(bed));
}

fn refusals_by_kind(bed: &mut Bed) {
    for (with, expected) in [("port-unreachable", (3, 3)), ("admin-prohibited", (3, 13))] {
        bed.rules(&format!("[[filter]]\naction = \"reject\"\nwith = \"{with}\"\n"));
        at_home(bed);
        assert_eq!(expected, told(bed, with, &tcp(CLIENT, HOST, SYN)));
    }
    bed.rules("[[filter]]\naction = \"reject\"\nwith = \"tcp-reset\"\nproto = \"tcp\"\n");
    at_home(bed);
    assert_eq!((RST, 1), told(bed, "tcp-reset", &tcp(CLIENT, HOST, SYN)));
    bed.expect("not TCP", &udp(CLIENT, HOST), Pass, NoService);
}

/// How many of so many frames get through; the others must be over the limit.
fn through(bed: &mut Bed, frames: usize, frame: &Frame) -> usize {
    (0..frames)
        .filter(|_| {
            let ran = bed.run("limited", CLIENT_SIDE.0, &frame.bytes());
            let passed = ran.verdict() == Some(Pass);
            assert_eq!(Some(if passed { NoService } else { FilterLimit }), ran.reason());
            passed
        })
        .count()
}

fn a_limit_drops_what_is_over_it(bed: &mut Bed) {
    bed.rules(
        "[[filter]]\naction = \"limit\"\nrate = \"1/s\"\nburst = 10\nproto = \"udp\"\n[[filter]]\naction = \"drop\"\ndst = \"192.0.2.11\"\n",
    );
    // What comes in the meantime is a packet a second.
    let passed = through(bed, 40, &udp(CLIENT, HOST));
    assert!((10..=20).contains(&passed), "{passed}");
    let dropped = counts(bed)[0];
    assert_eq!(40 - passed as u64, dropped, "a limit counts what it drops");
    let other = through(bed, 5, &udp("203.0.113.7:1", HOST));
    assert!(other <= 2, "one limit for the rule: {other}");
    bed.expect("another protocol", &tcp(CLIENT, HOST, SYN), Pass, NoService);
    // The rules behind it decide what keeps to it.
    bed.rules(
        "[[filter]]\naction = \"limit\"\nrate = \"1000000/s\"\n[[filter]]\naction = \"drop\"\nproto = \"udp\"\n",
    );
    bed.expect("within the limit, and dropped by the next rule", &udp(CLIENT, HOST), Drop, FilterDrop);
}

fn a_limit_for_each_source(bed: &mut Bed) {
    bed.rules("[[filter]]\naction = \"limit\"\nrate = \"1/s\"\nburst = 5\nper = \"source\"\n");
    for source in ["198.51.100.7:1", "198.51.100.8:1", "198.51.100.9:2"] {
        let passed = through(bed, 20, &udp(source, HOST));
        assert!((5..=10).contains(&passed), "{source}: {passed}");
    }
    let six = through(bed, 20, &udp("[2001:db8::7]:1", "[2001:db8::10]:2"));
    assert!((5..=10).contains(&six), "{six}");
}

fn a_limit_in_bits(bed: &mut Bed) {
    bed.rules("[[filter]]\naction = \"limit\"\nrate = \"8kbit\"\nburst = 10000\n");
    let frame = udp(CLIENT, HOST).payload(&[0; 958]);
    assert_eq!(1000, frame.bytes().len());
    let passed = through(bed, 40, &frame);
    assert!((10..=20).contains(&passed), "10,000 bytes at once and 1,000 a second: {passed}");
}
