use proptest::prelude::*;

use super::*;
use crate::rules::tests::any_health;

fn error(text: &str) -> String {
    text.parse::<Health>().map_err(|error| error.0).unwrap_err()
}

#[test]
fn as_the_command_line_has_them() {
    let health: Health =
        "http:/ready,interval=2s,host=shop.example,status=200-299+404,fall=2".parse().unwrap();
    assert_eq!((HealthKind::Http, Some("/ready")), (health.kind, health.path.as_deref()));
    assert_eq!((DEFAULT_RISE, 2, "2s"), (health.rise, health.fall, &*health.interval.to_string()));
    let codes: Vec<_> =
        health.status.iter().flat_map(Many::iter).map(|range| (range.low, range.high)).collect();
    assert_eq!(vec![(200, 299), (404, 404)], codes);
    assert_eq!(Some("example.com"), "dns:example.com".parse::<Health>().unwrap().name.as_deref());
    assert_eq!(Health::new(HealthKind::Icmp), "icmp".parse().unwrap());
    assert_eq!(Some("a,b\\"), "http:/,body=a\\,b\\\\".parse::<Health>().unwrap().body.as_deref());
}

#[test]
fn what_is_wrong_names_the_key() {
    for (text, words) in [
        ("htpp:/ready", "did you mean \"http\""),
        ("tcp:443", "port=443"),
        ("http:/,intervall=2s", "did you mean \"interval\""),
        ("http:/,interval=2", "interval: \"2\" is not a span of time"),
        ("http:/,status=20", "status: \"20\" is not a status code"),
        ("http:/,fall=many", "fall: \"many\" is not a number"),
        ("http:/,verify=maybe", "verify: \"maybe\" is neither"),
        ("dns:a,rcode=nodomain", "rcode: unknown word"),
        ("tcp,fall", "\"fall\" is not KEY=VALUE"),
        ("tcp,interval=1s,interval=2s", "interval is there twice"),
        ("http:/ready,path=/", "path is there twice"),
    ] {
        assert!(error(text).contains(words), "{text}: {}", error(text));
    }
}

#[test]
fn the_timeout_is_never_longer_than_the_interval_by_default() {
    let timeout = |text: &str| text.parse::<Health>().unwrap().timeout().as_millis();
    assert_eq!([2_000, 500, 3_000], ["tcp", "tcp,interval=500ms", "tcp,timeout=3s"].map(timeout));
}

#[test]
fn spans_are_written_in_the_largest_unit_that_fits() {
    for text in ["1ms", "1500ms", "5s", "90s", "2m", "1h"] {
        assert_eq!(text, text.parse::<Span>().unwrap().to_string());
    }
    assert_eq!("2m", "120s".parse::<Span>().unwrap().to_string());
    for bad in ["", "5", "ms", "-1s", "1.5s", "99999999h"] {
        assert!(bad.parse::<Span>().is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn text_and_json_and_toml_say_the_same(health in any_health()) {
        let text = health.to_string();
        prop_assert_eq!(&health, &text.parse::<Health>().unwrap(), "{}", text);
        let json = serde_json::to_string(&health).unwrap();
        prop_assert_eq!(&health, &serde_json::from_str::<Health>(&json).unwrap());
        let toml = toml::to_string(&health).unwrap();
        prop_assert_eq!(&health, &toml::from_str::<Health>(&toml).unwrap(), "{}", toml);
    }
}
