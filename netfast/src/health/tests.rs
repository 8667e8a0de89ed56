//! The task with its heap and board, against listeners on the loopback device.

use tokio::net::TcpListener;

use super::*;
use crate::{
    api::types::{Endpoint, Target, TargetState, Transport},
    rules::normal::target_key,
};

fn forward(name: &str, check: Option<&str>, targets: &[Endpoint]) -> Forward {
    let listen = "192.0.2.1:80".parse().unwrap();
    Forward {
        health: check.map(|check| check.parse().unwrap()),
        targets: targets.iter().map(|address| Target::new(*address)).collect(),
        ..Forward::new(name.to_owned(), Transport::Tcp, listen)
    }
}

async fn listener() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    (listener, address)
}

const QUICK: &str = "tcp,interval=100ms,fall=2";

fn state(checks: &Checks, forward: &str, target: &Endpoint) -> Option<TargetState> {
    let targets = checks.targets(forward);
    targets.into_iter().find(|(key, _)| *key == target_key(target)).map(|(_, health)| health.state)
}

async fn wait_for(what: &str, done: impl Fn() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {what}");
}

#[tokio::test]
async fn a_target_that_dies_goes_down_and_comes_back() {
    let ((dying, a), (_living, b)) = (listener().await, listener().await);
    let web = forward("web", Some(QUICK), &[a, b]);
    let checks = Checks::new();
    let mut changes = checks.changes();
    let task = checks.spawn();
    checks.follow(std::slice::from_ref(&web));
    assert_eq!(Some(TargetState::Unknown), state(&checks, "web", &a));
    wait_for("first results", || [a, b].iter().all(|t| state(&checks, "web", t) == Some(TargetState::Up)))
        .await;
    assert!(!changes.has_changed().unwrap(), "an unknown target counts as healthy: nothing has changed");

    let address = dying.local_addr().unwrap();
    drop(dying);
    changes.changed().await.unwrap();
    assert!(checks.states().is_down(&web, &a) && !checks.states().is_down(&web, &b));
    let (_, health) = checks.targets("web").into_iter().find(|(key, _)| *key == target_key(&a)).unwrap();
    assert_eq!((TargetState::Down, Some("connection refused")), (health.state, health.last_error.as_deref()));
    assert_eq!((2, 1), (checks.summary().targets, checks.summary().down));
    assert!(checks.forward("web").failed >= 2 && checks.forward("web").healthy >= 2);

    let _again = TcpListener::bind(address).await.unwrap();
    changes.changed().await.unwrap();
    assert_eq!(0, checks.states().count());
    let (_, health) = checks.targets("web").into_iter().find(|(key, _)| *key == target_key(&a)).unwrap();
    assert_eq!((TargetState::Up, None, 3), (health.state, health.last_error, health.transitions));
    task.abort();
}

#[tokio::test]
async fn targets_that_stay_keep_their_state_and_those_that_go_are_forgotten() {
    let ((gone, a), (_living, b)) = (listener().await, listener().await);
    drop(gone);
    let web = forward("web", Some(QUICK), &[a, b]);
    let checks = Checks::new();
    let mut changes = checks.changes();
    let task = checks.spawn();
    checks.follow(std::slice::from_ref(&web));
    changes.changed().await.unwrap();
    // Another check, another order, another forward beside it.
    let web = forward("web", Some("tcp,interval=1h,rise=5"), &[b, a]);
    checks.follow(&[forward("other", None, &[a]), web.clone()]);
    assert_eq!(Some(TargetState::Down), state(&checks, "web", &a));
    assert!(checks.states().is_down(&web, &a));
    assert_eq!(None, state(&checks, "other", &a));
    checks.follow(&[forward("web", Some("tcp,interval=1h"), &[b])]);
    assert_eq!((0, 1), (checks.states().count(), checks.summary().targets));
    checks.follow(std::slice::from_ref(&web));
    assert_eq!(Some(TargetState::Unknown), state(&checks, "web", &a), "as a new one");
    checks.follow(&[forward("web", None, &[a, b])]);
    assert_eq!((0, 0), (checks.states().count(), checks.summary().targets));
    task.abort();
}

#[tokio::test]
async fn what_was_down_before_a_start_is_down_until_checked() {
    let (_living, a) = listener().await;
    let web = forward("web", Some(QUICK), &[a]);
    let mut down = TargetStates::default();
    down.set("web", target_key(&a), true);
    down.set("gone", target_key(&a), true);
    let checks = Checks::new();
    checks.inherit(down);
    checks.follow(std::slice::from_ref(&web));
    assert_eq!(Some(TargetState::Down), state(&checks, "web", &a));
    assert_eq!((1, true), (checks.states().count(), checks.states().is_down(&web, &a)));
    let mut changes = checks.changes();
    let task = checks.spawn();
    changes.changed().await.unwrap();
    assert_eq!(Some(TargetState::Up), state(&checks, "web", &a));
    task.abort();
}

#[tokio::test]
async fn ten_thousand_targets_are_all_asked() {
    const TARGETS: usize = 10_000;
    // Nobody listens on port 9 there: an answer all the same.
    let targets: Vec<Endpoint> =
        (0..TARGETS).map(|n| format!("127.{}.{}.1:9", n / 250 + 1, n % 250 + 1).parse().unwrap()).collect();
    let checks = Checks::new();
    let task = checks.spawn();
    checks.follow(&[forward("many", Some("tcp,interval=20s,fall=1"), &targets)]);
    wait_for("all results", || checks.states().count() == TARGETS).await;
    assert_eq!(TARGETS as u64, checks.forward("many").failed, "asked once each");
    task.abort();
}
