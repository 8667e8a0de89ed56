//! The hot program's way: a plain packet of a cached flow. No helper that is not inlined, no hash map, one cache line of
//! the flow cache. Whatever is not plain or not cached is left, untouched, to the slow program; so are frames whose IP
//! packet goes on in a second buffer (XDP multi-buffer: jumbo frames), for which the extra work is small beside their size.

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason, Verdict,
    abi::{
        CacheLine4, CacheLine6, CacheSet4, CacheSet6, LineKind, Mode, NextHop, Target, tail_kind, tail_port,
    },
    checksum,
    rewrite::{self, Words},
    tunnel::Inner,
    wire::{ACK, FIN, RST, SYN, TCP, UDP},
};

use crate::{
    account::{self, Outcome},
    cache::{self, Place},
    echo, egress,
    frame::{self, Header, load},
    maps::{CACHE4, CACHE6, ECHO_COUNTERS, FILTER_COUNTERS, NEXT_HOPS, TARGET_COUNTERS, TARGETS},
    run::Run,
    tunnel,
    verdict::NO_RULE,
};

/// Decides and counts the frame and returns the driver's answer, or returns `None` if it is not a plain packet of a cached
/// flow; then nothing was written.
#[inline(always)]
pub fn decide(ctx: &XdpContext, run: &Run) -> Option<u32> {
    if !run.is_known() {
        return None;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 34 > end {
        return None;
    }
    // SAFETY: 34 bytes are there.
    let (mac_low, mac_high, kind): (u32, u16, u16) = unsafe { (load(data), load(data + 4), load(data + 12)) };
    let mac = run.interface.mac.as_ptr() as usize;
    // SAFETY: a MAC address has 6 bytes.
    let ours: (u32, u16) = unsafe { (load(mac), load(mac + 4)) };
    if (mac_low, mac_high) != ours {
        return None;
    }
    const IPV4: u16 = 0x0800u16.to_be();
    const IPV6: u16 = 0x86ddu16.to_be();
    const TAG: u16 = 0x8100u16.to_be();
    // The header's offset is a constant in each branch.
    match kind {
        IPV4 => ipv4(ctx, run, data, end, 14),
        IPV6 => ipv6(ctx, run, data, end, 14),
        // SAFETY: 34 bytes are there.
        TAG => match unsafe { load::<u16>(data + 16) } {
            IPV4 => ipv4(ctx, run, data, end, 18),
            IPV6 => ipv6(ctx, run, data, end, 18),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the transport header at `l4` is plain: TCP with ACK and without SYN, FIN, RST, or UDP; lengths agree. `length`: what
/// the IP header says is there.
#[inline(always)]
fn is_plain(l4: usize, end: usize, protocol: u8, length: usize) -> bool {
    if protocol == TCP {
        if l4 + 20 > end {
            return false;
        }
        // SAFETY: 20 bytes are there.
        let (offset, flags): (u8, u8) = unsafe { (load(l4 + 12), load(l4 + 13)) };
        let header = (offset >> 4) as usize * 4;
        flags & (SYN | FIN | RST | ACK) == ACK && header >= 20 && header <= length
    } else if protocol == UDP {
        if l4 + 8 > end {
            return false;
        }
        // SAFETY: 8 bytes are there.
        let datagram = u16::from_be(unsafe { load(l4 + 4) }) as usize;
        datagram >= 8 && datagram <= length
    } else {
        false
    }
}

#[inline(always)]
fn ipv4(ctx: &XdpContext, run: &Run, data: usize, end: usize, l3: usize) -> Option<u32> {
    let (ip, l4) = (data + l3, data + l3 + 20);
    if l4 + 8 > end {
        return None;
    }
    // SAFETY: 28 bytes from `ip` are there.
    let (version, total, fragment, ttl, protocol): (u8, u16, u16, u8, u8) =
        unsafe { (load(ip), load(ip + 2), load(ip + 6), load(ip + 8), load(ip + 9)) };
    let total = u16::from_be(total) as usize;
    // No options, no fragment (the DF bit is nobody's business), a TTL to spend.
    if version != 0x45 || fragment & 0x3fffu16.to_be() != 0 || ttl <= 1 {
        return None;
    }
    // Compared as lengths: before it had bounds for swapped bytes, the verifier (6.1) refused to add one to an address.
    if total < 28 || total > end - ip || !is_plain(l4, end, protocol, total - 20) {
        return None;
    }
    let udp = protocol == UDP;
    // SAFETY: as above.
    let (source, destination, ports): (u32, u32, u32) = unsafe { (load(ip + 12), load(ip + 16), load(l4)) };
    let addresses = source as u64 | ((destination as u64) << 32);
    let place = Place::of4(run, addresses, ports, udp);
    let line = match find4(run, place.first(), addresses, ports, udp) {
        Some(line) => line,
        None => find4(run, place.second(), addresses, ports, udp)?,
    };
    let kind = tail_kind(line.tail) & 7;
    // What has addresses and ports rewritten pays for all other kinds with this one comparison.
    if kind >= LineKind::Echo as u8 {
        if kind == LineKind::Verdict as u8 {
            let rule = u32::from_ne_bytes(line.address);
            return verdict(run, data, end, l3, (line.deltas, line.next_hop), rule, line.tail);
        }
        if kind != LineKind::Echo as u8 {
            // SAFETY: 28 bytes from `ip` are there.
            let inner = Inner { version: 4, class: unsafe { load(ip + 1) }, length: total as u16 };
            let hash = place.hash();
            return one_way(
                ctx,
                run,
                l3,
                &Line { kind, target: line.target, hop: line.next_hop, hash },
                inner,
            );
        }
        // SAFETY: four bytes; what they are for the header and what of it is there was checked above.
        let (tag, mut header) = unsafe { (load(line.address.as_ptr() as usize), Header::<20>::checked(ip)) };
        let outcome = echo::within_rate(run, line.target, tag)
            .then(|| rewrite::reflect_ipv4(&mut header, echo::ANSWER_TTL));
        return Some(reflected(run, data, end, l4, line.target, outcome));
    }
    let (target, hop) = way_out(line.target, line.next_hop, total)?;
    let (ports, new_source) = translation(kind, target, ports, line.tail);
    // SAFETY: an address has 16 bytes.
    let (source, destination): (u32, u32) = unsafe {
        (
            new_source.map_or(source, |new| load(new.as_ptr() as usize + 12)),
            load(line.address.as_ptr() as usize),
        )
    };
    // SAFETY: 20 bytes from `ip` are there.
    let mut header = unsafe { Header::<20>::checked(ip) };
    rewrite::ipv4_by(&mut header, source, destination, line.deltas);
    let transport = (line.deltas >> 16) as u16;
    put_transport(
        l4,
        end,
        udp,
        ports,
        |_, checksum| checksum::apply_folded_udp(transport, checksum),
        |_, checksum| checksum::apply_folded(transport, checksum),
    )?;
    Some(leave(ctx, run, l3, hop, kind, line.target, end - data))
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, run: &Run, data: usize, end: usize, l3: usize) -> Option<u32> {
    let (ip, l4) = (data + l3, data + l3 + 40);
    if l4 + 8 > end {
        return None;
    }
    // SAFETY: 48 bytes from `ip` are there.
    let (version, payload, protocol, ttl): (u8, u16, u8, u8) =
        unsafe { (load(ip), load(ip + 4), load(ip + 6), load(ip + 7)) };
    let payload = u16::from_be(payload) as usize;
    if version >> 4 != 6 || ttl <= 1 || payload < 8 || 40 + payload > end - ip {
        return None;
    }
    if !is_plain(l4, end, protocol, payload) {
        return None;
    }
    let udp = protocol == UDP;
    // SAFETY: as above.
    let (words, ports, udp_checksum): ([u64; 4], u32, u16) =
        unsafe { ([load(ip + 8), load(ip + 16), load(ip + 24), load(ip + 32)], load(l4), load(l4 + 6)) };
    if udp && udp_checksum == 0 {
        return None;
    }
    let place = Place::of6(run, words, ports, udp);
    let line = match find6(run, place.first(), words, ports, udp) {
        Some(line) => line,
        None => find6(run, place.second(), words, ports, udp)?,
    };
    let kind = tail_kind(line.tail) & 7;
    if kind >= LineKind::Echo as u8 {
        if kind == LineKind::Verdict as u8 {
            let [_, _, ifindex, rule] = address_words(&line.address);
            return verdict(run, data, end, l3, (ifindex, line.next_hop), rule, line.tail);
        }
        if kind != LineKind::Echo as u8 {
            // SAFETY: 48 bytes from `ip` are there.
            let [a, b]: [u8; 2] = unsafe { load::<u16>(ip) }.to_ne_bytes();
            let inner = Inner { version: 6, class: a << 4 | b >> 4, length: payload as u16 + 40 };
            let hash = place.hash();
            return one_way(
                ctx,
                run,
                l3,
                &Line { kind, target: line.target, hop: line.next_hop, hash },
                inner,
            );
        }
        // SAFETY: as for IPv4.
        let (tag, mut header) =
            unsafe { (load(line.address.as_ptr() as usize + 12), Header::<40>::checked(ip)) };
        let outcome = echo::within_rate(run, line.target, tag)
            .then(|| rewrite::reflect_ipv6(&mut header, echo::ANSWER_TTL));
        return Some(reflected(run, data, end, l4, line.target, outcome));
    }
    let (target, hop) = way_out(line.target, line.next_hop, payload + 40)?;
    let (ports, new_source) = translation(kind, target, ports, line.tail);
    // SAFETY: 40 bytes from `ip` are there.
    let mut header = unsafe { Header::<40>::checked(ip) };
    let source = match new_source {
        Some(source) => address_words(source),
        None => [header.word(2), header.word(3), header.word(4), header.word(5)],
    };
    let pseudo = rewrite::ipv6(&mut header, source, address_words(&line.address));
    put_transport(
        l4,
        end,
        udp,
        ports,
        |old, checksum| pseudo.word32(old, ports).apply_udp_word(checksum),
        |old, checksum| pseudo.word32(old, ports).apply_word(checksum),
    )?;
    Some(leave(ctx, run, l3, hop, kind, line.target, end - data))
}

/// What a line of a kind beyond [`LineKind::Echo`] says.
struct Line {
    kind: u8,
    target: u16,
    hop: u16,
    /// Hash of its tuple.
    hash: u32,
}

/// A packet to a target that answers the client itself.
#[inline(always)]
fn one_way(ctx: &XdpContext, run: &Run, l3: usize, line: &Line, inner: Inner) -> Option<u32> {
    let bytes = frame::linear(ctx);
    let outcome = if line.kind == LineKind::Direct as u8 {
        let (_, hop) = way_out(line.target, line.hop, inner.length as usize)?;
        egress::send(ctx, l3, hop, run.ifindex, Reason::Forwarded)
    } else if line.kind == LineKind::Tunnel as u8 {
        // An IPv6 packet may be so long that its length has wrapped; what must stay below the MTU is not.
        let (target, hop) = way_out(line.target, line.hop, 0)?;
        if !tunnel::fits(run, line.target, target, hop, inner.length as u32) {
            return None;
        }
        tunnel::wrap(ctx, run, l3, inner, target, hop, line.hash)
    } else {
        return None;
    };
    account::add(&TARGET_COUNTERS, line.target as u32 * 2, bytes);
    Some(account::finish(run.row, bytes, outcome))
}

/// A 16-byte address as native words, by four loads.
#[inline(always)]
pub fn address_words(address: &[u8; 16]) -> [u32; 4] {
    let at = address.as_ptr() as usize;
    // SAFETY: an address has 16 bytes.
    unsafe { [load(at), load(at + 4), load(at + 8), load(at + 12)] }
}

/// The live line of the tuple in a set.
#[inline(always)]
fn find4(run: &Run, set: u32, addresses: u64, ports: u32, udp: bool) -> Option<&'static CacheLine4> {
    // SAFETY: the element belongs to this CPU, and a program does not interrupt itself.
    let set: &'static CacheSet4 = unsafe { &*CACHE4.get_ptr(set)? };
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
    if cache::is_live(run, line.tail, udp) { Some(line) } else { None }
}

/// The live line of the tuple in a set.
#[inline(always)]
fn find6(run: &Run, set: u32, words: [u64; 4], ports: u32, udp: bool) -> Option<&'static CacheLine6> {
    // SAFETY: the element belongs to this CPU, and a program does not interrupt itself.
    let set: &'static CacheSet6 = unsafe { &*CACHE6.get_ptr(set)? };
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
    if cache::is_live(run, line.tail, udp) { Some(line) } else { None }
}

/// Ends a packet as its line says, if it came by the same interface and VLAN (`place`).
#[inline(always)]
fn verdict(
    run: &Run,
    data: usize,
    end: usize,
    l3: usize,
    place: (u32, u16),
    rule: u32,
    tail: u64,
) -> Option<u32> {
    // SAFETY: the link header is there; a tag's identifier stands at offset 14.
    let vlan = if l3 == 18 { u16::from_be(unsafe { load(data + 14) }) & 0xfff } else { 0 };
    if place != (run.ifindex, vlan) {
        return None;
    }
    if rule != NO_RULE {
        account::add(&FILTER_COUNTERS, rule, end - data);
    }
    Some(account::finish(run.row, end - data, Outcome::from_bits(tail_port(tail))))
}

/// The rest of an echo's answer, after the IP header, if it is within its rate.
#[inline(always)]
fn reflected(run: &Run, data: usize, end: usize, l4: usize, index: u16, within_rate: Option<()>) -> u32 {
    let outcome = if within_rate.is_some() {
        // SAFETY: the caller has checked that the link header and 8 bytes from `l4` are there.
        let (macs, ports) = unsafe { (Header::checked(data), Header::checked(l4)) };
        echo::swap(macs, ports);
        account::add(&ECHO_COUNTERS, index as u32, end - data);
        Outcome::new(Verdict::Transmit, Reason::Echoed)
    } else {
        Outcome::drop(Reason::EchoRate)
    };
    account::finish(run.row, end - data, outcome)
}

/// Target and next hop of a line, if a datagram of `length` bytes can leave that way.
#[inline(always)]
fn way_out(target: u16, hop: u16, length: usize) -> Option<(&'static Target, &'static NextHop)> {
    // SAFETY: array elements live as long as the program.
    let (target, hop) = unsafe { (&*TARGETS.get_ptr(target as u32)?, &*NEXT_HOPS.get_ptr(hop as u32)?) };
    let fits = hop.mtu == 0 || length <= hop.mtu as usize;
    if hop.flags & netfast_common::abi::HOP_VALID != 0 && fits { Some((target, hop)) } else { None }
}

/// New ports, and the new source address if it changes.
#[inline(always)]
fn translation(kind: u8, target: &'static Target, ports: u32, tail: u64) -> (u32, Option<&'static [u8; 16]>) {
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    let [p0, p1] = tail_port(tail).to_ne_bytes();
    if kind == LineKind::Original as u8 {
        let [d0, d1] = u16::from_be_bytes([d0, d1]).wrapping_add(target.port_delta).to_be_bytes();
        let source = if target.mode == Mode::Dnat as u8 { None } else { Some(&target.source) };
        (u32::from_ne_bytes([p0, p1, d0, d1]), source)
    } else {
        let [s0, s1] = u16::from_be_bytes([s0, s1]).wrapping_sub(target.port_delta).to_be_bytes();
        // What comes in by source NAT keeps its source.
        let source = if target.mode == Mode::Snat as u8 { None } else { Some(&target.service) };
        (u32::from_ne_bytes([s0, s1, p0, p1]), source)
    }
}

/// Ports and checksum, which `for_udp` and `for_tcp` make of the ports before and the checksum. `None` cannot happen
/// (`is_plain` has checked); the verifier wants it said.
#[inline(always)]
fn put_transport(
    l4: usize,
    end: usize,
    udp: bool,
    ports: u32,
    for_udp: impl FnOnce(u32, u16) -> u16,
    for_tcp: impl FnOnce(u32, u16) -> u16,
) -> Option<()> {
    if udp {
        // SAFETY: 8 bytes from `l4` were checked by the caller.
        let mut header = unsafe { Header::<8>::checked(l4) };
        let checksum = for_udp(header.word(0), header.get(6));
        header.put(0, ports);
        header.set::<u16>(6, checksum);
    } else {
        if l4 + 18 > end {
            return None;
        }
        // SAFETY: 18 bytes are there.
        let mut header = unsafe { Header::<18>::checked(l4) };
        let checksum = for_tcp(header.word(0), header.get(16));
        header.put(0, ports);
        header.set::<u16>(16, checksum);
    }
    Some(())
}

/// Sends the frame and counts it. Each end of the way has an exit of its own, so that what is counted is a constant there.
#[inline(always)]
fn leave(ctx: &XdpContext, run: &Run, l3: usize, hop: &NextHop, kind: u8, target: u16, bytes: usize) -> u32 {
    if kind == LineKind::Original as u8 {
        account::add(&TARGET_COUNTERS, target as u32 * 2, bytes);
        account::finish(run.row, bytes, egress::send(ctx, l3, hop, run.ifindex, Reason::Forwarded))
    } else {
        account::add(&TARGET_COUNTERS, target as u32 * 2 + 1, bytes);
        account::finish(run.row, bytes, egress::send(ctx, l3, hop, run.ifindex, Reason::Reply))
    }
}
