//! `cargo xtask replay`: the frames of a capture file through the real programs, one at a time.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Parser;
use netfast::{
    api::types::Rules,
    config,
    datapath::{
        TableSizes,
        sandbox::{LONGEST_FRAME, SHORTEST_FRAME, SMALL_TABLES, Sandbox},
    },
};
use netfast_common::{Reason, Verdict};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

use report::{Counts, Report, Violation};

mod capture;
mod checksums;
mod judge;
mod report;

/// Run the frames of a capture file through the real XDP programs and report what must never be
///
/// Each frame goes through the programs that the agent loads, by BPF_PROG_TEST_RUN, in a network namespace of its own: no
/// interface of the host is touched. It runs twice: once as if it came to another station (nothing may be touched then), and
/// once as if it was addressed to this host, so that the rules apply: the interface then has the frame's destination MAC
/// address, if that is one of a single station. The counts are those of the second run.
///
/// The rules' addresses are used as they are. Their targets are reached by a second interface; all next hops are known.
/// Frames come in by the first interface that a filter rule names, else by "replay0". Time is that of the replay, not of the
/// capture. Frames of fewer than 14 or more than 73152 bytes (18 pages less XDP's head and tail room) cannot be run: they are
/// counted as skipped.
///
/// Violations: aborted (XDP_ABORTED or no verdict at all), passed_changed (a frame that was only to be passed differs),
/// wrong_checksum (a checksum was right and left wrong; judged by etherparse), miscounted (not counted exactly once under its
/// verdict), internal (a map that must be there is not), run_error. Frames are numbered from 1.
///
/// Exit code: 0 no violation, 1 violations, 2 wrong usage, an unreadable file, or nothing could be run at all.
#[derive(Debug, Parser)]
#[command(name = "replay", bin_name = "cargo xtask replay")]
struct Args {
    /// The capture file: pcap or pcapng
    file: PathBuf,
    /// Rules to run the frames under, as for `netfast apply`; none without
    #[arg(long, value_name = "RULES.toml")]
    rules: Option<PathBuf>,
    /// Write the frames that went on (passed, sent back, redirected) as they left
    #[arg(long, value_name = "OUT.pcap")]
    out: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// The interface's MAC address: each frame runs once, with this one
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    mac: Option<Mac>,
}

type Mac = [u8; 6];

/// The interface's own address where the frame does not decide.
const OWN: Mac = [0x02, 0x6e, 0x66, 0x00, 0x00, 0x01];
/// Address of the way out.
const OUT: Mac = [0x02, 0x6e, 0x66, 0x00, 0x00, 0x02];
/// Index of the interface that frames come in by.
const INGRESS: u32 = 1001;

fn parse_mac(text: &str) -> Result<Mac, String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "six bytes such as 02:00:5e:10:00:01 are expected".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let report = match run(&args) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    let text = if args.json {
        serde_json::to_string(&report).map(|text| text + "\n").unwrap_or_default()
    } else {
        report.to_string()
    };
    // A reader that has gone (`| head`) is no violation.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(!report.violations.is_empty()))
}

fn run(args: &Args) -> anyhow::Result<Report> {
    let file = args.file.display();
    let bytes = std::fs::read(&args.file).with_context(|| format!("{file} cannot be read"))?;
    let capture = capture::read(&bytes).map_err(|error| anyhow::anyhow!("{file}: {error}"))?;
    let rules = match &args.rules {
        Some(path) => config::rules::load(path)?,
        None => Rules::default(),
    };
    let mut out = args.out.as_deref().map(Output::create).transpose()?;

    let mut report = Report::new(capture.frames.len(), Vec::new());
    report.notes.extend(capture.ended.map(|why| format!("{file}: {why}; what comes before it was run")));
    let sandbox = prepare(&rules, &mut report.notes)?;
    let (mut counts, mut other) = (Counts::default(), Counts::default());
    for (number, frame) in (1..).zip(&capture.frames) {
        if !frame.is_ethernet() {
            report.skip("not an Ethernet frame");
        } else if frame.data.len() < SHORTEST_FRAME {
            report.skip("shorter than an Ethernet header (14 bytes)");
        } else if frame.data.len() > LONGEST_FRAME {
            report.skip("longer than the kernel takes (73152 bytes)");
        } else {
            let mut run = |mac: Mac| {
                sandbox.set_mac(INGRESS, mac);
                let ran = sandbox.run(INGRESS, &frame.data);
                let violation = match &ran {
                    Ok(ran) => judge::judge(&frame.data, ran),
                    Err(error) => Some(("run_error", error.to_string())),
                };
                if let Some((kind, detail)) = violation {
                    report.violations.push(Violation { frame: number, kind, detail });
                }
                ran
            };
            let destination = frame.data.first_chunk().copied().unwrap_or(OWN);
            if args.mac.is_none() {
                // One bit off: certainly not the frame's destination.
                let mut stranger = destination;
                stranger[5] ^= 1;
                if let Ok(ran) = run(stranger) {
                    other.add(ran.verdict(), ran.reason());
                }
            }
            let group = destination[0] & 1 != 0;
            let Ok(ran) = run(args.mac.unwrap_or(if group { OWN } else { destination })) else { continue };
            counts.add(ran.verdict(), ran.reason());
            if let (Some(out), false) = (&mut out, matches!(ran.verdict(), None | Some(Verdict::Drop))) {
                out.write(frame.time, &ran.frame)?;
            }
        }
    }
    report.finish(counts, args.mac.is_none().then_some(other));
    if let Some(out) = out {
        out.finish()?;
    }
    if report.frames > 0 && report.frames == report.skipped {
        report.notes.push("no frame could be run".to_owned());
    }
    Ok(report)
}

/// Loads the programs and publishes the rules for a host that has everything that they name.
fn prepare(rules: &Rules, notes: &mut Vec<String>) -> anyhow::Result<Sandbox> {
    let mut sandbox = Sandbox::enter(TableSizes { flows: 65_536, half_open: 65_536, ..SMALL_TABLES })?;
    let mut names: Vec<&str> = Vec::new();
    for name in rules.filters.iter().filter_map(|rule| rule.interface.as_deref()) {
        if !names.contains(&name) && name != "lo" {
            names.push(name);
        }
    }
    let ingress = names.first().copied().unwrap_or("replay0");
    sandbox.add_interface(ingress, INGRESS, OWN)?;
    for (index, name) in (INGRESS + 1..).zip(names.iter().skip(1)) {
        sandbox.add_interface(name, index, OUT)?;
    }
    // Targets are reached by the interface that is made last.
    sandbox.add_interface("replay-out", INGRESS - 1, OUT)?;
    let listen = rules.forwards.iter().map(|forward| forward.listen.address);
    let locals: Vec<_> = listen.chain(rules.echoes.iter().map(|echo| echo.listen.address)).collect();
    sandbox.datapath().set_locals(&locals)?;
    let (_, warnings) = sandbox.publish(rules).context("the rules cannot be published")?;
    notes.extend(warnings);
    // One packet's mistake in the counters is another's violation: see that all is in order before the first frame.
    let mut probe = [0; 60];
    probe[..6].copy_from_slice(&OWN);
    let ran = sandbox.run(INGRESS, &probe)?;
    if (ran.verdict(), ran.reason()) != (Some(Verdict::Pass), Some(Reason::NotIp)) {
        bail!("the program does not work here: an empty frame ended in {ran:?}");
    }
    Ok(sandbox)
}

/// The file of frames that went on.
struct Output(PcapWriter<BufWriter<File>>);

impl Output {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        let header = PcapHeader {
            snaplen: 262_144,
            ts_resolution: pcap_file::TsResolution::NanoSecond,
            ..PcapHeader::default()
        };
        Ok(Self(PcapWriter::with_header(BufWriter::new(file), header)?))
    }

    fn write(&mut self, time: std::time::Duration, frame: &[u8]) -> anyhow::Result<()> {
        // pcap has 32 bits for seconds.
        let time = time.min(std::time::Duration::from_secs(u32::MAX.into()));
        let length = u32::try_from(frame.len())?;
        self.0.write_packet(&PcapPacket::new(time, length, frame)).context("the output cannot be written")?;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        self.0.into_writer().flush().context("the output cannot be written")
    }
}
