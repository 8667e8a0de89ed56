//! What an operator is told about a file, and that what is written can be read.

use proptest::prelude::*;

use super::*;
use crate::rules::tests::any_rules;

const GOOD: &str = r#"# what the house serves
[[forward]]
name = "web"
protocol = "tcp"
listen = "192.0.2.10:443"
comment = "the shop"

[[forward.target]]
address = "10.0.0.11:8443"

[[forward.target]]
address = "10.0.0.12:8443"
weight = 2

[[forward]]
name = "games"
protocol = "udp"
listen = "192.0.2.10:27000-27099"
mode = "dnat"
target = [{ address = "10.0.0.7:27000" }]

[[echo]]
listen = "192.0.2.10:7"
allow = ["198.51.100.0/24"]
rate = 500

[[filter]]
action = "drop"
name = "scanner"
src = "203.0.113.0/24"
proto = "tcp"
dport = 22

[[filter]]
action = "allow"
proto = "udp"
sport = "1024-65535"
"#;

/// The report's lines for `GOOD` with one text replaced by another.
fn told(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from}");
    parse("rules.toml", &GOOD.replacen(from, to, 1)).expect_err(to).lines().collect()
}

#[test]
fn a_good_file() {
    let rules = parse("rules.toml", GOOD).unwrap();
    assert_eq!((rules.forwards.len(), rules.echoes.len(), rules.filters.len()), (2, 1, 2));
    assert_eq!(rules.forwards[0].targets[1].weight, 2);
    assert_eq!(rules.forwards[1].targets[0].address.to_string(), "10.0.0.7:27000-27099");
    assert_eq!(rules.filters[0].dport.as_ref().map(|p| p.to_string()).as_deref(), Some("22"));
    assert_eq!(parse("export", &render(&rules)).unwrap(), rules);
    assert_eq!(parse("nothing", "").unwrap(), Rules::default());
}

#[test]
fn errors_name_line_column_and_what_was_expected() {
    for (from, to, message) in [
        (
            "mode = \"dnat\"",
            "mode = \"dant\"",
            "rules.toml:19:8: unknown word \"dant\" (did you mean \"dnat\"?)",
        ),
        ("\"tcp\"", "\"sctp\"", "rules.toml:4:12: unknown word \"sctp\", expected one of: tcp, udp"),
        ("comment", "coment", "rules.toml:6:1: unknown key \"coment\" (did you mean \"comment\"?)"),
        ("weight = 2", "wight = 2", "rules.toml:13:1: unknown key \"wight\" (did you mean \"weight\"?)"),
        ("[[echo]]", "[[ecko]]", "rules.toml:22:3: unknown key \"ecko\" (did you mean \"echo\"?)"),
        ("192.0.2.10:443", "192.0.2.10", "rules.toml:5:10: \"192.0.2.10\" is not ADDRESS:PORT (no port)"),
        ("192.0.2.10:443", "192.0.2.300:443", "rules.toml:5:10: "),
        ("192.0.2.10:443", "192.0.2.10:0", "rules.toml:5:10: port 0 is not a port"),
        (
            "203.0.113.0/24",
            "203.0.113",
            "rules.toml:30:7: \"203.0.113\" is not a prefix; examples: 198.51.100.0/24",
        ),
        ("dport = 22", "dport = 70000", "rules.toml:32:9: \"70000\" is not a port"),
        (
            "dport = 22",
            "dport = true",
            "rules.toml:32:9: invalid type: boolean \"true\", expected a value or a list of values",
        ),
        ("weight = 2", "weight = \"2\"", "rules.toml:13:10: invalid type: string \"2\", expected u16"),
        ("weight = 2", "weight = 2 2", "rules.toml:13:"),
        ("weight = 2", "weight = ", "rules.toml:13:"),
        ("name = \"web\"", "name = \"web", "rules.toml:3:"),
        ("[[filter]]", "[[filter", "rules.toml:27:"),
    ] {
        let lines = told(from, to);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(message), "{to}:\n  told: {}\n  want: {message}", lines[0]);
    }
    let missing = told("name = \"web\"\n", "");
    assert!(missing[0].contains("key \"name\" is missing"), "{missing:?}");
    assert!(missing[0].starts_with("rules.toml:2:1: "), "{missing:?}");
}

#[test]
fn what_makes_no_sense_is_shown_where_it_stands() {
    for (from, to, place) in [
        ("weight = 2", "weight = 0", "rules.toml:13:10: weight 0 is not in 1 to 256"),
        ("\"10.0.0.12:8443\"", "\"127.0.0.1:8443\"", "rules.toml:12:11: the target 127.0.0.1 is a loopback"),
        ("10.0.0.7:27000", "10.0.0.7:65500", "rules.toml:20:23: forward \"games\" listens on 100 ports"),
        (
            "allow = [\"198.51.100.0/24\"]",
            "allow = []",
            "rules.toml:24:9: an echo reflector needs an allow list",
        ),
        (
            "192.0.2.10:7\"",
            "192.0.2.10:27005\"",
            "rules.toml:23:10: echo 192.0.2.10:27005 and forward \"games\"",
        ),
        ("name = \"games\"", "name = \"web\"", "rules.toml:16:8: two forwards are named \"web\""),
        ("proto = \"tcp\"", "proto = \"icmp\"", "rules.toml:32:9: dport 22 cannot be matched"),
        ("proto = \"udp\"\n", "", "rules.toml:36:9: sport 1024-65535 needs proto"),
    ] {
        let lines = told(from, to);
        assert!(lines[0].starts_with(place), "{to}:\n  told: {lines:?}\n  want: {place}");
    }
    let several = GOOD.replace("weight = 2", "weight = 0").replace("rate = 500", "rate = 0");
    let lines: Vec<String> = parse("rules.toml", &several).unwrap_err().lines().collect();
    assert_eq!(lines.len(), 2, "all that is wrong is told at once: {lines:?}");
}

#[test]
fn the_report_marks_the_place() {
    let text = GOOD.replace("mode = \"dnat\"", "\tmode = \"dant\" # ä");
    let shown = parse("rules.toml", &text).unwrap_err().to_string();
    assert_eq!(
        shown,
        "rules.toml:19:9: unknown word \"dant\" (did you mean \"dnat\"?)\n   19 | \tmode = \"dant\" # ä\n      | \t       ^^^^^^"
    );
    let error = crate::api::types::ErrorBody::from(parse("rules.toml", &text).unwrap_err());
    assert_eq!(error.message, "rules.toml:19:9: unknown word \"dant\" (did you mean \"dnat\"?)");
}

#[test]
fn a_file_that_is_not_there() {
    let error = load(std::path::Path::new("/nonexistent/rules.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/rules.toml: cannot be read: "), "{error}");
}

proptest! {
    #[test]
    fn what_is_rendered_is_read(rules in any_rules()) {
        let text = render(&rules);
        prop_assert_eq!(parse("export", &text).map_err(|e| e.to_string()), Ok(rules), "{}", text);
    }

    /// Whatever stands in the file: rules or a report whose places exist.
    #[test]
    fn any_text_is_answered(text in "(\\PC|\n){0,200}", at in 0_usize..600, cut in 0_usize..40) {
        let _ = parse("x", &text);
        let start = GOOD.char_indices().map(|(n, _)| n).nth(at.min(GOOD.len() - 60)).unwrap();
        let mut broken = GOOD.to_owned();
        broken.replace_range(start..start + cut, &text);
        if let Err(report) = parse("x", &broken) {
            let _ = report.to_string();
            for problem in &report.problems {
                prop_assert!(problem.line <= broken.matches('\n').count() + 2, "{:?}", problem);
            }
        }
    }
}
