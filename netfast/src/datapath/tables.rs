//! The flow tables: three hash maps of the kernel, and the table of half-open flows, which is mapped.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd, BorrowedFd},
};

use netfast_common::abi::{Config, Flow, FlowKey};

use super::{Datapath, half_open::HalfOpenTable, sys};

/// One flow table or the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// FLOWS.
    Confirmed,
    /// HALF_OPEN.
    HalfOpen,
    /// DIRECT: one entry a flow.
    Direct,
    /// DIRECT_NEW, likewise.
    DirectNew,
}

impl Table {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Confirmed, Self::HalfOpen, Self::Direct, Self::DirectNew];

    /// Whether a flow has an entry per direction.
    pub(super) const fn has_replies(self) -> bool {
        matches!(self, Self::Confirmed | Self::HalfOpen)
    }
}

/// Where a table is.
enum Place<'a> {
    Map(BorrowedFd<'a>),
    Mapped(&'a HalfOpenTable),
}

/// A walk over a table.
pub(super) struct Walk<'a>(Walking<'a>);

enum Walking<'a> {
    Map(sys::Batches<'a, FlowKey, Flow>),
    Mapped { table: &'a HalfOpenTable, next: Option<u32>, size: usize, keys: Vec<FlowKey>, flows: Vec<Flow> },
}

impl Walk<'_> {
    /// The next entries; `None` after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<(&[FlowKey], &[Flow])>> {
        match &mut self.0 {
            Walking::Map(batches) => batches.next(),
            Walking::Mapped { table, next, size, keys, flows } => {
                let Some(number) = *next else { return Ok(None) };
                keys.clear();
                flows.clear();
                *next = table.read(number, *size, keys, flows);
                Ok(Some((keys, flows)))
            }
        }
    }
}

impl Datapath {
    fn place(&self, table: Table) -> Place<'_> {
        match table {
            Table::Confirmed => Place::Map(self.maps.flows.as_fd()),
            Table::HalfOpen => Place::Mapped(&self.maps.half_open),
            Table::Direct => Place::Map(self.maps.direct.as_fd()),
            Table::DirectNew => Place::Map(self.maps.direct_new.as_fd()),
        }
    }

    fn seed(&self) -> u32 {
        self.maps.config.load32(0, offset_of!(Config, seed))
    }

    /// Walks over a table, `size` entries at a time.
    pub(super) fn walk(&self, table: Table, size: usize) -> Walk<'_> {
        Walk(match self.place(table) {
            Place::Map(map) => Walking::Map(sys::Batches::new(map, size)),
            Place::Mapped(table) => {
                Walking::Mapped { table, next: Some(0), size, keys: Vec::new(), flows: Vec::new() }
            }
        })
    }

    /// The entry of a key.
    pub(super) fn entry(&self, table: Table, key: &FlowKey) -> io::Result<Option<Flow>> {
        match self.place(table) {
            Place::Map(map) => sys::lookup(map, key),
            Place::Mapped(table) => Ok(table.get(key, self.seed())),
        }
    }

    /// Gives a key's entry the times of `flow`, which is what was read of it; tells whether there is one.
    pub(super) fn set_times(&self, table: Table, key: &FlowKey, flow: &Flow) -> io::Result<bool> {
        match self.place(table) {
            Place::Map(map) => match sys::update(map, key, flow, sys::Existing::Only) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            },
            Place::Mapped(table) => Ok(table.set_times(key, flow, self.seed())),
        }
    }

    /// Takes a key's entry out; tells whether there was one.
    pub(super) fn delete_entry(&self, table: Table, key: &FlowKey) -> io::Result<bool> {
        match self.place(table) {
            Place::Map(map) => sys::delete(map, key),
            Place::Mapped(table) => Ok(table.remove(key, self.seed())),
        }
    }
}
