//! Values that the formats share.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::api::types::{IcmpKind, Ports, Protocol, prefix};

/// Prefixes of an address, a prefix or a range of addresses.
pub(super) fn addresses(text: &str) -> Result<Vec<IpNet>, String> {
    if let Some((first, last)) = text.split_once('-') {
        let nets: Option<Vec<IpNet>> = match (first.parse(), last.parse()) {
            (Ok(IpAddr::V4(first)), Ok(IpAddr::V4(last))) if first <= last => {
                Some(Ipv4Subnets::new(first, last, 0).map(IpNet::from).collect())
            }
            (Ok(IpAddr::V6(first)), Ok(IpAddr::V6(last))) if first <= last => {
                Some(Ipv6Subnets::new(first, last, 0).map(IpNet::from).collect())
            }
            _ => None,
        };
        return nets.ok_or_else(|| format!("{text:?} is not a range of addresses"));
    }
    prefix(text).map(|net| vec![net]).map_err(|error| error.0)
}

/// A port or a range of ports, written with this separator.
pub(super) fn ports(text: &str, separator: char) -> Result<Ports, String> {
    let numbers = |c: char| c.is_ascii_digit() || c == separator;
    if !text.chars().all(numbers) {
        return Err(format!("{text:?} is not a port: write numbers (`nft -n` and `iptables-save` do)"));
    }
    let (low, high) = text.split_once(separator).unwrap_or((text, text));
    let low = if low.is_empty() { "0" } else { low };
    let high = if high.is_empty() { "65535" } else { high };
    let both = if low == high { low.to_owned() } else { format!("{low}-{high}") };
    both.parse().map_err(|error: crate::api::types::ParseError| error.0)
}

/// A protocol by number or one of the usual names.
pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    let known = match text {
        "ipv6-icmp" => Some(58),
        "gre" => Some(47),
        "esp" => Some(50),
        "ah" => Some(51),
        "sctp" => Some(132),
        "igmp" => Some(2),
        "ospf" => Some(89),
        "vrrp" => Some(112),
        "udplite" => Some(136),
        "dccp" => Some(33),
        _ => None,
    };
    match known {
        Some(number) => Ok(Protocol(number)),
        None => text.parse().map_err(|error: crate::api::types::ParseError| error.0),
    }
}

/// An ICMP type, by number or by the name that nftables or iptables has for it.
pub(super) fn icmp(text: &str, v6: bool) -> Result<IcmpKind, String> {
    let known = match (text, v6) {
        ("nd-router-solicit", true) => Some(133),
        ("nd-router-advert", true) => Some(134),
        ("nd-neighbor-solicit", true) => Some(135),
        ("nd-neighbor-advert", true) => Some(136),
        ("nd-redirect", true) => Some(137),
        ("mld-listener-query", true) => Some(130),
        ("mld-listener-report", true) => Some(131),
        ("mld-listener-done" | "mld-listener-reduction", true) => Some(132),
        ("mld2-listener-report", true) => Some(143),
        ("source-quench", false) => Some(4),
        ("address-mask-request", false) => Some(17),
        ("address-mask-reply", false) => Some(18),
        _ => None,
    };
    if let Some(number) = known {
        return Ok(IcmpKind::number(number, None));
    }
    let kind: IcmpKind = text.parse().map_err(|error: crate::api::types::ParseError| error.0)?;
    match kind.type_in(v6) {
        Some(_) => Ok(kind),
        None => Err(format!("{} has no type {text}", if v6 { "ICMPv6" } else { "ICMP" })),
    }
}

/// Packets a second of `number` in a unit of time, if that is a whole number.
pub(super) fn per_second(number: u64, unit: &str) -> Result<u64, String> {
    let seconds = match unit {
        "second" | "sec" | "s" => 1,
        "minute" | "min" | "m" => 60,
        "hour" | "h" => 3600,
        "day" | "d" => 86_400,
        _ => return Err(format!("{unit:?} is not a unit of time: second, minute, hour or day")),
    };
    if number > 0 && number.is_multiple_of(seconds) {
        return Ok(number / seconds);
    }
    Err(format!("{number} a {unit} is no whole number of packets a second, which netfast's limits are"))
}
