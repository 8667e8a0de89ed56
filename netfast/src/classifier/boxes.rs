//! Rules as boxes: a range per field.

use netfast_common::abi::{FilterField, FilterHead};

use super::rule::{Addresses, Ports, Rule};

/// Fields of an IPv4 box, in the order of its columns.
const FIELDS4: [u8; 6] = [
    FilterField::Source as u8 + 3,
    FilterField::Destination as u8 + 3,
    FilterField::SourcePort as u8,
    FilterField::DestinationPort as u8,
    FilterField::Protocol as u8,
    FilterField::Interface as u8,
];
/// Fields of an IPv6 box. A prefix is a range in one word, exact in those before it and anything in those behind it.
const FIELDS6: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
/// Most columns.
pub(super) const COLUMNS: usize = 12;

/// Kinds of trees, by their place in the map of the [`FilterHead`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// IPv4 rules that decide.
    V4 = 0,
    /// IPv6 rules that decide.
    V6 = 1,
    /// IPv4 rules that go on.
    Side4 = 2,
    /// IPv6 rules that go on.
    Side6 = 3,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::V4, Self::V6, Self::Side4, Self::Side6];

    /// Whether records have the IPv6 form.
    pub const fn is_v6(self) -> bool {
        matches!(self, Self::V6 | Self::Side6)
    }

    /// Whether the rules go on.
    pub const fn is_side(self) -> bool {
        matches!(self, Self::Side4 | Self::Side6)
    }

    /// Whether `rule` belongs to it.
    pub fn takes(self, rule: &Rule) -> bool {
        rule.action.goes_on() == self.is_side() && rule.can_match(self.is_v6())
    }
}

const _: () = assert!(size_of::<FilterHead>() == 64);

/// The boxes of the rules of one kind, by columns: position `i` of every vector is the same rule.
#[derive(Debug)]
pub(super) struct Boxes {
    /// The field of each column.
    pub(super) fields: &'static [u8],
    /// First value in each column.
    pub(super) low: Vec<Vec<u32>>,
    /// Last value in each column.
    pub(super) high: Vec<Vec<u32>>,
    /// Order of the rule.
    pub(super) order: Vec<u32>,
    /// Position in the list of rules.
    pub(super) rule: Vec<u32>,
    /// The rule needs ports or an ICMP type.
    needs: Vec<bool>,
    /// A packet in the box matches, but for what is needed.
    certain: Vec<bool>,
    /// Source and destination are wide.
    pub(super) wide: Vec<[bool; 2]>,
}

/// A part of the space: a range per column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) low: [u32; COLUMNS],
    pub(super) high: [u32; COLUMNS],
}

impl Boxes {
    /// The boxes of the rules of `kind`; `orders` beside the rules.
    pub(super) fn new(kind: Kind, rules: &[Rule], orders: &[u32]) -> Self {
        let fields: &'static [u8] = if kind.is_v6() { &FIELDS6 } else { &FIELDS4 };
        let mut boxes = Self {
            fields,
            low: vec![Vec::new(); fields.len()],
            high: vec![Vec::new(); fields.len()],
            order: Vec::new(),
            rule: Vec::new(),
            needs: Vec::new(),
            certain: Vec::new(),
            wide: Vec::new(),
        };
        for (at, (rule, order)) in rules.iter().zip(orders).enumerate() {
            if kind.takes(rule) {
                boxes.push(kind, at, rule, *order);
            }
        }
        boxes
    }

    fn push(&mut self, kind: Kind, at: usize, rule: &Rule, order: u32) {
        let mut ranges = [[0, u32::MAX]; COLUMNS];
        let ports_at = if kind.is_v6() {
            address6(rule.source, &mut ranges, 0);
            address6(rule.destination, &mut ranges, 4);
            8
        } else {
            ranges[0] = address4(rule.source);
            ranges[1] = address4(rule.destination);
            2
        };
        let wide16 = |range: [u16; 2]| [u32::from(range[0]), u32::from(range[1])];
        let wide8 = |range: [u8; 2]| [u32::from(range[0]), u32::from(range[1])];
        [ranges[ports_at], ranges[ports_at + 1]] = match rule.ports {
            Ports::Any => [[0, 0xffff]; 2],
            Ports::Ports { source, destination } => [wide16(source), wide16(destination)],
            Ports::Icmp { kind, code } => [wide8(kind), wide8(code)],
        };
        ranges[ports_at + 2] = rule.protocol_of(kind.is_v6()).map_or([0, 255], |p| [u32::from(p); 2]);
        ranges[ports_at + 3] = if rule.ifindex == 0 { [0, u32::MAX] } else { [rule.ifindex; 2] };
        for (column, [low, high]) in ranges.iter().enumerate().take(self.fields.len()) {
            self.low[column].push(*low);
            self.high[column].push(*high);
        }
        self.order.push(order);
        self.rule.push(at as u32);
        self.needs.push(rule.ports != Ports::Any);
        self.certain.push(
            rule.vlan.is_none()
                && rule.tcp_flags.is_none_or(|[_, mask]| mask == 0)
                && !rule.is_on_ports_alone(),
        );
        self.wide.push([is_wide(rule.source), is_wide(rule.destination)]);
    }

    /// Number of boxes.
    pub(super) fn len(&self) -> usize {
        self.rule.len()
    }

    /// Everything.
    pub(super) fn space(&self) -> Region {
        let mut region = Region { low: [0; COLUMNS], high: [0; COLUMNS] };
        for (column, field) in self.fields.iter().enumerate() {
            region.high[column] = match *field {
                field
                    if field == FilterField::SourcePort as u8
                        || field == FilterField::DestinationPort as u8 =>
                {
                    0xffff
                }
                field if field == FilterField::Protocol as u8 => 0xff,
                _ => u32::MAX,
            };
        }
        region
    }

    /// Whether every packet of the region matches the rule of box `item`.
    pub(super) fn covers(&self, item: u32, region: &Region) -> bool {
        let item = item as usize;
        let ports = self.fields.len() - 4;
        (0..self.fields.len())
            .all(|c| self.low[c][item] <= region.low[c] && self.high[c][item] >= region.high[c])
            && self.certain[item]
            // A packet without ports goes the way of port 0.
            && (!self.needs[item] || region.low[ports] > 0 || region.low[ports + 1] > 0)
    }
}

fn address4(addresses: Addresses) -> [u32; 2] {
    match addresses {
        Addresses::V4 { first, last } => [first, last],
        _ => [0, u32::MAX],
    }
}

fn address6(addresses: Addresses, ranges: &mut [[u32; 2]; COLUMNS], at: usize) {
    let Addresses::V6 { address, length } = addresses else { return };
    let mask = prefix_mask(length);
    for (word, range) in ranges[at..at + 4].iter_mut().enumerate() {
        let of = |value: u128| (value >> (96 - 32 * word)) as u32;
        *range = [of(address & mask), of(address | !mask)];
    }
}

/// The mask of a prefix length.
pub(super) fn prefix_mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// Whether so many addresses are meant that the field hardly tells packets apart.
fn is_wide(addresses: Addresses) -> bool {
    match addresses {
        Addresses::Any => true,
        Addresses::V4 { first, last } => last - first >= 1 << 20,
        Addresses::V6 { length, .. } => length <= 28,
    }
}
