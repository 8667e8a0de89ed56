//! Frames by hand, and raw sockets that send and receive them.

use std::{
    io::{Error, Result},
    net::IpAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

/// A generator (xorshift64*): the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// The part above the network header.
#[derive(Clone, Debug)]
pub enum Transport {
    Tcp { flags: u8, sequence: u32, acknowledged: u32, window: u16, urgent: u16, options: Vec<u8> },
    Udp,
}

/// What the checksum field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Right,
    Wrong,
    /// UDP over IPv4 without one.
    Zero,
}

/// A packet.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    pub ttl: u8,
    pub class: u8,
    /// IPv4 identification and flags; IPv6 flow label.
    pub label: u32,
    pub transport: Transport,
    pub payload: Vec<u8>,
    pub checksum: Checksum,
    /// Bytes after the packet.
    pub padding: usize,
}

/// Ones' complement sum of 16-bit words.
fn sum(bytes: &[u8], start: u32) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.fold(start, |sum, word| sum + word)
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Packet {
    /// The frame, from one station to another.
    pub fn frame(&self, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
        let transport = self.transport();
        let (kind, network) = match (self.source.0, self.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x45, self.class];
                header.extend(((20 + transport.len()) as u16).to_be_bytes());
                header.extend((self.label as u16).to_be_bytes());
                // Don't fragment, or not; never a fragment.
                header.extend(((self.label >> 16) as u16 & 0x4000).to_be_bytes());
                header.extend([self.ttl, self.protocol(), 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let checksum = folded(sum(&header, 0)).to_be_bytes();
                header[10..12].copy_from_slice(&checksum);
                (0x0800_u16, header)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let first = 6 << 28 | u32::from(self.class) << 20 | self.label & 0xf_ffff;
                let mut header = first.to_be_bytes().to_vec();
                header.extend((transport.len() as u16).to_be_bytes());
                header.extend([self.protocol(), self.ttl]);
                header.extend(source.octets());
                header.extend(destination.octets());
                (0x86dd, header)
            }
            _ => panic!("addresses of two versions"),
        };
        let padding = vec![0xa5; self.padding];
        [&to[..], &from, &kind.to_be_bytes(), &network, &transport, &padding].concat()
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp => 17,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = self.source.1.to_be_bytes().to_vec();
        bytes.extend(self.destination.1.to_be_bytes());
        let at = match &self.transport {
            Transport::Tcp { flags, sequence, acknowledged, window, urgent, options } => {
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledged.to_be_bytes());
                bytes.extend([((20 + options.len()) as u8 / 4) << 4, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(urgent.to_be_bytes());
                bytes.extend(options);
                16
            }
            Transport::Udp => {
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
        };
        bytes.extend(&self.payload);
        if self.checksum == Checksum::Zero {
            return bytes;
        }
        let pseudo = u32::from(self.protocol()) + bytes.len() as u32;
        let addresses = [self.source.0, self.destination.0].map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        let mut checksum = folded(sum(&bytes, sum(&addresses.concat(), pseudo)));
        if checksum == 0 && at == 6 {
            checksum = 0xffff;
        }
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        if self.checksum == Checksum::Wrong {
            // The content, not the field: so it is wrong by the same number, whatever the ports are.
            if let Some(last) = bytes.last_mut() {
                *last ^= 0x5a;
            }
        }
        bytes
    }
}

/// A raw socket on one device.
pub struct Raw(OwnedFd);

impl Raw {
    /// Opens it on a device of the calling thread's namespace.
    pub fn open(ifindex: u32) -> Result<Self> {
        /// Not in libc for every target: `linux/if_packet.h`.
        const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a plain system call.
        let fd =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20)?;
        // SAFETY: zero is a value of this plain struct.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = ifindex.cast_signed();
        let length = size_of_val(&address) as u32;
        // SAFETY: the address lives and has this length.
        if unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
            return Err(Error::last_os_error());
        }
        Ok(socket)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> Result<()> {
        let length = size_of_val(&value) as u32;
        // SAFETY: the value lives and has this length.
        let result =
            unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the buffer lives and has this length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame, if one comes until `end`.
    pub fn receive(&self, end: Instant) -> Result<Option<Vec<u8>>> {
        let left = end.saturating_duration_since(Instant::now()).min(Duration::from_secs(60));
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which lives.
        let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32) };
        if ready < 0 {
            return Err(Error::last_os_error());
        }
        if ready == 0 {
            return Ok(None);
        }
        let mut frame = vec![0; 4096];
        // SAFETY: the buffer lives and has this length.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        if length < 0 {
            return Err(Error::last_os_error());
        }
        frame.truncate(length.cast_unsigned());
        Ok(Some(frame))
    }
}
