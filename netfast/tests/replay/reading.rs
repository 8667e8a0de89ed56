//! Capture files of every kind, written by the crate pcap-file.

use std::{borrow::Cow, time::Duration};

use pcap_file::{
    DataLink, Endianness, TsResolution,
    pcap::{PcapHeader, PcapPacket, PcapWriter},
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::EnhancedPacketBlock, interface_description::InterfaceDescriptionBlock,
            simple_packet::SimplePacketBlock,
        },
    },
};

use crate::capture::{self, Capture};

const TIME: Duration = Duration::new(1_700_000_000, 123_456_000);

/// A pcap file of some frames.
pub fn pcap(frames: &[Vec<u8>], change: impl FnOnce(&mut PcapHeader)) -> Vec<u8> {
    let mut header = PcapHeader::default();
    change(&mut header);
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for frame in frames {
        writer.write_packet(&PcapPacket::new(TIME, frame.len() as u32, frame)).unwrap();
    }
    writer.into_writer()
}

/// A pcapng file; `link` by frame.
pub fn pcapng(frames: &[(u32, Vec<u8>)], endianness: Endianness) -> Vec<u8> {
    let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness).unwrap();
    for link in [DataLink::ETHERNET, DataLink::RAW] {
        writer.write_pcapng_block(InterfaceDescriptionBlock::new(link, 0xffff)).unwrap();
    }
    for (interface_id, frame) in frames {
        let block = EnhancedPacketBlock {
            interface_id: *interface_id,
            timestamp: TIME,
            original_len: frame.len() as u32,
            data: Cow::Borrowed(frame),
            options: Vec::new(),
        };
        writer.write_pcapng_block(block).unwrap();
    }
    writer.into_inner()
}

fn frames() -> Vec<Vec<u8>> {
    (0..5u8).map(|i| vec![i; 60 + usize::from(i)]).collect()
}

fn data(capture: &Capture) -> Vec<Vec<u8>> {
    capture.frames.iter().map(|frame| frame.data.clone()).collect()
}

#[test]
fn all_kinds_of_files_give_the_same_frames() {
    for endianness in [Endianness::Big, Endianness::Little] {
        for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
            let bytes = pcap(&frames(), |header| {
                header.endianness = endianness;
                header.ts_resolution = resolution;
            });
            let capture = capture::read(&bytes).unwrap();
            assert_eq!((frames(), None), (data(&capture), capture.ended.clone()));
            assert!(capture.frames.iter().all(|frame| frame.time == TIME && frame.is_ethernet()));
        }
        let numbered: Vec<_> = frames().into_iter().map(|frame| (0, frame)).collect();
        let capture = capture::read(&pcapng(&numbered, endianness)).unwrap();
        assert_eq!((frames(), None), (data(&capture), capture.ended.clone()));
        assert!(capture.frames.iter().all(|frame| frame.is_ethernet()));
    }
}

#[test]
fn simple_packets_and_other_links() {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    writer.write_pcapng_block(InterfaceDescriptionBlock::new(DataLink::ETHERNET, 64)).unwrap();
    let frame = vec![7; 63];
    writer.write_pcapng_block(SimplePacketBlock { original_len: 63, data: Cow::Borrowed(&frame) }).unwrap();
    let capture = capture::read(&writer.into_inner()).unwrap();
    assert_eq!(vec![frame], data(&capture), "without its padding");

    let capture = capture::read(&pcapng(&[(0, vec![1; 60]), (1, vec![2; 60])], Endianness::Little)).unwrap();
    assert_eq!(vec![true, false], capture.frames.iter().map(|f| f.is_ethernet()).collect::<Vec<_>>());
}

#[test]
fn a_file_that_ends_early_gives_what_is_there() {
    let numbered: Vec<_> = frames().into_iter().map(|frame| (0, frame)).collect();
    for whole in [pcap(&frames(), |_| {}), pcapng(&numbered, Endianness::Big)] {
        let mut last = 0;
        for length in 60..whole.len() {
            let Ok(capture) = capture::read(&whole[..length]) else { panic!("{length} bytes") };
            let count = capture.frames.len();
            assert_eq!(frames()[..count], data(&capture));
            assert!(count >= last && count < 5);
            last = count;
        }
        assert_eq!(4, last);
    }
}

#[test]
fn what_is_no_capture_is_refused_in_words() {
    let error = |bytes: &[u8]| capture::read(bytes).unwrap_err();
    assert!(error(b"").contains("0 bytes"));
    assert!(error(b"[package]").contains("neither pcap nor pcapng"));
    assert!(error(&[0x1f, 0x8b, 8, 0, 0]).contains("gunzip"));
    let raw = pcap(&[], |header| header.datalink = DataLink::RAW);
    assert!(error(&raw).contains("101") && error(&raw).contains("Ethernet"), "{}", error(&raw));
    assert!(error(&raw[..22]).contains("cut off"));
    let mut huge = pcap(&frames(), |_| {});
    huge[32..36].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    let capture = capture::read(&huge).unwrap();
    assert!(capture.frames.is_empty() && capture.ended.unwrap().contains("2147483647"));
}

#[test]
fn bytes_at_random_do_not_break_the_reader() {
    let numbered: Vec<_> = frames().into_iter().map(|frame| (0, frame)).collect();
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for file in [pcap(&frames(), |_| {}), pcapng(&numbered, Endianness::Little)] {
        for _ in 0..20_000 {
            let mut file = file.clone();
            for _ in 0..=next() % 4 {
                let at = next() % file.len();
                file[at] = next() as u8;
            }
            let _ = capture::read(&file);
        }
    }
}
