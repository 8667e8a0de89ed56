//! The pin directory `<pin dir>/v<ABI>/{maps,programs,links}`, and whether what is pinned there is ours.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya_obj::EbpfSectionKind;
use netfast_common::abi::ABI_VERSION;

use super::{DatapathError, TableSizes, sys};

/// BPF_F_RDONLY_PROG: the kernel sets it on device maps by itself.
const RDONLY_PROG: u32 = 1 << 7;
/// BPF_MAP_TYPE_RINGBUF: aya rounds its size to pages.
const RINGBUF: u32 = 27;

/// Paths below the pin directory.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    top: PathBuf,
    base: PathBuf,
}

impl Pins {
    /// Below `pin_dir`.
    pub(super) fn new(pin_dir: &Path) -> Self {
        Self { top: pin_dir.to_owned(), base: pin_dir.join(format!("v{ABI_VERSION}")) }
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.base.join("maps").join(name)
    }

    /// Where a program is pinned.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.base.join("programs").join(name)
    }

    /// Where the link of an interface is pinned.
    pub(super) fn link(&self, ifindex: u32) -> PathBuf {
        self.base.join("links").join(ifindex.to_string())
    }

    /// Interfaces (by index) with a pinned link.
    pub(super) fn links(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.base.join("links")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Makes the folders.
    pub(super) fn create(&self) -> Result<(), DatapathError> {
        for folder in ["maps", "programs", "links"] {
            let path = self.base.join(folder);
            fs::create_dir_all(&path).map_err(|error| DatapathError::Pin {
                path: path.clone(),
                problem: format!("cannot make the folder: {error}"),
                clear: self.clear(),
            })?;
        }
        Ok(())
    }

    /// Takes everything away: links first, so that nothing runs any more when the maps go.
    pub(super) fn remove(&self) -> io::Result<()> {
        for folder in ["links", "programs", "maps"] {
            match fs::remove_dir_all(self.base.join(folder)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for folder in [&self.base, &self.top] {
            // Another version's pins may be beside ours; then the folder stays.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }

    /// The command that clears the pins.
    fn clear(&self) -> String {
        format!("rm -r {}", self.base.display())
    }

    fn refuse(&self, path: PathBuf, problem: String) -> DatapathError {
        DatapathError::Pin { path, problem, clear: self.clear() }
    }

    /// Refuses if another ABI version's program is attached: its maps have another layout, and two programs cannot
    /// share an interface.
    pub(super) fn refuse_other_versions(&self) -> Result<(), DatapathError> {
        for entry in fs::read_dir(&self.top).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(version) = name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok())
            else {
                continue;
            };
            let busy = fs::read_dir(entry.path().join("links")).is_ok_and(|mut links| links.next().is_some());
            if version != ABI_VERSION && busy {
                return Err(DatapathError::Pin {
                    path: entry.path(),
                    problem: format!(
                        "a program of ABI version {version} is attached, this agent has version {ABI_VERSION}; flows \
                         cannot be taken over"
                    ),
                    clear: format!("rm -r {}", entry.path().display()),
                });
            }
        }
        Ok(())
    }

    /// Compares what is pinned with what the object wants. Gives the sizes to load with: those of `sizes`, except
    /// where a map is pinned with another size, which is kept and told in `warnings`.
    pub(super) fn adopt(
        &self,
        wanted: &BTreeMap<String, WantedMap>,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeMap<String, u32>, DatapathError> {
        let mut entries = BTreeMap::new();
        for (name, want) in wanted {
            let path = self.map(name);
            entries.insert(name.clone(), want.max_entries);
            if !path.exists() {
                continue;
            }
            let pinned = sys::open_pin(&path)
                .map_err(|error| self.refuse(path.clone(), format!("cannot be opened: {error}")))?;
            match sys::kind(pinned.as_fd()) {
                Ok(kind) if kind == "bpf-map" => {}
                Ok(kind) => return Err(self.refuse(path, format!("is not a map but a {kind}"))),
                Err(error) => return Err(self.refuse(path, format!("cannot be told: {error}"))),
            }
            let info = sys::map_info(pinned.as_fd())
                .map_err(|error| self.refuse(path.clone(), format!("cannot be described: {error}")))?;
            if let Some(problem) = want.differs(&info) {
                return Err(self.refuse(path, problem));
            }
            if info.max_entries != want.max_entries && want.map_type != RINGBUF {
                if !want.sizable {
                    let problem = format!("has {} entries instead of {}", info.max_entries, want.max_entries);
                    return Err(self.refuse(path, problem));
                }
                warnings.push(format!(
                    "{name} is pinned with {} entries, agent.toml asks for {}: the pinned size stays until a stop with \
                     `--detach` (which ends all flows)",
                    info.max_entries, want.max_entries
                ));
            }
            entries.insert(name.clone(), info.max_entries);
        }
        Ok(entries)
    }
}

/// What the object asks of a map.
#[derive(Clone, Debug)]
pub(super) struct WantedMap {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    flags: u32,
    max_entries: u32,
    /// The operator decides the size.
    sizable: bool,
}

impl WantedMap {
    fn differs(&self, info: &sys::MapInfo) -> Option<String> {
        let want = (self.map_type, self.key_size, self.value_size, self.flags | RDONLY_PROG);
        let have = (info.map_type, info.key_size, info.value_size, info.flags | RDONLY_PROG);
        (want != have).then(|| {
            format!(
                "has another layout: type {}, key {} bytes, value {} bytes, flags {:#x} instead of type {}, key {} \
                 bytes, value {} bytes, flags {:#x}",
                info.map_type,
                info.key_size,
                info.value_size,
                info.flags,
                self.map_type,
                self.key_size,
                self.value_size,
                self.flags
            )
        })
    }

    /// About how many bytes the kernel allocates for it.
    fn bytes(&self, cpus: u32) -> u64 {
        let value = u64::from(self.value_size).next_multiple_of(8);
        let key = u64::from(self.key_size).next_multiple_of(8);
        let entry = match self.map_type {
            // Hash and LRU hash: the element's header and its share of the buckets.
            1 | 9 => key + value + 64,
            // Per-CPU array.
            6 => value * u64::from(cpus) + 8,
            RINGBUF => 1,
            _ => value,
        };
        entry * u64::from(self.max_entries)
    }
}

/// The object's maps that are pinned (all but its read-only data), with the operator's sizes.
pub(super) fn wanted(
    object: &[u8],
    sizes: &TableSizes,
    cpus: u32,
) -> Result<BTreeMap<String, WantedMap>, DatapathError> {
    let object = aya_obj::Object::parse(object)
        .map_err(|error| DatapathError::Object(format!("the eBPF object inside this binary: {error}")))?;
    let configured = sizes.entries(cpus);
    let maps = object
        .maps
        .iter()
        .filter(|(_, map)| matches!(map.section_kind(), EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps))
        .map(|(name, map)| {
            let size = configured.iter().find(|(sized, _)| sized == name).map(|(_, entries)| *entries);
            let wanted = WantedMap {
                map_type: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                flags: map.map_flags(),
                max_entries: size.unwrap_or_else(|| map.max_entries()),
                sizable: size.is_some(),
            };
            (name.clone(), wanted)
        });
    Ok(maps.collect())
}

/// About how many bytes all maps take.
pub(super) fn bytes(wanted: &BTreeMap<String, WantedMap>, cpus: u32) -> u64 {
    wanted.values().map(|map| map.bytes(cpus)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANT: WantedMap =
        WantedMap { map_type: 1, key_size: 40, value_size: 64, flags: 0, max_entries: 1024, sizable: true };

    #[test]
    fn a_map_of_another_layout_is_told() {
        let same = sys::MapInfo {
            map_type: 1,
            id: 9,
            key_size: 40,
            value_size: 64,
            max_entries: 7,
            flags: RDONLY_PROG,
        };
        assert_eq!(None, WANT.differs(&same));
        let text = WANT.differs(&sys::MapInfo { value_size: 72, ..same }).unwrap();
        assert!(
            text.contains("value 72 bytes") && text.contains("instead of") && text.contains("value 64 bytes")
        );
        assert!(WANT.differs(&sys::MapInfo { flags: 1, ..same }).is_some());
    }

    #[test]
    fn an_attached_program_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(folder.path());
        assert!(pins.refuse_other_versions().is_ok());
        let other = folder.path().join(format!("v{}", ABI_VERSION + 1));
        fs::create_dir_all(other.join("links")).unwrap();
        assert!(pins.refuse_other_versions().is_ok(), "nothing is attached");
        fs::write(other.join("links/2"), "").unwrap();
        let text = pins.refuse_other_versions().unwrap_err().to_string();
        assert!(text.contains(&format!("ABI version {}", ABI_VERSION + 1)), "{text}");
        assert!(text.contains(&format!("this agent has version {ABI_VERSION}")), "{text}");
        assert!(text.contains(&format!("`rm -r {}`", other.display())), "{text}");
    }

    #[test]
    fn memory_is_estimated() {
        assert_eq!(1024 * (40 + 64 + 64), WANT.bytes(2));
        assert_eq!(1024 * (64 * 2 + 8), WantedMap { map_type: 6, key_size: 4, ..WANT }.bytes(2));
    }
}
