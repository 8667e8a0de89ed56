//! Jiffies, as the program sees them: the program `netfast_clock` is run once for each look at them.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;

use super::{
    DatapathError,
    load::{CLOCK, Loaded, chain},
    sys,
};

/// The kernel's possible values of CONFIG_HZ.
const POSSIBLE_HZ: [u32; 4] = [100, 250, 300, 1000];
/// Long enough to tell 250 from 300: 15 against 18 ticks, each known to one tick.
const CALIBRATION: Duration = Duration::from_millis(60);

/// Element 0 of the map `CLOCK`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    jiffies: u64,
    nanoseconds: u64,
}

// SAFETY: repr(C), two integers, no padding.
unsafe impl aya::Pod for Reading {}

/// The program and the map that it writes.
pub(super) struct Clock {
    program: Xdp,
    map: OwnedFd,
    hz: u32,
}

impl Clock {
    /// Measures HZ; takes [`CALIBRATION`].
    pub(super) fn open(loaded: &Loaded) -> Result<Self, DatapathError> {
        let program = Xdp::from_pin(loaded.pins.program(CLOCK), XdpAttachType::Interface)
            .map_err(|error| DatapathError::Object(chain(&error)))?;
        let mut clock = Self { program, map: loaded.map_fd("CLOCK")?, hz: 0 };
        let first = clock.read()?;
        std::thread::sleep(CALIBRATION);
        clock.hz = hz(first, clock.read()?);
        Ok(clock)
    }

    fn read(&self) -> Result<Reading, DatapathError> {
        let frame = [0u8; 64];
        self.program
            .test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() })
            .map_err(|error| DatapathError::Object(format!("{CLOCK}: {}", chain(&error))))?;
        sys::lookup::<u32, Reading>(self.map.as_fd(), &0)
            .map(Option::unwrap_or_default)
            .map_err(|error| DatapathError::Kernel { call: "look-up in CLOCK", error })
    }

    /// The low 32 bits of jiffies, as the flow tables hold them.
    pub(super) fn now(&self) -> Result<u32, DatapathError> {
        self.read().map(|reading| reading.jiffies as u32)
    }

    /// Jiffies in a second.
    pub(super) const fn hz(&self) -> u32 {
        self.hz
    }
}

/// The possible value that is nearest to what two readings say.
fn hz(first: Reading, second: Reading) -> u32 {
    let nanoseconds = second.nanoseconds.wrapping_sub(first.nanoseconds).max(1);
    let ticks = second.jiffies.wrapping_sub(first.jiffies);
    let measured = u128::from(ticks) * 1_000_000_000 / u128::from(nanoseconds);
    let distance = |hz: u32| {
        // By ratio: 300 lies near 250, 1000 far from both.
        let (a, b) = (measured.max(1) as f64, f64::from(hz));
        (a / b).max(b / a)
    };
    POSSIBLE_HZ.into_iter().min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap_or(250)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hz_is_told_from_two_readings() {
        for (ticks, milliseconds, expected) in [
            (15, 60, 250),
            (16, 60, 250),
            (14, 60, 250),
            (18, 60, 300),
            (60, 60, 1000),
            (6, 60, 100),
            (61, 64, 1000),
        ] {
            let first = Reading { jiffies: u64::MAX - 3, nanoseconds: 5 };
            let second = Reading {
                jiffies: first.jiffies.wrapping_add(ticks),
                nanoseconds: first.nanoseconds + milliseconds * 1_000_000,
            };
            assert_eq!(expected, hz(first, second), "{ticks} ticks in {milliseconds} ms");
        }
    }
}
