//! Lists, counts and ends flows at the operator's wish.

use std::net::{IpAddr, SocketAddr};

use netfast_common::{
    abi::{Config, Flow, FlowKey},
    addr,
    flow::{ORIGINAL, State, elapsed, is_expired},
};

use super::{Datapath, DatapathError, sweep::BATCH, tables::Table};
use crate::api::types::{FlowFilter, FlowRecord, Protocol, Transport};

fn endpoint(address: &[u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(addr::to_ip(address), u16::from_be_bytes(port))
}

fn protocol_number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

/// Names of forwards by uid.
pub type ForwardNames<'a> = &'a dyn Fn(u32) -> Option<String>;

fn matches(filter: &FlowFilter, key: &FlowKey, flow: &Flow, forward: &str) -> bool {
    let client = endpoint(&key.source, key.source_port);
    let service = endpoint(&key.destination, key.destination_port);
    let target: IpAddr = addr::to_ip(&flow.translated.destination);
    filter.protocol.is_none_or(|wanted| protocol_number(wanted) == key.protocol)
        && filter.client.is_none_or(|wanted| wanted == client.ip())
        && filter.client_port.is_none_or(|wanted| wanted == client.port())
        && filter.service.is_none_or(|wanted| wanted == service.ip())
        && filter.service_port.is_none_or(|wanted| wanted == service.port())
        && filter.target.is_none_or(|wanted| wanted == target)
        && filter.forward.as_deref().is_none_or(|wanted| wanted == forward)
        && filter.state.as_deref().is_none_or(|wanted| wanted == State::from_number(flow.state).label())
}

fn record(key: &FlowKey, flow: &Flow, now: u32, config: &Config, forward: String) -> FlowRecord {
    let hz = u64::from(config.hz.max(1));
    let state = State::from_number(flow.state);
    let idle = elapsed(now, flow.last_seen);
    FlowRecord {
        protocol: Protocol(key.protocol),
        client: endpoint(&key.source, key.source_port).to_string(),
        service: endpoint(&key.destination, key.destination_port).to_string(),
        source: endpoint(&flow.translated.source, flow.translated.source_port).to_string(),
        target: endpoint(&flow.translated.destination, flow.translated.destination_port).to_string(),
        forward,
        state: state.label().to_owned(),
        age_seconds: u64::from(elapsed(now, flow.created)) / hz,
        idle_seconds: u64::from(idle) / hz,
        expires_seconds: u64::from(state.timeout(&config.timeouts).saturating_sub(idle)) / hz,
    }
}

impl Datapath {
    /// Calls `each` for every living flow that matches.
    fn for_each_flow(
        &self,
        filter: &FlowFilter,
        names: ForwardNames<'_>,
        mut each: impl FnMut(Table, &FlowKey, &Flow, u32, &Config, String) -> std::io::Result<()>,
    ) -> Result<u64, DatapathError> {
        let failed = |error| DatapathError::Kernel { call: "walk over the flow tables", error };
        let config: Config = self.maps.config.get(0).unwrap_or_default();
        let now = self.clock.now()?;
        let mut count = 0;
        for table in Table::ALL {
            let mut batches = self.walk(table, BATCH);
            while let Some((keys, flows)) = batches.next().map_err(failed)? {
                for (key, flow) in keys.iter().zip(flows) {
                    if flow.direction != ORIGINAL || is_expired(flow, now, &config.timeouts) {
                        continue;
                    }
                    let forward = names(flow.forward_uid).unwrap_or_default();
                    if matches(filter, key, flow, &forward) {
                        count += 1;
                        each(table, key, flow, now, &config, forward).map_err(failed)?;
                    }
                }
            }
        }
        Ok(count)
    }

    /// The flows that match, at most `filter.limit` of them, and how many match in all. Blocks.
    ///
    /// # Errors
    ///
    /// If a table cannot be read.
    pub fn list_flows(
        &self,
        filter: &FlowFilter,
        names: ForwardNames<'_>,
    ) -> Result<(u64, Vec<FlowRecord>), DatapathError> {
        let limit = filter.limit.unwrap_or(usize::MAX);
        let mut records = Vec::new();
        let count = self.for_each_flow(filter, names, |_, key, flow, now, config, forward| {
            if records.len() < limit {
                records.push(record(key, flow, now, config, forward));
            }
            Ok(())
        })?;
        Ok((count, records))
    }

    /// Ends the flows that match; tells how many. The caller publishes afterwards, which voids their cached lines.
    ///
    /// # Errors
    ///
    /// If a table cannot be read or written.
    pub fn flush_flows(&self, filter: &FlowFilter, names: ForwardNames<'_>) -> Result<u64, DatapathError> {
        self.for_each_flow(filter, names, |table, key, flow, _, _, _| self.end_flow(table, key, flow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> (FlowKey, Flow) {
        let key = FlowKey {
            source: addr::from_ip("198.51.100.9".parse().unwrap()),
            destination: addr::from_ip("192.0.2.10".parse().unwrap()),
            source_port: 40_000u16.to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            protocol: 6,
            pad: [0; 3],
        };
        let translated = FlowKey {
            source: addr::from_ip("10.0.0.1".parse().unwrap()),
            destination: addr::from_ip("10.0.0.11".parse().unwrap()),
            source_port: 20_001u16.to_be_bytes(),
            destination_port: 8443u16.to_be_bytes(),
            ..key
        };
        (
            key,
            Flow {
                translated,
                last_seen: 1000,
                created: 500,
                state: State::Established as u8,
                ..Flow::default()
            },
        )
    }

    #[test]
    fn a_filter_matches_all_that_it_names() {
        let (key, flow) = flow();
        let yes = FlowFilter {
            protocol: Some(Transport::Tcp),
            client: Some("198.51.100.9".parse().unwrap()),
            client_port: Some(40_000),
            service: Some("192.0.2.10".parse().unwrap()),
            service_port: Some(443),
            target: Some("10.0.0.11".parse().unwrap()),
            forward: Some("web".to_owned()),
            state: Some("established".to_owned()),
            limit: Some(0),
        };
        assert!(matches(&yes, &key, &flow, "web"));
        assert!(matches(&FlowFilter::default(), &key, &flow, ""));
        let no = [
            FlowFilter { protocol: Some(Transport::Udp), ..yes.clone() },
            FlowFilter { client: Some("198.51.100.8".parse().unwrap()), ..yes.clone() },
            FlowFilter { client_port: Some(1), ..yes.clone() },
            FlowFilter { service: Some("192.0.2.11".parse().unwrap()), ..yes.clone() },
            FlowFilter { service_port: Some(80), ..yes.clone() },
            FlowFilter { target: Some("10.0.0.12".parse().unwrap()), ..yes.clone() },
            FlowFilter { forward: Some("dns".to_owned()), ..yes.clone() },
            FlowFilter { state: Some("opening".to_owned()), ..yes },
        ];
        for filter in no {
            assert!(!matches(&filter, &key, &flow, "web"), "{filter:?}");
        }
    }

    #[test]
    fn a_record_tells_times_in_seconds() {
        let (key, flow) = flow();
        let mut config = Config { hz: 250, ..Config::default() };
        config.timeouts.tcp.established = 7440 * 250;
        let record = record(&key, &flow, 1500, &config, "web".to_owned());
        assert_eq!("198.51.100.9:40000", record.client);
        assert_eq!("192.0.2.10:443", record.service);
        assert_eq!("10.0.0.1:20001", record.source);
        assert_eq!("10.0.0.11:8443", record.target);
        assert_eq!((4, 2, 7438), (record.age_seconds, record.idle_seconds, record.expires_seconds));
    }
}
