//! Postoverflows: whitelists and statics on overflows.

use std::sync::Arc;

use expr::memo::Memo;
use jiff::tz::TimeZone;
use model::alert::{AlertEvent, Meta};
use model::{Alert, Event, RuntimeAlert, Source};
use parsers::{Context, Outcome, Scratch, Stashes, YearRule};

use crate::nodes::load_all;
use crate::support::{Nowhere, now};

fn overflow() -> RuntimeAlert {
    let source = Source { scope: "Ip".into(), value: "192.0.2.7".into(), ip: "192.0.2.7".into(), ..Source::default() };
    let meta = vec![Meta { key: "log_type".into(), value: "ssh_failed-auth".into() }];
    let alert = Alert {
        scenario: "acme/knocking".into(),
        events_count: 6,
        stop_at: "2026-08-21T23:59:00Z".into(),
        source: source.clone(),
        events: vec![AlertEvent { meta, ..AlertEvent::default() }],
        ..Alert::default()
    };
    RuntimeAlert {
        mapkey: "192.0.2.7".into(),
        sources: [(source.value.clone(), source)].into(),
        alert,
        ..RuntimeAlert::default()
    }
}

#[test]
fn overflows_pass_the_same_machine() {
    type Check = fn(&Outcome, &RuntimeAlert) -> bool;
    let cases: &[(&str, &str, Check)] = &[
        (
            "a source inside a trusted prefix silences the alert",
            "name: a\nwhitelist: {reason: r, cidr: [192.0.2.0/24]}\n",
            |outcome, alert| *outcome == Outcome::Whitelisted && alert.whitelisted && alert.whitelist_reason == "r",
        ),
        (
            "an expression sees the alert",
            "name: a\nwhitelist: {reason: r, expression: [\"evt.Overflow.Alert.GetScenario() == 'acme/knocking'\"]}\n",
            |_, alert| alert.whitelisted,
        ),
        (
            "meta of the poured events is reached through a method only",
            "name: a\nfilter: evt.GetMeta('log_type') == 'ssh_failed-auth' && evt.Meta.log_type == ''\nwhitelist: {reason: r, expression: ['true']}\n",
            |_, alert| alert.whitelisted,
        ),
        (
            "statics can rewrite the source of the alert, its key stays",
            "name: a\nstatics:\n  - {target: evt.Overflow.Alert.Source.Value, value: 192.0.2.0/24}\n  - {target: evt.Overflow.Alert.Source.Scope, value: Range}\n",
            |outcome, alert| {
                *outcome == Outcome::Parsed
                    && alert.alert.source.value == "192.0.2.0/24"
                    && alert.alert.source.scope == "Range"
                    && alert.sources.contains_key("192.0.2.7")
            },
        ),
        (
            "a pointer is no text, so the static loses the event",
            "name: a\nstatics: [{meta: s, expression: evt.Overflow.Alert.Scenario}]\n",
            |outcome, _| matches!(outcome, Outcome::Failed { .. }),
        ),
        (
            "a method gives the text that the pointer stands for",
            "name: a\nstatics: [{target: evt.Overflow.Alert.Message, expression: 'evt.Overflow.Alert.GetScenario()'}]\n",
            |_, alert| alert.alert.message == "acme/knocking",
        ),
    ];
    for (name, yaml, check) in cases {
        let (set, table, problems, _) = load_all(&[("s00/a.yaml", yaml)]);
        assert_eq!(problems, Vec::<String>::new(), "{name}");
        let (host, stashes, memo) = (Nowhere::default(), Stashes::default(), Memo::default());
        let mut scratch = Scratch::default();
        let mut event = Event::new(Arc::clone(&table));
        event.start_overflow(overflow(), now());
        let mut cx = Context {
            host: &host,
            now: now(),
            year: YearRule::Current,
            zone: &TimeZone::UTC,
            stashes: &stashes,
            geo: None,
            memo: Some(&memo),
            scratch: &mut scratch,
            trace: None,
            probe: None,
        };
        let outcome = set.run(&mut event, &mut cx);
        let alert = event.take_overflow().expect("the event carries it");
        assert!(check(&outcome, &alert), "{name}: {outcome:?} {alert:?}");
    }
}
