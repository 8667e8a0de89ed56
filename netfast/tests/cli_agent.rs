//! Every verb of the command line against a real agent and real traffic, in namespaces.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../../xtask/src/netns.rs"]
mod netns;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    thread,
    time::Duration,
};

use netns::{Namespace, Process, Testbed, wait_for};
use serde_json::Value;

const NETFAST: &str = env!("CARGO_BIN_EXE_netfast");

/// A client, a host with netfast, a target; and an agent.
struct World {
    agent: Option<Process>,
    client: Namespace,
    host: Namespace,
    target: Namespace,
    dir: PathBuf,
    bpffs: PathBuf,
    _bed: Testbed,
}

impl World {
    fn new() -> Self {
        let bed = Testbed::new("cli").unwrap();
        let [client, host, target] = ["client", "host", "target"].map(|role| bed.namespace(role).unwrap());
        bed.veth((&client, "eth0"), (&host, "wan")).unwrap();
        bed.veth((&target, "eth0"), (&host, "lan")).unwrap();
        client.address("eth0", "198.51.100.2/24").unwrap();
        host.address("wan", "198.51.100.1/24").unwrap();
        host.address("wan", "192.0.2.10/32").unwrap();
        host.address("lan", "10.0.0.1/24").unwrap();
        target.address("eth0", "10.0.0.2/24").unwrap();
        client.route("default via 198.51.100.1").unwrap();
        target.route("default via 10.0.0.1").unwrap();
        host.forwarding().unwrap();
        for end in [&client, &target] {
            end.offloads_off("eth0").unwrap();
            end.xdp_pass("eth0").unwrap();
        }
        let (dir, bpffs) = (bed.dir().to_owned(), bed.bpffs().unwrap());
        Self { agent: None, client, host, target, dir, bpffs, _bed: bed }
    }

    /// Starts an agent with this at the top of its configuration.
    fn start(&mut self, top: &str) {
        let (dir, bpffs) = (self.dir.display(), self.bpffs.display());
        let config = format!(
            "{top}\n[agent]\nstate_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\nsocket_group = \"root\"\n\
             bpffs = \"{bpffs}\"\n[metrics]\nenabled = false\n\
             [tables]\nflows = 4096\nhalf_open = 1024\ncache4_sets = 256\ncache6_sets = 256\nfilter_rules = 1024\n"
        );
        let file = self.dir.join("agent.toml");
        fs::write(&file, config).unwrap();
        let mut command = self.host.command(NETFAST);
        let mut agent = self.host.spawn("agent", command.args(["agent", "--config"]).arg(file)).unwrap();
        agent
            .wait_ready(Duration::from_secs(60), || {
                Ok((self.run("version -o json").json()["agent"].is_object()).then_some(()))
            })
            .unwrap();
        self.agent = Some(agent);
    }

    fn run(&self, line: &str) -> Ran {
        let mut command = self.host.command(NETFAST);
        command.env("NETFAST_SOCKET", self.dir.join("run/netfast.sock")).env_remove("NO_COLOR");
        let output = command.args(line.split_whitespace()).output().unwrap();
        Ran {
            line: line.to_owned(),
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

#[derive(Debug)]
struct Ran {
    #[expect(dead_code, reason = "for whoever reads of a failure")]
    line: String,
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(code, self.code, "{self:?}");
        self
    }

    /// Ended well and printed just this.
    #[track_caller]
    fn prints(self, out: &str) {
        assert_eq!((0, out), (self.code, self.out.as_str()), "{self:?}");
    }

    #[track_caller]
    fn says(self, part: &str) -> Self {
        assert!(self.out.contains(part) || self.err.contains(part), "{part:?} is not in {self:?}");
        self
    }

    #[track_caller]
    fn json(self) -> Value {
        assert_eq!(0, self.code, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A TCP server that says "hello" and a UDP server that says it back, at the target.
fn serve(target: &Namespace) {
    let (tcp, udp) = target
        .enter(|| (TcpListener::bind("10.0.0.2:8080").unwrap(), UdpSocket::bind("10.0.0.2:53").unwrap()))
        .unwrap();
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in tcp.incoming().flatten() {
            stream.write_all(b"hello").unwrap();
            open.push(stream);
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((size, from)) = udp.recv_from(&mut buffer) {
            udp.send_to(&buffer[..size], from).unwrap();
        }
    });
}

/// One UDP question; whether an answer came.
fn ask(client: &Namespace, to: &str) -> bool {
    let socket = client.enter(|| UdpSocket::bind("198.51.100.2:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.send_to(b"question", to).unwrap();
    socket.recv(&mut [0; 100]).is_ok()
}

#[test]
fn every_verb_works_with_a_real_agent() {
    if !nix::unistd::getuid().is_root() {
        println!("skipped: namespaces need root");
        return;
    }
    let mut world = World::new();
    world.run("status").ends(6).says("no socket at");
    world.start("");
    let world = &mut world;

    // Nothing yet.
    world.run("status").ends(0).says("attach one: netfast attach eth0");
    world.run("forward list").ends(0).says("no forwards; add one");
    world.run("stats").ends(0).says("nothing counted yet");
    world.run("export").prints("# netfast rules, revision 0\n\n");

    // Interfaces.
    world.run("attach nosuch").ends(4).says("there is no interface nosuch");
    world.run("attach wan lan").ends(0).says("wan: native mode, driver veth").says("interface lan attached");
    world.run("attach wan").ends(0).says("interface wan unchanged");

    // Forwards and targets.
    let add = "forward add web tcp 192.0.2.10:80 --to 10.0.0.2:8080 --to 10.0.0.3:8080,weight=2";
    world.run(&format!("{add} --dry-run")).prints("forward web would be created (dry run)\n");
    world.run(add).ends(0).says("forward web created (revision ");
    world.run(add).ends(5).says("exists already");
    world.run(&format!("{add} --if-not-exists")).ends(0).says("forward web unchanged");
    world.run("target set web 10.0.0.3:8080 --weight 3").ends(0).says("target web/10.0.0.3:8080 changed");
    world.run("target delete web 10.0.0.3:8080").ends(0).says("target web/10.0.0.3:8080 deleted");
    world.run("target delete web 10.0.0.3:8080").ends(4);
    world.run("target list web").ends(0).says("10.0.0.2:8080");
    world.run("forward add dns udp 192.0.2.10:53 --to 10.0.0.2:53 --mode dnat --comment names").ends(0);
    world.run("forward add games udp 192.0.2.10:27000-27099 --to 10.0.0.2:27000-27099").ends(0);
    world
        .run("forward set games udp 192.0.2.10:27000-27009 --to 10.0.0.2:27000")
        .ends(0)
        .says("games changed");
    world.run("forward add clash tcp 192.0.2.10:80 --to 10.0.0.2:1").ends(3).says("\"web\"");
    world.run("forward add x tcp 192.0.2.10:81 --to 10.0.0.2:1 --if-revision 1").ends(5);
    world.run("forward delete games nosuch").ends(4);
    world.run("forward delete games").ends(0).says("forward games deleted");
    world.run("forward list").ends(0).says("192.0.2.10:53").says("names");

    // Echo and filter.
    world.run("echo add 192.0.2.10:7 --allow 198.51.100.0/24 --rate 100").ends(0);
    world.run("echo list").ends(0).says("198.51.100.0/24");
    world.run("filter add drop --name late --proto udp --dport 9").ends(0).says("filter late created");
    world.run("filter insert 1 allow --src 10.0.0.0/24").ends(0).says("filter 1 created");
    world.run("filter move late 1").ends(0).says("filter late changed");
    world.run("filter list").ends(0).says("1  drop    proto udp dport 9  late");

    // Traffic, and what is told of it.
    serve(&world.target);
    let mut streams: Vec<TcpStream> = (0..3)
        .map(|_| world.client.enter(|| TcpStream::connect("192.0.2.10:80").unwrap()).unwrap())
        .collect();
    for stream in &mut streams {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    assert!(ask(&world.client, "192.0.2.10:53"));
    assert!(ask(&world.client, "192.0.2.10:7"));
    assert!(!ask(&world.client, "192.0.2.10:9"));
    world.run("flows count").prints("4\n");
    world.run("flows count --forward web --state established").prints("3\n");
    world.run("flows count --client 198.51.100.3").prints("0\n");
    let client = streams[0].local_addr().unwrap();
    let flows = world.run(&format!("flows list -o json --client {client}")).json();
    assert_eq!(
        (1, "web"),
        (flows["count"].as_u64().unwrap(), flows["flows"][0]["forward"].as_str().unwrap())
    );
    assert_eq!("10.0.0.2:8080", flows["flows"][0]["target"]);
    world.run(&format!("flows show --client {client} --proto tcp")).ends(0).says("state       established");
    world.run("flows list -o wide --limit 2").ends(0).says("2 of 4 flows shown");
    world.run("flows show --target 10.0.0.9").ends(4);
    let stats = world.run("stats -o json").json();
    assert_eq!(1, stats["echoes"][0]["packets"].as_u64().unwrap(), "{stats}");
    assert_eq!(1, stats["filters"][0]["packets"].as_u64().unwrap(), "{stats}");
    assert_eq!(3, stats["forwards"][0]["flows_total"].as_u64().unwrap(), "{stats}");
    world.run("stats").ends(0).says("filter_drop").says("echoed");
    world.run("stats interfaces -o wide").ends(0).says("dropped by a filter rule");
    world.run("stats --watch 100ms --count 2").ends(0).says("PKT/S>TARGET");
    world.run("filter list -o wide").ends(0).says("1  drop          1");
    // Numbers of flows are as of the last sweep.
    wait_for("the sweep", Duration::from_secs(30), || {
        let flows = world.run("status -o json").json()["flows"].as_u64();
        Ok((flows == Some(4)).then_some(()))
    })
    .unwrap();
    world.run("forward show web").ends(0).says("flows       3 now, 3 since it exists");
    world.run("status --brief").ends(0).says("ready: revision ").says("2 interfaces, 2 forwards, 4 flows");
    world.run("flows flush --forward dns").prints("1 flow ended\n");
    world.run("flows count").prints("3\n");

    // Files.
    let exported = world.run("export").ends(0).out;
    let file = world.file("rules.toml", &exported);
    world.run(&format!("check {file}")).ends(0);
    world.run(&format!("diff -f {file}")).ends(0).says("no difference");
    world.run(&format!("apply --prune -f {file}")).ends(0).says("unchanged");
    let changed = world.file("changed.toml", &exported.replace("names", "other names"));
    world.run(&format!("diff -f {changed}")).ends(1).says("+comment = \"other names\"");
    world.run(&format!("apply -f {changed}")).ends(0).says("forward dns changed");
    world.run(&format!("diff -f {changed}")).ends(0);
    let filters = world
        .file("filters.toml", "[[filter]]\naction = \"drop\"\nname = \"only\"\nsrc = \"203.0.113.0/24\"\n");
    world
        .run(&format!("filter load {filters}"))
        .ends(0)
        .says("filter only created")
        .says("filter late deleted");
    world.run("filter delete only").prints(&format!("filter only deleted (revision {})\n", revision(world)));
    world.run("echo delete 192.0.2.10:7").ends(0).says("echo 192.0.2.10:7 deleted");

    // One agent at a time.
    let config = world.dir.join("agent.toml");
    let second = world.host.command(NETFAST).args(["agent", "--config"]).arg(&config).output().unwrap();
    assert_eq!(Some(5), second.status.code(), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("already running"), "{second:?}");

    // A stop leaves the traffic running, and what comes after takes over.
    let before = revision(world);
    world.run("stop").ends(0).says("traffic goes on");
    assert!(world.agent.take().unwrap().wait(Duration::from_secs(10)).unwrap().success());
    assert!(ask(&world.client, "192.0.2.10:53"), "without an agent");
    world.run("status").ends(6);
    world.start("");
    assert_eq!(before, revision(world));
    world.run("flows count --forward web").prints("3\n");
    world.run("detach lan").ends(0).says("interface lan detached");
    world.run("status").ends(0);
    world.run("stop --detach").ends(0).says("detached from every interface");
    assert!(world.agent.take().unwrap().wait(Duration::from_secs(10)).unwrap().success());
    let link = world.host.ip(&["-details", "link", "show", "wan"]).unwrap();
    assert!(!link.contains("xdp"), "{link}");

    // With a rules file the file is the truth.
    world.start(&format!("rules_file = \"{file}\""));
    for line in
        ["forward delete web", "filter flush", &format!("apply -f {file}"), "echo delete 192.0.2.10:7"]
    {
        world.run(line).ends(3).says("rules.toml");
    }
    world.run("attach lan").ends(0).says("interface lan attached");
    world.run("forward list").ends(0).says("web");
    world.run(&format!("diff -f {file}")).ends(0);
    world.run("stop --detach").ends(0);
}

/// The revision that the agent tells.
fn revision(world: &World) -> u64 {
    world.run("export -o json").json()["revision"].as_u64().unwrap()
}
