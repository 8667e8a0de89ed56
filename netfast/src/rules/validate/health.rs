//! Health checks: whether they ask for something that can be.

use std::net::IpAddr;

use super::{Check, Place, Verdict};
use crate::api::types::{Forward, Health, HealthKind, Span};

/// Shortest and longest interval.
const INTERVALS: [Span; 2] = [Span::from_millis(100), Span::from_millis(3_600_000)];
/// Shortest and longest time that a check may take.
const TIMEOUTS: [Span; 2] = [Span::from_millis(10), Span::from_millis(60_000)];
/// Largest jitter, per cent of the interval.
const MAX_JITTER: u8 = 50;
/// Most successes or failures in a row.
const MAX_RUN: u16 = 100;
/// Longest path and text to look for, in bytes.
const MAX_TEXT: usize = 1024;

impl Check {
    pub(super) fn health(&mut self, at: usize, forward: &Forward) {
        let Some(health) = &forward.health else { return };
        let place = Place::Health(at);
        for (key, verdict) in verdicts(health) {
            self.note(place.clone(), key, verdict);
        }
    }
}

fn verdicts(health: &Health) -> Vec<(&'static str, Verdict)> {
    let kind = health.kind;
    let http = matches!(kind, HealthKind::Http | HealthKind::Https);
    let of = |key: &'static str, given: bool, allowed: bool| {
        let message = || format!("a check of type {kind} has no use for {key}: leave it out");
        (key, if given && !allowed { Err(message()) } else { Ok(()) })
    };
    let new = Health::new(kind);
    let mut verdicts = vec![
        of("port", health.port.is_some(), kind != HealthKind::Icmp),
        of("path", health.path.is_some(), http),
        of("host", health.host.is_some(), http),
        of("sni", health.sni.is_some(), kind == HealthKind::Https),
        of("verify", health.verify, kind == HealthKind::Https),
        of("status", health.status.is_some(), http),
        of("body", health.body.is_some(), http),
        of("name", health.name.is_some(), kind == HealthKind::Dns),
        of("record", health.record != new.record, kind == HealthKind::Dns),
        of("rcode", health.rcode != new.rcode, kind == HealthKind::Dns),
    ];
    verdicts
        .push(("port", if health.port == Some(0) { Err("port 0 is not a port".to_owned()) } else { Ok(()) }));
    verdicts.push(("path", health.path.as_deref().map_or(Ok(()), path)));
    verdicts.push(("host", health.host.as_deref().map_or(Ok(()), host)));
    verdicts.push((
        "sni",
        health.sni.as_deref().map_or(Ok(()), |name| dns_name(name).and_then(|()| no_address(name))),
    ));
    verdicts.push(("verify", verify(health)));
    verdicts.push((
        "status",
        match &health.status {
            Some(list) if list.as_slice().is_empty() => {
                Err("status is an empty list: no answer would do".to_owned())
            }
            _ => Ok(()),
        },
    ));
    verdicts.push((
        "body",
        match &health.body {
            Some(text) if text.is_empty() || text.len() > MAX_TEXT => {
                Err(format!("body has {} bytes, and 1 to {MAX_TEXT} can be looked for", text.len()))
            }
            _ => Ok(()),
        },
    ));
    verdicts.push((
        "name",
        match (&health.name, kind) {
            (Some(name), _) => dns_name(name),
            (None, HealthKind::Dns) => {
                Err("a dns check needs the name that it asks for, such as name = \"example.com\"".to_owned())
            }
            (None, _) => Ok(()),
        },
    ));
    verdicts.push(("interval", within(health.interval, INTERVALS)));
    verdicts.push(("timeout", timeout(health)));
    if health.jitter > MAX_JITTER {
        verdicts
            .push(("jitter", Err(format!("jitter {} is not in 0 to {MAX_JITTER} per cent", health.jitter))));
    }
    for (key, run) in [("rise", health.rise), ("fall", health.fall)] {
        if !(1..=MAX_RUN).contains(&run) {
            verdicts.push((key, Err(format!("{key} {run} is not in 1 to {MAX_RUN}"))));
        }
    }
    verdicts
}

fn within(span: Span, [least, most]: [Span; 2]) -> Verdict {
    if span < least || span > most { Err(format!("{span} is not in {least} to {most}")) } else { Ok(()) }
}

fn timeout(health: &Health) -> Verdict {
    let Some(timeout) = health.timeout else { return Ok(()) };
    within(timeout, TIMEOUTS)?;
    if timeout > health.interval {
        return Err(format!(
            "the timeout of {timeout} is longer than the interval of {}: a check must end before the next one begins",
            health.interval
        ));
    }
    Ok(())
}

fn verify(health: &Health) -> Verdict {
    if health.verify && health.sni.is_none() && health.host.is_none() {
        return Err("verify needs the name that the certificate is to be for: give sni or host".to_owned());
    }
    Ok(())
}

fn path(path: &str) -> Verdict {
    let odd = |byte: u8| !(0x21..0x7f).contains(&byte) || byte == b'#';
    if !path.starts_with('/') || path.len() > MAX_TEXT || path.bytes().any(odd) {
        return Err(format!(
            "{path:?} is not a path: it begins with / and has at most {MAX_TEXT} characters, none of them a space or #"
        ));
    }
    Ok(())
}

fn host(host: &str) -> Verdict {
    let odd = |byte: u8| !(0x21..0x7f).contains(&byte) || b"/?#@\\".contains(&byte);
    if host.is_empty() || host.len() > 255 || host.bytes().any(odd) {
        return Err(format!("{host:?} is not a host; examples: shop.example, shop.example:8080"));
    }
    Ok(())
}

/// A name of the DNS (RFC 1035 2.3.4); underscores are in use (RFC 2782).
fn dns_name(name: &str) -> Verdict {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if (name != "." && !bare.split('.').all(label)) || name.len() > 253 {
        return Err(format!("{name:?} is not a name of the DNS; example: shop.example"));
    }
    Ok(())
}

fn no_address(name: &str) -> Verdict {
    match name.parse::<IpAddr>() {
        Ok(_) => Err(format!("{name:?} is an address: a server name is a name (RFC 6066 3)")),
        Err(_) => Ok(()),
    }
}
