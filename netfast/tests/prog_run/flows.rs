//! The life of flows: cache, confirmation, rule changes, ends.

use std::time::Duration;

use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::Flow,
    flow::{ORIGINAL, State},
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, TARGET_SIDE, scenarios},
    forward::forward,
    frames::{Frame, tcp, udp},
};

scenarios! {
    cached_flows_need_no_table, cached_ipv6_flows_need_no_table, a_half_open_flow_is_not_cached, a_new_generation_voids_lines,
    states_of_a_connection, a_syn_reopens_a_closed_connection, a_filter_is_asked_again_after_a_change,
    translations_survive_changes, a_removed_forward_ends_its_flows, a_forward_of_another_kind_is_another_forward,
    source_ports_run_out, ports_of_closed_connections_are_used_again, openings_give_their_ports_away,
    ports_that_are_kept, two_flows_cannot_be_one, idle_flows_die, half_a_flow_is_none,
}

const WEB: (&str, &str) = ("192.0.2.10:443", "10.0.0.11:8443");

fn web() -> String {
    forward("web", "tcp", WEB.0, "nat", WEB.1)
}

/// The authority's entries: confirmed or not, and the entry.
fn flows(bed: &Bed) -> Vec<(bool, Flow)> {
    let all = bed.sandbox.flows().unwrap();
    all.into_iter().filter(|(_, _, flow)| flow.direction == ORIGINAL).map(|(c, _, f)| (c, f)).collect()
}

fn state(bed: &Bed) -> (bool, State) {
    let flows = flows(bed);
    assert_eq!(1, flows.len(), "{flows:?}");
    (flows[0].0, State::from_number(flows[0].1.state))
}

fn cached_flows_need_no_table(bed: &mut Bed) {
    bed.rules(&format!("{}{}", web(), forward("dns", "udp", "192.0.2.10:53", "dnat", "10.0.0.53:53")));
    let (data, sent) = bed.connect("198.51.100.1:5001", WEB.0, WEB.1);
    bed.replied("data back", &data, &sent.answer());
    let query = udp("198.51.100.1:5001", "192.0.2.10:53");
    let target = "10.0.0.53:53".parse().unwrap();
    let out = query.forwarded(
        TARGET_SIDE.1,
        netfast::datapath::sandbox::mac_of("10.0.0.53".parse().unwrap()),
        query.source,
        target,
    );
    let side = crate::bed::CLIENT_SIDE.0;
    bed.leaves("query", side, &query, Redirect, Forwarded, &out);
    bed.replied("answer", &query, &out.answer());
    bed.leaves("query that is cached", side, &query, Redirect, Forwarded, &out);

    bed.sandbox.forget_flows().unwrap();
    for _ in 0..2 {
        assert_eq!(sent.source, bed.nat("data by the cache", &data, WEB.1).source);
        bed.replied("data back by the cache", &data, &sent.answer());
        bed.leaves("query by the cache", side, &query, Redirect, Forwarded, &out);
        bed.replied("answer by the cache", &query, &out.answer());
        let tagged = data.tagged(&[(0x8100, 7)]);
        let mut expected = sent.clone();
        expected.tags.clear();
        bed.leaves("data behind a tag by the cache", side, &tagged, Redirect, Forwarded, &expected);
    }
    bed.expect("flags that change a state are the table's", &data.flags(FIN | ACK), Pass, TcpNoFlow);
    bed.sandbox.forget_lines().unwrap();
    bed.expect("neither line nor flow", &data, Pass, TcpNoFlow);
}

fn cached_ipv6_flows_need_no_table(bed: &mut Bed) {
    bed.rules(&forward("web", "tcp", "[2001:db8::10]:443", "nat", "[fd00::11]:8443"));
    let (data, sent) = bed.connect("[2001:db8:1::1]:5001", "[2001:db8::10]:443", "[fd00::11]:8443");
    bed.replied("data back", &data, &sent.answer());
    bed.sandbox.forget_flows().unwrap();
    for _ in 0..2 {
        assert_eq!(sent.source, bed.nat("data by the cache", &data, "[fd00::11]:8443").source);
        bed.replied("data back by the cache", &data, &sent.answer());
    }
    bed.sandbox.forget_lines().unwrap();
    bed.expect("neither line nor flow", &data, Pass, TcpNoFlow);
}

fn a_half_open_flow_is_not_cached(bed: &mut Bed) {
    bed.rules(&format!("{}{}", web(), forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53")));
    let syn = tcp("198.51.100.1:5002", WEB.0, SYN);
    let sent = bed.nat("SYN", &syn, WEB.1);
    bed.replied("SYN ACK", &syn, &sent.answer().flags(SYN | ACK));
    let first = bed.nat("query", &udp("198.51.100.1:5002", "192.0.2.10:53"), "10.0.0.53:53");
    assert!(flows(bed).iter().all(|(confirmed, _)| !confirmed));
    bed.sandbox.forget_flows().unwrap();
    bed.expect("an ACK to a flow that was evicted", &syn.flags(ACK), Pass, TcpNoFlow);
    let answer = first.answer().bytes();
    bed.expect_on("an answer to one", TARGET_SIDE.0, &answer, Pass, NoService);
}

fn a_new_generation_voids_lines(bed: &mut Bed) {
    bed.rules(&web());
    let (data, sent) = bed.connect("198.51.100.1:5003", WEB.0, WEB.1);
    bed.replied("data back", &data, &sent.answer());
    bed.sandbox.forget_flows().unwrap();
    bed.nat("by the cache", &data, WEB.1);
    bed.rules(&web());
    bed.expect("the line is of another generation", &data, Pass, TcpNoFlow);
}

fn states_of_a_connection(bed: &mut Bed) {
    bed.rules(&web());
    let syn = tcp("198.51.100.1:5004", WEB.0, SYN);
    let sent = bed.nat("SYN", &syn, WEB.1);
    assert_eq!((false, State::SynSent), state(bed));
    assert_eq!(sent.source, bed.nat("SYN again", &syn, WEB.1).source, "a SYN that was lost is sent again");
    bed.replied("SYN ACK", &syn, &sent.answer().flags(SYN | ACK));
    assert_eq!((false, State::SynReceived), state(bed), "a forged SYN has got this far, too");
    bed.nat("ACK", &syn.flags(ACK), WEB.1);
    assert_eq!((true, State::Established), state(bed));
    bed.replied("target's FIN", &syn, &sent.answer().flags(FIN | ACK));
    assert_eq!((true, State::TargetClosed), state(bed));
    bed.nat("ACK", &syn.flags(ACK), WEB.1);
    bed.nat("client's FIN", &syn.flags(FIN | ACK), WEB.1);
    assert_eq!((true, State::BothClosed), state(bed));
    bed.replied("last ACK", &syn, &sent.answer().flags(ACK));
    assert_eq!((true, State::BothClosed), state(bed));

    bed.sandbox.forget_flows().unwrap();
    let (data, sent) = bed.connect("198.51.100.1:5005", WEB.0, WEB.1);
    bed.replied("RST", &data, &sent.answer().flags(RST));
    assert_eq!((true, State::Reset), state(bed));
}

fn a_syn_reopens_a_closed_connection(bed: &mut Bed) {
    bed.rules(&web());
    let (data, sent) = bed.connect("198.51.100.1:5006", WEB.0, WEB.1);
    assert_eq!(
        sent.source,
        bed.nat("a SYN in an open connection changes nothing", &data.flags(SYN).payload(b""), WEB.1).source
    );
    assert_eq!((true, State::Established), state(bed));
    bed.nat("RST", &data.flags(RST), WEB.1);
    let again = bed.nat("the same client comes again", &data.flags(SYN).payload(b""), WEB.1);
    assert_eq!((true, State::Reopened), state(bed));
    assert_eq!(sent.source, again.source, "lines of the old connection stay right");
    bed.replied("SYN ACK", &data, &again.answer().flags(SYN | ACK).payload(b""));
    bed.nat("ACK, by a line of the old connection", &data.payload(b""), WEB.1);
    bed.sandbox.pass(Duration::from_secs(20)).unwrap();
    bed.nat("ACK", &data.payload(b""), WEB.1);
    assert_eq!((true, State::Established), state(bed));
    bed.nat("RST", &data.flags(RST), WEB.1);
    bed.rules(&format!("{}{}", web(), forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53")));
    bed.nat("and again, under new rules", &data.flags(SYN).payload(b""), WEB.1);
    assert_eq!((false, State::SynSent), state(bed), "a new flow");
}

fn a_filter_is_asked_again_after_a_change(bed: &mut Bed) {
    let drop = "[[filter]]\naction = \"drop\"\nsrc = \"198.51.100.0/24\"\n";
    for version in [4, 6] {
        let (source, service, target, rule) = match version {
            4 => ("198.51.100.1:5007", WEB.0, WEB.1, drop.to_owned()),
            _ => (
                "[2001:db8:1::1]:5007",
                "[2001:db8::10]:443",
                "[fd00::11]:8443",
                drop.replace("198.51.100.0/24", "2001:db8:1::/48"),
            ),
        };
        let rules = forward("web", "tcp", service, "nat", target);
        bed.rules(&rules);
        let (data, sent) = bed.connect(source, service, target);
        bed.replied("data back", &data, &sent.answer());
        bed.rules(&format!("{rules}{rule}"));
        for _ in 0..2 {
            bed.expect("an established flow that is no longer allowed", &data, Drop, FilterDrop);
        }
        bed.rules(&rules);
        assert_eq!(sent.source, bed.nat("allowed again", &data, target).source);
        bed.replied("and back", &data, &sent.answer());
    }
}

fn translations_survive_changes(bed: &mut Bed) {
    bed.rules(&web());
    let (data, sent) = bed.connect("198.51.100.1:5008", WEB.0, WEB.1);
    let other = forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53");
    let allow = "[[filter]]\naction = \"allow\"\nsrc = \"198.51.100.0/24\"\n[[filter]]\naction = \"drop\"\n";
    // Another target beside the flow's own, other rules, the flow's target gone, and back.
    let two = format!("{}[[forward.target]]\naddress = \"10.0.0.12:8443\"\n", web());
    for rules in [format!("{}{other}", web()), format!("{}{allow}", web()), two, web()] {
        bed.rules(&rules);
        for _ in 0..2 {
            assert_eq!(sent.source, bed.nat("data", &data, WEB.1).source, "after {rules}");
            bed.replied("data back", &data, &sent.answer());
        }
    }
    bed.rules(&format!("{}{other}", web()));
    bed.replied("an answer is the first packet after a change", &data, &sent.answer());
}

fn a_removed_forward_ends_its_flows(bed: &mut Bed) {
    bed.rules(&web());
    let (data, sent) = bed.connect("198.51.100.1:5009", WEB.0, WEB.1);
    let (other, _) = bed.connect("198.51.100.1:5010", WEB.0, WEB.1);
    bed.rules("");
    bed.expect("the client's next packet", &data, Pass, ForwardRemoved);
    bed.expect("and the one after it", &data, Pass, NoService);
    let answer = sent.answer().bytes();
    bed.expect_on("an answer to a flow that has ended", TARGET_SIDE.0, &answer, Pass, NoService);
    bed.rules(&web());
    bed.expect("the forward is back, the flow is not", &data, Pass, TcpNoFlow);
    bed.expect("nor is one that was not touched meanwhile", &other, Pass, TcpNoFlow);
    assert!(flows(bed).is_empty());
}

fn a_forward_of_another_kind_is_another_forward(bed: &mut Bed) {
    bed.rules(&web());
    let (data, _) = bed.connect("198.51.100.1:5011", WEB.0, WEB.1);
    bed.rules(&forward("web", "tcp", WEB.0, "dnat", WEB.1));
    bed.expect("a flow of the other mode", &data, Pass, TcpNoFlow);
}

fn source_ports_run_out(bed: &mut Bed) {
    bed.rules(&format!(
        "{}{}",
        forward("a", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"),
        forward("b", "udp", "192.0.2.10:54", "nat", "10.0.0.53:54")
    ));
    bed.sandbox.configure(|settings| settings.nat_ports = 20_000..=20_002);
    let query =
        |port: u16, service: u16| udp(&format!("198.51.100.1:{port}"), &format!("192.0.2.10:{service}"));
    let mut ports: Vec<u16> =
        (1..=3).map(|port| bed.nat("one of three", &query(port, 53), "10.0.0.53:53").source.port()).collect();
    ports.sort_unstable();
    assert_eq!(vec![20_000, 20_001, 20_002], ports, "all of them are given out, none twice");
    bed.expect("a fourth", &query(4, 53), Drop, PortsExhausted);
    bed.nat("the others go on", &query(2, 53), "10.0.0.53:53");
    bed.nat("towards another port of the target the same ones are free", &query(4, 54), "10.0.0.53:54");
}

/// A TCP forward with two source ports, and both of them in use: the connections' data packets, as they come in and as they leave.
fn two_connections(bed: &mut Bed) -> [(Frame, Frame); 2] {
    bed.rules(&web());
    bed.sandbox.configure(|settings| settings.nat_ports = 20_000..=20_001);
    ["198.51.100.1:5101", "198.51.100.1:5102"].map(|client| bed.connect(client, WEB.0, WEB.1))
}

/// Ends a connection from both sides.
fn close(bed: &mut Bed, (data, sent): &(Frame, Frame)) {
    bed.nat("client's FIN", &data.flags(FIN | ACK), WEB.1);
    bed.replied("target's FIN", data, &sent.answer().flags(FIN | ACK));
    bed.nat("last ACK", &data.flags(ACK), WEB.1);
}

fn ports_of_closed_connections_are_used_again(bed: &mut Bed) {
    let [open, closed] = two_connections(bed);
    close(bed, &closed);
    let third = tcp("198.51.100.2:5103", WEB.0, SYN);
    bed.expect("lines of the closed connection may act", &third, Drop, PortsExhausted);
    bed.sandbox.pass(Duration::from_secs(20)).unwrap();
    let sent = bed.nat("now it gives way", &third, WEB.1);
    assert_eq!(closed.1.source, sent.source);
    bed.replied("the answer is the new client's", &third, &sent.answer().flags(SYN | ACK));
    bed.expect("the old client has no flow", &closed.0.flags(ACK), Pass, TcpNoFlow);
    bed.nat("data of the new one", &third.flags(ACK), WEB.1);
    assert_eq!(open.1.source, bed.nat("the open one is as it was", &open.0, WEB.1).source);
    bed.sandbox.pass(Duration::from_secs(20)).unwrap();
    bed.expect("open ones give way to nobody", &tcp("198.51.100.2:5104", WEB.0, SYN), Drop, PortsExhausted);
    assert_eq!(2, flows(bed).len());
}

fn openings_give_their_ports_away(bed: &mut Bed) {
    bed.rules(&web());
    bed.sandbox.configure(|settings| settings.nat_ports = 20_000..=20_001);
    let syn = |port: u16| tcp(&format!("198.51.100.1:{port}"), WEB.0, SYN);
    bed.nat("a forged SYN", &syn(5201), WEB.1);
    let answered = bed.nat("another", &syn(5202), WEB.1);
    bed.replied("which the target answers", &syn(5202), &answered.answer().flags(SYN | ACK));
    bed.expect("they may go on yet", &syn(5203), Drop, PortsExhausted);
    bed.sandbox.pass(Duration::from_secs(3)).unwrap();
    for port in [5203, 5204] {
        bed.nat("nobody has gone on with them", &syn(port), WEB.1);
    }
    bed.expect("these may go on", &syn(5205), Drop, PortsExhausted);
    bed.sandbox.pass(Duration::from_secs(2)).unwrap();
    let again = bed.nat("a SYN that is sent again", &syn(5203), WEB.1).source;
    bed.sandbox.pass(Duration::from_secs(1)).unwrap();
    let taken = bed.nat("takes the port of the one that was not", &syn(5205), WEB.1).source;
    assert_ne!(again, taken);
    assert_eq!(2, flows(bed).len());
    assert_eq!(again, bed.nat("the other one keeps its own", &syn(5203), WEB.1).source);
    assert_eq!(2, flows(bed).len());
}

fn ports_that_are_kept(bed: &mut Bed) {
    let [reset, half_closed] = two_connections(bed);
    bed.nat("RST, which may be forged", &reset.0.flags(RST), WEB.1);
    bed.nat("one side's FIN", &half_closed.0.flags(FIN | ACK), WEB.1);
    bed.sandbox.pass(Duration::from_secs(60)).unwrap();
    let third = tcp("198.51.100.2:5103", WEB.0, SYN);
    bed.expect("nobody gives way", &third, Drop, PortsExhausted);
    bed.sandbox.pass(Duration::from_secs(181)).unwrap();
    assert_eq!(reset.1.source, bed.nat("a dead one does", &third, WEB.1).source);
}

fn two_flows_cannot_be_one(bed: &mut Bed) {
    bed.rules(&format!(
        "{}{}",
        forward("a", "udp", "192.0.2.10:53", "dnat", "10.0.0.53:53"),
        forward("b", "udp", "192.0.2.11:53", "dnat", "10.0.0.53:53")
    ));
    let first = udp("198.51.100.1:5012", "192.0.2.10:53");
    bed.expect("the first", &first, Redirect, Forwarded);
    let second = udp("198.51.100.1:5012", "192.0.2.11:53");
    bed.expect("the target could not tell them apart", &second, Drop, FlowConflict);
    bed.expect("another port of the client", &udp("198.51.100.1:5013", "192.0.2.11:53"), Redirect, Forwarded);
    bed.expect("the first goes on", &first, Redirect, Forwarded);
}

fn idle_flows_die(bed: &mut Bed) {
    bed.rules(&format!("{}{}", web(), forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53")));
    let query = udp("198.51.100.1:5014", "192.0.2.10:53");
    let sent = bed.nat("query", &query, "10.0.0.53:53");
    let syn = tcp("198.51.100.1:5014", WEB.0, SYN);
    let opened = bed.nat("SYN", &syn, WEB.1);
    bed.sandbox.pass(Duration::from_secs(242)).unwrap();
    let late = sent.answer().bytes();
    bed.expect_on("nothing revives a dead flow", TARGET_SIDE.0, &late, Pass, NoService);
    let late = opened.answer().flags(SYN | ACK).bytes();
    bed.expect_on("nor a handshake", TARGET_SIDE.0, &late, Pass, NoService);
    bed.expect("an ACK to it", &syn.flags(ACK), Pass, TcpNoFlow);
    bed.nat("a query opens a new one", &query, "10.0.0.53:53");
}

fn half_a_flow_is_none(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"));
    let query = udp("198.51.100.1:5015", "192.0.2.10:53");
    let entry = |bed: &Bed, direction: u8| {
        let all = bed.sandbox.flows().unwrap();
        all.into_iter().find(|(_, _, flow)| flow.direction == direction).unwrap().1
    };
    let sent = bed.nat("query", &query, "10.0.0.53:53");
    bed.sandbox.forget_entry(&entry(bed, ORIGINAL)).unwrap();
    bed.sandbox.pass(Duration::from_secs(20)).unwrap();
    let answer = sent.answer().bytes();
    bed.expect_on("a reply entry that leads nowhere", TARGET_SIDE.0, &answer, Pass, NoService);
    assert!(bed.sandbox.flows().unwrap().is_empty(), "it is taken away");
    let sent = bed.nat("query", &query, "10.0.0.53:53");
    bed.sandbox.forget_entry(&entry(bed, 1 - ORIGINAL)).unwrap();
    let again = bed.nat("without its reply entry a flow is made anew", &query, "10.0.0.53:53");
    bed.replied("and answered", &query, &again.answer());
    drop(sent);
}
