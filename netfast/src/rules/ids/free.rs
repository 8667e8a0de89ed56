//! Which indexes are free.

use std::collections::HashMap;

use crate::api::types::{ErrorBody, ErrorCode};

use super::{Ids, Kind};

/// Indexes that are neither in use nor retired; the lowest is given out first.
#[derive(Default)]
pub(super) struct Free {
    kinds: HashMap<Kind, Taken>,
}

/// The indexes of a kind that are taken, a bit each, and where to look for the next free one.
#[derive(Default)]
struct Taken {
    bits: Vec<u64>,
    next: u32,
}

impl Taken {
    /// True if the index was free.
    fn take(&mut self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        let free = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        free
    }
}

impl Free {
    pub(super) fn of(ids: &Ids) -> Self {
        let mut free = Self::default();
        for forward in &ids.forwards {
            free.mark(Kind::Forward, forward.index.into());
            for target in &forward.targets {
                free.mark(Kind::Target, target.index.into());
            }
        }
        for snat in &ids.snats {
            free.mark(Kind::Forward, snat.index.into());
            snat.targets.iter().for_each(|target| free.mark(Kind::Target, target.index.into()));
        }
        ids.echoes.iter().for_each(|e| free.mark(Kind::Echo, e.index.into()));
        let counters = free.kinds.entry(Kind::Filter).or_default();
        for filter in ids.filters.iter() {
            counters.take(filter.index);
        }
        ids.retired.iter().for_each(|r| free.mark(r.kind, r.index.into()));
        free
    }

    fn mark(&mut self, kind: Kind, index: u32) {
        self.kinds.entry(kind).or_default().take(index);
    }

    pub(super) fn take(&mut self, kind: Kind) -> Result<u16, ErrorBody> {
        self.take_number(kind)?.try_into().map_err(|_| Self::full(kind))
    }

    pub(super) fn take_number(&mut self, kind: Kind) -> Result<u32, ErrorBody> {
        let taken = self.kinds.entry(kind).or_default();
        while taken.next < kind.limit() {
            taken.next += 1;
            if taken.take(taken.next - 1) {
                return Ok(taken.next - 1);
            }
        }
        Err(Self::full(kind))
    }

    fn full(kind: Kind) -> ErrorBody {
        let what = kind.plural();
        ErrorBody {
            code: ErrorCode::Rejected,
            message: format!(
                "the rules do not fit: all {} indexes of {what} are in use, some by {what} that were removed and whose flows \
                 have not ended; try again later, or end those flows with `netfast flows flush`",
                kind.limit()
            ),
            field: None,
        }
    }
}
