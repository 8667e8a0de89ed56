//! Frames through the program, and what was counted.

use std::{collections::BTreeMap, time::Duration};

use aya::{TestRun as _, TestRunOptions, programs::Xdp};
use netfast_common::{Reason, Verdict, abi};

use super::{Sandbox, SandboxError};
use crate::{api::types::Count, datapath::load::chain};

/// Shortest frame that BPF_PROG_TEST_RUN takes: an Ethernet header.
pub const SHORTEST_FRAME: usize = 14;
/// What fits into a frame's first buffer: a page less the headroom (256) and the shared info at its end (320).
pub const FIRST_BUFFER: usize = 4096 - 256 - 320;
/// Longest frame that BPF_PROG_TEST_RUN takes: the first buffer, and 17 pages (MAX_SKB_FRAGS).
pub const LONGEST_FRAME: usize = FIRST_BUFFER + 17 * 4096;

/// Row of the counters for interfaces that were not announced.
const UNKNOWN_ROW: u16 = abi::MAX_INTERFACES as u16;
/// Room that the answer may need beyond the frame: a VLAN tag or two.
const GROWTH: usize = 64;

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the program returned (`enum xdp_action`).
    pub action: u32,
    /// Everything that was counted on the interface meanwhile; one entry, if all is well.
    pub counted: Vec<(Verdict, Reason)>,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl Ran {
    /// The verdict; `None` is XDP_ABORTED or something that is no verdict at all.
    pub const fn verdict(&self) -> Option<Verdict> {
        match self.action {
            1 => Some(Verdict::Drop),
            2 => Some(Verdict::Pass),
            3 => Some(Verdict::Transmit),
            4 => Some(Verdict::Redirect),
            _ => None,
        }
    }

    /// The reason, if the frame was counted once and under the verdict that was returned.
    pub fn reason(&self) -> Option<Reason> {
        match self.counted[..] {
            [(verdict, reason)] if Some(verdict) == self.verdict() => Some(reason),
            _ => None,
        }
    }
}

/// What a row of the interface counters stands at.
pub(super) type Counted = BTreeMap<(Verdict, Reason), u64>;

impl Sandbox {
    /// Runs a frame that came in by interface `ifindex`.
    ///
    /// # Errors
    ///
    /// If the kernel does not run it: shorter than [`SHORTEST_FRAME`], longer than [`LONGEST_FRAME`], no such interface.
    pub fn run(&self, ifindex: u32, frame: &[u8]) -> Result<Ran, SandboxError> {
        self.run_split(ifindex, frame, frame.len())
    }

    /// As [`Sandbox::run`], with no more than `first` bytes of the frame in its first buffer. Anything but the frame's
    /// length takes a kernel from 6.18 on.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::run`].
    pub fn run_split(&self, ifindex: u32, frame: &[u8], first: usize) -> Result<Ran, SandboxError> {
        let row =
            self.host.ports.iter().find(|port| port.ifindex == ifindex).map_or(UNKNOWN_ROW, |port| port.row);
        let mut out = vec![0; frame.len() + GROWTH];
        let (action, length, _) = test_run(&self.program, ifindex, (frame, first), Some(&mut out), 1)?;
        out.truncate(length);
        Ok(Ran { action, counted: self.count(row), frame: out })
    }

    /// Runs a frame `times` times in a row and returns the kernel's measure of one run. The frame is not restored
    /// between runs: from the second one on the program sees what the first one made of it.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::run`].
    pub fn repeat(&self, ifindex: u32, frame: &[u8], times: u32) -> Result<Duration, SandboxError> {
        self.counted.borrow_mut().clear();
        test_run(&self.program, ifindex, (frame, frame.len()), None, times).map(|(_, _, duration)| duration)
    }

    /// What a row has counted since it was looked at last.
    pub(super) fn count(&self, row: u16) -> Vec<(Verdict, Reason)> {
        let now = self.datapath.counters.interface(row);
        let mut all = self.counted.borrow_mut();
        let before = all.entry(row).or_default();
        let mut counted = Vec::new();
        for (verdict, reason, Count { packets, .. }) in now {
            let before = before.entry((verdict, reason)).or_default();
            for _ in *before..packets {
                counted.push((verdict, reason));
            }
            *before = packets;
        }
        counted
    }
}

/// Runs a frame, with no more than `first` bytes of it in its first buffer; returns what the program returned, the frame's length and the
/// time of a run.
pub(super) fn test_run(
    program: &Xdp,
    ifindex: u32,
    (frame, first): (&[u8], usize),
    out: Option<&mut [u8]>,
    repeat: u32,
) -> Result<(u32, usize, Duration), SandboxError> {
    let failed = |error| SandboxError::Run { length: frame.len(), error };
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let end = u32::try_from(first).map_err(|error| failed(error.to_string()))?;
    let mut context = Vec::with_capacity(24);
    for word in [0, end, 0, ifindex, 0, 0] {
        context.extend_from_slice(&word.to_ne_bytes());
    }
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: out,
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::new()
    };
    let result = program.test_run(options).map_err(|error| failed(chain(&error)))?;
    Ok((result.return_value, result.data_size_out as usize, result.duration))
}
