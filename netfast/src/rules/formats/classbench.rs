//! ClassBench's rule sets, a rule a line: see [`crate::classifier::classbench`].

use ipnet::IpNet;

use super::{Error, Read};
use crate::{
    api::types::{Addresses, FilterAction, FilterRule, IcmpKind, Many, PortRange, Ports, Protocol, TcpFlags},
    classifier::classbench::{self, ALL_PORTS, Line},
};

const ICMP: Protocol = Protocol(1);
const TCP: Protocol = Protocol(6);
const UDP: Protocol = Protocol(17);

pub(super) fn parse(text: &str, action: FilterAction) -> Result<Read, Error> {
    let mut read = Read::default();
    // Rules that no packet can match, and the number of the first line.
    let (mut without_ports, mut first) = (0usize, 0);
    let mut start = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let begin = start + line.len() - line.trim_start().len();
        let place = begin..start + line.trim_end().len();
        start += line.len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let rule = classbench::line(line).and_then(|line| rule(&line, action));
        match rule.map_err(|problem| (place.clone(), problem))? {
            Some(rule) => read.add_foreign(rule, place),
            None => {
                first = if without_ports == 0 { number } else { first };
                without_ports += 1;
            }
        }
    }
    if without_ports > 0 {
        read.notes.push(format!(
            "left out, since no packet matches: {without_ports} that ask for ports of a protocol that has none (the first one \
             in line {first})"
        ));
    }
    Ok(read)
}

/// The rule; `None` if it asks for ports of a protocol without ports.
fn rule(line: &Line, action: FilterAction) -> Result<Option<FilterRule>, String> {
    let protocol = line.protocol.map(Protocol);
    let ports = |[low, high]: [u16; 2]| {
        ([low, high] != ALL_PORTS).then(|| Many::from(Ports(PortRange { low, high })))
    };
    let (sport, dport) = (ports(line.source_ports), ports(line.destination_ports));
    let has_ports = sport.is_some() || dport.is_some();
    let proto = match protocol {
        // Ports are those of TCP and UDP.
        None if has_ports => Some([TCP, UDP].into_iter().collect()),
        None => None,
        Some(protocol) if has_ports && !protocol.has_ports() => return Ok(None),
        Some(protocol) => Some(Many::from(protocol)),
    };
    let v4 = line.source.addr().is_ipv4();
    let (flags, icmp) = last_word(line, v4)?;
    let net = |net: IpNet| (net.prefix_len() > 0).then(|| Many::from(Addresses::Net(net)));
    let (src, dst) = (net(line.source), net(line.destination));
    // Prefixes say of which version they are.
    let version = (src.is_none() && dst.is_none()).then_some(if v4 { 4 } else { 6 });
    Ok(Some(FilterRule {
        action,
        src,
        dst,
        proto,
        sport,
        dport,
        flags,
        icmp,
        version,
        ..FilterRule::default()
    }))
}

type LastWord = (Option<TcpFlags>, Option<Many<IcmpKind>>);

/// What the last word asks for: TCP flags in its upper byte, or ICMP type and code.
fn last_word(line: &Line, v4: bool) -> Result<LastWord, String> {
    let [value, mask] = line.flags.unwrap_or_default();
    if mask == 0 {
        return Ok((None, None));
    }
    let ([upper, lower], [upper_mask, lower_mask]) = (value.to_be_bytes(), mask.to_be_bytes());
    match line.protocol.map(Protocol) {
        Some(TCP) if lower_mask == 0 => {
            Ok((Some(TcpFlags { value: upper & upper_mask, mask: upper_mask }), None))
        }
        Some(ICMP) if v4 && upper_mask == 0xff && matches!(lower_mask, 0 | 0xff) => {
            let code = (lower_mask != 0).then_some(lower);
            Ok((None, Some(Many::from(IcmpKind::number(upper, code)))))
        }
        _ => Err(format!(
            "0x{value:04x}/0x{mask:04x} is not understood here: of TCP (0x06) the upper byte has flags, of ICMP (0x01) the upper \
             byte is the type, with mask 0xff, and the lower one the code, with mask 0x00 or 0xff"
        )),
    }
}
