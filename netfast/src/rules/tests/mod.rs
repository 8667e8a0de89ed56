//! Tests of the rules, by what they are about.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::{
    images::{HostView, TargetRoute},
    normal::normalize,
    validate,
};
use crate::api::types::{
    AddressSet, Addresses, Echo, EchoProtocol, Endpoint, FilterDefault, FilterRule, Forward, ForwardMode,
    Health, HealthKind, Intent, InterfacePolicy, Many, PortRange, Ports, Protocol, Rules, Span, Target,
    TcpFlags, Transport,
};

mod balance;
mod change;
mod check;
mod compile;
mod diff;
mod health;
mod ids;
mod validate_tests;

pub fn target(address: &str) -> Target {
    Target::new(address.parse().unwrap())
}

pub fn forward(name: &str, listen: &str, targets: &[&str]) -> Forward {
    Forward {
        targets: targets.iter().map(|t| target(t)).collect(),
        ..Forward::new(name.to_owned(), Transport::Tcp, listen.parse().unwrap())
    }
}

pub fn echo(listen: &str, allow: &[&str]) -> Echo {
    let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
    Echo { rate: 1000, ..Echo::new(listen.parse().unwrap(), allow) }
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
            "vlan" => rule.vlan = Some(value.parse().unwrap()),
            "flags" => rule.flags = Some(value.parse().unwrap()),
            "icmp" => rule.icmp = Some(value.parse().unwrap()),
            "with" => rule.with = Some(value.parse().unwrap()),
            "rate" => rule.rate = Some(value.parse().unwrap()),
            "burst" => rule.burst = Some(value.parse().unwrap()),
            "per" => rule.per = Some(value.parse().unwrap()),
            other => panic!("no such key: {other}"),
        }
    }
    rule
}

pub fn rules(forwards: &[Forward]) -> Rules {
    Rules { forwards: forwards.to_vec(), ..Rules::default() }
}

pub fn filters(texts: &[&str]) -> Rules {
    Rules { filters: texts.iter().map(|text| Arc::new(filter(text))).collect(), ..Rules::default() }
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

    fn owns(&self, address: IpAddr) -> bool {
        address != IpAddr::from([192, 0, 2, 99])
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
    let sets = prop::collection::vec(any_set(), 0..3);
    let policies = prop::collection::vec(any_policy(), 0..3);
    (forwards, echoes, sets, filters, policies).prop_map(|(forwards, echoes, sets, filters, policies)| {
        let filters = filters.into_iter().map(Arc::new).collect();
        let mut rules = Rules { forwards, snats: Vec::new(), echoes, sets, filters, policies };
        // What does not go with the rest is left out, so that valid rules are not a rarity.
        while let Some(problem) = validate::problems(&rules).into_iter().next() {
            match problem.place {
                validate::Place::Forward(at) => drop(rules.forwards.remove(at)),
                validate::Place::Health(at) => rules.forwards[at].health = None,
                validate::Place::Target(at, target) => drop(rules.forwards[at].targets.remove(target)),
                validate::Place::Snat(at) => drop(rules.snats.remove(at)),
                validate::Place::Echo(at) => drop(rules.echoes.remove(at)),
                validate::Place::Filter(at) => drop(rules.filters.remove(at)),
                validate::Place::Set(at) => drop(rules.sets.remove(at)),
                validate::Place::Policy(at) => drop(rules.policies.remove(at)),
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
    (any_endpoint(), 1_u16..=256, prop::bool::weighted(0.2)).prop_map(|(address, weight, drain)| Target {
        weight,
        drain,
        ..Target::new(address)
    })
}

pub fn any_forward() -> impl Strategy<Value = Forward> {
    (
        "[a-d]",
        prop::bool::ANY,
        any_endpoint(),
        prop::bool::ANY,
        prop::collection::vec(any_target(), 0..6),
        any_comment(),
        prop::option::of(any_health()),
    )
        .prop_map(|(name, tcp, listen, nat, mut targets, comment, health)| {
            for target in &mut targets {
                // Mostly ranges that fit.
                if target.weight % 4 != 0 {
                    target.address.ports = PortRange::one(target.address.ports.low);
                }
            }
            let protocol = if tcp { Transport::Tcp } else { Transport::Udp };
            Forward {
                mode: if nat { ForwardMode::Nat } else { ForwardMode::Dnat },
                targets,
                comment,
                health,
                ..Forward::new(name, protocol, listen)
            }
        })
}

/// Checks that make sense.
pub fn any_health() -> impl Strategy<Value = Health> {
    let text = || prop::option::of("[a-z][a-z0-9]{0,8}");
    (
        prop::sample::select(vec![
            HealthKind::Tcp,
            HealthKind::Http,
            HealthKind::Https,
            HealthKind::Dns,
            HealthKind::Icmp,
        ]),
        (prop::option::of(1_u16..), text(), text(), prop::option::of("[ -~]{1,8}")),
        prop::option::of(prop::collection::vec((100_u16..=599, 0_u16..100), 1..3)),
        (prop::sample::select(vec!["a", "aaaa", "txt"]), prop::sample::select(vec!["noerror", "nxdomain"])),
        (100_u32..100_000, prop::option::of(10_u32..100), 0_u8..=50, 1_u16..=10, 1_u16..=10),
    )
        .prop_map(
            |(
                kind,
                (port, host, sni, body),
                status,
                (record, rcode),
                (interval, timeout, jitter, rise, fall),
            )| {
                let http = matches!(kind, HealthKind::Http | HealthKind::Https);
                let (dns, https) = (kind == HealthKind::Dns, kind == HealthKind::Https);
                let new = Health::new(kind);
                Health {
                    port: port.filter(|_| kind != HealthKind::Icmp),
                    path: host.as_ref().filter(|_| http).map(|path| format!("/{path}")),
                    host: host.filter(|_| http),
                    verify: https && sni.is_some(),
                    sni: sni.filter(|_| https),
                    body: body.filter(|_| http),
                    status: status.filter(|_| http).map(|list| {
                        list.into_iter()
                            .map(|(low, n)| format!("{low}-{}", (low + n).min(599)).parse().unwrap())
                            .collect()
                    }),
                    name: dns.then(|| "ns1.example".to_owned()),
                    record: if dns { record.parse().unwrap() } else { new.record },
                    rcode: if dns { rcode.parse().unwrap() } else { new.rcode },
                    interval: Span::from_millis(interval),
                    timeout: timeout.map(Span::from_millis),
                    jitter,
                    rise,
                    fall,
                    ..new
                }
            },
        )
}

pub fn any_echo() -> impl Strategy<Value = Echo> {
    (any_address(), 1_u16..40, prop::collection::vec(any_net(), 1..4), 1_u32..2000, any_comment()).prop_map(
        |(address, port, allow, rate, comment)| Echo {
            listen: Endpoint { address, ports: PortRange::one(port) },
            allow: allow.into_iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4()).collect(),
            rate,
            protocol: if rate % 4 == 0 { EchoProtocol::Stamp } else { EchoProtocol::Echo },
            claim: rate % 3 == 0,
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

pub fn any_set() -> impl Strategy<Value = AddressSet> {
    ("[a-c]", prop::collection::vec(any_net(), 0..4), any_comment())
        .prop_map(|(name, addresses, comment)| AddressSet { name, addresses, comment })
}

pub fn any_policy() -> impl Strategy<Value = InterfacePolicy> {
    let filter = prop::sample::select(vec![FilterDefault::Allow, FilterDefault::Drop]);
    (prop::sample::select(vec!["eth0", "eth1", "gone0"]), filter)
        .prop_map(|(interface, filter)| InterfacePolicy { interface: interface.to_owned(), filter })
}

/// One value, or a list of some.
fn many<T: std::fmt::Debug + Clone>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Many<T>> {
    prop::collection::vec(one, 1..4).prop_map(|values| values.into_iter().collect())
}

fn any_addresses() -> impl Strategy<Value = Option<Many<Addresses>>> {
    let net = many(any_net().prop_map(Addresses::Net)).prop_map(Some);
    prop_oneof![
        2 => Just(None),
        5 => net,
        1 => "[a-c]".prop_map(|name| Some(Many::One(Addresses::Set(name)))),
    ]
}

pub fn any_filter() -> impl Strategy<Value = FilterRule> {
    let ports = || {
        let range = (0_u16..40, 0_u16..10).prop_map(|(low, n)| Ports(PortRange { low, high: low + n }));
        prop::option::of(many(range))
    };
    let proto = prop::sample::select(vec![
        vec![6_u8],
        vec![6],
        vec![17],
        vec![6, 17],
        vec![1],
        vec![58],
        vec![47],
        Vec::new(),
        Vec::new(),
    ]);
    let flags = prop::option::of(
        (any::<u8>(), 1_u8..).prop_map(|(value, mask)| TcpFlags { value: value & mask, mask }),
    );
    let icmp = prop::sample::select(vec!["echo-request", "3", "3/4", "128/0"]);
    let action = (
        prop::sample::select(vec!["allow", "allow", "drop", "drop", "drop", "reject", "limit", "count"]),
        prop::option::of(prop::sample::select(vec!["port-unreachable", "admin-prohibited"])),
        prop::sample::select(vec!["1/s", "1000/s", "64kbit", "1500bit", "2gbit"]),
        prop::option::of(1_u32..100),
        prop::option::of(prop::sample::select(vec!["rule", "source"])),
    );
    (
        (action, prop::option::of("[w-z]"), any_comment()),
        (any_addresses(), any_addresses()),
        (proto, flags, prop::option::of(many(icmp))),
        (ports(), ports()),
        (
            prop::option::of(prop::sample::select(vec!["eth0", "eth1", "gone0"])),
            prop::option::of(0_u16..5),
            prop::option::of(prop::sample::select(vec![4_u8, 6])),
        ),
    )
        .prop_map(
            |(
                (action, name, comment),
                (src, dst),
                (proto, flags, icmp),
                (sport, dport),
                (interface, vlan, version),
            )| {
                let has_ports = !proto.is_empty() && proto.iter().all(|proto| matches!(proto, 6 | 17));
                let (word, with, rate, burst, per) = action;
                let limits = word == "limit";
                FilterRule {
                    action: word.parse().unwrap(),
                    with: with.filter(|_| word == "reject").map(|with| with.parse().unwrap()),
                    rate: limits.then(|| rate.parse().unwrap()),
                    burst: burst.filter(|_| limits),
                    per: per.filter(|_| limits).map(|per| per.parse().unwrap()),
                    name,
                    src,
                    dst,
                    flags: flags.filter(|_| proto == [6]),
                    icmp: icmp
                        .filter(|_| matches!(proto[..], [1] | [58]))
                        .map(|list| list.iter().map(|kind| kind.parse().unwrap()).collect()),
                    proto: (!proto.is_empty()).then(|| proto.into_iter().map(Protocol).collect()),
                    sport: sport.filter(|_| has_ports),
                    dport: dport.filter(|_| has_ports),
                    interface: interface.map(str::to_owned),
                    vlan,
                    version,
                    comment,
                }
            },
        )
}
