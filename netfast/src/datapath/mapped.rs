//! A BPF array that is mapped into the agent's memory (BPF_F_MMAPABLE, Linux 5.5).

use std::{
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::sys;

/// A mapped array of `T`. Reads and writes of whole elements are volatile and not atomic: they are for elements that
/// the program does not look at, or whose tearing the ABI allows. What the program looks at is stored by
/// [`MappedArray::store32`] and [`MappedArray::store16`].
#[derive(Debug)]
pub(super) struct MappedArray<T> {
    base: NonNull<u8>,
    length: NonZeroUsize,
    entries: u32,
    element: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel for as long as the value lives and every access is volatile or atomic;
// nothing in it belongs to a thread.
unsafe impl<T: aya::Pod> Send for MappedArray<T> {}
// SAFETY: as above; who writes an element is settled by the owners of the arrays (ARCHITECTURE.md, "Maps").
unsafe impl<T: aya::Pod> Sync for MappedArray<T> {}

impl<T: aya::Pod> MappedArray<T> {
    /// Distance of two elements: the kernel rounds the value size up to 8.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps the whole of `map`, whose value must be of `T`'s size, or a number of `T`: then those of all values are the elements.
    pub(super) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        let mut info = sys::map_info(map)?;
        let value = size_of::<T>();
        if value == Self::STRIDE && (info.value_size as usize).is_multiple_of(value) {
            info.max_entries = info.max_entries.saturating_mul(info.value_size / value as u32);
            info.value_size = value as u32;
        }
        if info.value_size as usize != value {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a value is {} bytes, not {value}", info.value_size),
            ));
        }
        let length =
            NonZeroUsize::new((info.max_entries as usize * Self::STRIDE).next_multiple_of(page_size()))
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: a new mapping at an address of the kernel's choice; it lives until drop.
        let base = unsafe {
            mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, 0)
        }?;
        Ok(Self { base: base.cast(), length, entries: info.max_entries, element: PhantomData })
    }

    /// As many elements of memory that is no map's.
    #[cfg(test)]
    pub(super) fn anonymous(entries: u32) -> io::Result<Self> {
        let length = NonZeroUsize::new((entries as usize * Self::STRIDE).next_multiple_of(page_size()))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: as above.
        let base = unsafe {
            nix::sys::mman::mmap_anonymous(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }?;
        Ok(Self { base: base.cast(), length, entries, element: PhantomData })
    }

    /// Number of elements.
    pub(super) const fn entries(&self) -> u32 {
        self.entries
    }

    fn at(&self, index: u32) -> Option<*mut T> {
        // SAFETY: the index is inside the mapping, whose base is aligned to a page and whose stride is a multiple of 8.
        (index < self.entries)
            .then(|| unsafe { self.base.as_ptr().add(index as usize * Self::STRIDE).cast() })
    }

    /// Reads an element; `None` beyond the end.
    pub(super) fn get(&self, index: u32) -> Option<T> {
        // SAFETY: `at` gives pointers into the mapping only, and any bit pattern is a `T`.
        self.at(index).map(|element| unsafe { element.read_volatile() })
    }

    /// Writes an element; tells whether the index is inside.
    pub(super) fn set(&self, index: u32, value: T) -> bool {
        // SAFETY: as in `get`.
        self.at(index).map(|element| unsafe { element.write_volatile(value) }).is_some()
    }

    fn field<A>(&self, index: u32, offset: usize) -> Option<&A> {
        assert!(
            offset.is_multiple_of(size_of::<A>()) && offset + size_of::<A>() <= size_of::<T>(),
            "field inside the value"
        );
        // SAFETY: inside the element by the assertion and aligned, since elements are aligned to 8; `A` is an atomic
        // integer and the mapping outlives the reference.
        self.at(index).map(|element| unsafe { &*element.cast::<u8>().add(offset).cast::<A>() })
    }

    /// Stores 32 bits at `offset` bytes into an element, after everything that was written before.
    pub(super) fn store32(&self, index: u32, offset: usize, value: u32) {
        if let Some(field) = self.field::<AtomicU32>(index, offset) {
            field.store(value, Ordering::SeqCst);
        }
    }

    /// Stores 64 bits at `offset` bytes into an element, after everything that was written before.
    pub(super) fn store64(&self, index: u32, offset: usize, value: u64) {
        if let Some(field) = self.field::<AtomicU64>(index, offset) {
            field.store(value, Ordering::SeqCst);
        }
    }

    /// Loads 32 bits at `offset` bytes into an element.
    pub(super) fn load32(&self, index: u32, offset: usize) -> u32 {
        self.field::<AtomicU32>(index, offset).map_or(0, |field| field.load(Ordering::SeqCst))
    }

    /// The 32 bits at `offset` bytes into an element, for what the program changes, too.
    pub(super) fn word32(&self, index: u32, offset: usize) -> Option<&AtomicU32> {
        self.field(index, offset)
    }

    /// Stores 16 bits at `offset` bytes into an element, after everything that was written before.
    pub(super) fn store16(&self, index: u32, offset: usize, value: u16) {
        if let Some(field) = self.field::<AtomicU16>(index, offset) {
            field.store(value, Ordering::SeqCst);
        }
    }

    /// Stores 8 bits at `offset` bytes into an element, after everything that was written before.
    pub(super) fn store8(&self, index: u32, offset: usize, value: u8) {
        if let Some(field) = self.field::<AtomicU8>(index, offset) {
            field.store(value, Ordering::SeqCst);
        }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length, and no reference into it outlives `self`. Nothing can be done about
        // an error.
        let _ = unsafe { munmap(self.base.cast(), self.length.get()) };
    }
}

fn page_size() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(4096)
}
