//! How the watcher takes in what the kernel tells.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, SocketAddr};

use super::neighbours::{Neighbour, NeighbourKey};
use super::requests::Dump;
use super::watcher::Watcher;
use super::{NetlinkError, parse};

/// What is followed. IPv4 and IPv6 rules too: a changed policy rule changes ways as a changed route does.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];
/// Room for notifications: some ten thousand neighbours that change at once.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Notifications as they come.
pub(super) type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

impl Watcher {
    /// Takes in one notification; false if notifications were lost.
    pub(super) fn message(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> bool {
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => self.notification(&inner),
            NetlinkPayload::Overrun(_) => {
                tracing::warn!(
                    "netlink notifications were lost (receive buffer full): reading everything anew"
                );
                return false;
            }
            _ => {}
        }
        true
    }

    fn notification(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(message) => {
                let Some(link) = parse::link(message) else { return };
                let old = self.host.links.insert(link.index, link.clone());
                match old {
                    Some(old) if old == link => {}
                    Some(old) if old.leads_like(&link) => self.dirty.links = true,
                    _ => self.links_changed(),
                }
            }
            RouteNetlinkMessage::DelLink(message) => {
                let Some(link) = parse::link(message) else { return };
                if self.host.links.remove(&link.index).is_some() {
                    self.host.addresses.retain(|address| address.ifindex != link.index);
                    self.links_changed();
                }
            }
            RouteNetlinkMessage::NewAddress(message) => {
                if let Some(address) = parse::address(message)
                    && self.host.addresses.insert(address)
                {
                    (self.dirty.addresses, self.dirty.routes) = (true, true);
                }
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(address) = parse::address(message)
                    && self.host.addresses.remove(&address)
                {
                    (self.dirty.addresses, self.dirty.routes) = (true, true);
                }
            }
            RouteNetlinkMessage::NewNeighbour(message) => {
                if let Some((key, entry)) = parse::neighbour(message) {
                    self.neighbour(key, Some(entry));
                }
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                if let Some((key, _)) = parse::neighbour(message) {
                    self.neighbour(key, None);
                }
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => self.dirty.routes = true,
            _ => {}
        }
    }

    fn links_changed(&mut self) {
        // The kernel tells nothing of the IPv4 routes that go with a link.
        (self.dirty.links, self.dirty.routes) = (true, true);
        let (keeper, world) = self.world();
        let written = keeper.refresh_all(world);
        self.dirty.hops |= written;
    }

    fn neighbour(&mut self, key: NeighbourKey, entry: Option<Neighbour>) {
        let moved = match entry {
            Some(entry) => self.neighbours.set(key, entry),
            None => {
                self.neighbours.remove(&key);
                None
            }
        };
        let (keeper, world) = self.world();
        let mut written = keeper.neighbour_changed(&key, world);
        if let Some(moved) = moved {
            written |= keeper.moved(moved, world);
        }
        self.dirty.hops |= written;
    }

    /// Reads everything anew.
    pub(super) async fn resync(&mut self) {
        match self.requests.dump().await {
            Ok(dump) => self.take_over(dump),
            Err(error) => {
                tracing::warn!(%error, "the host's state could not be read anew; trying again later")
            }
        }
    }

    pub(super) fn take_over(&mut self, dump: Dump) {
        if dump.host != self.host {
            self.dirty.links |= dump.host.links != self.host.links;
            self.dirty.addresses |= dump.host.addresses != self.host.addresses;
            self.dirty.routes = true;
            self.host = dump.host;
        }
        // Routes are not mirrored: whether ways have changed shows when the targets are asked for again.
        self.dirty.check = true;
        let gone: Vec<NeighbourKey> =
            self.neighbours.keys().filter(|key| !dump.neighbours.contains_key(*key)).copied().collect();
        for key in gone {
            self.neighbour(key, None);
        }
        for (key, entry) in dump.neighbours {
            if self.neighbours.get(&key) != Some(&entry) {
                self.neighbour(key, Some(entry));
            }
        }
        let (keeper, world) = self.world();
        let written = keeper.refresh_all(world);
        self.dirty.hops |= written;
    }

    pub(super) async fn reconnect(&mut self) {
        tracing::warn!("the netlink connection for notifications has broken: opening it again");
        loop {
            match subscribe() {
                Ok(messages) => {
                    self.messages = messages;
                    break self.resync().await;
                }
                Err(error) => {
                    tracing::error!(%error, "the host's changes cannot be followed; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Opens a connection for notifications.
pub(super) fn subscribe() -> Result<Messages, NetlinkError> {
    let (mut connection, _, messages) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
    let socket = connection.socket_mut().socket_mut();
    // SAFETY: the socket is open, and borrowed for this function.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    // Beyond rmem_max with CAP_NET_ADMIN; without, as much as there may be.
    if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER as libc::c_int);
    }
    tokio::spawn(connection);
    Ok(messages)
}
