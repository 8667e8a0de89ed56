//! The few bpf(2) commands that aya 0.14 does not offer in the form needed here: batched look-ups, links with
//! their own error codes, descriptions of pinned objects.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of bpf(2), by their numbers in `enum bpf_cmd`.
#[repr(i64)]
#[derive(Clone, Copy)]
enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapGetNextKey = 4,
    ObjectPin = 6,
    ObjectGet = 7,
    ProgramGetFdById = 13,
    ObjectGetInfo = 15,
    MapTake = 21,
    MapLookupBatch = 24,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
}

/// `attach_type` of an XDP program in BPF_LINK_CREATE.
const BPF_XDP: u32 = 37;
/// `type` of an XDP link in `bpf_link_info`.
const LINK_TYPE_XDP: u32 = 6;

/// Calls bpf(2) and returns what it returns.
fn bpf<T>(command: Command, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: every attribute structure of this file is repr(C), begins like the part of `union bpf_attr` that the
    // command reads, and its pointers outlive the call; the kernel takes any size whose unknown tail is zero.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes as *mut T, size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
#[derive(Default)]
struct ElementAttributes {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// Of BPF_MAP_GET_NEXT_KEY: where the next key goes.
    value: u64,
    flags: u64,
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

/// Copies the value of `key` out of a map that is not per-CPU.
pub(super) fn lookup<K: aya::Pod, V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    value_of(Command::MapLookup, map, key)
}

fn value_of<K: aya::Pod, V: aya::Pod + Default>(
    command: Command,
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = V::default();
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        key: address(key),
        value: std::ptr::from_mut(&mut value) as u64,
        ..Default::default()
    };
    found(bpf(command, &mut attributes)).map(|there| there.then_some(value))
}

/// Copies the values of all CPUs of an element of a per-CPU map, whose value size is a multiple of 8, into `values`.
pub(super) fn lookup_per_cpu<V: aya::Pod>(map: BorrowedFd<'_>, key: u32, values: &mut [V]) -> io::Result<()> {
    const { assert!(size_of::<V>().is_multiple_of(8), "the kernel rounds the size up to 8") };
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        key: address(&key),
        value: values.as_mut_ptr() as u64,
        ..Default::default()
    };
    bpf(Command::MapLookup, &mut attributes).map(drop)
}

/// Writes the values of all CPUs of an element of a per-CPU map.
pub(super) fn update_per_cpu<V: aya::Pod>(map: BorrowedFd<'_>, key: u32, values: &[V]) -> io::Result<()> {
    const { assert!(size_of::<V>().is_multiple_of(8), "the kernel rounds the size up to 8") };
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        key: address(&key),
        value: values.as_ptr() as u64,
        ..Default::default()
    };
    bpf(Command::MapUpdate, &mut attributes).map(drop)
}

/// What [`update`] does about an element that exists.
#[derive(Clone, Copy)]
pub(super) enum Existing {
    /// Create or replace.
    Replace = 0,
    /// Fail with EEXIST.
    Keep = 1,
    /// Replace; fail with ENOENT if it does not exist.
    Only = 2,
}

/// Writes an element.
pub(super) fn update<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
    existing: Existing,
) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        key: address(key),
        value: address(value),
        flags: existing as u64,
        ..Default::default()
    };
    bpf(Command::MapUpdate, &mut attributes).map(drop)
}

/// Appends to a queue.
pub(super) fn push<V: aya::Pod>(map: BorrowedFd<'_>, value: &V) -> io::Result<()> {
    let mut attributes =
        ElementAttributes { map_fd: map.as_raw_fd() as u32, value: address(value), ..Default::default() };
    bpf(Command::MapUpdate, &mut attributes).map(drop)
}

/// Deletes an element; tells whether it was there.
pub(super) fn delete<K: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attributes =
        ElementAttributes { map_fd: map.as_raw_fd() as u32, key: address(key), ..Default::default() };
    found(bpf(Command::MapDelete, &mut attributes))
}

/// Deletes an element and gives what it was.
pub(super) fn take<K: aya::Pod, V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    value_of(Command::MapTake, map, key)
}

fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// All keys of a small map.
pub(super) fn keys<K: aya::Pod + Default>(map: BorrowedFd<'_>) -> io::Result<Vec<K>> {
    let mut keys: Vec<K> = Vec::new();
    // The walk begins anew when the key it stands at is deleted meanwhile: it must end all the same.
    let limit = map_info(map)?.max_entries as usize;
    while keys.len() <= limit {
        let mut next = K::default();
        let mut attributes = ElementAttributes {
            map_fd: map.as_raw_fd() as u32,
            key: keys.last().map_or(0, address),
            value: std::ptr::from_mut(&mut next) as u64,
            ..Default::default()
        };
        if !found(bpf(Command::MapGetNextKey, &mut attributes))? {
            break;
        }
        keys.push(next);
    }
    Ok(keys)
}

#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Walks a hash map in batches (BPF_MAP_LOOKUP_BATCH, Linux 5.6). Elements that are added or removed meanwhile may
/// be missed or not; the others are seen exactly once.
pub(super) struct Batches<'fd, K, V> {
    map: BorrowedFd<'fd>,
    keys: Vec<K>,
    values: Vec<V>,
    /// The kernel's cursor: a bucket number (hash maps) in a buffer of the key's size.
    cursor: [u64; 16],
    started: bool,
    ended: bool,
}

impl<'fd, K: aya::Pod + Default, V: aya::Pod + Default> Batches<'fd, K, V> {
    /// Reads `size` elements at a time at first; more if a hash bucket holds more than that.
    pub(super) fn new(map: BorrowedFd<'fd>, size: usize) -> Self {
        const { assert!(size_of::<K>() <= 128, "the cursor's buffer is as large as the key") };
        Self {
            map,
            keys: vec![K::default(); size],
            values: vec![V::default(); size],
            cursor: [0; 16],
            started: false,
            ended: false,
        }
    }

    /// The next elements; `None` after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<(&[K], &[V])>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let mut out = [0u64; 16];
            let mut attributes = BatchAttributes {
                in_batch: if self.started { address(&self.cursor) } else { 0 },
                out_batch: std::ptr::from_mut(&mut out) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
                map_fd: self.map.as_raw_fd() as u32,
                ..Default::default()
            };
            let result = bpf(Command::MapLookupBatch, &mut attributes);
            match result {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    // The end; `count` elements were read all the same.
                    Some(libc::ENOENT) => self.ended = true,
                    // A bucket does not fit into what is left of the buffer: it is the first one if nothing was read.
                    Some(libc::ENOSPC) => {
                        let size = self.keys.len() * 2;
                        self.keys.resize(size, K::default());
                        self.values.resize(size, V::default());
                        continue;
                    }
                    Some(libc::EINTR) => continue,
                    _ => return Err(error),
                },
            }
            self.cursor = out;
            self.started = true;
            let count = (attributes.count as usize).min(self.keys.len());
            return Ok(Some((&self.keys[..count], &self.values[..count])));
        }
    }
}

/// Deletes elements (BPF_MAP_DELETE_BATCH, Linux 5.6); keys that are not there are passed over. Tells how many were.
pub(super) fn delete_batch<K: aya::Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<usize> {
    let (mut rest, mut deleted) = (keys, 0);
    while !rest.is_empty() {
        let mut attributes = BatchAttributes {
            keys: rest.as_ptr() as u64,
            count: u32::try_from(rest.len()).unwrap_or(u32::MAX),
            map_fd: map.as_raw_fd() as u32,
            ..Default::default()
        };
        let result = bpf(Command::MapDeleteBatch, &mut attributes);
        // The kernel stops at the first key that is not there, and says how many it has deleted before.
        let done = (attributes.count as usize).min(rest.len());
        match result {
            Ok(_) => {
                deleted += done;
                rest = &rest[done..];
                if done == 0 {
                    break;
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                deleted += done;
                rest = rest.get(done + 1..).unwrap_or_default();
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, ..Default::default() };
    owned(bpf(Command::ObjectGet, &mut attributes)?)
}

/// Pins `fd` at `path`, which must not exist.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attributes =
        ObjectAttributes { path: path.as_ptr() as u64, fd: fd.as_raw_fd() as u32, ..Default::default() };
    bpf(Command::ObjectPin, &mut attributes).map(drop)
}

/// What kind of object a BPF descriptor is, as /proc tells it (`bpf-map`, `bpf-prog`, `bpf-link`).
pub(super) fn kind(fd: BorrowedFd<'_>) -> io::Result<String> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let text = link.to_string_lossy();
    Ok(text.rsplit(':').next().unwrap_or_default().trim_matches(['[', ']']).to_owned())
}

#[repr(C)]
#[derive(Default)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}

fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attributes = InfoAttributes {
        fd: fd.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(Command::ObjectGetInfo, &mut attributes)?;
    Ok(info)
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MapInfo {
    /// `enum bpf_map_type`.
    pub(super) map_type: u32,
    /// Identifier.
    pub(super) id: u32,
    /// Bytes of a key.
    pub(super) key_size: u32,
    /// Bytes of a value.
    pub(super) value_size: u32,
    /// Elements that fit.
    pub(super) max_entries: u32,
    /// BPF_F_...
    pub(super) flags: u32,
}

/// Describes a map.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

/// The beginning of `struct bpf_link_info` with the XDP part of its union.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    ifindex: u32,
    tail: u32,
}

/// Interface of an XDP link (0: the interface is gone, the link "severed"); `None` if it is no XDP link.
pub(super) fn xdp_link_ifindex(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    // The kernel names a link's descriptor one way when it is made and the other way when its pin is opened.
    if !matches!(kind(link)?.as_str(), "bpf_link" | "bpf-link") {
        return Ok(None);
    }
    let info: LinkInfo = info(link)?;
    Ok((info.link_type == LINK_TYPE_XDP).then_some(info.ifindex))
}

/// The beginning of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct ProgramInfo {
    program_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct IdAttributes {
    id: u32,
    next_id: u32,
    flags: u32,
}

/// Name of the program `id`. Needs CAP_SYS_ADMIN.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    let program = owned(bpf(Command::ProgramGetFdById, &mut IdAttributes { id, ..Default::default() })?)?;
    let info: ProgramInfo = info(program.as_fd())?;
    let length = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    Ok(String::from_utf8_lossy(&info.name[..length]).into_owned())
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttributes {
    program_fd: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches an XDP program by a link. (aya's `Xdp::attach` falls back to netlink on EINVAL, which makes an
/// attachment that dies with the agent and hides the error.)
pub(super) fn create_xdp_link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes =
        LinkCreateAttributes { program_fd: program.as_raw_fd() as u32, ifindex, attach_type: BPF_XDP, flags };
    owned(bpf(Command::LinkCreate, &mut attributes)?)
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttributes {
    link_fd: u32,
    program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// Puts `program` in the place of the link's program, without a packet that sees neither.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdateAttributes {
        link_fd: link.as_raw_fd() as u32,
        program_fd: program.as_raw_fd() as u32,
        ..Default::default()
    };
    bpf(Command::LinkUpdate, &mut attributes).map(drop)
}

/// Waits until no program runs any more that began before the call (`synchronize_rcu` in the kernel).
///
/// MEMBARRIER_CMD_GLOBAL is refused on kernels booted with `nohz_full`; there half a second takes its place, which is
/// longer by orders of magnitude than one run of NAPI, in which a program runs to its end (net.core.netdev_budget_usecs).
pub(super) fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

/// Lets the calling thread run only where no other thread wants to. What cannot be done is not worth an error.
pub(crate) fn lowest_priority() {
    // SAFETY: no pointers; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}
