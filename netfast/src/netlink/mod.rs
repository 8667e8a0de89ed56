//! The agent's view of the host's links, addresses, neighbours and routes, and the keeper of next hops.
//!
//! One task ([`watcher`]) follows the kernel's netlink notifications and owns everything; [`Netlink`] is the handle to
//! it. Routes are never looked up here: the kernel is asked ([`Netlink::resolve_targets`]), so that policy rules,
//! multipath and VRFs mean what they mean to it.
//!
//! The agent's part:
//! 1. [`Netlink::start`] with its [`HopTable`], then [`Netlink::adopt`] with the contents of `HOP_INDEX`.
//! 2. Before each compile: [`Netlink::resolve_targets`] with *all* targets; the [`ResolvedView`] is the compiler's
//!    [`crate::rules::images::HostView`].
//! 3. On each [`HostChange`]: write `VLANS`, `VLAN_LINKS`, `INTERFACES` anew if `links` moved; publish a new generation if
//!    `routes` moved, after resolving and compiling again.
//! 4. Hand over the program's events ([`Netlink::event`]) and, from the flow sweep, the next hops in use
//!    ([`Netlink::gc`]).

mod facts;
mod follow;
mod hops;
mod host;
mod indexes;
mod keeper;
mod lookups;
mod neighbours;
mod parse;
mod requests;
mod view;
mod watcher;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use netfast_common::abi;
use tokio::sync::{mpsc, oneshot, watch};

pub use facts::LinkFacts;
pub use hops::{HopStatus, HopTable, HopTableError, IDLE, PATIENCE};
pub use host::{Egress, EgressError, HostAddress, HostState, Link, Mac, VlanOf};
pub use view::{Answer, Path, ResolvedView, Unreachable};

use requests::Requests;
use watcher::Command;

/// Errors of this module.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error(
        "cannot open a netlink socket: {0}; the agent needs AF_NETLINK (RestrictAddressFamilies= in its unit)"
    )]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("netlink: {what} failed: {error}{}", hint(error))]
    Request {
        /// What was asked for.
        what: &'static str,
        /// The error.
        #[source]
        error: io::Error,
    },
    /// No answer.
    #[error("netlink: {what}: no answer from the kernel")]
    Timeout {
        /// What was asked for.
        what: &'static str,
    },
    /// The task has ended: the agent is stopping.
    #[error("the netlink task has ended; the agent is stopping")]
    Stopped,
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { "; the agent needs CAP_NET_ADMIN" } else { "" }
}

impl NetlinkError {
    fn os_error(&self) -> Option<i32> {
        match self {
            Self::Request { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }

    fn request(what: &'static str, error: &rtnetlink::Error) -> Self {
        let error = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Self::Request { what, error }
    }
}

/// Counts of changes, by kind: whoever watches compares with the counts seen before, so no change is ever missed.
/// Changes of about 20 ms come together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostChange {
    /// A link came, went or changed ([`Netlink::host`] has the new state).
    pub links: u64,
    /// An address came or went.
    pub addresses: u64,
    /// Routes, rules, links or addresses changed, so that packets may take another way: a new generation is due. The
    /// next hops of the targets of the last [`Netlink::resolve_targets`] are being resolved already.
    pub routes: u64,
    /// The kernel's answer for at least one of those targets is another one: resolve and compile again.
    pub targets: u64,
    /// A next hop's entry was written.
    pub hops: u64,
    /// Notifications of the kernel were lost, and everything was read anew.
    pub lost: u64,
}

/// Handle to the netlink task. Clones are handles to the same one; the task ends when the last one is dropped.
#[derive(Clone)]
pub struct Netlink {
    commands: mpsc::UnboundedSender<Command>,
    unresolved: mpsc::Sender<u16>,
    host: Arc<ArcSwap<HostState>>,
    changes: watch::Receiver<HostChange>,
    requests: Arc<Requests>,
}

impl Netlink {
    /// Opens netlink, takes the first dump and starts the task.
    pub async fn start(table: Arc<dyn HopTable>) -> Result<Self, NetlinkError> {
        let requests = Arc::new(Requests::connect()?);
        let host = Arc::new(ArcSwap::from_pointee(HostState::default()));
        let (commands, commands_rx) = mpsc::unbounded_channel();
        let (unresolved, unresolved_rx) = mpsc::channel(1024);
        let (changes_tx, changes) = watch::channel(HostChange::default());
        let watcher = watcher::Watcher::start(
            table,
            Arc::clone(&requests),
            Arc::clone(&host),
            changes_tx,
            commands.downgrade(),
        )
        .await?;
        tokio::spawn(watcher.run(commands_rx, unresolved_rx));
        Ok(Self { commands, unresolved, host, changes, requests })
    }

    /// The host's links and addresses now.
    pub fn host(&self) -> Arc<HostState> {
        self.host.load_full()
    }

    /// A receiver of changes.
    pub fn changes(&self) -> watch::Receiver<HostChange> {
        self.changes.clone()
    }

    /// Asks the kernel for the way to each target, gives the next hops their indexes and has them resolved; waits up to
    /// [`PATIENCE`] for new ones. What does not answer by then has an entry that is not valid, which becomes
    /// valid by itself.
    ///
    /// `targets` is *all* targets: next hops of targets left out now count as unused (see [`Self::gc`]).
    pub async fn resolve_targets(&self, targets: &[IpAddr]) -> Result<ResolvedView, NetlinkError> {
        let answers = self.requests.answers(targets).await;
        let gateways = view::gateways(&answers);
        Ok(self.call(|reply| Command::Want { answers, reply }).await?.with_gateways(gateways))
    }

    /// Takes over the next hops that an earlier agent or the program left in `HOP_INDEX`: they keep their indexes. May
    /// be called again at any time; known ones are left alone.
    pub async fn adopt(&self, entries: Vec<(abi::HopKey, u32)>) -> Result<(), NetlinkError> {
        self.call(|reply| Command::Adopt { entries, reply }).await
    }

    /// An event of the program. Never blocks: a flood of [`abi::EventKind::HopUnresolved`] is cut.
    pub fn event(&self, event: &abi::Event) {
        let Ok(index) = u16::try_from(event.hop) else { return };
        if event.kind == abi::EventKind::HopLearned as u32 {
            // Fails only when the task has ended, and then nothing is kept any more.
            let _ = self.commands.send(Command::Learned { index, key: event.key });
        } else if event.kind == abi::EventKind::HopUnresolved as u32 {
            // A full channel holds enough of them; the next packet asks again.
            let _ = self.unresolved.try_send(index);
        }
    }

    /// Frees next hops that nobody refers to: neither `in_use` (the next hops of all flows, and of all elements of
    /// `TARGETS`) nor the last [`Self::resolve_targets`]. One unused for [`IDLE`] is taken out of `HOP_INDEX`, and free
    /// after as long again. To be called every few seconds.
    pub fn gc(&self, in_use: HashSet<u16>) {
        let _ = self.commands.send(Command::Gc(in_use));
    }

    /// All next hops.
    pub async fn hops(&self) -> Result<Vec<HopStatus>, NetlinkError> {
        self.call(Command::Hops).await
    }

    /// Ends the kernel's keeping of neighbours: for an agent that takes netfast away for good.
    pub async fn release_all(&self) -> Result<(), NetlinkError> {
        self.call(Command::Release).await
    }

    /// Facts about an interface, asked of the kernel now; `None` if there is no such interface.
    pub async fn link_facts(&self, name: &str) -> Result<Option<LinkFacts>, NetlinkError> {
        Ok(self.requests.link(name).await?.map(LinkFacts::of))
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetlinkError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| NetlinkError::Stopped)?;
        answer.await.map_err(|_| NetlinkError::Stopped)
    }
}
