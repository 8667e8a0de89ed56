//! Verbs that show something, as table and as JSON.

use std::time::Instant;

use serde_json::{Value, json};

use crate::mock::Mock;

/// The lines of a table, with runs of spaces made one.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The objects of a `jsonl` answer.
fn objects(text: &str) -> Vec<Value> {
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(objects.iter().all(|object| object["schema_version"] == 1), "{text}");
    objects
}

#[test]
fn forwards_are_listed() {
    let mock = Mock::new();
    assert_eq!(
        mock.run("forward list").good(),
        "NAME  PROTO  LISTEN             MODE  TARGETS                                         COMMENT\n\
         web   tcp    192.0.2.10:443     nat   10.0.0.11:8443 10.0.0.12:8443,weight=2 +1 more  the shop\n\
         dns   udp    [2001:db8::10]:53  dnat  none\n"
    );
    let wide = mock.run("forward list -o wide").good();
    assert!(wide.contains("10.0.0.13:8443"), "{wide}");
    let json = mock.run("forward list -o json").json();
    assert_eq!(json["revision"], 12);
    assert_eq!(json["forwards"][0]["target"][1], json!({ "address": "10.0.0.12:8443", "weight": 2 }));
    let objects = objects(&mock.run("forward list -o jsonl").good());
    assert_eq!(
        objects.iter().map(|object| object["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["web", "dns"]
    );
}

#[test]
fn a_forward_is_shown_with_its_targets_and_counters() {
    let mock = Mock::new();
    let out = mock.run("forward show web").good();
    assert!(out.contains("flows       1234 now, 55555 since it exists; 0 new a second\n"), "{out}");
    assert!(
        lines(&out).contains(&"10.0.0.11:8443 down 1 25% 1234 1.0M 90 MB 2.0M 3.0 GB".to_owned()),
        "{out}"
    );
    let json = mock.run("forward show web -o json").json();
    assert_eq!(json["forward"]["name"], "web");
    assert_eq!(json["counters"]["to_client"]["bytes"], 3_000_000_000_u64);
    assert_eq!(json["target_counters"].as_array().unwrap().len(), 1);
    // One without targets says how to add one.
    let ran = mock.run("forward show dns");
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (0, "no targets; add one: netfast target add dns 10.0.0.11:8443\n")
    );
    // What is not as it is by itself is told, and what of it belongs to a target beside that.
    mock.run(
        "forward set quic udp 192.0.2.10:443 --to 10.0.0.11:443,id=0a --to 10.0.0.12:443,id=0b --quic 1 \
              --affinity source --on-no-target reject --on-drain move --on-down keep",
    )
    .good();
    let out = mock.run("forward show quic").out;
    assert!(
        out.contains(
            "options     affinity source, on-no-target reject, on-drain move, on-down keep, quic 1\n"
        ),
        "{out}"
    );
    assert!(lines(&out).iter().any(|line| line.starts_with("10.0.0.11:443 0a - 1 ")), "{out}");
    let err = mock.run("forward show weeb").bad(4);
    assert_eq!(err, "error: there is no forward \"weeb\" (did you mean \"web\"?)\n");
}

#[test]
fn targets_are_listed() {
    let mock = Mock::new();
    let out = mock.run("target list web").good();
    assert_eq!(
        lines(&out),
        [
            "FORWARD TARGET WEIGHT STATE SINCE LAST ERROR",
            "web 10.0.0.11:8443 1 - -",
            "web 10.0.0.12:8443 2 - -",
            "web 10.0.0.13:8443 1 - -",
        ]
    );
    let json = mock.run("target list -o json").json();
    assert_eq!(
        json["targets"][1],
        json!({ "forward": "web", "address": "10.0.0.12:8443", "weight": 2, "drain": false })
    );
    mock.run("target list nosuch").bad(4);
}

#[test]
fn health_is_told_where_there_are_checks() {
    let mock = Mock::new();
    mock.run(
        "forward set web tcp 192.0.2.10:443 --to 10.0.0.11:8443 --to 10.0.0.12:8443 --health http:/ready",
    )
    .good();
    let out = lines(&mock.run("target list").good());
    assert!(out[1].starts_with("web 10.0.0.11:8443 1 down "), "{out:?}");
    assert!(out[1].ends_with(" status 503, wanted 200-399"), "{out:?}");
    let json = mock.run("target list -o json").json();
    let row = &json["targets"][0];
    assert_eq!(
        (&row["state"], &row["since"], &row["last_error"]),
        (&json!("down"), &json!(1), &json!("status 503, wanted 200-399"))
    );
    let out = mock.run("forward show web").good();
    for line in ["targets     2 of 3 healthy\n", "health      http:/ready\n", "table       1000 entries\n"] {
        assert!(out.contains(line), "{out}");
    }
    assert_eq!(0.0, mock.run("forward show web -o json").json()["rates"]["packets_to_client"]);
}

#[test]
fn echo_reflectors_are_listed() {
    let mock = Mock::new();
    assert_eq!(
        lines(&mock.run("echo list").good()),
        ["LISTEN PROTO ALLOW RATE/S COMMENT", "192.0.2.10:7 echo 198.51.100.0/24 1000"]
    );
    assert_eq!(mock.run("echo list -o json").json()["echoes"][0]["rate"], 1000);
}

#[test]
fn filter_rules_are_listed_in_the_words_of_the_command_line() {
    let mock = Mock::new();
    assert_eq!(
        mock.run("filter list").good(),
        "#  ACTION  MATCH                                  NAME     COMMENT\n\
         1  drop    src 203.0.113.0/24 proto tcp dport 22  scanner  since May\n\
         2  drop    interface eth1 ip-version 6\n"
    );
    assert!(lines(&mock.run("filter list -o wide").good())[1].starts_with("1 drop 815 48900 src"));
    let json = mock.run("filter list -o json").json();
    assert_eq!((&json["filters"][1]["position"], &json["filters"][1]["version"]), (&json!(2), &json!(6)));
}

#[test]
fn a_packet_is_explained() {
    let mock = Mock::new();
    let line = "explain --in eth0 tcp 203.0.113.7:40000 192.0.2.10:22";
    assert_eq!(
        mock.run(line).good(),
        "filter    rule 1 \"scanner\": drop src=203.0.113.0/24 proto=tcp dport=22\n"
    );
    let json = mock.run(&format!("{line} -o json")).json();
    assert_eq!((&json["verdict"], &json["decided_by"]["position"]), (&json!("drop"), &json!(1)));
    assert!(
        mock.run("explain tcp 203.0.113.7:1 192.0.2.10:22 --flags syn/syn,ack").bad(2).contains("no mask")
    );
    assert_eq!(
        Mock::empty().run("explain udp [2001:db8::7]:1 [2001:db8::10]:2").good(),
        "filter    no rule decides: allow\nservice   forward web\n"
    );
    assert_eq!(
        Mock::empty().run("explain tcp 203.0.113.7:1 192.0.2.10:22 --established").good(),
        "filter    no rule decides: allow\n"
    );
}

#[test]
fn empty_lists_say_how_to_add_one() {
    let mock = Mock::empty();
    for (verb, hint) in [
        ("forward list", "netfast forward add web tcp"),
        ("target list", "netfast target add FORWARD"),
        ("echo list", "netfast echo add"),
        ("filter list", "netfast filter add drop"),
        ("flows list", "no flows match"),
        ("stats", "nothing counted yet"),
    ] {
        let ran = mock.run(verb);
        assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{verb}");
        assert!(ran.err.contains(hint), "{verb}: {}", ran.err);
        assert_eq!(mock.run(&format!("-q {verb}")).good(), "", "{verb}");
        let json = mock.run(&format!("{verb} -o json")).json();
        assert!(json.is_object(), "{verb}");
    }
    let out = mock.run("status").good();
    assert!(out.contains("no interfaces; attach one: netfast attach eth0"), "{out}");
}

#[test]
fn status_is_a_page_and_an_exit_code() {
    let mock = Mock::new();
    assert_eq!(
        mock.run("status").good(),
        "ready   netfast 0.1.0, up 3d 4h (pid 4242)\n\
         \n\
         revision   12 (generation 57)\n\
         rules      2 forwards with 3 targets, 1 echo reflector, 2 filter rules\n\
         flows      1.2k of 262k (0.5%)\n\
         \n\
         INTERFACE  MODE    DRIVER  LINK   MTU\n\
         eth0       native  ixgbe   up    1500\n"
    );
    assert_eq!(
        mock.run("status --brief").good(),
        "ready: revision 12, 1 interface, 2 forwards, 1.2k flows\n"
    );
    assert_eq!(mock.run("status -q").good(), "");
    assert_eq!(mock.run("status -o json").json()["interfaces"][0]["attached"], "native");

    {
        let mut world = mock.world.lock().unwrap();
        world.status.ready = false;
        world.status.revision = 13;
        world.status.problems =
            vec!["eth0: another XDP program is attached (id 7): detach it first".to_owned()];
        world.status.interfaces[0].attached = None;
        world.status.interfaces[0].problem = Some("another XDP program is attached".to_owned());
    }
    let ran = mock.run("status");
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    assert!(ran.out.starts_with("NOT READY   netfast"), "{}", ran.out);
    assert!(
        ran.out.contains("  ! eth0: another XDP program is attached (id 7): detach it first\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("13, but the datapath runs 12"), "{}", ran.out);
    assert!(ran.out.contains("not attached"), "{}", ran.out);
    let ran = mock.run("status --brief");
    assert!(ran.code == 1 && ran.out.starts_with("NOT READY: "), "{ran:?}");
    let ran = mock.run("status -o json");
    assert!(ran.code == 1 && ran.out.contains("\"ready\": false"), "{ran:?}");
    assert_eq!(mock.run("status -q").bad(1), "");
}

#[test]
fn stats_show_every_section() {
    let mock = Mock::new();
    let out = mock.run("stats").good();
    let shown = lines(&out);
    for line in [
        "eth0 redirect forwarded 1.2M 988 MB",
        "web 1234 56k 1.0M 90 MB 2.0M 3.0 GB",
        "web 10.0.0.11:8443 1234 1.0M 90 MB 2.0M 3.0 GB",
        "192.0.2.10:7 7 700 B",
        "scanner 815 49 kB",
        "confirmed 1234 262144 0.5%",
        "eth0 1.2M 34k 2.8%",
    ] {
        assert!(shown.contains(&line.to_owned()), "{line} is missing in\n{out}");
    }
    let wide = mock.run("stats interfaces -o wide").good();
    assert!(wide.contains("dropped by a filter rule") && !wide.contains("FORWARD"), "{wide}");
    let maps = mock.run("stats maps").good();
    assert_eq!(lines(&maps), ["MAP USED MAX FULL", "FLOWS 2468 524288 0.5%"]);
    assert_eq!(mock.run("stats -o json").json()["forwards"][0]["flows_total"], 55_555);
}

#[test]
fn watched_stats_are_rates() {
    let mock = Mock::new();
    // The mock counts 1000 packets an answer.
    let out = mock.run("stats interfaces --watch 100ms --count 2").good();
    let shown = lines(&out);
    assert_eq!(
        shown.iter().filter(|line| line.as_str() == "INTERFACE VERDICT REASON PKT/S BIT/S").count(),
        2,
        "{out}"
    );
    let begin = Instant::now();
    let samples = objects(&mock.run("stats --watch 50ms -c 3 -o jsonl").good());
    let most = begin.elapsed().as_secs_f64();
    assert_eq!(samples.len(), 3);
    assert!(samples.iter().all(|sample| sample["interfaces"][0]["packets"] == 1000), "{samples:?}");
    // A single one is as long as it takes from answer to answer: on a busy machine an answer that comes late makes the next interval
    // short. Together they are three intervals at least, and no longer than the command ran.
    let all: f64 = samples.iter().map(|sample| sample["interval_seconds"].as_f64().unwrap()).sum();
    assert!((0.149..most).contains(&all), "{all} of {most}: {samples:?}");
    mock.run("stats --watch 0s").bad(2);
}

#[test]
fn flows_are_listed_shown_counted_and_ended() {
    let mock = Mock::new();
    let out = mock.run("flows list").good();
    assert_eq!(
        lines(&out)[1..],
        [
            "tcp 198.51.100.7:40312 192.0.2.10:443 10.0.0.11:8443 web established 1h 6m 3s 2h 3m",
            "udp [2001:db8::7]:5353 [2001:db8::10]:53 [2001:db8:1::53]:53 (deleted) one-way 2s 2s 28s",
        ]
    );
    assert!(mock.run("flows list -o wide").good().contains("10.0.0.1:20001"));
    assert_eq!(mock.run("flows list -o json").json()["flows"][0]["expires_seconds"], 7437);
    assert_eq!(objects(&mock.run("flows list -o jsonl").good()).len(), 2);
    let page = mock.run("flows show --client 198.51.100.7:40312").good();
    assert!(page.contains("source      10.0.0.1:20001 (what the target sees)\n"), "{page}");
    assert_eq!(mock.last_call(), "GET /v1/flows?client=198.51.100.7&client_port=40312&limit=100");
    assert_eq!(mock.run("flows count --state one-way --proto udp").good(), "2\n");
    assert_eq!(mock.last_call(), "GET /v1/flows/count?protocol=udp&state=one-way");
    assert_eq!(mock.run("flows count -o json").json(), json!({ "schema_version": 1, "count": 2 }));
    assert_eq!(mock.run("flows flush --forward web --service [2001:db8::10]:53").good(), "2 flows ended\n");
    assert_eq!(mock.last_call(), "DELETE /v1/flows?service=2001%3Adb8%3A%3A10&service_port=53&forward=web");
    assert_eq!(mock.run("flows flush --all").good(), "2 flows ended\n");
    assert_eq!(mock.last_call(), "DELETE /v1/flows");
    // Nobody ends every flow by leaving a filter out.
    let err = mock.run("flows flush").bad(2);
    assert!(err.contains("--all"), "{err}");
    mock.run("flows flush --all --forward web").bad(2);
    mock.run("flows list --state opne").bad(2);
    mock.world.lock().unwrap().flows.clear();
    mock.run("flows show").bad(4);
}

#[test]
fn versions_are_those_of_both_sides() {
    let mock = Mock::new();
    let out = mock.run("version").good();
    assert_eq!(lines(&out), ["client 0.1.0 (ABI 1)", "agent 0.1.0 (ABI 1)"]);
    assert_eq!(mock.run("version -o json").json()["agent"]["version"], "0.1.0");
    mock.world.lock().unwrap().status.version = "0.0.9".to_owned();
    let ran = mock.run("version");
    assert!(ran.code == 0 && ran.err.contains("restart the agent"), "{ran:?}");
    let ran = mock.run("version --socket /nonexistent/socket -o json");
    assert!(
        ran.code == 0 && ran.err.contains("not running") && ran.out.contains("\"agent\": null"),
        "{ran:?}"
    );
}
