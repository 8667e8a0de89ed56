//! Images, held against the rules they were made from.

use std::{collections::HashMap, net::IpAddr};

use netfast_common::{
    abi::{self, MAGLEV_PER_CELL},
    addr, services,
    wire::Packet,
};
use proptest::prelude::*;

use super::{Host, any_address, any_rules, echo, filter, filters, forward, intent, route, rules, target};
use crate::{
    api::types::{
        AddressSet, Addresses, EchoProtocol, ErrorCode, FilterRule, ForwardMode, IcmpKind, InterfacePolicy,
        Many, Ports, Protocol, Rules, Transport,
    },
    classifier,
    rules::{
        compile::{NO_INTERFACE, compile, expand, require_interfaces},
        ids::Ids,
        images::{HostView, Images, Leaving},
    },
};

fn compiled(rules: &Rules) -> (Images, Ids) {
    let mut ids = Ids::default();
    let images = compile(&intent(rules.clone()), &mut ids, &Host::default()).unwrap();
    (images, ids)
}

fn entries(images: &Images, forward: &abi::Forward) -> Vec<u16> {
    let all: Vec<u16> = images.maglev.iter().flat_map(|cell| cell.targets).collect();
    all[forward.maglev_offset as usize..][..forward.maglev_size as usize].to_vec()
}

#[test]
fn a_forward_and_its_targets() {
    let mut games = forward("games", "192.0.2.10:27000-27099", &["10.0.0.7:100", "10.0.0.8:27000"]);
    games.protocol = Transport::Udp;
    let (images, ids) = compiled(&rules(&[games, forward("six", "[2001:db8::1]:443", &["[fd00::2]:8443"])]));
    assert_eq!(images.warnings, Vec::<String>::new());
    assert_eq!(
        images.services[0],
        abi::Service {
            address: addr::from_v4([192, 0, 2, 10]),
            port_low: 27000,
            port_high: 27099,
            protocol: 17,
            kind: abi::ServiceKind::Forward as u8,
            index: 0,
        }
    );
    assert_eq!((images.services[1].protocol, images.services[1].index), (6, 1));
    let (index, first) = images.targets[0];
    assert_eq!(
        (index, first),
        (
            0,
            abi::Target {
                address: addr::from_v4([10, 0, 0, 7]),
                source: addr::from_v4([10, 0, 0, 1]),
                service: addr::from_v4([192, 0, 2, 10]),
                port_delta: 100_u16.wrapping_sub(27000),
                forward: 0,
                next_hop: 5,
                mode: abi::Mode::Nat as u8,
                in_use: 1,
                uid: ids.forward("games").unwrap().targets[0].uid,
                ..abi::Target::default()
            }
        )
    );
    assert_eq!(27050_u16.wrapping_add(first.port_delta), 150);
    assert_eq!(images.targets[2].1.source, addr::from_ip("fd00::1".parse().unwrap()));
    let (_, image) = images.forwards[0];
    assert_eq!((image.uid, image.maglev_offset, image.maglev_size), (1, 0, 251));
    let table = entries(&images, &image);
    let share = table.iter().filter(|entry| **entry == 0).count();
    assert!((124..=127).contains(&share), "two equal targets, of which one has {share} of 251");
    let (_, six) = images.forwards[1];
    assert_eq!((six.maglev_offset, six.maglev_size), (256, 31), "a single target needs one cell");
    assert!(entries(&images, &six).iter().all(|entry| *entry == 2));
}

#[test]
fn dnat_keeps_the_source_and_no_target_means_no_table() {
    let mut web = forward("web", "192.0.2.1:80", &["10.0.0.1:80"]);
    web.mode = ForwardMode::Dnat;
    let (images, _) = compiled(&rules(&[web, forward("later", "192.0.2.1:81", &[])]));
    assert_eq!(images.targets[0].1.source, [0; 16]);
    assert_eq!(images.targets[0].1.mode, abi::Mode::Dnat as u8);
    assert_eq!(images.forwards[1].1.maglev_size, 0);
}

#[test]
fn routes_come_and_go() {
    let web = intent(rules(&[forward("web", "192.0.2.1:80", &["10.0.0.1:80"])]));
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let mut host = Host { routes: HashMap::from([(address, None)]) };
    let mut ids = Ids::default();
    let images = compile(&web, &mut ids, &host).unwrap();
    assert_eq!((images.targets[0].1.next_hop, images.targets[0].1.source), (0, [0; 16]));
    assert_eq!(
        images.warnings,
        ["target web/10.0.0.1:80 has no route: its packets are dropped until there is one"]
    );
    assert_eq!(images.forwards[0].1.maglev_size, 31, "it stays a target: the program counts no_route");

    host.routes.insert(address, Some(route("10.0.0.254", 9)));
    let images = compile(&web, &mut ids, &host).unwrap();
    assert_eq!((images.targets[0].0, images.targets[0].1.next_hop), (0, 9));
    host.routes.insert(address, None);
    let images = compile(&web, &mut ids, &host).unwrap();
    assert_eq!((images.targets[0].0, images.targets[0].1.next_hop), (0, 0));
    assert_eq!(images.targets[0].1.source, addr::from_v4([10, 0, 0, 254]), "flows still come from it");

    host.routes.insert(address, Some(route("10.9.9.9", 9)));
    let images = compile(&web, &mut ids, &host).unwrap();
    assert_eq!(images.targets[0].0, 1, "the target of flows that exist is not changed under them");
    assert_eq!(ids.retired().len(), 1);
    let uid = ids.retired()[0].uid;
    // It is the same target with another source, not one that was removed: its flows are not ended after a while.
    let leaving = |next_hop| Leaving { index: 0, uid, next_hop, state: abi::TARGET_LEAVES, removed: None };
    assert_eq!(images.leaving, [leaving(9)], "but it follows the routes");
    host.routes.insert(address, Some(route("10.9.9.9", 11)));
    assert_eq!(compile(&web, &mut ids, &host).unwrap().leaving, [leaving(11)]);

    let images = compile(&intent(Rules::default()), &mut ids, &host).unwrap();
    assert_eq!(images.leaving, [], "the flows of a forward that is gone end");
}

#[test]
fn echoes_and_their_allow_lists() {
    let both = Rules {
        echoes: vec![
            echo("192.0.2.1:7", &["198.51.100.0/24", "10.1.2.3/8"]),
            echo("[2001:db8::1]:7", &["2001:db8::/32"]),
        ],
        ..Rules::default()
    };
    let (images, _) = compiled(&both);
    let (_, first) = images.echoes[0];
    let (_, second) = images.echoes[1];
    assert_eq!((first.allow_offset, first.allow_count, first.rate), (0, 2, 1000));
    assert_eq!((second.allow_offset, second.allow_count), (2, 1));
    assert!(first.burst > 0 && first.uid != second.uid);
    assert_eq!(images.echo_allow[0].length, 120);
    assert_eq!(images.echo_allow[1].address, addr::from_v4([10, 0, 0, 0]));
    assert_eq!(images.echo_allow[2].length, 32);
    assert!(images.services.iter().all(|s| s.protocol == 17 && s.kind == abi::ServiceKind::Echo as u8));
}

#[test]
fn filter_rules_of_interfaces() {
    let (images, _) = compiled(&filters(&["drop interface=eth1", "drop name=x interface=gone0", "drop"]));
    let by: Vec<u32> = images.filter.rules.iter().map(|f| f.ifindex).collect();
    assert_eq!(by, [3, NO_INTERFACE, 0]);
    assert_eq!(
        images.warnings,
        ["filter rule \"x\" matches nothing: there is no interface \"gone0\" at present"]
    );
    let before = filters(&["drop interface=gone0"]);
    let after = filters(&["drop interface=eth0", "drop interface=gone0", "drop interface=gone1"]);
    assert_eq!(require_interfaces(&before, &before, &Host::default()), Ok(()));
    let error = require_interfaces(&before, &after, &Host::default()).unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::Rejected, Some("filter[3].interface")));
    assert!(error.message.contains("\"gone1\""), "{}", error.message);
}

#[test]
fn a_refused_compilation_changes_no_identifiers() {
    let (_, ids) = compiled(&rules(&[forward("web", "192.0.2.1:80", &["10.0.0.1:80"])]));
    let mut after = ids.clone();
    let bad = intent(rules(&[forward("a", "192.0.2.1:80", &[]), forward("b", "192.0.2.1:80", &[])]));
    assert!(compile(&bad, &mut after, &Host::default()).is_err());
    assert_eq!(ids, after);
}

/// `count` forwards of `targets` targets each, with weights 1, `weight`, 1, ...
fn many(count: u32, targets: u32, weight: u16) -> Rules {
    let forwards: Vec<_> = (0..count)
        .map(|n| {
            let mut f = forward(&format!("f{n}"), &format!("192.0.2.1:{}", n + 1), &[]);
            f.targets =
                (0..targets).map(|t| target(&format!("10.{}.{}.{}:1", n / 256, n % 256, t + 1))).collect();
            f.targets.iter_mut().step_by(2).for_each(|t| t.weight = weight);
            f
        })
        .collect();
    rules(&forwards)
}

#[test]
fn tables_shrink_until_they_fit_or_are_refused() {
    let (images, _) = compiled(&many(4096, 2, 1));
    assert_eq!(images.maglev.len(), abi::MAX_MAGLEV_CELLS as usize);
    assert_eq!(images.warnings, Vec::<String>::new(), "4096 pairs just fit in full");

    let (images, _) = compiled(&many(4096, 8, 1));
    assert!(images.maglev.len() <= abi::MAX_MAGLEV_CELLS as usize);
    assert!(images.warnings[0].contains("20 entries for each unit"), "{:?}", images.warnings);
    let (_, last) = images.forwards[4095];
    let mut seen = entries(&images, &last);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8, "each target has a share");

    let error = compile(&intent(many(4096, 8, 255)), &mut Ids::default(), &Host::default()).unwrap_err();
    assert_eq!(error.code, ErrorCode::Rejected);
    assert!(error.message.contains("limit 1048576"), "{}", error.message);
    assert!(error.message.contains("smaller weights"), "{}", error.message);
}

/// What a filter rule means, said once more and without bit masks.
fn means(
    rule: &FilterRule,
    sets: &[AddressSet],
    packet: &Packet,
    ifindex: u32,
    icmp: Option<[u8; 2]>,
) -> bool {
    let (source, destination) = (addr::to_ip(&packet.key.source), addr::to_ip(&packet.key.destination));
    let has_ports = matches!(packet.key.protocol, 6 | 17);
    let holds = |list: &Option<Many<Addresses>>, address: &IpAddr| {
        list.as_ref().is_none_or(|list| {
            list.iter().any(|item| match item {
                Addresses::Net(net) => net.contains(address),
                Addresses::Set(name) => sets
                    .iter()
                    .any(|set| set.name == *name && set.addresses.iter().any(|net| net.contains(address))),
            })
        })
    };
    let among = |list: &Option<Many<Ports>>, port: [u8; 2]| {
        let port = u16::from_be_bytes(port);
        list.as_ref().is_none_or(|list| {
            has_ports && list.iter().any(|Ports(range)| (range.low..=range.high).contains(&port))
        })
    };
    let says_kind = |kind: &IcmpKind| {
        icmp.is_some_and(|[of, code]| {
            kind.type_in(packet.version == 6) == Some(of) && kind.code.is_none_or(|wanted| wanted == code)
        })
    };
    rule.flags.is_none_or(|flags| packet.flags & flags.mask == flags.value)
        && rule.vlan.is_none_or(|vlan| packet.vlan == vlan)
        && rule.icmp.as_ref().is_none_or(|kinds| kinds.iter().any(says_kind))
        && holds(&rule.src, &source)
        && holds(&rule.dst, &destination)
        && rule.proto.as_ref().is_none_or(|list| list.iter().any(|proto| proto.0 == packet.key.protocol))
        && rule.version.is_none_or(|version| version == packet.version)
        && rule.interface.as_deref().is_none_or(|name| Host::default().ifindex(name) == Some(ifindex))
        && among(&rule.sport, packet.key.source_port)
        && among(&rule.dport, packet.key.destination_port)
}

fn any_packet() -> impl Strategy<Value = (Packet, u32)> {
    let protocol = prop::sample::select(vec![6_u8, 17, 1, 58, 47]);
    (any_address(), any_address(), protocol, 0_u16..50, 0_u16..50, 1_u32..5).prop_filter_map(
        "both addresses of one version, and ICMP of that version",
        |(source, destination, protocol, sport, dport, ifindex)| {
            let version = if source.is_ipv4() { 4 } else { 6 };
            let fits = match protocol {
                1 => version == 4,
                58 => version == 6,
                _ => true,
            };
            (fits && source.is_ipv4() == destination.is_ipv4()).then(|| {
                let mut packet = Packet { version, ..Packet::default() };
                packet.key.source = addr::from_ip(source);
                packet.key.destination = addr::from_ip(destination);
                packet.key.protocol = protocol;
                packet.key.source_port = sport.to_be_bytes();
                packet.key.destination_port = dport.to_be_bytes();
                (packet, ifindex)
            })
        },
    )
}

proptest! {
    /// The compiled filter decides each packet as the rules do, by the program's own matcher.
    #[test]
    fn filters_mean_what_they_say(
        rules in any_rules(), packets in prop::collection::vec(any_packet(), 1..20),
    ) {
        let mut ids = Ids::default();
        // Some rules overlap in too many ways.
        let Ok(images) = compile(&intent(rules.clone()), &mut ids, &Host::default()) else { return Ok(()) };
        let total = rules.filters.len();
        let filter = classifier::host::Host::new(&images.filter);
        for (packet, ifindex) in packets {
            let matches = |rule: &FilterRule| means(rule, &rules.sets, &packet, ifindex, None);
            let wanted = rules.filters.iter().position(|rule| !rule.action.goes_on() && matches(rule));
            let policy = |policy: &InterfacePolicy| Host::default().ifindex(&policy.interface) == Some(ifindex);
            let wanted = wanted.or_else(|| rules.policies.iter().position(policy).map(|at| total + at));
            let answer = filter.ask(&packet, ifindex, None);
            prop_assert_eq!(wanted.map(|at| ids.filters()[at].index), answer.rule, "{:?}", packet.key);
            // Those before it that count or limit, each once.
            let mut side: Vec<u32> = (0..wanted.unwrap_or(total).min(total))
                .filter(|at| rules.filters[*at].action.goes_on() && matches(&rules.filters[*at]))
                .map(|at| ids.filters()[at].index)
                .collect();
            let mut got = answer.side;
            side.sort_unstable();
            got.sort_unstable();
            prop_assert_eq!(side, got, "{:?}", packet.key);
        }
    }

    /// What the classifier is given means what the rules say, with all their lists and conditions.
    #[test]
    fn what_the_classifier_is_given_means_the_same(
        rules in any_rules(),
        packets in prop::collection::vec((any_packet(), any::<u8>(), 0_u16..5, prop::sample::select(vec![0_u8, 3, 8, 128])), 1..20),
    ) {
        let mut ids = Ids::default();
        ids.assign(&rules).unwrap();
        let expanded = expand(&rules, &ids, &Host::default(), &mut Vec::new()).unwrap();
        for ((mut packet, ifindex), flags, vlan, kind) in packets {
            packet.vlan = vlan;
            packet.flags = if packet.key.protocol == 6 { flags } else { 0 };
            let icmp = matches!(packet.key.protocol, 1 | 58).then_some([kind, flags % 5]);
            let total = rules.filters.len();
            let wanted: Vec<usize> = (0..total)
                .filter(|at| means(&rules.filters[*at], &rules.sets, &packet, ifindex, icmp))
                .chain((0..rules.policies.len()).filter(|at| {
                    Host::default().ifindex(&rules.policies[*at].interface) == Some(ifindex)
                }).map(|at| total + at))
                .collect();
            let mut got: Vec<usize> = (0..expanded.rules.len())
                .filter(|at| expanded.rules[*at].matches(&packet, ifindex, icmp))
                .map(|at| expanded.positions[at] as usize)
                .collect();
            got.dedup();
            prop_assert_eq!(wanted, got);
        }
        for (rule, at) in expanded.rules.iter().zip(&expanded.positions) {
            prop_assert_eq!(rule.number, ids.filters()[*at as usize].index);
        }
        // And it is compiled, though several of its rules have one number.
        if let Err(error) = classifier::compile(&expanded.rules, &classifier::Limits::default()) {
            prop_assert!(matches!(error, classifier::Refused::Steps { .. }), "{}", error);
        }
    }

    /// The program's search finds for each address and port the service that the rules name, and no other.
    #[test]
    fn services_are_found(rules in any_rules(), address in any_address(), tcp: bool, port in 0_u16..60) {
        let (images, ids) = compiled(&rules);
        let protocol = if tcp { Transport::Tcp } else { Transport::Udp };
        let listens = |at: &crate::api::types::Endpoint| {
            at.address == address && (at.ports.low..=at.ports.high).contains(&port)
        };
        let forward = rules.forwards.iter().position(|f| f.protocol == protocol && listens(&f.listen));
        let echo = rules.echoes.iter().position(|e| !tcp && listens(&e.listen));
        let wanted = match (forward, echo) {
            (Some(at), None) => Some((abi::ServiceKind::Forward as u8, ids.forwards()[at].index)),
            (None, Some(at)) => {
                let kind = match rules.echoes[at].protocol {
                    EchoProtocol::Echo => abi::ServiceKind::Echo,
                    EchoProtocol::Stamp => abi::ServiceKind::Stamp,
                };
                Some((kind as u8, ids.echoes()[at].index))
            }
            (None, None) => None,
            (Some(_), Some(_)) => panic!("two services at one port"),
        };
        // As in the map, there is something behind the last one.
        let past = abi::Service::default();
        let found = services::find(
            &addr::from_ip(address),
            if tcp { 6 } else { 17 },
            port,
            images.services.len() as u32,
            |at| Some(images.services.get(at as usize).unwrap_or(&past)),
        );
        prop_assert_eq!(found.map(|s| (s.kind, s.index)), wanted);
    }

    /// Each look-up table names all its forward's targets that do not drain, and nothing else; tables do not overlap.
    #[test]
    fn tables_stay_within_their_forward(rules in any_rules()) {
        let (images, ids) = compiled(&rules);
        let mut end = 0;
        for (image, id) in images.forwards.iter().map(|(_, image)| image).zip(ids.forwards()) {
            let takes: Vec<u16> = id
                .targets
                .iter()
                .map(|target| target.index)
                .filter(|index| images.targets.iter().any(|(i, image)| i == index && image.state == 0))
                .collect();
            if image.maglev_size == 0 {
                prop_assert!(takes.is_empty());
                continue;
            }
            prop_assert_eq!(image.maglev_offset, end);
            end += image.maglev_size.next_multiple_of(MAGLEV_PER_CELL);
            let table = entries(&images, image);
            for target in &takes {
                prop_assert!(table.contains(target), "target {target} has no entry");
            }
            prop_assert!(table.iter().all(|entry| takes.contains(entry)));
        }
        prop_assert_eq!(images.maglev.len() as u32 * MAGLEV_PER_CELL, end);
        let again = compile(&intent(rules), &mut ids.clone(), &Host::default()).unwrap();
        prop_assert_eq!(again, images, "compiling twice gives the same");
    }
}

#[test]
fn nodes_agree_whatever_their_history() {
    let web = rules(&[forward("web", "192.0.2.1:80", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"])]);
    let (here, here_ids) = compiled(&web);
    let mut there_ids = Ids::default();
    let mut turned = web.clone();
    turned.forwards[0].targets.rotate_left(1);
    turned.forwards.insert(0, forward("other", "192.0.2.9:80", &["10.0.0.9:80"]));
    compile(&intent(turned), &mut there_ids, &Host::default()).unwrap();
    let there = compile(&intent(web), &mut there_ids, &Host::default()).unwrap();
    let addresses = |images: &Images, ids: &Ids| -> Vec<String> {
        let id = ids.forward("web").unwrap();
        entries(images, &images.forwards[0].1)
            .iter()
            .map(|index| id.targets.iter().find(|t| t.index == *index).unwrap().address.to_string())
            .collect()
    };
    assert_ne!(here.targets[0].0, there.targets[0].0, "the nodes' indexes differ");
    assert_eq!(addresses(&here, &here_ids), addresses(&there, &there_ids));
}

#[test]
fn rules_by_word_compile() {
    // `filter` of the tests' own words is the oracle of nothing: one literal image by hand.
    let (images, _) = compiled(&filters(&["drop src=203.0.113.0/24 proto=tcp dport=22-23"]));
    assert_eq!(filter("drop src=203.0.113.0/24 proto=tcp dport=22-23").proto, Some(Protocol(6).into()));
    assert_eq!(
        *images.filter.rules,
        [classifier::Rule {
            number: 0,
            version: 4,
            source: classifier::Addresses::V4 { first: 0xcb00_7100, last: 0xcb00_71ff },
            destination: classifier::Addresses::V4 { first: 0, last: u32::MAX },
            protocol: Some(6),
            ports: classifier::Ports::Ports { source: [0, 65535], destination: [22, 23] },
            action: classifier::Action::Drop,
            ..classifier::Rule::default()
        }]
    );
}
