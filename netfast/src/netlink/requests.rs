//! What the kernel is asked for: dumps, routes, neighbours to keep, a link's facts.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::NetlinkError;
use super::hops::Ask;
use super::host::{HostState, Link};
use super::lookups::{self, Known};
use super::neighbours::{Neighbour, NeighbourKey};
use super::parse;
use super::view::{Answer, Unreachable};

/// The kernel answers within microseconds; this only keeps a lost answer from hanging the agent.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Route look-ups under way at once.
const AT_ONCE: usize = 64;
/// So many targets are asked for in bulk.
const MANY: usize = 32;

/// The connection for requests; made anew when it breaks.
pub(crate) struct Requests {
    handle: Mutex<Handle>,
    known: Mutex<Known>,
}

/// Links, addresses and neighbours, as dumped.
pub(crate) struct Dump {
    pub host: HostState,
    pub neighbours: HashMap<NeighbourKey, Neighbour>,
}

impl Requests {
    pub fn connect() -> Result<Self, NetlinkError> {
        Ok(Self { handle: Mutex::new(open()?), known: Mutex::new(Known::new()) })
    }

    fn handle(&self) -> Handle {
        match self.handle.lock() {
            Ok(handle) => handle.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    /// Runs a request within [`TIMEOUT`]; once more over a new connection if the old one is broken.
    async fn run<T, F>(&self, what: &'static str, request: impl Fn(Handle) -> F) -> Result<T, NetlinkError>
    where
        F: Future<Output = Result<T, rtnetlink::Error>>,
    {
        let mut again = true;
        loop {
            match tokio::time::timeout(TIMEOUT, request(self.handle())).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(rtnetlink::Error::RequestFailed)) if again => {
                    again = false;
                    let fresh = open()?;
                    match self.handle.lock() {
                        Ok(mut handle) => *handle = fresh,
                        Err(poisoned) => *poisoned.into_inner() = fresh,
                    }
                }
                Ok(Err(error)) => return Err(NetlinkError::request(what, &error)),
                Err(_) => return Err(NetlinkError::Timeout { what }),
            }
        }
    }

    pub async fn dump(&self) -> Result<Dump, NetlinkError> {
        let links =
            self.run("dump of links", |handle| handle.link().get().execute().try_collect::<Vec<_>>()).await?;
        let addresses = self
            .run("dump of addresses", |handle| handle.address().get().execute().try_collect::<Vec<_>>())
            .await?;
        let neighbours = self
            .run("dump of neighbours", |handle| handle.neighbours().get().execute().try_collect::<Vec<_>>())
            .await?;
        Ok(Dump {
            host: HostState {
                links: links.iter().filter_map(parse::link).map(|link| (link.index, link)).collect(),
                addresses: addresses.iter().filter_map(parse::address).collect(),
            },
            neighbours: neighbours.iter().filter_map(parse::neighbour).collect(),
        })
    }

    /// Asks the kernel how each target is reached: its own look-up, policy rules and multipath included. In the order of the
    /// addresses, each once. What it has said before holds, if it has told of no change since.
    pub async fn answers(&self, targets: &[IpAddr]) -> Vec<(IpAddr, Answer)> {
        let mut unique: Vec<IpAddr> = targets.to_vec();
        unique.sort_unstable();
        unique.dedup();
        let (epoch, known, unknown) = {
            let mut all = self.known();
            let (epoch, paths) = all.paths();
            let (known, unknown): (Vec<IpAddr>, Vec<IpAddr>) =
                unique.into_iter().partition(|target| paths.contains_key(target));
            let known = known.into_iter().filter_map(|target| Some((target, Ok(*paths.get(&target)?))));
            (epoch, known.collect::<Vec<(IpAddr, Answer)>>(), unknown)
        };
        let mut answers = self.ask_for(unknown).await;
        answers.extend(known);
        answers.sort_unstable_by_key(|(target, _)| *target);
        self.known().learn(epoch, &answers);
        answers
    }

    /// [`Self::answers`], all of them asked for now.
    pub async fn answers_anew(&self, targets: &[IpAddr]) -> Vec<(IpAddr, Answer)> {
        self.known().forget();
        self.answers(targets).await
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_for(&self, unique: Vec<IpAddr>) -> Vec<(IpAddr, Answer)> {
        let (unique, replies) = if unique.len() < MANY {
            (unique, Vec::new())
        } else {
            let asked = tokio::task::spawn_blocking(move || {
                let replies = lookups::look_up(&unique, route_request).unwrap_or_default();
                (unique, replies)
            });
            match asked.await {
                Ok((unique, replies)) => (unique, replies),
                Err(_) => return Vec::new(),
            }
        };
        let replies = replies.into_iter().chain(std::iter::repeat_with(|| None));
        futures::stream::iter(unique.into_iter().zip(replies))
            .map(|(target, reply)| async move {
                let answer = match reply {
                    _ if target.is_multicast() || target.is_unspecified() => {
                        Err(Unreachable::NotUnicast(target))
                    }
                    Some(Ok(message)) => parse::route(target, &message),
                    Some(Err(error)) => Err(refused(target, &error)),
                    None => self.answer(target).await,
                };
                (target, answer)
            })
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    async fn answer(&self, target: IpAddr) -> Answer {
        let reply = self
            .run("route look-up", |handle| {
                let message = route_request(target);
                async move { handle.route().get(message).execute().try_next().await }
            })
            .await;
        match reply {
            Ok(Some(message)) => parse::route(target, &message),
            Ok(None) => Err(Unreachable::NoRoute(target)),
            Err(NetlinkError::Request { error, .. }) => Err(refused(target, &error)),
            Err(error) => Err(Unreachable::Query { target, error: error.to_string() }),
        }
    }

    /// Has the kernel resolve a neighbour and keep it resolved by itself (NTF_EXT_MANAGED, Linux 5.16; earlier ones
    /// ignore or refuse the flag and resolve it once), or ends that.
    pub async fn ask(&self, ask: Ask) -> Result<(), NetlinkError> {
        match self.neighbour(ask, ask.keep).await {
            Err(NetlinkError::Request { error, .. })
                if ask.keep && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
            {
                self.neighbour(ask, false).await
            }
            // Nothing to end.
            Err(NetlinkError::Request { error, .. })
                if !ask.keep && error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            other => other,
        }
    }

    async fn neighbour(&self, ask: Ask, managed: bool) -> Result<(), NetlinkError> {
        let (ifindex, address) = ask.neighbour;
        self.run("change of a neighbour", |mut handle| {
            let mut message = NeighbourMessage::default();
            message.header.family = family(address);
            message.header.ifindex = ifindex;
            message.header.state = NeighbourState::None;
            message.header.flags = NeighbourFlags::Use;
            if ask.learned {
                message.header.flags |= NeighbourFlags::ExtLearned;
            }
            message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(address)));
            if managed {
                message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
            }
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE;
            if ask.keep {
                request.header.flags |= NLM_F_CREATE;
            }
            async move {
                let mut replies = handle.request(request)?;
                while let Some(reply) = replies.next().await {
                    if let NetlinkPayload::Error(error) = reply.payload {
                        return Err(rtnetlink::Error::NetlinkError(error));
                    }
                }
                Ok(())
            }
        })
        .await
    }

    /// One link, asked for by name.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let reply = self
            .run("look-up of a link", |handle| {
                let name = name.to_owned();
                async move { handle.link().get().match_name(name).execute().try_next().await }
            })
            .await;
        match reply {
            Ok(message) => Ok(message.as_ref().and_then(parse::link)),
            Err(NetlinkError::Request { error, .. }) if error.raw_os_error() == Some(libc::ENODEV) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn open() -> Result<Handle, NetlinkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
    tokio::spawn(connection);
    Ok(handle)
}

fn route_request(target: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(target);
    message.header.destination_prefix_length = if target.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(target)));
    message
}

/// Why the kernel names no route.
fn refused(target: IpAddr, error: &io::Error) -> Unreachable {
    match error.raw_os_error() {
        Some(libc::ENETUNREACH | libc::ENODEV) => Unreachable::NoRoute(target),
        Some(libc::EHOSTUNREACH) => Unreachable::Refused { target, by: "unreachable".into() },
        Some(libc::EACCES) => Unreachable::Refused { target, by: "prohibit".into() },
        Some(libc::EINVAL) => Unreachable::Refused { target, by: "blackhole".into() },
        _ => Unreachable::Query { target, error: error.to_string() },
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
