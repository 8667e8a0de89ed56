//! Rule sets and traces that look like those of routers' access lists, firewalls and hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netfast::classifier::{Addresses, Ports, Rule, classbench::Header};

/// What a made-up rule set looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// Access list: narrow sources and destinations, few ports.
    Acl,
    /// Firewall: many rules with any source or any destination, and port ranges.
    Fw,
    /// Between hosts: pairs of addresses, all kinds of ports.
    Ipc,
}

/// A small generator: the same numbers on every machine.
pub struct Numbers(u64);

impl Numbers {
    /// Begins with `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub const fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// Makes `count` rules.
pub fn rules(family: Family, count: u32, v6: bool, seed: u64) -> Vec<Rule> {
    let mut numbers = Numbers::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Networks that rules come back to.
    let networks: Vec<u128> = (0..(count / 20).max(4)).map(|_| network(&mut numbers, v6)).collect();
    (0..count).map(|number| rule(family, number, v6, &networks, &mut numbers)).collect()
}

fn network(numbers: &mut Numbers, v6: bool) -> u128 {
    if v6 {
        0x2 << 124 | u128::from(numbers.below(1 << 30)) << 96 | u128::from(numbers.next() & 0xffff_ffff) << 64
    } else {
        // Neither loopback nor multicast.
        u128::from(1 + numbers.below(120)) << 24 | u128::from(numbers.below(1 << 24))
    }
}

fn prefix(networks: &[u128], lengths: &[u8], v6: bool, numbers: &mut Numbers) -> Addresses {
    let network = numbers.one_of(networks);
    let length = numbers.one_of(lengths);
    if v6 {
        let length = if length == 32 { 128 } else { length.saturating_mul(2).saturating_add(16) };
        let address = network | u128::from(numbers.below(1 << 16));
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Addresses::V6 { address: address & mask, length }
    } else {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let address = network as u32 ^ numbers.below(1 << 12) as u32;
        Addresses::V4 { first: address & mask, last: address | !mask }
    }
}

fn rule(family: Family, number: u32, v6: bool, networks: &[u128], numbers: &mut Numbers) -> Rule {
    let (any_source, any_destination, lengths): (u64, u64, &[u8]) = match family {
        Family::Acl => (3, 1, &[32, 32, 32, 30, 28, 27, 24, 24, 23, 20]),
        Family::Fw => (35, 25, &[32, 32, 30, 29, 26, 24, 22, 20]),
        Family::Ipc => (8, 8, &[32, 32, 32, 31, 28, 24, 23, 21]),
    };
    let any =
        if v6 { Addresses::V6 { address: 0, length: 0 } } else { Addresses::V4 { first: 0, last: u32::MAX } };
    let mut side = |of: u64| {
        if numbers.below(100) < of { any } else { prefix(networks, lengths, v6, numbers) }
    };
    let (source, destination) = (side(any_source), side(any_destination));
    let protocol = numbers.one_of(&[Some(6), Some(6), Some(6), Some(17), Some(17), Some(1), None]);
    let all = [0, u16::MAX];
    let port = |numbers: &mut Numbers| match numbers.below(10) {
        0 => [1024, u16::MAX],
        1 => {
            let low = numbers.below(60_000) as u16;
            [low, low + numbers.below(2000) as u16]
        }
        2 => all,
        _ => [numbers.one_of(&[22, 25, 53, 80, 110, 123, 143, 443, 445, 993, 1433, 3306, 3389, 8080]); 2],
    };
    let ports = match protocol {
        Some(6 | 17) => {
            let from = if family == Family::Acl || numbers.below(4) > 0 { all } else { port(numbers) };
            Ports::Ports { source: from, destination: port(numbers) }
        }
        _ => Ports::Any,
    };
    Rule { number, version: if v6 { 6 } else { 4 }, source, destination, protocol, ports, ..Rule::default() }
}

/// Makes `count` headers, each from a corner of a rule.
pub fn trace(rules: &[Rule], count: usize, seed: u64) -> Vec<Header> {
    let mut numbers = Numbers::new(seed ^ 0x5851_f42d_4c95_7f2d);
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(rule) = rules.get(numbers.below(rules.len().max(1) as u64) as usize) else { break };
        let protocol = rule.protocol.unwrap_or(if numbers.below(2) == 0 { 6 } else { 17 });
        let ports = match rule.ports {
            Ports::Ports { source, destination } => {
                [within(source, &mut numbers), within(destination, &mut numbers)]
            }
            _ => [numbers.below(65_536) as u16, numbers.below(65_536) as u16],
        };
        headers.push(Header {
            source: address(rule.source, &mut numbers),
            destination: address(rule.destination, &mut numbers),
            ports,
            protocol,
        });
    }
    headers
}

fn within(range: [u16; 2], numbers: &mut Numbers) -> u16 {
    range[0] + numbers.below(u64::from(range[1] - range[0]) + 1) as u16
}

fn address(addresses: Addresses, numbers: &mut Numbers) -> IpAddr {
    match addresses {
        Addresses::V4 { first, last } => {
            let offset = numbers.below(u64::from(last - first) + 1) as u32;
            Ipv4Addr::from_bits(first + offset).into()
        }
        Addresses::V6 { address, length } => {
            let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
            let any = u128::from(numbers.next()) << 64 | u128::from(numbers.next());
            Ipv6Addr::from_bits(address | any & host).into()
        }
        Addresses::Any => Ipv4Addr::from_bits(numbers.next() as u32).into(),
    }
}
