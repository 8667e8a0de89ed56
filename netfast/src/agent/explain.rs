//! What would become of a packet.

use netfast_common::{
    addr,
    wire::{ACK, Packet, SYN, TCP},
};

use super::state::Shared;
use crate::api::types::{
    Decider, ErrorBody, ErrorCode, ExplainReply, ExplainRequest, FilterAction, IcmpKind, Rules,
    SCHEMA_VERSION, Transport,
};

fn usage(field: &str, message: String) -> ErrorBody {
    ErrorBody { code: ErrorCode::Usage, message, field: Some(field.to_owned()) }
}

/// The packet as the program would describe it, with its ICMP type and code.
fn packet(request: &ExplainRequest) -> Result<(Packet, Option<[u8; 2]>), ErrorBody> {
    let (source, destination) = (request.source, request.destination);
    let v6 = source.is_ipv6();
    if v6 != destination.is_ipv6() {
        return Err(usage(
            "destination",
            format!("{source} and {destination} are of different IP versions: no packet has both"),
        ));
    }
    let protocol = request.protocol;
    let mut packet = Packet { version: if v6 { 6 } else { 4 }, ..Packet::default() };
    packet.key.source = addr::from_ip(source);
    packet.key.destination = addr::from_ip(destination);
    packet.key.protocol = protocol.0;
    packet.vlan = request.vlan.unwrap_or_default();
    let ports = [("source_port", request.source_port), ("destination_port", request.destination_port)];
    if protocol.has_ports() {
        if let Some((field, _)) = ports.into_iter().find(|(_, port)| port.is_none()) {
            return Err(usage(
                field,
                format!("packets of {protocol} have ports: write them behind both addresses"),
            ));
        }
        packet.key.source_port = request.source_port.unwrap_or_default().to_be_bytes();
        packet.key.destination_port = request.destination_port.unwrap_or_default().to_be_bytes();
    } else if let Some((field, _)) = ports.into_iter().find(|(_, port)| port.is_some()) {
        return Err(usage(field, format!("packets of {protocol} have no ports")));
    }
    match (request.flags, protocol.0) {
        (flags, TCP) => {
            let usual = if request.established { ACK } else { SYN };
            packet.flags = flags.map_or(usual, |flags| flags.value);
        }
        (Some(_), _) => return Err(usage("flags", format!("packets of {protocol} have no TCP flags"))),
        (None, _) => {}
    }
    if request.established && protocol.0 != TCP {
        return Err(usage(
            "established",
            format!("rules do not speak of packets of established flows of {protocol}, only of TCP"),
        ));
    }
    let icmp = match (request.icmp, protocol.0) {
        (kind, 1 | 58) => {
            let kind = kind.unwrap_or(IcmpKind::number(if v6 { 128 } else { 8 }, Some(0)));
            let number = kind.type_in(v6);
            let number = number.ok_or_else(|| usage("icmp", format!("{protocol} has no type {kind}")))?;
            Some([number, kind.code.unwrap_or_default()])
        }
        (Some(_), _) => return Err(usage("icmp", format!("packets of {protocol} have no ICMP type"))),
        (None, _) => None,
    };
    Ok((packet, icmp))
}

/// The service that listens at the packet's destination.
fn service(rules: &Rules, request: &ExplainRequest) -> Option<String> {
    let port = request.destination_port?;
    let listens = |listen: &crate::api::types::Endpoint| {
        listen.address == request.destination && (listen.ports.low..=listen.ports.high).contains(&port)
    };
    let transport = match request.protocol.0 {
        6 => Transport::Tcp,
        17 => Transport::Udp,
        _ => return None,
    };
    let forward = rules.forwards.iter().find(|f| f.protocol == transport && listens(&f.listen));
    let forward = forward.map(|forward| format!("forward {}", forward.name));
    let echo = || {
        let found = rules.echoes.iter().find(|echo| transport == Transport::Udp && listens(&echo.listen));
        found.map(|echo| format!("echo {}", echo.listen))
    };
    forward.or_else(echo)
}

impl Shared {
    /// What would become of a packet.
    pub(super) fn explain(&self, request: &ExplainRequest) -> Result<ExplainReply, ErrorBody> {
        let (packet, icmp) = packet(request)?;
        let host = self.netlink.host();
        let ifindex = match &request.interface {
            None => 0,
            Some(name) => host.ifindex(name).ok_or_else(|| ErrorBody {
                code: ErrorCode::NotFound,
                message: format!("there is no interface {name:?} (see `ip link`)"),
                field: Some("interface".to_owned()),
            })?,
        };
        let snapshot = self.snapshot.load();
        let rules = &snapshot.intent.rules;
        let mut reply = ExplainReply {
            schema_version: SCHEMA_VERSION,
            revision: snapshot.intent.revision,
            verdict: FilterAction::Allow,
            decided_by: None,
            policy: None,
            passes: Vec::new(),
            service: if request.established { None } else { service(rules, request) },
        };
        // What is live, match by match: 100,000 of them take a few milliseconds.
        for rule in snapshot.filter.iter().filter(|rule| rule.matches(&packet, ifindex, icmp)) {
            // The first match decides; where it does not speak of flows, the flow's packet passes.
            if request.established && !rule.speaks_of_flows() {
                if rule.action.goes_on() {
                    continue;
                }
                break;
            }
            // Identifiers of the policies stand behind those of the rules.
            let at = snapshot.ids.filters().iter().position(|id| id.index == rule.number);
            let Some(at) = at else { continue };
            match rules.filters.get(at) {
                Some(filter) => {
                    let decider = Decider { position: at + 1, rule: filter.clone() };
                    if filter.action.goes_on() {
                        // Several matches of one rule are one.
                        if reply.passes.last() != Some(&decider) {
                            reply.passes.push(decider);
                        }
                        continue;
                    }
                    reply.verdict = filter.action;
                    reply.decided_by = Some(decider);
                }
                None => {
                    reply.verdict = FilterAction::Drop;
                    reply.policy = request.interface.clone();
                }
            }
            break;
        }
        Ok(reply)
    }
}
