//! Rules and traces in ClassBench's format.
//!
//! A rule is a line `@source/length destination/length low : high low : high protocol/mask [flags/mask]`, with spaces or tabs
//! between the words: addresses (IPv4 or IPv6), source ports, destination ports, and the protocol in hexadecimal, 0 of the
//! mask for any. The last word is two bytes: of TCP the flags stand in the upper one (`0x0200/0x1200`: SYN without ACK), of ICMP
//! type and code. [`rules`] does not read it, as the traces know nothing of flags; [`line()`] does.
//! A line of a trace is `source destination source-port destination-port protocol`, all decimal; addresses may be written
//! as such, too. What comes behind is not read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rule::{Addresses, Ports, Rule};

/// What cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Unreadable {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// A packet of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same version.
    pub destination: IpAddr,
    /// Source and destination port.
    pub ports: [u16; 2],
    /// IP protocol.
    pub protocol: u8,
}

/// Reads rules. Their numbers are their positions; all of them drop.
///
/// # Errors
/// At the first line that is no rule.
pub fn rules(text: &str) -> Result<Vec<Rule>, Unreadable> {
    let mut rules = Vec::new();
    for (at, line) in lines(text) {
        let rule = rule(line, rules.len() as u32);
        rules.push(rule.map_err(|problem| Unreadable { line: at, problem })?);
    }
    Ok(rules)
}

/// Reads a trace.
///
/// # Errors
/// At the first line that is no header.
pub fn trace(text: &str) -> Result<Vec<Header>, Unreadable> {
    lines(text).map(|(at, line)| header(line).map_err(|problem| Unreadable { line: at, problem })).collect()
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A rule as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Source prefix.
    pub source: ipnet::IpNet,
    /// Destination prefix, of the same IP version.
    pub destination: ipnet::IpNet,
    /// First and last source port.
    pub source_ports: [u16; 2],
    /// First and last destination port.
    pub destination_ports: [u16; 2],
    /// IP protocol; `None`: any.
    pub protocol: Option<u8>,
    /// Value and mask of the last word.
    pub flags: Option<[u16; 2]>,
}

/// All ports: what rules say that do not ask for ports.
pub const ALL_PORTS: [u16; 2] = [0, u16::MAX];

/// Reads a line that is a rule.
///
/// # Errors
/// What is wrong with it.
pub fn line(line: &str) -> Result<Line, String> {
    let rest = line.strip_prefix('@').ok_or("a rule begins with @")?.replace(':', " : ");
    // Not in the addresses: `2001 : db8` is one word again.
    let text = if line.matches(':').count() > 2 { line[1..].to_owned() } else { rest };
    let mut words = text.split_whitespace();
    let mut word = |what: &str| words.next().ok_or_else(|| format!("the {what} is missing"));
    let prefix =
        |text: &str| text.parse::<ipnet::IpNet>().map_err(|error| format!("{text:?} is no prefix: {error}"));
    let source = prefix(word("source prefix")?)?;
    let destination = prefix(word("destination prefix")?)?;
    if source.addr().is_ipv4() != destination.addr().is_ipv4() {
        return Err(format!("{source} and {destination} are of different IP versions"));
    }
    let mut range = |what: &str| -> Result<[u16; 2], String> {
        let low = port(word(what)?)?;
        match word(what)? {
            ":" => {}
            other => return Err(format!("{other:?} stands where a colon does between two ports")),
        }
        let high = port(word(what)?)?;
        if low > high { Err(format!("{what} {low} : {high} is no range")) } else { Ok([low, high]) }
    };
    let (from, to) = (range("source ports")?, range("destination ports")?);
    let text = word("protocol")?;
    let (value, mask) = text.split_once('/').ok_or_else(|| format!("{text:?} is no protocol/mask"))?;
    let hex = |text: &str| {
        u8::from_str_radix(text.trim_start_matches("0x").trim_start_matches("0X"), 16)
            .map_err(|_| format!("{text:?} is no hexadecimal byte"))
    };
    let protocol = match hex(mask)? {
        0 => None,
        0xff => Some(hex(value)?),
        _ => return Err(format!("protocol mask {mask}: only 0x00 and 0xFF are understood")),
    };
    let flags = words.next().map(|text| {
        let hex =
            |text: &str| u16::from_str_radix(text.trim_start_matches("0x").trim_start_matches("0X"), 16).ok();
        let both = text.split_once('/').and_then(|(value, mask)| Some([hex(value)?, hex(mask)?]));
        both.ok_or_else(|| {
            format!("{text:?} is no flags/mask: two numbers in hexadecimal, each of two bytes")
        })
    });
    Ok(Line {
        source,
        destination,
        source_ports: from,
        destination_ports: to,
        protocol,
        flags: flags.transpose()?,
    })
}

fn rule(text: &str, number: u32) -> Result<Rule, String> {
    let Line { source, destination, source_ports, destination_ports, protocol, flags: _ } = line(text)?;
    let any_port = source_ports == ALL_PORTS && destination_ports == ALL_PORTS;
    Ok(Rule {
        number,
        version: if source.addr().is_ipv4() { 4 } else { 6 },
        source: Addresses::prefix(source),
        destination: Addresses::prefix(destination),
        protocol,
        ports: if any_port {
            Ports::Any
        } else {
            Ports::Ports { source: source_ports, destination: destination_ports }
        },
        ..Rule::default()
    })
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text:?} is no port"))
}

fn header(line: &str) -> Result<Header, String> {
    let mut words = line.split_whitespace();
    let mut word = |what: &str| words.next().ok_or_else(|| format!("the {what} is missing"));
    let address = |text: &str| -> Result<IpAddr, String> {
        match (text.parse::<u32>(), text.parse::<u128>()) {
            (Ok(v4), _) => Ok(Ipv4Addr::from_bits(v4).into()),
            (Err(_), Ok(v6)) => Ok(Ipv6Addr::from_bits(v6).into()),
            _ => text.parse().map_err(|_| format!("{text:?} is no address")),
        }
    };
    let (source, destination) = (address(word("source")?)?, address(word("destination")?)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!("{source} and {destination} are of different IP versions"));
    }
    let ports = [port(word("source port")?)?, port(word("destination port")?)?];
    let text = word("protocol")?;
    let protocol = text.parse().map_err(|_| format!("{text:?} is no protocol number"))?;
    Ok(Header { source, destination, ports, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_traces_are_read() {
        let text = "@37.184.89.216/29\t37.184.85.16/29\t7648 : 7648\t24032 : 24032\t0x11/0xFF\t0x0000/0x0000\n\n\
                    @0.0.0.0/0 10.0.0.0/8 0 : 65535 0 : 65535 0x00/0x00\n\
                    @2001:db8::/32 ::/0 0 : 65535 53 : 53 0x06/0xFF";
        let rules = rules(text).unwrap();
        assert_eq!(3, rules.len());
        assert_eq!((rules[0].protocol, rules[1].protocol), (Some(17), None));
        assert_eq!(rules[0].ports, Ports::Ports { source: [7648; 2], destination: [24032; 2] });
        assert_eq!((rules[1].ports, rules[1].number), (Ports::Any, 1));
        assert_eq!((rules[2].version, rules[2].destination), (6, Addresses::V6 { address: 0, length: 0 }));
        let trace = trace("167772161 3232235777 1024\t80 6 99 7\n").unwrap();
        assert_eq!(trace[0].source, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!((trace[0].ports, trace[0].protocol), ([1024, 80], 6));
    }

    #[test]
    fn what_is_no_rule_is_named_with_its_line() {
        let good = "@10.0.0.0/8 0.0.0.0/0 0 : 65535 80 : 80 0x06/0xFF\n";
        for (line, problem) in [
            ("10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 0x06/0xFF", "begins with @"),
            ("@10.0.0.0/33 0.0.0.0/0 0 : 1 0 : 1 0x06/0xFF", "is no prefix"),
            ("@10.0.0.0/8 0.0.0.0/0 9 : 1 0 : 1 0x06/0xFF", "is no range"),
            ("@10.0.0.0/8 0.0.0.0/0 0 : 1 0 : 1 0x06/0x0F", "only 0x00 and 0xFF"),
            ("@10.0.0.0/8 0.0.0.0/0 0 : 1", "destination ports is missing"),
        ] {
            let error = rules(&format!("{good}{line}")).unwrap_err();
            assert_eq!(2, error.line);
            assert!(error.problem.contains(problem), "{error}");
        }
        assert_eq!(1, trace("1 2 3").unwrap_err().line);
    }
}
