//! Changes of the intent: a list of operations is done as a whole or not at all.

mod filter;

pub use filter::filter_at;

use std::collections::HashSet;

use netfast_common::abi;

use crate::api::types::{
    Addresses, Attachment, ChangeAction, Echo, Endpoint, ErrorBody, ErrorCode, FilterRule, FilterRules,
    Forward, Intent, Many, ObjectChange, Operation, Rules, Snat, Target,
};

use super::{
    check, diff,
    normal::{normalize_forward, target_key},
    suggest, validate,
};

/// What [`apply`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The new intent: of the next revision, or the given one if nothing is different.
    pub intent: Intent,
    /// What happened, object by object. Objects that were not mentioned are not listed.
    pub changes: Vec<ObjectChange>,
    /// What the operator should know; only what was not so before.
    pub warnings: Vec<String>,
}

impl Changed {
    /// Whether anything is different from before.
    pub fn is_changed(&self) -> bool {
        self.changes.iter().any(|change| change.action != ChangeAction::Unchanged)
    }
}

/// Does the operations in order. The result is valid as a whole ([`validate::validate`]); steps on the way need not be.
///
/// # Errors
/// The first operation that cannot be done, or the first thing that is wrong with the result. The intent is as it was.
pub fn apply(intent: &Intent, operations: &[Operation]) -> Result<Changed, ErrorBody> {
    let mut change =
        Change { intent: intent.clone(), named: HashSet::new(), all_filters: false, warnings: Vec::new() };
    for (number, operation) in operations.iter().enumerate() {
        change.operation(operation).map_err(|mut error| {
            if let Some(message) = twice(intent, &operations[..number], operation) {
                error.message = message;
            }
            if operations.len() > 1 {
                error.message = format!("operation {}: {}", number + 1, error.message);
            }
            error
        })?;
    }
    let Change { intent: mut after, named, all_filters, mut warnings } = change;
    sets_in_use(&after.rules, operations)?;
    validate::validate_beside(&after.rules, &intent.rules)?;
    attachments(&after)?;
    let filters_named = all_filters || named.iter().any(|(kind, _)| kind == "filter");
    let changes: Vec<ObjectChange> = diff::objects(intent, &after, filters_named)
        .into_iter()
        .filter(|c| {
            c.action != ChangeAction::Unchanged
                || (all_filters && c.kind == "filter")
                || named.contains(&(c.kind.clone(), c.name.clone()))
        })
        .collect();
    if after.rules != intent.rules || after.attachments != intent.attachments {
        after.revision = intent.revision + 1;
        warnings.extend(check::new_warnings(&intent.rules, &after.rules));
    }
    Ok(Changed { intent: after, changes, warnings })
}

fn error(code: ErrorCode, field: &str, message: String) -> ErrorBody {
    ErrorBody { code, message, field: (!field.is_empty()).then(|| field.to_owned()) }
}

/// `wanted` does not exist, as the message says; `names` are those of its kind that do.
fn missing<'a>(
    field: &str,
    message: String,
    wanted: &str,
    names: impl Iterator<Item = &'a str>,
) -> ErrorBody {
    error(ErrorCode::NotFound, field, format!("{message}{}", suggest::hint(wanted, names)))
}

/// The place of the object that `name` calls `wanted`; `what` it is in words, `field` for programs.
fn place_of<T>(
    objects: &[T],
    (field, what): (&str, &str),
    wanted: &str,
    name: impl Fn(&T) -> &str,
) -> Result<usize, ErrorBody> {
    objects.iter().position(|object| name(object) == wanted).ok_or_else(|| {
        missing(field, format!("there is no {what} {wanted:?}"), wanted, objects.iter().map(name))
    })
}

/// Puts an object in the place of the one that is the `same`, or behind all others.
fn put<T>(objects: &mut Vec<T>, new: T, same: impl Fn(&T, &T) -> bool) {
    match objects.iter_mut().find(|present| same(present, &new)) {
        Some(present) => *present = new,
        None => objects.push(new),
    }
}

/// Says that a filter rule which is not there any more was there: it was named twice, by its name and its position.
fn twice(intent: &Intent, before: &[Operation], operation: &Operation) -> Option<String> {
    let Operation::FilterDelete { rule } = operation else { return None };
    let at = intent.rules.filters.iter().position(|f| f.name.as_ref() == Some(rule))?;
    before.iter().any(|before| matches!(before, Operation::FilterDelete { .. })).then(|| {
        format!(
            "filter rule {rule:?}, at position {}, is deleted by an operation before this one already: name each rule once, by its \
             name or its position",
            at + 1
        )
    })
}

/// A set that was deleted must not be missed: better words than that there is no such set.
fn sets_in_use(rules: &Rules, operations: &[Operation]) -> Result<(), ErrorBody> {
    for operation in operations {
        let Operation::SetDelete { name } = operation else { continue };
        if rules.sets.iter().any(|set| set.name == *name) {
            continue;
        }
        let wanted = Addresses::Set(name.clone());
        let refers = |rule: &FilterRule| {
            rule.src.iter().chain(&rule.dst).flat_map(Many::iter).any(|addresses| *addresses == wanted)
        };
        if let Some(at) = rules.filters.iter().position(|rule| refers(rule)) {
            let rule = check::label(at, &rules.filters[at]);
            let message = format!("{rule} refers to set {name:?}: delete the rule first, or change it");
            return Err(error(ErrorCode::Rejected, "set", message));
        }
    }
    Ok(())
}

fn attachments(intent: &Intent) -> Result<(), ErrorBody> {
    if intent.attachments.len() > abi::MAX_INTERFACES as usize {
        let message = format!("at most {} interfaces can be attached at once", abi::MAX_INTERFACES);
        return Err(error(ErrorCode::Rejected, "interface", message));
    }
    Ok(())
}

/// A change under way.
struct Change {
    intent: Intent,
    /// Kind and name of the objects that operations named: they are reported even if they are as they were.
    named: HashSet<(String, String)>,
    /// All filter rules were named.
    all_filters: bool,
    warnings: Vec<String>,
}

impl Change {
    fn operation(&mut self, operation: &Operation) -> Result<(), ErrorBody> {
        match operation {
            Operation::ForwardAdd { forward, if_not_exists } => self.forward_add(forward, *if_not_exists),
            Operation::ForwardSet { forward } => {
                self.forward_replace(forward);
                Ok(())
            }
            Operation::ForwardDelete { name } => {
                let at = self.forward_at(name)?;
                self.intent.rules.forwards.remove(at);
                Ok(())
            }
            Operation::TargetAdd { forward, target } => self.target_put(forward, target, false),
            Operation::TargetSet { forward, target } => self.target_put(forward, target, true),
            Operation::TargetDrain { forward, address, drain } => self.target_drain(forward, address, *drain),
            Operation::TargetDelete { forward, address } => self.target_delete(forward, address),
            Operation::SnatAdd { snat, if_not_exists } => self.snat_add(snat, *if_not_exists),
            Operation::SnatDelete { name } => self.snat_delete(name),
            Operation::EchoAdd { echo, if_not_exists } => self.echo_add(echo, *if_not_exists),
            Operation::EchoDelete { listen } => self.echo_delete(listen),
            Operation::FilterAdd { rule, position } => self.filter_add(rule, *position),
            Operation::FilterMove { rule, position } => self.filter_move(rule, *position),
            Operation::FilterDelete { rule } => {
                let at = filter_at(&self.intent.rules.filters, rule)?;
                self.intent.rules.filters.remove(at);
                Ok(())
            }
            Operation::FilterFlush => {
                self.intent.rules.filters = FilterRules::default();
                Ok(())
            }
            Operation::FilterReplace { rules, sets, policies, append } => {
                sets.iter().for_each(|set| self.set_put(set));
                policies.iter().for_each(|policy| self.policy(policy));
                self.filter_replace(rules, *append);
                Ok(())
            }
            Operation::SetPut { set } => {
                self.set_put(set);
                Ok(())
            }
            Operation::SetDelete { name } => self.set_delete(name),
            Operation::FilterPolicy { policy } => {
                self.policy(policy);
                Ok(())
            }
            Operation::Apply { rules, prune } => self.apply(rules, *prune),
            Operation::Attach { attachment } => self.attach(attachment),
            Operation::Detach { interface } => self.detach(interface),
        }
    }

    fn name(&mut self, kind: &str, name: impl Into<String>) {
        self.named.insert((kind.to_owned(), name.into()));
    }

    fn forwards(&mut self) -> &mut Vec<Forward> {
        &mut self.intent.rules.forwards
    }

    fn forward_at(&self, name: &str) -> Result<usize, ErrorBody> {
        place_of(&self.intent.rules.forwards, ("forward", "forward"), name, |forward| &forward.name)
    }

    fn forward_add(&mut self, forward: &Forward, if_not_exists: bool) -> Result<(), ErrorBody> {
        match self.intent.rules.forwards.iter().find(|f| f.name == forward.name) {
            None => {
                self.forward_set(forward);
                Ok(())
            }
            Some(_) if if_not_exists => {
                self.name("forward", &forward.name);
                Ok(())
            }
            Some(present) => Err(error(
                ErrorCode::Conflict,
                &format!("forward.{}", forward.name),
                format!(
                    "forward {:?} exists already ({} {}): use `forward set` to replace it, or another name",
                    forward.name, present.protocol, present.listen
                ),
            )),
        }
    }

    /// As [`Self::forward_set`], but that targets which drain go on draining: `target drain` alone says whether they do.
    fn forward_replace(&mut self, forward: &Forward) {
        let mut forward = forward.clone();
        if let Some(present) = self.forwards().iter().find(|present| present.name == forward.name) {
            for target in &mut forward.targets {
                let key = target_key(&target.address);
                target.drain |= present.targets.iter().any(|t| t.drain && target_key(&t.address) == key);
            }
        }
        self.forward_set(&forward);
    }

    fn forward_set(&mut self, forward: &Forward) {
        self.name("forward", &forward.name);
        let mut forward = forward.clone();
        normalize_forward(&mut forward);
        match self.forwards().iter_mut().find(|f| f.name == forward.name) {
            Some(present) => {
                diff::arrange_targets(present, &mut forward);
                *present = forward;
            }
            None => self.forwards().push(forward),
        }
    }

    fn target_put(&mut self, name: &str, target: &Target, replace: bool) -> Result<(), ErrorBody> {
        let at = self.forward_at(name)?;
        let forward = &mut self.intent.rules.forwards[at];
        let present =
            forward.targets.iter().position(|t| target_key(&t.address) == target_key(&target.address));
        match present {
            Some(at) if replace => {
                let Target { drain, id, .. } = forward.targets[at].clone();
                forward.targets[at] = Target { drain, id: target.id.clone().or(id), ..target.clone() };
            }
            Some(at) => {
                let present = &forward.targets[at];
                return Err(error(
                    ErrorCode::Conflict,
                    &format!("forward.{name}.target[{}]", at + 1),
                    format!(
                        "forward {name:?} has target {} already (weight {}): use `target set` to change its weight",
                        present.address, present.weight
                    ),
                ));
            }
            None => forward.targets.push(target.clone()),
        }
        normalize_forward(forward);
        let address = forward.targets[present.unwrap_or(forward.targets.len() - 1)].address;
        self.name("target", diff::target_name(name, &address));
        Ok(())
    }

    fn target_at(&self, name: &str, address: &Endpoint) -> Result<(usize, usize), ErrorBody> {
        let at = self.forward_at(name)?;
        let targets = &self.intent.rules.forwards[at].targets;
        match targets.iter().position(|t| target_key(&t.address) == target_key(address)) {
            Some(target) => Ok((at, target)),
            None => {
                let message = format!("forward {name:?} has no target {address}");
                let present: Vec<String> = targets.iter().map(|t| t.address.to_string()).collect();
                let present = present.iter().map(String::as_str);
                Err(missing("target", message, &address.to_string(), present))
            }
        }
    }

    fn target_drain(&mut self, name: &str, address: &Endpoint, drain: bool) -> Result<(), ErrorBody> {
        let (at, target) = self.target_at(name, address)?;
        let target = &mut self.intent.rules.forwards[at].targets[target];
        target.drain = drain;
        let address = target.address;
        self.name("target", diff::target_name(name, &address));
        Ok(())
    }

    fn target_delete(&mut self, name: &str, address: &Endpoint) -> Result<(), ErrorBody> {
        let (at, target) = self.target_at(name, address)?;
        self.intent.rules.forwards[at].targets.remove(target);
        Ok(())
    }

    fn snat_add(&mut self, snat: &Snat, if_not_exists: bool) -> Result<(), ErrorBody> {
        let snats = &self.intent.rules.snats;
        match snats.iter().any(|present| present.name == snat.name) {
            true if !if_not_exists => Err(error(
                ErrorCode::Conflict,
                &format!("snat.{}", snat.name),
                format!(
                    "source NAT rule {:?} exists already: delete it first, replace it by `apply`, or use another name",
                    snat.name
                ),
            )),
            true => {
                self.name("snat", &snat.name);
                Ok(())
            }
            false => {
                self.snat_set(snat);
                Ok(())
            }
        }
    }

    fn snat_set(&mut self, snat: &Snat) {
        self.host_bits(&format!("snat {:?}", snat.name), &snat.from);
        self.name("snat", &snat.name);
        let snat = Snat { from: snat.from.iter().map(ipnet::IpNet::trunc).collect(), ..snat.clone() };
        put(&mut self.intent.rules.snats, snat, |one, other| one.name == other.name);
    }

    fn snat_delete(&mut self, name: &str) -> Result<(), ErrorBody> {
        let snats = &mut self.intent.rules.snats;
        snats.remove(place_of(snats, ("snat", "source NAT rule"), name, |snat| &snat.name)?);
        Ok(())
    }

    fn echo_add(&mut self, echo: &Echo, if_not_exists: bool) -> Result<(), ErrorBody> {
        self.host_bits(&format!("echo {}", echo.listen), &echo.allow);
        let listen = echo.listen.to_string();
        let echo = normal_echo(echo);
        match self.intent.rules.echoes.iter().find(|e| e.listen == echo.listen) {
            Some(_) if if_not_exists => {}
            Some(_) => {
                return Err(error(
                    ErrorCode::Conflict,
                    &format!("echo.{listen}"),
                    format!(
                        "there is an echo reflector at {listen} already: delete it first, or replace it by `apply`"
                    ),
                ));
            }
            None => self.intent.rules.echoes.push(echo),
        }
        self.name("echo", listen);
        Ok(())
    }

    fn echo_delete(&mut self, listen: &Endpoint) -> Result<(), ErrorBody> {
        let echoes = &mut self.intent.rules.echoes;
        let at = echoes.iter().position(|e| e.listen == *listen).ok_or_else(|| {
            let present: Vec<String> = echoes.iter().map(|e| e.listen.to_string()).collect();
            let present = present.iter().map(String::as_str);
            let message = format!("there is no echo reflector at {listen}");
            missing("echo", message, &listen.to_string(), present)
        })?;
        echoes.remove(at);
        Ok(())
    }

    fn apply(&mut self, rules: &Rules, prune: bool) -> Result<(), ErrorBody> {
        // By themselves first: merging by name would hide a name that is there twice.
        validate::validate(rules)?;
        let given: HashSet<&str> = rules.forwards.iter().map(|f| f.name.as_str()).collect();
        let listens: HashSet<Endpoint> = rules.echoes.iter().map(|e| e.listen).collect();
        if prune {
            self.forwards().retain(|f| given.contains(f.name.as_str()));
            self.intent.rules.echoes.retain(|e| listens.contains(&e.listen));
            self.intent.rules.snats.retain(|s| rules.snats.iter().any(|given| given.name == s.name));
        }
        for forward in &rules.forwards {
            self.forward_set(forward);
        }
        for snat in &rules.snats {
            self.snat_set(snat);
        }
        for echo in &rules.echoes {
            self.host_bits(&format!("echo {}", echo.listen), &echo.allow);
            self.name("echo", echo.listen.to_string());
            put(&mut self.intent.rules.echoes, normal_echo(echo), |one, other| one.listen == other.listen);
        }
        if prune {
            let named: HashSet<&str> = rules.sets.iter().map(|set| set.name.as_str()).collect();
            self.intent.rules.sets.retain(|set| named.contains(set.name.as_str()));
            self.intent.rules.policies.clear();
        }
        rules.sets.iter().for_each(|set| self.set_put(set));
        rules.policies.iter().for_each(|policy| self.policy(policy));
        if prune || !rules.filters.is_empty() {
            self.filter_replace(&rules.filters, false);
        }
        Ok(())
    }

    fn attach(&mut self, attachment: &Attachment) -> Result<(), ErrorBody> {
        validate::interface_name(&attachment.interface)
            .map_err(|message| error(ErrorCode::Usage, "interface", message))?;
        self.name("interface", &attachment.interface);
        put(&mut self.intent.attachments, attachment.clone(), |one, other| one.interface == other.interface);
        Ok(())
    }

    fn detach(&mut self, interface: &str) -> Result<(), ErrorBody> {
        let attachments = &mut self.intent.attachments;
        let names = attachments.iter().map(|a| a.interface.as_str());
        let at = attachments.iter().position(|a| a.interface == interface).ok_or_else(|| {
            let message = format!("{interface:?} is not attached by `netfast attach`");
            missing("interface", message, interface, names)
        })?;
        attachments.remove(at);
        Ok(())
    }

    fn host_bits(&mut self, what: &str, nets: &[ipnet::IpNet]) {
        for net in nets.iter().filter(|net| **net != net.trunc()) {
            self.warnings.push(format!("{what}: {net} is taken as {}", net.trunc()));
        }
    }
}

fn normal_echo(echo: &Echo) -> Echo {
    Echo { allow: echo.allow.iter().map(ipnet::IpNet::trunc).collect(), ..echo.clone() }
}
