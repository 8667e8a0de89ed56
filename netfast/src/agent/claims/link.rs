//! The way to the link: frames by a packet socket, groups by a socket that is a member of them.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use netfast_common::claim::solicited_node;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Sends frames by any interface.
#[derive(Debug)]
pub(super) struct Sender(OwnedFd);

impl Sender {
    /// Opens the socket; it takes in nothing.
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?))
    }

    /// Sends a frame by interface `ifindex`.
    pub(super) fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all-zero bytes are a value of sockaddr_ll.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = i32::try_from(ifindex).unwrap_or_default();
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(frame.get(..6).unwrap_or(&[0; 6]));
        // The kind that stands in the frame.
        to.sll_protocol = frame.get(12..14).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
        // SAFETY: frame and address are valid for the lengths given, and the call only reads them.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Membership of an address's solicited-node group, until the value goes: the interface takes in its frames, and MLD tells
/// switches that listen to it (RFC 4861 7.2.1).
#[derive(Debug)]
pub(super) struct Membership(#[expect(dead_code, reason = "held open")] UdpSocket);

impl Membership {
    /// Joins; nothing is to be joined for IPv4, as ARP is broadcast.
    pub(super) fn join(address: IpAddr, ifindex: u32) -> io::Result<Option<Self>> {
        let IpAddr::V6(v6) = address else { return Ok(None) };
        let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let socket = UdpSocket::from(socket);
        socket.join_multicast_v6(&solicited_node(v6.octets()).into(), ifindex)?;
        Ok(Some(Self(socket)))
    }
}
