//! Reads capture files: pcap (also with nanoseconds, of either byte order, and the one of Kuznetzov's patches) and pcapng.
//!
//! A reader of its own, because a replay must take what tcpdump takes: records that are longer than the file's snap
//! length, odd options and time stamps, files that end in the middle of a record.

use std::time::Duration;

/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// Longer records do not exist in files that are in order (libpcap's `MAXIMUM_SNAPLEN`).
const LONGEST_RECORD: usize = 262_144;

/// What stands in a file.
#[derive(Debug, Default)]
pub struct Capture {
    /// The frames, in order.
    pub frames: Vec<Frame>,
    /// Why reading stopped before the end of the file, if it did.
    pub ended: Option<String>,
}

/// A captured frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Time since the epoch.
    pub time: Duration,
    /// The bytes that were captured.
    pub data: Vec<u8>,
    /// Link type (`LINKTYPE_…`); 1 is Ethernet.
    pub link: u32,
}

impl Frame {
    /// Whether it is an Ethernet frame.
    pub const fn is_ethernet(&self) -> bool {
        self.link == ETHERNET
    }
}

/// Reads a file's contents.
///
/// # Errors
/// If it is no capture file, in words.
pub fn read(bytes: &[u8]) -> Result<Capture, String> {
    let Some((magic, _)) = bytes.split_first_chunk::<4>() else {
        return Err(format!("a file of {} bytes is no capture file", bytes.len()));
    };
    match u32::from_be_bytes(*magic) {
        0xa1b2_c3d4 => pcap(bytes, Order::Big, 1_000, 16),
        0xd4c3_b2a1 => pcap(bytes, Order::Little, 1_000, 16),
        0xa1b2_3c4d => pcap(bytes, Order::Big, 1, 16),
        0x4d3c_b2a1 => pcap(bytes, Order::Little, 1, 16),
        0xa1b2_cd34 => pcap(bytes, Order::Big, 1_000, 24),
        0x34cd_b2a1 => pcap(bytes, Order::Little, 1_000, 24),
        SECTION_HEADER => Ok(pcapng(bytes)),
        number if number >> 16 == 0x1f8b => Err("the file is compressed: `gunzip` it first".to_owned()),
        number if number == u32::from_be_bytes([0x28, 0xb5, 0x2f, 0xfd]) => {
            Err("the file is compressed: `unzstd` it first".to_owned())
        }
        number => Err(format!("neither pcap nor pcapng: it begins with {number:08x}")),
    }
}

#[derive(Clone, Copy)]
enum Order {
    Big,
    Little,
}

/// The rest of the file.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    rest: &'a [u8],
    order: Order,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?.try_into().ok()?;
        Some(match self.order {
            Order::Big => u16::from_be_bytes(bytes),
            Order::Little => u16::from_le_bytes(bytes),
        })
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?.try_into().ok()?;
        Some(match self.order {
            Order::Big => u32::from_be_bytes(bytes),
            Order::Little => u32::from_le_bytes(bytes),
        })
    }
}

/// Reads pcap. `unit`: nanoseconds in a unit of the fraction; `header`: bytes of a record's header.
fn pcap(bytes: &[u8], order: Order, unit: u32, header: usize) -> Result<Capture, String> {
    let mut cursor = Cursor { rest: bytes, order };
    let network = cursor.take(20).and_then(|_| cursor.u32()).ok_or("the file's header is cut off")?;
    // The upper bits tell whether an FCS is there, and how long it is in units of two bytes.
    let (link, fcs) =
        (network & 0x03ff_ffff, if network & 0x0400_0000 == 0 { 0 } else { network >> 28 << 1 });
    if link != ETHERNET {
        return Err(format!(
            "its link type is {link}, not Ethernet (1): an XDP program sees Ethernet frames only"
        ));
    }
    let mut capture = Capture::default();
    while !cursor.rest.is_empty() {
        let place = bytes.len() - cursor.rest.len();
        match record(&mut cursor, unit, header) {
            Ok((time, data)) => {
                let data = data[..data.len().saturating_sub(fcs as usize)].to_vec();
                capture.frames.push(Frame { time, data, link });
            }
            Err(why) => {
                capture.ended = Some(format!("{why} at byte {place}"));
                break;
            }
        }
    }
    Ok(capture)
}

fn record<'a>(cursor: &mut Cursor<'a>, unit: u32, header: usize) -> Result<(Duration, &'a [u8]), String> {
    let cut = || "the file ends in the middle of a record".to_owned();
    let (seconds, fraction) = (cursor.u32().ok_or_else(cut)?, cursor.u32().ok_or_else(cut)?);
    let captured = cursor.u32().ok_or_else(cut)? as usize;
    cursor.take(header - 12).ok_or_else(cut)?;
    if captured > LONGEST_RECORD {
        return Err(format!("a record that claims to have {captured} bytes"));
    }
    let data = cursor.take(captured).ok_or_else(cut)?;
    Ok((
        Duration::from_secs(seconds.into()) + Duration::from_nanos(u64::from(fraction) * u64::from(unit)),
        data,
    ))
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Option `if_tsresol` of an interface.
const RESOLUTION: u16 = 9;

/// An interface of a pcapng section.
#[derive(Clone, Copy)]
struct Interface {
    link: u32,
    snap: usize,
    /// Units of its time stamps in a second.
    units: u64,
}

/// Reads pcapng.
fn pcapng(bytes: &[u8]) -> Capture {
    let mut capture = Capture::default();
    let mut cursor = Cursor { rest: bytes, order: Order::Big };
    let mut interfaces = Vec::new();
    while !cursor.rest.is_empty() {
        let place = bytes.len() - cursor.rest.len();
        if let Err(why) = block(&mut cursor, &mut interfaces, &mut capture.frames) {
            capture.ended = Some(format!("{why} at byte {place}"));
            break;
        }
    }
    capture
}

fn block(
    cursor: &mut Cursor,
    interfaces: &mut Vec<Interface>,
    frames: &mut Vec<Frame>,
) -> Result<(), String> {
    let cut = || "the file ends in the middle of a block".to_owned();
    let mut whole = *cursor;
    // A section header reads the same in either byte order, and tells the order of what follows.
    if cursor.rest.starts_with(&SECTION_HEADER.to_be_bytes()) {
        let order = cursor.rest.get(8..12).ok_or_else(cut)?;
        whole.order = if order == BYTE_ORDER.to_be_bytes() {
            Order::Big
        } else if order == BYTE_ORDER.to_le_bytes() {
            Order::Little
        } else {
            return Err("a section of unknown byte order".to_owned());
        };
        interfaces.clear();
    }
    cursor.order = whole.order;
    let kind = whole.u32().ok_or_else(cut)?;
    let length = whole.u32().ok_or_else(cut)? as usize;
    if length < 12 || !length.is_multiple_of(4) {
        return Err(format!("a block that claims to have {length} bytes"));
    }
    let mut body = Cursor { rest: &cursor.take(length).ok_or_else(cut)?[8..length - 4], order: cursor.order };
    let broken = || "a block that is too short for what is in it".to_owned();
    match kind {
        INTERFACE => interfaces.push(interface(&mut body).ok_or_else(broken)?),
        ENHANCED_PACKET => {
            let number = body.u32().ok_or_else(broken)?;
            frames.push(packet(&mut body, interfaces, number).ok_or_else(broken)?);
        }
        PACKET => {
            let (number, _drops) = (body.u16().ok_or_else(broken)?, body.u16().ok_or_else(broken)?);
            frames.push(packet(&mut body, interfaces, number.into()).ok_or_else(broken)?);
        }
        SIMPLE_PACKET => {
            let original = body.u32().ok_or_else(broken)? as usize;
            let interface = interfaces.first().copied().ok_or_else(broken)?;
            let captured = original.min(interface.snap).min(body.rest.len());
            let data = body.take(captured).ok_or_else(broken)?.to_vec();
            frames.push(Frame { time: Duration::ZERO, data, link: interface.link });
        }
        _ => {}
    }
    Ok(())
}

fn interface(body: &mut Cursor) -> Option<Interface> {
    let (link, _reserved, snap) = (body.u16()?, body.u16()?, body.u32()?);
    let snap = if snap == 0 { LONGEST_RECORD } else { snap as usize };
    let mut interface = Interface { link: link.into(), snap, units: 1_000_000 };
    while let (Some(kind), Some(length)) = (body.u16(), body.u16()) {
        let Some(value) = body.take(usize::from(length).next_multiple_of(4)) else { break };
        if kind == 0 {
            break;
        }
        if let (RESOLUTION, Some(&exponent)) = (kind, value.first()) {
            let base: u64 = if exponent & 0x80 == 0 { 10 } else { 2 };
            interface.units = base.checked_pow(u32::from(exponent & 0x7f)).unwrap_or(interface.units);
        }
    }
    Some(interface)
}

fn packet(body: &mut Cursor, interfaces: &[Interface], number: u32) -> Option<Frame> {
    let interface = interfaces.get(number as usize)?;
    let (high, low) = (body.u32()?, body.u32()?);
    let (captured, _original) = (body.u32()?, body.u32()?);
    let data = body.take(captured as usize)?.to_vec();
    let stamp = u128::from(high) << 32 | u128::from(low);
    let nanoseconds = stamp * 1_000_000_000 / u128::from(interface.units.max(1));
    let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
    Some(Frame { time, data, link: interface.link })
}
