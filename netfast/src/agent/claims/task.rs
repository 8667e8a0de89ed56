//! The task that holds the claims.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use netfast_common::abi::{CLAIM_HELD, CLAIM_PROBING, ClaimKey, Event};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    Board, Command, Refused, fault, frames,
    link::{Membership, Sender},
    plan::{Place, Places},
    text,
};
use crate::{
    api::types::{ClaimState, ClaimStatus},
    datapath::Datapath,
    netlink::{Mac, Netlink},
};

/// How often the link is asked before an address is taken (RFC 5227 1.1: PROBE_NUM). The RFC's times are 5 to 7 seconds in
/// all, for links that may lose a second or two when they come up; a person waits for this answer, on a link that is up: one
/// second, as duplicate address detection takes (RFC 4862 5.1).
const PROBES: u32 = 3;
/// Between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// After the last one.
const PROBE_WAIT: Duration = Duration::from_millis(600);
/// How often an address is announced (RFC 4861 10: MAX_NEIGHBOR_ADVERTISEMENT; RFC 5227 asks for two).
const ANNOUNCEMENTS: u32 = 3;
/// Between two announcements (RFC 5227 1.1).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// An address that was taken is asked for again after this time.
const TAKEN_RETRY: Duration = Duration::from_secs(60);
/// A claim that another station contests is announced once in this time (RFC 5227 1.1: DEFEND_INTERVAL).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// The status tells of a conflict for so long.
const CONFLICT_SHOWN: Duration = Duration::from_secs(60);
/// An address that was found free is kept for a change that asked for it for so long.
const RESERVED: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing can be asked at present.
    Down,
    /// `sent` probes are out.
    Probing { sent: u32, next: Instant },
    /// Free, until somebody wants it.
    Free { until: Instant },
    /// The program answers; `left` announcements are to come.
    Held { left: u32, next: Instant },
    /// Another station has it.
    Taken { retry: Instant },
}

struct Entry {
    place: Place,
    state: State,
    /// The rules want it; otherwise a change only asks.
    wanted: bool,
    station: Option<Mac>,
    conflicts: u64,
    seen: Option<Instant>,
    defended: Option<Instant>,
    /// Of the group by which it is asked for.
    membership: Option<Membership>,
}

/// A change that waits.
struct Trial {
    keys: Vec<ClaimKey>,
    reply: oneshot::Sender<Result<(), Refused>>,
}

pub(super) struct Task {
    datapath: Arc<Datapath>,
    netlink: Netlink,
    board: Arc<ArcSwap<Board>>,
    sender: Option<Sender>,
    socket_problem: Option<String>,
    entries: BTreeMap<ClaimKey, Entry>,
    /// What an earlier agent's program holds.
    adopted: BTreeSet<ClaimKey>,
    trials: Vec<Trial>,
}

impl Task {
    pub(super) fn new(datapath: Arc<Datapath>, netlink: Netlink, board: Arc<ArcSwap<Board>>) -> Self {
        let held = |(key, state)| (state == CLAIM_HELD).then_some(key);
        let adopted = datapath.claims().into_iter().filter_map(held).collect();
        Self {
            datapath,
            netlink,
            board,
            sender: None,
            socket_problem: None,
            entries: BTreeMap::new(),
            adopted,
            trials: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let due = self.due();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Try { places, reply }) => self.attempt(places, reply),
                    Some(Command::Set(places)) => self.set(places),
                    Some(Command::Seen(event)) => self.seen(&event),
                    None => return,
                },
                () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {}
            }
            self.step();
            self.judge();
            self.tell();
        }
    }

    fn due(&self) -> Option<Instant> {
        let entries = self.entries.values();
        entries
            .filter_map(|entry| match entry.state {
                State::Down | State::Held { left: 0, .. } => None,
                State::Probing { next, .. } | State::Held { next, .. } => Some(next),
                State::Free { until } => Some(until),
                State::Taken { retry } => Some(retry),
            })
            .min()
    }

    fn attempt(&mut self, places: Places, reply: oneshot::Sender<Result<(), Refused>>) {
        let keys = places.keys().copied().collect();
        for (key, place) in places {
            if !self.entries.contains_key(&key) {
                self.insert(key, place, false);
            }
        }
        self.trials.push(Trial { keys, reply });
    }

    fn insert(&mut self, key: ClaimKey, place: Place, wanted: bool) {
        let now = Instant::now();
        let membership = Membership::join(place.address, place.l3).unwrap_or_else(|error| {
            tracing::warn!(
                address = %place.address, interface = place.interface, %error,
                "cannot join the group of neighbour solicitations: the interface may not take them in"
            );
            None
        });
        let mut entry = Entry {
            place,
            state: State::Down,
            wanted,
            station: None,
            conflicts: 0,
            seen: None,
            defended: None,
            membership,
        };
        if self.adopted.remove(&key) {
            entry.state = State::Held { left: ANNOUNCEMENTS, next: now };
        } else {
            self.probe(&key, &mut entry);
        }
        self.entries.insert(key, entry);
    }

    /// Begins to ask, if the link is up.
    fn probe(&mut self, key: &ClaimKey, entry: &mut Entry) {
        if !entry.place.usable {
            entry.state = State::Down;
            return;
        }
        match self.datapath.set_claim(key, CLAIM_PROBING) {
            Ok(()) => entry.state = State::Probing { sent: 0, next: Instant::now() },
            Err(error) => {
                tracing::error!(address = %entry.place.address, %error, "cannot claim");
                entry.state = State::Down;
            }
        }
    }

    fn remove(&mut self, key: &ClaimKey) {
        if let Err(error) = self.datapath.remove_claim(key) {
            tracing::error!(%error, "a claim cannot be given up");
        }
        if let Some(Entry { place, state: State::Held { .. }, .. }) = self.entries.remove(key) {
            tracing::info!(address = %place.address, interface = place.interface, "claim given up");
        }
    }

    fn set(&mut self, mut places: Places) {
        let gone: Vec<ClaimKey> = self
            .entries
            .iter()
            .filter(|(key, entry)| {
                let tried = self.trials.iter().any(|trial| trial.keys.contains(key));
                let reserved = matches!(entry.state, State::Free { .. }) && !entry.wanted;
                !places.contains_key(*key) && !tried && !reserved
            })
            .map(|(key, _)| *key)
            .collect();
        gone.iter().for_each(|key| self.remove(key));
        let keys: Vec<ClaimKey> = self.entries.keys().copied().collect();
        for key in keys {
            let Some(place) = places.remove(&key) else { continue };
            let Some(mut entry) = self.entries.remove(&key) else { continue };
            self.update(&key, &mut entry, place);
            self.entries.insert(key, entry);
        }
        for (key, place) in places {
            self.insert(key, place, true);
        }
        // What an earlier agent held and nobody wants any more.
        for key in std::mem::take(&mut self.adopted) {
            self.remove(&key);
        }
    }

    fn update(&mut self, key: &ClaimKey, entry: &mut Entry, place: Place) {
        let came_up = place.usable && !entry.place.usable;
        let moved = place.mac != entry.place.mac;
        if place.l3 != entry.place.l3 {
            entry.membership = Membership::join(place.address, place.l3).unwrap_or_default();
        }
        (entry.place, entry.wanted) = (place, true);
        match entry.state {
            State::Free { .. } => self.hold(key, entry),
            State::Down => self.probe(key, entry),
            State::Held { .. } if came_up || moved => {
                entry.state = State::Held { left: ANNOUNCEMENTS, next: Instant::now() };
            }
            State::Probing { .. } | State::Held { .. } | State::Taken { .. } => {}
        }
    }

    fn hold(&self, key: &ClaimKey, entry: &mut Entry) {
        let Place { address, interface, .. } = &entry.place;
        match self.datapath.set_claim(key, CLAIM_HELD) {
            Ok(()) => {
                tracing::info!(%address, interface, "claimed");
                entry.station = None;
                entry.state = State::Held { left: ANNOUNCEMENTS, next: Instant::now() };
            }
            Err(error) => {
                tracing::error!(%address, %error, "cannot claim");
                entry.state = State::Down;
            }
        }
    }

    /// Does what is due.
    fn step(&mut self) {
        let now = Instant::now();
        let keys: Vec<ClaimKey> = self.entries.keys().copied().collect();
        for key in keys {
            let Some(mut entry) = self.entries.remove(&key) else { continue };
            match entry.state {
                State::Probing { sent, next } if next <= now => self.step_probe(&key, &mut entry, sent),
                State::Held { left, next } if left > 0 && next <= now => {
                    self.announce(&key, &mut entry);
                    entry.state = State::Held { left: left - 1, next: now + ANNOUNCE_INTERVAL };
                }
                State::Taken { retry } if retry <= now => self.probe(&key, &mut entry),
                State::Free { until } if until <= now => {
                    self.remove(&key);
                    continue;
                }
                _ => {}
            }
            self.entries.insert(key, entry);
        }
    }

    fn step_probe(&mut self, key: &ClaimKey, entry: &mut Entry, sent: u32) {
        let now = Instant::now();
        if sent == PROBES {
            if entry.wanted {
                self.hold(key, entry);
            } else {
                entry.state = State::Free { until: now + RESERVED };
            }
            return;
        }
        let frame = frames::probe(entry.place.address, entry.place.mac, key.vlan as u16);
        match self.send(key.ifindex, &frame) {
            Ok(()) => {
                let sent = sent + 1;
                let wait = if sent == PROBES { PROBE_WAIT } else { PROBE_INTERVAL };
                entry.state = State::Probing { sent, next: now + wait };
            }
            Err(error) => {
                tracing::warn!(address = %entry.place.address, interface = entry.place.interface, %error, "cannot probe");
                entry.state = State::Down;
            }
        }
    }

    fn announce(&mut self, key: &ClaimKey, entry: &mut Entry) {
        let frame = frames::announcement(entry.place.address, entry.place.mac, key.vlan as u16);
        if let Err(error) = self.send(key.ifindex, &frame) {
            tracing::warn!(
                address = %entry.place.address, interface = entry.place.interface, %error,
                "cannot announce the claim: stations that knew another MAC address learn of it later"
            );
        }
    }

    fn send(&mut self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let sender = match &self.sender {
            Some(sender) => sender,
            None => match Sender::open() {
                Ok(sender) => {
                    self.socket_problem = None;
                    self.sender.insert(sender)
                }
                Err(error) => {
                    self.socket_problem = Some(format!(
                        "a packet socket cannot be opened: {error}; give the agent CAP_NET_RAW (the systemd unit does)"
                    ));
                    return Err(error);
                }
            },
        };
        sender.send(ifindex, frame)
    }

    /// The program has seen a station with an address that is claimed or asked for.
    fn seen(&mut self, event: &Event) {
        let key =
            ClaimKey { address: event.key.address, ifindex: event.key.ifindex, vlan: u32::from(event.vlan) };
        // This host by another of its interfaces on the same link is no other station.
        if self.netlink.host().links.values().any(|link| link.mac == Some(event.mac)) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let (now, station) = (Instant::now(), text(event.mac));
        let Place { address, interface, .. } = &entry.place;
        (entry.station, entry.seen) = (Some(event.mac), Some(now));
        match &mut entry.state {
            State::Probing { .. } | State::Free { .. } => {
                tracing::error!(%address, interface, station, "not claimed: another station has it");
                entry.state = State::Taken { retry: now + TAKEN_RETRY };
                if let Err(error) = self.datapath.remove_claim(&key) {
                    tracing::error!(%error, "a claim cannot be given up");
                }
            }
            State::Held { left, next } => {
                entry.conflicts += 1;
                // RFC 5227 2.4 c: kept, as a service's address is not to be had by whoever sends a frame; announced again, not
                // too often, so that two stations that do the same do not fill the link.
                if entry.defended.is_none_or(|last| last + DEFEND_INTERVAL <= now) {
                    tracing::error!(%address, interface, station, "another station uses a claimed address: announcing it again");
                    entry.defended = Some(now);
                    (*left, *next) = ((*left).max(1), now);
                }
            }
            State::Down | State::Taken { .. } => {}
        }
    }

    /// Answers the changes that wait.
    fn judge(&mut self) {
        for trial in std::mem::take(&mut self.trials) {
            let entries = trial.keys.iter().filter_map(|key| self.entries.get(key));
            let taken = entries.clone().find_map(|entry| match (entry.state, entry.station) {
                (State::Taken { .. }, Some(mac)) => {
                    let Place { address, interface, .. } = &entry.place;
                    Some(Refused::Taken { address: *address, interface: interface.clone(), mac })
                }
                (State::Down, _) => self.socket_problem.clone().map(Refused::Socket),
                _ => None,
            });
            let asking = entries.clone().any(|entry| matches!(entry.state, State::Probing { .. }));
            match taken {
                Some(refused) => {
                    let unwanted =
                        |key: &&ClaimKey| self.entries.get(*key).is_some_and(|entry| !entry.wanted);
                    let unwanted: Vec<ClaimKey> = trial.keys.iter().filter(unwanted).copied().collect();
                    unwanted.iter().for_each(|key| self.remove(key));
                    let _ = trial.reply.send(Err(refused));
                }
                None if asking => self.trials.push(trial),
                None => {
                    let _ = trial.reply.send(Ok(()));
                }
            }
        }
    }

    /// Leaves for everybody where things stand.
    fn tell(&self) {
        let mut board = Board::default();
        board.faults.extend(self.socket_problem.iter().map(|problem| format!("claims: {problem}")));
        for entry in self.entries.values().filter(|entry| entry.wanted) {
            let state = match entry.state {
                State::Down => ClaimState::Down,
                State::Probing { .. } | State::Free { .. } => ClaimState::Probing,
                State::Held { .. } => ClaimState::Held,
                State::Taken { .. } => ClaimState::Taken,
            };
            let row = ClaimStatus {
                address: entry.place.address,
                interface: entry.place.interface.clone(),
                state,
                station: entry.station.map(text),
                conflicts: entry.conflicts,
            };
            board.faults.extend(fault(&row));
            if let (ClaimState::Held, Some(station)) = (state, &row.station)
                && entry.seen.is_some_and(|seen| seen.elapsed() < CONFLICT_SHOWN)
            {
                board.conflicts.push(format!(
                    "claim of {}: the station {station} on {} uses it, too; find it and take the address away there",
                    row.address, row.interface
                ));
            }
            board.rows.push(row);
        }
        self.board.store(Arc::new(board));
    }
}
