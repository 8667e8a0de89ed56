//! Clients in a VLAN, on a kernel that need not have VLAN devices: netfast answers with the tag that they came with. (With VLAN
//! devices, and between VLANs, `cargo xtask kernels` does it on Debian's kernels.)

use anyhow::Result;

use crate::{
    peers::{self, need},
    stream::during,
    tags::Tagged,
    world::{CLIENT, SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// Moves the client into a VLAN, of which the host's kernel knows nothing.
fn into_vlan(world: &World, vlan: u16) -> Result<Tagged> {
    let tagged = Tagged::new(&world.client, "eth0", vlan)?;
    let mac = world.host.mac("wan0")?.map(|byte| format!("{byte:02x}")).join(":");
    for gateway in ["198.51.100.1", "2001:db8:ff::1"] {
        // The host's kernel does not hear the question for its address.
        let line = ["neighbour", "replace", gateway, "lladdr", &mac, "dev", "eth0", "nud", "permanent"];
        world.client.ip(&line)?;
    }
    // Nor has it a route to that network: the way back is where the client's frames come from.
    for address in ["198.51.100.1/24", "2001:db8:ff::1/64"] {
        world.host.ip(&["address", "delete", address, "dev", "wan0"])?;
    }
    Ok(tagged)
}

#[test]
fn clients_in_a_vlan() -> Result<()> {
    need!("nginx", "curl", "ping", "python3");
    let mut world = World::new("vlan")?.web()?;
    world.udp_echo(0, "::", 5300)?;
    let _tagged = into_vlan(&world, 5)?;
    let hash = world.bulk()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{}]:8080", TARGETS6[0]))?;
    world.netfast(&format!("forward add up tcp [{SERVICE6}]:81 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add down tcp {SERVICE}:81 --to [{}]:8080", TARGETS6[0]))?;
    world.netfast(&format!("forward add udp udp {SERVICE}:53 --to {}:5300", TARGETS[0]))?;
    world.netfast(&format!("echo add {SERVICE}:7 --allow {CLIENT}/32 --rate 100000"))?;
    // Control: the tags are there, so that the host's own kernel does not answer.
    assert!(world.client.run(&["ping", "-c", "1", "-W", "1", SERVICE]).is_err());
    for service in [SERVICE.to_owned(), format!("[{SERVICE6}]")] {
        for port in [80, 81] {
            assert!(world.curl(&format!("http://{service}:{port}/"))?.starts_with("target1"));
            let down = world.bed.dir().join("down");
            let line =
                format!("curl -sSf -g --max-time 60 -o {} http://{service}:{port}/bulk", down.display());
            world.client.run(&line.split(' ').collect::<Vec<_>>())?;
            assert_eq!(hash, peers::hash(&down)?, "downloaded by {service}:{port}");
        }
    }
    for port in [53, 7] {
        let second = || {
            std::thread::sleep(std::time::Duration::from_secs(1));
            Ok(())
        };
        let ((), echoes) = during(&world.client, &format!("{SERVICE}:{port}"), 200, second)?;
        assert!(echoes.sent > 50 && echoes.lost() == 0, "port {port}: {echoes:?}");
    }
    world.sound()
}
