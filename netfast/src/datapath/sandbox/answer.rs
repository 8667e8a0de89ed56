//! Answers asked for from outside, as a program asks for them.

use std::os::fd::AsFd as _;

use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use netfast_common::{
    Reason,
    answer::{self, Answer},
};

use super::{Ran, Sandbox, SandboxError};
use crate::datapath::{DatapathError, load::chain, lock, sys};

/// Name of the program that makes answers.
const PROGRAM: &str = "netfast_error";

impl Sandbox {
    /// Answers a frame that came in by interface `ifindex`, as if another program had asked for it: `value` goes with the
    /// answer, `reason` is what the frame is counted with. The frame must be one that goes to the kernel.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::run`].
    pub fn answer(
        &mut self,
        ifindex: u32,
        frame: &[u8],
        answer: Answer,
        value: u16,
        reason: Reason,
    ) -> Result<Ran, SandboxError> {
        // Leaves the frame's description in this CPU's working memory.
        self.run(ifindex, frame)?;
        let (map, cpus, pin) = {
            let loaded = lock(&self.datapath.loaded);
            (loaded.map_fd("REQUEST")?, loaded.cpus.count as usize, loaded.pins.program(PROGRAM))
        };
        let request = u64::from(answer::request(answer, value, reason));
        sys::update_per_cpu(map.as_fd(), 0, &vec![request; cpus])
            .map_err(|error| DatapathError::Kernel { call: "update of REQUEST", error })?;
        let program = Xdp::from_pin(pin, XdpAttachType::Interface)
            .map_err(|error| DatapathError::Object(chain(&error)))?;
        let entry = std::mem::replace(&mut self.program, program);
        let ran = self.run(ifindex, frame);
        self.program = entry;
        ran
    }
}
