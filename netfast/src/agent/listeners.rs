//! Programs of the host that listen where netfast does: packets to a forward or an echo reflector never reach them.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt,
};

use crate::api::types::{Endpoint, PortRange, Rules, Transport};

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    protocol: Transport,
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// State numbers of /proc/net: TCP_LISTEN; an unconnected UDP socket is in TCP_CLOSE.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// Whether the forwards and echo reflectors of two rule sets listen alike.
pub(super) fn same_services(one: &Rules, other: &Rules) -> bool {
    services(one).eq(services(other))
}

/// Kind and name of all that listens, and where.
fn services(rules: &Rules) -> impl Iterator<Item = (Option<&str>, Transport, Endpoint)> {
    let forwards = rules.forwards.iter();
    let forwards = forwards.map(|forward| (Some(forward.name.as_str()), forward.protocol, forward.listen));
    forwards.chain(rules.echoes.iter().map(|echo| (None, Transport::Udp, echo.listen)))
}

/// What the operator should know about forwards and echo reflectors on ports that local programs listen on, a sentence
/// each.
pub(super) fn conflicts(rules: &Rules) -> Vec<String> {
    if services(rules).next().is_none() {
        return Vec::new();
    }
    let listeners: Vec<Listener> = [
        ("tcp", Transport::Tcp),
        ("tcp6", Transport::Tcp),
        ("udp", Transport::Udp),
        ("udp6", Transport::Udp),
    ]
    .into_iter()
    .flat_map(|(file, protocol)| {
        parse(&fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default(), protocol)
    })
    .collect();
    let found = matches(rules, &listeners);
    if found.is_empty() {
        return Vec::new();
    }
    let owners = owners();
    let mut sentences: Vec<String> = found
        .into_iter()
        .map(|(object, listener)| {
            let owner = match owners.get(&listener.inode) {
                Some((name, pid)) => format!("{name} (pid {pid})"),
                None => "a local program".to_owned(),
            };
            format!(
                "{owner} listens on {} port {} of this host: packets to {object} go to netfast and no longer to it",
                listener.protocol, listener.port
            )
        })
        .collect();
    sentences.dedup();
    sentences
}

fn parse(text: &str, protocol: Transport) -> Vec<Listener> {
    let wanted = if protocol == Transport::Tcp { TCP_LISTEN } else { UDP_UNCONNECTED };
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = fields.nth(1)?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?.parse().ok()?;
            let (address, port) = local.split_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            (state == wanted).then_some(Listener { protocol, address: parse_address(address)?, port, inode })
        })
        .collect()
}

/// The kernel prints each 32-bit word of an address as a number of the host's byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let mut bytes = [0u8; 16];
    for (word, place) in bytes.chunks_exact_mut(4).enumerate() {
        let Some(digits) = text.get(word * 8..word * 8 + 8) else { break };
        place.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    match text.len() {
        8 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        32 => Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()),
        _ => None,
    }
}

/// Pairs of an object's name and a listener that it takes the packets from.
fn matches<'a>(rules: &Rules, listeners: &'a [Listener]) -> Vec<(String, &'a Listener)> {
    services(rules)
        .filter_map(|(forward, protocol, listen)| {
            let listener = listeners.iter().find(|listener| {
                listener.protocol == protocol && takes(&listen, listener.address, listener.port)
            })?;
            let object = forward.map_or_else(|| format!("echo {listen}"), |name| format!("forward {name}"));
            Some((object, listener))
        })
        .collect()
}

fn takes(listen: &Endpoint, address: IpAddr, port: u16) -> bool {
    let PortRange { low, high } = listen.ports;
    // A socket on [::] takes IPv4 too, unless it is told not to.
    let any = address.is_unspecified() && (address.is_ipv6() || listen.address.is_ipv4());
    (low..=high).contains(&port) && (any || address == listen.address)
}

/// Name and process id by the inode of a socket, as far as /proc may be read.
fn owners() -> HashMap<u64, (String, u32)> {
    let mut owners = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let mut name = None;
        for fd in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            // Follows the link to the socket, whose inode is the one in /proc/net.
            let Ok(metadata) = fs::metadata(fd.path()) else { continue };
            const SOCKET: u32 = 0o140_000;
            if metadata.mode() & 0o170_000 != SOCKET {
                continue;
            }
            let name = name.get_or_insert_with(|| {
                fs::read_to_string(process.path().join("comm")).unwrap_or_default().trim().to_owned()
            });
            owners.insert(metadata.ino(), (name.clone(), pid));
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Echo, Forward};

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21501 1 0 100 0 0 10 0
   1: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0 100 0 0 10 0
   2: 0200000A:0050 0300000A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 778 1 0 100 0 0 10 0
";
    const UDP6: &str = "  sl  local_address                         remote_address                        st ...
  7: 00000000000000000000000000000000:0007 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 99 2 0 0
  8: B80D0120000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 98 2 0 0
";

    fn forward(name: &str, protocol: Transport, listen: &str) -> Forward {
        Forward::new(name.to_owned(), protocol, listen.parse().unwrap())
    }

    #[test]
    fn listening_sockets_are_read() {
        let tcp = parse(TCP, Transport::Tcp);
        assert_eq!(2, tcp.len(), "a connection does not listen");
        assert_eq!(("127.0.0.1".parse(), 3306, 21501), (Ok(tcp[0].address), tcp[0].port, tcp[0].inode));
        assert_eq!((IpAddr::from([0, 0, 0, 0]), 443), (tcp[1].address, tcp[1].port));
        let udp = parse(UDP6, Transport::Udp);
        assert_eq!("::".parse::<IpAddr>().unwrap(), udp[0].address);
        assert_eq!(("2001:db8::1".parse(), 53, 98), (Ok(udp[1].address), udp[1].port, udp[1].inode));
        assert_eq!(Vec::<Listener>::new(), parse("", Transport::Tcp));
    }

    #[test]
    fn a_listener_in_the_way_is_found() {
        let mut listeners = parse(TCP, Transport::Tcp);
        listeners.extend(parse(UDP6, Transport::Udp));
        let rules = Rules {
            forwards: vec![
                forward("web", Transport::Tcp, "192.0.2.10:440-450"),
                forward("db", Transport::Tcp, "192.0.2.10:3306"),
                forward("quic", Transport::Udp, "192.0.2.10:443"),
                forward("dns", Transport::Udp, "[2001:db8::1]:53"),
                forward("web6", Transport::Tcp, "[2001:db8::1]:443"),
            ],
            echoes: vec![Echo { rate: 1, ..Echo::new("192.0.2.10:7".parse().unwrap(), Vec::new()) }],
            ..Rules::default()
        };
        let found: Vec<_> =
            matches(&rules, &listeners).into_iter().map(|(object, l)| (object, l.inode)).collect();
        let expected = [("forward web", 777), ("forward dns", 98), ("echo 192.0.2.10:7", 99)]
            .map(|(o, i)| (o.to_owned(), i));
        assert_eq!(expected.to_vec(), found, "127.0.0.1 is another address, 0.0.0.0 is not IPv6");
    }

    #[test]
    fn the_owner_of_a_socket_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = socket.local_addr().unwrap().to_string();
        let rules = Rules { forwards: vec![forward("own", Transport::Tcp, &listen)], ..Rules::default() };
        let sentences = conflicts(&rules);
        assert_eq!(1, sentences.len(), "{sentences:?}");
        assert!(sentences[0].contains(&format!("(pid {})", std::process::id())), "{sentences:?}");
        assert!(sentences[0].contains("forward own"), "{sentences:?}");
    }
}
