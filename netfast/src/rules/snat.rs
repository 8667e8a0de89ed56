//! Source NAT rules: their images, and what they ask of the host.

use std::{cmp::Reverse, net::IpAddr};

use netfast_common::{abi, addr};

use crate::api::types::{ErrorBody, ErrorCode, Rules, Snat, SnatFiltering};

use super::{
    compile::{NO_INTERFACE, prefix},
    ids::{Ids, SnatId},
    images::{HostView, Images},
};

/// Appends the images of the source NAT rules. Their prefixes are put into an order in which the first that matches is the
/// longest, and of equal ones the one that names interfaces.
pub(super) fn images(
    rules: &Rules,
    ids: &Ids,
    host: &dyn HostView,
    images: &mut Images,
) -> Result<(), ErrorBody> {
    for (snat, id) in rules.snats.iter().zip(ids.snats()) {
        for address in snat.to.iter().filter(|address| !snat.claim && !host.owns(**address)) {
            images.warnings.push(format!("source NAT rule {:?}: {}", snat.name, not_own(*address)));
        }
        let filtering = match snat.filtering {
            SnatFiltering::AddressAndPortDependent => abi::SNAT_DEPENDENT,
            SnatFiltering::EndpointIndependent => abi::SNAT_INDEPENDENT,
        };
        let mode = abi::Mode::Snat as u8;
        let forward = abi::Forward { uid: id.uid, mode, filtering, ..abi::Forward::default() };
        images.forwards.push((id.index, forward));
        for target in &id.targets {
            let image = abi::Target {
                source: addr::from_ip(target.address.address),
                forward: id.index,
                mode,
                in_use: 1,
                uid: target.uid,
                ..abi::Target::default()
            };
            images.targets.push((target.index, image));
        }
        for net in &snat.from {
            let (first, length) = prefix(Some(net));
            let mut interface = |name: &Option<String>| ifindex(snat, name.as_deref(), host, images);
            let ((in_ifindex, in_mask), (out_ifindex, out_mask)) =
                (interface(&snat.in_interface), interface(&snat.out_interface));
            let (pool, targets) = pool(id, net.addr());
            images.snats.push(abi::SnatRule {
                prefix: first,
                mask: addr::mask_bytes(u32::from(length)),
                in_ifindex,
                in_mask,
                out_ifindex,
                out_mask,
                uid: id.uid,
                per_source: snat.ports_per_source,
                ports: snat.ports.map_or([0, 0], |ports| [ports.low, ports.high]),
                forward: id.index,
                pool,
                targets,
                version: if net.addr().is_ipv4() { 4 } else { 6 },
                pad: [0; 7],
            });
        }
    }
    let ones = |rule: &abi::SnatRule| u128::from_be_bytes(rule.mask).count_ones();
    let named = |rule: &abi::SnatRule| rule.in_mask.count_ones() + rule.out_mask.count_ones();
    images.snats.sort_by_key(|rule| (Reverse(ones(rule)), Reverse(named(rule)), rule.uid));
    Ok(())
}

/// The pool addresses of an inside address's IP version: how many, and their indexes.
fn pool(id: &SnatId, inside: IpAddr) -> (u16, [u16; abi::SNAT_POOL]) {
    let mut targets = [0; abi::SNAT_POOL];
    let mut count = 0;
    let family = id.targets.iter().filter(|t| t.address.address.is_ipv4() == inside.is_ipv4());
    for (place, target) in targets.iter_mut().zip(family) {
        *place = target.index;
        count += 1;
    }
    (count, targets)
}

fn ifindex(snat: &Snat, name: Option<&str>, host: &dyn HostView, images: &mut Images) -> (u32, u32) {
    let Some(name) = name else { return (0, 0) };
    let index = host.ifindex(name).unwrap_or_else(|| {
        let warning = format!(
            "source NAT rule {:?} matches nothing: there is no interface {name:?} at present",
            snat.name
        );
        if !images.warnings.contains(&warning) {
            images.warnings.push(warning);
        }
        NO_INTERFACE
    });
    (index, u32::MAX)
}

fn not_own(address: IpAddr) -> String {
    format!(
        "{address} is not an address of this host, so that nothing that is sent to it gets here: add it to an \
         interface (`ip address add {address} dev …`), claim it (`--claim`) or name another one"
    )
}

/// Refuses source NAT rules of `after` that the host cannot do, unless `before` had the same rule already.
///
/// # Errors
/// An address that is not the host's own, an interface that does not exist.
pub fn require_host(before: &Rules, after: &Rules, host: &dyn HostView) -> Result<(), ErrorBody> {
    for snat in after.snats.iter().filter(|snat| !before.snats.contains(snat)) {
        let refuse = |key: &str, message: String| ErrorBody {
            code: ErrorCode::Rejected,
            message: format!("source NAT rule {:?}: {message}", snat.name),
            field: Some(format!("snat.{}.{key}", snat.name)),
        };
        if let Some(address) = snat.to.iter().find(|address| !snat.claim && !host.owns(**address)) {
            return Err(refuse("to", not_own(*address)));
        }
        for (key, name) in [("in", &snat.in_interface), ("out", &snat.out_interface)] {
            if let Some(name) = name
                && host.ifindex(name).is_none()
            {
                return Err(refuse(key, format!("there is no interface {name:?} (see `ip link`)")));
            }
        }
    }
    Ok(())
}
