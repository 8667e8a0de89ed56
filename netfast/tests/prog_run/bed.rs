//! The bed that scenarios run in: one sandbox for all of them, since loading the programs takes seconds. It belongs to a
//! thread of its own, which runs one scenario after the other, each from the beginning.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netfast::{
    config,
    datapath::{
        TableSizes,
        sandbox::{Ran, SMALL_TABLES, Sandbox, mac_of},
    },
};
use netfast_common::{Reason, Verdict, abi::NextHop};

use crate::{
    checksums::{self, Sum},
    frames::{Frame, Mac},
    judge::{broken, is_answer, wrong},
};

/// Interface and MAC address towards the clients.
pub const CLIENT_SIDE: (u32, Mac) = (10, [0x02, 0x6e, 0x66, 0, 0, 10]);
/// Interface and MAC address towards the targets.
pub const TARGET_SIDE: (u32, Mac) = (11, [0x02, 0x6e, 0x66, 0, 0, 11]);
/// An interface that the agent has not announced.
pub const UNKNOWN_SIDE: u32 = 12;

/// What a scenario is given.
pub struct Bed {
    pub sandbox: Sandbox,
    /// Every frame that left (tx, redirect) in this scenario.
    pub left: Vec<Vec<u8>>,
}

/// A scenario.
pub type Scenario = fn(&mut Bed);

/// A table's row: what it is about, the frame, verdict, reason. A frame that is passed must be unchanged.
pub type Case = (&'static str, Vec<u8>, Verdict, Reason);

type Outcome = Result<Vec<Vec<u8>>, String>;
type Job = (Scenario, Sender<Outcome>);

/// Name of the thread that has the bed.
const WORKER: &str = "bed";

/// What the scenario that failed last has said, and where. The test harness would show it with the test that made the bed,
/// which is another one and mostly over.
static SAID: Mutex<String> = Mutex::new(String::new());

/// Has what a scenario says when it fails kept in [`SAID`].
fn listen() {
    let usual = take_hook();
    set_hook(Box::new(move |info| {
        if thread::current().name() == Some(WORKER) {
            *SAID.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
        } else {
            usual(info);
        }
    }));
}

/// Runs a scenario; returns the frames that left.
pub fn run(scenario: Scenario) -> Vec<Vec<u8>> {
    static JOBS: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, queue) = channel::<Job>();
        listen();
        let work = move || {
            let mut bed = Bed::with(SMALL_TABLES);
            for (scenario, answer) in queue {
                bed.left.clear();
                bed.sandbox.reset().unwrap();
                let result = catch_unwind(AssertUnwindSafe(|| scenario(&mut bed)));
                let said = |_| SAID.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = answer.send(result.map(|()| std::mem::take(&mut bed.left)).map_err(said));
            }
        };
        thread::Builder::new().name(WORKER.to_owned()).spawn(work).unwrap();
        Mutex::new(sender)
    });
    let (sender, answer) = channel();
    jobs.lock().unwrap().send((scenario, sender)).unwrap();
    match answer.recv() {
        Ok(Ok(left)) => left,
        Ok(Err(said)) => panic!("{said}"),
        Err(_) => panic!("no bed: {}", SAID.lock().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Declares scenarios: tests, and a list of them all.
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        pub const SCENARIOS: &[(&str, $crate::bed::Scenario)] = &[$((stringify!($name), $name),)+];

        mod tests {
            $(#[test] fn $name() { $crate::bed::run(super::$name); })+
        }
    };
}
pub(crate) use scenarios;

impl Bed {
    /// A bed of its own, for the thread that asks.
    pub fn with(tables: TableSizes) -> Self {
        let mut sandbox = Sandbox::enter(tables).unwrap();
        sandbox.add_interface("nf-client", CLIENT_SIDE.0, CLIENT_SIDE.1).unwrap();
        sandbox.add_interface("nf-target", TARGET_SIDE.0, TARGET_SIDE.1).unwrap();
        sandbox.ip(&format!("link add nf-unknown index {UNKNOWN_SIDE} type veth peer name p12")).unwrap();
        Self { sandbox, left: Vec::new() }
    }

    /// Publishes rules, written as in `rules.toml`.
    #[track_caller]
    pub fn rules(&mut self, text: &str) {
        let rules = match config::rules::parse("rules.toml", text) {
            Ok(rules) => rules,
            Err(report) => panic!("{report}"),
        };
        self.sandbox.publish(&rules).unwrap();
    }

    /// Runs a frame and holds it to what is true of every frame.
    #[track_caller]
    pub fn run(&mut self, what: &str, on: u32, frame: &[u8]) -> Ran {
        let ran = self.sandbox.run(on, frame).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(ran.verdict().is_some(), "{what}: returned {}", ran.action);
        assert!(ran.reason().is_some(), "{what}: {:?}, counted {:?}", ran.verdict(), ran.counted);
        match ran.verdict() {
            Some(Verdict::Pass) => assert_eq!(frame, ran.frame, "{what}: passed, but changed"),
            Some(Verdict::Transmit | Verdict::Redirect) => {
                let sums = checksums::of(&ran.frame);
                if ran.reason().is_some_and(is_answer) {
                    assert_eq!(None, wrong(sums), "{what}: an answer");
                    self.left.push(ran.frame.clone());
                    return ran;
                }
                assert_ne!(Sum::Wrong, sums.network, "{what}: IPv4 header checksum");
                assert_ne!(Sum::Wrong, sums.transport, "{what}: transport checksum");
                assert_eq!(None, broken(checksums::of(frame), sums), "{what}");
                self.left.push(ran.frame.clone());
            }
            _ => {}
        }
        ran
    }

    /// Runs a frame that need not be IP, or whose answer is none of IP: ARP, neighbour discovery.
    #[track_caller]
    pub fn run_raw(&mut self, on: u32, frame: &[u8]) -> Ran {
        self.sandbox.run(on, frame).unwrap()
    }

    /// Runs a frame that came in by the clients' side and expects a verdict and a reason.
    #[track_caller]
    pub fn expect(&mut self, what: &str, frame: &Frame, verdict: Verdict, reason: Reason) {
        self.expect_on(what, CLIENT_SIDE.0, &frame.bytes(), verdict, reason);
    }

    #[track_caller]
    pub fn expect_on(&mut self, what: &str, on: u32, frame: &[u8], verdict: Verdict, reason: Reason) {
        let ran = self.run(what, on, frame);
        assert_eq!((Some(verdict), Some(reason)), (ran.verdict(), ran.reason()), "{what}");
    }

    /// Runs a table of frames on the clients' side. All rows that fail are named.
    #[track_caller]
    pub fn table(&mut self, cases: &[Case]) {
        let mut failed = Vec::new();
        for (what, frame, verdict, reason) in cases {
            let ran = self.run(what, CLIENT_SIDE.0, frame);
            if (Some(*verdict), Some(*reason)) != (ran.verdict(), ran.reason()) {
                let got = ran.counted;
                failed.push(format!("{what}: {verdict:?} {reason:?} expected, got {got:?}"));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    /// Runs a frame and expects that it leaves as `out`.
    #[track_caller]
    pub fn leaves(
        &mut self,
        what: &str,
        on: u32,
        frame: &Frame,
        verdict: Verdict,
        reason: Reason,
        out: &Frame,
    ) {
        let ran = self.run(what, on, &frame.bytes());
        assert_eq!((Some(verdict), Some(reason)), (ran.verdict(), ran.reason()), "{what}");
        assert_eq!(out.bytes(), ran.frame, "{what}: {out:?} expected");
    }

    /// Expects that a client's frame is forwarded to `target` with the host's own source address, and returns it as it
    /// left, with the source port that it was given.
    #[track_caller]
    pub fn nat(&mut self, what: &str, frame: &Frame, target: &str) -> Frame {
        let target: SocketAddr = target.parse().unwrap();
        let ran = self.run(what, CLIENT_SIDE.0, &frame.bytes());
        assert_eq!(
            (Some(Verdict::Redirect), Some(Reason::Forwarded)),
            (ran.verdict(), ran.reason()),
            "{what}"
        );
        let own = if target.is_ipv4() { "10.0.0.1" } else { "fd00::1" };
        let source = SocketAddr::new(own.parse().unwrap(), source_port(&ran.frame));
        let out = frame.forwarded(TARGET_SIDE.1, mac_of(target.ip()), source, target);
        assert_eq!(out.bytes(), ran.frame, "{what}: {out:?} expected");
        out
    }

    /// Expects that a target's answer to `out`, which was `frame` when the client sent it, gets to the client.
    #[track_caller]
    pub fn replied(&mut self, what: &str, frame: &Frame, reply: &Frame) {
        let expected = reply.forwarded(CLIENT_SIDE.1, frame.from, frame.destination, frame.source);
        self.leaves(what, TARGET_SIDE.0, reply, Verdict::Redirect, Reason::Reply, &expected);
    }

    /// Opens a TCP connection to a forward in mode `nat` up to its first data; returns the client's data packet as it
    /// was sent and as it left.
    #[track_caller]
    pub fn connect(&mut self, source: &str, service: &str, target: &str) -> (Frame, Frame) {
        use netfast_common::wire::{ACK, SYN};
        let syn = crate::frames::tcp(source, service, SYN);
        let out = self.nat("SYN", &syn, target);
        self.replied("SYN ACK", &syn, &out.answer().flags(SYN | ACK));
        let data = crate::frames::tcp(source, service, ACK);
        let sent = self.nat("ACK", &data, target);
        assert_eq!(out.source, sent.source, "the source port stays");
        (data, sent)
    }

    /// The next hop of a target, to be changed.
    pub fn way(&self, target: &str) -> NextHop {
        self.sandbox.default_way(target.parse().unwrap())
    }
}

/// The source port of a TCP or UDP frame, as etherparse sees it.
pub fn source_port(frame: &[u8]) -> u16 {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    assert!(matches!(packet.net, Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_))));
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => udp.source_port(),
        Some(TransportSlice::Tcp(tcp)) => tcp.source_port(),
        other => panic!("no ports: {other:?}"),
    }
}
