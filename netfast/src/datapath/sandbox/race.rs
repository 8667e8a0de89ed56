//! Frames that come in at the same time.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use super::{Sandbox, SandboxError, run::test_run};

/// Moves the calling thread to a CPU that is not `busy`, if it may run on another one.
fn leave(busy: usize) {
    let others = (0..CpuSet::count()).filter(|cpu| *cpu != busy);
    for cpu in others {
        let mut cpus = CpuSet::new();
        if cpus.set(cpu).is_ok() && sched_setaffinity(Pid::from_raw(0), &cpus).is_ok() {
            return;
        }
    }
}

impl Sandbox {
    /// Runs frames on two CPUs: the first of the one list and the first of the other at once, then the second ones, and so on.
    /// Each list comes in by the interface that it is given with, and is as long as the other. With one CPU they take turns. Returns
    /// what the program has returned for each frame (`enum xdp_action`).
    ///
    /// # Errors
    ///
    /// As [`Sandbox::run`].
    pub fn race(&self, sides: [(u32, &[Vec<u8>]); 2]) -> Result<[Vec<u32>; 2], SandboxError> {
        let program = &self.program;
        let here = sched_getcpu().unwrap_or_default();
        let ready = AtomicUsize::new(0);
        let run = |side: usize| {
            let (ifindex, frames) = sides[side];
            let mut actions = Vec::with_capacity(frames.len());
            let mut result = Ok(());
            for (at, frame) in frames.iter().enumerate() {
                ready.fetch_add(1, Ordering::AcqRel);
                while ready.load(Ordering::Acquire) < (at + 1) * sides.len() {
                    std::hint::spin_loop();
                }
                if result.is_ok() {
                    result = test_run(program, ifindex, (frame, frame.len()), None, 1)
                        .map(|(action, ..)| actions.push(action));
                }
            }
            result.map(|()| actions)
        };
        let result = thread::scope(|scope| {
            let other = scope.spawn(|| {
                leave(here);
                run(1)
            });
            let first = run(0);
            Ok([first?, other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?])
        });
        // What these frames were counted as is none of the next one's.
        for port in &self.host.ports {
            self.count(port.row);
        }
        result
    }
}
