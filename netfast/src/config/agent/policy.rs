//! `[policy]`: what happens to frames that the program does not classify.

use std::fmt;

use netfast_common::abi::{Policy, PolicyClass};
use serde::{Deserialize, Deserializer, de};

use crate::api::types::ParseError;

/// `[policy]`: one of [`PolicyClass::choices`] for each class of [`PolicyClass::TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyTable([Policy; PolicyClass::COUNT]);

impl Default for PolicyTable {
    fn default() -> Self {
        Self(PolicyClass::TABLE.map(|(_, _, policy, _)| policy))
    }
}

impl PolicyTable {
    /// The policy of a class.
    pub fn get(&self, class: PolicyClass) -> Policy {
        self.0[class as usize]
    }

    /// As `Config::policies` holds them.
    pub fn words(&self) -> [u32; PolicyClass::COUNT] {
        self.0.map(|policy| policy as u32)
    }
}

const POLICY_KEYS: [&str; PolicyClass::COUNT] = {
    let mut keys = [""; PolicyClass::COUNT];
    let mut at = 0;
    while at < keys.len() {
        keys[at] = PolicyClass::TABLE[at].1;
        at += 1;
    }
    keys
};

impl<'de> Deserialize<'de> for PolicyTable {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PolicyTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of policies")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<PolicyTable, A::Error> {
                let mut table = PolicyTable::default();
                while let Some(Class(at)) = map.next_key()? {
                    table.0[at] = map.next_value_seed(Word(PolicyClass::TABLE[at].0))?;
                }
                Ok(table)
            }
        }
        d.deserialize_map(Visitor)
    }
}

/// Key of `[policy]`, as the number of its class. A type of its own so that an error points at the key.
struct Class(usize);

impl<'de> Deserialize<'de> for Class {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let key = String::deserialize(d)?;
        POLICY_KEYS
            .iter()
            .position(|known| *known == key)
            .map(Self)
            .ok_or_else(|| de::Error::unknown_field(&key, &POLICY_KEYS))
    }
}

/// Reads a word for a class.
struct Word(PolicyClass);

impl<'de> de::DeserializeSeed<'de> for Word {
    type Value = Policy;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Policy, D::Error> {
        let word = String::deserialize(d)?;
        let choices = self.0.choices();
        choices.iter().find(|(choice, _)| *choice == word).map(|(_, policy)| *policy).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
            de::Error::custom(ParseError::word(&word, &words))
        })
    }
}
