//! Forwards: both modes, both protocols, both IP versions, both directions.

use netfast::datapath::sandbox::mac_of;
use netfast_common::{
    Reason::*,
    Verdict::*,
    wire::{ACK, FIN, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios, source_port},
    frames::{Extension, Frame, socket, tcp, udp},
};

scenarios! {
    tcp_nat, tcp_nat_ipv6, udp_nat, udp_nat_ipv6, dnat_keeps_the_client_s_address, ranges_keep_their_offset,
    no_checksum_stays_none, ipv6_without_checksum_is_refused, a_ttl_that_is_used_up, no_target, fragments_to_a_service,
    options_and_extension_headers_travel, targets_are_chosen_by_flow, nat_ports_are_those_configured,
    payloads_of_any_length, misses_of_the_cache_are_counted,
}

/// A forward to one target.
pub fn forward(name: &str, protocol: &str, listen: &str, mode: &str, target: &str) -> String {
    format!(
        "[[forward]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nlisten = \"{listen}\"\nmode = \"{mode}\"\n\
         [[forward.target]]\naddress = \"{target}\"\n"
    )
}

fn tcp_nat(bed: &mut Bed) {
    bed.rules(&forward("web", "tcp", "192.0.2.10:443", "nat", "10.0.0.11:8443"));
    connection(bed, "198.51.100.1:4001", "192.0.2.10:443", "10.0.0.11:8443");
}

fn tcp_nat_ipv6(bed: &mut Bed) {
    bed.rules(&forward("web", "tcp", "[2001:db8::10]:443", "nat", "[fd00::11]:8443"));
    connection(bed, "[2001:db8:1::1]:4001", "[2001:db8::10]:443", "[fd00::11]:8443");
}

/// A whole connection: handshake, data both ways, end.
fn connection(bed: &mut Bed, source: &str, service: &str, target: &str) {
    let (data, sent) = bed.connect(source, service, target);
    let index = bed.sandbox.ids().forwards()[0].targets[0].index;
    for round in 0..3 {
        bed.replied("data back", &data, &sent.answer().flags(ACK));
        let again = bed.nat("data", &data.payload(&[round; 700]), target);
        assert_eq!(sent.source, again.source);
    }
    bed.nat("client's FIN", &data.flags(FIN | ACK).payload(b""), target);
    bed.replied("target's FIN", &data, &sent.answer().flags(FIN | ACK).payload(b""));
    bed.nat("last ACK", &data.flags(ACK).payload(b""), target);
    use netfast::datapath::Direction::{ToClient, ToTarget};
    let counters = bed.sandbox.counters();
    assert_eq!((7, 5), (counters.target(index, ToTarget).packets, counters.target(index, ToClient).packets));
    assert_eq!(1, counters.flows_made(bed.sandbox.ids().forwards()[0].index));
}

fn udp_nat(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:5353"));
    datagrams(bed, udp("198.51.100.1:4002", "192.0.2.10:53"), "10.0.0.53:5353");
}

fn udp_nat_ipv6(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "[2001:db8::10]:53", "nat", "[fd00::53]:5353"));
    datagrams(bed, udp("[2001:db8:1::1]:4002", "[2001:db8::10]:53"), "[fd00::53]:5353");
}

fn datagrams(bed: &mut Bed, query: Frame, target: &str) {
    let sent = bed.nat("first", &query, target);
    let second = bed.nat("a second one before the answer", &query.payload(b"again"), target);
    assert_eq!(sent.source, second.source);
    for _ in 0..3 {
        bed.replied("answer", &query, &sent.answer());
        bed.nat("next query", &query, target);
    }
}

fn misses_of_the_cache_are_counted(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:5353"));
    let misses = |bed: &Bed| {
        let rows = bed.sandbox.datapath().interface_rows();
        let row = |side: u32| rows.iter().find(|(ifindex, _)| *ifindex == side).unwrap().1;
        [CLIENT_SIDE.0, TARGET_SIDE.0].map(|side| bed.sandbox.counters().cache_misses(row(side)))
    };
    let before = misses(bed);
    let query = udp("198.51.100.1:4002", "192.0.2.10:53");
    let sent = bed.nat("first", &query, "10.0.0.53:5353");
    bed.replied("its answer", &query, &sent.answer());
    bed.nat("second", &query, "10.0.0.53:5353");
    let learnt = misses(bed);
    assert_eq!([before[0] + 2, before[1] + 1], learnt);
    for _ in 0..5 {
        bed.nat("of a cached flow", &query, "10.0.0.53:5353");
        bed.replied("its answer", &query, &sent.answer());
    }
    assert_eq!(learnt, misses(bed));
    bed.expect("not netfast's", &udp("198.51.100.1:4002", "192.0.2.10:54"), Pass, NoService);
    assert_eq!([learnt[0] + 1, learnt[1]], misses(bed));
}

fn dnat_keeps_the_client_s_address(bed: &mut Bed) {
    bed.rules(&format!(
        "{}{}",
        forward("dns", "udp", "192.0.2.10:53", "dnat", "10.0.0.53:5353"),
        forward("web", "tcp", "[2001:db8::10]:80", "dnat", "[fd00::11]:8080")
    ));
    let kept = |frame: &Frame, target: &str| {
        let target = socket(target);
        frame.forwarded(TARGET_SIDE.1, mac_of(target.ip()), frame.source, target)
    };
    let query = udp("198.51.100.1:4003", "192.0.2.10:53");
    let out = kept(&query, "10.0.0.53:5353");
    for _ in 0..3 {
        bed.leaves("query", CLIENT_SIDE.0, &query, Redirect, Forwarded, &out);
        bed.replied("answer", &query, &out.answer());
    }
    let syn = tcp("[2001:db8:1::1]:4003", "[2001:db8::10]:80", SYN);
    let out = kept(&syn, "[fd00::11]:8080");
    bed.leaves("SYN", CLIENT_SIDE.0, &syn, Redirect, Forwarded, &out);
    bed.replied("SYN ACK", &syn, &out.answer().flags(SYN | ACK));
    for _ in 0..3 {
        let data = syn.flags(ACK).payload(b"data");
        bed.leaves("data", CLIENT_SIDE.0, &data, Redirect, Forwarded, &kept(&data, "[fd00::11]:8080"));
        bed.replied("data back", &data, &out.answer().flags(ACK).payload(b"back"));
    }
}

fn ranges_keep_their_offset(bed: &mut Bed) {
    bed.rules(&forward("games", "udp", "192.0.2.10:27000-27099", "nat", "10.0.0.7:7000-7099"));
    for (port, target) in [(27000, "10.0.0.7:7000"), (27042, "10.0.0.7:7042"), (27099, "10.0.0.7:7099")] {
        let packet = udp("198.51.100.1:4004", &format!("192.0.2.10:{port}"));
        let sent = bed.nat("to a port of the range", &packet, target);
        bed.replied("back", &packet, &sent.answer());
        bed.nat("again", &packet, target);
        bed.replied("back again", &packet, &sent.answer());
    }
    // The host's own range may wrap below the target's.
    bed.rules(&forward("low", "udp", "192.0.2.10:60000-60009", "nat", "10.0.0.7:10-19"));
    let packet = udp("198.51.100.1:4004", "192.0.2.10:60009");
    let sent = bed.nat("ports that go down", &packet, "10.0.0.7:19");
    bed.replied("and up again", &packet, &sent.answer());
}

fn no_checksum_stays_none(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:5353"));
    let query = udp("198.51.100.1:4005", "192.0.2.10:53").without_checksum();
    datagrams(bed, query, "10.0.0.53:5353");
}

fn ipv6_without_checksum_is_refused(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "[2001:db8::10]:53", "nat", "[fd00::53]:5353"));
    let query = udp("[2001:db8:1::1]:4006", "[2001:db8::10]:53");
    bed.expect("of a new flow", &query.without_checksum(), Drop, UdpZeroChecksum);
    let sent = bed.nat("with one", &query, "[fd00::53]:5353");
    bed.expect("of a half-open flow", &query.without_checksum(), Drop, UdpZeroChecksum);
    bed.replied("answer", &query, &sent.answer());
    bed.nat("cached", &query, "[fd00::53]:5353");
    bed.expect("of a cached flow", &query.without_checksum(), Drop, UdpZeroChecksum);
    let reply = sent.answer().without_checksum().bytes();
    bed.expect_on("an answer", TARGET_SIDE.0, &reply, Drop, UdpZeroChecksum);
}

fn a_ttl_that_is_used_up(bed: &mut Bed) {
    bed.rules(&format!(
        "{}{}",
        forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"),
        forward("dns6", "udp", "[2001:db8::10]:53", "nat", "[fd00::53]:53")
    ));
    for (query, target) in [
        (udp("198.51.100.1:4007", "192.0.2.10:53"), "10.0.0.53:53"),
        (udp("[2001:db8:1::1]:4007", "[2001:db8::10]:53"), "[fd00::53]:53"),
    ] {
        bed.expect("TTL 1, new", &query.ttl(1), Drop, TtlExpired);
        let sent = bed.nat("TTL 2", &query.ttl(2), target);
        bed.replied("answer", &query, &sent.answer());
        bed.nat("cached", &query.ttl(255), target);
        bed.expect("TTL 1, cached", &query.ttl(1), Drop, TtlExpired);
        bed.expect("TTL 0, cached", &query.ttl(0), Drop, TtlExpired);
        bed.expect_on("answer with TTL 1", TARGET_SIDE.0, &sent.answer().ttl(1).bytes(), Drop, TtlExpired);
    }
}

fn no_target(bed: &mut Bed) {
    bed.rules("[[forward]]\nname = \"empty\"\nprotocol = \"udp\"\nlisten = \"192.0.2.10:53\"\n");
    bed.expect("a forward without targets", &udp("198.51.100.1:4008", "192.0.2.10:53"), Drop, NoTarget);
}

fn fragments_to_a_service(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"));
    let query = udp("198.51.100.1:4009", "192.0.2.10:53");
    let first = Frame { fragment: Some((0, true)), ..query.clone() };
    bed.expect("the first one goes where the others go", &first, Pass, FragmentedService);
    bed.expect("a later one", &Frame { fragment: Some((6, false)), ..query }, Pass, Fragment);
}

fn options_and_extension_headers_travel(bed: &mut Bed) {
    bed.rules(&format!(
        "{}{}",
        forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"),
        forward("web6", "tcp", "[2001:db8::10]:80", "nat", "[fd00::11]:80")
    ));
    let query = Frame { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..udp("198.51.100.1:4010", "192.0.2.10:53") };
    datagrams(bed, query, "10.0.0.53:53");
    let options = [Extension::Raw(0, vec![1, 4, 0, 0, 0, 0]), Extension::Raw(60, vec![1, 4, 0, 0, 0, 0])];
    let syn = tcp("[2001:db8:1::1]:4010", "[2001:db8::10]:80", SYN).extended(&options);
    let sent = bed.nat("SYN with options", &syn, "[fd00::11]:80");
    bed.replied("SYN ACK with options", &syn, &sent.answer().flags(SYN | ACK));
    bed.nat("data without options", &syn.flags(ACK).extended(&[]).payload(b"data"), "[fd00::11]:80");
    bed.nat("data with options", &syn.flags(ACK).payload(b"data"), "[fd00::11]:80");
    // RFC 6946: an atomic fragment is a whole packet.
    let atomic = syn.flags(ACK).extended(&[Extension::Fragment(0, false)]);
    bed.nat("an atomic fragment", &atomic, "[fd00::11]:80");
}

fn targets_are_chosen_by_flow(bed: &mut Bed) {
    bed.rules(
        "[[forward]]\nname = \"web\"\nprotocol = \"udp\"\nlisten = \"192.0.2.10:80\"\n\
         [[forward.target]]\naddress = \"10.0.0.1:80\"\n[[forward.target]]\naddress = \"10.0.0.2:80\"\n\
         [[forward.target]]\naddress = \"10.0.0.3:80\"\n",
    );
    let mut counts = [0; 3];
    for port in 1000..1300 {
        let packet = udp(&format!("198.51.100.1:{port}"), "192.0.2.10:80").bytes();
        let target = |bed: &mut Bed| bed.run("to any target", CLIENT_SIDE.0, &packet).frame[33];
        let first = target(bed);
        assert_eq!(first, target(bed), "the second packet goes to the same target");
        counts[usize::from(first) - 1] += 1;
    }
    assert!(counts.iter().all(|count| (50..150).contains(count)), "300 flows to three targets: {counts:?}");
}

fn nat_ports_are_those_configured(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"));
    bed.sandbox.configure(|settings| settings.nat_ports = 30_000..=30_999);
    let mut seen = std::collections::HashSet::new();
    for port in 1000..1400 {
        let packet = udp(&format!("198.51.100.1:{port}"), "192.0.2.10:53").bytes();
        let ran = bed.run("one of many", CLIENT_SIDE.0, &packet);
        let port = source_port(&ran.frame);
        assert!((30_000..=30_999).contains(&port), "{port}");
        assert!(seen.insert(port), "{port} twice towards one target");
    }
}

fn payloads_of_any_length(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"));
    let query = udp("198.51.100.1:4011", "192.0.2.10:53");
    for length in [0usize, 1, 2, 3, 18, 19, 511, 1471, 1472] {
        let payload: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
        let padding = 60usize.saturating_sub(42 + length);
        let query = Frame { padding, ..query.payload(&payload) };
        let sent = bed.nat("out", &query, "10.0.0.53:53");
        bed.replied("back", &query, &Frame { payload, ..sent.answer() });
    }
}
