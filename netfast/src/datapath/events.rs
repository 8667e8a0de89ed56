//! What the program tells the agent: events by ring buffer, and its log.

use std::{
    os::fd::AsRawFd,
    sync::{Arc, atomic::Ordering},
};

use aya::maps::{MapData, RingBuf};
use netfast_common::abi;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::{self, error::TrySendError},
};

use super::{Datapath, DatapathError, load::chain, lock};

/// Events that wait for the netlink side. When it lags behind, events are dropped: the program asks again with the next
/// packet, and learned next hops are found in `HOP_INDEX`. Those dropped are counted.
const WAITING: usize = 4096;

pub(super) fn event(record: &[u8]) -> Option<abi::Event> {
    let bytes: &[u8; size_of::<abi::Event>()] = record.first_chunk()?;
    // SAFETY: the chunk is as long as the event, which is valid for any bit pattern; the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<abi::Event>().read_unaligned() })
}

impl Datapath {
    /// Starts a task that sends the program's events. To be called once, inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the ring buffer cannot be opened.
    pub fn spawn_events(&self) -> Result<mpsc::Receiver<abi::Event>, DatapathError> {
        let ring = self.take_ring("EVENTS")?;
        let mut ring = readable(ring)?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let lost = Arc::clone(&self.events_lost);
        tokio::spawn(async move {
            while let Ok(mut guard) = ring.readable_mut().await {
                let ring = guard.get_inner_mut();
                while let Some(record) = ring.next() {
                    match event(&record).map(|event| sender.try_send(event)) {
                        Some(Ok(())) | None => {}
                        Some(Err(TrySendError::Full(_))) => {
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                        Some(Err(TrySendError::Closed(_))) => return,
                    }
                }
                guard.clear_ready();
            }
        });
        Ok(receiver)
    }

    /// Events that were dropped since the start.
    pub fn events_lost(&self) -> u64 {
        self.events_lost.load(Ordering::Relaxed)
    }

    /// Starts a task that writes the program's log lines into the agent's log. To be called once, inside a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// If the program has no log.
    pub fn spawn_log(&self) -> Result<(), DatapathError> {
        let logger = aya_log::EbpfLogger::init(&mut lock(&self.loaded).ebpf)
            .map_err(|error| DatapathError::Object(chain(&error)))?;
        let mut logger = readable(logger)?;
        tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(())
    }

    pub(super) fn take_ring(&self, name: &str) -> Result<RingBuf<MapData>, DatapathError> {
        let map = lock(&self.loaded)
            .ebpf
            .take_map(name)
            .ok_or_else(|| DatapathError::Object(format!("the map {name} is missing or was taken before")))?;
        RingBuf::try_from(map).map_err(|error| DatapathError::Object(chain(&error)))
    }
}

fn readable<T: AsRawFd>(inner: T) -> Result<AsyncFd<T>, DatapathError> {
    // SAFETY: the ring buffer owns its descriptor and gives the same one for as long as it lives.
    unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }
        .map_err(|error| DatapathError::Kernel { call: "epoll of a ring buffer", error: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_too_short_is_no_event() {
        let mut record = [0u8; 48];
        record[0] = 2;
        record[4] = 9;
        assert_eq!(None, event(&record[..39]));
        let event = event(&record).unwrap();
        assert_eq!((2, 9), (event.kind, event.hop), "a longer record is one of a newer program");
    }
}
