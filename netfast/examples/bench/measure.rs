//! Turns, pairs and medians.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aya::programs::{ProgramError, ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};

use crate::{
    bed::Bed,
    cases::{self, Case, Under},
};

/// Time of a turn.
const TURN: Duration = Duration::from_millis(60);

/// What was measured of a case; times in nanoseconds a packet.
pub struct Measured {
    /// Name of the case.
    pub name: &'static str,
    /// Number of flows.
    pub flows: u32,
    /// Median of all turns.
    pub ns: f64,
    /// Median of the differences to the empty program's turn beside it.
    pub net_ns: f64,
    /// Median of the empty program.
    pub floor_ns: f64,
    /// Median of the ratios of net times, to the reference's turn beside it; NaN for the empty program and the reference.
    pub ratio: f64,
    /// Half of the ratios lie within so much of each other, as a part of their median.
    pub spread: f64,
    /// Median of the reference's net time as a ratio to the floor: what kind of machine this is, and in what state.
    pub yardstick: f64,
    /// Median of the ratios of the case's second turn to its first.
    pub aa: f64,
}

/// Takes the last CPU for itself: pinned, at real-time priority.
pub fn settle() -> Result<()> {
    let cpus = std::thread::available_parallelism()?.get();
    let mut set = nix::sched::CpuSet::new();
    set.set(cpus - 1)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    real_time(50)
}

/// Gives the calling thread a real-time priority.
pub fn real_time(priority: i32) -> Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the struct is whole and lives during the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    ensure!(result == 0, "cannot get real-time priority: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Runs a program until the kernel does it in one go; returns how long that took, and the last answer. A signal to any thread, or whatever
/// wakes this one like a signal, ends a run.
pub fn test_run(program: &Xdp, data: &[u8], context: &[u8], repeat: u32) -> Result<(Duration, u32)> {
    loop {
        let options = TestRunOptions {
            data_in: Some(data),
            ctx_in: Some(context),
            repeat,
            attrs: TestRunAttrs::new(),
            ..TestRunOptions::new()
        };
        let began = Instant::now();
        match program.test_run(options) {
            Err(error) if is_interrupted(&error) => {}
            result => return Ok((began.elapsed(), result?.return_value)),
        }
    }
}

/// Whether the kernel has ended a run because of a signal.
pub fn is_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.kind() == ErrorKind::Interrupted)
}

/// Measures a case.
pub fn measure(bed: &mut Bed, case: &Case, flows: u32, rounds: usize) -> Result<Measured> {
    let mut plan = case.plan;
    plan.mask = if plan.fresh == 0 { flows - 1 } else { 0 };
    // The reference forwards as many flows as there are, whatever the case's own packets are.
    let mut forwarded = cases::forwarded();
    forwarded.mask = flows - 1;
    bed.prepare(flows, &plan)?;
    bed.fit(flows)?;
    let under = bed.under(case.under)?;
    let empty = bed.under(Under::Empty)?;
    let reference = bed.under(Under::Reference)?;
    // Each flow some times, so that the flow cache holds what it can; then as many packets as a turn takes.
    let warm_up = (flows * 4).max(200_000);
    let (_, answer) = bed.run(&under, warm_up)?;
    ensure!(answer == case.answer, "{}: the program answers {answer}, not {}", case.name, case.answer);
    // Before each turn every flow comes once, uncounted: the turn before has had the CPU's caches for itself. Flows beyond these fit
    // no cache.
    let again = flows.clamp(10_000, 131_072);
    let turn = |bed: &mut Bed, program: &ProgramFd, packets: u32| -> Result<f64> {
        bed.run(program, again)?;
        Ok(each(bed.run(program, packets)?.0, packets))
    };
    let packets = turn_length(turn(bed, &under, again)?);
    let empty_packets = turn_length(turn(bed, &empty, again)?);
    let compares = case.under == Under::Netfast;
    let reference_packets = turn_length(bed.instead(&forwarded, |bed| turn(bed, &reference, again))?);

    let (mut ns, mut net, mut floor, mut ratio, mut aa) = (vec![], vec![], vec![], vec![], vec![]);
    let mut yardstick = vec![];
    for _ in 0..rounds {
        let first = turn(bed, &under, packets)?;
        let empty = turn(bed, &empty, empty_packets)?;
        let reference = bed.instead(&forwarded, |bed| turn(bed, &reference, reference_packets))?;
        let second = turn(bed, &under, packets)?;
        ns.extend([first, second]);
        floor.push(empty);
        yardstick.push((reference - empty) / empty);
        net.extend([first - empty, second - empty]);
        if compares {
            ratio.push(((first + second) / 2.0 - empty) / (reference - empty));
        }
        aa.push(second / first);
    }
    Ok(Measured {
        name: case.name,
        flows,
        ns: median(&mut ns),
        net_ns: median(&mut net),
        floor_ns: median(&mut floor),
        ratio: median(&mut ratio),
        spread: spread(&ratio),
        yardstick: median(&mut yardstick),
        aa: median(&mut aa),
    })
}

fn turn_length(nanoseconds: f64) -> u32 {
    (TURN.as_nanos() as f64 / nanoseconds.max(1.0)).clamp(1000.0, 20e6) as u32
}

fn each(time: Duration, packets: u32) -> f64 {
    time.as_nanos() as f64 / f64::from(packets)
}

/// The middle half of sorted values, as a part of their median.
fn spread(sorted: &[f64]) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = |part: f64| sorted[(last as f64 * part).round() as usize];
    (at(0.75) - at(0.25)) / at(0.5)
}

/// The median; NaN of nothing. Sorts the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
