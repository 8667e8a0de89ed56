//! Route look-ups in bulk: ten thousand targets are asked for by requests of which many go into one message, over a socket of
//! their own. One by one over the connection for everything else they would take ten times as long. And what is not asked
//! again because nothing has changed.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::view::{Answer, Path};

/// Requests in one message: as many answers must fit into the receive buffer.
const AT_ONCE: usize = 64;
/// Room for answers; the kernel counts up to 8 KiB for each.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The kernel has answered before the message is sent; this only keeps a lost answer from hanging the agent.
const TIMEOUT: i64 = 2;

/// What the kernel says of a destination.
pub(super) type Reply = io::Result<RouteMessage>;

/// Asks for routes, with a request made for each target; blocks. `None`: the kernel gave no answer that can be understood.
pub(super) fn look_up(
    targets: &[IpAddr],
    request: impl Fn(IpAddr) -> RouteMessage,
) -> io::Result<Vec<Option<Reply>>> {
    let socket = open()?;
    let mut replies: Vec<Option<Reply>> = Vec::with_capacity(targets.len());
    let mut buffer = Vec::new();
    for some in targets.chunks(AT_ONCE) {
        let first = replies.len();
        buffer.clear();
        for (target, number) in some.iter().zip(first..) {
            append(&mut buffer, request(*target), number as u32);
        }
        socket.send(&buffer, 0)?;
        replies.resize_with(first + some.len(), || None);
        let mut open = some.len();
        while open > 0 {
            let (bytes, _) = match socket.recv_from_full() {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // What is not answered is asked for one by one.
                Err(_) => return Ok(replies_for(replies, targets.len())),
            };
            for (number, reply) in parse(&bytes) {
                let place = replies.get_mut(number as usize).filter(|_| number as usize >= first);
                if let Some(place @ None) = place {
                    *place = reply;
                    open -= 1;
                }
            }
        }
    }
    Ok(replies)
}

fn replies_for(mut replies: Vec<Option<Reply>>, count: usize) -> Vec<Option<Reply>> {
    replies.resize_with(count, || None);
    replies
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // SAFETY: the socket is open, and borrowed for this function.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    // Beyond rmem_max with CAP_NET_ADMIN; without, as much as there may be.
    if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER as libc::c_int);
    }
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT, 0))?;
    Ok(socket)
}

fn append(buffer: &mut Vec<u8>, request: RouteMessage, number: u32) {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(request));
    (message.header.flags, message.header.sequence_number) = (NLM_F_REQUEST, number);
    message.finalize();
    let from = buffer.len();
    buffer.resize(from + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut buffer[from..from + message.buffer_len()]);
}

/// The answers in a datagram, with the numbers of their requests.
fn parse(bytes: &[u8]) -> Vec<(u32, Option<Reply>)> {
    let mut replies = Vec::new();
    let mut rest = bytes;
    while let Some(length) = rest.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length) as usize)
        && (16..=rest.len()).contains(&length)
    {
        if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
            let reply = match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => Some(Ok(route)),
                NetlinkPayload::Error(error) => Some(Err(error.to_io())),
                _ => None,
            };
            replies.push((message.header.sequence_number, reply));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

/// Answers of the kernel, good as long as it has told of no change of links, addresses, routes or policy rules.
pub(super) struct Known {
    /// Hears of every change, before whoever made it goes on. Without one nothing is known.
    ear: Option<Socket>,
    paths: HashMap<IpAddr, Path>,
    /// Counts the times that all was forgotten.
    epoch: u64,
}

impl Known {
    /// Knows nothing yet.
    pub(super) fn new() -> Self {
        Self { ear: listen().ok(), paths: HashMap::new(), epoch: 0 }
    }

    /// What is known now, and the epoch of it.
    pub(super) fn paths(&mut self) -> (u64, &HashMap<IpAddr, Path>) {
        let changed = self.ear.as_ref().is_none_or(has_heard);
        if changed {
            self.forget();
        }
        (self.epoch, &self.paths)
    }

    /// Everything is to be asked for anew.
    pub(super) fn forget(&mut self) {
        self.epoch += 1;
        self.paths.clear();
    }

    /// Takes over answers that were asked for in an epoch; those of other targets go.
    pub(super) fn learn(&mut self, epoch: u64, answers: &[(IpAddr, Answer)]) {
        if epoch == self.epoch {
            self.paths = answers
                .iter()
                .filter_map(|(target, answer)| Some((*target, *answer.as_ref().ok()?)))
                .collect();
        }
    }
}

fn listen() -> io::Result<Socket> {
    const GROUPS: [u32; 8] = [
        libc::RTNLGRP_LINK,
        libc::RTNLGRP_IPV4_IFADDR,
        libc::RTNLGRP_IPV6_IFADDR,
        libc::RTNLGRP_IPV4_ROUTE,
        libc::RTNLGRP_IPV6_ROUTE,
        libc::RTNLGRP_IPV4_RULE,
        libc::RTNLGRP_IPV6_RULE,
        libc::RTNLGRP_NEXTHOP,
    ];
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Whether anything was told since the last call; all of it is taken.
fn has_heard(ear: &Socket) -> bool {
    let mut heard = false;
    let mut start = [0u8; 16];
    loop {
        // What does not fit is cut off. Lost notifications are an error that is told once.
        match ear.recv(&mut &mut start[..], libc::MSG_TRUNC) {
            Ok(_) => heard = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return heard,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
            // Nothing can be told of what it hears.
            Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_requests_go_into_one_message_and_answers_are_told_apart() {
        let mut buffer = Vec::new();
        append(&mut buffer, RouteMessage::default(), 7);
        append(&mut buffer, RouteMessage::default(), 8);
        assert!(buffer.len().is_multiple_of(4));
        let numbers: Vec<u32> = parse(&buffer).into_iter().map(|(number, _)| number).collect();
        assert_eq!([7, 8], numbers[..], "requests are no answers, but as long as such");
        assert!(parse(&buffer).iter().all(|(_, reply)| reply.is_none()));
        assert!(parse(&buffer[..20]).is_empty(), "cut off");
    }
}
