//! Changes that somebody asks for by the API.

use super::Owner;
use crate::{
    agent::{host_names::HostNames, listeners},
    api::types::{
        ChangeAction, ChangeReply, ChangeRequest, ErrorBody, ErrorCode, Intent, ObjectChange, Operation,
        SCHEMA_VERSION,
    },
    rules::{change, compile, snat},
};

fn rejected(message: String) -> ErrorBody {
    ErrorBody { code: ErrorCode::Rejected, message, field: None }
}

impl Owner {
    pub(super) async fn change(&mut self, mut request: ChangeRequest) -> Result<ChangeReply, ErrorBody> {
        if let Some(file) = &self.rules_file
            && request
                .operations
                .iter()
                .any(|op| !matches!(op, Operation::Attach { .. } | Operation::Detach { .. }))
        {
            let file = file.display();
            return Err(rejected(format!(
                "the rules are those of {file} (rules_file in agent.toml): change them there, then `systemctl reload \
                 netfast` or send the agent SIGHUP"
            )));
        }
        if let Some(wanted) = request.if_revision
            && wanted != self.intent.revision
        {
            return Err(ErrorBody {
                code: ErrorCode::Conflict,
                message: format!(
                    "the revision is {}, not {wanted}: somebody changed the rules meanwhile",
                    self.intent.revision
                ),
                field: Some("if_revision".to_owned()),
            });
        }
        let settled = self.configured_attachments(&mut request.operations)?;
        let mut changed = change::apply(&self.intent, &request.operations)?;
        changed.changes.extend(settled);
        let mut reply = ChangeReply {
            schema_version: SCHEMA_VERSION,
            revision: self.intent.revision,
            dry_run: request.dry_run,
            changes: changed.changes,
            warnings: changed.warnings,
        };
        let rules_changed = changed.intent.rules != self.intent.rules;
        if request.dry_run {
            if rules_changed {
                let host = self.shared.netlink.host();
                let host = HostNames(&host);
                snat::require_host(&self.intent.rules, &changed.intent.rules, &host)?;
                compile::require_interfaces(&self.intent.rules, &changed.intent.rules, &host)?;
                let limits = self.shared.datapath.filter_limits();
                let mut ids = self.ids.clone();
                compile::compile_beside(
                    &changed.intent,
                    &mut ids,
                    &host,
                    &self.images,
                    &limits,
                    &self.states,
                )?;
                reply.warnings.extend(listeners::conflicts(&changed.intent.rules));
                let claims = self.claim_notes(&changed.intent.rules);
                reply.warnings.extend(claims.into_iter().filter(|text| !self.claim_notes.contains(text)));
            }
            return Ok(reply);
        }
        let prepared = if rules_changed {
            Some(self.prepare(&changed.intent, Some(&self.intent.rules.clone())).await?)
        } else {
            None
        };

        // Attaching comes before storing, since only the kernel can say whether it works; it is undone if storing fails.
        let attached = self.attach_new(&changed.intent).await?;
        // Those too that were just attached: a claim is asked for where it will be.
        if let Err(error) = self.check_claims(&changed.intent.rules).await {
            for name in attached {
                self.interfaces.detach(&self.shared.datapath, &name);
            }
            self.reconcile().await;
            self.snapshot();
            return Err(error);
        }
        if changed.intent != self.intent {
            let ids = prepared.as_ref().map_or(&self.ids, |prepared| &prepared.ids);
            if let Err(error) = self.save(&changed.intent, ids) {
                for name in attached {
                    self.interfaces.detach(&self.shared.datapath, &name);
                }
                self.reconcile().await;
                self.snapshot();
                return Err(error);
            }
        }
        if let Some(prepared) = prepared {
            let known = std::mem::take(&mut self.images.warnings);
            let conflicts = std::mem::take(&mut self.conflicts);
            self.publish(changed.intent, prepared);
            reply.warnings.extend(self.images.warnings.iter().filter(|text| !known.contains(text)).cloned());
            reply.warnings.extend(self.conflicts.iter().filter(|text| !conflicts.contains(text)).cloned());
        } else {
            self.intent = changed.intent;
            self.applied_revision = self.intent.revision;
        }
        let known = self.claim_notes.clone();
        self.reconcile().await;
        reply.warnings.extend(self.claim_notes.iter().filter(|text| !known.contains(text)).cloned());
        self.snapshot();
        reply.revision = self.intent.revision;
        Ok(reply)
    }

    /// Takes out of `operations` what agent.toml settles already.
    fn configured_attachments(
        &self,
        operations: &mut Vec<Operation>,
    ) -> Result<Vec<ObjectChange>, ErrorBody> {
        let mut settled = Vec::new();
        let mut problem = None;
        let configured = |name: &str| self.configured.iter().find(|attachment| attachment.interface == name);
        operations.retain(|operation| match operation {
            Operation::Attach { attachment } => match configured(&attachment.interface) {
                Some(present) if present.mode == attachment.mode => {
                    settled.push(ObjectChange {
                        kind: "interface".to_owned(),
                        name: attachment.interface.clone(),
                        action: ChangeAction::Unchanged,
                    });
                    false
                }
                Some(present) => {
                    problem = Some(format!(
                        "agent.toml attaches {} in {} mode: change the mode there and restart the agent",
                        present.interface, present.mode
                    ));
                    true
                }
                None => true,
            },
            Operation::Detach { interface } if configured(interface).is_some() => {
                problem = Some(format!(
                    "agent.toml attaches {interface}: take its [[interface]] out there and restart the agent"
                ));
                true
            }
            _ => true,
        });
        problem.map_or(Ok(settled), |message| Err(rejected(message)))
    }

    /// Attaches what `intent` has and the present one has not, all or none; gives the names.
    async fn attach_new(&mut self, intent: &Intent) -> Result<Vec<String>, ErrorBody> {
        let mut attached = Vec::new();
        for attachment in &intent.attachments {
            if self.intent.attachments.contains(attachment) && !self.interfaces.incomplete() {
                continue;
            }
            let new = !self.intent.attachments.iter().any(|old| old.interface == attachment.interface);
            match self.interfaces.attach(&self.shared.datapath, &self.shared.netlink, attachment).await {
                Ok(()) if new => attached.push(attachment.interface.clone()),
                Ok(()) => {}
                Err(error) if !self.intent.attachments.contains(attachment) => {
                    for name in attached {
                        self.interfaces.detach(&self.shared.datapath, &name);
                    }
                    self.reconcile().await;
                    return Err(error);
                }
                // Wanted before and not there then either: the status says so.
                Err(_) => {}
            }
        }
        Ok(attached)
    }
}
