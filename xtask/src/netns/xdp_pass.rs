//! An XDP program of two instructions that passes every frame, loaded and attached without any tool. It is attached by
//! netlink and not by a link, so that it stays as long as the device and nobody has to hold a descriptor.

use std::{
    io::{Error, Result},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// Frames of several buffers: without it veth refuses the program at an MTU beyond a page.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// `linux/if_link.h`.
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// Attaches it in native mode to a device of the calling thread's network namespace.
///
/// # Errors
/// EBUSY if the device has an XDP program; whatever else the kernel says.
pub fn attach(ifindex: u32) -> Result<()> {
    let program = load()?;
    set_link(ifindex, &program)
}

/// `r0 = XDP_PASS; exit`.
fn load() -> Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 4],
        kernel_version: u32,
        flags: u32,
    }
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let attributes = Attributes {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        flags: BPF_F_XDP_HAS_FRAGS,
        ..Attributes::default()
    };
    // SAFETY: the kernel reads the attributes and what they point to, all of which lives until the call is over.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<Attributes>())
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(Error::last_os_error)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// RTM_SETLINK with the program's descriptor.
fn set_link(ifindex: u32, program: &OwnedFd) -> Result<()> {
    let mut message = Vec::with_capacity(64);
    let word = |message: &mut Vec<u8>, value: u32| message.extend_from_slice(&value.to_ne_bytes());
    let halves = |message: &mut Vec<u8>, a: u16, b: u16| {
        message.extend_from_slice(&a.to_ne_bytes());
        message.extend_from_slice(&b.to_ne_bytes());
    };
    // nlmsghdr: length, type, flags, sequence, port.
    word(&mut message, 52);
    halves(&mut message, libc::RTM_SETLINK, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16);
    word(&mut message, 1);
    word(&mut message, 0);
    // ifinfomsg: family and type, index, flags, change.
    word(&mut message, 0);
    word(&mut message, ifindex);
    word(&mut message, 0);
    word(&mut message, 0);
    // The attribute and the two inside it.
    halves(&mut message, 20, IFLA_XDP | libc::NLA_F_NESTED as u16);
    halves(&mut message, 8, IFLA_XDP_FD);
    word(&mut message, program.as_raw_fd().cast_unsigned());
    halves(&mut message, 8, IFLA_XDP_FLAGS);
    word(&mut message, XDP_FLAGS_UPDATE_IF_NOEXIST | XDP_FLAGS_DRV_MODE);
    debug_assert_eq!(52, message.len());

    // SAFETY: a plain system call.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: the buffer lives and has this length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 {
        return Err(Error::last_os_error());
    }
    let mut answer = [0_u8; 512];
    // SAFETY: the buffer lives and has this length.
    let length = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    if length < 20 {
        return Err(Error::last_os_error());
    }
    // nlmsgerr: the negated errno after the 16 bytes of nlmsghdr; 0 is success.
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(Error::from_raw_os_error(-error)),
    }
}
