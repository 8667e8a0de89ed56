//! Verbs that read and write files: apply, diff, check, export, filter load.

use std::{io::Write, process::Stdio};

use serde_json::json;

use crate::mock::{Mock, Ran, netfast};

const RULES: &str = r#"
[[forward]]
name = "web"
protocol = "tcp"
listen = "192.0.2.10:443"
[[forward.target]]
address = "10.0.0.11:8443"

[[filter]]
action = "drop"
proto = "udp"
dport = "1000-2000"
"#;

const BAD: &str = "[[forward]]\nname = \"web\"\nprotocol = \"tcp\"\nlistn = \"192.0.2.10:443\"\n";

/// Runs with this text on stdin.
fn piped(mock: &Mock, line: &str, input: &str) -> Ran {
    let mut child = netfast()
        .env("NETFAST_SOCKET", mock.socket())
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ran::from(child.wait_with_output().unwrap())
}

#[test]
fn export_apply_and_diff_agree() {
    let mock = Mock::new();
    let exported = mock.run("export").good();
    assert!(exported.starts_with("# netfast rules, revision 12\n"), "{exported}");
    let file = mock.file("rules.toml", &exported);
    let out = mock.run(&format!("apply --prune -f {file}")).good();
    assert!(out.lines().all(|line| line.ends_with(" unchanged (revision 12)")), "{out}");
    let many: String = (1..=9)
        .map(|n| format!("[[filter]]\naction = \"drop\"\nname = \"n{n}\"\ndport = {n}\nproto = \"tcp\"\n"))
        .collect();
    let many = mock.file("many.toml", &many);
    assert!(mock.run(&format!("filter load {many}")).good().contains("filter n9 created (revision 13)\n"));
    assert_eq!(mock.run(&format!("apply -f {many}")).good(), "9 objects unchanged (revision 13)\n");
    mock.run(&format!("apply --prune -f {file}")).good();
    let ran = mock.run(&format!("diff -f {file}"));
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert_eq!(ran.err, "no difference: revision 14 is what the file says\n");
    let json = mock.run("export -o json").json();
    assert_eq!((&json["revision"], &json["rules"]["forward"][0]["name"]), (&json!(14), &json!("web")));
    assert_eq!(mock.run(&format!("diff -f {file} -o json")).json()["different"], false);
}

#[test]
fn apply_is_one_change() {
    let mock = Mock::new();
    let file = mock.file("rules.toml", RULES);
    let out = mock.run(&format!("apply -f {file} --dry-run --prune")).good();
    assert!(out.contains("forward dns would be deleted (dry run)\n"), "{out}");
    let change = mock.last_change();
    assert_eq!((&change["dry_run"], &change["operations"][0]["prune"]), (&json!(true), &json!(true)));
    assert_eq!(change["operations"].as_array().unwrap().len(), 1);
    let out = piped(&mock, "apply -f -", RULES).good();
    assert!(out.contains("target web/10.0.0.12:8443 deleted (revision 13)\n"), "{out}");
    assert!(!out.contains("dns"), "{out}");
    let err = mock.run(&format!("apply -f {file} --if-revision 1")).bad(5);
    assert!(err.contains("revision"), "{err}");
}

#[test]
fn differences_are_a_diff_and_exit_code_1() {
    let mock = Mock::new();
    let file = mock.file("rules.toml", RULES);
    let ran = mock.run(&format!("diff -f {file}"));
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    assert!(ran.out.starts_with("--- agent (revision 12)\n"), "{}", ran.out);
    assert!(
        ran.out.contains("\n-name = \"dns\"\n") && ran.out.contains("\n+dport = \"1000-2000\"\n"),
        "{}",
        ran.out
    );
    assert_eq!(mock.run(&format!("diff -q -f {file}")).bad(1), "");
    let ran = mock.run(&format!("diff -f {file} -o json"));
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &json["different"]), (1, &json!(true)));
    let dns = json!({ "kind": "forward", "name": "dns", "action": "deleted" });
    assert!(json["changes"].as_array().unwrap().contains(&dns), "{json}");
}

#[test]
fn a_wrong_file_is_rejected_with_the_place() {
    let mock = Mock::new();
    let file = mock.file("bad.toml", BAD);
    let wanted = format!("{file}:4:1: unknown key \"listn\" (did you mean \"listen\"?)");
    for verb in ["apply -f", "diff -f", "check", "filter load"] {
        let err = mock.run(&format!("{verb} {file}")).bad(3);
        assert!(err.starts_with(&wanted), "{verb}: {err}");
        assert!(err.contains("    4 | listn = \"192.0.2.10:443\"\n"), "{verb}: {err}");
        let err = mock.run(&format!("{verb} {file} -o json")).bad(3);
        let json: serde_json::Value = serde_json::from_str(&err).unwrap();
        assert_eq!(
            (&json["error"]["code"], &json["error"]["message"]),
            (&json!("rejected"), &json!(wanted)),
            "{verb}"
        );
    }
    assert!(mock.world.lock().unwrap().asked.is_empty(), "nothing of a wrong file reaches the agent");
    for verb in ["apply -f", "diff -f", "check", "filter load"] {
        let err = mock.run(&format!("{verb} /nonexistent/rules.toml")).bad(4);
        assert_eq!(err, "error: cannot read /nonexistent/rules.toml: No such file or directory\n");
    }
}

#[test]
fn check_needs_no_agent_and_tells_warnings() {
    let mock = Mock::new();
    let file = mock.file("rules.toml", RULES);
    let line = format!("check {file} --socket /nonexistent");
    assert_eq!(
        mock.run(&line).good(),
        format!("{file}: good (rules: 1 forward, 0 echo reflectors, 1 filter rule)\n")
    );
    let doubled = mock.file("doubled.toml", "[[filter]]\naction = \"drop\"\n[[filter]]\naction = \"drop\"\n");
    let ran = mock.run(&format!("check {doubled}"));
    assert_eq!(ran.code, 0);
    assert!(ran.err.starts_with(&format!("warning: {doubled}: filter rule 2")), "{ran:?}");
    let ran = mock.run(&format!("check {doubled} -o json"));
    assert!(ran.out.contains("\"kind\": \"rules\"") && ran.out.contains("filter rule 2"), "{ran:?}");

    let agent = mock.file("any.toml", "[[interface]]\nname = \"eth0\"\n");
    assert_eq!(mock.run(&format!("check {agent}")).good(), format!("{agent}: good (agent: 1 interface)\n"));
    // With the rules file that it names.
    let with = |rules: &str| mock.file("with.toml", &format!("rules_file = \"{rules}\"\n"));
    let ran = mock.run(&format!("check {}", with(&file)));
    assert!(ran.code == 0 && ran.out.contains("1 forward, 0 echo reflectors"), "{ran:?}");
    let ran = mock.run(&format!("check {}", with("/nonexistent/rules.toml")));
    assert!(ran.code == 0 && ran.err.contains("/nonexistent/rules.toml does not exist"), "{ran:?}");
    let bad = mock.file("bad.toml", BAD);
    assert!(mock.run(&format!("check {}", with(&bad))).bad(3).starts_with(&format!("{bad}:4:1: ")));
    let empty = mock.file("empty.toml", "");
    assert!(mock.run(&format!("check {empty}")).good().contains("(rules: "));
    assert!(mock.run(&format!("check --agent {empty}")).good().contains("(agent: "));
    let wrong = mock.file("agent.toml", "[metrics]\nlistn = \"127.0.0.1:9460\"\n");
    let err = mock.run(&format!("check {wrong}")).bad(3);
    assert!(err.starts_with(&format!("{wrong}:2:1: unknown key \"listn\"")), "{err}");
    let piped = piped(&mock, "check -", RULES);
    assert!(piped.good().starts_with("<stdin>: good"));
}

#[test]
fn filter_load_takes_filter_rules_only() {
    let mock = Mock::new();
    let file = mock.file("filters.toml", "[[filter]]\naction = \"drop\"\nname = \"all\"\n");
    let out = mock.run(&format!("filter load {file}")).good();
    assert!(out.contains("filter all created (revision 13)\n"), "{out}");
    assert_eq!(
        mock.last_change()["operations"],
        json!([{ "op": "filter-replace", "rules": [{ "action": "drop", "name": "all" }] }])
    );
    let file = mock.file("rules.toml", RULES);
    let err = mock.run(&format!("filter load {file}")).bad(3);
    assert!(err.contains("netfast apply -f"), "{err}");
}

/// The script that should have written the file may have failed.
#[test]
fn a_file_without_rules_does_not_empty_the_filter() {
    let mock = Mock::new();
    for (name, text) in [
        ("empty", ""),
        ("comment.toml", "# nothing\n"),
        ("tables.nft", "table inet filter {\n}\n"),
        ("set.toml", "[[set]]\nname = \"bad\"\naddresses = []\n"),
    ] {
        let file = mock.file(name, text);
        let err = mock.run(&format!("filter load {file}")).bad(3);
        assert!(err.contains("has no filter rule") && err.contains("netfast filter flush"), "{err}");
    }
    assert!(piped(&mock, "filter load - --format classbench", "").bad(3).contains("has no filter rule"));
    assert!(mock.world.lock().unwrap().asked.is_empty());
    let file = mock.file("set.toml", "[[set]]\nname = \"bad\"\naddresses = []\n");
    assert_eq!(mock.run(&format!("filter load {file} --append")).good(), "set bad created (revision 13)\n");
}

#[test]
fn filter_load_reads_the_words_of_others() {
    let mock = Mock::new();
    let nft = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\
               \t\ttcp dport { 22, 443 } accept\n\t}\n}\n";
    let file = mock.file("rules.nft", nft);
    mock.run(&format!("filter load {file}")).good();
    let expected = json!([
        { "action": "allow", "proto": "tcp", "dport": [22, 443] },
        { "action": "drop", "comment": "policy of chain input" },
    ]);
    let asked = mock.last_change()["operations"].clone();
    assert_eq!((&asked[0]["op"], &asked[0]["rules"]), (&json!("filter-replace"), &expected));

    // What is not understood is told with its place, and nothing is sent.
    let bad = mock.file("bad.nft", &nft.replace("accept", "jump ssh"));
    let before = mock.world.lock().unwrap().asked.len();
    let err = mock.run(&format!("filter load {bad}")).bad(3);
    assert!(err.starts_with(&format!("{bad}:4:25: \"jump\" is not understood")), "{err}");
    assert_eq!(mock.world.lock().unwrap().asked.len(), before);
    mock.run(&format!("filter load {file} --format iptables")).bad(3);
    let err = mock.run(&format!("filter load {file} --chain output")).bad(3);
    assert!(err.contains("there is no chain \"output\""), "{err}");

    // A listing as JSON lines is a file to load.
    let listed = mock.run("filter list -o jsonl").good();
    let file = mock.file("rules.jsonl", &listed);
    let out = mock.run(&format!("-q filter load {file} --append --dry-run -o jsonl"));
    assert_eq!(out.code, 0, "{out:?}");
    let out = mock.run(&format!("filter load {file} --append --dry-run")).out;
    assert_eq!(out, "filter 3 would be created (dry run)\nfilter 4 would be created (dry run)\n");
}
