//! An ICMP echo request (RFC 792, RFC 4443 4.1), by a datagram socket: that takes no privilege but a group in
//! `net.ipv4.ping_group_range`.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Fault;

/// Bytes of the header before the data.
const HEADER: usize = 8;

/// Sends a request and waits for its reply.
pub(super) async fn ask(address: IpAddr) -> Result<(), Fault> {
    let socket = socket(address)?;
    let (request, reply) = if address.is_ipv4() { (8, 0) } else { (128, 129) };
    let mark = RandomState::new().hash_one(address).to_be_bytes();
    let mut message = [0; HEADER + 8];
    // The kernel fills in identifier and checksum.
    message[0] = request;
    message[7] = 1;
    message[HEADER..].copy_from_slice(&mark);
    socket.send(&message).await?;
    let mut answer = [0; 64];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length == message.len() && answer[0] == reply && answer[HEADER..length] == mark {
            return Ok(());
        }
    }
}

fn socket(address: IpAddr) -> Result<UdpSocket, Fault> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Fault::Local(
            "this host does not let the agent send echo requests: `sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`"
                .to_owned(),
        ),
        _ => error.into(),
    })?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}
