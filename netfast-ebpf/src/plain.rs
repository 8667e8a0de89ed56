//! What the hot program looks at of a packet, and the look into the flow cache.

use netfast_common::{
    abi::{CacheLine4, CacheLine6, CacheSet4, CacheSet6},
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    cache,
    frame::{load, store},
    maps::{CACHE4, CACHE6, CONFIG},
    run::Start,
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

    /// Puts the ports of an answer in: that of the line, and the service's, by its difference to the target's. Returns both, in any
    /// order: a word that is read where two halves of it have just been written waits for them to leave the CPU's store buffer.
    #[inline(always)]
    pub fn put_reply_ports(self, tail: usize, delta: u16) -> [u16; 2] {
        // SAFETY: 8 bytes are there; the port of a line's last word stands in its bytes 0 and 1 (`line_tail`).
        unsafe {
            let port: u16 = load(tail);
            let other = u16::from_be(load(self.l4)).wrapping_sub(delta).to_be();
            store(self.l4 + 2, port);
            store(self.l4, other);
            [port, other]
        }
    }
}

/// A line that decides a packet, and by what.
pub struct Found<T: 'static> {
    /// The line.
    pub line: &'static T,
    /// Its kind.
    pub kind: u8,
}

/// The live line of a packet's tuple in a set. (Which of both it is, is written out here and in [`find6`]: a function for it costs a
/// packet two to six instructions.) The tuple is read anew after the look-up, which is a call: what was read before
/// would have to be kept on the stack.
#[inline(always)]
pub fn find4(start: &Start, set: u32, ip: usize, transport: Transport) -> Option<Found<CacheLine4>> {
    // SAFETY: the element belongs to this CPU, and a program does not interrupt itself.
    let set: &'static CacheSet4 = unsafe { &*CACHE4.get_ptr(set)? };
    let same = |line: &CacheLine4| {
        let line = core::ptr::from_ref(line) as usize;
        // SAFETY: a line begins with two addresses and two ports; 28 bytes from `ip` are there.
        unsafe { same::<u64>(line, ip + 12) && same::<u32>(line + 8, transport.l4) }
    };
    let line = if same(&set.ways[0]) {
        &set.ways[0]
    } else if same(&set.ways[1]) {
        &set.ways[1]
    } else {
        core::hint::cold_path();
        return None;
    };
    acting(start, line, &line.tail, transport.udp)
}

/// The same for IPv6.
#[inline(always)]
pub fn find6(start: &Start, set: u32, ip: usize, transport: Transport) -> Option<Found<CacheLine6>> {
    // SAFETY: the element belongs to this CPU, and a program does not interrupt itself.
    let set: &'static CacheSet6 = unsafe { &*CACHE6.get_ptr(set)? };
    let same = |line: &CacheLine6| {
        let line = core::ptr::from_ref(line) as usize;
        let word = |at: usize| {
            // SAFETY: a line begins with two addresses; 48 bytes from `ip` are there.
            unsafe { same::<u64>(line + at, ip + 8 + at) }
        };
        // SAFETY: as above; its ports stand at offset 48.
        unsafe { same::<u32>(line + 48, transport.l4) && word(24) && word(16) && word(8) && word(0) }
    };
    let line = if same(&set.ways[0]) {
        &set.ways[0]
    } else if same(&set.ways[1]) {
        &set.ways[1]
    } else {
        core::hint::cold_path();
        return None;
    };
    acting(start, line, &line.tail, transport.udp)
}

/// Whether a word of a line is that of the packet. Read anew for each line: the compiler would keep the words of the first one on the
/// stack for the second, which is hardly ever asked.
///
/// # Safety
///
/// As for [`load`].
#[inline(always)]
unsafe fn same<T: Copy + PartialEq>(line: usize, packet: usize) -> bool {
    // SAFETY: see above.
    unsafe { load::<T>(line) == (packet as *const T).read_volatile() }
}

/// The line, if it may act now.
#[inline(always)]
fn acting<T>(start: &Start, line: &'static T, tail: &u64, udp: bool) -> Option<Found<T>> {
    let Some(kind) = cache::live(CONFIG.get(0)?, start.now(), tail, udp) else {
        core::hint::cold_path();
        return None;
    };
    Some(Found { line, kind })
}
