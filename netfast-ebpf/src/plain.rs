//! What the hot program looks at of a packet, and the look into the flow cache.

use netfast_common::{
    abi::{CacheLine4, CacheLine6, CacheSet4, CacheSet6},
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    cache,
    frame::{load, store},
    maps::{CACHE4, CACHE6},
    run::{Run, Start},
};

/// A packet as far as its transport header matters.
#[derive(Clone, Copy)]
pub struct Transport {
    /// Address of the header.
    pub l4: usize,
    /// UDP, else TCP. A constant wherever it is looked at.
    pub udp: bool,
}

impl Transport {
    /// Whether the header is plain: TCP with ACK and without SYN, FIN, RST, or UDP; lengths agree. `length`: what the IP header
    /// says is there, with `before` bytes before this one. 8 bytes are there.
    #[inline(always)]
    pub fn is_plain(self, end: usize, length: usize, before: usize) -> bool {
        let l4 = self.l4;
        if self.udp {
            // SAFETY: 8 bytes are there.
            let datagram = u16::from_be(unsafe { load(l4 + 4) }) as usize;
            datagram >= 8 && datagram + before <= length
        } else {
            if l4 + 20 > end {
                return false;
            }
            // SAFETY: 20 bytes are there.
            let (offset, flags): (u8, u8) = unsafe { (load(l4 + 12), load(l4 + 13)) };
            let header = (offset >> 4) as usize * 4;
            flags & (SYN | FIN | RST | ACK) == ACK && header >= 20 && header + before <= length
        }
    }

    /// Both ports, as a word.
    #[inline(always)]
    pub fn ports(self) -> u32 {
        // SAFETY: 8 bytes are there.
        unsafe { load(self.l4) }
    }

    /// Where the checksum stands.
    #[inline(always)]
    pub const fn checksum(self) -> usize {
        self.l4 + if self.udp { 6 } else { 16 }
    }

    /// Puts new ports in: that of the line, and the service's, or the target's, by their difference. Returns both, in any order: a
    /// word that is read where two halves of it have just been written waits for them to leave the CPU's store buffer.
    #[inline(always)]
    pub fn put_ports(self, original: bool, tail: usize, delta: u16) -> [u16; 2] {
        // SAFETY: 8 bytes are there; the port of a line's last word stands in its bytes 3 and 4 (`line_tail`).
        unsafe {
            let port: u16 = load(tail + 3);
            if original {
                let other = u16::from_be(load(self.l4 + 2)).wrapping_add(delta).to_be();
                store(self.l4, port);
                store(self.l4 + 2, other);
                [port, other]
            } else {
                let other = u16::from_be(load(self.l4)).wrapping_sub(delta).to_be();
                store(self.l4 + 2, port);
                store(self.l4, other);
                [port, other]
            }
        }
    }
}

/// A line that decides a packet, and by what.
pub struct Found<T: 'static> {
    /// The line.
    pub line: &'static T,
    /// Its kind.
    pub kind: u8,
    /// What else is decided by.
    pub run: Run<'static>,
}

/// The live line of a packet's tuple in a set. (Which of both it is, is written out here and in [`find6`]: a function for it costs a
/// packet two to six instructions.) The tuple is read anew after the look-up, which is a call: what was read before
/// would have to be kept on the stack.
#[inline(always)]
pub fn find4(start: &Start, set: u32, ip: usize, transport: Transport) -> Option<Found<CacheLine4>> {
    // SAFETY: the element belongs to this CPU, and a program does not interrupt itself.
    let set: &'static CacheSet4 = unsafe { &*CACHE4.get_ptr(set)? };
    // SAFETY: 28 bytes from `ip` are there.
    let (addresses, ports): (u64, u32) = (unsafe { load(ip + 12) }, transport.ports());
    let same = |line: &CacheLine4| {
        let line = core::ptr::from_ref(line) as usize;
        // SAFETY: a line begins with two addresses and two ports.
        let (line_addresses, line_ports): (u64, u32) = unsafe { (load(line), load(line + 8)) };
        line_addresses == addresses && line_ports == ports
    };
    let line = if same(&set.ways[0]) {
        &set.ways[0]
    } else if same(&set.ways[1]) {
        &set.ways[1]
    } else {
        return None;
    };
    acting(start, line, &line.tail, transport.udp)
}

/// The same for IPv6.
#[inline(always)]
pub fn find6(start: &Start, set: u32, ip: usize, transport: Transport) -> Option<Found<CacheLine6>> {
    // SAFETY: the element belongs to this CPU, and a program does not interrupt itself.
    let set: &'static CacheSet6 = unsafe { &*CACHE6.get_ptr(set)? };
    // SAFETY: 48 bytes from `ip` are there.
    let words: [u64; 4] = unsafe { [load(ip + 8), load(ip + 16), load(ip + 24), load(ip + 32)] };
    let ports = transport.ports();
    let same = |line: &CacheLine6| {
        let line = core::ptr::from_ref(line) as usize;
        // SAFETY: a line begins with two addresses; its ports stand at offset 48.
        let (a, b, c, d, p): (u64, u64, u64, u64, u32) =
            unsafe { (load(line), load(line + 8), load(line + 16), load(line + 24), load(line + 48)) };
        p == ports && a == words[0] && b == words[1] && c == words[2] && d == words[3]
    };
    let line = if same(&set.ways[0]) {
        &set.ways[0]
    } else if same(&set.ways[1]) {
        &set.ways[1]
    } else {
        return None;
    };
    acting(start, line, &line.tail, transport.udp)
}

/// The line, if it may act now.
#[inline(always)]
fn acting<T>(start: &Start, line: &'static T, tail: &u64, udp: bool) -> Option<Found<T>> {
    let run = start.run_if(true)?;
    let kind = cache::live(&run, tail, udp)?;
    Some(Found { line, kind, run })
}
