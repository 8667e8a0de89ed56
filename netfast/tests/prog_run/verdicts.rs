//! Verdicts on packets of no flow in the flow cache: exact counters, and no answer to a later flow is swallowed.

use std::net::SocketAddr;

use netfast_common::{
    Reason::*,
    Verdict::*,
    wire::{ACK, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    filter_actions::counts,
    forward::forward,
    frames::{Frame, PSH, tcp, udp},
};

scenarios! {
    verdicts_are_cached_and_counted, cached_verdicts_act, a_cached_verdict_is_one_of_its_place, new_rules_void_verdicts,
    what_goes_on_is_asked_each_time, answers_of_later_flows_are_not_swallowed, answers_to_any_address_are_not_swallowed,
    openings_are_not_swallowed, flows_go_before_verdicts, what_is_dropped_at_one_place_may_be_allowed_elsewhere,
}

/// Sends a frame so often that its verdict is in the cache, if it may be.
const OFTEN: u64 = 24;

#[track_caller]
fn often(
    bed: &mut Bed,
    what: &str,
    frame: &Frame,
    verdict: netfast_common::Verdict,
    reason: netfast_common::Reason,
) {
    for _ in 0..OFTEN {
        bed.expect(what, frame, verdict, reason);
    }
}

fn verdicts_are_cached_and_counted(bed: &mut Bed) {
    let rules = "[[filter]]\naction = \"allow\"\ndport = 53\nproto = \"udp\"\n[[filter]]\naction = \"drop\"\nsrc = [\"198.51.100.0/24\", \"2001:db8::/32\"]\n";
    bed.rules(rules);
    for (lines, (what, frame, verdict, reason)) in (1..).zip([
        ("allowed", udp("198.51.100.7:1", "192.0.2.10:53"), Pass, NoService),
        ("dropped", udp("198.51.100.7:1", "192.0.2.10:54"), Drop, FilterDrop),
        ("dropped data", tcp("198.51.100.7:1", "192.0.2.10:54", ACK), Drop, FilterDrop),
        ("by no rule", tcp("203.0.113.7:1", "192.0.2.10:54", ACK), Pass, NoService),
        ("allowed IPv6", udp("[2001:db8::7]:1", "[2001:db8:1::10]:53"), Pass, NoService),
        ("dropped IPv6", tcp("[2001:db8::7]:1", "[2001:db8:1::10]:53", ACK), Drop, FilterDrop),
    ]) {
        often(bed, what, &frame, verdict, reason);
        assert_eq!(lines, bed.sandbox.verdict_lines().unwrap(), "{what}");
    }
    assert_eq!(vec![2 * OFTEN, 3 * OFTEN], counts(bed), "each packet counts");
    let syn = tcp("198.51.100.7:1", "192.0.2.10:54", SYN);
    often(bed, "an opening", &syn, Drop, FilterDrop);
    let fragment = Frame { fragment: Some((0, true)), ..udp("198.51.100.9:1", "192.0.2.10:54") };
    often(bed, "a fragment", &fragment, Drop, FilterDrop);
    let other = Frame { to: [2, 0, 0, 0, 0, 1], ..udp("198.51.100.9:2", "192.0.2.10:54") };
    often(bed, "to another station", &other, Drop, FilterDrop);
    assert_eq!(6, bed.sandbox.verdict_lines().unwrap(), "the hot program does not look at such packets");
}

fn cached_verdicts_act(bed: &mut Bed) {
    bed.rules("[[filter]]\naction = \"drop\"\ndport = 54\nproto = \"udp\"\n");
    let passed = udp("198.51.100.7:1", "192.0.2.10:53");
    let dropped = udp("198.51.100.7:1", "192.0.2.10:54");
    for (frame, verdict, reason) in [(passed, Pass, NoService), (dropped, Drop, FilterDrop)] {
        // The hot program does not check this sum, as for flows; the slow one drops the frame.
        let mut broken = frame.bytes();
        broken[24] ^= 1;
        // A line lives for some seconds, and this machine may be slow.
        let acts = (0..10).any(|_| {
            often(bed, "to be cached", &frame, verdict, reason);
            bed.run("cached", CLIENT_SIDE.0, &broken).reason() == Some(reason)
        });
        assert!(acts, "{reason:?}");
    }
}

fn a_cached_verdict_is_one_of_its_place(bed: &mut Bed) {
    bed.rules(
        "[[filter]]\naction = \"drop\"\ninterface = \"nf-client\"\nvlan = 0\n[[filter]]\naction = \"allow\"\ninterface = \"nf-client\"\n\
         [[filter]]\naction = \"drop\"\nvlan = 7\n",
    );
    for frame in [udp("198.51.100.7:1", "192.0.2.10:53"), udp("[2001:db8::7]:1", "[2001:db8::10]:53")] {
        let there = |frame: &Frame| Frame { to: TARGET_SIDE.1, ..frame.clone() }.bytes();
        let tagged = frame.tagged(&[(0x8100, 7)]);
        for _ in 0..3 {
            often(bed, "untagged", &frame, Drop, FilterDrop);
            bed.expect("in a VLAN", &tagged, Pass, NoService);
            bed.expect_on("by another interface", TARGET_SIDE.0, &there(&frame), Pass, NoService);
            bed.expect_on("by another interface", TARGET_SIDE.0, &there(&tagged), Drop, FilterDrop);
        }
        bed.sandbox.forget_lines().unwrap();
        often(bed, "in a VLAN", &tagged, Pass, NoService);
        assert_eq!(1, bed.sandbox.verdict_lines().unwrap());
        bed.expect("untagged", &frame, Drop, FilterDrop);
        bed.sandbox.forget_lines().unwrap();
    }
}

fn new_rules_void_verdicts(bed: &mut Bed) {
    let (frame, drop) = (udp("198.51.100.7:1", "192.0.2.10:53"), "[[filter]]\naction = \"drop\"\n");
    for _ in 0..3 {
        bed.rules(drop);
        often(bed, "dropped", &frame, Drop, FilterDrop);
        bed.rules("");
        often(bed, "not dropped any more", &frame, Pass, NoService);
    }
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"));
    bed.nat("a service by now", &frame, "10.0.0.53:53");
}

fn what_goes_on_is_asked_each_time(bed: &mut Bed) {
    bed.rules(
        "[[filter]]\naction = \"count\"\nproto = \"udp\"\n[[filter]]\naction = \"limit\"\nproto = \"tcp\"\nrate = \"1/s\"\nburst = 30\n\
         [[filter]]\naction = \"drop\"\ndport = 54\nproto = [\"tcp\", \"udp\"]\n[[filter]]\naction = \"reject\"\ndport = 55\nproto = \"udp\"\n",
    );
    often(bed, "counted", &udp("198.51.100.7:1", "192.0.2.10:53"), Pass, NoService);
    often(bed, "counted and dropped", &udp("198.51.100.7:1", "192.0.2.10:54"), Drop, FilterDrop);
    often(bed, "held to a rate", &tcp("198.51.100.7:1", "192.0.2.10:54", ACK), Drop, FilterDrop);
    for _ in 0..OFTEN {
        bed.run("refused", CLIENT_SIDE.0, &udp("198.51.100.7:1", "192.0.2.10:55").bytes());
    }
    assert_eq!(0, bed.sandbox.verdict_lines().unwrap());
    assert_eq!(vec![3 * OFTEN, 0, 2 * OFTEN, OFTEN], counts(bed));
}

fn answers_of_later_flows_are_not_swallowed(bed: &mut Bed) {
    // One port: the next flow must take it.
    bed.sandbox.configure(|settings| settings.nat_ports = 25_000..=25_000);
    for (service, target, own, client) in [
        ("192.0.2.10:53", "10.0.0.53:53", "10.0.0.1:25000", "198.51.100.7:4000"),
        ("[2001:db8::10]:53", "[fd00::53]:53", "[fd00::1]:25000", "[2001:db8:8::7]:4000"),
    ] {
        bed.rules(&format!(
            "{}[[filter]]\naction = \"drop\"\nsrc = \"10.0.0.0/8\"\n",
            forward("dns", "udp", service, "nat", target)
        ));
        let dropped = target.starts_with("10.");
        let stray = Frame { to: TARGET_SIDE.1, ..udp(target, own) };
        for _ in 0..OFTEN {
            let ran = bed.run("a stray answer", TARGET_SIDE.0, &stray.bytes());
            assert_eq!(Some(if dropped { FilterDrop } else { NoService }), ran.reason());
        }
        let query = udp(client, service);
        let out = bed.nat("a query", &query, target);
        assert_eq!(own.parse::<SocketAddr>().unwrap(), out.source);
        assert_eq!((stray.source, stray.destination), (out.answer().source, out.answer().destination));
        for _ in 0..3 {
            bed.replied("its answer", &query, &out.answer());
        }
    }
    assert_eq!(0, bed.sandbox.verdict_lines().unwrap());
}

fn answers_to_any_address_are_not_swallowed(bed: &mut Bed) {
    let (query, target) = (udp("198.51.100.7:4000", "192.0.2.10:53"), "10.0.0.53:53");
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "dnat", target));
    let stray = Frame { to: TARGET_SIDE.1, ..udp(target, "198.51.100.7:4000") };
    for _ in 0..OFTEN {
        bed.expect_on("a stray answer", TARGET_SIDE.0, &stray.bytes(), Pass, NoService);
    }
    bed.run("a query", CLIENT_SIDE.0, &query.bytes());
    bed.replied("its answer", &query, &stray);
    bed.rules("[[snat]]\nname = \"out\"\nfrom = [\"10.0.0.0/8\"]\nto = [\"192.0.2.20\"]\n");
    often(bed, "may be source NAT's", &udp("198.51.100.7:4000", "192.0.2.20:99"), Pass, NoService);
    assert_eq!(0, bed.sandbox.verdict_lines().unwrap());
}

fn openings_are_not_swallowed(bed: &mut Bed) {
    let web = forward("web", "tcp", "192.0.2.10:443", "nat", "10.0.0.11:8443");
    bed.rules(&format!(
        "{web}[[filter]]\naction = \"allow\"\nproto = \"tcp\"\nflags = \"syn/syn,ack\"\n[[filter]]\naction = \"drop\"\n"
    ));
    often(bed, "of no connection", &tcp("198.51.100.7:1", "192.0.2.10:443", ACK), Drop, FilterDrop);
    bed.connect("198.51.100.7:1", "192.0.2.10:443", "10.0.0.11:8443");
    // A rule that tells plain segments apart.
    bed.rules("[[filter]]\naction = \"allow\"\nproto = \"tcp\"\nflags = \"psh\"\n[[filter]]\naction = \"drop\"\nproto = \"tcp\"\n");
    for _ in 0..OFTEN {
        bed.expect("pushed", &tcp("198.51.100.8:1", "192.0.2.10:22", ACK | PSH), Pass, NoService);
        bed.expect("not pushed", &tcp("198.51.100.8:1", "192.0.2.10:22", ACK), Drop, FilterDrop);
    }
    assert_eq!(0, bed.sandbox.verdict_lines().unwrap());
    // What netfilter would call "established" is cached.
    bed.rules(
        "[[filter]]\naction = \"allow\"\nproto = \"tcp\"\nflags = \"ack\"\n[[filter]]\naction = \"drop\"\n",
    );
    often(bed, "of the host's own connection", &tcp("198.51.100.8:1", "192.0.2.10:22", ACK), Pass, NoService);
    assert_eq!(1, bed.sandbox.verdict_lines().unwrap());
    bed.expect("an opening", &tcp("198.51.100.8:1", "192.0.2.10:22", SYN), Drop, FilterDrop);
}

fn flows_go_before_verdicts(bed: &mut Bed) {
    let flood = |bed: &mut Bed, from: u16| {
        for port in 0..1600 {
            let frame = udp(&format!("198.51.100.8:{}", from + port), "192.0.2.10:99");
            bed.expect("one of a flood", &frame, Drop, FilterDrop);
        }
    };
    let web = forward("web", "tcp", "192.0.2.10:443", "nat", "10.0.0.11:8443");
    bed.rules(&format!("{web}[[filter]]\naction = \"drop\"\nproto = \"udp\"\n"));
    flood(bed, 10_000);
    // One in eight is kept, and as long as there are free ways hardly any takes the place of another.
    assert!(bed.sandbox.verdict_lines().unwrap() > 190);
    let flows: Vec<_> = (1..100)
        .map(|port| bed.connect(&format!("198.51.100.7:{port}"), "192.0.2.10:443", "10.0.0.11:8443"))
        .collect();
    for (data, sent) in &flows {
        bed.replied("an answer", data, &sent.answer());
    }
    flood(bed, 20_000);
    bed.sandbox.forget_flows().unwrap();
    let kept = flows
        .iter()
        .filter(|(data, _)| bed.run("", CLIENT_SIDE.0, &data.bytes()).reason() == Some(Forwarded));
    // Of 198 lines in 512 places some hide each other.
    let kept = kept.count();
    assert!(kept > 90, "{kept} of 99 lines are left by a flood");
}

fn what_is_dropped_at_one_place_may_be_allowed_elsewhere(bed: &mut Bed) {
    let dns = forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53");
    bed.rules(&format!("{dns}[[policy]]\ninterface = \"nf-target\"\nfilter = \"drop\"\n"));
    let query = udp("198.51.100.7:4000", "192.0.2.10:53");
    let there = Frame { to: TARGET_SIDE.1, ..query.clone() }.bytes();
    for _ in 0..OFTEN {
        bed.expect_on("where it may not come in", TARGET_SIDE.0, &there, Drop, FilterDrop);
    }
    bed.nat("where it may", &query, "10.0.0.53:53");
    let ran = bed.run("a packet of the flow", TARGET_SIDE.0, &there);
    assert_eq!(Some(Forwarded), ran.reason());
}
