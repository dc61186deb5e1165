//! Patterns and selection.

use proptest::prelude::*;

use super::*;
use crate::interfaces::glob::Pattern;

fn matches(pattern: &str, name: &str) -> bool {
    Pattern::new(pattern).unwrap().matches(name)
}

#[test]
fn globs_match_whole_names() {
    for (pattern, name) in [
        ("eth0", "eth0"),
        ("*", "eth0"),
        ("veth*", "veth"),
        ("veth*", "vethab12"),
        ("*th*", "eth0"),
        ("*0", "eth00"),
        ("a*b*c", "aXbXbXc"),
        ("eth?", "eth0"),
        ("eth[0-3]", "eth3"),
        ("eth[!0-3]", "eth4"),
        ("eth[^0-3]", "eth4"),
        ("[el]*", "lo"),
        ("[]x]", "]"),
        ("[a-]", "-"),
        ("e**0", "eth0"),
    ] {
        assert!(matches(pattern, name), "{pattern} should match {name}");
    }
    for (pattern, name) in [
        ("eth0", "eth01"),
        ("eth", "eth0"),
        ("veth*", "eth0"),
        ("eth?", "eth"),
        ("eth?", "eth10"),
        ("eth[0-3]", "eth4"),
        ("eth[!0-3]", "eth3"),
        ("eth[!0-3]", "eth"),
        ("a*b*c", "aXcXb"),
        ("*0", ""),
    ] {
        assert!(!matches(pattern, name), "{pattern} should not match {name:?}");
    }
}

#[test]
fn impossible_patterns_are_refused_with_the_reason() {
    for (pattern, reason) in [
        ("", "empty"),
        ("eth[", "not closed"),
        ("eth[]", "not closed"),
        ("eth[9-0]", "backwards"),
        ("an-interface-of-16", "15 bytes"),
        ("eth 0", "blanks"),
        ("a/b", "\"/\""),
    ] {
        let error = Selection::new(&[pattern.to_owned()], &[]).unwrap_err();
        assert_eq!(error.pattern, pattern);
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(Selection::new(&[], &[pattern.to_owned()]).unwrap_err(), error);
    }
}

#[test]
fn everything_that_is_up_but_loopback_is_the_default() {
    let default = Selection::default();
    assert_eq!(default, selection(&[], &[]));
    assert!(default.wants(&interface("eth0")));
    assert!(!default.wants(&interface("lo")));
    assert!(!default.wants(&Interface { up: false, ..interface("eth0") }));
    assert!(default.wants(&Interface { link_layer: LinkLayer::Raw, ..interface("wg0") }));
    assert!(!default.wants(&Interface { link_layer: LinkLayer::Unsupported(280), ..interface("can0") }));
}

#[test]
fn loopback_has_to_be_named_outright() {
    assert!(selection(&["lo"], &[]).wants(&interface("lo")));
    assert!(!selection(&["*"], &[]).wants(&interface("lo")));
    assert!(!selection(&["l?", "lo*"], &[]).wants(&interface("lo")));
    assert!(!selection(&["lo"], &["l*"]).wants(&interface("lo")));
}

#[test]
fn exclusion_wins() {
    let chosen = selection(&["eth*", "veth*"], &["veth9*"]);
    assert!(chosen.wants(&interface("eth0")));
    assert!(chosen.wants(&interface("veth1")));
    assert!(!chosen.wants(&interface("veth91")));
    assert!(!chosen.wants(&interface("wlan0")));
    assert!(!selection(&[], &["docker0"]).wants(&interface("docker0")));
}

#[test]
fn a_named_interface_that_cannot_be_read_is_missed() {
    let can = Interface { link_layer: LinkLayer::Unsupported(280), ..interface("can0") };
    assert!(selection(&["can0"], &[]).misses(&can));
    assert!(!selection(&["can*"], &[]).misses(&can));
    assert!(!selection(&[], &[]).misses(&can));
    assert!(!selection(&["can0"], &[]).wants(&can));
}

/// What a glob of `*`, `?` and characters means, said the slow way.
fn slow(pattern: &[char], name: &[char]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some(('*', rest)) => (0..=name.len()).any(|skip| slow(rest, &name[skip..])),
        Some((c, rest)) => {
            name.split_first().is_some_and(|(n, tail)| (*c == '?' || c == n) && slow(rest, tail))
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_a_pattern_or_refused(pattern in ".{0,20}", name in ".{0,15}") {
        if let Ok(pattern) = Pattern::new(&pattern) {
            let _ = pattern.matches(&name);
        }
    }

    #[test]
    fn matching_agrees_with_the_slow_way(pattern in "[ab?*]{1,8}", name in "[ab]{0,10}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(matches(&pattern, &name), slow(&chars(&pattern), &chars(&name)));
    }
}
