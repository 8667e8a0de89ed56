//! iptables-save and ip6tables-save: one chain of the table filter.

use std::{collections::HashMap, ops::Range};

use super::{Choice, Error, Read, values};
use crate::api::types::{Addresses, FilterAction, FilterRule, LimitPer, Many, Rate, RejectWith, TcpFlags};

/// A word of a line.
#[derive(Clone, Debug)]
struct Word {
    text: String,
    place: Range<usize>,
}

impl Word {
    fn error(&self, message: impl Into<String>) -> Error {
        (self.place.clone(), message.into())
    }
}

/// Chains that see what comes in.
const CHAINS: [&str; 3] = ["INPUT", "FORWARD", "PREROUTING"];

pub(super) fn parse(text: &str, v6: bool, choice: &Choice) -> Result<Read, Error> {
    let mut read = Read::default();
    let mut policies: HashMap<String, (Word, Range<usize>)> = HashMap::new();
    let mut table = String::new();
    let mut chain: Option<String> = choice.chain.clone();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let place = start..start + line.trim_end().len();
        let words = words(line, start)?;
        start += line.len();
        let Some(first) = words.first() else { continue };
        match first.text.as_bytes() {
            [b'#', ..] => {}
            [b'*', ..] => table = first.text[1..].to_owned(),
            b"COMMIT" => table.clear(),
            [b':', ..] if table == "filter" => {
                let policy = words.get(1).ok_or_else(|| first.error("the chain has no policy"))?;
                if policy.text != "-" {
                    policies.insert(first.text[1..].to_owned(), (policy.clone(), place));
                }
            }
            [b':', ..] => {}
            b"-A" if table == "filter" => {
                let of = words.get(1).ok_or_else(|| first.error("-A names no chain"))?;
                let wanted = chain.get_or_insert_with(|| of.text.clone());
                if *wanted == of.text {
                    if choice.chain.is_none() && !CHAINS.contains(&of.text.as_str()) {
                        return Err(of.error(format!(
                            "chain {:?} does not see what comes in: {} do; name the chain to load with --chain",
                            of.text,
                            CHAINS.join(", ")
                        )));
                    }
                    read.add_foreign(rule(&words[2..], v6, &place)?, place);
                } else if choice.chain.is_none() {
                    return Err(of.error(format!(
                        "rules of chain {:?} beside those of {wanted}: netfast has one list of rules; name the chain to \
                         load with --chain",
                        of.text
                    )));
                }
            }
            b"-A" => {
                return Err(
                    first.error(format!("rules of table {table:?} are not understood: those of filter are"))
                );
            }
            _ => return Err(first.error(format!("{:?} is not understood here", first.text))),
        }
    }
    let chain = chain.unwrap_or_else(|| CHAINS[0].to_owned());
    if choice.chain.is_some() && read.places.is_empty() && !policies.contains_key(&chain) {
        return Err((0..0, format!("there is no chain {chain:?} in table filter")));
    }
    if let Some((policy, place)) = policies.remove(&chain) {
        match policy.text.as_str() {
            "ACCEPT" => {}
            "DROP" => {
                let comment = Some(format!("policy of chain {chain}"));
                let version = Some(if v6 { 6 } else { 4 });
                read.add_foreign(
                    FilterRule { action: FilterAction::Drop, comment, version, ..FilterRule::default() },
                    place,
                );
            }
            other => return Err(policy.error(format!("there is no policy {other:?}"))),
        }
    }
    Ok(read)
}

/// The words of a line; quotes are taken off.
fn words(line: &str, start: usize) -> Result<Vec<Word>, Error> {
    let mut words: Vec<Word> = Vec::new();
    let mut characters = line.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character.is_whitespace() {
            continue;
        }
        if character == '#' && words.is_empty() {
            return Ok(vec![Word { text: "#".to_owned(), place: start + at..start + at + 1 }]);
        }
        let mut text = String::new();
        let mut end = at + character.len_utf8();
        if character == '"' {
            let mut closed = false;
            while let Some((at, next)) = characters.next() {
                end = at + next.len_utf8();
                match next {
                    '"' => {
                        closed = true;
                        break;
                    }
                    '\\' => text.extend(characters.next().map(|(_, escaped)| escaped)),
                    next => text.push(next),
                }
            }
            if !closed {
                return Err((start + at..start + at + 1, "this quotation mark is never closed".to_owned()));
            }
        } else {
            text.push(character);
            while let Some((at, next)) = characters.next_if(|(_, next)| !next.is_whitespace()) {
                end = at + next.len_utf8();
                text.push(next);
            }
        }
        words.push(Word { text, place: start + at..start + end });
    }
    Ok(words)
}

/// Goes through a rule's words.
struct Words<'a> {
    words: std::slice::Iter<'a, Word>,
}

impl<'a> Words<'a> {
    /// The value of an option.
    fn value(&mut self, option: &Word) -> Result<&'a Word, Error> {
        match self.words.next() {
            Some(word) if word.text == "!" => Err(word.error(NEGATION)),
            Some(word) => Ok(word),
            None => Err(option.error(format!("{} has no value", option.text))),
        }
    }
}

const NEGATION: &str = "negation is not understood: write a rule for the exception before this one";

/// What `-m hashlimit` says.
#[derive(Default)]
struct Hashlimit {
    place: Option<Range<usize>>,
    by_source: bool,
}

fn rule(words: &[Word], v6: bool, line: &Range<usize>) -> Result<FilterRule, Error> {
    let mut rule = FilterRule { version: Some(if v6 { 6 } else { 4 }), ..FilterRule::default() };
    let mut limit = Hashlimit::default();
    let mut verdict = None;
    let mut words = Words { words: words.iter() };
    while let Some(option) = words.words.next() {
        let bad = |message: String| option.error(message);
        match option.text.as_str() {
            "-s" | "--source" => rule.src = Some(addresses(words.value(option)?, v6)?),
            "-d" | "--destination" => rule.dst = Some(addresses(words.value(option)?, v6)?),
            "-i" | "--in-interface" => {
                let name = words.value(option)?;
                if name.text.ends_with('+') {
                    return Err(name.error("names with + are not understood: write every interface"));
                }
                rule.interface = Some(name.text.clone());
            }
            "-p" | "--protocol" => {
                let name = words.value(option)?;
                rule.proto =
                    Some(values::protocol(&name.text).map_err(|message| name.error(message))?.into());
            }
            "-m" | "--match" => {
                let name = words.value(option)?;
                const KNOWN: [&str; 7] = ["tcp", "udp", "icmp", "icmp6", "multiport", "comment", "hashlimit"];
                if !KNOWN.contains(&name.text.as_str()) {
                    return Err(name.error(format!(
                        "match {:?} is not understood: {} are",
                        name.text,
                        KNOWN.join(", ")
                    )));
                }
            }
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                rule.dport = Some(ports(words.value(option)?)?);
            }
            "--sport" | "--source-port" | "--sports" | "--source-ports" => {
                rule.sport = Some(ports(words.value(option)?)?);
            }
            "--tcp-flags" => {
                let (mask, value) = (words.value(option)?, words.value(option)?);
                rule.flags = Some(flags(mask, value)?);
            }
            "--syn" => rule.flags = "syn/fin,syn,rst,ack".parse().ok(),
            "--icmp-type" | "--icmpv6-type" => {
                let kind = words.value(option)?;
                if kind.text == "any" || kind.text == "255" && !v6 {
                    continue;
                }
                rule.icmp = Some(icmp(kind, v6)?);
            }
            "--comment" => rule.comment = Some(words.value(option)?.text.clone()),
            "--hashlimit-above" => {
                let rate = words.value(option)?;
                rule.rate = Some(hash_rate(rate)?);
                limit.place = Some(rate.place.clone());
            }
            "--hashlimit-burst" => {
                let burst = words.value(option)?;
                rule.burst = Some(burst.text.parse().map_err(|_| burst.error("not a number of packets"))?);
            }
            "--hashlimit-mode" => {
                let mode = words.value(option)?;
                if mode.text != "srcip" {
                    return Err(mode.error("hashlimit by anything but srcip is not understood"));
                }
                limit.by_source = true;
            }
            "--hashlimit-name" => {
                words.value(option)?;
            }
            "-j" | "--jump" => {
                let target = words.value(option)?;
                verdict = Some(match target.text.as_str() {
                    "ACCEPT" => FilterAction::Allow,
                    "DROP" => FilterAction::Drop,
                    "REJECT" => {
                        rule.with = Some(RejectWith::PortUnreachable);
                        FilterAction::Reject
                    }
                    other => {
                        return Err(target.error(format!(
                            "target {other:?} is not understood: ACCEPT, DROP and REJECT are"
                        )));
                    }
                });
            }
            "--reject-with" => {
                let answer = words.value(option)?;
                rule.with = Some(match answer.text.as_str() {
                    "tcp-reset" => RejectWith::TcpReset,
                    "icmp-port-unreachable" | "icmp6-port-unreachable" => RejectWith::PortUnreachable,
                    "icmp-admin-prohibited" | "icmp6-adm-prohibited" => RejectWith::AdminProhibited,
                    other => return Err(answer.error(format!("{other:?} is not among netfast's answers"))),
                });
            }
            "!" => return Err(bad(NEGATION.to_owned())),
            other => return Err(bad(format!("{other:?} is not understood (docs/filter.md says what is)"))),
        }
    }
    rule.action = match (limit.place, verdict) {
        (None, Some(verdict)) => verdict,
        (None, None) => FilterAction::Count,
        (Some(_), Some(FilterAction::Drop)) => {
            rule.per = Some(if limit.by_source { LimitPer::Source } else { LimitPer::Rule });
            FilterAction::Limit
        }
        (Some(place), _) => return Err((place, "a limit is understood before DROP only".to_owned())),
    };
    if rule.action != FilterAction::Limit && rule.burst.is_some() {
        return Err((line.clone(), "the burst has no --hashlimit-above beside it".to_owned()));
    }
    Ok(rule)
}

fn addresses(word: &Word, v6: bool) -> Result<Many<Addresses>, Error> {
    let mut list = Vec::new();
    for text in word.text.split(',') {
        let nets = match text.split_once('/') {
            // A mask in dots.
            Some((address, mask)) if mask.contains('.') => {
                let mask: std::net::Ipv4Addr = mask.parse().map_err(|_| word.error("not a mask"))?;
                let length = mask.to_bits().leading_ones();
                if mask.to_bits() != u32::MAX.checked_shl(32 - length).unwrap_or(0) {
                    return Err(word.error(format!("{text}: masks with holes are not understood")));
                }
                values::addresses(&format!("{address}/{length}"))
            }
            _ => values::addresses(text),
        };
        let nets = nets.map_err(|message| word.error(message))?;
        if nets.iter().any(|net| net.addr().is_ipv6() != v6) {
            return Err(word.error(format!("{text} is not of IPv{}", if v6 { 6 } else { 4 })));
        }
        list.extend(nets.into_iter().map(Addresses::Net));
    }
    Ok(list.into_iter().collect())
}

fn ports(word: &Word) -> Result<Many<crate::api::types::Ports>, Error> {
    let list: Result<Vec<_>, String> = word.text.split(',').map(|text| values::ports(text, ':')).collect();
    Ok(list.map_err(|message| word.error(message))?.into_iter().collect())
}

fn flags(mask: &Word, value: &Word) -> Result<TcpFlags, Error> {
    let bits = |word: &Word| match word.text.as_str() {
        "NONE" => Ok(0),
        // iptables knows six flags.
        "ALL" => Ok(0x3f),
        text => TcpFlags::bits(&text.to_lowercase()).map_err(|error| word.error(error.0)),
    };
    let flags = TcpFlags { mask: bits(mask)?, value: bits(value)? };
    if flags.value & !flags.mask != 0 || flags.mask == 0 {
        return Err(value.error("flags are asked for that the mask leaves out"));
    }
    Ok(flags)
}

fn icmp(word: &Word, v6: bool) -> Result<Many<crate::api::types::IcmpKind>, Error> {
    let (kind, code) = match word.text.split_once('/') {
        Some((kind, code)) => (kind, Some(code.parse().map_err(|_| word.error("not a code"))?)),
        None => (word.text.as_str(), None),
    };
    let mut kind = values::icmp(kind, v6).map_err(|message| word.error(message))?;
    kind.code = code;
    Ok(kind.into())
}

fn hash_rate(word: &Word) -> Result<Rate, Error> {
    let (number, unit) =
        word.text.split_once('/').ok_or_else(|| word.error("a rate such as 100/sec was expected"))?;
    let number: u64 =
        number.parse().map_err(|_| word.error("rates in bytes are not understood: packets are"))?;
    values::per_second(number, unit).map(Rate::Packets).map_err(|message| word.error(message))
}
