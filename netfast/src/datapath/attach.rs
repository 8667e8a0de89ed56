//! Attaching to interfaces, by links that are pinned.

use std::{
    fs, io,
    mem::offset_of,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use netfast_common::abi::{IFINDEX_SLOTS, Interface, MAX_INTERFACES};

use super::{Datapath, DatapathError, load::ENTRY, lock, other, sys};
use crate::api::types::AttachMode;

/// XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE of linux/if_link.h.
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;
/// Where an element of `INTERFACES` says whose it is.
const IFINDEX: usize = offset_of!(Interface, ifindex);

/// The interface to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name at present.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// The interface's own MAC address.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u32,
    /// Name of its driver.
    pub driver: String,
}

/// How the interface is attached now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Native or generic.
    pub mode: AttachMode,
    /// The link of an earlier agent was taken over.
    pub adopted: bool,
}

/// Why an interface cannot be attached, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Somebody else's program is there.
    #[error("{interface} has another XDP program attached{}; it was left alone: detach it first (`ip link set dev \
             {interface} xdp off`, or remove its bpf_link)", if other.is_empty() { String::new() } else { format!(": {other}") })]
    Busy {
        /// Name of the interface.
        interface: String,
        /// The program, if it can be told.
        other: String,
    },
    /// The driver cannot take frames of this size.
    #[error(
        "the MTU of {interface} is {mtu}, too large for XDP in the driver {driver}, which needs each frame in one \
             page (the program itself takes frames of several buffers): set it to {limit} or less (`ip link set dev \
             {interface} mtu {limit}`), or attach with `--mode generic` (works with any driver, but much slower)"
    )]
    Mtu {
        /// Name of the interface.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// Its driver.
        driver: String,
        /// An MTU that is small enough.
        limit: u32,
    },
    /// The driver has no XDP.
    #[error(
        "the driver {driver} of {interface} has no native XDP: attach with `--mode generic` (works with any \
             driver, but much slower)"
    )]
    NoNative {
        /// Name of the interface.
        interface: String,
        /// Its driver.
        driver: String,
    },
    /// The interface is gone.
    #[error("there is no interface {0}")]
    Missing(String),
    /// As many as fit are attached.
    #[error("{MAX_INTERFACES} interfaces are attached already, which is the limit")]
    TooMany,
    /// Two interfaces fall into one slot.
    #[error(
        "{interface} (index {ifindex}) shares slot {slot} of the interface table with the interface of index \
             {holder}: make one of them anew to get another index"
    )]
    Slot {
        /// Name of the interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// The slot.
        slot: u32,
        /// Who has it.
        holder: u32,
    },
    /// Something else.
    #[error("cannot attach to {interface}: {call}: {error}")]
    Kernel {
        /// Name of the interface.
        interface: String,
        /// The call.
        call: &'static str,
        /// Its error.
        error: io::Error,
    },
    /// Something below.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

/// See [`Datapath::attach`].
pub(super) fn attach(datapath: &Datapath, link: &Link, mode: AttachMode) -> Result<Attached, AttachError> {
    let mut loaded = lock(&datapath.loaded);
    let program = loaded.program_fd(ENTRY)?;
    let pin = loaded.pins.link(link.ifindex);

    if let Some(held) = adoptable(&pin, link.ifindex)? {
        register(datapath, link)?;
        let kernel = |call, error| AttachError::Kernel { interface: link.name.clone(), call, error };
        sys::update_link(held.as_fd(), program.as_fd()).map_err(|error| kernel("BPF_LINK_UPDATE", error))?;
        let present = other::mode(link.ifindex).unwrap_or(mode);
        if mode == AttachMode::Auto || mode == present {
            return Ok(Attached { mode: present, adopted: true });
        }
        // Another mode was asked for. The old link goes only after it is sure that nothing keeps the new one away; a
        // short gap in which the kernel sees the frames is the price of changing the mode.
        drop(held);
        unpin(&pin)?;
        return match create(link, mode, program.as_fd(), &pin) {
            Ok(mode) => Ok(Attached { mode, adopted: false }),
            Err(error) => {
                let _ = create(link, present, program.as_fd(), &pin);
                Err(error)
            }
        };
    }

    let was_there = register(datapath, link)?;
    match create(link, mode, program.as_fd(), &pin) {
        Ok(mode) => Ok(Attached { mode, adopted: false }),
        Err(error) => {
            if !was_there {
                unregister(datapath, link.ifindex);
            }
            Err(error)
        }
    }
}

/// The pinned link, if it still holds the interface. One whose interface was deleted is removed.
fn adoptable(pin: &Path, ifindex: u32) -> Result<Option<OwnedFd>, DatapathError> {
    let foreign = |problem: String| DatapathError::Pin {
        path: pin.to_owned(),
        problem,
        clear: format!("rm {}", pin.display()),
    };
    let held = match sys::open_pin(pin) {
        Ok(held) => held,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(foreign(format!("cannot be opened: {error}"))),
    };
    match sys::xdp_link_ifindex(held.as_fd()) {
        Ok(Some(index)) if index == ifindex => Ok(Some(held)),
        Ok(Some(_)) => {
            unpin(pin)?;
            Ok(None)
        }
        Ok(None) => Err(foreign("is not an XDP link".to_owned())),
        Err(error) => Err(foreign(format!("cannot be described: {error}"))),
    }
}

fn unpin(pin: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::Kernel { call: "unlink of the pinned link", error })
        }
        _ => Ok(()),
    }
}

/// Makes and pins a link; gives the mode.
fn create(
    link: &Link,
    mode: AttachMode,
    program: BorrowedFd<'_>,
    pin: &Path,
) -> Result<AttachMode, AttachError> {
    let kernel = |call, error| AttachError::Kernel { interface: link.name.clone(), call, error };
    let make = |flags: u32| sys::create_xdp_link(program, link.ifindex, flags);
    let (made, mode) = match mode {
        AttachMode::Native => (make(DRV_MODE), AttachMode::Native),
        AttachMode::Generic => (make(SKB_MODE), AttachMode::Generic),
        AttachMode::Auto => match make(DRV_MODE) {
            // What another mode would not help: somebody else's program, no such interface.
            Err(error)
                if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENODEV | libc::EEXIST)) =>
            {
                (make(SKB_MODE), AttachMode::Generic)
            }
            made => (made, AttachMode::Native),
        },
    };
    let too_large = || AttachError::Mtu {
        interface: link.name.clone(),
        mtu: link.mtu,
        driver: link.driver.clone(),
        limit: MTU_LIMIT,
    };
    let made = made.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            AttachError::Busy { interface: link.name.clone(), other: other::describe(link.ifindex) }
        }
        Some(libc::ENODEV) => AttachError::Missing(link.name.clone()),
        Some(libc::EOPNOTSUPP) if mode == AttachMode::Native => {
            AttachError::NoNative { interface: link.name.clone(), driver: link.driver.clone() }
        }
        // Drivers without multi-buffer XDP say ERANGE, EINVAL or EOPNOTSUPP.
        Some(libc::ERANGE) => too_large(),
        Some(libc::EINVAL) if link.mtu > 1500 => too_large(),
        _ => kernel("BPF_LINK_CREATE", error),
    })?;
    sys::pin(made.as_fd(), pin).map_err(|error| kernel("BPF_OBJ_PIN", error))?;
    Ok(mode)
}

/// An MTU that fits a driver with one page per frame: a page less XDP's headroom (256), the shared info at its end (320)
/// and an Ethernet header with two VLAN tags (22).
const MTU_LIMIT: u32 = 4096 - 256 - 320 - 22;

/// Fills the tables that the program looks into for a frame's interface; tells whether they were filled before.
pub(super) fn register(datapath: &Datapath, link: &Link) -> Result<bool, AttachError> {
    let slot = link.ifindex & (IFINDEX_SLOTS - 1);
    let present = datapath.maps.interfaces.get(slot).unwrap_or_default();
    let was_there = present.ifindex == link.ifindex;
    if present.ifindex != 0 && !was_there && interface_exists(present.ifindex) {
        return Err(AttachError::Slot {
            interface: link.name.clone(),
            ifindex: link.ifindex,
            slot,
            holder: present.ifindex,
        });
    }
    let row = if was_there {
        present.row
    } else {
        let row = free_row(datapath).ok_or(AttachError::TooMany)?;
        datapath.counters.clear_interface(row);
        row
    };
    // The ifindex last: a frame sees either nobody's slot or a whole one.
    let entry = Interface { ifindex: 0, row, mac: link.mac, flags: 0 };
    if !was_there {
        datapath.maps.interfaces.set(slot, entry);
        datapath.maps.interfaces.store32(slot, IFINDEX, link.ifindex);
    } else if present.mac != link.mac {
        datapath.maps.interfaces.set(slot, Interface { ifindex: link.ifindex, ..entry });
    }
    sys::update(datapath.maps.devices.as_fd(), &link.ifindex, &[link.ifindex, 0u32], sys::Existing::Replace)
        .map_err(|error| AttachError::Kernel {
            interface: link.name.clone(),
            call: "insert into DEVICES",
            error,
        })?;
    Ok(was_there)
}

/// The MAC address that the program knows an interface by.
pub(super) fn mac(datapath: &Datapath, ifindex: u32) -> Option<[u8; 6]> {
    let present = datapath.maps.interfaces.get(ifindex & (IFINDEX_SLOTS - 1))?;
    (present.ifindex == ifindex).then_some(present.mac)
}

/// Follows a change of the interface's MAC address.
pub(super) fn set_mac(datapath: &Datapath, ifindex: u32, mac: [u8; 6]) {
    let slot = ifindex & (IFINDEX_SLOTS - 1);
    if let Some(present) = datapath.maps.interfaces.get(slot)
        && present.ifindex == ifindex
        && present.mac != mac
    {
        datapath.maps.interfaces.set(slot, Interface { mac, ..present });
    }
}

fn unregister(datapath: &Datapath, ifindex: u32) {
    // Gone already if the kernel removed the interface.
    let _ = sys::delete(datapath.maps.devices.as_fd(), &ifindex);
    let slot = ifindex & (IFINDEX_SLOTS - 1);
    if datapath.maps.interfaces.get(slot).is_some_and(|present| present.ifindex == ifindex) {
        datapath.maps.interfaces.store32(slot, IFINDEX, 0);
        datapath.maps.interfaces.set(slot, Interface::default());
    }
}

/// Whether the pinned link still holds the interface.
pub(super) fn is_attached(datapath: &Datapath, ifindex: u32) -> bool {
    let pin = lock(&datapath.loaded).pins.link(ifindex);
    sys::open_pin(&pin)
        .and_then(|link| sys::xdp_link_ifindex(link.as_fd()))
        .is_ok_and(|holds| holds == Some(ifindex))
}

/// Rows of the interface counters by interface index.
pub(super) fn rows(datapath: &Datapath) -> Vec<(u32, u16)> {
    let interfaces = &datapath.maps.interfaces;
    (0..interfaces.entries())
        .filter_map(|slot| interfaces.get(slot))
        .filter(|interface| interface.ifindex != 0)
        .map(|interface| (interface.ifindex, interface.row))
        .collect()
}

fn free_row(datapath: &Datapath) -> Option<u16> {
    let mut rows = rows(datapath);
    // Interfaces that are gone give their rows back.
    for (ifindex, _) in rows.extract_if(.., |(ifindex, _)| !interface_exists(*ifindex)) {
        unregister(datapath, ifindex);
    }
    (0..MAX_INTERFACES as u16).find(|row| rows.iter().all(|(_, used)| used != row))
}

fn interface_exists(ifindex: u32) -> bool {
    nix::net::if_::if_indextoname(ifindex).is_ok()
}

/// See [`Datapath::detach`].
pub(super) fn detach(datapath: &Datapath, ifindex: u32) -> Result<(), DatapathError> {
    unpin(&lock(&datapath.loaded).pins.link(ifindex))?;
    unregister(datapath, ifindex);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_that_the_driver_cannot_take_says_the_limit_and_both_ways_out() {
        let error = AttachError::Mtu {
            interface: "lan1".to_owned(),
            mtu: 9000,
            driver: "ixgbe".to_owned(),
            limit: MTU_LIMIT,
        };
        let text = error.to_string();
        for part in ["MTU of lan1 is 9000", "driver ixgbe", "mtu 3498", "--mode generic"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
