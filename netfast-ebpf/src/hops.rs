//! Next hops: using the known ones, learning the way back to a client.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, bpf_fib_lookup as FibParams},
    helpers::generated::bpf_fib_lookup,
    programs::XdpContext,
};
use netfast_common::{
    Reason,
    abi::{EventKind, HopKey, HopKeyKind, NextHop, VlanKey},
    addr,
    wire::Packet,
};

use crate::{
    maps::{EVENTS, HOP_FREE, HOP_INDEX, NEXT_HOPS, VLAN_LINKS, VLANS},
    run::Run,
    scratch::{self, Scratch},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_SUCCESS`.
const FIB_SUCCESS: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: there is a route, its next hop's MAC address is not known.
const FIB_NO_NEIGHBOUR: i64 = 7;

/// The next hop at `index`, if frames can be sent by it. An invalid one is asked for at once.
#[inline(always)]
pub fn usable(index: u16) -> Result<&'static NextHop, Reason> {
    if index == 0 {
        return Err(Reason::NoRoute);
    }
    let Some(hop) = NEXT_HOPS.get_ptr(index as u32) else { return Err(Reason::Internal) };
    // SAFETY: array elements live as long as the program; the agent stores words that are read whole.
    let hop = unsafe { &*hop };
    if !hop.is_valid() {
        tell(EventKind::HopUnresolved, index as u32, None);
        return Err(Reason::HopUnresolved);
    }
    Ok(hop)
}

/// Tells the agent; a full ring buffer loses the event, and the next packet tells it again. The record is written where the
/// agent reads it: the stack has no room for it.
#[inline(always)]
fn tell(kind: EventKind, hop: u32, key: Option<&HopKey>) {
    let Some(mut event) = EVENTS.reserve(0) else { return };
    let to = event.as_mut_ptr();
    // SAFETY: the record is as large as its type, and is written whole before it is submitted.
    unsafe {
        (&raw mut (*to).kind).write(kind as u32);
        (&raw mut (*to).hop).write(hop);
        match key {
            Some(key) => scratch::copy(&raw mut (*to).key, key),
            None => scratch::clear(&raw mut (*to).key),
        }
        (&raw mut (*to).mac).write([0; 6]);
        (&raw mut (*to).vlan).write(0);
    }
    event.submit(0);
}

/// Index of the next hop towards the client; 0 if there is none. `from_client`: the packet in work comes from it, else it
/// is an answer to it by the flow `scratch.flow`.
///
/// The routing table decides. Where it has no answer (the kernel answers only with forwarding enabled on the
/// interface), packets go back to the station that this frame came from, if `from_client`.
#[inline(never)]
pub fn towards(
    ctx: &XdpContext,
    run: &Run,
    packet: &Packet,
    scratch: &mut Scratch,
    from_client: bool,
) -> u16 {
    look_up(ctx, run, packet, scratch, if from_client { Whither::Sender } else { Whither::Client })
}

/// Index of the next hop towards the destination that the packet has after its translation (`scratch.flow`), as the kernel
/// would route it before source NAT: 0 if there is none. `scratch.hop_key` names the interface.
#[inline(never)]
pub fn ahead(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> u16 {
    look_up(ctx, run, packet, scratch, Whither::Ahead)
}

/// Whom a next hop is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whither {
    /// The packet's sender.
    Sender,
    /// The client that the packet is an answer to.
    Client,
    /// The destination after translation.
    Ahead,
}

#[inline(always)]
fn look_up(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch, whither: Whither) -> u16 {
    let from_client = whither == Whither::Sender;
    let (client, service) = match whither {
        Whither::Sender => (&packet.key.source, &packet.key.destination),
        Whither::Client => (&scratch.flow.translated.destination, &scratch.flow.translated.source),
        Whither::Ahead => (&scratch.flow.translated.destination, &packet.key.source),
    };
    let l3_ifindex = l3_interface(run.ifindex, packet.vlan);
    let params = &mut scratch.fib;
    // SAFETY: all bit patterns, zero among them, are values of these structs of integers.
    unsafe {
        scratch::clear(params);
        scratch::clear(&mut scratch.hop_key);
        scratch::clear(&mut scratch.hop);
    }
    params.ifindex = l3_ifindex;
    // The client's IP version, which need not be that of the packet: the target may speak the other one.
    if addr::is_v4(client) {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src =
            u32::from_ne_bytes([service[12], service[13], service[14], service[15]]);
        params.__bindgen_anon_4.ipv4_dst =
            u32::from_ne_bytes([client[12], client[13], client[14], client[15]]);
    } else {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = words(service);
        params.__bindgen_anon_4.ipv6_dst = words(client);
    }
    // SAFETY: the context is valid, `params` is as long as said.
    let answer = unsafe { bpf_fib_lookup(ctx.ctx.cast(), params, size_of::<FibParams>() as i32, 0) };
    let key = &mut scratch.hop_key;
    if answer == FIB_SUCCESS || answer == FIB_NO_NEIGHBOUR {
        key.ifindex = params.ifindex;
        key.kind = HopKeyKind::Address as u32;
        // The kernel has put the gateway's address, if there is one, in place of the destination; its family may differ.
        // SAFETY: both members of the union are integers.
        key.address = unsafe {
            if params.family == AF_INET {
                addr::from_v4(params.__bindgen_anon_4.ipv4_dst.to_ne_bytes())
            } else {
                bytes(params.__bindgen_anon_4.ipv6_dst)
            }
        };
        if let Some(index) = known(key) {
            return index;
        }
        describe(key.ifindex, &mut scratch.hop);
        if answer == FIB_SUCCESS {
            put_mac(&mut scratch.hop.destination, &params.dmac);
            put_mac(&mut scratch.hop.source, &params.smac);
            scratch.hop.longest = NextHop::bound(scratch.hop.mtu);
        } else if from_client && key.ifindex == l3_ifindex {
            put_mac(&mut scratch.hop.destination, &packet.source_mac);
            put_mac(&mut scratch.hop.source, &run.interface.mac);
            scratch.hop.longest = NextHop::bound(scratch.hop.mtu);
        }
    } else if from_client {
        key.ifindex = l3_ifindex;
        key.kind = HopKeyKind::Mac as u32;
        let m = packet.source_mac;
        let v = packet.vlan.to_be_bytes();
        key.address = [m[0], m[1], m[2], m[3], m[4], m[5], v[0], v[1], 0, 0, 0, 0, 0, 0, 0, 0];
        if let Some(index) = known(key) {
            return index;
        }
        put_mac(&mut scratch.hop.destination, &packet.source_mac);
        scratch.hop.vlan = packet.vlan;
        put_mac(&mut scratch.hop.source, &run.interface.mac);
        scratch.hop.ifindex = run.ifindex;
        scratch.hop.longest = NextHop::bound(scratch.hop.mtu);
    } else {
        return 0;
    }
    learn(scratch)
}

/// Byte by byte and volatile, or it becomes a call of `memmove`.
#[inline(always)]
fn put_mac(to: &mut [u8; 6], from: &[u8; 6]) {
    let mut i = 0;
    while i < 6 {
        // SAFETY: elements of arrays that are borrowed.
        unsafe { (&raw mut to[i]).write_volatile(from[i]) };
        i += 1;
    }
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let a = address;
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 4 {
        let w = words[i].to_ne_bytes();
        out[4 * i] = w[0];
        out[4 * i + 1] = w[1];
        out[4 * i + 2] = w[2];
        out[4 * i + 3] = w[3];
        i += 1;
    }
    out
}

/// The kernel's interface for frames with `vlan` on `ifindex`.
#[inline(always)]
pub fn l3_interface(ifindex: u32, vlan: u16) -> u32 {
    if vlan == 0 {
        return ifindex;
    }
    let key = VlanKey { ifindex, vlan: vlan as u32 };
    // SAFETY: the value is copied at once; a concurrent change gives one of the two.
    unsafe { VLANS.get(&key) }.map_or(ifindex, |vlan_ifindex| *vlan_ifindex)
}

/// Interface and tag of a hop on the kernel's interface `ifindex`.
#[inline(always)]
fn describe(ifindex: u32, hop: &mut NextHop) {
    // SAFETY: the value is copied at once.
    match unsafe { VLAN_LINKS.get(&ifindex) } {
        Some(link) => {
            hop.ifindex = link.ifindex;
            hop.vlan = link.vlan as u16;
        }
        None => hop.ifindex = ifindex,
    }
}

#[inline(always)]
fn known(key: &HopKey) -> Option<u16> {
    // SAFETY: the value is copied at once.
    unsafe { HOP_INDEX.get(key) }.map(|index| *index as u16)
}

/// Gives `scratch.hop` an index. Two CPUs may learn the same next hop at once: one of them wins.
#[inline(always)]
fn learn(scratch: &mut Scratch) -> u16 {
    let Ok(Some(index)) = HOP_FREE.pop() else { return 0 };
    let Some(slot) = NEXT_HOPS.get_ptr_mut(index) else { return 0 };
    // SAFETY: nobody else knows the index yet.
    unsafe { scratch::copy(slot, &scratch.hop) };
    if HOP_INDEX.insert(&scratch.hop_key, index, BPF_NOEXIST as u64).is_err() {
        let _ = HOP_FREE.push(index, BPF_ANY as u64);
        return known(&scratch.hop_key).unwrap_or(0);
    }
    tell(EventKind::HopLearned, index, Some(&scratch.hop_key));
    index as u16
}
