//! C016: an expression that yields what its place cannot use.

use expr::Type;

use crate::check::finding::{Findings, Rule, Severity};
use crate::check::subject::{Place, Subject};

pub(super) const RULE: Rule = Rule {
    code: "C016",
    name: "wrong-kind",
    severity: Severity::Warning,
    summary: "An expression never yields what its place can use.",
    page: "\
### What it does

Compares what is known of an expression's result with what its place wants: yes or no in `filter`, `cancel_on` and whitelists; a text in `groupby`,
`distinct` and stashes; a text or a number in statics and groks. Where the result is only known when a line is there, the rule is silent.

### Why it is bad

Such an expression loads, as it does elsewhere, and then a filter is never true, a whitelist trusts nobody, a key does not separate, and a static that
yields a truth value, a list or a time ends the event: the line counts as not understood.

### Example

```yaml
filter: evt.Meta.log_type        # a text is neither true nor false
groupby: len(evt.Meta.user)      # a number is no key
```

### Remedy

Compare (`evt.Meta.log_type == 'door'`), or turn the result into a text (`string(...)`).",
    check,
};

fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for expression in &subject.expressions {
        let found = expression.program.result();
        let Some((harm, remedy)) = harm(expression.place, &found) else { continue };
        let message = format!("this yields {}: {harm}", named(&found));
        findings.add(expression.path, expression.text.line, message, remedy);
    }
}

/// What comes of a result of this type, if it is none that the place can use.
fn harm(place: Place, found: &Type) -> Option<(&'static str, &'static str)> {
    const COMPARE: &str = "compare it with something, such as `... == 'x'`";
    const WRITE: &str = "turn it into a text with `string(...)`";
    match (place, found) {
        (_, Type::Any)
        | (Place::Filter | Place::Whitelist, Type::Bool)
        | (Place::Key | Place::Stash, Type::String)
        | (Place::Input, Type::String | Type::Int | Type::Float)
        | (Place::Static, Type::String | Type::Int | Type::Float | Type::Nil) => None,
        (Place::Filter, _) => Some(("it is never true", COMPARE)),
        (Place::Whitelist, _) => Some(("nobody is trusted for it", COMPARE)),
        (Place::Key, _) => Some(("it does not tell one source from another", WRITE)),
        (Place::Stash, _) => Some(("nothing is kept", WRITE)),
        (Place::Input, _) => Some(("the grok reads an empty text", WRITE)),
        (Place::Static, Type::Generic(_)) => Some(("nothing is written", WRITE)),
        (Place::Static, Type::List(inner) | Type::Map(inner)) if **inner == Type::Any => {
            Some(("nothing is written", WRITE))
        }
        (Place::Static, _) => Some(("the line counts as not understood", WRITE)),
    }
}

fn named(found: &Type) -> String {
    match found {
        Type::Nil => "nothing".into(),
        Type::Bool => "a truth value".into(),
        Type::String => "a text".into(),
        Type::Int | Type::Sized(_) | Type::Float => "a number".into(),
        Type::List(_) | Type::Generic(_) => "a list".into(),
        Type::Map(_) => "a map".into(),
        Type::Pointer(inner) => format!("a reference to {}", named(inner)),
        other => format!("a {other}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::table;

    #[test]
    fn what_its_place_cannot_use_is_told() {
        let scenario = |filter: &str, rest: &str| {
            format!("type: leaky\nname: a\ndescription: a\nfilter: {filter}\ncapacity: 1\nleakspeed: 1s\n{rest}")
        };
        let node = |rest: &str| format!("name: a\n{rest}");
        table(
            "C016",
            &[
                ("scenarios/a.yaml", &scenario("evt.Meta.a", "groupby: evt.Meta.b\n"), &["4"]),
                ("scenarios/a.yaml", &scenario("evt.Meta.a == 'x'", "groupby: len(evt.Meta.b)\n"), &["7"]),
                ("scenarios/a.yaml", &scenario("evt.Meta.a == 'x'", "cancel_on: evt.Meta.b\n"), &["7"]),
                ("scenarios/a.yaml", &scenario("evt.Unmarshaled.a", "distinct: evt.Unmarshaled.b\n"), &[]),
                ("parsers/s01-parse/a.yaml", &node("statics: [{meta: a, expression: evt.Whitelisted}]\n"), &["2"]),
                ("parsers/s01-parse/a.yaml", &node("statics: [{meta: a, expression: len(evt.Line.Raw)}]\n"), &[]),
                (
                    "parsers/s02-enrich/a.yaml",
                    &node("whitelist:\n  reason: a\n  expression:\n    - evt.Meta.a\n    - evt.Meta.a == 'x'\n"),
                    &["5"],
                ),
            ],
        );
    }
}
