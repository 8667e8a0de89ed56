//! Programs of `cargo xtask bench live`: a packet generator for live frames of BPF_PROG_TEST_RUN, a sink that counts, and the bare
//! programs that netfast is compared with.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, DevMap, PerCpuArray},
    helpers::generated::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use netfast_common::abi::bench::{FIRST_PORT, LIVE_PAD, SINK_ANSWERS, Stream};

use crate::programs::{load, store};

/// What each CPU's generator sends. Written by the benchmark; per CPU, so that generators share no cache line.
#[btf_map]
static STREAM: PerCpuArray<Stream, 1> = PerCpuArray::new();

/// Numbers of flows in the order in which packets of them come; sized and written by the benchmark.
#[btf_map]
static SEQUENCE: Array<u32, 1> = Array::new();

/// UDP frames that the sink has seen.
#[btf_map]
static SEEN: PerCpuArray<u64, 1> = PerCpuArray::new();

/// What the sink does.
#[btf_map]
static SINK_MODE: Array<u32, 1> = Array::new();

/// Where `bench_redirect` sends frames.
#[btf_map]
static WAY_OUT: DevMap<1> = DevMap::new();

/// Makes a packet and sends it by the interface that the test run names.
#[xdp(frags)]
pub fn bench_generate(ctx: XdpContext) -> u32 {
    let Some(stream) = STREAM.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the element is this CPU's, and a CPU runs one generator.
    let stream = unsafe { &mut *stream };
    // Where a card would have put it.
    // SAFETY: the context is this program's.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, LIVE_PAD as i32) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 64 > end {
        return xdp_action::XDP_ABORTED;
    }
    let flow = if stream.sequence == 0 {
        // A full-period generator modulo a power of two: every flow once, in an order that no prefetcher follows.
        stream.position = stream.position.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        stream.position & stream.mask
    } else {
        stream.position = stream.position.wrapping_add(1);
        SEQUENCE.get(stream.position & stream.sequence).copied().unwrap_or(0)
    };
    let of_address = flow & 1u32.wrapping_shl(stream.address_bits).wrapping_sub(1);
    let address = stream.address + of_address.wrapping_shl(stream.address_shift);
    let port = FIRST_PORT + flow.wrapping_shr(stream.address_bits);
    let varies = (address >> 16) + (address & 0xffff);
    let mut i = 0;
    while i < 8 {
        // SAFETY: 64 bytes are there.
        unsafe { store::<u64>(data + 8 * i, stream.template[i]) };
        i += 1;
    }
    // SAFETY: as above.
    unsafe {
        store(data + 24, (!fold(stream.ip_sum + varies)).to_be());
        store(data + 26, address.to_be());
        store(data + 34, (port as u16).to_be());
        let checksum = !fold(stream.udp_sum + varies + (port & 0xffff));
        store(data + 40, if checksum == 0 { u16::MAX } else { checksum.to_be() });
    }
    stream.made += 1;
    xdp_action::XDP_TX
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Whether the frame is UDP over IPv4, in which case the first 42 bytes are there.
#[inline(always)]
fn is_udp(data: usize, end: usize) -> bool {
    if data + 42 > end {
        return false;
    }
    // SAFETY: as just checked.
    let (kind, protocol): (u16, u8) = unsafe { (load(data + 12), load(data + 23)) };
    kind == 0x0800u16.to_be() && protocol == 17
}

#[inline(always)]
fn seen() {
    if let Some(count) = SEEN.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's.
        unsafe { *count += 1 };
    }
}

/// Exchanges the MAC addresses.
///
/// # Safety
///
/// 12 bytes are there.
#[inline(always)]
unsafe fn turn(data: usize) {
    // SAFETY: see above.
    unsafe {
        let (a, b, c): (u32, u32, u32) = (load(data), load(data + 4), load(data + 8));
        // Three words hold both addresses: destination a and half of b, source the other half and c.
        store(data, b >> 16 | c << 16);
        store(data + 4, c >> 16 | a << 16);
        store(data + 8, a >> 16 | b << 16);
    }
}

/// Counts UDP datagrams, and drops or answers them; passes everything else to the kernel. Also the bare program of
/// `live/xdp_drop`.
#[xdp(frags)]
pub fn bench_sink(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if !is_udp(data, end) || data + 42 > end {
        return xdp_action::XDP_PASS;
    }
    seen();
    if SINK_MODE.get(0).copied() != Some(SINK_ANSWERS) {
        return xdp_action::XDP_DROP;
    }
    // SAFETY: 42 bytes are there.
    unsafe {
        turn(data);
        let (source, destination): (u32, u32) = (load(data + 26), load(data + 30));
        let (from, to): (u16, u16) = (load(data + 34), load(data + 36));
        store(data + 26, destination);
        store(data + 30, source);
        store(data + 34, to);
        store(data + 36, from);
    }
    xdp_action::XDP_TX
}

/// The bare echo: exchanges the MAC addresses and sends the frame back.
#[xdp(frags)]
pub fn bench_tx(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if !is_udp(data, end) || data + 42 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: 42 bytes are there.
    unsafe { turn(data) };
    xdp_action::XDP_TX
}

/// The bare forwarder: exchanges the MAC addresses and sends the frame by another interface.
#[xdp(frags)]
pub fn bench_redirect(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if !is_udp(data, end) || data + 42 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: 42 bytes are there.
    unsafe { turn(data) };
    WAY_OUT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}
