//! Whether rules make sense as a whole. Nothing is looked up on the host: what validates here validates everywhere.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::IpAddr,
    ops::Range,
};

use netfast_common::{abi, echo::MAX_ALLOW_PER_ECHO};

use crate::api::types::{Echo, ErrorBody, ErrorCode, Forward, OnDrain, PortRange, Rules, Transport};

use super::normal;

mod address;
pub mod filter;
mod filters;
mod health;
mod quic;
mod snat;

use address::{family, listen_address, prefix, station, target_address, tunnel_source};

/// Largest weight of a target.
pub const MAX_WEIGHT: u16 = 256;
/// Largest rate of an echo reflector, packets a second and source.
pub const MAX_ECHO_RATE: u32 = 1_000_000;
/// Longest name of a forward or filter rule, in bytes.
pub const MAX_NAME: usize = 63;
/// Longest comment, in characters.
pub const MAX_COMMENT: usize = 256;

/// What a [`Problem`] is about. Positions count from 0 here, from 1 in text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The rules as a whole.
    Whole,
    /// A forward.
    Forward(usize),
    /// The health checks of a forward.
    Health(usize),
    /// A target: position of its forward, its own position.
    Target(usize, usize),
    /// A source NAT rule.
    Snat(usize),
    /// An echo reflector.
    Echo(usize),
    /// A filter rule.
    Filter(usize),
    /// A set of addresses.
    Set(usize),
    /// A policy of an interface.
    Policy(usize),
}

/// Something wrong with rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key there, as `rules.toml` has it; empty: all of it.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// The error that the API answers.
    pub fn into_error(self, rules: &Rules) -> ErrorBody {
        ErrorBody { code: ErrorCode::Rejected, field: Some(field(rules, &self)), message: self.message }
    }
}

/// Path of the key in words: `forward.web.target[1].weight` (lists count from 1).
fn field(rules: &Rules, problem: &Problem) -> String {
    let forward = |at: usize| match rules.forwards.get(at) {
        Some(forward) if !forward.name.is_empty() => format!("forward.{}", forward.name),
        _ => format!("forward[{}]", at + 1),
    };
    let mut path = match problem.place {
        Place::Whole => return problem.key.to_owned(),
        Place::Forward(at) => forward(at),
        Place::Health(at) => format!("{}.health", forward(at)),
        Place::Target(at, target) => format!("{}.target[{}]", forward(at), target + 1),
        Place::Snat(at) => match rules.snats.get(at) {
            Some(snat) if !snat.name.is_empty() => format!("snat.{}", snat.name),
            _ => format!("snat[{}]", at + 1),
        },
        Place::Echo(at) => format!("echo[{}]", at + 1),
        Place::Filter(at) => format!("filter[{}]", at + 1),
        Place::Set(at) => match rules.sets.get(at) {
            Some(set) if !set.name.is_empty() => format!("set.{}", set.name),
            _ => format!("set[{}]", at + 1),
        },
        Place::Policy(at) => format!("policy[{}]", at + 1),
    };
    if !problem.key.is_empty() {
        path.push('.');
        path.push_str(problem.key);
    }
    path
}

/// Refuses rules that do not make sense, with the first thing that is wrong.
pub fn validate(rules: &Rules) -> Result<(), ErrorBody> {
    match problems(rules).into_iter().next() {
        Some(problem) => Err(problem.into_error(rules)),
        None => Ok(()),
    }
}

/// [`validate`], beside rules that are valid: what is the same as there is not looked at again where that takes long.
pub fn validate_beside(rules: &Rules, valid: &Rules) -> Result<(), ErrorBody> {
    let same = rules.sets == valid.sets;
    let unknown = if same { rules.filters.edit_of(&valid.filters).new } else { 0..rules.filters.len() };
    match found(rules, unknown).into_iter().next() {
        Some(problem) => Err(problem.into_error(rules)),
        None => Ok(()),
    }
}

/// Everything that is wrong with rules.
pub fn problems(rules: &Rules) -> Vec<Problem> {
    found(rules, 0..rules.filters.len())
}

/// `unknown`: the filter rules that are not known to be right, each by itself.
fn found(rules: &Rules, unknown: Range<usize>) -> Vec<Problem> {
    let mut check = Check::default();
    check.limits(rules);
    check.forwards(rules);
    snat::check(&mut check, rules);
    for (at, echo) in rules.echoes.iter().enumerate() {
        check.echo(at, echo);
    }
    check.sets(rules);
    check.filters(rules, &unknown);
    check.policies(rules);
    check.overlaps(rules);
    check.problems
}

/// Whether a text is the name of an interface as the kernel allows it (`dev_valid_name`).
pub fn interface_name(name: &str) -> Result<(), String> {
    let bad = name.is_empty()
        || name.len() > 15
        || name == "."
        || name == ".."
        || name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control());
    if bad {
        return Err(format!(
            "{name:?} is not the name of an interface: 1 to 15 characters without / : or spaces"
        ));
    }
    Ok(())
}

/// A problem's message, unless all is well.
type Verdict = Result<(), String>;

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn add(&mut self, place: Place, key: &'static str, message: impl Into<String>) {
        self.problems.push(Problem { place, key, message: message.into() });
    }

    fn note(&mut self, place: Place, key: &'static str, verdict: Verdict) {
        if let Err(message) = verdict {
            self.add(place, key, message);
        }
    }

    fn limits(&mut self, rules: &Rules) {
        let targets = |forwards: &[Forward]| forwards.iter().map(|f| f.targets.len()).sum::<usize>();
        let too_many = |what: &str, limit: u32, item: &dyn fmt::Display| {
            format!("the rules do not fit: {item} is beyond the limit of {limit} {what}; nothing was changed")
        };
        if let Some(over) = rules.forwards.get(abi::MAX_FORWARDS as usize) {
            let item = format!("forward {:?}", over.name);
            self.add(
                Place::Forward(abi::MAX_FORWARDS as usize),
                "",
                too_many("forwards", abi::MAX_FORWARDS, &item),
            );
        }
        if targets(&rules.forwards) > abi::MAX_TARGETS as usize {
            let mut sum = 0;
            for (at, forward) in rules.forwards.iter().enumerate() {
                let room = abi::MAX_TARGETS as usize - sum;
                if let Some(over) = forward.targets.get(room) {
                    let item = format!("target {} of forward {:?}", over.address, forward.name);
                    self.add(Place::Target(at, room), "", too_many("targets", abi::MAX_TARGETS, &item));
                    break;
                }
                sum += forward.targets.len();
            }
        }
        if let Some(over) = rules.echoes.get(abi::MAX_ECHOES as usize) {
            let item = format!("echo {}", over.listen);
            let message = too_many("echo reflectors", abi::MAX_ECHOES, &item);
            self.add(Place::Echo(abi::MAX_ECHOES as usize), "", message);
        }
        let mut allowed = 0;
        for (at, echo) in rules.echoes.iter().enumerate() {
            allowed += echo.allow.len();
            if allowed > abi::MAX_ALLOW as usize {
                let item = format!("the allow list of echo {}", echo.listen);
                let message = too_many("prefixes over all allow lists", abi::MAX_ALLOW, &item);
                self.add(Place::Echo(at), "allow", message);
                break;
            }
        }
        let services = rules.forwards.len() + rules.echoes.len();
        if services > abi::MAX_SERVICES as usize {
            let message = format!(
                "the rules do not fit: {services} forwards and echo reflectors, and the limit is {} together",
                abi::MAX_SERVICES
            );
            self.add(Place::Whole, "", message);
        }
    }

    fn forwards(&mut self, rules: &Rules) {
        let mut names: HashMap<&str, usize> = HashMap::new();
        for (at, forward) in rules.forwards.iter().enumerate() {
            let place = Place::Forward(at);
            self.note(place.clone(), "name", name("forward", &forward.name));
            if let Some(first) = names.insert(&forward.name, at) {
                let message = format!(
                    "two forwards are named {:?} ({} and {}): give one of them another name",
                    forward.name, rules.forwards[first].listen, forward.listen
                );
                self.add(place.clone(), "name", message);
            }
            self.note(place.clone(), "listen", listen_address(&forward.listen));
            self.note(place.clone(), "tunnel_source", tunnel_source(forward));
            self.note(place, "comment", comment(forward.comment.as_deref()));
            if forward.on_drain == OnDrain::Move && forward.protocol == Transport::Tcp {
                let message = "a TCP connection cannot move to another target, which knows nothing of it: use \
                     on_drain = \"keep\", and delete the target when it has drained";
                self.add(Place::Forward(at), "on_drain", message);
            }
            self.quic(at, forward);
            self.targets(at, forward);
            self.health(at, forward);
        }
    }

    fn targets(&mut self, at: usize, forward: &Forward) {
        let mut keys = HashSet::new();
        for (number, target) in forward.targets.iter().enumerate() {
            let place = Place::Target(at, number);
            self.note(place.clone(), "address", target_address(forward, target));
            if !(1..=MAX_WEIGHT).contains(&target.weight) {
                let message = format!("weight {} is not in 1 to {MAX_WEIGHT}", target.weight);
                self.add(place.clone(), "weight", message);
            }
            if !keys.insert(normal::target_key(&target.address)) {
                let message = format!(
                    "forward {:?} has target {} twice: give one target a higher weight instead",
                    forward.name, target.address
                );
                self.add(place, "address", message);
            }
        }
    }

    fn echo(&mut self, at: usize, echo: &Echo) {
        self.note(Place::Echo(at), "listen", listen_address(&echo.listen));
        self.note(Place::Echo(at), "comment", comment(echo.comment.as_deref()));
        if echo.listen.ports.count() != 1 {
            let message = format!("an echo reflector listens on one port, not on {}", echo.listen.ports);
            self.add(Place::Echo(at), "listen", message);
        }
        if echo.allow.is_empty() {
            self.add(
                Place::Echo(at),
                "allow",
                "an echo reflector needs an allow list: one that answers everybody can be made to answer another \
                 echo service for ever (CVE-2024-2169); name the prefixes that may use it, for instance \
                 198.51.100.0/24",
            );
        }
        if let Some(over) = echo.allow.get(MAX_ALLOW_PER_ECHO as usize) {
            let message = format!(
                "the rules do not fit: {over} is beyond the limit of {MAX_ALLOW_PER_ECHO} prefixes on one allow list; use \
                 wider prefixes"
            );
            self.add(Place::Echo(at), "allow", message);
        }
        if let Some(net) = echo.allow.iter().find(|net| net.addr().is_ipv4() != echo.listen.address.is_ipv4())
        {
            let message = format!(
                "{net} on the allow list is {}, and the echo reflector listens on {}, which is {}",
                family(&net.addr()),
                echo.listen.address,
                family(&echo.listen.address)
            );
            self.add(Place::Echo(at), "allow", message);
        }
        if let Some(verdict) = echo.allow.iter().map(prefix).find(Result::is_err) {
            self.note(Place::Echo(at), "allow", verdict);
        }
        if !(1..=MAX_ECHO_RATE).contains(&echo.rate) {
            let message = format!("rate {} is not in 1 to {MAX_ECHO_RATE} packets a second", echo.rate);
            self.add(Place::Echo(at), "rate", message);
        }
    }

    /// No two services may want one packet.
    fn overlaps(&mut self, rules: &Rules) {
        struct Listener {
            ports: PortRange,
            place: Place,
            label: String,
        }
        let mut by_address: BTreeMap<(IpAddr, Transport), Vec<Listener>> = BTreeMap::new();
        for (at, f) in rules.forwards.iter().enumerate() {
            by_address.entry((f.listen.address, f.protocol)).or_default().push(Listener {
                ports: f.listen.ports,
                place: Place::Forward(at),
                label: format!("forward {:?} ({} {})", f.name, f.protocol, f.listen),
            });
        }
        for (at, e) in rules.echoes.iter().enumerate() {
            by_address.entry((e.listen.address, Transport::Udp)).or_default().push(Listener {
                ports: e.listen.ports,
                place: Place::Echo(at),
                label: format!("echo {}", e.listen),
            });
        }
        for listeners in by_address.values_mut() {
            listeners.sort_by_key(|l| l.ports);
            let mut widest: Option<&Listener> = None;
            for listener in listeners.iter() {
                match widest {
                    Some(other) if other.ports.high >= listener.ports.low => {
                        let message = format!(
                            "{} and {} listen on the same port: give one of them another address or port, or \
                             delete the other first",
                            listener.label, other.label
                        );
                        self.add(listener.place.clone(), "listen", message);
                        if listener.ports.high > other.ports.high {
                            widest = Some(listener);
                        }
                    }
                    _ => widest = Some(listener),
                }
            }
        }
    }
}

fn name(kind: &str, name: &str) -> Verdict {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !first || !rest || name.len() > MAX_NAME {
        return Err(format!(
            "{name:?} cannot be the name of a {kind}: use 1 to {MAX_NAME} of a-z A-Z 0-9 - _ . beginning with a \
             letter or digit"
        ));
    }
    Ok(())
}

fn comment(comment: Option<&str>) -> Verdict {
    let Some(comment) = comment else { return Ok(()) };
    if comment.chars().count() > MAX_COMMENT {
        return Err(format!("a comment has at most {MAX_COMMENT} characters"));
    }
    if comment.chars().any(char::is_control) {
        return Err("a comment is one line without control characters".to_owned());
    }
    Ok(())
}
