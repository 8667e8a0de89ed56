//! What the filter has to say about packets of flows: rules on TCP flags, for each packet they speak of.

use netfast_common::{
    Reason::*,
    Verdict::*,
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    filter_actions::{at_home, counts},
    forward::forward,
    frames::{PSH, tcp},
};

scenarios! {
    rules_on_flags_speak_of_both_directions, plain_segments_stay_cached_where_no_rule_speaks_of_them,
    only_rules_on_flags_speak_of_flows, openings_of_a_flow_are_limited, a_packet_of_a_flow_is_refused,
    under_new_rules_each_rule_is_asked_once, rules_on_flags_speak_of_ipv6_flows,
}

const CLIENT: &str = "203.0.113.8:1";
const WEB: (&str, &str) = ("192.0.2.10:443", "10.0.0.11:8443");

fn web(filter: &str) -> String {
    format!("{}{filter}", forward("web", "tcp", WEB.0, "nat", WEB.1))
}

fn rules_on_flags_speak_of_both_directions(bed: &mut Bed) {
    bed.rules(&web("[[filter]]\naction = \"drop\"\nproto = \"tcp\"\nflags = \"psh\"\n"));
    let (data, sent) = bed.connect(CLIENT, WEB.0, WEB.1);
    let answer = sent.answer();
    for _ in 0..3 {
        bed.nat("a segment that no rule speaks of", &data, WEB.1);
        bed.expect("one that a rule forbids", &data.flags(ACK | PSH), Drop, FilterDrop);
        bed.replied("an answer", &data, &answer);
        let pushed = answer.flags(ACK | PSH).bytes();
        bed.expect_on("an answer that a rule forbids", TARGET_SIDE.0, &pushed, Drop, FilterDrop);
    }
    assert_eq!(vec![6], counts(bed));
    bed.sandbox.forget_flows().unwrap();
    bed.expect("no line hides them", &data, Pass, TcpNoFlow);
}

fn plain_segments_stay_cached_where_no_rule_speaks_of_them(bed: &mut Bed) {
    // What netfilter would call "established" forbids nothing, so it costs flows nothing.
    bed.rules(&web(
        "[[filter]]\naction = \"drop\"\nproto = \"tcp\"\nflags = \"fin\"\nsrc = \"203.0.113.0/24\"\n\
         [[filter]]\naction = \"reject\"\nproto = \"tcp\"\nflags = \"rst\"\nsrc = \"10.0.0.0/8\"\n\
         [[filter]]\naction = \"drop\"\nproto = \"tcp\"\nflags = \"none/all\"\n\
         [[filter]]\naction = \"allow\"\nproto = \"tcp\"\nflags = \"ack\"\n",
    ));
    let (data, sent) = bed.connect(CLIENT, WEB.0, WEB.1);
    let answer = sent.answer();
    bed.replied("an answer", &data, &answer);
    bed.expect("an end of the client", &data.flags(FIN | ACK), Drop, FilterDrop);
    bed.replied("an end of the target", &data, &answer.flags(FIN | ACK));
    let reset = answer.flags(RST | ACK).bytes();
    bed.expect_on("a reset of the target", TARGET_SIDE.0, &reset, Drop, FilterReject);
    bed.nat("a reset of the client", &data.flags(RST | ACK), WEB.1);
    assert_eq!(vec![1, 1, 0, 0], counts(bed), "a rule that allows does not count packets of flows");
    bed.sandbox.forget_flows().unwrap();
    bed.nat("by the cache", &data, WEB.1);
    bed.replied("by the cache", &data, &answer);
}

fn only_rules_on_flags_speak_of_flows(bed: &mut Bed) {
    // The first match of all: what stands before a rule on flags shields from it.
    bed.rules(&web("[[filter]]\naction = \"allow\"\nproto = \"tcp\"\nflags = \"syn/syn,ack\"\n\
         [[filter]]\naction = \"allow\"\nsrc = \"203.0.113.9\"\n\
         [[filter]]\naction = \"count\"\n\
         [[filter]]\naction = \"count\"\nproto = \"tcp\"\nflags = \"psh\"\n\
         [[filter]]\naction = \"drop\"\nproto = \"tcp\"\nflags = \"fin\"\n\
         [[filter]]\naction = \"drop\"\n"));
    let (data, sent) = bed.connect(CLIENT, WEB.0, WEB.1);
    bed.nat("of a flow that its opening has allowed", &data, WEB.1);
    bed.nat("counted", &data.flags(ACK | PSH), WEB.1);
    bed.replied("counted", &data, &sent.answer().flags(ACK | PSH));
    bed.expect("forbidden", &data.flags(FIN | ACK), Drop, FilterDrop);
    assert_eq!(vec![1, 0, 0, 2, 1, 0], counts(bed));
    bed.expect("of no flow", &tcp("203.0.113.10:1", WEB.0, ACK), Drop, FilterDrop);
    assert_eq!(vec![1, 0, 1, 2, 1, 1], counts(bed));
    let (data, _) = bed.connect("203.0.113.9:1", WEB.0, WEB.1);
    bed.nat("shielded by a rule before it", &data.flags(FIN | ACK), WEB.1);
}

fn openings_of_a_flow_are_limited(bed: &mut Bed) {
    bed.rules(&web(
        "[[filter]]\naction = \"limit\"\nproto = \"tcp\"\nflags = \"syn/syn,ack,fin,rst\"\nrate = \"1/s\"\nburst = 4\n",
    ));
    let syn = tcp(CLIENT, WEB.0, SYN);
    let forwarded = (0..20)
        .filter(|_| {
            let ran = bed.run("an opening, repeated", CLIENT_SIDE.0, &syn.bytes());
            let forwarded = ran.verdict() == Some(Redirect);
            assert_eq!(Some(if forwarded { Forwarded } else { FilterLimit }), ran.reason());
            forwarded
        })
        .count();
    assert!((4..=8).contains(&forwarded), "{forwarded}");
    assert_eq!(vec![20 - forwarded as u64], counts(bed));
}

fn a_packet_of_a_flow_is_refused(bed: &mut Bed) {
    bed.rules(&web("[[filter]]\naction = \"reject\"\nproto = \"tcp\"\nflags = \"fin\"\n"));
    at_home(bed);
    let (data, _) = bed.connect(CLIENT, WEB.0, WEB.1);
    let ran = bed.run("refused", CLIENT_SIDE.0, &data.flags(FIN | ACK).bytes());
    assert_eq!((Some(Transmit), Some(FilterReject)), (ran.verdict(), ran.reason()));
    assert_eq!(RST, ran.frame[14 + 20 + 13] & RST, "its sender is told");
}

fn under_new_rules_each_rule_is_asked_once(bed: &mut Bed) {
    bed.rules(&web(""));
    let (data, sent) = bed.connect(CLIENT, WEB.0, WEB.1);
    let filter = "[[filter]]\naction = \"count\"\n\
                  [[filter]]\naction = \"count\"\nproto = \"tcp\"\nflags = \"psh\"\n\
                  [[filter]]\naction = \"allow\"\nsrc = \"203.0.113.0/24\"\n[[filter]]\naction = \"drop\"\n";
    bed.rules(&web(filter));
    bed.nat("the first under new rules", &data.flags(ACK | PSH), WEB.1);
    assert_eq!(vec![1, 1, 1, 0], counts(bed));
    bed.nat("the next", &data.flags(ACK | PSH), WEB.1);
    bed.replied("an answer", &data, &sent.answer().flags(ACK | PSH));
    assert_eq!(vec![1, 3, 1, 0], counts(bed));
    bed.rules(&web(&filter.replace("203.0.113.0/24", "203.0.113.9/32")));
    bed.expect("no longer allowed", &data.flags(ACK | PSH), Drop, FilterDrop);
}

fn rules_on_flags_speak_of_ipv6_flows(bed: &mut Bed) {
    let (service, target) = ("[2001:db8::10]:443", "[fd00::11]:8443");
    let six = forward("six", "tcp", service, "nat", target);
    bed.rules(&format!("{six}[[filter]]\naction = \"drop\"\nproto = \"tcp\"\nflags = \"psh\"\n"));
    let (data, sent) = bed.connect("[2001:db8:8::8]:1", service, target);
    for _ in 0..2 {
        bed.nat("a segment that no rule speaks of", &data, target);
        bed.expect("one that a rule forbids", &data.flags(ACK | PSH), Drop, FilterDrop);
    }
    let pushed = sent.answer().flags(ACK | PSH).bytes();
    bed.expect_on("an answer that a rule forbids", TARGET_SIDE.0, &pushed, Drop, FilterDrop);
}
