//! Connection tracking: who may confirm, shorten and end a flow, how long each state lives, and what full tables do.

use std::{collections::HashMap, thread, time::Duration};

use netfast::{
    api::types::FlowFilter,
    datapath::{TableSizes, sandbox::SMALL_TABLES},
};
use netfast_common::{
    Reason::*,
    Verdict::*,
    flow::{ORIGINAL, State},
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios, source_port},
    forward::forward,
    frames::{Frame, tcp, udp},
    mutate::Random,
};

scenarios! {
    only_who_sees_the_answer_confirms, a_forged_reset_does_not_end_a_connection, a_half_closed_connection_lives_on,
    each_state_lives_for_its_time, a_refused_connection_stays_half_open, no_stale_line_acts,
    a_line_is_not_revived_by_longer_times, a_source_has_its_quota_of_new_flows,
}

pub const WEB: (&str, &str) = ("192.0.2.10:443", "10.0.0.11:8443");
pub const DNS: (&str, &str) = ("192.0.2.10:53", "10.0.0.53:53");
const CLIENT: &str = "198.51.100.1:5001";

pub fn rules() -> String {
    format!("{}{}", forward("web", "tcp", WEB.0, "nat", WEB.1), forward("dns", "udp", DNS.0, "nat", DNS.1))
}

/// Confirmed or not, and the state, of the only flow.
#[track_caller]
fn state(bed: &Bed) -> (bool, State) {
    let flows = bed.sandbox.flows().unwrap();
    let mut flows = flows.into_iter().filter(|(.., flow)| flow.direction == ORIGINAL);
    let (confirmed, _, flow) = flows.next().expect("there is a flow");
    assert!(flows.next().is_none(), "there is one flow");
    (confirmed, State::from_number(flow.state))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn only_who_sees_the_answer_confirms(bed: &mut Bed) {
    bed.rules(&rules());
    let syn = tcp(CLIENT, WEB.0, SYN);
    let sent = bed.nat("SYN", &syn, WEB.1);
    let answer = Frame { numbers: (0xffff_fff0, 1001), ..sent.answer().flags(SYN | ACK) };
    bed.replied("SYN ACK", &syn, &answer);
    for number in [0xffff_fff0, 0xffff_0000, 0x8000_0000, 200_000] {
        let guess = Frame { numbers: (1001, number), ..syn.flags(ACK) };
        bed.nat("an ACK of one who does not see the answer goes to the target, which resets", &guess, WEB.1);
        assert_eq!((false, State::SynReceived), state(bed), "{number}");
    }
    bed.nat("the client's ACK", &Frame { numbers: (1001, 0xffff_fff1), ..syn.flags(ACK) }, WEB.1);
    assert_eq!((true, State::Established), state(bed));

    bed.sandbox.forget_flows().unwrap();
    let syn = tcp("198.51.100.1:5002", WEB.0, SYN);
    let sent = bed.nat("SYN", &syn, WEB.1);
    bed.replied("SYN ACK", &syn, &sent.answer().flags(SYN | ACK));
    let other = Frame { numbers: (7_000_000, 1001), ..sent.answer().flags(SYN | ACK) };
    bed.replied("the target has started again and answers another number", &syn, &other);
    bed.nat("an ACK of the first answer", &syn.flags(ACK), WEB.1);
    assert_eq!((false, State::SynReceived), state(bed));
    bed.nat("of the second", &Frame { numbers: (1001, 7_000_001), ..syn.flags(ACK) }, WEB.1);
    assert_eq!((true, State::Established), state(bed));
}

/// RFC 7857 2.2: the state is kept for 4 min; what goes on brings it back.
fn a_forged_reset_does_not_end_a_connection(bed: &mut Bed) {
    bed.rules(&rules());
    let (data, sent) = bed.connect(CLIENT, WEB.0, WEB.1);
    bed.replied("data back", &data, &sent.answer());
    for round in 0..2 {
        if round == 0 {
            bed.nat("a RST that claims to be the client's goes to the target", &data.flags(RST), WEB.1);
        } else {
            bed.replied("one that claims to be the target's", &data, &sent.answer().flags(RST));
        }
        assert_eq!((true, State::Reset), state(bed));
        bed.nat("a line acts as before", &data, WEB.1);
        bed.sandbox.pass(seconds(200)).unwrap();
        bed.replied("the target has not taken it", &data, &sent.answer());
        assert_eq!((true, State::Established), state(bed));
        bed.sandbox.pass(seconds(7400)).unwrap();
        assert_eq!(sent.source, bed.nat("two hours later", &data, WEB.1).source);
    }
    bed.nat("a true RST", &data.flags(RST), WEB.1);
    bed.sandbox.pass(seconds(238)).unwrap();
    bed.nat("sent again after almost 4 min", &data.flags(RST), WEB.1);
    bed.sandbox.pass(seconds(242)).unwrap();
    bed.expect("then it is over", &data.flags(RST), Pass, TcpNoFlow);
}

/// RFC 9293 3.6: the side that has not sent FIN may go on.
fn a_half_closed_connection_lives_on(bed: &mut Bed) {
    bed.rules(&rules());
    for client_first in [true, false] {
        let (data, sent) = bed.connect(CLIENT, WEB.0, WEB.1);
        let close = |bed: &mut Bed, client: bool| {
            if client {
                bed.nat("client's FIN", &data.flags(FIN | ACK).payload(b""), WEB.1);
            } else {
                bed.replied("target's FIN", &data, &sent.answer().flags(FIN | ACK).payload(b""));
            }
        };
        close(bed, client_first);
        bed.sandbox.pass(seconds(3600)).unwrap();
        for _ in 0..2 {
            bed.replied("an hour later, from the target", &data, &sent.answer());
            bed.nat("and from the client", &data, WEB.1);
        }
        bed.sandbox.pass(seconds(60)).unwrap();
        close(bed, !client_first);
        assert_eq!((true, State::BothClosed), state(bed));
        bed.sandbox.pass(seconds(200)).unwrap();
        bed.nat("the last ACK is late", &data.payload(b""), WEB.1);
        bed.sandbox.pass(seconds(242)).unwrap();
        bed.expect("4 min later it is over", &data, Pass, TcpNoFlow);
        assert!(bed.sandbox.flows().unwrap().is_empty());
    }
}

fn each_state_lives_for_its_time(bed: &mut Bed) {
    bed.rules(&rules());
    let query = udp(CLIENT, DNS.0);
    let sent = bed.nat("query", &query, DNS.1);
    bed.sandbox.pass(seconds(118)).unwrap();
    bed.replied("an answer within 2 min (RFC 4787 REQ-5)", &query, &sent.answer());
    bed.sandbox.pass(seconds(298)).unwrap();
    assert_eq!(sent.source, bed.nat("a query within 5 min refreshes it (REQ-6)", &query, DNS.1).source);
    bed.sandbox.pass(seconds(298)).unwrap();
    bed.replied("so does an answer", &query, &sent.answer());
    bed.sandbox.pass(seconds(302)).unwrap();
    bed.expect_on("nothing revives it", TARGET_SIDE.0, &sent.answer().bytes(), Pass, NoService);
    let sent = bed.nat("query", &query, DNS.1);
    bed.sandbox.pass(seconds(122)).unwrap();
    bed.expect_on("one way only: 2 min", TARGET_SIDE.0, &sent.answer().bytes(), Pass, NoService);

    let syn = tcp(CLIENT, WEB.0, SYN);
    let sent = bed.nat("SYN", &syn, WEB.1);
    bed.sandbox.pass(seconds(238)).unwrap();
    bed.replied("a SYN ACK within 4 min (RFC 5382 REQ-5)", &syn, &sent.answer().flags(SYN | ACK));
    bed.sandbox.pass(seconds(242)).unwrap();
    bed.expect("an ACK after them", &syn.flags(ACK), Pass, TcpNoFlow);
    let (data, sent) = bed.connect(CLIENT, WEB.0, WEB.1);
    bed.sandbox.pass(seconds(7438)).unwrap();
    bed.replied("data within 2 h 4 min (RFC 5382 REQ-5)", &data, &sent.answer());
    bed.sandbox.pass(seconds(7442)).unwrap();
    bed.expect("after them", &data, Pass, TcpNoFlow);
}

/// A SYN and a RST, both forged, must not get into the table of confirmed flows.
fn a_refused_connection_stays_half_open(bed: &mut Bed) {
    bed.rules(&rules());
    let syn = tcp(CLIENT, WEB.0, SYN);
    let sent = bed.nat("SYN", &syn, WEB.1);
    bed.replied("RST", &syn, &sent.answer().flags(RST | ACK));
    assert_eq!((false, State::Refused), state(bed));
    assert_eq!(sent.source, bed.nat("the client tries again", &syn, WEB.1).source);
    assert_eq!((false, State::SynSent), state(bed));
    bed.replied("SYN ACK", &syn, &sent.answer().flags(SYN | ACK));
    bed.nat("ACK", &syn.flags(ACK), WEB.1);
    assert_eq!((true, State::Established), state(bed));
}

/// Times as short as they may be, four source ports, eight clients, and everything that ends or makes flows, at
/// random: a source port belongs to the client that opened the last flow with it, and nobody else's packet has it.
fn no_stale_line_acts(bed: &mut Bed) {
    bed.rules(&rules());
    let short = seconds(16);
    bed.sandbox.configure(|settings| {
        settings.nat_ports = 20_000..=20_003;
        settings.idle.udp = short;
        settings.idle.udp_one_way = seconds(3);
        settings.idle.tcp_opening = seconds(8);
        settings.idle.tcp_established = short;
        settings.idle.tcp_half_closed = short;
        settings.idle.tcp_closing = short;
        settings.idle.tcp_reset = seconds(8);
    });
    let mut random = Random(0x6e65_7466_6173_7407);
    // By protocol and source port: the client; by protocol and client: the frame that it sent last.
    let mut owners: HashMap<(bool, u16), usize> = HashMap::new();
    let mut sent: HashMap<(bool, usize), Frame> = HashMap::new();
    let (mut by_port, mut taken_over, mut replies) = (0, 0, 0);
    for step in 0..6000u32 {
        let (client, is_tcp) = (random.below(8), random.below(2) == 0);
        let source = format!("198.51.100.1:{}", 6000 + client);
        match random.below(20) {
            0 => bed.sandbox.pass(seconds(random.below(12) as u64)).unwrap(),
            1 if step % 5 == 0 => bed.rules(&rules()),
            2 if step % 5 == 0 => {
                bed.sandbox.datapath().sweep(step).unwrap();
            }
            3 if step % 5 == 0 => {
                // The publication that voids lines comes later: with the next one of the steps above.
                bed.sandbox.datapath().flush_flows(&FlowFilter::default(), &|_| None).unwrap();
            }
            4..=9 => {
                // The target answers what came by a port that it knows.
                let Some(frame) = sent.get(&(is_tcp, client)).cloned() else { continue };
                let flags = [SYN | ACK, ACK, ACK, FIN | ACK, RST][random.below(5)];
                let answer = if is_tcp { frame.answer().flags(flags) } else { frame.answer() };
                let ran = bed.run("answer", TARGET_SIDE.0, &answer.bytes());
                if ran.verdict() == Some(Redirect) {
                    let owner = owners[&(is_tcp, frame.source.port())];
                    let to = u16::from_be_bytes([ran.frame[36], ran.frame[37]]);
                    assert_eq!(6000 + owner as u16, to, "step {step}: an answer to another client");
                    replies += 1;
                }
            }
            _ => {
                let flags = [SYN, SYN, ACK, ACK, ACK, FIN | ACK, RST][random.below(7)];
                let frame = if is_tcp { tcp(&source, WEB.0, flags) } else { udp(&source, DNS.0) };
                let ran = bed.run("from a client", CLIENT_SIDE.0, &frame.bytes());
                if ran.verdict() != Some(Redirect) {
                    continue;
                }
                let port = source_port(&ran.frame);
                let owner = owners.get(&(is_tcp, port)).copied();
                let had = sent.get(&(is_tcp, client)).map(|frame| frame.source.port());
                if owner != Some(client) {
                    // It must be a new flow: one that a packet may open, and not with the port that the client had.
                    assert!(!is_tcp || flags == SYN, "step {step}: {flags:#x} opens no flow");
                    let opened = bed.sandbox.flows().unwrap().into_iter().any(|(.., flow)| {
                        flow.direction == ORIGINAL
                            && flow.translated.source_port == port.to_be_bytes()
                            && (flow.translated.protocol == 6) == is_tcp
                            && flow.state == if is_tcp { State::SynSent as u8 } else { State::OneWay as u8 }
                    });
                    assert!(
                        opened,
                        "step {step}: port {port} of {owner:?} was used by {client}, which had {had:?}"
                    );
                    taken_over += u32::from(owner.is_some());
                    owners.insert((is_tcp, port), client);
                } else {
                    by_port += 1;
                }
                let target = if is_tcp { WEB.1 } else { DNS.1 };
                let own = format!("10.0.0.1:{port}").parse().unwrap();
                sent.insert(
                    (is_tcp, client),
                    frame.forwarded(
                        TARGET_SIDE.1,
                        bed.way(&target[..target.find(':').unwrap()]).destination,
                        own,
                        target.parse().unwrap(),
                    ),
                );
            }
        }
    }
    assert!(by_port > 500 && taken_over > 50 && replies > 200, "{by_port}, {taken_over}, {replies}");
}

/// Cached lines that are void stay so if the operator allows them a longer life.
fn a_line_is_not_revived_by_longer_times(bed: &mut Bed) {
    bed.rules(&rules());
    bed.sandbox.configure(|settings| settings.idle.udp = seconds(8));
    let query = udp(CLIENT, DNS.0);
    let sent = bed.nat("query", &query, DNS.1);
    bed.replied("answer", &query, &sent.answer());
    bed.nat("cached", &query, DNS.1);
    bed.sandbox.forget_flows().unwrap();
    bed.nat("the line acts", &query, DNS.1);
    bed.sandbox.forget_flows().unwrap();
    bed.sandbox.pass(seconds(9)).unwrap();
    bed.sandbox.configure(|settings| settings.idle.udp = seconds(300));
    assert!(bed.sandbox.flows().unwrap().is_empty());
    bed.nat("by a new flow", &query, DNS.1);
    assert_eq!(2, bed.sandbox.flows().unwrap().len(), "not by the line");
}

/// One source that floods leaves the others unaffected.
fn a_source_has_its_quota_of_new_flows(bed: &mut Bed) {
    bed.rules(&format!("{}{}", rules(), forward("dns6", "udp", "[2001:db8::10]:53", "nat", "[fd00::53]:53")));
    let (data, sent) = bed.connect(CLIENT, WEB.0, WEB.1);
    // By the quota that is set without a word: what an earlier run of this has left of the tokens is filled up.
    bed.nat("query", &udp("[2001:db8:1::ffff]:6000", "[2001:db8::10]:53"), "[fd00::53]:53");
    let began = std::time::Instant::now();
    bed.sandbox.configure(|settings| settings.flow_quota = (1, 20));
    let mut opened = [0i32; 2];
    for number in 0..200u16 {
        let v4 = udp(&format!("198.51.100.1:{}", 6000 + number), DNS.0);
        // Another address of the same /64 each time.
        let v6 = udp(&format!("[2001:db8:1::{:x}]:6000", number + 1), "[2001:db8::10]:53");
        for (at, query) in [v4, v6].into_iter().enumerate() {
            let ran = bed.run("flood", CLIENT_SIDE.0, &query.bytes());
            match ran.reason() {
                Some(FlowQuota) => assert_eq!(Some(Drop), ran.verdict()),
                reason => {
                    assert_eq!(Some(Forwarded), reason);
                    opened[at] += 1;
                }
            }
        }
        if number % 10 == 0 {
            let (subnet, client) = (number / 10 + 2, number / 10 + 1);
            bed.nat("another address", &udp(&format!("203.0.113.{client}:6000"), DNS.0), DNS.1);
            let other = udp(&format!("[2001:db8:{subnet}::1]:6000"), "[2001:db8::10]:53");
            bed.nat("another /64", &other, "[fd00::53]:53");
        }
    }
    // Each second that all this takes is worth one more.
    let most = 21 + began.elapsed().as_secs() as i32;
    assert!(opened.iter().all(|opened| (19..=most).contains(opened)), "{opened:?}, at most {most}");
    assert_eq!(sent.source, bed.nat("flows that the source has are not asked", &data, WEB.1).source);
    bed.replied("nor their answers", &data, &sent.answer());
    bed.sandbox.configure(|settings| settings.flow_quota = (0, 1));
    bed.nat("without a quota", &udp("198.51.100.1:9999", DNS.0), DNS.1);
}

/// Runs a scenario in a sandbox of its own, with tables of other sizes.
fn with_tables(tables: TableSizes, scenario: fn(&mut Bed)) {
    let result = thread::spawn(move || scenario(&mut Bed::with(tables))).join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn small(flows: u32, half_open: u32) -> TableSizes {
    TableSizes { flows, half_open, ..SMALL_TABLES }
}

/// RFC 4787 REQ-11: those in a full table go on as before, new ones are refused and counted.
#[test]
fn a_full_table_changes_nothing_for_those_in_it() {
    with_tables(small(64, 1024), |bed| {
        bed.rules(&rules());
        let query = |number: u32| udp(&format!("198.51.100.1:{}", 5000 + number), DNS.0);
        let mut sent = Vec::new();
        let mut refused = 0;
        for number in 0..100 {
            let query = query(number);
            let out = bed.nat("query", &query, DNS.1);
            let ran = bed.run("answer", TARGET_SIDE.0, &out.answer().bytes());
            if ran.reason() == Some(FlowTableFull) {
                assert_eq!(Some(Drop), ran.verdict());
                refused += 1;
            } else {
                assert_eq!(Some(Reply), ran.reason());
                sent.push((query, out));
            }
        }
        assert!(sent.len() >= 60 && refused >= 30, "{} in, {refused} refused", sent.len());
        for _ in 0..2 {
            for (query, out) in &sent {
                assert_eq!(out.source, bed.nat("one that is in", query, DNS.1).source);
                bed.replied("its answer", query, &out.answer());
            }
            bed.sandbox.forget_lines().unwrap();
        }
        let (gone, _) = sent.remove(0);
        bed.sandbox.pass(seconds(301)).unwrap();
        bed.sandbox.datapath().sweep(0).unwrap();
        let out = bed.nat("room again", &gone, DNS.1);
        bed.replied("and an answer", &gone, &out.answer());
    });
}

/// A flood of openings pushes out openings and nothing else, and slows nobody: established flows are cached, or found
/// in a table that the flood does not get into.
#[test]
fn a_flood_of_openings_leaves_established_flows_alone() {
    with_tables(small(1024, 1024), |bed| {
        bed.rules(&rules());
        bed.sandbox.configure(|settings| settings.nat_ports = 1024..=65_535);
        let open: Vec<_> = (0..100)
            .map(|number| {
                let source = format!("198.51.100.2:{}", 5000 + number);
                let (data, sent) = bed.connect(&source, WEB.0, WEB.1);
                let query = udp(&source, DNS.0);
                let asked = bed.nat("query", &query, DNS.1);
                bed.replied("answer", &query, &asked.answer());
                (data, sent, query, asked)
            })
            .collect();
        let mut random = Random(0x6e65_7466_6173_7409);
        for number in 0..20_000u32 {
            let source = format!("203.0.113.{}:{}", random.below(250) + 1, 1024 + number);
            let frame = match number % 4 {
                0 => udp(&source, DNS.0),
                1 => tcp(&source, WEB.0, ACK),
                _ => tcp(&source, WEB.0, SYN),
            };
            let out = bed.run("flood", CLIENT_SIDE.0, &frame.bytes());
            if number % 8 == 2 {
                // And with the second half of a handshake, guessed.
                bed.run("guess", CLIENT_SIDE.0, &Frame { numbers: (1, number), ..frame.flags(ACK) }.bytes());
                bed.run("RST", CLIENT_SIDE.0, &frame.flags(RST).bytes());
            }
            assert_ne!(Some(FlowTableFull), out.reason());
        }
        let confirmed = bed.sandbox.flows().unwrap().into_iter().filter(|(confirmed, ..)| *confirmed).count();
        assert_eq!(
            4 * open.len(),
            confirmed,
            "both entries of what was there before, and nothing of the flood"
        );
        for _ in 0..2 {
            for (data, sent, query, asked) in &open {
                assert_eq!(sent.source, bed.nat("data", data, WEB.1).source);
                bed.replied("data back", data, &sent.answer());
                assert_eq!(asked.source, bed.nat("query", query, DNS.1).source);
                bed.replied("answer", query, &asked.answer());
            }
            bed.sandbox.forget_lines().unwrap();
        }
        let (data, sent) = bed.connect("198.51.100.3:5000", WEB.0, WEB.1);
        bed.replied("and a new connection gets through", &data, &sent.answer());
    });
}
