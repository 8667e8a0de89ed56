//! Frames that the generator sends.

use std::net::Ipv4Addr;

use netfast_common::abi::bench::{STREAM_ADDRESS_BITS, Stream};

use crate::generate::Numbers;

/// First client address of the first CPU's generator; each has 256.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// First address of those beside the filter's rules: every other one of a range of 2^20.
pub const BESIDE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// Number of them, as shift; so many flows have addresses of their own.
pub const BESIDE_BITS: u32 = 19;

/// Where datagrams go.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// MAC address of the box.
    pub mac: [u8; 6],
    /// Address.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
}

/// The stream of a CPU: UDP datagrams of 22 bytes, frames of 64. `beside`: from addresses beside those of the filter's rules.
pub fn stream(
    to: &Destination,
    from: [u8; 6],
    flows: u32,
    sequence: u32,
    beside: bool,
    cpu: usize,
) -> Stream {
    let mut frame = Vec::with_capacity(64);
    frame.extend(to.mac);
    frame.extend(from);
    frame.extend([0x08, 0x00]);
    let (address, address_bits) = if beside {
        (BESIDE.to_bits(), BESIDE_BITS)
    } else {
        (CLIENTS.to_bits() + cpu as u32 * 65_536, STREAM_ADDRESS_BITS)
    };
    let ip = {
        let mut ip = vec![0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0];
        ip.extend(to.address.octets());
        ip
    };
    let udp = {
        let mut udp = vec![0, 0];
        udp.extend(to.port.to_be_bytes());
        udp.extend([0, 30, 0, 0]);
        udp.extend(*b"netfast benchmark, 22.");
        udp
    };
    let pseudo: u32 = words(&to.address.octets()) + 17 + 30;
    let (ip_sum, udp_sum) = (words(&ip), words(&udp) + pseudo);
    frame.extend(ip);
    frame.extend(udp);
    frame.resize(64, 0);
    Stream {
        template: std::array::from_fn(|i| u64::from_ne_bytes(std::array::from_fn(|j| frame[8 * i + j]))),
        mask: flows.next_power_of_two() - 1,
        sequence,
        address,
        address_bits,
        address_shift: u32::from(beside),
        ip_sum,
        udp_sum,
        ..Stream::default()
    }
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum()
}

/// `length` numbers below `count`, that of rank r in proportion to 1 / r^1.1. Ranks are dealt out at random, so that neighbours
/// among flows have nothing in common.
pub fn zipf(count: u32, length: u32) -> Vec<u32> {
    let mut numbers = Numbers::new(0x5bd1_e995);
    let mut flows: Vec<u32> = (0..count).collect();
    for at in (1..flows.len()).rev() {
        flows.swap(at, numbers.below(at as u64 + 1) as usize);
    }
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += f64::from(rank).powf(-1.1);
            sum
        })
        .collect();
    (0..length)
        .map(|_| {
            let at = numbers.below(1 << 50) as f64 / (1u64 << 50) as f64 * sum;
            flows[sums.partition_point(|sum| *sum < at).min(count as usize - 1)]
        })
        .collect()
}
