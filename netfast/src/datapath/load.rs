//! Loads the object, adopting what is pinned, and brings the programs into their places.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapError, ProgramArray},
    programs::{ProgramError, Xdp},
};

use netfast_common::abi::{self, TAIL_CALLS};

use super::{
    DatapathError, Options, checks, cpus::Cpus, mapped::MappedArray, pins, pins::Pins, publish, sys, values,
};

/// The eBPF object, built by the build script.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NETFAST_EBPF_OBJECT"));

/// The entry program.
pub(super) const ENTRY: &str = "netfast";
/// The one that tells the time.
pub(super) const CLOCK: &str = "netfast_clock";

/// All programs.
fn programs() -> impl Iterator<Item = &'static str> {
    [ENTRY].into_iter().chain(TAIL_CALLS.iter().map(|(_, name)| *name)).chain([CLOCK])
}

/// What was loaded.
pub(super) struct Loaded {
    /// aya's handle; it holds the programs and maps open.
    pub(super) ebpf: Ebpf,
    /// Where things are pinned.
    pub(super) pins: Pins,
    /// Whether the maps were there already.
    pub(super) adopted: bool,
    /// What the operator should know.
    pub(super) warnings: Vec<String>,
    /// CPUs that the kernel may ever have.
    pub(super) cpus: Cpus,
}

/// Checks the host, then loads.
pub(super) fn load(options: &Options) -> Result<Loaded, DatapathError> {
    checks::host()?;
    checks::bpffs(&options.pin_dir)?;
    let pins = Pins::new(&options.pin_dir);
    pins.refuse_other_versions()?;
    let cpus = Cpus::possible()?;

    let wanted = pins::wanted(OBJECT, &options.tables, cpus.numbers)?;
    let mut adopted = pins.map("CONFIG").exists();
    let mut warnings = Vec::new();
    let mut entries = pins.adopt(&wanted, &mut warnings)?;
    if adopted && !was_live(&pins)? {
        // An agent that ended before its rules were live: what it has made may be half of it.
        pins.remove().map_err(|error| DatapathError::Kernel { call: "unlink of the pins", error })?;
        adopted = false;
        warnings.clear();
        entries = pins.adopt(&wanted, &mut warnings)?;
    }
    pins.create()?;

    let memory = |error| explain(error, pins::bytes(&wanted, cpus.count));
    // First the maps, then the programs with the addresses of their values.
    drop(load_maps(OBJECT, &pins, &entries).map_err(memory)?);
    let mut values = BTreeMap::new();
    let object = values::resolve(OBJECT, |name| {
        if !values.contains_key(name) {
            let map = sys::open_pin(&pins.map(name)).map_err(|error| format!("map {name}: {error}"))?;
            values.insert(name.to_owned(), map);
        }
        values.get(name).map(AsRawFd::as_raw_fd).ok_or_else(|| format!("no map {name}"))
    })
    .map_err(DatapathError::Object)?;
    let ebpf = load_maps(&object, &pins, &entries).map_err(memory)?;
    let mut loaded = Loaded { ebpf, pins, adopted, warnings, cpus };
    loaded.load_programs()?;
    drop(values);
    Ok(loaded)
}

/// Whether a rule set was ever published in pinned maps, which are known to have this layout.
fn was_live(pins: &Pins) -> Result<bool, DatapathError> {
    let failed = |error| DatapathError::Object(format!("map CONFIG: {error}"));
    let config = sys::open_pin(&pins.map("CONFIG")).map_err(failed)?;
    let config: MappedArray<abi::Config> = MappedArray::new(config.as_fd()).map_err(failed)?;
    // The agent attaches after that; where something is attached all the same, nothing is taken away.
    Ok(config.load32(0, publish::GENERATION) != 0 || !pins.links().is_empty())
}

fn load_maps(object: &[u8], pins: &Pins, entries: &BTreeMap<String, u32>) -> Result<Ebpf, EbpfError> {
    let mut loader = EbpfLoader::new();
    for (name, max_entries) in entries {
        loader.map_pin_path(name, pins.map(name));
        loader.map_max_entries(name, *max_entries);
    }
    loader.load(object)
}

/// Says what to do about an error of the loader.
fn explain(error: EbpfError, bytes: u64) -> DatapathError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error })
            if matches!(io_error.raw_os_error(), Some(libc::ENOMEM | libc::E2BIG)) =>
        {
            DatapathError::Memory(format!(
                "no memory for the map {name} ({io_error}): all tables together take about {} MiB; make [tables] \
                 smaller in agent.toml or raise the memory limit of the service (MemoryMax=)",
                bytes.div_ceil(1 << 20)
            ))
        }
        EbpfError::MapError(MapError::CreateError { name, io_error })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            DatapathError::Permission(format!(
                "the kernel refuses to make the map {name} ({io_error}): start the agent as root, or with CAP_BPF, \
                 CAP_NET_ADMIN and CAP_PERFMON"
            ))
        }
        error => DatapathError::Object(format!("cannot load the maps: {}", chain(&error))),
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Loaded {
    fn load_programs(&mut self) -> Result<(), DatapathError> {
        for name in programs() {
            let program = self.xdp(name)?;
            program.load().map_err(|error| verifier(name, error))?;
        }
        // Each program before the one that goes on in it: a program of the same ABI that is already attached calls the
        // new ones from here on, and the new entry program finds them in their places.
        for (element, name) in TAIL_CALLS.iter().copied().rev() {
            let program = self
                .xdp(name)?
                .fd()
                .and_then(|fd| Ok(fd.try_clone()?))
                .map_err(|error| DatapathError::Object(chain(&error)))?;
            let map = self
                .ebpf
                .map_mut("PROGRAMS")
                .ok_or_else(|| DatapathError::Object("the object has no map PROGRAMS".to_owned()))?;
            ProgramArray::try_from(map)
                .and_then(|mut programs| programs.set(element, &program, 0))
                .map_err(|error| DatapathError::Object(chain(&error)))?;
        }
        for name in programs() {
            let fd = self.program_fd(name)?;
            let path = self.pins.program(name);
            let _ = std::fs::remove_file(&path);
            sys::pin(fd.as_fd(), &path)
                .map_err(|error| DatapathError::Kernel { call: "BPF_OBJ_PIN", error })?;
        }
        Ok(())
    }

    /// A program by name.
    pub(super) fn xdp(&mut self, name: &str) -> Result<&mut Xdp, DatapathError> {
        let program = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| DatapathError::Object(format!("the object has no program {name}")))?;
        program.try_into().map_err(|error: ProgramError| DatapathError::Object(chain(&error)))
    }

    /// A descriptor of a loaded program.
    pub(super) fn program_fd(&mut self, name: &str) -> Result<OwnedFd, DatapathError> {
        let xdp = self.xdp(name)?;
        let fd = xdp.fd().map_err(|error| DatapathError::Object(chain(&error)))?;
        fd.as_fd().try_clone_to_owned().map_err(|error| DatapathError::Kernel { call: "dup", error })
    }

    /// A descriptor of a map.
    pub(super) fn map_fd(&self, name: &str) -> Result<OwnedFd, DatapathError> {
        sys::open_pin(&self.pins.map(name))
            .map_err(|error| DatapathError::Object(format!("map {name}: {error}")))
    }
}

fn verifier(name: &str, error: ProgramError) -> DatapathError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(12)..].join("\n");
            DatapathError::Object(format!(
                "the kernel refuses the program {name} ({io_error}); the end of the verifier's log:\n{tail}"
            ))
        }
        error => DatapathError::Object(format!("cannot load the program {name}: {}", chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_cannot_be_made_says_why_and_what_to_do() {
        let create = |errno| {
            EbpfError::MapError(MapError::CreateError {
                name: "FLOWS".to_owned(),
                io_error: io::Error::from_raw_os_error(errno),
            })
        };
        let error = explain(create(libc::ENOMEM), 700 << 20);
        assert!(matches!(error, DatapathError::Memory(_)));
        let text = error.to_string();
        assert!(text.contains("FLOWS") && text.contains("700 MiB") && text.contains("[tables]"), "{text}");
        let error = explain(create(libc::EPERM), 0);
        assert!(matches!(error, DatapathError::Permission(_)), "{error}");
        assert!(error.to_string().contains("CAP_BPF"));
        assert!(explain(create(libc::EINVAL), 0).to_string().contains("Invalid argument"));
    }
}
