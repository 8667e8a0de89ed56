//! `bench control`: 1,000 forwards of 10 targets each.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::{Context as _, Result};
use netfast::api::{
    client::Client,
    types::{Forward, Operation, Target, Transport},
};
use serde_json::{Value, json};

use super::{Times, request, seconds};
use crate::live::{
    agent::Agent,
    world::{SERVICE, TARGET},
};

/// Forwards and targets of each that are applied.
const FORWARDS: u16 = 1000;
const PER_FORWARD: u16 = 10;
/// The targets' network, behind a router.
const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// Clients at once.
const CLIENTS: usize = 8;

/// A forward; no target is another forward's, too.
fn forward(name: String, number: u16) -> Result<Forward> {
    let target = |n: u16| -> Result<Target> {
        let address = NETWORK.to_bits() + u32::from(number) * u32::from(PER_FORWARD) + u32::from(n);
        Ok(Target::new(format!("{}:{}", Ipv4Addr::from_bits(address), 8000 + n).parse()?))
    };
    Ok(Forward {
        targets: (0..PER_FORWARD).map(target).collect::<Result<_>>()?,
        ..Forward::new(name, Transport::Tcp, format!("{SERVICE}:{}", 10_000 + number).parse()?)
    })
}

/// `netfast apply -f` of 1,000 forwards with 10 targets each, and of nothing that is new.
pub fn apply(agent: &Agent) -> Result<Value> {
    agent.namespace().route(&format!("{NETWORK}/15 via {TARGET}"))?;
    let mut text = String::new();
    for number in 0..FORWARDS {
        let forward = forward(format!("f{number}"), number)?;
        text += &format!(
            "[[forward]]\nname = \"{}\"\nprotocol = \"tcp\"\nlisten = \"{}\"\n",
            forward.name, forward.listen
        );
        for target in forward.targets {
            text += &format!("[[forward.target]]\naddress = \"{}\"\n", target.address);
        }
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let path = file.path().display().to_string();
    let apply = || -> Result<f64> {
        let began = Instant::now();
        agent.ok(&["apply", "-f", &path])?;
        Ok(seconds(began.elapsed()))
    };
    Ok(json!({
        "name": "control/apply_1000x10", "forwards": FORWARDS, "targets": FORWARDS * PER_FORWARD,
        "seconds": apply()?, "again_seconds": apply()?,
    }))
}

/// A forward more and a forward less by the API, beside 1,000 others: one after the other, and by several clients at once.
pub fn changes(agent: &Agent, count: usize) -> Result<Vec<Value>> {
    let client = Client::new(agent.socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pair = |number: usize| -> Result<[Operation; 2]> {
        let name = format!("change{number}");
        let forward = forward(name.clone(), FORWARDS + u16::try_from(number)?)?;
        Ok([Operation::ForwardAdd { forward, if_not_exists: false }, Operation::ForwardDelete { name }])
    };
    let change = |operation: Operation| {
        let client = client.clone();
        async move {
            let began = Instant::now();
            let reply = client.change(&request(operation)).await;
            reply.map_err(|error| anyhow::anyhow!("{}", error.message))?;
            anyhow::Ok(began.elapsed().as_secs_f64())
        }
    };
    let rate =
        |done: usize, began: Instant| (done as f64 / began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let mut times = Times::default();
    let began = Instant::now();
    for number in 0..count.div_ceil(2) {
        for operation in pair(number)? {
            times.push(runtime.block_on(change(operation))?);
        }
    }
    let per_second = rate(times.0.len(), began);
    let mut one_by_one = times.row("control/changes");
    (one_by_one["forwards"], one_by_one["per_second"]) = (json!(FORWARDS), json!(per_second));

    let began = Instant::now();
    let done: usize = runtime.block_on(async {
        let clients = (0..CLIENTS).map(|client| async move {
            let mut done = 0;
            for number in 0..count.div_ceil(2 * CLIENTS) {
                for operation in pair(1000 + client * 1000 + number).context("a forward more")? {
                    change(operation).await?;
                    done += 1;
                }
            }
            anyhow::Ok(done)
        });
        let done = futures::future::try_join_all(clients).await?;
        anyhow::Ok(done.into_iter().sum())
    })?;
    let at_once = json!({
        "name": "control/changes_8_clients", "forwards": FORWARDS, "changes": done, "per_second": rate(done, began),
    });
    Ok(vec![one_by_one, at_once])
}
