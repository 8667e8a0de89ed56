//! Claimed addresses: netfast answers ARP and neighbour discovery for them in the kernel's place.
//!
//! The program answers (the map `CLAIMS`); this task decides which addresses it answers for. Before the first answer it asks
//! the link whether another station has the address; what comes back is seen by the program, too, which tells by events. So a
//! claim needs no socket that takes anything in, and a conflict is noticed at any time.

mod frames;
mod link;
mod plan;
mod task;

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use netfast_common::abi;
use tokio::sync::{mpsc, oneshot};

use crate::{
    api::types::{ClaimState, ClaimStatus, ErrorBody, ErrorCode},
    datapath::Datapath,
    netlink::{Mac, Netlink},
};
pub(super) use plan::{Place, Places, addresses, plan};

/// What is asked of the task.
enum Command {
    Try { places: Places, reply: oneshot::Sender<Result<(), Refused>> },
    Set(Places),
    Seen(abi::Event),
}

/// Why a claim cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Another station has the address.
    #[error(
        "{address} is in use on {interface}: the station {} has it; give that station another address, or claim another one",
        text(*mac)
    )]
    Taken {
        /// The address.
        address: IpAddr,
        /// Interface that the station was seen on.
        interface: String,
        /// Its MAC address.
        mac: Mac,
    },
    /// The link cannot be asked.
    #[error("cannot ask the link whether claimed addresses are free: {0}")]
    Socket(String),
}

/// A MAC address in text.
fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What everybody may know of the claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    /// One row for each address and link.
    pub(super) rows: Vec<ClaimStatus>,
    /// Claims that are not held, and why, a sentence each.
    pub(super) faults: Vec<String>,
    /// Claims that are held, and that another station was seen with, a sentence each.
    pub(super) conflicts: Vec<String>,
}

/// Handle to the task, which ends when the last one is dropped.
#[derive(Clone)]
pub(super) struct Claims {
    commands: mpsc::UnboundedSender<Command>,
    board: Arc<ArcSwap<Board>>,
}

impl Claims {
    /// Starts the task. What the program holds already, it goes on holding until [`Self::set`] says otherwise.
    pub(super) fn start(datapath: Arc<Datapath>, netlink: Netlink) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let board = Arc::new(ArcSwap::from_pointee(Board::default()));
        let task = task::Task::new(datapath, netlink, Arc::clone(&board));
        tokio::spawn(task.run(receiver));
        Self { commands, board }
    }

    /// Asks whether all of `places` are free. Those that are stay reserved for some time, for [`Self::set`].
    ///
    /// # Errors
    ///
    /// If another station has one of them.
    pub(super) async fn check(&self, places: Places) -> Result<(), ErrorBody> {
        if places.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        // A task that has ended answers nothing: the agent is stopping.
        let _ = self.commands.send(Command::Try { places, reply });
        let Ok(Err(refused)) = answer.await else { return Ok(()) };
        let code = match refused {
            Refused::Taken { .. } => ErrorCode::Conflict,
            Refused::Socket(_) => ErrorCode::Permission,
        };
        Err(ErrorBody { code, message: refused.to_string(), field: Some("claim".to_owned()) })
    }

    /// Makes the claims what is given: all of them.
    pub(super) fn set(&self, places: Places) {
        let _ = self.commands.send(Command::Set(places));
    }

    /// The program has seen another station with a claimed address.
    pub(super) fn seen(&self, event: abi::Event) {
        let _ = self.commands.send(Command::Seen(event));
    }

    /// Where the claims stand.
    pub(super) fn board(&self) -> Arc<Board> {
        self.board.load_full()
    }
}

/// A row and what it has to say beside.
fn fault(row: &ClaimStatus) -> Option<String> {
    let ClaimStatus { address, interface, .. } = row;
    match row.state {
        ClaimState::Taken => Some(format!(
            "claim of {address}: the station {} on {interface} has it; netfast does not answer for it, and asks again \
             from time to time",
            row.station.as_deref().unwrap_or("(unknown)")
        )),
        ClaimState::Down => Some(format!("claim of {address}: {interface} is down")),
        ClaimState::Probing | ClaimState::Held => None,
    }
}
