//! C009: a bucket that cannot overflow.

use expr::Condition;
use model::yaml::Yaml;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Constant, Scenario, Subject, constant, entry};

pub(super) const RULE: Rule = Rule {
    code: "C009",
    name: "never-overflows",
    severity: Severity::Error,
    summary: "The numbers of a bucket are such that it never overflows.",
    page: "\
### What it does

Works out what a bucket would need:

- a leaky one whose `distinct` is the same in the whole bucket (the text of `groupby`, or a constant), or can take only as many values as
  the filter names, holds no more events than that;
- a leaky one that leaks more than a thousand events a second needs more than a log gives (a warning);
- a conditional one whose `condition` wants more events in the queue than `capacity` or `cache_size` let it hold;
- a bayesian one whose `bayesian_threshold` is not passed even if every condition turns out as badly as it can.

### Why it is bad

The scenario is installed, sees its events, and never says anything.

### Example

```yaml
type: leaky
groupby: evt.Meta.source_ip
distinct: evt.Meta.source_ip      # one value in a bucket, so one event
capacity: 5
leakspeed: 10s
```

### Remedy

Count what differs inside a group, or lower `capacity` below the number of values that there are.",
    check,
};

/// A bucket that leaks faster than this many nanoseconds for an event keeps up with any log.
const FAST: i64 = 1_000_000;

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for scenario in &subject.scenarios {
        match &*scenario.kind {
            "leaky" => leaky(scenario, findings),
            "conditional" => conditional(scenario, findings),
            "bayesian" => bayesian(scenario, findings),
            _ => {}
        }
    }
}

fn leaky(scenario: &Scenario<'_>, findings: &mut Findings<'_>) {
    // A condition of its own, or a time, lets it overflow otherwise.
    if scenario.get("condition").is_some() || scenario.get("duration").is_some() {
        return;
    }
    let capacity = scenario.integer("capacity");
    if let (Some(distinct), Some(text)) = (&scenario.distinct, scenario.text("distinct")) {
        let (values, why) = if scenario.text("groupby").is_some_and(|group| group.trim() == text.trim()) {
            (1, "`distinct` is what `groupby` keeps apart".to_owned())
        } else if matches!(constant(distinct), Some(Constant::Text(_))) {
            (1, "`distinct` is the same for every event".to_owned())
        } else if let Some(values) = few(scenario, &text) {
            (values, format!("the filter leaves `{}` no more than {values}", text.trim()))
        } else {
            (usize::MAX, String::new())
        };
        if i64::try_from(values).is_ok_and(|values| values <= capacity) {
            findings.add(
                scenario.path,
                scenario.line("distinct"),
                format!(
                    "`{}` never overflows: {why}, and it takes {} different values to fill the bucket",
                    scenario.name,
                    capacity + 1
                ),
                "count something that differs inside a group, or lower `capacity`",
            );
        }
    }
    let leakspeed = scenario.duration("leakspeed");
    if leakspeed < FAST {
        findings.add_as(
            Severity::Warning,
            scenario.path,
            scenario.line("leakspeed"),
            format!(
                "`{}` forgets an event every `{}`: a log would have to be faster than that to fill it",
                scenario.name,
                expr::duration::format(leakspeed)
            ),
            "write the time after which one event is forgotten, such as `10s`",
        );
    }
}

/// How many values `distinct` can take when it is a field that the filter demands one of some texts of.
fn few(scenario: &Scenario<'_>, distinct: &str) -> Option<usize> {
    let reads = &scenario.distinct.as_ref()?.facts().reads;
    // Only the field itself: what an expression makes of it may differ more.
    let plain = distinct.trim().chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_'));
    let [field] = reads.as_slice() else { return None };
    scenario.filter.facts().requires.iter().filter(|_| plain).find_map(|condition| match condition {
        Condition::In(demanded, texts) if demanded == field => Some(texts.len()),
        _ => None,
    })
}

fn conditional(scenario: &Scenario<'_>, findings: &mut Findings<'_>) {
    let Some(condition) = scenario.text("condition") else { return };
    let (capacity, cache) = (scenario.integer("capacity"), scenario.integer("cache_size"));
    let size = if cache > 0 && (cache <= capacity || capacity == -1) { cache } else { capacity };
    if size < 0 {
        return;
    }
    let Some(wanted) = wanted(&condition).filter(|wanted| *wanted > size + 1) else { return };
    findings.add(
        scenario.path,
        condition.line,
        format!(
            "`{}` never overflows: its condition wants {wanted} events in the queue, which holds {}",
            scenario.name,
            size + 1
        ),
        "set `capacity: -1`, and no `cache_size`, or one that is large enough",
    );
}

/// How many events a condition wants, if it is a chain of demands one of which is about the length of the queue.
fn wanted(condition: &str) -> Option<i64> {
    let text: String = condition.split_whitespace().collect();
    if ["||", "?", "!", "{"].iter().any(|sign| text.contains(sign))
        || condition.contains(" or ")
        || condition.contains("not ")
    {
        return None;
    }
    let rest = text.split("len(queue.Queue)").nth(1)?;
    let digits = rest.trim_start_matches(['>', '=']);
    let sign = rest.get(..rest.len() - digits.len())?;
    let number: String = digits.chars().take_while(char::is_ascii_digit).collect();
    let number: i64 = number.parse().ok()?;
    match sign {
        ">" => number.checked_add(1),
        ">=" | "==" => Some(number),
        _ => None,
    }
}

fn bayesian(scenario: &Scenario<'_>, findings: &mut Findings<'_>) {
    let number = |yaml: Option<&Yaml>, key: &str| yaml.and_then(|yaml| yaml.float(key).ok()).unwrap_or(0.0);
    let threshold = number(scenario.get("bayesian_threshold"), "bayesian_threshold");
    let mut belief = number(scenario.get("bayesian_prior"), "bayesian_prior");
    let conditions = scenario.get("bayesian_conditions").and_then(|yaml| yaml.list("bayesian_conditions").ok());
    for condition in conditions.unwrap_or_default() {
        let evil = number(entry(condition, "prob_given_evil"), "prob_given_evil");
        let benign = number(entry(condition, "prob_given_benign"), "prob_given_benign");
        let update = |evil: f64, benign: f64| evil * belief / (evil * belief + benign * (1.0 - belief));
        let (yes, no) = (update(evil, benign), update(1.0 - evil, 1.0 - benign));
        // Not a number where a condition cannot be so.
        belief = if yes.is_nan() || no > yes { no } else { yes };
    }
    // Room for the rounding of smaller floats.
    if belief <= threshold - 1e-6 || threshold >= 1.0 {
        findings.add(
            scenario.path,
            scenario.line("bayesian_threshold"),
            format!(
                "`{}` never overflows: belief rises to {belief:.3} at most, and has to pass {threshold}",
                scenario.name
            ),
            "lower `bayesian_threshold`, or give the conditions more weight",
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn a_bucket_must_be_able_to_overflow() {
        let scenario = |rest: &str| {
            format!(
                "name: a\ndescription: a\nfilter: \"evt.Meta.a in ['x', 'y']\"\ngroupby: evt.Meta.source_ip\n{rest}"
            )
        };
        // (what follows, line)
        let cases: &[(&str, Option<&str>)] = &[
            ("type: leaky\ncapacity: 5\nleakspeed: 10s\n", None),
            ("type: leaky\ncapacity: 5\nleakspeed: 10s\ndistinct: evt.Meta.b\n", None),
            ("type: leaky\ncapacity: 5\nleakspeed: 10s\ndistinct: evt.Meta.source_ip\n", Some("8")),
            ("type: leaky\ncapacity: 5\nleakspeed: 10s\ndistinct: \"'x'\"\n", Some("8")),
            ("type: leaky\ncapacity: 5\nleakspeed: 10s\ndistinct: evt.Meta.a\n", Some("8")),
            ("type: leaky\ncapacity: 1\nleakspeed: 10s\ndistinct: evt.Meta.a\n", None),
            ("type: leaky\ncapacity: 5\nleakspeed: 10s\ndistinct: evt.Meta.a + evt.Meta.b\n", None),
            ("type: leaky\ncapacity: 5\nleakspeed: 10us\n", Some("7")),
            ("type: conditional\ncapacity: -1\nleakspeed: 10s\ncondition: len(queue.Queue) >= 9\n", None),
            ("type: conditional\ncapacity: 5\nleakspeed: 10s\ncondition: len(queue.Queue) >= 9\n", Some("8")),
            ("type: conditional\ncapacity: 5\nleakspeed: 10s\ncondition: len(queue.Queue) >= 6\n", None),
            (
                "type: conditional\ncapacity: 5\nleakspeed: 10s\ncondition: len(queue.Queue) > 5 and evt.Meta.a == 'x'\n",
                None,
            ),
            (
                "type: conditional\ncapacity: 5\nleakspeed: 10s\ncondition: len(queue.Queue) > 9 or evt.Meta.a == 'x'\n",
                None,
            ),
            (
                "type: bayesian\ncapacity: -1\nleakspeed: 1m\nbayesian_prior: 0.5\nbayesian_threshold: 0.9\nbayesian_conditions: [{condition: 'true', prob_given_evil: 0.6, prob_given_benign: 0.5}]\n",
                Some("9"),
            ),
            (
                "type: bayesian\ncapacity: -1\nleakspeed: 1m\nbayesian_prior: 0.5\nbayesian_threshold: 0.9\nbayesian_conditions: [{condition: 'true', prob_given_evil: 0.9, prob_given_benign: 0.01}]\n",
                None,
            ),
        ];
        for (rest, line) in cases {
            let lines: Vec<&str> = line.iter().copied().collect();
            table("C009", &[("scenarios/a.yaml", &scenario(rest), &lines)]);
        }
    }
}
