//! A station that speaks 802.1Q on a kernel without VLAN devices: two BPF programs at its device (tcx, kernel 6.6), one of
//! which puts a tag on everything that leaves, the other takes it off everything that comes, and drops what has another one
//! or none. Loaded without any tool.

use std::{
    io::{Error, Result},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::Context as _;

use crate::support::netns::Namespace;

/// `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// Tags a device's frames as long as the value lives.
pub struct Tagged {
    _links: [OwnedFd; 2],
}

impl Tagged {
    /// `vlan`: identifier, 1 to 4094.
    pub fn new(namespace: &Namespace, device: &str, vlan: u16) -> anyhow::Result<Self> {
        let index = namespace.ifindex(device)?;
        let links = namespace.enter(|| -> Result<[OwnedFd; 2]> {
            Ok([
                attach(index, BPF_TCX_EGRESS, &load(&push(vlan))?)?,
                attach(index, BPF_TCX_INGRESS, &load(&pop(vlan))?)?,
            ])
        })?;
        Ok(Self { _links: links.context("cannot attach the programs that tag")? })
    }
}

/// An instruction: code, registers (destination, source), offset, value.
const fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    (code as u64)
        | ((to | from << 4) as u64) << 8
        | (offset.cast_unsigned() as u64) << 16
        | (value.cast_unsigned() as u64) << 32
}

/// `bpf_skb_vlan_push(skb, 802.1Q, vlan); return TCX_PASS`.
fn push(vlan: u16) -> [u64; 5] {
    let kind = i32::from(0x8100_u16.to_be());
    [
        op(0xb7, 2, 0, 0, kind),
        op(0xb7, 3, 0, 0, vlan.into()),
        op(0x85, 0, 0, 0, 18),
        op(0xb7, 0, 0, 0, 0),
        op(0x95, 0, 0, 0, 0),
    ]
}

/// Drops what has another tag or none, else `bpf_skb_vlan_pop(skb)`.
fn pop(vlan: u16) -> [u64; 10] {
    [
        // vlan_present and vlan_tci of struct __sk_buff.
        op(0x61, 2, 1, 20, 0),
        op(0x61, 3, 1, 24, 0),
        op(0x15, 2, 0, 5, 0),
        op(0x57, 3, 0, 0, 0xfff),
        op(0x55, 3, 0, 3, vlan.into()),
        op(0x85, 0, 0, 0, 19),
        op(0xb7, 0, 0, 0, 0),
        op(0x95, 0, 0, 0, 0),
        op(0xb7, 0, 0, 0, 2),
        op(0x95, 0, 0, 0, 0),
    ]
}

fn bpf(command: libc::c_long, attributes: &[u64]) -> Result<OwnedFd> {
    // SAFETY: the kernel reads the attributes and what they point to, all of which lives until the call is over.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(Error::last_os_error)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two 32-bit fields as they lie in the attributes.
const fn pair(first: u32, second: u32) -> u64 {
    u64::from_ne_bytes({
        let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
        [a, b, c, d, e, f, g, h]
    })
}

fn load(instructions: &[u64]) -> Result<OwnedFd> {
    let count = instructions.len() as u32;
    bpf(
        BPF_PROG_LOAD,
        &[pair(BPF_PROG_TYPE_SCHED_CLS, count), instructions.as_ptr() as u64, c"GPL".as_ptr() as u64],
    )
}

fn attach(index: u32, place: u32, program: &OwnedFd) -> Result<OwnedFd> {
    // prog_fd, target_ifindex; attach_type, flags; relative_fd, (pad); expected_revision.
    let program = program.as_raw_fd().cast_unsigned();
    bpf(BPF_LINK_CREATE, &[pair(program, index), pair(place, 0), 0, 0])
}
