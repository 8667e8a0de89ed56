//! A stream of UDP datagrams of which each is to come back, and what became of them.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::support::netns::Namespace;

/// Datagrams under way at most: fewer than the 256 that a veth's ring holds, so that a busy machine loses none. Those
/// that were sent [`LATE`] ago count no more.
const UNDER_WAY: usize = 128;
/// See [`UNDER_WAY`].
const LATE: Duration = Duration::from_millis(500);
/// How long an echo may take before it counts as lost.
const LOST: Duration = Duration::from_secs(3);

/// A turn of the loop takes a fraction of a millisecond, unless somebody else has the CPUs.
const STALL: Duration = Duration::from_millis(100);

/// What came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echoes {
    pub sent: u64,
    pub received: u64,
    /// Longest time between two that came back.
    pub gap: Duration,
}

impl Echoes {
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

/// Sends `rate` datagrams a second to `service` until `stop` is set. Each has its number and a text that depends on it.
pub fn echoes(client: &Namespace, service: &str, rate: u32, stop: &AtomicBool) -> Result<Echoes> {
    let service: SocketAddr = service.parse()?;
    let any = if service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = client.enter(|| UdpSocket::bind(any))??;
    socket.connect(service)?;
    socket.set_read_timeout(Some(Duration::from_micros(200)))?;
    let interval = Duration::from_secs(1) / rate;
    let mut echoes = Echoes::default();
    let mut waiting: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut next = Instant::now();
    let (mut last, mut turn) = (next, next);
    let mut buffer = [0; 256];
    loop {
        let now = Instant::now();
        // Time in which this thread did not run is nobody's delay.
        let stall = now.duration_since(turn);
        if stall > STALL {
            waiting.iter_mut().for_each(|(_, sent)| *sent += stall);
            last += stall;
        }
        turn = now;
        let stopped = stop.load(Ordering::Relaxed);
        if stopped && waiting.is_empty() {
            return Ok(echoes);
        }
        let full = waiting
            .len()
            .checked_sub(UNDER_WAY)
            .and_then(|oldest| waiting.get(oldest))
            .is_some_and(|(_, sent)| now.duration_since(*sent) < LATE);
        if !stopped && now >= next && !full {
            match socket.send(&datagram(echoes.sent)) {
                // ICMP's answer to an earlier one: this one was not sent.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                sent => sent.context("send")?,
            };
            waiting.push_back((echoes.sent, now));
            echoes.sent += 1;
            // A pause is not made up for.
            next = (next + interval).max(now - interval * 4);
            continue;
        }
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let got = buffer.get(..length).unwrap_or_default();
                let number = got.first_chunk().copied().map_or(u64::MAX, u64::from_be_bytes);
                ensure!(got == datagram(number), "an echo that is not what was sent: {got:?}");
                if let Some(at) = waiting.iter().position(|(sent, _)| *sent == number) {
                    waiting.remove(at);
                    echoes.received += 1;
                    echoes.gap = echoes.gap.max(now.duration_since(last));
                    last = now;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // ICMP's answer to an earlier one.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("recv"),
        }
        while waiting.front().is_some_and(|(_, sent)| now.duration_since(*sent) > LOST) {
            waiting.pop_front();
        }
    }
}

fn datagram(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(32 + (number % 64) as usize, number as u8);
    bytes
}

/// Runs `work` while a stream goes on; waits until the stream flows before, and that it does for a moment after.
pub fn during<T>(
    client: &Namespace,
    service: &str,
    rate: u32,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Echoes)> {
    /// Ends the stream also when `work` panics.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guard = Stop(&stop);
        let stream = scope.spawn(|| echoes(client, service, rate, &stop));
        std::thread::sleep(Duration::from_millis(300));
        let done = work();
        std::thread::sleep(Duration::from_millis(300));
        drop(guard);
        let echoes = stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((done?, echoes))
    })
}
