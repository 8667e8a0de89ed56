//! The kernel side as the agent sees it: loading, attaching, publishing, counting, ageing. The only module that names
//! aya.
//!
//! [`Datapath`] owns the programs and the pinned maps. All that it makes is pinned, so that forwarding goes on without
//! the agent, and the next agent adopts it: nothing here clears a map that is in use.

mod attach;
mod checks;
mod claims;
mod clock;
mod counters;
mod cpus;
mod events;
mod filter;
mod flows;
mod half_open;
mod hops;
mod load;
mod mapped;
mod mappings;
mod other;
mod pins;
mod publish;
mod quic;
pub mod sandbox;
mod settings;
mod sweep;
mod sys;
mod tables;
mod takers;
mod values;

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU64},
};

use netfast_common::{abi, half_open::sets};

pub use attach::{AttachError, Attached, Link};
pub use checks::OLDEST_KERNEL;
pub use counters::{Counters, Direction};
pub use flows::ForwardNames;
pub use settings::{Idle, Settings, fit};
pub use sweep::{Indexes, SweepReport, Tally};
pub(crate) use sys::lowest_priority;

use crate::{api::types::AttachMode, classifier::Limits, rules::images::Images};
use half_open::HalfOpenTable;
use mapped::MappedArray;

/// What the datapath cannot do, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The host lacks something.
    #[error("{0}")]
    Host(String),
    /// A capability is missing.
    #[error("{0}")]
    Permission(String),
    /// Not enough memory.
    #[error("{0}")]
    Memory(String),
    /// The object does not load.
    #[error("{0}")]
    Object(String),
    /// What is pinned is not ours.
    #[error("{} {problem}; `{clear}` clears the pins (and ends forwarding and all flows)", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The command that clears it.
        clear: String,
    },
    /// A call that should not fail.
    #[error("{call}: {error}")]
    Kernel {
        /// The call.
        call: &'static str,
        /// Its error.
        error: io::Error,
    },
}

/// Sizes of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Confirmed flows.
    pub flows: u32,
    /// Half-open flows; also, apart from them, flows to targets of the modes `dsr` and `ipip` of which one packet was seen.
    pub half_open: u32,
    /// Flows to targets of the modes `dsr` and `ipip`.
    pub direct: u32,
    /// Mappings of source NAT.
    pub mappings: u32,
    /// Sets of the IPv4 flow cache of each CPU (a power of two).
    pub cache4_sets: u32,
    /// Sets of the IPv6 flow cache of each CPU (a power of two).
    pub cache6_sets: u32,
    /// Filter rules that fit.
    pub filter_rules: u32,
}

impl TableSizes {
    /// Entries of the maps whose size the operator decides. A flow has two entries, one per direction. `cpus`: numbers that CPUs may
    /// have.
    fn entries(&self, cpus: u32) -> [(&'static str, u32); 11] {
        [
            ("FLOWS", self.flows.saturating_mul(2)),
            ("HALF_OPEN", sets(self.half_open).saturating_mul(abi::HALF_OPEN_SLOTS)),
            ("DIRECT", self.direct),
            ("DIRECT_NEW", self.half_open),
            ("SNAT_MAPPINGS", self.mappings.saturating_mul(2)),
            ("CACHE4", self.cache4_sets.saturating_mul(cpus)),
            ("CACHE6", self.cache6_sets.saturating_mul(cpus)),
            ("FILTER_RULES", self.filter_rules.saturating_mul(2)),
            ("FILTER_COUNTERS", self.filter_rules),
            ("FILTER_CELLS", filter::cells(self.filter_rules)),
            ("COUNTERS", cpus),
        ]
    }
}

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder on a BPF file system.
    pub pin_dir: PathBuf,
    /// Sizes of the tables, for those that are not pinned yet.
    pub tables: TableSizes,
}

/// The maps that the agent reads and writes.
struct Maps {
    config: MappedArray<abi::Config>,
    rule_sets: MappedArray<abi::RuleSet>,
    services: MappedArray<abi::Service>,
    forwards: MappedArray<abi::Forward>,
    maglev: MappedArray<abi::MaglevCell>,
    echoes: MappedArray<abi::Echo>,
    echo_allow: MappedArray<abi::AllowEntry>,
    echo_ports: MappedArray<u64>,
    filter_cells: MappedArray<abi::FilterCell>,
    filter_heads: MappedArray<abi::FilterHead>,
    filter_rates: MappedArray<abi::FilterRate>,
    filter_rules: MappedArray<abi::FilterEntry>,
    snat: MappedArray<abi::SnatRule>,
    snat_made: MappedArray<u32>,
    snat_gone: MappedArray<u32>,
    targets: MappedArray<abi::Target>,
    path_mtu: MappedArray<u64>,
    next_hops: MappedArray<abi::NextHop>,
    interfaces: MappedArray<abi::Interface>,
    hop_index: OwnedFd,
    hop_free: OwnedFd,
    locals: OwnedFd,
    claims: OwnedFd,
    interface_addresses: OwnedFd,
    vlans: OwnedFd,
    vlan_links: OwnedFd,
    devices: OwnedFd,
    flows: OwnedFd,
    half_open: HalfOpenTable,
    direct: OwnedFd,
    direct_new: OwnedFd,
    snat_mappings: OwnedFd,
    quic_ids: OwnedFd,
}

impl Maps {
    fn open(loaded: &load::Loaded) -> Result<Self, DatapathError> {
        fn mapped<T: aya::Pod>(loaded: &load::Loaded, name: &str) -> Result<MappedArray<T>, DatapathError> {
            let fd = loaded.map_fd(name)?;
            MappedArray::new(fd.as_fd())
                .map_err(|error| DatapathError::Object(format!("cannot map the map {name}: {error}")))
        }
        Ok(Self {
            config: mapped(loaded, "CONFIG")?,
            rule_sets: mapped(loaded, "RULE_SETS")?,
            services: mapped(loaded, "SERVICES")?,
            forwards: mapped(loaded, "FORWARDS")?,
            maglev: mapped(loaded, "MAGLEV")?,
            echoes: mapped(loaded, "ECHOES")?,
            echo_allow: mapped(loaded, "ECHO_ALLOW")?,
            echo_ports: mapped(loaded, "ECHO_PORTS")?,
            filter_cells: mapped(loaded, "FILTER_CELLS")?,
            filter_heads: mapped(loaded, "FILTER_HEADS")?,
            filter_rates: mapped(loaded, "FILTER_RATES")?,
            filter_rules: mapped(loaded, "FILTER_RULES")?,
            snat: mapped(loaded, "SNAT")?,
            snat_made: mapped(loaded, "SNAT_MADE")?,
            snat_gone: mapped(loaded, "SNAT_GONE")?,
            targets: mapped(loaded, "TARGETS")?,
            path_mtu: mapped(loaded, "PATH_MTU")?,
            next_hops: mapped(loaded, "NEXT_HOPS")?,
            interfaces: mapped(loaded, "INTERFACES")?,
            hop_index: loaded.map_fd("HOP_INDEX")?,
            hop_free: loaded.map_fd("HOP_FREE")?,
            locals: loaded.map_fd("LOCALS")?,
            claims: loaded.map_fd("CLAIMS")?,
            interface_addresses: loaded.map_fd("INTERFACE_ADDRESSES")?,
            vlans: loaded.map_fd("VLANS")?,
            vlan_links: loaded.map_fd("VLAN_LINKS")?,
            devices: loaded.map_fd("DEVICES")?,
            flows: loaded.map_fd("FLOWS")?,
            half_open: HalfOpenTable::new(loaded.map_fd("HALF_OPEN")?.as_fd())
                .map_err(|error| DatapathError::Object(format!("cannot map the map HALF_OPEN: {error}")))?,
            direct: loaded.map_fd("DIRECT")?,
            direct_new: loaded.map_fd("DIRECT_NEW")?,
            snat_mappings: loaded.map_fd("SNAT_MAPPINGS")?,
            quic_ids: loaded.map_fd("QUIC_IDS")?,
        })
    }
}

/// The loaded programs and their maps.
pub struct Datapath {
    maps: Maps,
    counters: Counters,
    loaded: Mutex<load::Loaded>,
    publisher: Mutex<publish::Publisher>,
    clock: clock::Clock,
    tally: Mutex<Tally>,
    reserved: Mutex<Option<mappings::Reserved>>,
    events_lost: Arc<AtomicU64>,
    adopted: bool,
    cache_strides: [u32; 2],
}

/// A lock whose holder panicked is taken all the same: the maps behind it hold no half-done Rust value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Datapath {
    /// Loads the programs and makes or adopts the maps. The second value is what the operator should know.
    ///
    /// # Errors
    ///
    /// If the host lacks something, or something foreign is pinned.
    pub fn open(options: &Options) -> Result<(Self, Vec<String>), DatapathError> {
        let mut loaded = load::load(options)?;
        let maps = Maps::open(&loaded)?;
        let counters = Counters::open(&loaded)?;
        let clock = clock::Clock::open(&loaded)?;
        let cache_strides = [cache_stride(&loaded, "CACHE4")?, cache_stride(&loaded, "CACHE6")?];
        let warnings = std::mem::take(&mut loaded.warnings);
        let datapath = Self {
            publisher: Mutex::new(publish::Publisher::new(&maps)),
            maps,
            counters,
            clock,
            tally: Mutex::default(),
            reserved: Mutex::default(),
            events_lost: Arc::default(),
            adopted: loaded.adopted,
            cache_strides,
            loaded: Mutex::new(loaded),
        };
        let sets = offset_of!(abi::Config, half_open_sets);
        datapath.maps.config.store32(0, sets, datapath.maps.half_open.sets());
        if !datapath.adopted {
            datapath.fill_free_hops();
        }
        Ok((datapath, warnings))
    }

    /// Whether the maps of an earlier agent were adopted.
    pub const fn adopted(&self) -> bool {
        self.adopted
    }

    /// Number of the live rule set; 0 before the first one.
    pub fn generation(&self) -> u32 {
        self.maps.config.load32(0, publish::GENERATION)
    }

    /// Writes the live settings.
    pub fn configure(&self, settings: &Settings) {
        settings::write(self, settings);
    }

    /// Publishes a rule set: what is live before the call is live until the single store that makes the new one live.
    /// Returns its generation. Blocks for a grace period (some 10 ms).
    pub fn publish(&self, images: &Images) -> u32 {
        if let Err(error) = self.reserve_ports(images) {
            tracing::error!(%error, "ports of services are not all kept from source NAT");
        }
        lock(&self.publisher).publish(&self.maps, &self.counters, images)
    }

    /// What compiled filter rules must keep to, so that they fit beside those that are live.
    pub fn filter_limits(&self) -> Limits {
        filter::limits(&self.maps)
    }

    /// Attaches to an interface, or puts the new program in the place of the one that an earlier agent attached.
    ///
    /// # Errors
    ///
    /// See [`AttachError`]; nothing was changed then.
    pub fn attach(&self, link: &Link, mode: AttachMode) -> Result<Attached, AttachError> {
        attach::attach(self, link, mode)
    }

    /// Detaches from an interface, if attached.
    ///
    /// # Errors
    ///
    /// If the pin cannot be removed.
    pub fn detach(&self, ifindex: u32) -> Result<(), DatapathError> {
        attach::detach(self, ifindex)
    }

    /// Whether the program is attached to an interface.
    pub fn is_attached(&self, ifindex: u32) -> bool {
        attach::is_attached(self, ifindex)
    }

    /// Interfaces (by index) with a pinned link, also those whose interface is gone.
    pub fn attached(&self) -> Vec<u32> {
        lock(&self.loaded).pins.links()
    }

    /// Removes links, programs and maps: forwarding ends.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn remove(&self) -> Result<(), DatapathError> {
        let loaded = lock(&self.loaded);
        loaded.pins.remove().map_err(|error| DatapathError::Kernel { call: "unlink of the pins", error })
    }

    /// The counters.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sets of the flow cache on each CPU, in use and in all: of its IPv4 part and of its IPv6 part.
    pub fn cache_sets(&self) -> [(u32, u32); 2] {
        settings::cache_sets(self)
    }

    /// Mappings of source NAT that fit.
    pub fn mapping_capacity(&self) -> u64 {
        sys::map_info(self.maps.snat_mappings.as_fd()).map_or(0, |info| u64::from(info.max_entries / 2))
    }

    /// Flows to targets of the modes `dsr` and `ipip` that fit.
    pub fn direct_capacity(&self) -> u64 {
        let entries =
            |map: &OwnedFd| sys::map_info(map.as_fd()).map_or(0, |info| u64::from(info.max_entries));
        entries(&self.maps.direct)
    }

    /// Flows that fit: confirmed and half-open.
    pub fn capacity(&self) -> (u64, u64) {
        let entries =
            |map: &OwnedFd| sys::map_info(map.as_fd()).map_or(0, |info| u64::from(info.max_entries / 2));
        (entries(&self.maps.flows), self.maps.half_open.capacity())
    }
}

/// Sets of a flow cache that each CPU owns.
fn cache_stride(loaded: &load::Loaded, name: &str) -> Result<u32, DatapathError> {
    let fd = loaded.map_fd(name)?;
    let info = sys::map_info(fd.as_fd())
        .map_err(|error| DatapathError::Kernel { call: "BPF_OBJ_GET_INFO", error })?;
    let stride = info.max_entries / loaded.cpus.numbers.max(1);
    // The mask needs a power of two; the configuration asks for one, a pinned map might be from elsewhere.
    Ok(if stride.is_power_of_two() { stride } else { (stride / 2).next_power_of_two() })
}
