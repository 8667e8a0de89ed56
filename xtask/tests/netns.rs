//! The test bed itself.

#[path = "../src/netns.rs"]
mod netns;

use std::{net::UdpSocket, path::Path, process::Command, time::Duration};

use netns::Testbed;

#[test]
fn everything_goes_with_the_bed() {
    let bed = Testbed::new("bedtest").unwrap();
    let (a, b) = (bed.namespace("a").unwrap(), bed.namespace("b").unwrap());
    bed.veth((&a, "eth0"), (&b, "eth1")).unwrap();
    a.address("eth0", "192.0.2.1/24").unwrap();
    b.address("eth1", "192.0.2.2/24").unwrap();
    a.address("eth0", "2001:db8::1/64").unwrap();
    b.address("eth1", "2001:db8::2/64").unwrap();
    b.xdp_pass("eth1").unwrap();
    assert!(b.ip(&["link", "show", "eth1"]).unwrap().contains("xdp"), "native mode");
    assert_eq!(6, a.mac("eth0").unwrap().len());
    a.sysctl("net.ipv4.conf.eth0.forwarding", "1").unwrap();
    assert_eq!("1\n", a.run(&["cat", "/proc/sys/net/ipv4/conf/eth0/forwarding"]).unwrap());

    for (client, server) in [("192.0.2.1:0", "192.0.2.2:7"), ("[2001:db8::1]:0", "[2001:db8::2]:7")] {
        let here = a.enter(|| UdpSocket::bind(client)).unwrap().unwrap();
        let there = b.enter(|| UdpSocket::bind(server)).unwrap().unwrap();
        there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        here.send_to(b"hello", server).unwrap();
        assert_eq!(5, there.recv(&mut [0; 16]).unwrap());
    }

    let (bpffs, dir) = (bed.bpffs().unwrap(), bed.dir().to_owned());
    let mounted = || std::fs::read_to_string("/proc/self/mounts").unwrap().contains(bpffs.to_str().unwrap());
    assert!(mounted());
    let sleeper = b.spawn("sleep", b.command("sleep").arg("1000")).unwrap();
    let pid = sleeper.pid();
    sleeper.detach();
    drop(bed);
    assert!(!mounted() && !dir.exists() && !a.path().exists() && !b.path().exists());
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[test]
fn a_dead_process_leaves_nothing_for_long() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let name = format!("nf-bedsweep-{}-0-left", child.id());
    assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    drop(Testbed::new("bedsweep").unwrap());
    assert!(!Path::new("/run/netns").join(name).exists());
}

#[test]
fn an_interrupt_cleans_up() {
    // Runs itself again as a child, which makes a bed and is then interrupted.
    if std::env::var_os("NETFAST_BED_CHILD").is_some() {
        let bed = Testbed::new("bedint").unwrap();
        let namespace = bed.namespace("x").unwrap();
        std::fs::write(std::env::var_os("NETFAST_BED_CHILD").unwrap(), namespace.name()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }
    let file = std::env::temp_dir().join(format!("nf-bedint-name-{}", std::process::id()));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_interrupt_cleans_up"])
        .env("NETFAST_BED_CHILD", &file)
        .spawn()
        .unwrap();
    let name = netns::wait_for("the child's namespace", Duration::from_secs(10), || {
        Ok(std::fs::read_to_string(&file).ok().filter(|name| !name.is_empty()))
    })
    .unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(Path::new("/run/netns").join(&name).exists());
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(Some(128 + 15), child.wait().unwrap().code());
    assert!(!Path::new("/run/netns").join(&name).exists());
}
