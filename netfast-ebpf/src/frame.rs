//! Packet memory: the only file that turns packet addresses into references.

use core::arch::asm;

use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use netfast_common::{
    rewrite::Words,
    wire::{self, Cursor},
};

/// Link header with two tags, IPv6 header, extension headers, TCP header.
const LONGEST_HEADERS: usize = 22 + 40 + 2048 + 20;

/// A cursor over the frame, for the parser of `netfast-common`.
#[derive(Clone)]
pub struct FrameCursor {
    start: usize,
    position: usize,
    end: usize,
    /// Bytes of the frame in buffers after the first.
    beyond: usize,
}

impl FrameCursor {
    /// A cursor at the beginning of the frame.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        let beyond = length(ctx) - linear(ctx);
        Self { start: ctx.data(), position: ctx.data(), end: ctx.data_end(), beyond }
    }

    /// A cursor at an offset (below 16384) of the frame, over its first buffer.
    #[inline(always)]
    pub fn at(ctx: &XdpContext, offset: usize) -> Self {
        Self { start: ctx.data(), position: ctx.data() + (offset & 0x3fff), end: ctx.data_end(), beyond: 0 }
    }

    /// Whether headers may lie beyond what can be read here: the frame goes on in a second buffer, and the first one holds
    /// less than the longest headers that are read.
    #[inline(always)]
    pub fn is_short(&self) -> bool {
        self.beyond != 0 && self.end - self.start < LONGEST_HEADERS
    }
}

impl Cursor for FrameCursor {
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let from = self.position;
        if from + N > self.end {
            return None;
        }
        self.position = from + N;
        let mut bytes = [0; N];
        let mut i = 0;
        while i + 4 <= N {
            // SAFETY: `N` bytes from `from` lie before the end of the frame, as just checked.
            let word: [u8; 4] = unsafe { load::<u32>(from + i) }.to_ne_bytes();
            bytes[i] = word[0];
            bytes[i + 1] = word[1];
            bytes[i + 2] = word[2];
            bytes[i + 3] = word[3];
            i += 4;
        }
        while i < N {
            // SAFETY: as above.
            bytes[i] = unsafe { load(from + i) };
            i += 1;
        }
        Some(bytes)
    }

    #[inline(always)]
    fn skip(&mut self, count: usize) -> Option<()> {
        let to = self.position + (count & 0x7ff);
        if to > self.end {
            return None;
        }
        self.position = to;
        Some(())
    }

    #[inline(always)]
    fn remaining(&self) -> usize {
        // The compiler must not conclude from a length that was compared with this that a later `take` cannot fail: the
        // verifier wants to see each check against the end of the frame.
        core::hint::black_box(self.end - self.position) + self.beyond
    }

    #[inline(always)]
    fn option_byte(walk: u32, at: u32, byte: u32) -> u32 {
        netfast_option_byte(walk, at, byte)
    }

    #[inline(always)]
    fn settle(&mut self, offset: &u16) {
        // SAFETY: a valid reference. Volatile, so that the compiler does not know what it reads: then the verifier sees
        // one unknown offset instead of one state for each number of VLAN tags.
        let offset = unsafe { core::ptr::read_volatile(offset) };
        self.position = self.start + (offset & 0x1f) as usize;
    }
}

/// See `Cursor::option_byte`. A global function: the verifier looks at it once, by itself, and knows nothing of what it returns.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_option_byte(walk: u32, at: u32, byte: u32) -> u32 {
    wire::option_byte(walk, at, byte)
}

/// Offset of the lower half of a word of four bytes.
pub const LOW: usize = if cfg!(target_endian = "little") { 0 } else { 2 };
/// Offset of its upper half.
pub const HIGH: usize = 2 - LOW;

/// Reads a value at `address`.
///
/// # Safety
///
/// The bytes lie inside the frame or a map element, as checked by the caller. They need not be aligned for `T`: the
/// machines that netfast runs on (x86-64, arm64) load unaligned words, and the BPF back end emits one load for a typed
/// access where `read_unaligned` would become one load per byte.
#[inline(always)]
pub unsafe fn load<T: Copy>(address: usize) -> T {
    // SAFETY: see above.
    unsafe { *(address as *const T) }
}

/// Writes a value at `address`.
///
/// # Safety
///
/// As for [`load`]; and no reference to the bytes lives.
#[inline(always)]
pub unsafe fn store<T: Copy>(address: usize, value: T) {
    // SAFETY: see above.
    unsafe { *(address as *mut T) = value }
}

/// The same value, of which the compiler knows nothing. (`black_box` would store it in memory and read it again.)
#[inline(always)]
pub fn opaque(mut value: usize) -> usize {
    // SAFETY: it changes nothing. (Without any instruction, two lines would stand at one place, and the kernel refuses such
    // line information.)
    unsafe {
        asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack, preserves_flags));
    }
    value
}

/// Whether two words agree in their first six bytes, as they lie in memory: MAC addresses. The shift is written out: the compiler
/// would make a mask of eight bytes of it.
#[inline(always)]
pub fn same_six(one: u64, other: u64) -> bool {
    let mut difference = (one ^ other).to_le();
    // SAFETY: a shift of a register.
    unsafe { asm!("{0} <<= 16", inout(reg) difference, options(pure, nomem, nostack, preserves_flags)) };
    difference == 0
}

/// A header of `N` bytes inside the frame.
pub struct Header<const N: usize>(usize);

impl<const N: usize> Header<N> {
    /// The `N` bytes at `offset` (below 16384), or `None` beyond the end of the frame.
    #[inline(always)]
    pub fn at(ctx: &XdpContext, offset: usize) -> Option<Self> {
        let from = ctx.data() + (offset & 0x3fff);
        if from + N > ctx.data_end() { None } else { Some(Self(from)) }
    }

    /// The `N` bytes at an address.
    ///
    /// # Safety
    ///
    /// The caller has checked that they lie inside the frame.
    #[inline(always)]
    pub const unsafe fn checked(address: usize) -> Self {
        Self(address)
    }

    /// The value at `offset` bytes (`offset + size_of::<T>() <= N`, checked at compile time by use with constants).
    #[inline(always)]
    pub fn get<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: the bytes lie inside the frame.
        unsafe { load(self.0 + offset) }
    }

    /// Replaces the value at `offset` bytes.
    #[inline(always)]
    pub fn set<T: Copy>(&mut self, offset: usize, value: T) {
        // SAFETY: the bytes lie inside the frame, which is this program's alone.
        unsafe { store(self.0 + offset, value) }
    }
}

impl<const N: usize> Words for Header<N> {
    #[inline(always)]
    fn word(&self, index: usize) -> u32 {
        self.get(4 * index)
    }

    #[inline(always)]
    fn put(&mut self, index: usize, word: u32) {
        self.set(4 * index, word);
    }
}

/// Bytes of the frame that lie in its first buffer. That is all of a frame whose IP packet ends there.
#[inline(always)]
pub fn linear(ctx: &XdpContext) -> usize {
    ctx.data_end() - ctx.data()
}

/// Length of the frame in bytes over all its buffers, without FCS. A helper call.
#[inline(always)]
pub fn length(ctx: &XdpContext) -> usize {
    // SAFETY: the context is valid.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) as usize }
}
