//! Settings of the host that get in the way of netfast, in words, with the command that cures them.

use std::{fs, path::Path};

use crate::api::types::{PortRange, Rules};

/// Where the kernel has its network settings.
const SYSCTLS: &str = "/proc/sys/net";

/// What the operator should know, a sentence each. `attached`: names of the interfaces that netfast is on.
pub(super) fn notes(nat: PortRange, rules: &Rules, attached: &[String]) -> Vec<String> {
    notes_of(Path::new(SYSCTLS), nat, rules, attached)
}

fn notes_of(root: &Path, nat: PortRange, rules: &Rules, attached: &[String]) -> Vec<String> {
    let mut notes: Vec<String> = port_overlap(root, nat).into_iter().collect();
    notes.extend(forwarding(root, rules, attached));
    notes.extend(strict_reverse_path(root, attached));
    notes
}

fn read(root: &Path, name: &str) -> Option<String> {
    fs::read_to_string(root.join(name)).ok().map(|text| text.trim().to_owned())
}

/// Ranges as `ip_local_reserved_ports` has them: `8080,20000-32767`.
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some((low.trim().parse().ok()?, high.trim().parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

/// The kernel gives ports of `nat` to local programs, too: a reply to one of them might be taken for a flow's, and the other
/// way round.
fn port_overlap(root: &Path, nat: PortRange) -> Option<String> {
    let text = read(root, "ipv4/ip_local_port_range")?;
    let mut numbers = text.split_ascii_whitespace().filter_map(|number| number.parse::<u16>().ok());
    let (low, high) = (numbers.next()?, numbers.next()?);
    let (first, last) = (low.max(nat.low), high.min(nat.high));
    let reserved = read(root, "ipv4/ip_local_reserved_ports").unwrap_or_default();
    let taken = ranges(&reserved);
    let is_reserved = |port: u16| taken.iter().any(|(low, high)| (*low..=*high).contains(&port));
    if first > last || (first..=last).all(is_reserved) {
        return None;
    }
    let list = if reserved.is_empty() { nat.to_string() } else { format!("{reserved},{nat}") };
    Some(format!(
        "the ports of [nat] ({nat}) overlap the host's own (net.ipv4.ip_local_port_range = {low} {high}): a local \
         program's connection to a target may get lost; keep them from local programs by \
         `sysctl -w net.ipv4.ip_local_reserved_ports={list}`, or set one of the two ranges so that they do not overlap"
    ))
}

/// `bpf_fib_lookup` answers nothing on an interface without forwarding: the way back to a client is then the station that
/// its frame came from, whatever the routing table says.
fn forwarding(root: &Path, rules: &Rules, attached: &[String]) -> Vec<String> {
    let versions = [("ipv4", "IPv4", false), ("ipv6", "IPv6", true)];
    let note = |(folder, version, is_ipv6): (&str, &str, bool)| {
        if !rules.forwards.iter().any(|forward| forward.listen.address.is_ipv6() == is_ipv6) {
            return None;
        }
        let off = |name: &&String| {
            read(root, &format!("{folder}/conf/{name}/forwarding")).is_some_and(|value| value == "0")
        };
        let off: Vec<&str> = attached.iter().filter(off).map(String::as_str).collect();
        (!off.is_empty()).then(|| {
            format!(
                "{version} forwarding is off on {}: answers go back to the station that a client's frame came from, not by \
                 the routing table; `sysctl -w net.{folder}.conf.all.forwarding=1` lets the routing table decide",
                off.join(", ")
            )
        })
    };
    versions.into_iter().filter_map(note).collect()
}

/// The kernel drops what netfast hands to it (fragments, ICMP, the host's own traffic), if the way back to the source is by
/// another interface than it came in by. With one interface there is no other.
fn strict_reverse_path(root: &Path, attached: &[String]) -> Option<String> {
    if attached.len() < 2 {
        return None;
    }
    let value = |name: &str| {
        read(root, &format!("ipv4/conf/{name}/rp_filter"))
            .and_then(|text| text.parse::<u8>().ok())
            .unwrap_or(0)
    };
    // The kernel takes the larger of the two (Documentation/networking/ip-sysctl.rst).
    let all = value("all");
    let strict: Vec<&str> =
        attached.iter().filter(|name| all.max(value(name)) == 1).map(String::as_str).collect();
    (!strict.is_empty()).then(|| {
        let cures: Vec<String> =
            strict.iter().map(|name| format!("net.ipv4.conf.{name}.rp_filter=2")).collect();
        format!(
            "rp_filter is strict on {}: of what netfast hands to the kernel (fragments, ICMP, packets of no service), it drops \
             what came by another interface than the way back; `sysctl -w {}` lets it pass where ways differ",
            strict.join(", "),
            cures.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Forward, Transport};

    const NAT: PortRange = PortRange { low: 20_000, high: 32_767 };

    /// Settings as files.
    fn host(settings: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in settings {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        folder
    }

    fn told(settings: &[(&str, &str)], listen: &[&str], attached: &[&str]) -> Vec<String> {
        let forwards =
            listen.iter().map(|listen| Forward::new("a".to_owned(), Transport::Tcp, listen.parse().unwrap()));
        let rules = Rules { forwards: forwards.collect(), ..Rules::default() };
        let attached: Vec<String> = attached.iter().map(|name| (*name).to_owned()).collect();
        notes_of(host(settings).path(), NAT, &rules, &attached)
    }

    #[test]
    fn a_host_that_is_set_up_well_is_told_nothing() {
        let well = [
            ("ipv4/ip_local_port_range", "32768\t60999"),
            ("ipv4/ip_local_reserved_ports", ""),
            ("ipv4/conf/all/rp_filter", "2"),
            ("ipv4/conf/lan0/rp_filter", "1"),
            ("ipv4/conf/lan0/forwarding", "1"),
            ("ipv6/conf/lan0/forwarding", "0"),
        ];
        assert_eq!(Vec::<String>::new(), told(&well, &["192.0.2.1:80"], &["lan0", "wan0"]));
        assert_eq!(
            Vec::<String>::new(),
            told(&[], &["192.0.2.1:80"], &["lan0"]),
            "settings that are not there"
        );
    }

    #[test]
    fn ports_that_the_host_gives_away_are_told_with_the_cure() {
        let range = ("ipv4/ip_local_port_range", "30000\t60999");
        let reserved = |list| told(&[range, ("ipv4/ip_local_reserved_ports", list)], &[], &[]);
        let notes = reserved("");
        assert!(notes[0].contains("`sysctl -w net.ipv4.ip_local_reserved_ports=20000-32767`"), "{notes:?}");
        let notes = reserved("8080,30000-31000");
        assert!(notes[0].contains("ip_local_reserved_ports=8080,30000-31000,20000-32767`"), "{notes:?}");
        assert_eq!(
            Vec::<String>::new(),
            reserved("8080,30000-31000,31001-40000"),
            "all of the overlap is reserved"
        );
    }

    #[test]
    fn forwarding_that_is_off_is_told_for_the_versions_in_use() {
        let off = [("ipv4/conf/lan0/forwarding", "0"), ("ipv6/conf/lan0/forwarding", "0")];
        assert_eq!(Vec::<String>::new(), told(&off, &[], &["lan0"]), "no forward");
        for (listen, words) in [("192.0.2.1:80", "IPv4 forwarding"), ("[2001:db8::1]:80", "IPv6 forwarding")]
        {
            let notes = told(&off, &[listen], &["lan0"]);
            assert!(notes.len() == 1 && notes[0].starts_with(words), "{notes:?}");
            assert!(notes[0].contains("lan0") && notes[0].contains("conf.all.forwarding=1"), "{notes:?}");
        }
    }

    #[test]
    fn a_strict_reverse_path_filter_is_told_where_there_are_two_ways() {
        let strict = [("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/lan0/rp_filter", "1")];
        assert_eq!(Vec::<String>::new(), told(&strict, &[], &["lan0"]));
        let notes = told(&strict, &[], &["lan0", "wan0"]);
        assert!(
            notes[0].contains("strict on lan0:") && notes[0].contains("net.ipv4.conf.lan0.rp_filter=2"),
            "{notes:?}"
        );
        let notes = told(&[("ipv4/conf/all/rp_filter", "1")], &[], &["lan0", "wan0"]);
        assert!(notes[0].contains("strict on lan0, wan0:"), "{notes:?}");
    }
}
