//! Source NAT: external ports, whose they are, how many there are, and when they are free again.

use std::collections::BTreeSet;

use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::{OUTSIDE, SnatKey, SnatMapping},
    wire::{ACK, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    forward::forward,
    frames::{Frame, tcp, udp},
    snat::{from_inside, gets_in, in_lan, out, rule},
};

scenarios! {
    ports_are_kept_where_they_are_free, ports_run_out_and_nobody_shares, a_source_has_so_many_mappings,
    a_dead_mapping_ends_its_flows, a_pool_is_paired, a_service_keeps_its_port,
}

fn ports_are_kept_where_they_are_free(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule("ports = \"30000-30999\""));
        let first = out(bed, "in the range", &from_inside(udp("10.1.0.5:30005", "198.51.100.1:53")));
        assert_eq!(30_005, first.source.port(), "kept");
        let second = out(bed, "taken", &from_inside(udp("10.1.0.6:30005", "198.51.100.1:53")));
        assert_ne!(30_005, second.source.port());
        let third = out(bed, "not in the range", &from_inside(udp("10.1.0.6:4000", "198.51.100.1:53")));
        let tcp = out(bed, "another protocol", &from_inside(tcp("10.1.0.6:30005", "198.51.100.1:53", SYN)));
        assert_eq!(30_005, tcp.source.port());
        for frame in [second, third] {
            assert!((30_000..=30_999).contains(&frame.source.port()), "{frame:?}");
        }
    });
}

fn ports_run_out_and_nobody_shares(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule("ports = \"30000-30003\""));
        let ask = |port: u16, server: &str| from_inside(udp(&format!("10.1.0.5:{port}"), server));
        let mut given = BTreeSet::new();
        for port in 4000..4004 {
            given.insert(out(bed, "there are four", &ask(port, "198.51.100.1:53")).source.port());
        }
        assert_eq!(4, given.len(), "{given:?}");
        // Towards another destination, too, where a port could be shared.
        for server in ["198.51.100.1:53", "203.0.113.9:99"] {
            bed.expect("and no fifth", &ask(4004, server), Drop, PortsExhausted);
        }
        out(bed, "those that have one go on", &ask(4000, "203.0.113.9:99"));
    });
}

fn a_source_has_so_many_mappings(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule("ports_per_source = 3"));
        let ask = |host: u8, port: u16| from_inside(udp(&format!("10.1.0.{host}:{port}"), "198.51.100.1:53"));
        for port in 4000..4003 {
            out(bed, "three", &ask(5, port));
        }
        bed.expect("four", &ask(5, 4003), Drop, FlowQuota);
        out(bed, "another host has its own", &ask(6, 4003));
        out(bed, "what there is goes on", &ask(5, 4001));
        let mut expired = bed.sandbox.mappings().unwrap();
        for (key, mapping) in &mut expired {
            mapping.expires = mapping.created.wrapping_sub(1 << 20);
            bed.sandbox.set_mapping(key, mapping).unwrap();
        }
        bed.sandbox.datapath().sweep(0).unwrap();
        assert!(bed.sandbox.mappings().unwrap().is_empty());
        bed.sandbox.forget_lines().unwrap();
        out(bed, "room again", &ask(5, 4003));
    });
}

pub fn outside_of(bed: &Bed, port: u16) -> (SnatKey, SnatMapping) {
    let all = bed.sandbox.mappings().unwrap();
    *all.iter().find(|(key, _)| key.side == OUTSIDE && key.port == port.to_be_bytes()).unwrap()
}

fn a_dead_mapping_ends_its_flows(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule("ports = \"30000-30001\"\nfiltering = \"endpoint-independent\""));
        let query = from_inside(udp("10.1.0.5:4000", "198.51.100.1:53"));
        let sent = out(bed, "query", &query);
        gets_in(bed, "answer", &sent.answer(), query.source, Reply);
        let (key, mapping) = outside_of(bed, sent.source.port());
        let dead = SnatMapping { expires: mapping.created.wrapping_sub(1), ..mapping };
        bed.sandbox.set_mapping(&key, &dead).unwrap();
        bed.sandbox.forget_lines().unwrap();
        let late = sent.answer().bytes();
        bed.expect_on("nobody's any more", TARGET_SIDE.0, &late, Pass, NoService);
        // The dead one's port is nobody's until the agent has taken it away, and then another endpoint's.
        let again = out(bed, "its endpoint gets another", &query);
        assert_ne!(sent.source, again.source);
        let other = from_inside(udp("10.1.0.6:4000", "198.51.100.1:53"));
        bed.expect("the port is not free yet", &other, Drop, PortsExhausted);
        bed.sandbox
            .set_mapping(&key, &SnatMapping { expires: dead.created.wrapping_sub(1 << 20), ..dead })
            .unwrap();
        bed.sandbox.datapath().sweep(0).unwrap();
        assert_eq!(sent.source, out(bed, "now it is", &other).source);
        gets_in(bed, "and its answers are the other's", &sent.answer(), other.source, Reply);
        assert_eq!(again.source, out(bed, "the first one goes on", &query).source);
        let closed = from_inside(tcp("10.1.0.5:30000", "198.51.100.1:80", SYN));
        let open = out(bed, "SYN", &closed);
        gets_in(bed, "SYN ACK", &open.answer().flags(SYN | ACK), closed.source, Reply);
        out(bed, "ACK", &closed.flags(ACK));
        let (_, long) = outside_of_tcp(bed, open.source.port());
        out(bed, "RST", &closed.flags(RST));
        let (_, short) = outside_of_tcp(bed, open.source.port());
        let (long, short) =
            (long.expires.wrapping_sub(long.created), short.expires.wrapping_sub(short.created));
        assert!(short * 20 < long, "a closed connection does not keep its port for hours: {short} of {long}");
    });
}

fn outside_of_tcp(bed: &Bed, port: u16) -> (SnatKey, SnatMapping) {
    let all = bed.sandbox.mappings().unwrap();
    let is_it = |key: &SnatKey| key.side == OUTSIDE && key.protocol == 6 && key.port == port.to_be_bytes();
    *all.iter().find(|(key, _)| is_it(key)).unwrap()
}

fn a_pool_is_paired(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(
            "[[snat]]\nname = \"lan\"\nfrom = [\"10.1.0.0/16\"]\nto = [\"192.0.2.1\", \"192.0.2.2\"]\n",
        );
        let mut all = BTreeSet::new();
        for host in 1..=40u8 {
            let mut seen = BTreeSet::new();
            for (port, server) in
                [(4000, "198.51.100.1:53"), (4001, "198.51.100.1:53"), (4000, "203.0.113.9:9")]
            {
                let frame = udp(&format!("10.1.7.{host}:{port}"), server);
                let ran = bed.run("query", CLIENT_SIDE.0, &Frame { to: CLIENT_SIDE.1, ..frame }.bytes());
                assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()));
                seen.insert([ran.frame[26], ran.frame[27], ran.frame[28], ran.frame[29]]);
            }
            assert_eq!(1, seen.len(), "one address for each inside address: {seen:?}");
            all.extend(seen);
        }
        assert_eq!(BTreeSet::from([[192, 0, 2, 1], [192, 0, 2, 2]]), all);
    });
}

fn a_service_keeps_its_port(bed: &mut Bed) {
    in_lan(bed, |bed| {
        let service = forward("dns", "udp", "192.0.2.1:30001", "nat", "10.1.0.6:53");
        bed.rules(&format!("{}{service}", rule("ports = \"30000-30001\"")));
        let first = out(bed, "query", &from_inside(udp("10.1.0.5:30001", "198.51.100.1:53")));
        assert_eq!(30_000, first.source.port(), "the other one is a service's");
        let second = from_inside(udp("10.1.0.6:30001", "198.51.100.1:53"));
        bed.expect("there is no other", &second, Drop, PortsExhausted);
    });
}
