//! `netfast explain`.

use super::{
    Context,
    failure::{Failure, Outcome},
    values::Peer,
};
use crate::{
    api::types::{Decider, ExplainReply, ExplainRequest, FilterAction, IcmpKind, Protocol, TcpFlags},
    rules::diff,
};

/// Shows which filter rule decides a packet, and which service would get it
///
/// The packet is made up, and belongs to no flow; with --established it is one of a TCP flow that was allowed: about those only
/// rules on TCP flags are asked that do something else than to allow. Without --in rules on interfaces and policies do not match.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast explain --in eth0 tcp 198.51.100.7:40000 192.0.2.10:443
  netfast explain udp [2001:db8::7]:5000 [2001:db8::10]:53
  netfast explain tcp 198.51.100.7:40000 192.0.2.10:443 --flags ack
  netfast explain tcp 198.51.100.7:40000 192.0.2.10:443 --flags fin,ack --established
  netfast explain icmp 198.51.100.7 192.0.2.10 --icmp echo-request")]
pub struct Explain {
    /// IP protocol: tcp, udp, icmp, icmpv6 or a number
    protocol: Protocol,
    /// Source address, and port of TCP and UDP
    #[arg(value_name = "SRC[:PORT]")]
    source: Peer,
    /// Destination address, and port of TCP and UDP
    #[arg(value_name = "DST[:PORT]")]
    destination: Peer,
    /// Interface that the packet comes in by
    #[arg(long = "in", visible_alias = "interface", value_name = "IFACE")]
    interface: Option<String>,
    /// TCP flags that are set [default: syn; with --established ack]
    #[arg(long)]
    flags: Option<TcpFlags>,
    /// ICMP type, and code behind a / [default: echo-request]
    #[arg(long, value_name = "TYPE[/CODE]")]
    icmp: Option<IcmpKind>,
    /// VLAN [default: untagged]
    #[arg(long, value_name = "ID")]
    vlan: Option<u16>,
    /// The packet belongs to an established TCP flow, in either direction
    #[arg(long)]
    established: bool,
}

impl Explain {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let Self { protocol, source, destination, interface, flags, icmp, vlan, established } = self;
        if let Some(flags) = flags.filter(|flags| flags.value != flags.mask) {
            return Err(Failure::usage("flags", format_args!("{flags}: a packet has flags and no mask")));
        }
        let request = ExplainRequest {
            protocol,
            source: source.address,
            source_port: source.port,
            destination: destination.address,
            destination_port: destination.port,
            interface,
            flags,
            icmp,
            vlan,
            established,
        };
        let reply = context.client.explain(&request).await?;
        if context.output.is_json() {
            return context.output.json(&reply);
        }
        for decider in &reply.passes {
            context.output.line(&format!("passes    {}", rule(decider)))?;
        }
        context.output.line(&format!("filter    {}", decision(&reply)))?;
        if reply.verdict == FilterAction::Allow && !established {
            let service = reply.service.as_deref().unwrap_or("none: the packet goes to the kernel");
            context.output.line(&format!("service   {service}"))?;
        }
        Ok(())
    }
}

fn decision(reply: &ExplainReply) -> String {
    match (&reply.decided_by, &reply.policy) {
        (Some(decider), _) => rule(decider),
        (None, Some(interface)) => format!("policy of {interface}: {}", reply.verdict),
        (None, None) => "no rule decides: allow".to_owned(),
    }
}

/// `rule 3 "web": allow proto=tcp dport=443`.
fn rule(decider: &Decider) -> String {
    let Decider { position, rule } = decider;
    let name = rule.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
    format!("rule {position}{name}: {}", diff::content(rule))
}
