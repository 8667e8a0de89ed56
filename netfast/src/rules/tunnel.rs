//! Mode `ipip`: the outer source addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{ids::TargetId, images::TargetRoute};
use crate::api::types::{Forward, ForwardMode};

/// Most bits of a source address that come from a flow's hash, which has no more.
const MOST_BITS: u8 = 32;

/// The source address that packets to a target leave with (none: they keep their own, or there is no route) and how many
/// of its last bits come from each flow's hash.
pub fn source(
    forward: &Forward,
    target: IpAddr,
    id: &TargetId,
    route: Option<&TargetRoute>,
) -> (Option<IpAddr>, u8) {
    match forward.mode {
        ForwardMode::Nat => (id.source, 0),
        ForwardMode::Dnat | ForwardMode::Dsr => (None, 0),
        ForwardMode::Ipip => match prefix(forward, target) {
            Some(net) => (Some(net.network()), (net.max_prefix_len() - net.prefix_len()).min(MOST_BITS)),
            None => (route.map(|route| route.source), 0),
        },
    }
}

/// The forward's tunnel source, if it is one for this target: of its IP version.
pub fn prefix(forward: &Forward, target: IpAddr) -> Option<IpNet> {
    forward.tunnel_source.filter(|net| net.addr().is_ipv4() == target.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Transport;

    #[test]
    fn sources_of_a_tunnel() {
        let forward = |net: Option<&str>| Forward {
            mode: ForwardMode::Ipip,
            tunnel_source: net.map(|net| net.parse().unwrap()),
            ..Forward::new("web".to_owned(), Transport::Tcp, "192.0.2.10:80".parse().unwrap())
        };
        let id = TargetId { address: "10.0.0.11:80".parse().unwrap(), source: None, index: 0, uid: 1 };
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        let route = TargetRoute { source: own, next_hop: 1 };
        let of = |net, target: &str| source(&forward(net), target.parse().unwrap(), &id, Some(&route));
        let ip = |text: &str| Some(text.parse().unwrap());
        assert_eq!((Some(own), 0), of(None, "10.0.0.11"));
        assert_eq!((ip("172.16.0.0"), 16), of(Some("172.16.0.0/16"), "10.0.0.11"));
        assert_eq!((ip("172.16.0.7"), 0), of(Some("172.16.0.7/32"), "10.0.0.11"), "one address");
        assert_eq!((ip("2001:db8::"), 32), of(Some("2001:db8::/64"), "fd00::11"), "a hash has 32 bits");
        assert_eq!((Some(own), 0), of(Some("2001:db8::/64"), "10.0.0.11"), "of the other version");
    }
}
