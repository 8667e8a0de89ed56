//! nftables: tables of filter chains, as `nft list ruleset` writes them.

mod lex;
mod statement;

use std::collections::HashMap;

use self::lex::{Cursor, Kind};
use super::{Choice, Error, Read, values};
use crate::api::types::{AddressSet, FilterAction, FilterRule};

/// Table families and the IP version that their rules are for.
const FAMILIES: [(&str, Option<u8>); 4] =
    [("inet", None), ("ip", Some(4)), ("ip6", Some(6)), ("netdev", None)];
/// Hooks at which netfast stands in for nftables.
const HOOKS: [&str; 4] = ["ingress", "prerouting", "input", "forward"];

/// A set of a table.
enum Set {
    /// Of addresses; it becomes a set of netfast's.
    Addresses,
    /// Of anything else: its elements are put in where it is named.
    Elements(Vec<(std::ops::Range<usize>, String)>),
}

/// What rules of a table are read with.
struct Table {
    version: Option<u8>,
    sets: HashMap<String, Set>,
}

/// Reading under way.
struct Parser<'a> {
    choice: &'a Choice,
    read: Read,
    /// IP versions that a chain has been taken for.
    taken: [bool; 2],
    found: bool,
}

pub(super) fn parse(text: &str, choice: &Choice) -> Result<Read, Error> {
    let tokens = lex::tokens(text)?;
    let mut cursor = Cursor::new(&tokens, text.len());
    let mut parser = Parser { choice, read: Read::default(), taken: [false; 2], found: false };
    loop {
        cursor.newlines();
        let Some(word) = cursor.any() else { break };
        match word.text {
            "table" => parser.table(&mut cursor)?,
            "flush" => {
                cursor.expect("ruleset")?;
            }
            other => {
                return Err(word.error(format!(
                    "{other:?} is not understood here: a table was expected, as `nft list ruleset` writes it"
                )));
            }
        }
    }
    match &choice.chain {
        Some(chain) if !parser.found => Err((0..0, format!("there is no chain {chain:?} of type filter"))),
        _ => Ok(parser.read),
    }
}

impl Parser<'_> {
    fn table(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Error> {
        let family = cursor.word()?;
        let Some((_, version)) = FAMILIES.iter().find(|(name, _)| *name == family.text) else {
            return Err(family.error(format!(
                "tables of family {:?} are not understood: inet, ip, ip6 and netdev are",
                family.text
            )));
        };
        cursor.word()?;
        cursor.expect("{")?;
        let mut table = Table { version: *version, sets: HashMap::new() };
        loop {
            cursor.newlines();
            let word = cursor.word()?;
            match word.text {
                "}" => return Ok(()),
                "set" => self.set(cursor, &mut table)?,
                "chain" => self.chain(cursor, &table)?,
                "comment" => {
                    cursor.word()?;
                }
                other => {
                    return Err(
                        word.error(format!("{other:?} is not understood in a table: set and chain are"))
                    );
                }
            }
        }
    }

    fn set(&mut self, cursor: &mut Cursor<'_>, table: &mut Table) -> Result<(), Error> {
        let name = cursor.word()?;
        cursor.expect("{")?;
        let mut kind = None;
        let mut elements = Vec::new();
        let mut comment = None;
        loop {
            cursor.separators();
            let word = cursor.word()?;
            match word.text {
                "}" => break,
                "type" => {
                    let of = cursor.word()?;
                    if !matches!(of.text, "ipv4_addr" | "ipv6_addr" | "inet_service" | "inet_proto") {
                        return Err(of.error(format!(
                            "sets of type {:?} are not understood: ipv4_addr, ipv6_addr, inet_service and inet_proto are",
                            of.text
                        )));
                    }
                    kind = Some(of.text);
                }
                "flags" => loop {
                    let flag = cursor.word()?;
                    if !matches!(flag.text, "interval" | "constant") {
                        return Err(flag.error(format!(
                            "sets with flag {:?} are not understood: their elements come and go without netfast",
                            flag.text
                        )));
                    }
                    if !cursor.eat(",") {
                        break;
                    }
                },
                "auto-merge" => {}
                "comment" => comment = Some(cursor.word()?.text.to_owned()),
                "elements" => {
                    cursor.expect("=")?;
                    cursor.expect("{")?;
                    elements = cursor.list_rest()?;
                }
                other => return Err(word.error(format!("{other:?} is not understood in a set"))),
            }
        }
        if matches!(kind, Some("ipv4_addr" | "ipv6_addr")) {
            let mut addresses = Vec::new();
            for (place, text) in elements {
                addresses.extend(values::addresses(&text).map_err(|message| (place, message))?);
            }
            if self.read.rules.sets.iter().any(|set| set.name == name.text) {
                return Err(
                    name.error(format!("there are two sets named {:?}: give one another name", name.text))
                );
            }
            self.read.rules.sets.push(AddressSet { name: name.text.to_owned(), addresses, comment });
            table.sets.insert(name.text.to_owned(), Set::Addresses);
        } else if kind.is_some() {
            table.sets.insert(name.text.to_owned(), Set::Elements(elements));
        } else {
            return Err(name.error(format!("set {:?} has no type", name.text)));
        }
        Ok(())
    }

    fn chain(&mut self, cursor: &mut Cursor<'_>, table: &Table) -> Result<(), Error> {
        let name = cursor.word()?;
        cursor.expect("{")?;
        if self.choice.chain.as_deref().is_some_and(|wanted| wanted != name.text) {
            return cursor.skip_block();
        }
        cursor.separators();
        let head = cursor.word()?;
        if head.text != "type" {
            return Err(head.error(format!(
                "chain {:?} has no hook: netfast has one list of rules and cannot jump; write its rules where they are \
                 jumped to, or name the chain to load with --chain",
                name.text
            )));
        }
        let mut base = FilterRule { version: table.version, ..FilterRule::default() };
        let kind = cursor.word()?;
        if kind.text != "filter" {
            return Err(kind.error(format!("chains of type {:?} are not understood: filter is", kind.text)));
        }
        cursor.expect("hook")?;
        let hook = cursor.word()?;
        if !HOOKS.contains(&hook.text) {
            return Err(hook.error(format!(
                "hook {:?} has no like in netfast, which sees what comes in: {} do; name the chain to load with --chain",
                hook.text,
                HOOKS.join(", ")
            )));
        }
        if cursor.eat("device") {
            base.interface = Some(cursor.word()?.text.to_owned());
        }
        cursor.expect("priority")?;
        cursor.until_separator();
        self.take(table.version, &name)?;
        let mut policy = None;
        loop {
            cursor.separators();
            let start = cursor.peek();
            let Some(start) = start else { return Err(cursor.end("the chain has no closing brace")) };
            match start.text {
                "}" if start.kind == Kind::Mark => {
                    cursor.any();
                    break;
                }
                "policy" => {
                    cursor.any();
                    let word = cursor.word()?;
                    policy = match word.text {
                        "accept" => None,
                        "drop" => Some(word.place()),
                        other => return Err(word.error(format!("there is no policy {other:?}"))),
                    };
                }
                "comment" => {
                    cursor.any();
                    cursor.word()?;
                }
                _ => {
                    let place = start.start..start.start;
                    let rules = statement::rule(cursor, &base, table)?;
                    let end = cursor.before();
                    for rule in rules {
                        self.read.add_foreign(rule, place.start..end);
                    }
                }
            }
        }
        if let Some(place) = policy {
            let comment = Some(format!("policy of chain {}", name.text));
            self.read.add_foreign(FilterRule { action: FilterAction::Drop, comment, ..base }, place);
        }
        self.found = true;
        Ok(())
    }

    /// Two chains that see the same packets are two lists: netfast has one.
    fn take(&mut self, version: Option<u8>, name: &lex::Token<'_>) -> Result<(), Error> {
        for (at, number) in [4, 6].into_iter().enumerate() {
            if version.is_none_or(|version| version == number) {
                if self.taken[at] {
                    return Err(name.error(format!(
                        "chain {:?} is the second one for IPv{number}: netfast has one list of rules; name the chain to \
                         load with --chain",
                        name.text
                    )));
                }
                self.taken[at] = true;
            }
        }
        Ok(())
    }
}
