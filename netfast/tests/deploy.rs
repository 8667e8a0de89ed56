//! What deploy/ gives to an operator works with what this source is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use netfast::{
    api::types::{Intent, Operation},
    config::{agent::AgentConfig, rules},
    metrics::catalog,
    rules::{change, check},
};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Output of a tool that netfast's set-up installs; `None` if it is absent, which is an error where peers are required.
fn tool(program: &str, arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new(program).args(arguments).current_dir(deploy()).output() {
        Ok(output) => {
            let text =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            Some((output.status.success(), text.concat()))
        }
        Err(error) => {
            let required = std::env::var_os("NETFAST_REQUIRE_PEERS").is_some_and(|value| value == "1");
            assert!(!required, "{program} is needed: {error}");
            println!("skipped: no {program}: {error}");
            None
        }
    }
}

#[test]
fn the_unit_is_hardened() {
    let arguments = ["security", "--offline=true", "--no-pager", "systemd/netfast.service"];
    let Some((_, text)) = tool("systemd-analyze", &arguments) else { return };
    let score = text
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for netfast.service: "))
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok())
        .unwrap_or_else(|| panic!("no score in:\n{text}"));
    assert!(score <= 3.0, "exposure {score}:\n{text}");
    // What the score does not say: a capability more than is needed.
    for line in text.lines().filter(|line| line.starts_with('✗') && line.contains("CapabilityBoundingSet="))
    {
        assert!(
            ["CAP_BPF", "CAP_NET_ADMIN", "|RAW)"].iter().any(|capability| line.contains(capability)),
            "{line}"
        );
    }
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    // The unit as installed names a binary that need not be on this machine.
    let text = read(&deploy().join("systemd/netfast.service"));
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("netfast.service");
    assert!(text.contains("ExecStart=/usr/bin/netfast agent "));
    let text = text.replace("/usr/bin/netfast", "/bin/true").replace("Documentation=man:netfast(1)\n", "");
    fs::write(&unit, text).unwrap();
    let Some((_, said)) = tool("systemd-analyze", &["verify", unit.to_str().unwrap()]) else { return };
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains("netfast")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn the_agent_file_is_right_and_shows_the_defaults() {
    let text = read(&deploy().join("agent.toml"));
    let default = AgentConfig::parse("empty", "").unwrap();
    assert_eq!(default, AgentConfig::parse("agent.toml", &text).unwrap_or_else(|report| panic!("{report}")));

    // Every key that is commented out has its default beside it.
    let mut shown = 0;
    let mut uncommented = String::new();
    for line in text.lines() {
        let key = line.strip_prefix("# ").filter(|rest| is_default(rest));
        shown += usize::from(key.is_some());
        uncommented += key.unwrap_or(line);
        uncommented += "\n";
    }
    assert!(shown > 25, "{shown}");
    let mut explicit =
        AgentConfig::parse("agent.toml", &uncommented).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(default.agent.socket(), explicit.agent.socket());
    assert_eq!(default.agent.pin_dir(), explicit.agent.pin_dir());
    (explicit.agent.socket, explicit.agent.pin_dir) = (None, None);
    assert_eq!(default, explicit);
}

/// `key = value` of a key that has a default, as opposed to prose.
fn is_default(line: &str) -> bool {
    let word = |key: &str| key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    line.split_once(" = ").is_some_and(|(key, _)| word(key) && !["name", "mode", "rules_file"].contains(&key))
}

#[test]
fn every_rules_file_can_be_applied() {
    let mut files: Vec<PathBuf> = fs::read_dir(deploy().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(files.len() >= 6);
    files.push(deploy().join("rules.toml"));
    for path in files {
        let name = path.display().to_string();
        let rules = rules::parse(&name, &read(&path)).unwrap_or_else(|report| panic!("{report}"));
        let warnings = check::warnings(&rules);
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
        let apply = Operation::Apply { rules: rules.clone(), prune: true };
        let changed =
            change::apply(&Intent::default(), &[apply]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rules.forwards.len(), changed.intent.rules.forwards.len(), "{name}");
    }
}

#[test]
fn prometheus_takes_configuration_and_alerts() {
    for arguments in [
        ["check", "config", "prometheus/prometheus.yml"],
        ["test", "rules", "prometheus/netfast.rules.test.yml"],
    ] {
        let Some((success, text)) = tool("promtool", &arguments) else { return };
        assert!(success, "{text}");
    }
}

/// Names of netfast's metrics in a text, without the suffixes of a histogram's series.
fn metrics(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("netfast_").filter_map(|(start, _)| {
        let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let word = text[start..].split(|c| !of_word(c)).next()?;
        let begins = !text[..start].ends_with(of_word);
        begins.then(|| word.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count"))
    })
}

/// How many names there are, all of them known.
#[track_caller]
fn count_known(text: &str) -> usize {
    metrics(text)
        .inspect(|name| {
            assert!(catalog::ALL.iter().any(|metric| metric.name == *name), "{name} is no metric: {text}")
        })
        .count()
}

#[test]
fn every_metric_of_the_dashboard_exists() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read(&deploy().join("grafana/netfast.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!((5..=15).contains(&panels.len()), "{} panels", panels.len());
    let mut metrics = 0;
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{} shows nothing", panel["title"]);
        for target in targets {
            metrics += count_known(target["expr"].as_str().unwrap());
        }
    }
    assert!(metrics >= panels.len());
    let variable = dashboard["templating"]["list"][1]["query"]["query"].as_str().unwrap();
    assert_eq!(1, count_known(variable));
}

#[test]
fn every_metric_of_the_alerts_exists() {
    for file in ["netfast.rules.yml", "netfast.rules.test.yml"] {
        assert!(count_known(&read(&deploy().join("prometheus").join(file))) > 10, "{file}");
    }
}
