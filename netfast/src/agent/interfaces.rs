//! Which interfaces are to be attached, which are, and why the others are not.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    api::types::{AttachMode, Attachment, ErrorBody, ErrorCode, InterfaceStatus},
    datapath::{AttachError, Datapath, Link},
    netlink::{HostState, LinkFacts, Netlink},
};

/// What is known of an interface that is to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Current {
    /// Index that it had when it was attached, or was seen last; 0: never seen.
    ifindex: u32,
    driver: String,
    mode: AttachMode,
    attached: Option<AttachMode>,
    problem: Option<String>,
}

/// The interfaces that are to be attached, by the name that was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Interfaces {
    current: BTreeMap<String, Current>,
}

fn error(error: &AttachError) -> ErrorBody {
    let code = match error {
        AttachError::Busy { .. } => ErrorCode::Conflict,
        AttachError::Missing(_) => ErrorCode::NotFound,
        AttachError::Kernel { .. } | AttachError::Datapath(_) => ErrorCode::Internal,
        AttachError::Mtu { .. }
        | AttachError::NoNative { .. }
        | AttachError::TooMany
        | AttachError::Slot { .. } => ErrorCode::Rejected,
    };
    ErrorBody { code, message: error.to_string(), field: None }
}

/// An interface that does not exist, in words that name those that do.
fn missing(name: &str, host: &HostState) -> ErrorBody {
    let existing: Vec<&str> = host
        .links
        .values()
        .filter(|link| link.ethernet && !link.loopback)
        .map(|link| link.name.as_str())
        .collect();
    let existing = if existing.is_empty() { "none".to_owned() } else { existing.join(", ") };
    ErrorBody {
        code: ErrorCode::NotFound,
        message: format!("there is no interface {name}; Ethernet interfaces of this host: {existing}"),
        field: None,
    }
}

impl Interfaces {
    /// Attaches one; what it is at present goes on if that fails.
    pub(super) async fn attach(
        &mut self,
        datapath: &Arc<Datapath>,
        netlink: &Netlink,
        attachment: &Attachment,
    ) -> Result<(), ErrorBody> {
        let name = &attachment.interface;
        let facts = netlink
            .link_facts(name)
            .await
            .map_err(|error| ErrorBody {
                code: ErrorCode::Internal,
                message: error.to_string(),
                field: None,
            })?
            .ok_or_else(|| missing(name, &netlink.host()))?;
        let mode = self.attach_link(datapath, name, &facts, attachment.mode)?;
        self.current.insert(
            name.clone(),
            Current {
                ifindex: facts.ifindex,
                driver: facts.driver,
                mode: attachment.mode,
                attached: Some(mode),
                problem: None,
            },
        );
        Ok(())
    }

    fn attach_link(
        &self,
        datapath: &Arc<Datapath>,
        name: &str,
        facts: &LinkFacts,
        mode: AttachMode,
    ) -> Result<AttachMode, ErrorBody> {
        let mac = facts.mac.ok_or_else(|| ErrorBody {
            code: ErrorCode::Rejected,
            message: format!("{name} is not an Ethernet interface; netfast forwards Ethernet frames only"),
            field: None,
        })?;
        let driver = if facts.driver.is_empty() { "(none)".to_owned() } else { facts.driver.clone() };
        let link = Link { name: facts.name.clone(), ifindex: facts.ifindex, mac, mtu: facts.mtu, driver };
        // A driver may take a second to set its queues up anew.
        let attached = tokio::task::block_in_place(|| datapath.attach(&link, mode)).map_err(|e| error(&e))?;
        tracing::info!(
            interface = facts.name,
            ifindex = facts.ifindex,
            driver = facts.driver,
            "{} in {} mode",
            if attached.adopted { "took over the attached program" } else { "attached" },
            attached.mode
        );
        if mode == AttachMode::Auto && attached.mode == AttachMode::Generic {
            tracing::warn!(
                "{name} is attached in generic mode: the driver {} has no native XDP, expect a fraction of \
                            the speed",
                link.driver
            );
        }
        Ok(attached.mode)
    }

    /// Detaches one.
    pub(super) fn detach(&mut self, datapath: &Datapath, name: &str) {
        if let Some(current) = self.current.remove(name)
            && current.ifindex != 0
        {
            detach(datapath, current.ifindex, name);
        }
    }

    /// Brings what is attached in line with what is wanted: after the start, and whenever the host's links changed.
    /// Returns whether anything is different now.
    pub(super) async fn reconcile(
        &mut self,
        datapath: &Arc<Datapath>,
        netlink: &Netlink,
        wanted: &[Attachment],
    ) -> bool {
        let before = self.current.clone();
        self.current.retain(|name, _| wanted.iter().any(|attachment| attachment.interface == *name));
        for attachment in wanted {
            self.reconcile_one(datapath, netlink, attachment).await;
        }
        let host = netlink.host();
        for ifindex in datapath.attached() {
            let wanted = self.current.values().any(|current| current.ifindex == ifindex);
            if !(wanted && datapath.is_attached(ifindex)) {
                // Not wanted any more, or of an interface that is gone.
                detach(datapath, ifindex, &host.name(ifindex));
            }
        }
        for (name, current) in &self.current {
            let old = before.get(name).and_then(|current| current.problem.as_deref());
            match &current.problem {
                Some(problem) if old != Some(problem) => tracing::error!("{name}: not attached: {problem}"),
                _ => {}
            }
        }
        before != self.current
    }

    async fn reconcile_one(&mut self, datapath: &Arc<Datapath>, netlink: &Netlink, attachment: &Attachment) {
        let host = netlink.host();
        let name = &attachment.interface;
        let current = self.current.get(name).cloned();
        // The kernel's word, since the host's state may be some milliseconds old. A severed link holds no interface.
        let held = current
            .as_ref()
            .filter(|current| current.attached.is_some() && datapath.is_attached(current.ifindex))
            .map(|current| current.ifindex);
        let link = host.by_name(name).or_else(|| host.links.get(&held?));
        if let Some(held) = held
            && link.is_none_or(|link| link.index == held)
            && current.as_ref().is_some_and(|current| current.mode == attachment.mode)
        {
            // It may have been renamed: it stays attached.
            if let Some(mac) = link.and_then(|link| link.mac) {
                datapath.set_interface_mac(held, mac);
            }
            return;
        }
        let result = match link {
            None => Err(missing(name, &host)),
            Some(link) => {
                let was = current.as_ref().is_some_and(|c| c.attached.is_some() && c.ifindex == link.index);
                if was && held.is_none() {
                    tracing::error!("{name}: somebody removed the program; attaching it again");
                }
                let attachment = Attachment { interface: link.name.clone(), mode: attachment.mode };
                let mut one = Self::default();
                match one.attach(datapath, netlink, &attachment).await {
                    Ok(()) => Ok(one.current.into_values().next()),
                    Err(error) => Err(error),
                }
            }
        };
        let ifindex = link.map_or(0, |link| link.index);
        match result {
            Ok(Some(state)) => {
                self.current.insert(name.clone(), state);
            }
            Ok(None) => {}
            Err(problem) => {
                let driver = current.map(|c| c.driver).unwrap_or_default();
                let state = Current {
                    ifindex,
                    driver,
                    mode: attachment.mode,
                    attached: None,
                    problem: Some(problem.message),
                };
                self.current.insert(name.clone(), state);
            }
        }
    }

    /// Whether something is not attached that should be.
    pub(super) fn incomplete(&self) -> bool {
        self.current.values().any(|current| current.attached.is_none())
    }

    /// Names of those that are attached.
    pub(super) fn attached(&self) -> Vec<String> {
        self.current
            .iter()
            .filter(|(_, current)| current.attached.is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Indexes of those that are attached.
    pub(super) fn indexes(&self) -> Vec<u32> {
        let attached = self.current.values().filter(|current| current.attached.is_some());
        attached.map(|current| current.ifindex).collect()
    }

    /// For the API, under the names that the interfaces have now.
    pub(super) fn statuses(&self, host: &HostState) -> Vec<InterfaceStatus> {
        self.current
            .iter()
            .map(|(name, current)| {
                let link = host.links.get(&current.ifindex);
                InterfaceStatus {
                    name: link.map_or_else(|| name.clone(), |link| link.name.clone()),
                    ifindex: current.ifindex,
                    driver: current.driver.clone(),
                    mode: current.mode,
                    attached: current.attached,
                    up: link.is_some_and(crate::netlink::Link::usable),
                    mtu: link.map_or(0, |link| link.mtu),
                    problem: current.problem.clone(),
                }
            })
            .collect()
    }
}

fn detach(datapath: &Datapath, ifindex: u32, name: &str) {
    match datapath.detach(ifindex) {
        Ok(()) => tracing::info!(interface = name, ifindex, "detached"),
        Err(error) => tracing::error!(interface = name, ifindex, %error, "cannot detach"),
    }
}
