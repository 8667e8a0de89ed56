//! What the benchmark and its BPF programs share. Not part of what is pinned.

use super::pod;

/// Flows with the same client address in the benchmark's packets: as many ports.
pub const PORTS_PER_ADDRESS: u32 = 32_768;
/// First client port of the benchmark's packets.
pub const FIRST_PORT: u32 = 16_384;

/// The packet that `bench_packet` makes: element 0 of the map `PLAN`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// First bytes of the frame.
    pub template: [u64; 8],
    /// Generator's state.
    pub position: u32,
    /// Number of flows minus one (a power of two minus one).
    pub mask: u32,
    /// Added to the flow's number.
    pub offset: u32,
    /// 1: every packet is of a flow that was never there before.
    pub fresh: u32,
    /// Offset of the four bytes that hold the flow's address (its last bytes).
    pub address_at: u32,
    /// Offset of the two bytes that hold the flow's port.
    pub port_at: u32,
    /// First address (its last four bytes), host order.
    pub address: u32,
    /// Zero.
    pub pad: u32,
}

/// Bytes of a frame that `bench_trace` sends.
pub const TRACE_FRAME: usize = 80;

/// A frame of the map `TRACE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceFrame {
    /// Its bytes.
    pub words: [u64; TRACE_FRAME / 8],
}

/// Element 0 of the map `TRACE_STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceState {
    /// The frame that is sent next.
    pub position: u32,
    /// Frames that there are.
    pub count: u32,
}

/// Key of the reference's only map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReferenceKey {
    /// Source address, as it lies in the header.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Ports.
    pub ports: u32,
    /// Protocol.
    pub protocol: u32,
}

/// Value of the reference's only map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReferenceFlow {
    /// Jiffies of the last packet.
    pub last_seen: u64,
    /// New source address.
    pub source: u32,
    /// New destination address.
    pub destination: u32,
    /// New ports.
    pub ports: u32,
    /// New link header: destination and source MAC address.
    pub mac: [u32; 3],
}

/// What a CPU's packet generator sends (`bench_generate`): its element of the per-CPU map `STREAM`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// First bytes of the frame: Ethernet, IPv4 and UDP headers and 22 bytes of payload.
    pub template: [u64; 8],
    /// Generator's state.
    pub position: u32,
    /// Number of flows minus one (a power of two minus one), if they come evenly.
    pub mask: u32,
    /// Number of elements of the map `SEQUENCE` minus one (a power of two minus one), if flows come in its order; else 0.
    pub sequence: u32,
    /// First client address, host order; the lowest bits of a flow's number tell which it is of, those above them are added to
    /// `FIRST_PORT`.
    pub address: u32,
    /// How many bits these are: [`STREAM_ADDRESS_BITS`] mostly.
    pub address_bits: u32,
    /// Distance between two of the addresses, as shift.
    pub address_shift: u32,
    /// Sum of the IPv4 header's words without source address and checksum, not folded.
    pub ip_sum: u32,
    /// Sum of the words of UDP's pseudo header, header and payload without source address, source port and checksum.
    pub udp_sum: u32,
    /// Frames made.
    pub made: u64,
}

/// Client addresses of a [`Stream`], as shift.
pub const STREAM_ADDRESS_BITS: u32 = 8;

/// Element 0 of the map `SINK_MODE`: the sink counts and drops.
pub const SINK_DROPS: u32 = 0;
/// The sink answers: it sends UDP datagrams back with addresses and ports exchanged.
pub const SINK_ANSWERS: u32 = 1;

pod!(Stream => 104, TraceFrame => 80, TraceState => 8, Plan => 96, ReferenceKey => 16, ReferenceFlow => 32);

/// Bytes before a live frame that its generator takes away. BPF_PROG_TEST_RUN begins a live frame 48 bytes behind the start of a line of the CPU's
/// cache (its `struct xdp_page_head` has 112 bytes and 256 of headroom follow), so that the MAC addresses would be in one line and
/// the IP header in the next; a card's frame begins with a line (256 bytes of headroom in a page).
pub const LIVE_PAD: usize = 16;
