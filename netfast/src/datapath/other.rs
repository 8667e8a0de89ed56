//! Who else has an XDP program on an interface: asked of the kernel by rtnetlink, for messages only.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::sys;
use crate::api::types::AttachMode;

/// What is attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attachment {
    program: Option<u32>,
    mode: Option<AttachMode>,
}

/// Identifier and name of the program on `ifindex`, in words; empty if it cannot be told.
pub(super) fn describe(ifindex: u32) -> String {
    let Some(id) = query(ifindex).ok().and_then(|attachment| attachment.program) else {
        return String::new();
    };
    match sys::program_name(id) {
        Ok(name) if !name.is_empty() => format!("program {id} ({name})"),
        // Names need CAP_SYS_ADMIN.
        _ => format!("program {id}"),
    }
}

/// The mode in which a program is attached to `ifindex`.
pub(super) fn mode(ifindex: u32) -> Option<AttachMode> {
    query(ifindex).ok()?.mode
}

fn query(ifindex: u32) -> io::Result<Attachment> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    request(&socket, ifindex)?;
    let mut buffer = vec![0u8; 64 * 1024];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer[..length])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let mut attachment = Attachment::default();
    if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload {
        for attribute in link.attributes {
            let LinkAttribute::Xdp(parts) = attribute else { continue };
            for part in parts {
                match part {
                    LinkXdp::ProgId(id)
                    | LinkXdp::DrvProgId(id)
                    | LinkXdp::SkbProgId(id)
                    | LinkXdp::HwProgId(id) => {
                        attachment.program = Some(id);
                    }
                    LinkXdp::Attached(XdpAttached::Driver) => attachment.mode = Some(AttachMode::Native),
                    LinkXdp::Attached(XdpAttached::SocketBuffer) => {
                        attachment.mode = Some(AttachMode::Generic)
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(attachment)
}

fn request(socket: &OwnedFd, ifindex: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)));
    message.finalize();
    let mut bytes = vec![0u8; message.buffer_len()];
    message.serialize(&mut bytes);
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    Ok(())
}
