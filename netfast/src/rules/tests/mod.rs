//! Tests of the rules, by what they are about.

use std::{collections::HashMap, net::IpAddr};

use proptest::prelude::*;

use super::{
    images::{HostView, TargetRoute},
    normal::normalize,
    validate,
};
use crate::api::types::{
    Echo, Endpoint, FilterAction, FilterRule, Forward, ForwardMode, Intent, PortRange, Protocol, Rules,
    Target, Transport,
};

mod change;
mod check;
mod compile;
mod diff;
mod ids;
mod validate_tests;

pub fn target(address: &str) -> Target {
    Target { address: address.parse().unwrap(), weight: 1 }
}

pub fn forward(name: &str, listen: &str, targets: &[&str]) -> Forward {
    Forward {
        name: name.to_owned(),
        protocol: Transport::Tcp,
        listen: listen.parse().unwrap(),
        mode: ForwardMode::Nat,
        targets: targets.iter().map(|t| target(t)).collect(),
        comment: None,
    }
}

pub fn echo(listen: &str, allow: &[&str]) -> Echo {
    let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
    Echo { listen: listen.parse().unwrap(), allow, rate: 1000, comment: None }
}

/// A filter rule as the CLI writes one: `drop name=scanner src=203.0.113.0/24 proto=tcp dport=22`.
pub fn filter(text: &str) -> FilterRule {
    let mut words = text.split(' ');
    let mut rule = FilterRule { action: words.next().unwrap().parse().unwrap(), ..FilterRule::default() };
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "name" => rule.name = Some(value.to_owned()),
            "src" => rule.src = Some(value.parse().unwrap()),
            "dst" => rule.dst = Some(value.parse().unwrap()),
            "proto" => rule.proto = Some(value.parse().unwrap()),
            "sport" => rule.sport = Some(value.parse().unwrap()),
            "dport" => rule.dport = Some(value.parse().unwrap()),
            "interface" => rule.interface = Some(value.to_owned()),
            "version" => rule.version = Some(value.parse().unwrap()),
            other => panic!("no such key: {other}"),
        }
    }
    rule
}

pub fn rules(forwards: &[Forward]) -> Rules {
    Rules { forwards: forwards.to_vec(), ..Rules::default() }
}

pub fn filters(texts: &[&str]) -> Rules {
    Rules { filters: texts.iter().map(|text| filter(text)).collect(), ..Rules::default() }
}

pub fn intent(rules: Rules) -> Intent {
    Intent { revision: 7, attachments: Vec::new(), rules }
}

/// A host with interfaces `eth0` (2) and `eth1` (3), and a route to everything but what `routes` says otherwise of.
#[derive(Default)]
pub struct Host {
    pub routes: HashMap<IpAddr, Option<TargetRoute>>,
}

pub fn route(source: &str, next_hop: u16) -> TargetRoute {
    TargetRoute { source: source.parse().unwrap(), next_hop }
}

impl HostView for Host {
    fn ifindex(&self, name: &str) -> Option<u32> {
        match name {
            "eth0" => Some(2),
            "eth1" => Some(3),
            _ => None,
        }
    }

    fn route(&self, target: IpAddr) -> Option<TargetRoute> {
        self.routes
            .get(&target)
            .copied()
            .unwrap_or_else(|| Some(route(if target.is_ipv4() { "10.0.0.1" } else { "fd00::1" }, 5)))
    }
}

/// Any rules that are valid. Few names, addresses and ports, so that objects meet.
pub fn any_rules() -> impl Strategy<Value = Rules> {
    let forwards = prop::collection::vec(any_forward(), 0..8);
    let echoes = prop::collection::vec(any_echo(), 0..4);
    let filters = prop::collection::vec(any_filter(), 0..12);
    (forwards, echoes, filters).prop_map(|(forwards, echoes, filters)| {
        let mut rules = Rules { forwards, echoes, filters };
        // What does not go with the rest is left out, so that valid rules are not a rarity.
        while let Some(problem) = validate::problems(&rules).into_iter().next() {
            match problem.place {
                validate::Place::Forward(at) => drop(rules.forwards.remove(at)),
                validate::Place::Target(at, target) => drop(rules.forwards[at].targets.remove(target)),
                validate::Place::Echo(at) => drop(rules.echoes.remove(at)),
                validate::Place::Filter(at) => drop(rules.filters.remove(at)),
                validate::Place::Whole => panic!("{problem:?}"),
            }
        }
        normalize(&mut rules);
        rules
    })
}

pub fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u8..4).prop_map(|n| IpAddr::from([10, 0, 0, n + 1])),
        (0_u16..4).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n + 1])),
    ]
}

pub fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let ports = prop_oneof![
        (1_u16..40).prop_map(PortRange::one),
        (1_u16..40, 0_u16..10).prop_map(|(low, n)| PortRange { low, high: low + n }),
        Just(PortRange { low: 1, high: u16::MAX }),
    ];
    (any_address(), ports).prop_map(|(address, ports)| Endpoint { address, ports })
}

pub fn any_comment() -> impl Strategy<Value = Option<String>> {
    prop::option::of("[ -~äß€'\"]{0,12}")
}

pub fn any_target() -> impl Strategy<Value = Target> {
    (any_endpoint(), 1_u16..=256).prop_map(|(address, weight)| Target { address, weight })
}

pub fn any_forward() -> impl Strategy<Value = Forward> {
    (
        "[a-d]",
        prop::bool::ANY,
        any_endpoint(),
        prop::bool::ANY,
        prop::collection::vec(any_target(), 0..6),
        any_comment(),
    )
        .prop_map(|(name, tcp, listen, nat, mut targets, comment)| {
            for target in &mut targets {
                // Mostly ranges that fit.
                if target.weight % 4 != 0 {
                    target.address.ports = PortRange::one(target.address.ports.low);
                }
            }
            Forward {
                name,
                protocol: if tcp { Transport::Tcp } else { Transport::Udp },
                listen,
                mode: if nat { ForwardMode::Nat } else { ForwardMode::Dnat },
                targets,
                comment,
            }
        })
}

pub fn any_echo() -> impl Strategy<Value = Echo> {
    (any_address(), 1_u16..40, prop::collection::vec(any_net(), 1..4), 1_u32..2000, any_comment()).prop_map(
        |(address, port, allow, rate, comment)| Echo {
            listen: Endpoint { address, ports: PortRange::one(port) },
            allow: allow.into_iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4()).collect(),
            rate,
            comment,
        },
    )
}

pub fn any_net() -> impl Strategy<Value = ipnet::IpNet> {
    (any_address(), 0_u8..=128).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        // Long prefixes more often: short ones match everything alike.
        ipnet::IpNet::new(address, length.max(24).min(most)).unwrap()
    })
}

pub fn any_filter() -> impl Strategy<Value = FilterRule> {
    let ports =
        || prop::option::of((1_u16..40, 0_u16..10).prop_map(|(low, n)| PortRange { low, high: low + n }));
    (
        (prop::bool::ANY, prop::option::of("[w-z]"), any_comment()),
        (prop::option::of(any_net()), prop::option::of(any_net())),
        prop::option::of(prop::sample::select(vec![6_u8, 17, 1, 58, 47])),
        (ports(), ports()),
        prop::option::of(prop::sample::select(vec!["eth0", "eth1", "gone0"])),
        prop::option::of(prop::sample::select(vec![4_u8, 6])),
    )
        .prop_map(|((allow, name, comment), (src, dst), proto, (sport, dport), interface, version)| {
            let has_ports = matches!(proto, Some(6 | 17));
            FilterRule {
                action: if allow { FilterAction::Allow } else { FilterAction::Drop },
                name,
                src,
                dst,
                proto: proto.map(Protocol),
                sport: sport.filter(|_| has_ports),
                dport: dport.filter(|_| has_ports),
                interface: interface.map(str::to_owned),
                version,
                comment,
            }
        })
}
