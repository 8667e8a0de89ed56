//! How the program ends: exit codes, error texts, closed pipes.

use std::{
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Stdio},
};

use netfast::api::types::ErrorCode;
use serde_json::{Value, json};

use crate::mock::{Mock, Ran, netfast};

#[test]
fn every_kind_of_error_has_its_exit_code() {
    for (code, status, exit) in [
        (ErrorCode::Usage, 400, 2),
        (ErrorCode::Rejected, 422, 3),
        (ErrorCode::NotFound, 404, 4),
        (ErrorCode::Conflict, 409, 5),
        (ErrorCode::Unavailable, 503, 6),
        (ErrorCode::Internal, 500, 6),
        (ErrorCode::Permission, 403, 7),
    ] {
        assert_eq!(i32::from(netfast::cli::exit_code(code)), exit);
        let mock = Mock::failing(status, code, "it cannot be", Some("forward.web.mode"));
        for verb in [
            "forward list",
            "forward delete web",
            "status",
            "stats",
            "flows list",
            "export",
            "attach x",
            "stop",
        ] {
            let err = mock.run(verb).bad(exit);
            assert!(err.starts_with("error: ") && err.ends_with("it cannot be\n"), "{verb}: {err}");
            let err = mock.run(&format!("{verb} -o json")).bad(exit);
            let json: Value = serde_json::from_str(&err).unwrap();
            let error =
                json!({ "code": code.as_str(), "message": "it cannot be", "field": "forward.web.mode" });
            assert_eq!(json, json!({ "error": error }), "{verb}");
        }
    }
}

#[test]
fn an_agent_that_is_not_there_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("netfast.sock");
    let run = |words: &[&str]| Ran::of(netfast().env("NETFAST_SOCKET", &socket).args(words));
    let shown = socket.display();
    let start = "start it by `netfast agent` or `systemctl start netfast`";
    let message = format!("the agent is not running (no socket at {shown}): {start}");
    assert_eq!(run(&["status"]).bad(6), format!("error: {message}\n"));
    let json: Value = serde_json::from_str(&run(&["status", "-o", "json"]).bad(6)).unwrap();
    assert_eq!(json, json!({ "error": { "code": "unavailable", "message": message } }));
    // A socket whose owner died.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(
        run(&["forward", "delete", "web"]).bad(6),
        format!("error: the agent is not running (nobody listens at {shown}): {start}\n")
    );
}

#[test]
fn a_socket_without_permission_is_exit_code_7() {
    let mock = Mock::new();
    std::fs::set_permissions(mock.socket(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = as_nobody(&mock);
    let err = Ran::of(command.arg("status").env("NETFAST_SOCKET", mock.socket())).bad(7);
    assert!(err.contains("add yourself to group netfast or use sudo"), "{err}");
}

#[test]
fn an_agent_without_root_says_what_it_needs() {
    let mock = Mock::new();
    let dir = mock.dir.path().display();
    let config =
        mock.file("agent.toml", &format!("[agent]\nrun_dir = \"{dir}/run\"\nstate_dir = \"{dir}/state\"\n"));
    let err = Ran::of(as_nobody(&mock).args(["agent", "--config", &config])).bad(7);
    assert!(err.starts_with("error: ") && err.contains("root, or with CAP_BPF"), "{err}");
}

/// The program run by somebody who may do little: root may do anything, so nobody takes its place. He needs a way to the
/// program.
fn as_nobody(mock: &Mock) -> Command {
    std::fs::set_permissions(mock.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = netfast();
    if nix::unistd::geteuid().is_root() {
        let program = mock.dir.path().join("netfast");
        std::fs::copy(command.get_program(), &program).unwrap();
        command = Command::new(program);
        command.env_remove("NETFAST_SOCKET").uid(65_534);
    }
    command
}

#[test]
fn something_else_at_the_socket_is_told_apart() {
    let mock = Mock::new();
    mock.world.lock().unwrap().raw = Some("hello".to_owned());
    let err = mock.run("status").bad(6);
    assert!(err.contains("does not speak this version's API"), "{err}");
}

#[test]
fn usage_errors_are_exit_code_2_also_as_json() {
    let mock = Mock::new();
    for (line, part) in [
        ("forwrd list", "forward"),
        ("forward add web tcp 192.0.2.10 --to 10.0.0.1:1", "ADDRESS:PORT"),
        ("forward add web tcp 192.0.2.10:0 --to 10.0.0.1:1", "port 0"),
        ("forward add web sctp 192.0.2.10:1 --to 10.0.0.1:1", "tcp, udp"),
        ("forward add web tcp 192.0.2.10:1 --to 10.0.0.1:1,wieght=2", "did you mean \\\"weight\\\""),
        ("forward add web tcp 192.0.2.10:1 --to 10.0.0.1:1 --health http:/,intervall=2s", "interval"),
        ("forward add web tcp 192.0.2.10:1 --to 10.0.0.1:1 --health http:/,fall=x", "fall: "),
        ("filter add drop --ip-version 5", "possible values: 4, 6"),
        ("apply", "--file <FILE>"),
        ("stats --count 3", "--watch"),
    ] {
        let err = mock.run(line).bad(2);
        assert!(err.starts_with("error: ") && err.contains(&part.replace("\\\"", "\"")), "{line}: {err}");
        for form in ["-o json", "-ojson", "--output=jsonl"] {
            let err = mock.run(&format!("{line} {form}")).bad(2);
            let json: Value = serde_json::from_str(&err).unwrap();
            assert_eq!(json["error"]["code"], "usage", "{line}");
            assert!(err.contains(part), "{line}: {err}");
        }
    }
    assert!(mock.world.lock().unwrap().asked.is_empty());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mock = Mock::new();
    {
        let mut world = mock.world.lock().unwrap();
        let flow = world.flows[0].clone();
        world.flows = vec![flow; 20_000];
    }
    for form in ["table", "json", "jsonl"] {
        let mut child = netfast()
            .env("NETFAST_SOCKET", mock.socket())
            .args(["flows", "list", "-o", form])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{form}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let mock = Mock::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = netfast();
    command.env("NETFAST_SOCKET", mock.socket()).args(["export"]).stdout(full);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
}

#[test]
fn no_colours_in_pipes() {
    let mock = Mock::new();
    for line in ["status", "stats", "--help", "forward add --help"] {
        assert!(!mock.run(line).good().contains('\u{1b}'), "{line}");
    }
}
