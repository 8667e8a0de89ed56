//! The keeper of next hops against the real kernel: namespaces with veth pairs, root needed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod netlink_support;

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netfast::netlink::Unreachable;
use netfast::rules::images::HostView;
use netfast_common::abi::{self, HopKeyKind};
use netfast_common::addr;
use netlink_support::{SECOND, ip_address, run};

const LEARNED: u16 = abi::FIRST_LEARNED_HOP as u16 + 3;

#[test]
fn a_neighbour_is_resolved_ahead_of_use_and_kept() {
    run(|bench| async move {
        let targets = [ip_address("10.66.0.2"), ip_address("fd66::2")];
        let view = bench.netlink.resolve_targets(&targets).await.unwrap();
        assert!(view.unresolved().is_empty(), "{:?} is not resolved at once", view.unresolved());
        let v4 = view.route(targets[0]).unwrap();
        let v6 = view.route(targets[1]).unwrap();
        assert_eq!((v4.source, v6.source), (ip_address("10.66.0.1"), ip_address("fd66::1")));
        assert_ne!(v4.next_hop, v6.next_hop);
        let expected = abi::NextHop {
            destination: bench.peer_mac(),
            vlan: 0,
            source: bench.own_mac(),
            mtu: 1500,
            ifindex: view.ifindex("h0").unwrap(),
            longest: 1500,
        };
        for route in [v4, v6] {
            assert_eq!(bench.maps.entry(route.next_hop), expected);
        }
        let shown = bench.host.ip("-d neigh show dev h0");
        for address in ["10.66.0.2", "fd66::2"] {
            let line = shown.lines().find(|line| line.starts_with(&format!("{address} "))).unwrap();
            assert!(line.contains("managed"), "the kernel does not keep it: {line}");
        }
        bench.netlink.release_all().await.unwrap();
        let shown = bench.host.ip("-d neigh show dev h0");
        assert!(!shown.contains("managed"), "{shown}");
    });
}

#[test]
fn a_new_mac_address_is_followed() {
    run(|bench| async move {
        let hop = bench.resolved("10.66.0.2").await;
        bench.peer.ip("link set t0 address 02:66:00:00:00:99");
        let new = [2, 0x66, 0, 0, 0, 0x99];
        bench.until(SECOND, "the new MAC address", || bench.maps.entry(hop).destination == new).await;
        assert!(bench.maps.valid(hop));
        bench.host.ip("link set h0 mtu 1400");
        bench.until(SECOND, "the new MTU", || bench.maps.entry(hop).mtu == 1400).await;
        bench.host.ip("link set h0 address 02:66:00:00:00:11");
        let own = [2, 0x66, 0, 0, 0, 0x11];
        bench.until(SECOND, "the own new MAC address", || bench.maps.entry(hop).source == own).await;
    });
}

#[test]
fn a_deleted_neighbour_is_invalid_and_resolved_again() {
    run(|bench| async move {
        let hop = bench.resolved("10.66.0.2").await;
        let before = bench.maps.writes(hop);
        bench.host.ip("neigh del 10.66.0.2 dev h0");
        bench
            .until(2 * SECOND, "an invalid entry, then a valid one", || {
                let since = bench.maps.writes(hop).split_off(before.len());
                let invalid = since.iter().position(|entry| !entry.is_valid());
                invalid.is_some_and(|at| since[at..].iter().any(|entry| entry.is_valid()))
            })
            .await;
        assert_eq!(bench.maps.entry(hop).destination, bench.peer_mac());
    });
}

#[test]
fn a_target_that_comes_late_becomes_valid_by_itself() {
    run(|bench| async move {
        let target = ip_address("10.66.0.77");
        let view = bench.netlink.resolve_targets(&[target]).await.unwrap();
        assert_eq!(view.unresolved(), [target]);
        let hop = view.route(target).unwrap().next_hop;
        assert!(!bench.maps.valid(hop));
        bench.peer.ip("addr add 10.66.0.77/24 dev t0");
        // A packet asks for it, as the program's event says.
        let event = abi::Event {
            kind: abi::EventKind::HopUnresolved as u32,
            hop: u32::from(hop),
            ..abi::Event::default()
        };
        bench
            .until(5 * SECOND, "a valid entry", || {
                bench.netlink.event(&event);
                bench.maps.valid(hop)
            })
            .await;
    });
}

#[test]
fn another_gateway_is_another_hop_and_is_told() {
    run(|bench| async move {
        bench.peer.ip("addr add 10.66.0.3/24 dev t0");
        bench.host.ip("route add 10.99.0.0/16 via 10.66.0.2");
        let target = ip_address("10.99.1.1");
        let first = bench.resolved("10.99.1.1").await;
        let key = abi::HopKey {
            ifindex: bench.ifindex("h0"),
            kind: HopKeyKind::Address as u32,
            address: addr::from_ip(ip_address("10.66.0.2")),
        };
        assert_eq!(bench.maps.index_of(&key), Some(u32::from(first)), "found by the gateway");

        let mut changes = bench.netlink.changes();
        let before = *changes.borrow_and_update();
        bench.host.ip("route replace 10.99.0.0/16 via 10.66.0.3 mtu 1300");
        tokio::time::timeout(SECOND, changes.wait_for(|now| now.targets > before.targets))
            .await
            .expect("told within a second")
            .unwrap();
        let view = bench.netlink.resolve_targets(&[target]).await.unwrap();
        let second = view.route(target).unwrap().next_hop;
        assert_ne!(first, second);
        assert!(bench.maps.valid(second) && view.unresolved().is_empty());
        assert_eq!(bench.maps.entry(second).mtu, 1300);

        let before = *changes.borrow_and_update();
        bench.host.ip("rule add to 10.99.1.1 prohibit");
        tokio::time::timeout(SECOND, changes.wait_for(|now| now.targets > before.targets))
            .await
            .expect("a rule counts as well")
            .unwrap();
        let view = bench.netlink.resolve_targets(&[target]).await.unwrap();
        let problem = view.problem(target);
        assert!(matches!(problem, Some(Unreachable::Refused { .. })), "{problem:?}");
    });
}

/// What the kernel has said before is not taken for true once something has changed, however soon the question comes.
#[test]
fn an_answer_is_as_new_as_the_last_change() {
    run(|bench| async move {
        bench.peer.ip("addr add 10.66.0.3/24 dev t0");
        bench.host.ip("route add 10.99.0.0/16 via 10.66.0.2");
        let targets: Vec<IpAddr> = (1..100).map(|n| ip_address(&format!("10.99.1.{n}"))).collect();
        for _ in 0..5 {
            for gateway in ["10.66.0.3", "10.66.0.2"] {
                bench.host.ip(&format!("route replace 10.99.0.0/16 via {gateway}"));
                let view = bench.netlink.resolve_targets(&targets).await.unwrap();
                for target in &targets {
                    assert_eq!(Some(ip_address(gateway)), view.gateway(*target), "{target}");
                }
            }
            bench.host.ip("rule add to 10.99.1.7 prohibit");
            let view = bench.netlink.resolve_targets(&targets).await.unwrap();
            assert!(view.problem(targets[6]).is_some() && view.problem(targets[7]).is_none());
            bench.host.ip("rule del to 10.99.1.7 prohibit");
            let view = bench.netlink.resolve_targets(&targets).await.unwrap();
            assert!(view.problem(targets[6]).is_none());
        }
    });
}

/// Nor once anything else has changed that a way depends on: a next hop that routes share, another table, an address, a link.
#[test]
fn an_answer_depends_on_more_than_routes() {
    run(|bench| async move {
        let target = ip_address("10.99.1.1");
        bench.peer.ip("addr add 10.66.0.3/24 dev t0");
        bench.host.ip("nexthop add id 7 via 10.66.0.2 dev h0");
        bench.host.ip("route add 10.99.0.0/16 nhid 7");
        bench.host.ip("rule add to 10.99.0.0/16 lookup 77");
        let ask = async || bench.netlink.resolve_targets(&[target]).await.unwrap();
        assert_eq!(Some(ip_address("10.66.0.2")), ask().await.gateway(target));
        for _ in 0..5 {
            bench.host.ip("nexthop replace id 7 via 10.66.0.3 dev h0");
            assert_eq!(Some(ip_address("10.66.0.3")), ask().await.gateway(target), "a shared next hop");
            bench.host.ip("route add 10.99.1.0/24 via 10.66.0.2 table 77");
            assert_eq!(Some(ip_address("10.66.0.2")), ask().await.gateway(target), "another table");
            bench.host.ip("addr add 10.99.1.1/32 dev lo");
            assert!(ask().await.problem(target).is_some(), "an address of the host's own");
            bench.host.ip("addr del 10.99.1.1/32 dev lo");
            assert_eq!(Some(ip_address("10.66.0.2")), ask().await.gateway(target));
            bench.host.ip("route del 10.99.1.0/24 table 77");
            assert_eq!(Some(ip_address("10.66.0.3")), ask().await.gateway(target));
        }
        bench.host.ip("link set h0 down");
        assert!(ask().await.problem(target).is_some(), "a link");
    });
}

#[test]
fn the_kernel_picks_one_of_several_ways() {
    run(|bench| async move {
        bench.peer.ip("addr add 10.66.0.3/24 dev t0");
        bench.host.ip("route add 10.97.0.0/16 nexthop via 10.66.0.2 nexthop via 10.66.0.3");
        let hop = bench.resolved("10.97.1.1").await;
        let hops = bench.netlink.hops().await.unwrap();
        let gateway = hops.iter().find(|status| status.index == hop).unwrap().address.unwrap();
        assert!([ip_address("10.66.0.2"), ip_address("10.66.0.3")].contains(&gateway), "{gateway}");
    });
}

#[test]
fn an_entry_put_there_by_hand_stays_as_it_is() {
    run(|bench| async move {
        bench.host.ip("neigh add 10.66.0.50 lladdr 02:66:00:00:00:50 dev h0 nud permanent");
        let mirrored = ip_address("10.66.0.50");
        // Another target resolved afterwards: the notification about the entry has been taken in by then.
        bench.resolved("10.66.0.2").await;
        let view = bench.netlink.resolve_targets(&[mirrored]).await.unwrap();
        assert!(view.unresolved().is_empty());
        let hop = view.route(mirrored).unwrap().next_hop;
        assert_eq!(bench.maps.entry(hop).destination, [2, 0x66, 0, 0, 0, 0x50]);
        bench.netlink.release_all().await.unwrap();
        let shown = bench.host.ip("neigh show 10.66.0.50 dev h0");
        assert!(shown.contains("PERMANENT"), "{shown}");
    });
}

#[test]
fn a_gateway_of_the_other_family_is_found() {
    run(|bench| async move {
        bench.host.ip("route add 10.98.0.0/16 via inet6 fd66::2 dev h0");
        let hop = bench.resolved("10.98.1.1").await;
        assert_eq!(bench.maps.entry(hop).destination, bench.peer_mac());
    });
}

#[test]
fn a_link_that_goes_down_takes_its_hops_with_it() {
    run(|bench| async move {
        let hop = bench.resolved("10.66.0.2").await;
        bench.peer.ip("link set t0 down");
        bench.until(SECOND, "an invalid entry without carrier", || !bench.maps.valid(hop)).await;
        bench.peer.ip("link set t0 up");
        bench.until(5 * SECOND, "a valid entry again", || bench.maps.valid(hop)).await;
        bench.host.ip("link set h0 down");
        bench.until(SECOND, "an invalid entry of a link set down", || !bench.maps.valid(hop)).await;
        let view = bench.netlink.resolve_targets(&[ip_address("10.66.0.2")]).await.unwrap();
        assert!(matches!(view.problem(ip_address("10.66.0.2")), Some(Unreachable::NoRoute(_))));
    });
}

#[test]
fn a_vlan_interface_is_left_by_the_one_below() {
    run(|bench| async move {
        if !bench.host.can("link add link h0 name h0.6 type vlan id 6") {
            eprintln!("skipped: this kernel has no VLAN interfaces (CONFIG_VLAN_8021Q)");
            return;
        }
        bench.host.ip("link del h0.6");
        for (namespace, link, address) in
            [(&bench.host, "h0", "10.67.0.1/24"), (&bench.peer, "t0", "10.67.0.2/24")]
        {
            namespace.ip(&format!("link add link {link} name {link}.7 type vlan id 7"));
            namespace.ip(&format!("addr add {address} dev {link}.7"));
            namespace.ip(&format!("link set {link}.7 up"));
        }
        bench.host.ip("link add link h0.7 name h0.7.8 type vlan id 8");
        bench.host.ip("addr add 10.68.0.1/24 dev h0.7.8");
        bench.host.ip("link set h0.7.8 up");
        let hop = bench.resolved("10.67.0.2").await;
        let (physical, vlan) = (bench.ifindex("h0"), bench.ifindex("h0.7"));
        let entry = bench.maps.entry(hop);
        assert_eq!((entry.ifindex, entry.vlan, entry.destination), (physical, 7, bench.peer_mac()));
        bench.until(SECOND, "the VLAN in the snapshot", || bench.netlink.host().vlans().len() == 1).await;
        let host = bench.netlink.host();
        assert_eq!(host.vlans()[&abi::VlanKey { ifindex: physical, vlan: 7 }], vlan);
        assert_eq!(
            host.vlan_links().collect::<Vec<_>>(),
            [(vlan, abi::VlanLink { ifindex: physical, vlan: 7 })]
        );

        let view = bench.netlink.resolve_targets(&[ip_address("10.68.0.2")]).await.unwrap();
        let problem = view.problem(ip_address("10.68.0.2")).unwrap().to_string();
        assert!(problem.contains("VLAN on a VLAN"), "{problem}");
    });
}

#[test]
fn what_cannot_be_forwarded_to_says_why() {
    run(|bench| async move {
        bench.host.ip("route add blackhole 10.90.0.0/16");
        bench.host.ip("route add unreachable 10.91.0.0/16");
        bench.host.ip("route add prohibit 10.92.0.0/16");
        bench.host.ip("-6 route add blackhole fd90::/64");
        let cases = [
            ("10.90.0.1", "blackhole"),
            ("10.91.0.1", "unreachable"),
            ("10.92.0.1", "prohibit"),
            ("fd90::1", "blackhole"),
            ("10.66.0.1", "address of this host"),
            ("fd66::1", "address of this host"),
            ("127.0.0.1", "address of this host"),
            ("10.66.0.255", "not a unicast address"),
            ("224.0.0.9", "not a unicast address"),
            ("192.0.2.1", "no route"),
            ("2001:db8::1", "no route"),
        ];
        let targets: Vec<IpAddr> = cases.iter().map(|(target, _)| ip_address(target)).collect();
        let view = bench.netlink.resolve_targets(&targets).await.unwrap();
        for (target, why) in cases {
            let problem = view.problem(ip_address(target)).map(ToString::to_string).unwrap_or_default();
            assert!(problem.contains(why), "{target}: {problem:?} should say {why:?}");
            assert_eq!(view.route(ip_address(target)), None);
        }
    });
}

#[test]
fn learned_hops_are_kept_by_the_kernel_from_then_on() {
    run(|bench| async move {
        let key = abi::HopKey {
            ifindex: bench.ifindex("h0"),
            kind: HopKeyKind::Address as u32,
            address: addr::from_ip(ip_address("10.66.0.2")),
        };
        let kind = abi::EventKind::HopLearned as u32;
        bench.netlink.event(&abi::Event { kind, hop: u32::from(LEARNED), key, ..abi::Event::default() });
        bench.until(2 * SECOND, "a valid entry", || bench.maps.valid(LEARNED)).await;
        let shown = bench.host.ip("-d neigh show 10.66.0.2 dev h0");
        assert!(shown.contains("managed"), "{shown}");

        let mut address = [0; 16];
        address[..6].copy_from_slice(&bench.peer_mac());
        let key = abi::HopKey { ifindex: bench.ifindex("h0"), kind: HopKeyKind::Mac as u32, address };
        bench.netlink.event(&abi::Event { kind, hop: u32::from(LEARNED) + 1, key, ..abi::Event::default() });
        let peer = bench.peer_mac();
        bench
            .until(SECOND, "an entry by MAC address", || bench.maps.entry(LEARNED + 1).destination == peer)
            .await;
        bench.host.ip("neigh replace 10.66.0.2 lladdr 02:66:00:00:00:98 dev h0 nud reachable");
        let new = [2, 0x66, 0, 0, 0, 0x98];
        bench
            .until(SECOND, "both entries moved", || {
                [LEARNED, LEARNED + 1].iter().all(|index| bench.maps.entry(*index).destination == new)
            })
            .await;
        bench.netlink.gc(HashSet::new());
        assert_eq!(bench.netlink.hops().await.unwrap().len(), 2, "not idle for long enough");
    });
}

#[test]
fn an_adopted_hop_keeps_its_index_and_its_content() {
    run(|bench| async move {
        let hop = bench.resolved("10.66.0.2").await;
        // The agent is gone and comes back; the maps stay.
        let again = bench.again().await;
        let before = bench.maps.writes(hop).len();
        again.adopt(bench.maps.keys()).await.unwrap();
        let view = again.resolve_targets(&[ip_address("10.66.0.2")]).await.unwrap();
        assert_eq!(view.route(ip_address("10.66.0.2")).unwrap().next_hop, hop);
        let since = bench.maps.writes(hop).split_off(before);
        assert!(since.iter().all(|entry| entry.is_valid()), "invalid meanwhile: {since:?}");
    });
}

#[test]
fn lost_notifications_lead_to_a_new_start() {
    run(|bench| async move {
        let mut batch = String::new();
        for index in 0..60_000 {
            batch.push_str(&format!("route add 11.{}.{}.0/24 dev h0\n", index / 256, index % 256));
        }
        // The runtime has this thread only: while it is held up, the receive buffer runs full.
        bench.host.ip_batch(&batch);
        bench.host.ip("link set h0 mtu 1234");
        let seen = || bench.netlink.host().by_name("h0").is_some_and(|link| link.mtu == 1234);
        bench.until(15 * SECOND, "the change behind the lost notifications", seen).await;
        assert!(bench.netlink.changes().borrow().lost > 0, "the test has not filled the buffer");
    });
}

#[test]
fn facts_about_an_interface() {
    run(|bench| async move {
        let facts = bench.netlink.link_facts("h0").await.unwrap().unwrap();
        assert_eq!(
            (facts.driver.as_str(), facts.mtu, facts.mac, facts.up),
            ("veth", 1500, Some(bench.own_mac()), true)
        );
        assert!(facts.xdp.is_empty());
        assert_eq!(bench.netlink.link_facts("nothere").await.unwrap(), None);
    });
}

#[test]
fn many_targets_are_resolved_again_well_within_a_second() {
    run(|bench| async move {
        bench.host.ip("route add 10.99.0.0/16 via 10.66.0.2");
        let targets: Vec<IpAddr> =
            (0..1000u16).map(|n| IpAddr::from([10, 99, (n / 250) as u8, (n % 250) as u8])).collect();
        bench.netlink.resolve_targets(&targets).await.unwrap();
        let start = Instant::now();
        let view = bench.netlink.resolve_targets(&targets).await.unwrap();
        let took = start.elapsed();
        assert!(view.unresolved().is_empty());
        assert_eq!(view.next_hops().collect::<HashSet<u16>>().len(), 1);
        eprintln!("1000 targets: {took:?}");
        assert!(took < Duration::from_millis(900), "took {took:?}");
    });
}
