//! How the tool is used: arguments, exit codes, JSON, the output file.

use pcap_file::{DataLink, Endianness, pcap::PcapReader};

use crate::{
    file, query,
    reading::{pcap, pcapng},
    replay, report,
};

const RULES: &str = "[[forward]]\nname = \"dns\"\nprotocol = \"udp\"\nlisten = \"192.0.2.10:53\"\n\
                     [[forward.target]]\naddress = \"10.0.0.53:5353\"\n\
                     [[filter]]\naction = \"drop\"\nsrc = \"198.51.100.0/24\"\nproto = \"tcp\"\ninterface = \"eth7\"\n";

#[test]
fn the_json_form() {
    let folder = tempfile::tempdir().unwrap();
    let frames = [query(b"one"), query(b"two"), vec![0; 13], vec![9; 5], vec![0xff; 60]];
    let capture = file(&folder, "a.pcap", &pcap(&frames, |_| {}));
    let rules = file(&folder, "rules.toml", RULES.as_bytes());
    let out = folder.path().join("out.pcap");
    let report = report([&capture, "--rules", &rules, "--out", out.to_str().unwrap()], 0);
    assert_eq!(1, report["schema_version"]);
    assert_eq!((5, 2), (report["frames"].as_u64().unwrap(), report["skipped"].as_u64().unwrap()));
    assert_eq!(serde_json::json!({"pass": 1, "drop": 0, "tx": 0, "redirect": 2}), report["verdicts"]);
    assert_eq!(serde_json::json!({"forwarded": 2, "not_ip": 1}), report["reasons"]);
    assert_eq!(serde_json::json!([]), report["violations"]);

    let mut reader = PcapReader::new(std::fs::File::open(&out).unwrap()).unwrap();
    let mut left = Vec::new();
    while let Some(packet) = reader.next_packet() {
        left.push(packet.unwrap().data.into_owned());
    }
    assert_eq!(3, left.len());
    assert_eq!([10, 0, 0, 53], left[0][30..34], "the target");
    assert_eq!(frames[4], left[2], "what is passed is written, too");
}

#[test]
fn with_an_own_mac_address_frames_run_once() {
    let folder = tempfile::tempdir().unwrap();
    let capture = file(&folder, "a.pcap", &pcap(&[query(b"one")], |_| {}));
    let rules = file(&folder, "rules.toml", RULES.as_bytes());
    let other = report([&capture, "--rules", &rules, "--mac", "02:00:00:00:00:99"], 0);
    assert_eq!(serde_json::json!({"not_our_mac": 1}), other["reasons"]);
}

#[test]
fn a_report_for_people() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = pcap(&[query(b"one"), query(b"two")], |_| {});
    bytes.truncate(bytes.len() - 3);
    let capture = file(&folder, "a.pcap", &bytes);
    let output = replay([capture.as_str()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in
        ["the file ends in the middle of a record", "1 frames, 0 skipped", "no_service", "no violations"]
    {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}

#[test]
fn other_links_are_skipped_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mixed = pcapng(&[(0, query(b"one")), (1, vec![0x45; 60])], Endianness::Little);
    let report = report([file(&folder, "a.pcapng", &mixed).as_str()], 0);
    assert_eq!((2, 1), (report["frames"].as_u64().unwrap(), report["skipped"].as_u64().unwrap()));
    let raw = file(&folder, "raw.pcap", &pcap(&[], |header| header.datalink = DataLink::RAW));
    fails(&[&raw], "not Ethernet");
}

#[track_caller]
fn fails(args: &[&str], expected: &str) {
    let output = replay(args.iter().copied());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((Some(2), true), (output.status.code(), output.stdout.is_empty()), "{error}");
    assert!(error.contains(expected), "{error}");
}

#[test]
fn wrong_usage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let capture = file(&folder, "a.pcap", &pcap(&[], |_| {}));
    let rules = file(&folder, "rules.toml", b"[[forwards]]\n");
    fails(&[], "Usage");
    fails(&[&capture, "--rule", &rules], "--rules");
    fails(&["nothing.pcap"], "nothing.pcap cannot be read");
    fails(&[&rules], "neither pcap nor pcapng");
    fails(&[&capture, "--rules", &rules], "rules.toml:1:3");
    fails(&[&capture, "--out", "/nowhere/out.pcap"], "/nowhere/out.pcap cannot be written");
    fails(&[&capture, "--mac", "02:00"], "six bytes");
}
