//! See `main.rs`.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, HashMap, ProgramArray},
    helpers::generated::{bpf_jiffies64, bpf_xdp_adjust_head},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use netfast_common::{
    abi::bench::{
        FIRST_PORT, PORTS_PER_ADDRESS, Plan, ReferenceFlow, ReferenceKey, TRACE_FRAME, TraceFrame, TraceState,
    },
    checksum::Delta,
};

/// Frames of a trace; sized and written by the benchmark.
#[btf_map]
static TRACE: Array<TraceFrame, 16> = Array::new();

/// Where in the trace the program is.
#[btf_map]
static TRACE_STATE: Array<TraceState, 1> = Array::new();

/// The packet to make. Written by the benchmark.
#[btf_map]
static PLAN: Array<Plan, 1> = Array::new();

/// The program under test, at 0.
#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

/// Flows of the reference; sized by the benchmark.
#[btf_map]
static REFERENCE: HashMap<ReferenceKey, ReferenceFlow, 1024> = HashMap::new();

/// # Safety
///
/// The bytes lie in the frame, as checked by the caller; alignment as in `frame.rs` of the real program.
#[inline(always)]
pub unsafe fn load<T: Copy>(address: usize) -> T {
    // SAFETY: see above.
    unsafe { *(address as *const T) }
}

/// # Safety
///
/// As for [`load`].
#[inline(always)]
pub unsafe fn store<T>(address: usize, value: T) {
    // SAFETY: see above.
    unsafe { *(address as *mut T) = value }
}

/// Writes a value at `offset` bytes (below 64).
#[inline(always)]
fn put<T>(data: usize, end: usize, offset: u32, value: T) {
    // The compiler knows that 64 bytes are there; the verifier does not know it of a variable offset.
    let at = core::hint::black_box(data + (offset & 0x3f) as usize);
    if at + size_of::<T>() <= end {
        // SAFETY: as just checked.
        unsafe { store(at, value) };
    }
}

/// Makes the packet of the next flow and goes on in the program under test.
#[xdp(frags)]
pub fn bench_packet(ctx: XdpContext) -> u32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the benchmark runs on one CPU.
    let plan = unsafe { &mut *plan };
    let more = ctx.data_end() - ctx.data();
    // What a tunnel has put before the frame of the run before this one: nobody else takes it away.
    // SAFETY: the context is this program's; references into the frame are made below.
    if more > 64 && unsafe { bpf_xdp_adjust_head(ctx.ctx, more as i32 - 64) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 64 > end {
        return xdp_action::XDP_ABORTED;
    }
    // A full-period generator modulo a power of two: every flow once, in an order that no prefetcher follows.
    plan.position = plan.position.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let flow = (plan.position & plan.mask) + plan.offset;
    if plan.fresh != 0 {
        plan.offset += 1;
    }
    let mut i = 0;
    while i < 8 {
        // SAFETY: 64 bytes are there.
        unsafe { store::<u64>(data + 8 * i, plan.template[i]) };
        i += 1;
    }
    let (address, port) = (flow / PORTS_PER_ADDRESS, (FIRST_PORT + flow % PORTS_PER_ADDRESS) as u16);
    put(data, end, plan.address_at, plan.address.wrapping_add(address).to_be());
    put(data, end, plan.port_at, port.to_be());
    // SAFETY: the context is this program's.
    unsafe { UNDER_TEST.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// Sends the next frame of a trace to the program under test.
#[xdp(frags)]
pub fn bench_trace(ctx: XdpContext) -> u32 {
    let Some(state) = TRACE_STATE.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the benchmark runs on one CPU.
    let state = unsafe { &mut *state };
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + TRACE_FRAME > end {
        return xdp_action::XDP_ABORTED;
    }
    let position = state.position;
    state.position = if position + 1 < state.count { position + 1 } else { 0 };
    let Some(frame) = TRACE.get(position) else { return xdp_action::XDP_ABORTED };
    let mut i = 0;
    while i < TRACE_FRAME / 8 {
        // SAFETY: as just checked.
        unsafe { store::<u64>(data + 8 * i, frame.words[i]) };
        i += 1;
    }
    // SAFETY: the context is this program's.
    unsafe { UNDER_TEST.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// The floor: sends the frame back as it is.
#[xdp(frags)]
pub fn bench_empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// The reference: a minimal forwarder with one BPF hash. Parses Ethernet, IPv4 and UDP, looks the five-tuple up, keeps the
/// flow's age by the coarsest clock, rewrites addresses, ports, TTL, checksums and MAC addresses.
#[xdp(frags)]
pub fn bench_reference(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 42 > end {
        return xdp_action::XDP_PASS;
    }
    let ip = data + 14;
    // SAFETY: 42 bytes are there.
    let (kind, version, protocol): (u16, u8, u8) = unsafe { (load(data + 12), load(ip), load(ip + 9)) };
    if kind != 0x0800u16.to_be() || version != 0x45 || protocol != 17 {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: as above.
    let key = unsafe {
        ReferenceKey { source: load(ip + 12), destination: load(ip + 16), ports: load(ip + 20), protocol: 17 }
    };
    let Some(flow) = REFERENCE.get_ptr_mut(key) else { return xdp_action::XDP_PASS };
    // SAFETY: the element stays mapped while the program runs; the 42 bytes of the frame are there.
    unsafe {
        let flow = &mut *flow;
        flow.last_seen = bpf_jiffies64();
        let pseudo = Delta::NONE.word32(key.source, flow.source).word32(key.destination, flow.destination);
        let [ttl, protocol, c0, c1]: [u8; 4] = load::<u32>(ip + 8).to_ne_bytes();
        let [c0, c1] = pseudo.word([ttl, protocol], [ttl - 1, protocol]).apply([c0, c1]);
        store(ip + 8, u32::from_ne_bytes([ttl - 1, protocol, c0, c1]));
        store(ip + 12, flow.source);
        store(ip + 16, flow.destination);
        store(ip + 20, flow.ports);
        let checksum: u16 = load(ip + 26);
        store(ip + 26, pseudo.word32(key.ports, flow.ports).apply_udp(checksum.to_ne_bytes()));
        store(data, flow.mac[0]);
        store(data + 4, flow.mac[1]);
        store(data + 8, flow.mac[2]);
    }
    xdp_action::XDP_TX
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
