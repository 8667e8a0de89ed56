//! Finding the service that a packet is addressed to.

use crate::{abi::Service, addr};

/// First step of the search: [`crate::abi::MAX_SERVICES`], halved until 1.
const FIRST_STEP: u32 = crate::abi::MAX_SERVICES;
const _: () = assert!(FIRST_STEP.is_power_of_two());

/// Finds the service of `address`, `protocol` and `port` (host order) among `count` services sorted by (address,
/// protocol, first port), whose port ranges do not overlap. `get` reads the service at a position, and may read
/// anything at positions from `count` on.
///
/// The search takes its decisions by arithmetic, not by branches: the verifier of the kernel follows both sides of
/// every branch, and 14 of them in a row are 16,384 ways.
#[inline(always)]
pub fn find<'a>(
    address: &[u8; 16],
    protocol: u8,
    port: u16,
    count: u32,
    get: impl Fn(u32) -> Option<&'a Service>,
) -> Option<&'a Service> {
    let (high, low) = addr::words(address);
    let tail = tail(protocol, port);
    // Number of services known not to be above the key.
    let mut below = 0;
    let mut step = FIRST_STEP;
    while step > 0 {
        if count >= step {
            let probe = below + step;
            let service = get(probe - 1)?;
            let (service_high, service_low) = addr::words(&service.address);
            let above = borrow(tail, self::tail(service.protocol, service.port_low), 0);
            let above = borrow(low, service_low, above);
            let above = borrow(high, service_high, above) | borrow(count as u64, probe as u64, 0);
            below += step & (above as u32).wrapping_sub(1);
        }
        step /= 2;
    }
    let service = get(below.checked_sub(1)?)?;
    let found = service.address == *address && service.protocol == protocol && port <= service.port_high;
    if found { Some(service) } else { None }
}

/// Protocol and port as the lowest word of the key.
#[inline(always)]
const fn tail(protocol: u8, port: u16) -> u64 {
    ((protocol as u64) << 56) | ((port as u64) << 40)
}

/// The borrow (0 or 1) of `a - b - borrow_in`: 1 if `a < b`, for a number of several words from the lowest one up. The
/// black box keeps the compiler from finding out that it is a comparison.
#[inline(always)]
fn borrow(a: u64, b: u64, borrow_in: u64) -> u64 {
    let difference = a.wrapping_sub(b).wrapping_sub(borrow_in);
    core::hint::black_box(((!a & b) | ((!a | b) & difference)) >> 63)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(address: u8, protocol: u8, low: u16, high: u16, index: u16) -> Service {
        Service {
            address: addr::from_v4([10, 0, 0, address]),
            port_low: low,
            port_high: high,
            protocol,
            kind: 1,
            index,
        }
    }

    proptest! {
        #[test]
        fn same_as_linear(
            ranges in prop::collection::vec((0u8..4, prop::bool::ANY, 0u16..40, 0u16..4), 0..60),
            address in 0u8..4, tcp in prop::bool::ANY, port in 0u16..200,
        ) {
            let mut services = Vec::new();
            for (index, (address, tcp, slot, width)) in ranges.into_iter().enumerate() {
                let new = service(address, if tcp { 6 } else { 17 }, slot * 5, slot * 5 + width, index as u16);
                let clash = |s: &Service| s.address == new.address && s.protocol == new.protocol && s.port_low == new.port_low;
                if !services.iter().any(clash) {
                    services.push(new);
                }
            }
            services.sort_by_key(|s| (s.address, s.protocol, s.port_low));
            let count = services.len() as u32;
            let mut table = services.clone();
            table.resize(2 * FIRST_STEP as usize, service(1, 6, 0, 999, 77));
            let address = addr::from_v4([10, 0, 0, address]);
            let protocol = if tcp { 6 } else { 17 };
            let linear = services
                .iter()
                .find(|s| s.address == address && s.protocol == protocol && (s.port_low..=s.port_high).contains(&port));
            let found = find(&address, protocol, port, count, |i| table.get(i as usize));
            prop_assert_eq!(found, linear);
        }
    }
}
