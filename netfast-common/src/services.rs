//! Finding the service that a packet is addressed to.

use crate::{abi::Service, addr};

/// Steps that a binary search over [`crate::abi::MAX_SERVICES`] needs at most.
const STEPS: u32 = 14;
const _: () = assert!(crate::abi::MAX_SERVICES < 1 << STEPS);

/// Finds the service of `address`, `protocol` and `port` (host order) among `count` services sorted by (address,
/// protocol, first port), whose port ranges do not overlap. `get` reads the service at a position.
#[inline(always)]
pub fn find(
    address: &[u8; 16],
    protocol: u8,
    port: u16,
    count: u32,
    get: impl Fn(u32) -> Option<Service>,
) -> Option<Service> {
    let (high, low) = addr::words(address);
    let tail = ((protocol as u32) << 16) | port as u32;
    // The last service that is not above the key lies in [first, first + length).
    let mut first = 0;
    let mut length = count;
    let mut candidate = None;
    let mut step = 0;
    while step < STEPS && length > 0 {
        step += 1;
        let middle = first + length / 2;
        let service = get(middle)?;
        let (service_high, service_low) = addr::words(&service.address);
        let service_tail = ((service.protocol as u32) << 16) | service.port_low as u32;
        let above = service_high > high
            || (service_high == high && (service_low > low || (service_low == low && service_tail > tail)));
        if above {
            length /= 2;
        } else {
            candidate = Some(service);
            first = middle + 1;
            length -= length / 2 + 1;
        }
    }
    candidate.filter(|service| {
        service.address == *address && service.protocol == protocol && port <= service.port_high
    })
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
            let address = addr::from_v4([10, 0, 0, address]);
            let protocol = if tcp { 6 } else { 17 };
            let linear = services
                .iter()
                .find(|s| s.address == address && s.protocol == protocol && (s.port_low..=s.port_high).contains(&port))
                .copied();
            let found = find(&address, protocol, port, services.len() as u32, |i| services.get(i as usize).copied());
            prop_assert_eq!(found, linear);
        }
    }
}
