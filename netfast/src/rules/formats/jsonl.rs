//! A JSON object a line: a filter rule as the API has it, or `{"set": …}`, or `{"policy": …}`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Error, Read};
use crate::{
    api::types::{AddressSet, FilterRule, InterfacePolicy},
    rules::suggest,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetLine {
    set: AddressSet,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyLine {
    policy: InterfacePolicy,
}

/// What a listing has beside the rule.
const LISTED: [&str; 5] = ["schema_version", "position", "packets", "bytes", "hidden"];

pub(super) fn parse(text: &str) -> Result<Read, Error> {
    let mut read = Read::default();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let place = start..start + line.trim_end().len();
        start += line.len();
        let json = line.trim();
        if json.is_empty() || json.starts_with('#') {
            continue;
        }
        let lead = line.len() - line.trim_start().len();
        let begin = place.start + lead;
        let at = |error: &serde_json::Error| {
            if let Some((key, message)) = unknown(&error.to_string())
                && let Some(found) = json.find(&format!("{key:?}"))
            {
                return (begin + found..begin + found + key.len() + 2, message);
            }
            let column = begin + error.column().saturating_sub(1).min(json.len().saturating_sub(1));
            (column..place.end, plain(&error.to_string()))
        };
        // Most lines are rules, and read only once.
        let rule = match serde_json::from_str::<FilterRule>(json) {
            Ok(rule) => rule,
            Err(error) => {
                let object: Map<String, Value> = serde_json::from_str(json).map_err(|error| at(&error))?;
                if object.contains_key("set") {
                    let SetLine { set } = serde_json::from_str(json).map_err(|error| at(&error))?;
                    read.rules.sets.push(set);
                    continue;
                }
                if object.contains_key("policy") {
                    let PolicyLine { policy } = serde_json::from_str(json).map_err(|error| at(&error))?;
                    read.rules.policies.push(policy);
                    continue;
                }
                let rest: Map<String, Value> =
                    object.into_iter().filter(|(key, _)| !LISTED.contains(&key.as_str())).collect();
                serde_json::from_value(Value::Object(rest)).map_err(|_| at(&error))?
            }
        };
        read.add(rule, place);
    }
    Ok(read)
}

/// The key that no rule has, by serde_json's message, and what to say of it.
fn unknown(message: &str) -> Option<(String, String)> {
    let (key, known) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let hint = suggest::hint(key, known.split('`').skip(1).step_by(2));
    Some((key.to_owned(), format!("unknown key {key:?}{hint}")))
}

/// serde_json's message without its place, which is of the line.
fn plain(message: &str) -> String {
    let end = message.rfind(" at line ").unwrap_or(message.len());
    message[..end].replace('`', "\"")
}
