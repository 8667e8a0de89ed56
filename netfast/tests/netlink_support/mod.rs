//! Two namespaces joined by a veth pair, and the tables as the standard library would hold them.

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netfast::netlink::{HopTable, HopTableError, Netlink};
use netfast::rules::images::HostView;
use netfast_common::abi;

pub const SECOND: Duration = Duration::from_secs(1);

/// A network namespace, gone when dropped.
pub struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nf-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).status().unwrap();
        assert!(made.success(), "ip netns add {name}");
        let namespace = Self(name);
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `ip` in it; returns what it printed.
    pub fn ip(&self, arguments: &str) -> String {
        let output =
            Command::new("ip").args(["-n", &self.0]).args(arguments.split_whitespace()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip -n {} {arguments}: {error}", self.0);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `ip` in it; returns whether it succeeded.
    pub fn can(&self, arguments: &str) -> bool {
        let output = Command::new("ip").args(["-n", &self.0]).args(arguments.split_whitespace()).output();
        output.unwrap().status.success()
    }

    /// Runs a batch of `ip` commands in it.
    pub fn ip_batch(&self, lines: &str) {
        let mut child =
            Command::new("ip").args(["-n", &self.0, "-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Sets a sysctl in it, from a thread that enters it.
    fn sysctl(&self, path: &str, value: &str) {
        let (name, path, value) = (self.0.clone(), path.to_owned(), value.to_owned());
        std::thread::spawn(move || {
            enter(&name);
            std::fs::write(format!("/proc/sys/{path}"), value).unwrap();
        })
        .join()
        .unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Moves the calling thread into a namespace.
fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

/// The maps.
#[derive(Default)]
pub struct Maps {
    entries: Mutex<HashMap<u16, Vec<abi::NextHop>>>,
    keys: Mutex<HashMap<abi::HopKey, u32>>,
}

impl HopTable for Maps {
    fn write(&self, index: u16, hop: &abi::NextHop) {
        self.entries.lock().unwrap().entry(index).or_default().push(*hop);
    }
    fn insert_key(&self, key: &abi::HopKey, index: u32) -> Result<u32, HopTableError> {
        Ok(*self.keys.lock().unwrap().entry(*key).or_insert(index))
    }
    fn remove_key(&self, key: &abi::HopKey) {
        self.keys.lock().unwrap().remove(key);
    }
    fn free(&self, _index: u16) {}
}

impl Maps {
    /// An entry as it stands.
    pub fn entry(&self, index: u16) -> abi::NextHop {
        self.writes(index).last().copied().unwrap_or_default()
    }

    /// Everything ever written at an index.
    pub fn writes(&self, index: u16) -> Vec<abi::NextHop> {
        self.entries.lock().unwrap().get(&index).cloned().unwrap_or_default()
    }

    pub fn valid(&self, index: u16) -> bool {
        self.entry(index).is_valid()
    }

    pub fn index_of(&self, key: &abi::HopKey) -> Option<u32> {
        self.keys.lock().unwrap().get(key).copied()
    }

    pub fn keys(&self) -> Vec<(abi::HopKey, u32)> {
        self.keys.lock().unwrap().iter().map(|(key, index)| (*key, *index)).collect()
    }
}

/// `h0` (10.66.0.1/24, fd66::1/64) in `host`, where the netlink task runs, and `t0` (.2, ::2) in `peer`.
pub struct Bench {
    pub netlink: Netlink,
    pub maps: Arc<Maps>,
    pub host: Namespace,
    pub peer: Namespace,
}

impl Bench {
    /// Resolves a target and returns its next hop, which must be valid.
    pub async fn resolved(&self, target: &str) -> u16 {
        let target = ip_address(target);
        let deadline = Instant::now() + 10 * SECOND;
        loop {
            let view = self.netlink.resolve_targets(&[target]).await.unwrap();
            if let Some(route) = view.route(target).filter(|route| self.maps.valid(route.next_hop)) {
                return route.next_hop;
            }
            assert!(Instant::now() < deadline, "{target}: {:?}", view.problem(target));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a condition.
    pub async fn until(&self, limit: Duration, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + limit;
        while !condition() {
            assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Another netlink task over the same maps.
    pub async fn again(&self) -> Netlink {
        Netlink::start(self.maps.clone()).await.unwrap()
    }

    pub fn ifindex(&self, link: &str) -> u32 {
        let shown = self.host.ip(&format!("-o link show dev {link}"));
        shown.split(':').next().unwrap().parse().unwrap()
    }

    pub fn own_mac(&self) -> [u8; 6] {
        mac(&self.host.ip("-o link show dev h0"))
    }

    pub fn peer_mac(&self) -> [u8; 6] {
        mac(&self.peer.ip("-o link show dev t0"))
    }
}

fn mac(shown: &str) -> [u8; 6] {
    let text = shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

pub fn ip_address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs a test in a thread of its own inside the host's namespace.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<Bench>) -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root (namespaces)");
        return;
    }
    let host = Namespace::new();
    let peer = Namespace::new();
    host.ip(&format!("link add h0 type veth peer name t0 netns {}", peer.0));
    for (namespace, link, number) in [(&host, "h0", 1), (&peer, "t0", 2)] {
        namespace.sysctl(&format!("net/ipv6/conf/{link}/accept_dad"), "0");
        namespace.ip(&format!("addr add 10.66.0.{number}/24 dev {link}"));
        namespace.ip(&format!("-6 addr add fd66::{number}/64 dev {link} nodad"));
        namespace.ip(&format!("link set {link} up"));
    }
    // A changed MAC address is announced at once.
    peer.sysctl("net/ipv4/conf/t0/arp_notify", "1");
    let result = std::thread::spawn(move || {
        enter(&host.0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let maps = Arc::new(Maps::default());
            let netlink = Netlink::start(maps.clone()).await.unwrap();
            let bench = Rc::new(Bench { netlink, maps, host, peer });
            bench
                .until(5 * SECOND, "h0 up", || {
                    bench.netlink.host().by_name("h0").is_some_and(netfast::netlink::Link::usable)
                })
                .await;
            test(bench).await;
        });
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
