//! A rule: matches, statements, a verdict.

use std::ops::Range;

use super::{
    Set, Table,
    lex::{Cursor, Kind, Token},
};
use crate::{
    api::types::{Addresses, FilterAction, FilterRule, IcmpKind, Many, Protocol, Rate, RejectWith, TcpFlags},
    rules::formats::{Error, values},
};

/// A rule under way.
struct Rule<'a> {
    table: &'a Table,
    rule: FilterRule,
    /// Where its protocol was said.
    interfaces: Vec<String>,
    flags: Vec<TcpFlags>,
    code: Option<u8>,
    counts: bool,
    limit: Option<Range<usize>>,
    verdict: Option<FilterAction>,
}

/// Values of a match, with their places.
type Values = Vec<(Range<usize>, String)>;

/// Reads a rule up to the end of its line. It may be several of netfast's.
pub(super) fn rule(
    cursor: &mut Cursor<'_>,
    base: &FilterRule,
    table: &Table,
) -> Result<Vec<FilterRule>, Error> {
    let start = cursor.peek().map_or(0, |token| token.start);
    let mut rule = Rule {
        table,
        rule: base.clone(),
        interfaces: Vec::new(),
        flags: Vec::new(),
        code: None,
        counts: false,
        limit: None,
        verdict: None,
    };
    while !cursor.at_end() {
        let word = cursor.word()?;
        if let Some(verdict) = rule.verdict
            && word.text != "comment"
        {
            return Err(word.error(format!("{:?} stands behind the verdict {verdict}", word.text)));
        }
        rule.part(cursor, &word)?;
    }
    let place = start..cursor.before();
    rule.finish(place)
}

impl Rule<'_> {
    fn part(&mut self, cursor: &mut Cursor<'_>, word: &Token<'_>) -> Result<(), Error> {
        match word.text {
            "ip" | "ip6" => self.ip(cursor, word.text == "ip6"),
            "meta" => {
                let key = cursor.word()?;
                self.meta(cursor, &key)
            }
            "iif" | "iifname" => self.meta(cursor, word),
            "tcp" | "udp" | "th" => self.transport(cursor, word),
            "icmp" | "icmpv6" => self.icmp(cursor, word),
            "vlan" => {
                cursor.expect("id")?;
                let (place, text) = one(self.values(cursor)?)?;
                let id = text.parse().map_err(|_| (place, format!("{text:?} is not a VLAN")))?;
                self.rule.vlan = Some(id);
                Ok(())
            }
            "counter" => {
                self.counts = true;
                while cursor.peek().is_some_and(|token| matches!(token.text, "packets" | "bytes")) {
                    cursor.any();
                    let number = cursor.word()?;
                    number.text.parse::<u64>().map_err(|_| number.error("not a number"))?;
                }
                Ok(())
            }
            "limit" => self.limit(cursor, word),
            "comment" => {
                self.rule.comment = Some(cursor.word()?.text.to_owned());
                Ok(())
            }
            "accept" | "drop" => {
                self.verdict =
                    Some(if word.text == "accept" { FilterAction::Allow } else { FilterAction::Drop });
                Ok(())
            }
            "reject" => self.reject(cursor),
            "ct" => Err(word.error(
                "ct is not understood: netfast follows its own flows only, and lets their replies pass by itself",
            )),
            "jump" | "goto" | "return" | "continue" | "queue" => Err(word.error(format!(
                "{:?} is not understood: netfast has one list of rules, and accept, drop and reject end it",
                word.text
            ))),
            other => Err(word.error(format!("{other:?} is not understood (docs/filter.md says what is)"))),
        }
    }

    fn version(&mut self, version: u8, place: Range<usize>) -> Result<(), Error> {
        match self.rule.version {
            Some(other) if other != version => Err((
                place,
                format!("this is of IPv{version}, and the rule of IPv{other}: it matches nothing"),
            )),
            _ => {
                self.rule.version = Some(version);
                Ok(())
            }
        }
    }

    fn protocol(&mut self, list: Vec<Protocol>, place: Range<usize>) -> Result<(), Error> {
        let both: Vec<Protocol> = match &self.rule.proto {
            None => list,
            Some(said) => list.into_iter().filter(|proto| said.iter().any(|other| other == proto)).collect(),
        };
        if both.is_empty() {
            return Err((place, "the rule is of another protocol already: it matches nothing".to_owned()));
        }
        self.rule.proto = Some(both.into_iter().collect());
        Ok(())
    }

    /// The values that a field is compared with: one, a list in braces, or a set.
    fn values(&self, cursor: &mut Cursor<'_>) -> Result<Values, Error> {
        cursor.eat("==");
        let word = cursor.word()?;
        match (word.kind, word.text) {
            (Kind::Mark, "{") => cursor.list_rest(),
            (Kind::Mark, "!=" | "!") => {
                Err(word.error("negation is not understood: write a rule for the exception before this one"))
            }
            (Kind::Mark, other) => Err(word.error(format!("{other:?} stands where a value was expected"))),
            (_, text) => match text.strip_prefix('@').and_then(|name| self.table.sets.get(name)) {
                Some(Set::Elements(elements)) => Ok(elements.clone()),
                None if text.starts_with('@') => {
                    Err(word.error(format!("there is no set {text} before this rule")))
                }
                _ => Ok(vec![(word.place(), text.to_owned())]),
            },
        }
    }

    fn ip(&mut self, cursor: &mut Cursor<'_>, v6: bool) -> Result<(), Error> {
        let key = cursor.word()?;
        self.version(if v6 { 6 } else { 4 }, key.place())?;
        match (key.text, v6) {
            ("saddr" | "daddr", _) => {
                let mut list = Vec::new();
                for (place, text) in self.values(cursor)? {
                    if let Some(name) = text.strip_prefix('@') {
                        list.push(Addresses::Set(name.to_owned()));
                        continue;
                    }
                    let nets = values::addresses(&text).map_err(|message| (place.clone(), message))?;
                    if nets.iter().any(|net| net.addr().is_ipv6() != v6) {
                        return Err((place, format!("{text} is not of IPv{}", if v6 { 6 } else { 4 })));
                    }
                    list.extend(nets.into_iter().map(Addresses::Net));
                }
                let field = if key.text == "saddr" { &mut self.rule.src } else { &mut self.rule.dst };
                once(field, list, &key)
            }
            ("protocol", false) | ("nexthdr", true) => self.protocols(cursor, &key),
            (other, _) => Err(key.error(format!("{other:?} of the IP header is not understood"))),
        }
    }

    fn protocols(&mut self, cursor: &mut Cursor<'_>, key: &Token<'_>) -> Result<(), Error> {
        let mut list = Vec::new();
        for (place, text) in self.values(cursor)? {
            list.push(values::protocol(&text).map_err(|message| (place, message))?);
        }
        self.protocol(list, key.place())
    }

    fn meta(&mut self, cursor: &mut Cursor<'_>, key: &Token<'_>) -> Result<(), Error> {
        match key.text {
            "l4proto" => self.protocols(cursor, key),
            "nfproto" | "protocol" => {
                let (place, text) = one(self.values(cursor)?)?;
                match text.as_str() {
                    "ipv4" | "ip" => self.version(4, place),
                    "ipv6" | "ip6" => self.version(6, place),
                    other => Err((place, format!("{other:?} is neither ipv4 nor ipv6"))),
                }
            }
            "iif" | "iifname" => {
                if !self.interfaces.is_empty() || self.rule.interface.is_some() {
                    return Err(key.error("the interface is said twice"));
                }
                for (place, name) in self.values(cursor)? {
                    if name.ends_with('*') {
                        return Err((
                            place,
                            "names with * are not understood: write every interface".to_owned(),
                        ));
                    }
                    self.interfaces.push(name);
                }
                Ok(())
            }
            other => Err(key.error(format!("meta {other} is not understood"))),
        }
    }

    fn transport(&mut self, cursor: &mut Cursor<'_>, word: &Token<'_>) -> Result<(), Error> {
        let key = cursor.word()?;
        match word.text {
            "tcp" => self.protocol(vec![Protocol(6)], word.place())?,
            "udp" => self.protocol(vec![Protocol(17)], word.place())?,
            _ if self.rule.proto.is_none() => {
                return Err(
                    word.error("write `meta l4proto { tcp, udp }` before it: th alone is of any protocol")
                );
            }
            _ => {}
        }
        match key.text {
            "sport" | "dport" => {
                let mut list = Vec::new();
                for (place, text) in self.values(cursor)? {
                    list.push(values::ports(&text, '-').map_err(|message| (place, message))?);
                }
                let field = if key.text == "sport" { &mut self.rule.sport } else { &mut self.rule.dport };
                once(field, list, &key)
            }
            "flags" if word.text == "tcp" => self.tcp_flags(cursor, &key),
            other => Err(key.error(format!("{} {other} is not understood", word.text))),
        }
    }

    /// `syn`, `== syn`, `syn / syn,ack`, `& (syn|ack) == syn`.
    fn tcp_flags(&mut self, cursor: &mut Cursor<'_>, key: &Token<'_>) -> Result<(), Error> {
        if !self.flags.is_empty() {
            return Err(key.error("flags are said twice"));
        }
        if cursor.eat("&") {
            let mask = bits(cursor)?;
            let all = match cursor.word()? {
                word if word.text == "==" => true,
                word if word.text == "!=" => false,
                word => return Err(word.error("== was expected")),
            };
            let value = bits(cursor)?;
            return match (all, value) {
                (true, value) => self.flag(value, mask, key),
                (false, 0) => self.any_flag(mask, key),
                (false, _) => Err(key.error("negation is not understood, but for != 0")),
            };
        }
        if cursor.eat("==") {
            let value = bits(cursor)?;
            return self.flag(value, 0xff, key);
        }
        if cursor.peek().is_some_and(|token| matches!(token.text, "!=" | "!")) {
            return Err(key.error("negation is not understood"));
        }
        let value = bits(cursor)?;
        if cursor.eat("/") {
            let mask = bits(cursor)?;
            return self.flag(value, mask, key);
        }
        self.any_flag(value, key)
    }

    fn flag(&mut self, value: u8, mask: u8, key: &Token<'_>) -> Result<(), Error> {
        if value & !mask != 0 || mask == 0 {
            return Err(key.error("flags are asked for that the mask leaves out"));
        }
        self.flags.push(TcpFlags { value, mask });
        Ok(())
    }

    /// Any of the flags: a rule for each.
    fn any_flag(&mut self, bits: u8, key: &Token<'_>) -> Result<(), Error> {
        (0..8)
            .map(|bit| bits & (1 << bit))
            .filter(|bit| *bit != 0)
            .try_for_each(|bit| self.flag(bit, bit, key))
    }

    fn icmp(&mut self, cursor: &mut Cursor<'_>, word: &Token<'_>) -> Result<(), Error> {
        let v6 = word.text == "icmpv6";
        self.protocol(vec![Protocol(if v6 { 58 } else { 1 })], word.place())?;
        let key = cursor.word()?;
        match key.text {
            "type" => {
                let mut list: Vec<IcmpKind> = Vec::new();
                for (place, text) in self.values(cursor)? {
                    list.push(values::icmp(&text, v6).map_err(|message| (place, message))?);
                }
                once(&mut self.rule.icmp, list, &key)
            }
            "code" => {
                let (place, text) = one(self.values(cursor)?)?;
                let code = text
                    .parse()
                    .map_err(|_| (place, format!("{text:?} is not a number: write codes as such")))?;
                self.code = Some(code);
                Ok(())
            }
            other => Err(key.error(format!("{} {other} is not understood", word.text))),
        }
    }

    fn limit(&mut self, cursor: &mut Cursor<'_>, word: &Token<'_>) -> Result<(), Error> {
        cursor.expect("rate")?;
        if !cursor.eat("over") {
            return Err(word.error(
                "a limit without `over` is not understood: netfast's limits drop what is over the rate \
                 (`limit rate over 100/second drop`)",
            ));
        }
        let amount = cursor.word()?;
        let (number, unit) = amount.text.split_once('/').unwrap_or((amount.text, ""));
        let number: u64 =
            number.parse().map_err(|_| amount.error("a rate such as 100/second was expected"))?;
        let (factor, unit) = if unit.is_empty() {
            let word = cursor.word()?;
            let (what, time) = word.text.split_once('/').unwrap_or((word.text, ""));
            let factor = match what {
                "bytes" => 1,
                "kbytes" => 1 << 10,
                "mbytes" => 1 << 20,
                _ => return Err(word.error("bytes, kbytes or mbytes a second was expected")),
            };
            if time != "second" {
                return Err(word.error("bytes are limited by the second"));
            }
            (Some(factor), time)
        } else {
            (None, unit)
        };
        self.rule.rate = Some(match factor {
            Some(factor) => Rate::Bits(number * factor * 8),
            None => Rate::Packets(values::per_second(number, unit).map_err(|message| amount.error(message))?),
        });
        if cursor.eat("burst") {
            let number = cursor.word()?;
            let burst: u32 = number.text.parse().map_err(|_| number.error("not a number"))?;
            let unit = cursor.word()?;
            self.rule.burst = Some(match (unit.text, factor) {
                ("packets", None) | ("bytes", Some(_)) => burst,
                ("kbytes", Some(_)) => burst.saturating_mul(1 << 10),
                ("mbytes", Some(_)) => burst.saturating_mul(1 << 20),
                _ => return Err(unit.error("the burst has another unit than the rate")),
            });
        }
        self.limit = Some(word.place());
        Ok(())
    }

    fn reject(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Error> {
        self.verdict = Some(FilterAction::Reject);
        // nftables answers with ICMP port unreachable unless it is told otherwise.
        self.rule.with = Some(RejectWith::PortUnreachable);
        if !cursor.eat("with") {
            return Ok(());
        }
        let kind = cursor.word()?;
        if kind.text == "tcp" {
            cursor.expect("reset")?;
            self.rule.with = Some(RejectWith::TcpReset);
            return Ok(());
        }
        if !matches!(kind.text, "icmp" | "icmpv6" | "icmpx") {
            return Err(kind.error(format!("reject with {:?} is not understood", kind.text)));
        }
        cursor.eat("type");
        let answer = cursor.word()?;
        self.rule.with = Some(match answer.text {
            "port-unreachable" => RejectWith::PortUnreachable,
            "admin-prohibited" => RejectWith::AdminProhibited,
            other => {
                return Err(answer.error(format!(
                    "{other:?} is not among netfast's answers: port-unreachable and admin-prohibited are"
                )));
            }
        });
        Ok(())
    }

    fn finish(self, place: Range<usize>) -> Result<Vec<FilterRule>, Error> {
        let Self { mut rule, interfaces, flags, code, counts, limit, verdict, .. } = self;
        if let Some(code) = code {
            let Some(kinds) = &mut rule.icmp else {
                return Err((place, "a code without a type is not understood".to_owned()));
            };
            kinds.as_mut_slice().iter_mut().for_each(|kind| kind.code = Some(code));
        }
        rule.action = match (limit, verdict) {
            (Some(_), Some(FilterAction::Drop)) => FilterAction::Limit,
            (Some(limit), _) => {
                return Err((limit, "a limit is understood before drop only".to_owned()));
            }
            (None, Some(verdict)) => verdict,
            (None, None) if counts => FilterAction::Count,
            (None, None) => return Err((place, "the rule has no verdict and counts nothing".to_owned())),
        };
        let mut rules = vec![rule];
        if !interfaces.is_empty() {
            rules = product(rules, &interfaces, |rule, name| rule.interface = Some(name.clone()));
        }
        if !flags.is_empty() {
            rules = product(rules, &flags, |rule, flags| rule.flags = Some(*flags));
        }
        Ok(rules)
    }
}

fn product<T>(rules: Vec<FilterRule>, values: &[T], set: impl Fn(&mut FilterRule, &T)) -> Vec<FilterRule> {
    let with = |rule: &FilterRule, value: &T| {
        let mut rule = rule.clone();
        set(&mut rule, value);
        rule
    };
    rules.iter().flat_map(|rule| values.iter().map(|value| with(rule, value)).collect::<Vec<_>>()).collect()
}

fn once<T>(field: &mut Option<Many<T>>, list: Vec<T>, key: &Token<'_>) -> Result<(), Error> {
    if field.is_some() {
        return Err(key.error(format!("{:?} is said twice: one rule cannot ask for both", key.text)));
    }
    *field = Some(list.into_iter().collect());
    Ok(())
}

fn one(values: Values) -> Result<(Range<usize>, String), Error> {
    let mut values = values.into_iter();
    match (values.next(), values.next()) {
        (Some(only), None) => Ok(only),
        (Some((place, _)), Some(_)) => Err((place, "a list is not understood here".to_owned())),
        (None, _) => Err((0..0, "a value was expected".to_owned())),
    }
}

/// `syn,ack`, `syn | ack`, `(syn|ack)`, `0x0`.
fn bits(cursor: &mut Cursor<'_>) -> Result<u8, Error> {
    let open = cursor.eat("(");
    let mut bits = 0;
    loop {
        let word = cursor.word()?;
        bits |= match word.text {
            "0x0" | "0" => 0,
            text => TcpFlags::bits(text).map_err(|error| word.error(error.0))?,
        };
        if !(cursor.eat(",") || cursor.eat("|")) {
            break;
        }
    }
    if open {
        cursor.expect(")")?;
    }
    Ok(bits)
}
