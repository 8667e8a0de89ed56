//! Verbs that change something: the operations that they send and the lines that they print.

use serde_json::json;

use crate::mock::Mock;

/// Runs a line and gives back what it printed and the operations that it sent.
#[track_caller]
fn done(mock: &Mock, line: &str) -> (String, serde_json::Value) {
    let out = mock.run(line).good();
    (out, mock.last_change()["operations"].clone())
}

#[test]
fn the_examples_of_the_manual_work_word_by_word() {
    let mock = Mock::empty();
    let (out, operations) =
        done(&mock, "forward add web tcp 192.0.2.10:443 --to 10.0.0.11:8443 --to 10.0.0.12:8443,weight=2");
    assert_eq!(out, "forward web created (revision 1)\n");
    assert_eq!(
        operations,
        json!([{ "op": "forward-add", "if_not_exists": false, "forward": {
            "name": "web", "protocol": "tcp", "listen": "192.0.2.10:443", "mode": "nat",
            "target": [{ "address": "10.0.0.11:8443" }, { "address": "10.0.0.12:8443", "weight": 2 }],
        }}])
    );
    let (out, operations) = done(&mock, "forward add dns udp 192.0.2.10:53 --to 10.0.0.53:53 --mode dnat");
    assert_eq!(out, "forward dns created (revision 2)\n");
    assert_eq!(operations[0]["forward"]["mode"], "dnat");
    let (out, operations) =
        done(&mock, "forward add games udp 192.0.2.10:27000-27099 --to 10.0.0.7:27000-27099");
    assert_eq!(out, "forward games created (revision 3)\n");
    assert_eq!(operations[0]["forward"]["listen"], "192.0.2.10:27000-27099");
    let (out, operations) = done(&mock, "echo add 192.0.2.10:7 --allow 198.51.100.0/24 --rate 1000");
    assert_eq!(out, "echo 192.0.2.10:7 created (revision 4)\n");
    assert_eq!(operations[0]["echo"]["allow"], json!(["198.51.100.0/24"]));
    let words = ["filter", "add", "drop", "--src", "203.0.113.0/24", "--proto", "tcp", "--dport", "22"];
    let out = mock.run_words(&[&words[..], &["--comment", "a scanner"]].concat()).good();
    assert_eq!(out, "filter 1 created (revision 5)\n");
    assert_eq!(
        mock.last_change()["operations"],
        json!([{ "op": "filter-add", "position": null, "rule": {
            "action": "drop", "src": "203.0.113.0/24", "proto": "tcp", "dport": 22, "comment": "a scanner",
        }}])
    );
}

#[test]
fn forwards_and_targets_change() {
    let mock = Mock::new();
    let out = mock.run("forward add web tcp 192.0.2.10:443 --to 10.0.0.1:1 --if-not-exists").good();
    assert_eq!(out, "forward web unchanged (revision 12)\n");
    let (out, operations) = done(&mock, "forward set web tcp 192.0.2.10:443 --to 10.0.0.11:8443 --comment x");
    assert_eq!(operations[0]["op"], "forward-set");
    assert!(out.starts_with("forward web changed (revision 13)\n"), "{out}");
    assert!(out.contains("target web/10.0.0.12:8443 deleted (revision 13)\n"), "{out}");
    let (out, operations) = done(&mock, "target add web 10.0.0.20:8443 --weight 3");
    assert_eq!(out, "target web/10.0.0.20:8443 created (revision 14)\n");
    assert_eq!(
        operations,
        json!([{ "op": "target-add", "forward": "web", "target": { "address": "10.0.0.20:8443", "weight": 3 } }])
    );
    let (out, operations) = done(&mock, "target set web 10.0.0.20:8443,weight=4");
    assert_eq!(out, "target web/10.0.0.20:8443 changed (revision 15)\n");
    assert_eq!(operations[0]["op"], "target-set");
    let (out, _) = done(&mock, "target delete web 10.0.0.20:8443");
    assert_eq!(out, "target web/10.0.0.20:8443 deleted (revision 16)\n");
    let (out, operations) = done(&mock, "forward delete web dns");
    assert_eq!(
        operations,
        json!([{ "op": "forward-delete", "name": "web" }, { "op": "forward-delete", "name": "dns" }])
    );
    assert_eq!(out, "forward web deleted (revision 17)\nforward dns deleted (revision 17)\n");
    // IPv6 as well.
    let out = mock.run("forward add six tcp [2001:db8::10]:443 --to [2001:db8:1::11]:8443").good();
    assert_eq!(out, "forward six created (revision 18)\n");
}

#[test]
fn echo_reflectors_change() {
    let mock = Mock::new();
    let (out, operations) = done(
        &mock,
        "echo add [2001:db8::10]:7 --allow 2001:db8::/32,2001:db8:ffff::1 --allow 2001:db8:fffe::/48",
    );
    assert_eq!(out, "echo [2001:db8::10]:7 created (revision 13)\n");
    assert_eq!(
        operations[0]["echo"]["allow"],
        json!(["2001:db8::/32", "2001:db8:ffff::1/128", "2001:db8:fffe::/48"])
    );
    assert_eq!(operations[0]["echo"]["rate"], 1000);
    let out = mock.run("echo add 192.0.2.10:7 --allow 198.51.100.0/24 --if-not-exists").good();
    assert_eq!(out, "echo 192.0.2.10:7 unchanged (revision 13)\n");
    let (out, _) = done(&mock, "echo delete 192.0.2.10:7");
    assert_eq!(out, "echo 192.0.2.10:7 deleted (revision 14)\n");
    let err = mock.run("echo add 192.0.2.10:7").bad(2);
    assert!(err.contains("--allow <PREFIX>"), "{err}");
}

#[test]
fn filter_rules_change() {
    let mock = Mock::new();
    let (out, operations) =
        done(&mock, "filter insert 1 allow --src 198.51.100.9 --in eth0 --ip-version 4 --name vip");
    assert_eq!(out, "filter vip created (revision 13)\n");
    assert_eq!(
        operations,
        json!([{ "op": "filter-add", "position": 1, "rule": {
            "action": "allow", "name": "vip", "src": "198.51.100.9/32", "interface": "eth0", "version": 4,
        }}])
    );
    let (_, operations) = done(&mock, "filter move vip 2");
    assert_eq!(operations, json!([{ "op": "filter-move", "rule": "vip", "position": 2 }]));
    // Positions are those that the operator saw: the last goes first, or the first would move it.
    let (out, operations) = done(&mock, "filter delete 1 3");
    assert_eq!(
        operations,
        json!([{ "op": "filter-delete", "rule": "3" }, { "op": "filter-delete", "rule": "1" }])
    );
    assert_eq!(mock.world.lock().unwrap().intent.rules.filters.len(), 1, "{out}");
    // A position that is there twice, however it is written, is one rule.
    mock.run("filter add count --name last").good();
    let (_, operations) = done(&mock, "filter delete 2 02 +2 2 --dry-run");
    assert_eq!(operations, json!([{ "op": "filter-delete", "rule": "2" }]));
    mock.run("filter delete last").good();
    assert_eq!(mock.world.lock().unwrap().intent.rules.filters[0].name.as_deref(), Some("vip"));
    let (out, _) = done(&mock, "filter flush --dry-run");
    assert_eq!(out, "filter vip would be deleted (dry run)\n");
    let (out, operations) = done(&mock, "filter flush");
    assert_eq!(operations, json!([{ "op": "filter-flush" }]));
    assert_eq!(out, "filter vip deleted (revision 18)\n");
    let err = mock.run("filter insert 0 drop").bad(2);
    assert!(err.contains("the first rule is at 1"), "{err}");
    let err = mock.run("filter add dorp").bad(2);
    assert!(err.contains("drop"), "{err}");
}

#[test]
fn sets_change() {
    let mock = Mock::empty();
    assert_eq!(
        mock.run("set list").err,
        "no sets; make one: netfast set put bad 203.0.113.0/24 198.51.100.7\n"
    );
    let (out, operations) = done(&mock, "set put bad 203.0.113.0/24 198.51.100.7 198.51.100.7 --comment x");
    assert_eq!(out, "set bad created (revision 1)\n");
    assert_eq!(
        operations,
        json!([{ "op": "set-put", "set": {
            "name": "bad", "addresses": ["198.51.100.7/32", "203.0.113.0/24"], "comment": "x",
        }}])
    );
    mock.run("set put none").good();
    let ran = mock.run("set show none");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", "set none is empty\n"));
    mock.run("set delete none").good();
    mock.run("filter add drop --src @bad").good();
    let (_, operations) = done(&mock, "set add bad 2001:db8::/32");
    assert_eq!(
        operations[0]["set"]["addresses"],
        json!(["198.51.100.7/32", "203.0.113.0/24", "2001:db8::/32"])
    );
    // What somebody else does meanwhile is not lost.
    assert_eq!(mock.last_change()["if_revision"], 4);
    let (_, operations) = done(&mock, "set remove bad 203.0.113.0/24");
    assert_eq!(operations[0]["set"]["addresses"], json!(["198.51.100.7/32", "2001:db8::/32"]));
    assert_eq!(
        mock.run("set remove bad 192.0.2.1").bad(4),
        "error: 192.0.2.1 does not stand in set \"bad\"\n"
    );
    assert_eq!(mock.run("set show bad").good(), "198.51.100.7\n2001:db8::/32\n");
    assert_eq!(mock.run("set list").good(), "NAME  ADDRESSES  RULES  COMMENT\nbad           2      1  x\n");
    assert_eq!(mock.run("set list -o json").json()["sets"][0]["name"], "bad");
    let err = mock.run("set show bat").bad(4);
    assert_eq!(err, "error: there is no set \"bat\" (did you mean \"bad\"?)\n");
    mock.run("set delete bad").bad(3);
    mock.run("filter flush").good();
    let (out, _) = done(&mock, "set delete bad");
    assert_eq!(out, "set bad deleted (revision 8)\n");
}

#[test]
fn members_added_at_once_are_all_there() {
    let mock = Mock::empty();
    mock.run("set put bad").good();
    let (mock, members) = (&mock, 1..=12);
    std::thread::scope(|scope| {
        for member in members.clone() {
            scope.spawn(move || mock.run(&format!("set add bad 198.51.100.{member}")).good());
        }
    });
    assert_eq!(mock.run("set show bad").good().lines().count(), members.count());
    // Who names a revision means that one.
    let revision = mock.world.lock().unwrap().intent.revision;
    mock.run(&format!("set add bad 192.0.2.1 --if-revision {}", revision - 1)).bad(5);
}

#[test]
fn sets_come_from_files() {
    let mock = Mock::empty();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("list");
    std::fs::write(&file, "# a list\n203.0.113.0/24\n\n  198.51.100.7  # a host\n").unwrap();
    mock.run_words(&["set", "put", "bad", "--file", file.to_str().unwrap()]).good();
    assert_eq!(mock.run("set show bad").good(), "198.51.100.7\n203.0.113.0/24\n");
    std::fs::write(&file, "203.0.113.0/24\n  nonsense\n").unwrap();
    let err = mock.run_words(&["set", "put", "bad", "--file", file.to_str().unwrap()]).bad(3);
    assert!(err.contains("list:2:3: \"nonsense\" is not a prefix"), "{err}");
}

#[test]
fn interfaces_change() {
    let mock = Mock::new();
    let ran = mock.run("attach eth1 --mode auto");
    assert_eq!((ran.code, ran.out.as_str()), (0, "interface eth1 attached (revision 13)\n"));
    assert_eq!(
        mock.last_change()["operations"],
        json!([{ "op": "attach", "attachment": { "interface": "eth1", "mode": "auto" } }])
    );
    // Attach says in which mode it came to be, whatever was asked for.
    let ran = mock.run("attach eth0 --mode auto");
    assert_eq!((ran.code, ran.err.as_str()), (0, "eth0: native mode, driver ixgbe\n"));
    mock.world.lock().unwrap().status.interfaces[0].attached = None;
    mock.world.lock().unwrap().status.interfaces[0].problem = Some("there is no such interface".to_owned());
    let ran = mock.run("attach eth0");
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (0, "warning: eth0 is not attached yet: there is no such interface\n")
    );
    let out = mock.run("detach eth1").good();
    assert_eq!(out, "interface eth1 detached (revision 16)\n");
}

#[test]
fn conditions_of_a_change_are_sent() {
    let mock = Mock::new();
    let out = mock.run("forward delete web --dry-run --if-revision 12").good();
    assert_eq!(out, "forward web would be deleted (dry run)\n");
    let change = mock.last_change();
    assert_eq!((&change["dry_run"], &change["if_revision"]), (&json!(true), &json!(12)));
    let err = mock.run("forward delete web --if-revision 11").bad(5);
    assert_eq!(err, "error: the revision is 12, not 11\n");
}

#[test]
fn changes_are_told_as_json_and_in_silence() {
    let mock = Mock::new();
    let json = mock.run("target add web 10.0.0.20:8443 -o json").json();
    assert_eq!(json["revision"], 13);
    assert_eq!(
        json["changes"],
        json!([{ "kind": "target", "name": "web/10.0.0.20:8443", "action": "created" }])
    );
    let out = mock.run("forward delete web -o jsonl").good();
    for line in out.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["schema_version"], &line["action"]), (&json!(1), &json!("deleted")));
    }
    assert_eq!(mock.run("-q forward delete dns").good(), "");
    // Warnings go to stderr and change no exit code; -q hides them.
    mock.world.lock().unwrap().warnings = vec!["a local process (sshd) listens on port 22".to_owned()];
    let ran = mock.run("forward add ssh tcp 192.0.2.10:22 --to 10.0.0.1:22");
    assert_eq!(ran.code, 0);
    assert_eq!(ran.out, "forward ssh created (revision 16)\n");
    assert_eq!(ran.err, "warning: a local process (sshd) listens on port 22\n");
    assert_eq!(mock.run("-q target add ssh 10.0.0.2:22").good(), "");
}

#[test]
fn stop_says_what_becomes_of_the_traffic() {
    let mock = Mock::new();
    let out = mock.run("stop").good();
    assert!(out.starts_with("agent (pid 4194305) stopped: traffic goes on"), "{out}");
    assert_eq!(
        mock.run("stop --detach").good(),
        "agent (pid 4194305) stopped: detached from every interface\n"
    );
    assert_eq!(mock.run("stop --detach -o json").json()["detach"], true);
}
