//! What is asked about an interface before a program is attached to it.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::host::{Link, Mac};

/// Facts about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Driver, as ethtool names it; empty if it has none.
    pub driver: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address; `None` for what is not Ethernet.
    pub mac: Option<Mac>,
    /// Up, with carrier.
    pub up: bool,
    /// Identifiers of the XDP programs that are attached now.
    pub xdp: Vec<u32>,
    /// The link in full.
    pub link: Link,
}

impl LinkFacts {
    pub(crate) fn of(link: Link) -> Self {
        Self {
            ifindex: link.index,
            name: link.name.clone(),
            driver: driver(&link.name).unwrap_or_default(),
            mtu: link.mtu,
            mac: link.mac.filter(|_| link.ethernet),
            up: link.usable(),
            xdp: link.xdp.clone(),
            link,
        }
    }
}

/// `struct ethtool_drvinfo` of linux/ethtool.h.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// linux/sockios.h.
const SIOCETHTOOL: u32 = 0x8946;
/// ETHTOOL_GDRVINFO.
const GET_DRIVER_INFO: u32 = 3;

/// The name of an interface's driver.
fn driver(name: &str) -> Option<String> {
    let mut info = DriverInfo { command: GET_DRIVER_INFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: all-zero bytes are a value of ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    // SAFETY: the request names an interface (zero-terminated) and points to a record of the size that the command
    // ETHTOOL_GDRVINFO writes; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        return None;
    }
    let end = info.driver.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}
