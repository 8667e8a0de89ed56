//! Jumbo frames: all links with an MTU of 9000, frames in several buffers.

use anyhow::{Result, ensure};

use crate::{
    peers::{self, need},
    world::{CONFIG, SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// Raises the MTU of every link.
fn widen(world: &World) -> Result<()> {
    for namespace in [&world.client, &world.targets[0], &world.targets[1]] {
        namespace.ip(&["link", "set", "dev", "eth0", "mtu", "9000"])?;
    }
    for device in ["wan0", "lan1", "lan2"] {
        world.host.ip(&["link", "set", "dev", device, "mtu", "9000"])?;
    }
    Ok(())
}

/// Both ways, both IP versions, compared by hash. The packets of the bulk direction must be larger than two pages on average.
fn transfers(world: &World) -> Result<()> {
    let hash = world.bulk()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{}]:8080", TARGETS6[1]))?;
    let counted = || -> Result<[(u64, u64); 2]> {
        let forwards = world.agent.stats()?.forwards;
        let sum = |pick: fn(&netfast::api::types::ForwardCount) -> netfast::api::types::Count| {
            forwards.iter().map(pick).fold((0, 0), |(p, b), count| (p + count.packets, b + count.bytes))
        };
        Ok([sum(|f| f.to_target), sum(|f| f.to_client)])
    };
    for (service, target) in [(SERVICE.to_owned(), "target1"), (format!("[{SERVICE6}]"), "target2")] {
        for way in [0, 1] {
            let before = counted()?[way];
            let file = if way == 0 {
                let up = world.bulk_file();
                let line = format!("curl -sSf -g --max-time 60 -T {} http://{service}/put/up", up.display());
                world.client.run(&line.split(' ').collect::<Vec<_>>())?;
                world.bed.dir().join(target).join("put/up")
            } else {
                let down = world.bed.dir().join("down");
                let line = format!("curl -sSf -g --max-time 60 -o {} http://{service}/bulk", down.display());
                world.client.run(&line.split(' ').collect::<Vec<_>>())?;
                down
            };
            assert_eq!(hash, peers::hash(&file)?, "{service}, way {way}");
            std::fs::remove_file(file)?;
            let after = counted()?[way];
            let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
            // Three times what usual frames hold. It cannot be all of 9,000: acknowledgements, and segments that end with what curl
            // has written so far, are shorter.
            ensure!(
                bytes / packets > 4500 && bytes > crate::world::BULK,
                "{service}, way {way}: {packets} packets, {bytes} bytes"
            );
        }
    }
    Ok(())
}

#[test]
fn jumbo_frames_in_native_mode() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("jumbo")?.web()?;
    widen(&world)?;
    transfers(&world)?;
    world.sound()
}

#[test]
fn jumbo_frames_in_generic_mode() -> Result<()> {
    need!("nginx", "curl");
    let config = CONFIG.replace("[[interface]]\n", "[[interface]]\nmode = \"generic\"\n");
    let world = World::configured("jumbogen", &config)?.web()?;
    // The ends would send frames of up to 64 KiB through the pair, which is longer than any MTU.
    for namespace in [&world.client, &world.targets[0], &world.targets[1]] {
        namespace.offloads_off("eth0")?;
    }
    widen(&world)?;
    transfers(&world)?;
    world.sound()
}
