//! Stable indexes and uids of forwards, targets, echo reflectors and filter counters.
//!
//! Flows, cached lines and counters refer to objects by index. So an object keeps its index for life, and the index of a
//! removed one is *retired*: it is given out again only after the agent has [released](Ids::release) it, which it does
//! when no flow and no cached line refers to it any more and its counters are zeroed. Uids are never given out twice.
//!
//! What makes an object the same: a forward its name, protocol, listening address and mode (a change of any of these ends
//! its flows, RFC 5382 has no other word for a service that is gone); a target its forward, address and the source
//! address that `nat` puts in, since an established flow keeps its translation; an echo reflector its address; a filter
//! rule its name, or its content if it has none.

mod free;
mod objects;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    api::types::{Endpoint, ErrorBody, ErrorCode, Forward, PortRange, Rules, Snat},
    edit::Edit,
};

use super::diff::{self, RuleKey};
use free::Free;
pub use objects::{EchoId, FilterId, ForwardId, Kind, Retired, SnatId, TargetId, TargetRef};

/// Identifiers of everything in an intent; stored with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    /// The uid that was given out last; 0: none yet.
    last_uid: u32,
    forwards: Vec<ForwardId>,
    #[serde(default)]
    snats: Vec<SnatId>,
    echoes: Vec<EchoId>,
    /// Shared by all copies: there may be 100,000 of them.
    filters: Arc<Vec<FilterId>>,
    retired: Vec<Retired>,
}

impl Ids {
    /// Identifiers of the forwards, in the order of the intent that was compiled last.
    pub fn forwards(&self) -> &[ForwardId] {
        &self.forwards
    }

    /// Identifiers of a forward.
    pub fn forward(&self, name: &str) -> Option<&ForwardId> {
        self.forwards.iter().find(|f| f.name == name)
    }

    /// Identifiers of the source NAT rules, in the order of the intent.
    pub fn snats(&self) -> &[SnatId] {
        &self.snats
    }

    /// Uids of all forwards and source NAT rules.
    pub fn uids(&self) -> impl Iterator<Item = u32> {
        self.forwards.iter().map(|f| f.uid).chain(self.snats.iter().map(|s| s.uid))
    }

    /// Identifiers of the echo reflectors, in the order of the intent.
    pub fn echoes(&self) -> &[EchoId] {
        &self.echoes
    }

    /// Counters of the filter rules, in the order of the intent.
    pub fn filters(&self) -> &[FilterId] {
        &self.filters
    }

    /// Puts other counters of filter rules in the place of these: for the store, which keeps them apart.
    pub fn replace_filters(&mut self, filters: Vec<FilterId>) -> Vec<FilterId> {
        Arc::unwrap_or_clone(std::mem::replace(&mut self.filters, Arc::new(filters)))
    }

    /// The identifiers, but for the counters of filter rules: see [`Self::replace_filters`].
    pub fn without_filters(&self) -> Self {
        Self { filters: Arc::default(), ..self.clone() }
    }

    /// Indexes that wait to be [released](Self::release).
    pub fn retired(&self) -> &[Retired] {
        &self.retired
    }

    /// Every target that flows may refer to, without pool addresses of source NAT: those of the intent and those that were removed.
    pub fn targets(&self) -> impl Iterator<Item = TargetRef<'_>> {
        let live = self.forwards.iter().flat_map(|f| {
            f.targets.iter().map(|target| TargetRef {
                forward: &f.name,
                forward_uid: f.uid,
                target,
                live: true,
            })
        });
        let retired = self.retired.iter().filter_map(|r| {
            r.target.as_ref().map(|target| TargetRef {
                forward: &r.name,
                forward_uid: r.forward_uid,
                target,
                live: false,
            })
        });
        live.chain(retired)
    }

    /// Targets that are none any more, of forwards that are: their flows go on for a while.
    pub fn leaving(&self) -> impl Iterator<Item = TargetRef<'_>> {
        let live: HashSet<u32> = self.forwards.iter().map(|forward| forward.uid).collect();
        self.targets().filter(move |target| !target.live && live.contains(&target.forward_uid))
    }

    /// Whether the rules have a target of that address: then one that is [`Self::leaving`] is the same with another source.
    pub fn has_target(&self, forward_uid: u32, address: &Endpoint) -> bool {
        let mut forwards = self.forwards.iter().filter(|forward| forward.uid == forward_uid);
        forwards.any(|forward| forward.targets.iter().any(|target| target.address == *address))
    }

    /// Makes a retired index free again. The caller knows that nothing refers to it, and has zeroed its counters. True
    /// if the index was retired.
    pub fn release(&mut self, kind: Kind, index: u16) -> bool {
        let before = self.retired.len();
        self.retired.retain(|r| r.kind != kind || r.index != index);
        self.retired.len() != before
    }

    /// Gives every object of valid, normal rules its identifiers, and retires those of objects that are gone.
    ///
    /// # Errors
    /// When every index is in use or retired. The identifiers are then half assigned: assign to a copy.
    pub fn assign(&mut self, rules: &Rules) -> Result<(), ErrorBody> {
        self.assign_by(rules, &diff::filter_keys(&rules.filters), Kind::Filter.limit()).map(drop)
    }

    /// [`Self::assign`], where the keys of the filter rules are known ([`diff::filter_keys`]) and so many of their counters fit. Gives
    /// the counters that another rule has from now on.
    ///
    /// # Errors
    /// As [`Self::assign`].
    pub fn assign_by(
        &mut self,
        rules: &Rules,
        keys: &[RuleKey],
        counters: u32,
    ) -> Result<Vec<u32>, ErrorBody> {
        let mut free = Free::of(self);
        self.assign_forwards(&rules.forwards, &mut free)?;
        self.assign_snats(rules, &mut free)?;
        self.assign_echoes(rules, &mut free)?;
        self.assign_filters(rules, keys, counters, &mut free)
    }

    fn assign_forwards(&mut self, forwards: &[Forward], free: &mut Free) -> Result<(), ErrorBody> {
        let mut old: HashMap<String, ForwardId> =
            std::mem::take(&mut self.forwards).into_iter().map(|f| (f.name.clone(), f)).collect();
        let same = |id: &ForwardId, f: &Forward| {
            id.protocol == f.protocol && id.listen == f.listen && id.mode == f.mode
        };
        let mut next: Vec<Option<ForwardId>> = Vec::with_capacity(forwards.len());
        // First what stays, so that what goes is retired before anything new asks for an index.
        for forward in forwards {
            let kept = match old.get(&forward.name) {
                Some(id) if same(id, forward) => old.remove(&forward.name),
                _ => None,
            };
            next.push(kept);
        }
        let mut gone: Vec<ForwardId> = old.into_values().collect();
        gone.sort_by_key(|f| f.uid);
        for forward in gone {
            self.retire_forward(forward);
        }
        for (forward, kept) in forwards.iter().zip(next) {
            let mut id = match kept {
                Some(id) => id,
                None => ForwardId {
                    name: forward.name.clone(),
                    protocol: forward.protocol,
                    listen: forward.listen,
                    mode: forward.mode,
                    index: free.take(Kind::Forward)?,
                    uid: self.next_uid()?,
                    targets: Vec::new(),
                },
            };
            self.assign_targets(&mut id, forward, free)?;
            self.forwards.push(id);
        }
        Ok(())
    }

    fn assign_targets(
        &mut self,
        id: &mut ForwardId,
        forward: &Forward,
        free: &mut Free,
    ) -> Result<(), ErrorBody> {
        let mut old: HashMap<Endpoint, TargetId> =
            std::mem::take(&mut id.targets).into_iter().map(|t| (t.address, t)).collect();
        let kept: Vec<Option<TargetId>> =
            forward.targets.iter().map(|target| old.remove(&target.address)).collect();
        let mut gone: Vec<TargetId> = old.into_values().collect();
        gone.sort_by_key(|t| t.uid);
        for target in gone {
            self.retire_target(&id.name, id.uid, target);
        }
        for (target, kept) in forward.targets.iter().zip(kept) {
            let target = match kept {
                Some(kept) => kept,
                None => self.new_target(id.uid, target.address, None, free)?,
            };
            id.targets.push(target);
        }
        Ok(())
    }

    /// A target that comes back before its flows have ended is the one that it was. `source`: only with that one.
    fn new_target(
        &mut self,
        forward_uid: u32,
        address: Endpoint,
        source: Option<IpAddr>,
        free: &mut Free,
    ) -> Result<TargetId, ErrorBody> {
        let back = self.retired.iter().rposition(|r| {
            r.forward_uid == forward_uid
                && r.target
                    .as_ref()
                    .is_some_and(|t| t.address == address && (source.is_none() || t.source == source))
        });
        if let Some(target) = back.and_then(|at| self.retired.remove(at).target) {
            return Ok(target);
        }
        Ok(TargetId { address, source, index: free.take(Kind::Target)?, uid: self.next_uid()? })
    }

    /// Sets the source addresses that `nat` puts in: `sources[f][t]` of target `t` of forward `f`, `None` leaves it as it is.
    ///
    /// A target whose source address has changed becomes another one: its flows go on with the old one until they end.
    pub fn set_sources(&mut self, sources: &[Vec<Option<IpAddr>>]) -> Result<(), ErrorBody> {
        let mut free = None;
        for (at, sources) in sources.iter().enumerate() {
            for (number, source) in sources.iter().enumerate() {
                let Some(source) = source else { continue };
                let Some(forward) = self.forwards.get_mut(at) else { continue };
                let (uid, name) = (forward.uid, forward.name.clone());
                let Some(target) = forward.targets.get_mut(number) else { continue };
                match target.source {
                    None => target.source = Some(*source),
                    Some(present) if present == *source => {}
                    Some(_) => {
                        let old = target.clone();
                        if free.is_none() {
                            free = Some(Free::of(self));
                        }
                        if let Some(free) = &mut free {
                            let new = self.new_target(uid, old.address, Some(*source), free)?;
                            self.retire_target(&name, uid, old);
                            self.forwards[at].targets[number] = new;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn assign_snats(&mut self, rules: &Rules, free: &mut Free) -> Result<(), ErrorBody> {
        let same = |id: &SnatId, snat: &Snat| id.name == snat.name && id.to == snat.to;
        let (kept, gone): (Vec<SnatId>, Vec<SnatId>) = std::mem::take(&mut self.snats)
            .into_iter()
            .partition(|id| rules.snats.iter().any(|snat| same(id, snat)));
        for SnatId { name, index, uid, targets, .. } in gone {
            for target in targets {
                self.retire_target(&name, uid, target);
            }
            self.retire(Kind::Forward, index, uid, name);
        }
        for snat in &rules.snats {
            let id = match kept.iter().find(|id| same(id, snat)) {
                Some(id) => id.clone(),
                None => self.new_snat(snat, free)?,
            };
            self.snats.push(id);
        }
        Ok(())
    }

    fn new_snat(&mut self, snat: &Snat, free: &mut Free) -> Result<SnatId, ErrorBody> {
        let (index, uid) = (free.take(Kind::Forward)?, self.next_uid()?);
        let mut targets = Vec::with_capacity(snat.to.len());
        for address in &snat.to {
            targets.push(TargetId {
                address: Endpoint { address: *address, ports: PortRange { low: 1, high: u16::MAX } },
                source: Some(*address),
                index: free.take(Kind::Target)?,
                uid: self.next_uid()?,
            });
        }
        Ok(SnatId { name: snat.name.clone(), to: snat.to.clone(), index, uid, targets })
    }

    fn assign_echoes(&mut self, rules: &Rules, free: &mut Free) -> Result<(), ErrorBody> {
        let wanted: HashSet<Endpoint> = rules.echoes.iter().map(|e| e.listen).collect();
        let (kept, gone): (Vec<EchoId>, Vec<EchoId>) =
            std::mem::take(&mut self.echoes).into_iter().partition(|e| wanted.contains(&e.listen));
        for echo in gone {
            self.retire(Kind::Echo, echo.index, echo.uid, echo.listen.to_string());
        }
        let mut old: HashMap<Endpoint, EchoId> = kept.into_iter().map(|e| (e.listen, e)).collect();
        for echo in &rules.echoes {
            let id = match old.remove(&echo.listen) {
                Some(id) => id,
                None => EchoId { listen: echo.listen, index: free.take(Kind::Echo)?, uid: self.next_uid()? },
            };
            self.echoes.push(id);
        }
        Ok(())
    }

    fn assign_filters(
        &mut self,
        rules: &Rules,
        keys: &[RuleKey],
        counters: u32,
        free: &mut Free,
    ) -> Result<Vec<u32>, ErrorBody> {
        // Nothing but the live rule set refers to a counter. Those of what goes are given out only if there are no others, so
        // that the last packets under the old rules hardly ever count for a new one.
        let mut keys = keys.to_vec();
        keys.extend(rules.policies.iter().map(diff::policy_key));
        let before: Vec<RuleKey> = self.filters.iter().map(|filter| filter.key).collect();
        // After a start with smaller tables, some may be beyond them.
        let fit = self.filters.iter().all(|filter| filter.index < counters);
        let edit = if fit {
            Edit::between(&before, &keys, RuleKey::eq, |_| 1)
        } else {
            Edit::of_all(before.len(), keys.len())
        };
        if edit.is_empty() {
            return Ok(Vec::new());
        }
        let went = self.filters[edit.gone.clone()].iter().filter(|filter| filter.index < counters);
        let mut old: HashMap<RuleKey, FilterId> = went.map(|filter| (filter.key, filter.clone())).collect();
        let come = &keys[edit.new.clone()];
        let known: Vec<Option<FilterId>> = come.iter().map(|key| old.remove(key)).collect();
        let mut gone: Vec<u32> = old.into_values().map(|filter| filter.index).collect();
        gone.sort_unstable_by(|a, b| b.cmp(a));
        let (mut ids, mut taken_over) = (Vec::with_capacity(come.len()), Vec::new());
        for (&key, known) in come.iter().zip(known) {
            let id = match known {
                Some(id) => id,
                None => {
                    let unused = free.take_number(Kind::Filter).ok().filter(|index| *index < counters);
                    let index = match unused {
                        Some(index) => index,
                        None => {
                            let index = gone.pop().ok_or_else(|| too_many(counters))?;
                            taken_over.push(index);
                            index
                        }
                    };
                    FilterId { key, index }
                }
            };
            ids.push(id);
        }
        self.filters = Arc::new(edit.apply(&self.filters, ids));
        Ok(taken_over)
    }

    fn retire(&mut self, kind: Kind, index: u16, uid: u32, name: String) {
        self.retired.push(Retired { kind, index, uid, name, forward_uid: 0, target: None });
    }

    fn retire_forward(&mut self, forward: ForwardId) {
        for target in forward.targets {
            self.retire_target(&forward.name, forward.uid, target);
        }
        self.retire(Kind::Forward, forward.index, forward.uid, forward.name);
    }

    fn retire_target(&mut self, forward: &str, forward_uid: u32, target: TargetId) {
        self.retired.push(Retired {
            kind: Kind::Target,
            index: target.index,
            uid: target.uid,
            name: forward.to_owned(),
            forward_uid,
            target: Some(target),
        });
    }

    fn next_uid(&mut self) -> Result<u32, ErrorBody> {
        let message =
            "every uid was given out (4 billion changes): stop the agent with --detach and start it anew";
        self.last_uid = self.last_uid.checked_add(1).ok_or_else(|| ErrorBody {
            code: ErrorCode::Internal,
            message: message.to_owned(),
            field: None,
        })?;
        Ok(self.last_uid)
    }
}

/// There are no more counters than that.
fn too_many(counters: u32) -> ErrorBody {
    let rule = u64::from(counters) + 1;
    ErrorBody {
        code: ErrorCode::Rejected,
        message: format!(
            "the rules do not fit: filter rule {rule} is beyond the limit of {counters} ([tables] filter_rules in agent.toml)"
        ),
        field: Some(format!("filter[{rule}]")),
    }
}
