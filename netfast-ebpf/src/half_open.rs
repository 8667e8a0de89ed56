//! The table of half-open flows: keys and entries stand in the working memory, the work is `netfast_common::half_open`'s.
//!
//! The steps are global functions: the verifier looks at each once, and their callers have little stack left. They take a key by its place
//! in the working memory (`…_KEY`), and an entry by its slot in the map; 0 is none, since slot 0 is a head.

use core::mem::offset_of;

use netfast_common::{
    abi::{Flow, FlowKey, HALF_OPEN_SLOTS, HalfOpen},
    half_open::{self, Set},
    wire::Packet,
};

use crate::{
    frame,
    maps::{CONFIG, HALF_OPEN, SCRATCH},
    scratch::{Memory, Scratch},
    shared::exchange,
};

/// The packet's own key.
pub const PACKET_KEY: u32 = (offset_of!(Memory, packet) + offset_of!(Packet, key)) as u32;
/// `Scratch::original_key`; its entry is `Scratch::flow`.
pub const ORIGINAL_KEY: u32 = (offset_of!(Memory, scratch) + offset_of!(Scratch, original_key)) as u32;
/// `Scratch::reply_key`; its entry is `Scratch::reply`.
pub const REPLY_KEY: u32 = (offset_of!(Memory, scratch) + offset_of!(Scratch, reply_key)) as u32;
/// `Scratch::other_key`.
pub const OTHER_KEY: u32 = (offset_of!(Memory, scratch) + offset_of!(Scratch, other_key)) as u32;

/// The places of keys are below this and multiples of 8: what the verifier must see of a number that it knows nothing of.
const PLACES: u32 = 1024;
const _: () = assert!(
    OTHER_KEY < PLACES
        && (PACKET_KEY | ORIGINAL_KEY | REPLY_KEY | OTHER_KEY).is_multiple_of(8)
        && size_of::<Memory>() >= PLACES as usize + size_of::<FlowKey>()
);

/// Mask of a slot's number in its set.
const IN_SET: u32 = HALF_OPEN_SLOTS - 1;

/// A set, and the key that is looked for.
struct View {
    head: *mut u32,
    first: u32,
    key: *const FlowKey,
}

impl View {
    /// The set of the key at `place` of the working memory, and the key's tag.
    #[inline(always)]
    fn of(place: u32) -> Option<(Self, u32)> {
        let config = CONFIG.get(0)?;
        let place = place & (PLACES - 8);
        // SAFETY: inside the element by the assertions above.
        let key: *const FlowKey = unsafe { SCRATCH.get_ptr(0)?.byte_add(place as usize).cast() };
        // SAFETY: the element is this CPU's alone.
        let hash = half_open::hash_of(unsafe { &*key }, config.seed);
        let first = half_open::set_of(hash, config.half_open_sets) * HALF_OPEN_SLOTS;
        let head = HALF_OPEN.get_ptr_mut(first)?.cast();
        Some((Self { head, first, key }, half_open::tag_of(hash)))
    }

    /// The set of a slot; no key.
    #[inline(always)]
    fn around(slot: u32) -> Option<Self> {
        let first = slot & !IN_SET;
        Some(Self { head: HALF_OPEN.get_ptr_mut(first)?.cast(), first, key: core::ptr::null() })
    }

    #[inline(always)]
    const fn word(&self, way: u32) -> *mut u32 {
        // SAFETY: a head has sixteen words.
        unsafe { self.head.add((way & IN_SET) as usize) }
    }

    #[inline(always)]
    const fn slot(&self, way: u32) -> u32 {
        if way == 0 { 0 } else { self.first | way }
    }
}

impl Set for View {
    #[inline(always)]
    fn load(&self, way: u32) -> u32 {
        // SAFETY: inside the head, which lives as long as the program. Other CPUs change it, a word at a time.
        unsafe { self.word(way).read_volatile() }
    }

    #[inline(always)]
    fn store(&self, way: u32, word: u32) {
        // SAFETY: as above.
        unsafe { self.word(way).write_volatile(word) }
    }

    #[inline(always)]
    fn change(&self, way: u32, from: u32, to: u32) -> bool {
        // SAFETY: as above.
        unsafe { exchange(self.word(way), from, to) }
    }

    #[inline(always)]
    fn is_key(&self, way: u32) -> bool {
        let Some(slot) = HALF_OPEN.get_ptr(self.first | way & IN_SET) else { return false };
        let mut difference = 0;
        let mut i = 0;
        while i < size_of::<FlowKey>() / 8 {
            // SAFETY: both are keys, of whole words. The slot's may be written by another CPU meanwhile; then its word says so.
            difference |=
                unsafe { slot.cast::<u64>().add(i).read_volatile() ^ self.key.cast::<u64>().add(i).read() };
            i += 1;
        }
        difference == 0
    }

    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        frame::opaque(number as usize) as u32
    }
}

/// The slot of the entry with the key at `place`, which is in use from now on.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_half_find(place: u32) -> u32 {
    let Some((set, tag)) = View::of(place) else { return 0 };
    let way = half_open::find(&set, tag);
    if way != 0 {
        half_open::touch(&set, tag, way);
    }
    set.slot(way)
}

/// See [`half_open::reserve`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_half_reserve(place: u32, replace: u32) -> u32 {
    let Some((set, tag)) = View::of(place) else { return 0 };
    set.slot(half_open::reserve(&set, tag, replace != 0))
}

/// See [`half_open::remove`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_half_remove(place: u32) -> u32 {
    if let Some((set, tag)) = View::of(place) {
        half_open::remove(&set, tag);
    }
    0
}

/// Writes the reply's entry (`reply` is not 0) or the original direction's into a slot that was reserved.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_half_put(slot: u32, reply: u32) -> u32 {
    let (Some(to), Some(memory)) = (HALF_OPEN.get_ptr_mut(slot), SCRATCH.get_ptr(0)) else { return 0 };
    // SAFETY: the working memory is this CPU's alone, and nobody else writes a slot that it has reserved.
    unsafe {
        let scratch = &raw const (*memory).scratch;
        if reply == 0 {
            write(to, &raw const (*scratch).original_key, &raw const (*scratch).flow);
        } else {
            write(to, &raw const (*scratch).reply_key, &raw const (*scratch).reply);
        }
    }
    0
}

/// # Safety
///
/// The pointers are valid.
#[inline(always)]
unsafe fn write(to: *mut HalfOpen, key: *const FlowKey, flow: *const Flow) {
    // SAFETY: as the caller says; both are whole words without padding.
    unsafe {
        copy(to.cast(), key.cast(), size_of::<FlowKey>() / 8);
        copy((&raw mut (*to).flow).cast(), flow.cast(), size_of::<Flow>() / 8);
    }
}

/// Word by word, each written before the next one is read: the compiler would read all of them first, and keep them on the stack.
///
/// # Safety
///
/// As many words are valid.
#[inline(always)]
unsafe fn copy(to: *mut u64, from: *const u64, words: usize) {
    let mut i = 0;
    while i < words {
        // SAFETY: as the caller says.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

/// Shows the entry of a slot (`shown` is not 0), or gives the slot back.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_half_settle(slot: u32, shown: u32) -> u32 {
    let Some(set) = View::around(slot) else { return 0 };
    if slot == 0 {
        return 0;
    }
    if shown != 0 {
        half_open::publish(&set, slot & IN_SET);
    } else {
        half_open::release(&set, slot & IN_SET);
    }
    0
}

/// The entry with the key at `place`.
#[inline(always)]
pub fn get(place: u32) -> Option<*mut Flow> {
    let slot = netfast_half_find(place);
    if slot == 0 {
        return None;
    }
    // SAFETY: a field of the element.
    HALF_OPEN.get_ptr_mut(slot).map(|slot| unsafe { &raw mut (*slot).flow })
}

/// Takes the entry with the key at `place` out.
#[inline(always)]
pub fn remove(place: u32) {
    netfast_half_remove(place);
}

/// Takes a slot for the original direction's entry, and writes that; 0: there is none. It is to be shown or given back.
#[inline(always)]
pub fn take_original() -> u32 {
    let mut attempt = 0;
    // Another CPU may have been faster with the way, though hardly twice.
    while attempt < 3 {
        let slot = netfast_half_reserve(ORIGINAL_KEY, 1);
        if slot != 0 {
            netfast_half_put(slot, 0);
            return slot;
        }
        attempt += 1;
    }
    0
}

/// Takes a slot for the reply's entry, and writes that; 0: somebody has the tuple. It is to be shown or given back.
#[inline(always)]
pub fn take_reply() -> u32 {
    let slot = netfast_half_reserve(REPLY_KEY, 0);
    if slot != 0 {
        netfast_half_put(slot, 1);
    }
    slot
}

/// The address and port that the flow's packets leave with, which are found after the original's entry was written.
#[inline(always)]
pub fn set_source(slot: u32, translated: &FlowKey) {
    if let Some(slot) = HALF_OPEN.get_ptr_mut(slot) {
        // SAFETY: nobody else writes a slot that is reserved.
        unsafe {
            (*slot).flow.translated.source = translated.source;
            (*slot).flow.translated.source_port = translated.source_port;
        }
    }
}

/// Shows the entry of a slot.
#[inline(always)]
pub fn show(slot: u32) {
    netfast_half_settle(slot, 1);
}

/// Gives a slot back.
#[inline(always)]
pub fn release(slot: u32) {
    netfast_half_settle(slot, 0);
}
