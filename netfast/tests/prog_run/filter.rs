//! The filter: every field, the order, the counters.

use netfast_common::{
    Reason::*,
    Verdict::*,
    wire::{ACK, SYN},
};

use crate::{
    bed::{Bed, TARGET_SIDE, scenarios},
    frames::{Extension, Frame, tcp, udp},
};

scenarios! {
    each_field_decides, ipv6, the_first_match_decides, counters, ports_are_not_read_where_there_are_none,
    the_filter_comes_before_services, a_target_s_answer_is_not_asked_for,
}

fn each_field_decides(bed: &mut Bed) {
    let frame = tcp("198.51.100.7:40000", "192.0.2.10:22", SYN);
    let other = |change: &dyn Fn(&mut Frame)| {
        let mut other = frame.clone();
        change(&mut other);
        other
    };
    let cases = [
        ("src = \"198.51.100.0/24\"", other(&|f| f.source = "198.51.101.7:40000".parse().unwrap())),
        ("src = \"198.51.100.7/32\"", other(&|f| f.source = "198.51.100.6:40000".parse().unwrap())),
        ("dst = \"192.0.2.8/30\"", other(&|f| f.destination = "192.0.2.12:22".parse().unwrap())),
        ("proto = \"tcp\"", udp("198.51.100.7:40000", "192.0.2.10:22")),
        ("proto = \"tcp\"\nsport = \"40000-40009\"", other(&|f| f.source.set_port(39_999))),
        ("proto = \"tcp\"\nsport = \"39990-40000\"", other(&|f| f.source.set_port(40_001))),
        ("proto = \"tcp\"\ndport = 22", other(&|f| f.destination.set_port(23))),
        ("proto = \"tcp\"\ndport = \"1-22\"", other(&|f| f.destination.set_port(23))),
        ("version = 4", tcp("[2001:db8::7]:40000", "[2001:db8::10]:22", SYN)),
    ];
    for (fields, other) in cases {
        bed.rules(&format!("[[filter]]\naction = \"drop\"\n{fields}"));
        bed.expect(fields, &frame, Drop, FilterDrop);
        bed.expect(fields, &other, Pass, NoService);
    }
    bed.rules("[[filter]]\naction = \"drop\"\ninterface = \"nf-client\"");
    bed.expect("the interface", &frame, Drop, FilterDrop);
    let there = Frame { to: TARGET_SIDE.1, ..frame.clone() }.bytes();
    bed.expect_on("another interface", TARGET_SIDE.0, &there, Pass, NoService);
    bed.rules("[[filter]]\naction = \"drop\"");
    bed.expect("a rule without fields", &frame, Drop, FilterDrop);
    bed.expect("of any version", &udp("[2001:db8::7]:1", "[2001:db8::10]:2"), Drop, FilterDrop);
    bed.expect("of any protocol", &frame.protocol(1), Drop, FilterDrop);
    let other_station = Frame { to: [2, 0, 0, 0, 0, 1], ..frame };
    bed.expect("to another station, too: the host may be a router", &other_station, Drop, FilterDrop);
}

fn ipv6(bed: &mut Bed) {
    bed.rules("[[filter]]\naction = \"drop\"\nsrc = \"2001:db8:0:1::/64\"\nproto = \"udp\"\ndport = 53");
    let dns = udp("[2001:db8:0:1::7]:4000", "[2001:db8::10]:53");
    let tagged = dns.tagged(&[(0x88a8, 1), (0x8100, 2)]);
    let extended = dns.extended(&[Extension::Raw(60, vec![1, 4, 0, 0, 0, 0])]);
    bed.table(&[
        ("matches", dns.bytes(), Drop, FilterDrop),
        ("behind two tags", tagged.bytes(), Drop, FilterDrop),
        ("behind an extension header", extended.bytes(), Drop, FilterDrop),
        ("another prefix", udp("[2001:db8:0:2::7]:4000", "[2001:db8::10]:53").bytes(), Pass, NoService),
        ("another port", udp("[2001:db8:0:1::7]:4000", "[2001:db8::10]:54").bytes(), Pass, NoService),
        (
            "another protocol",
            tcp("[2001:db8:0:1::7]:4000", "[2001:db8::10]:53", SYN).bytes(),
            Pass,
            NoService,
        ),
    ]);
}

fn the_first_match_decides(bed: &mut Bed) {
    let allow = "[[filter]]\naction = \"allow\"\nsrc = \"198.51.100.7/32\"\n";
    let drop = "[[filter]]\naction = \"drop\"\nsrc = \"198.51.100.0/24\"\n";
    let (friend, stranger) = (udp("198.51.100.7:1", "192.0.2.10:9"), udp("198.51.100.8:1", "192.0.2.10:9"));
    bed.rules(&format!("{allow}{drop}"));
    bed.expect("allowed before the drop", &friend, Pass, NoService);
    bed.expect("only dropped", &stranger, Drop, FilterDrop);
    bed.rules(&format!("{drop}{allow}"));
    bed.expect("dropped before the allow", &friend, Drop, FilterDrop);
    // The last of as many rules as fit is reached.
    let fill = "[[filter]]\naction = \"drop\"\nsrc = \"203.0.113.0/24\"\n";
    let many: Vec<String> = (1..512).map(|port| format!("{fill}proto = \"tcp\"\ndport = {port}\n")).collect();
    bed.rules(&format!("{}{drop}", many.concat()));
    bed.expect("the 512th rule", &stranger, Drop, FilterDrop);
    bed.expect("none of them", &udp("198.51.101.8:1", "192.0.2.10:9"), Pass, NoService);
}

fn counters(bed: &mut Bed) {
    bed.rules(
        "[[filter]]\naction = \"allow\"\nname = \"a\"\nsrc = \"198.51.100.7/32\"\n\
         [[filter]]\naction = \"drop\"\nname = \"b\"\nsrc = \"198.51.100.0/24\"\n\
         [[filter]]\naction = \"drop\"\nname = \"c\"\n",
    );
    let (friend, stranger) = (udp("198.51.100.7:1", "192.0.2.10:9"), udp("198.51.100.8:1", "192.0.2.10:9"));
    for _ in 0..3 {
        bed.expect("a", &friend, Pass, NoService);
    }
    bed.expect("b", &stranger, Drop, FilterDrop);
    let filters = bed.sandbox.ids().filters();
    let counts: Vec<_> = filters
        .iter()
        .map(|id| bed.sandbox.counters().filter(id.index))
        .map(|c| (c.packets, c.bytes))
        .collect();
    let length = friend.bytes().len() as u64;
    assert_eq!(vec![(3, 3 * length), (1, length), (0, 0)], counts, "only the rule that decides counts");
}

fn ports_are_not_read_where_there_are_none(bed: &mut Bed) {
    bed.rules("[[filter]]\naction = \"drop\"\nproto = \"udp\"\ndport = \"1-65535\"");
    let frame = udp("198.51.100.7:40000", "192.0.2.10:22");
    let later = Frame { fragment: Some((5, false)), ..frame.clone() };
    bed.table(&[
        ("a datagram", frame.bytes(), Drop, FilterDrop),
        ("ICMP", frame.protocol(1).bytes(), Pass, NotTcpUdp),
        ("a later fragment", later.bytes(), Pass, Fragment),
    ]);
    bed.rules("[[filter]]\naction = \"drop\"\nproto = \"icmp\"");
    bed.expect("a rule without ports", &frame.protocol(1), Drop, FilterDrop);
    bed.rules("[[filter]]\naction = \"drop\"\nproto = \"udp\"");
    bed.expect("later fragments have a protocol", &later, Drop, FilterDrop);
}

const WEB: &str = "[[forward]]\nname = \"web\"\nprotocol = \"tcp\"\nlisten = \"192.0.2.10:443\"\n\
                   [[forward.target]]\naddress = \"10.0.0.11:8443\"\n";

fn the_filter_comes_before_services(bed: &mut Bed) {
    bed.rules(&format!("{WEB}[[filter]]\naction = \"drop\"\nsrc = \"198.51.100.0/24\"\n"));
    bed.expect("a client that may not", &tcp("198.51.100.7:1", "192.0.2.10:443", SYN), Drop, FilterDrop);
    assert!(bed.sandbox.flows().unwrap().is_empty());
    bed.nat("one that may", &tcp("203.0.113.7:1", "192.0.2.10:443", SYN), "10.0.0.11:8443");
}

fn a_target_s_answer_is_not_asked_for(bed: &mut Bed) {
    // Answers of an allowed flow pass whatever the rules say about the target's network.
    bed.rules(&format!("{WEB}[[filter]]\naction = \"drop\"\nsrc = \"10.0.0.0/8\"\n"));
    let (data, sent) = bed.connect("203.0.113.8:1", "192.0.2.10:443", "10.0.0.11:8443");
    bed.replied("data", &data, &sent.answer().flags(ACK));
}
