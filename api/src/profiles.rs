//! Profiles: what follows from an alert.
//!
//! Pure: past decisions are asked through [`Lookup`]. The first profile that matches an alert decides; later ones
//! are looked at only for their notifications (spec: scenarios 15).

use std::cell::Cell;
use std::fmt;
use std::path::Path;

use ipnet::IpNet;
use jiff::Timestamp;

use expr::files::Files;
use expr::{Compiler, DecisionQuery, Env, EvalError, FieldId, Fields, Host, MapId, Program, Type, Value, Vars};
use model::alert::DecisionBody;
use model::yaml::{self, Fault, Keys, Text, Yaml};
use model::{Alert, classes, duration};

/// The profiles that hold when there is no file.
pub const DEFAULT: &str = include_str!("default_profiles.yaml");

/// How long a decision lasts whose profile does not say it.
const DEFAULT_DURATION: &str = "4h";

/// What profiles may ask about the world.
pub trait Lookup {
    /// The current time.
    fn now(&self) -> Timestamp;

    /// How many decisions were ever made that cover `net`; since `since` if it is given.
    fn ever(&self, net: IpNet, since: Option<Timestamp>) -> i64;

    /// How many decisions hold that cover `net`, and when the longest ends.
    fn active(&self, net: IpNet) -> (i64, Option<Timestamp>);

    /// What a reputation service says of an address, as JSON.
    fn reputation(&self, ip: &str) -> Reputation;
}

/// What is known of the reputation of an address.
#[derive(Clone, Debug, PartialEq)]
pub enum Reputation {
    /// The service's answer.
    Known(serde_json::Value),
    /// It was asked and has not answered yet: whoever asks again later gets the answer.
    Awaited,
    /// Why there is no answer.
    Failed(String),
}

/// Who knows the reputation of addresses. Nobody waits for it.
pub trait Reputations: fmt::Debug + Send + Sync {
    /// What is known; what is not is asked for.
    fn reputation(&self, ip: &str) -> Reputation;
}

/// All profiles in order.
#[derive(Clone, Debug, Default)]
pub struct Profiles {
    profiles: Vec<Profile>,
}

/// One profile.
#[derive(Clone, Debug)]
struct Profile {
    name: String,
    filters: Vec<Program>,
    decisions: Vec<Template>,
    duration: Option<Program>,
    breaks: bool,
    on_error: OnError,
    notifications: Vec<String>,
    ladder: bool,
}

/// What a profile decides.
#[derive(Clone, Debug)]
struct Template {
    remediation: String,
    duration: String,
    scope: String,
    origin: String,
    simulated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnError {
    /// The alert is refused, so that whoever sent it tries again.
    Fail,
    /// As if the profile had matched, without a decision.
    Apply,
    /// As if the profile were not there.
    Ignore,
    /// As [`OnError::Ignore`], and no profile after it is looked at if a filter had matched before.
    Break,
}

/// What follows from an alert.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is decided.
    pub decisions: Vec<DecisionBody>,
    /// Who is told, by name, each once for each profile that matched.
    pub notifications: Vec<String>,
    /// Whether bans get longer for those who come back: unless the profile computes their duration, or says `ladder:
    /// false`.
    pub ladder: bool,
}

/// A profile that failed while it was evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("profile `{profile}`: {reason} in `{source_text}`")]
pub struct ProfileError {
    profile: String,
    source_text: String,
    reason: String,
    /// It fails only because an answer is not there yet: the same alert may be judged again.
    awaits: bool,
}

impl Profiles {
    /// The profiles of several files, in this order: path and text. Errors name file and line.
    pub fn parse(files: &[(&Path, &str)]) -> Result<Self, Fault> {
        let mut profiles = Vec::new();
        for (path, text) in files {
            let documents = yaml::documents(text).map_err(|fault| fault.within(path))?;
            for document in documents.iter().filter(|document| !document.is_null()) {
                profiles.push(Profile::read(document).map_err(|fault| fault.within(path))?);
            }
        }
        if profiles.is_empty() {
            let fault = Fault::new(0, "there is no profile: nothing would ever be decided");
            let fault = fault.hint("remove the file to get the profiles that come with cordon");
            return Err(files.first().map_or(fault.clone(), |(path, _)| fault.within(path)));
        }
        Ok(Self { profiles })
    }

    /// The names of all notifications that profiles mention.
    pub fn notifications(&self) -> impl Iterator<Item = &str> {
        self.profiles.iter().flat_map(|profile| profile.notifications.iter().map(String::as_str))
    }

    /// The name of a profile that can decide nothing unless somebody knows the reputation of addresses.
    pub fn needs_reputation(&self) -> Option<&str> {
        let asks = |profile: &&Profile| profile.filters.iter().any(|filter| filter.source().contains("CrowdsecCTI("));
        let failing = self.profiles.iter().filter(|profile| profile.on_error == OnError::Fail);
        failing.into_iter().find(asks).map(|profile| profile.name.as_str())
    }

    /// What follows from `alert`. An alert that brings its decisions keeps them: only notifications follow, and
    /// profiles that fail are passed over. One that awaits an answer fails whatever it says of errors.
    pub fn judge(&self, alert: &Alert, lookup: &dyn Lookup) -> Result<Verdict, ProfileError> {
        let supplied = alert.decisions.as_ref().is_some_and(|decisions| !decisions.is_empty());
        let mut verdict = Verdict::default();
        for profile in &self.profiles {
            let (mut matched, mut failed) = (false, None);
            let mut decisions = Vec::new();
            for filter in &profile.filters {
                match profile.ask(filter, alert, lookup) {
                    Ok(false) => {}
                    Ok(true) => {
                        matched = true;
                        if !supplied {
                            decisions.extend(profile.decide(alert, lookup)?);
                        }
                    }
                    Err(error) => {
                        failed = Some(error);
                        decisions.clear();
                        break;
                    }
                }
            }
            let mut last = false;
            if let Some(error) = failed {
                match profile.on_error {
                    _ if supplied => matched = false,
                    _ if error.awaits => return Err(error),
                    OnError::Fail => return Err(error),
                    OnError::Apply => matched = true,
                    OnError::Ignore => {}
                    OnError::Break => last = true,
                }
            }
            if !matched {
                continue;
            }
            if verdict.decisions.is_empty() && !supplied {
                verdict.decisions = decisions;
                verdict.ladder = profile.ladder && profile.duration.is_none();
            }
            verdict.notifications.extend(profile.notifications.iter().cloned());
            if profile.breaks || last {
                break;
            }
        }
        Ok(verdict)
    }
}

impl Profile {
    fn read(document: &Yaml) -> Result<Self, Fault> {
        let keys = document.keys("a profile")?;
        let vars = Vars { names: vec![("Alert", Type::Pointer(Box::new(Type::Class(&classes::ALERT))))] };
        let mut fields = NoFields;
        let mut compiler = Compiler::new(&mut fields);
        let mut compile = |text: &Text| {
            compiler.compile(text, &vars).map_err(|error| Fault::new(text.line, error.render(text, None)))
        };
        let filters = keys.texts("filters")?.iter().map(&mut compile).collect::<Result<_, _>>()?;
        let duration = keys.text("duration_expr")?.as_ref().map(compile).transpose()?;
        let decisions = keys.list("decisions")?.iter().map(Template::read).collect::<Result<_, _>>()?;
        let word = |key: &'static str, known: &[&str]| -> Result<String, Fault> {
            match keys.text(key)? {
                Some(text) if !text.is_empty() && !known.contains(&&*text.text) => {
                    Err(Fault::unknown(text.line, &format!("value of `{key}`"), &text, known.iter().copied()))
                }
                text => Ok(text.map(|text| text.text).unwrap_or_default()),
            }
        };
        let breaks = word("on_success", &["continue", "break"])? == "break";
        word("on_failure", &["continue", "break", "apply"])?;
        let on_error = match word("on_error", &["apply", "continue", "break", "ignore"])?.as_str() {
            "apply" => OnError::Apply,
            "continue" | "ignore" => OnError::Ignore,
            "break" => OnError::Break,
            _ => OnError::Fail,
        };
        keys.flag("debug")?;
        let profile = Self {
            name: keys.text("name")?.map(|name| name.text).unwrap_or_default(),
            filters,
            decisions,
            duration,
            breaks,
            on_error,
            notifications: keys.texts("notifications")?.into_iter().map(|name| name.text).collect(),
            ladder: keys.flag("ladder")?.unwrap_or(true),
        };
        keys.finish()?;
        Ok(profile)
    }

    fn ask(&self, filter: &Program, alert: &Alert, lookup: &dyn Lookup) -> Result<bool, ProfileError> {
        let (host, vars) = (ProfileHost::new(lookup), [Value::Object(alert)]);
        let env = Env { vars: &vars, host: &host, memo: None };
        match filter.eval_bool(&env) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.fails(filter, "the result is neither true nor false".into(), &host)),
            Err(error) => Err(self.fails(filter, error.to_string(), &host)),
        }
    }

    fn fails(&self, program: &Program, reason: String, host: &ProfileHost<'_>) -> ProfileError {
        let (profile, source_text) = (self.name.clone(), program.source().into());
        ProfileError { profile, source_text, reason, awaits: host.awaits.get() }
    }

    /// The text of the computed duration; `None` where it cannot be computed or is none.
    fn compute(&self, program: &Program, alert: &Alert, lookup: &dyn Lookup) -> Result<Option<String>, ProfileError> {
        let (host, vars) = (ProfileHost::new(lookup), [Value::Object(alert)]);
        let env = Env { vars: &vars, host: &host, memo: None };
        let text = match program.eval(&env) {
            Ok(Value::Str(text)) => text.into_owned(),
            Ok(Value::Duration(nanos)) => duration::format(jiff::SignedDuration::from_nanos(nanos)),
            Ok(Value::Int(number)) => number.to_string(),
            Err(error) if host.awaits.get() => return Err(self.fails(program, error.to_string(), &host)),
            _ => return Ok(None),
        };
        Ok(duration::parse_with_days(&text).ok().map(|_| text))
    }

    fn decide(&self, alert: &Alert, lookup: &dyn Lookup) -> Result<Vec<DecisionBody>, ProfileError> {
        let compute = |program| self.compute(program, alert, lookup);
        let computed = self.duration.as_ref().map(compute).transpose()?.flatten();
        let decide = |template: &Template| DecisionBody {
            origin: match template.origin.as_str() {
                "" => "crowdsec".into(),
                origin => format!("crowdsec/{origin}"),
            },
            remediation: template.remediation.clone(),
            scope: if template.scope.is_empty() { alert.source.scope.clone() } else { template.scope.clone() },
            value: alert.source.value.clone(),
            duration: computed.clone().unwrap_or_else(|| template.duration.clone()),
            scenario: alert.scenario.clone(),
            simulated: (template.simulated || alert.simulated).then_some(true),
            ..DecisionBody::default()
        };
        Ok(self.decisions.iter().map(decide).collect())
    }
}

impl Template {
    fn read(item: &Yaml) -> Result<Self, Fault> {
        let keys = item.keys("a decision")?;
        let text = |keys: &Keys<'_>, key| keys.text(key).map(|text| text.map(|text| text.text).unwrap_or_default());
        let duration = match keys.text("duration")? {
            Some(text) if !text.is_empty() => {
                duration::parse_with_days(&text).map_err(|error| {
                    Fault::new(text.line, format!("`duration`: {error}")).hint("a form like `4h`, `90m` or `7d`")
                })?;
                text.text
            }
            _ => DEFAULT_DURATION.into(),
        };
        let template = Self {
            remediation: keys.required_text("type")?.text,
            duration,
            scope: text(&keys, "scope")?,
            origin: text(&keys, "origin")?,
            simulated: keys.flag("simulated")?.unwrap_or(false),
        };
        // The field's files may carry these; they never had an effect.
        for key in ["value", "scenario", "id", "until", "uuid"] {
            keys.get(key);
        }
        keys.finish()?;
        Ok(template)
    }
}

/// Profiles look at an alert only, which has no numbered fields.
struct NoFields;

impl Fields for NoFields {
    fn intern(&mut self, _map: MapId, _key: &str) -> FieldId {
        FieldId(0)
    }
}

struct ProfileHost<'a> {
    lookup: &'a dyn Lookup,
    files: Files,
    /// Whether an answer was asked for that is not there yet.
    awaits: Cell<bool>,
}

impl<'a> ProfileHost<'a> {
    fn new(lookup: &'a dyn Lookup) -> Self {
        Self { lookup, files: Files::default(), awaits: Cell::new(false) }
    }
}

impl Host for ProfileHost<'_> {
    fn now(&self) -> Timestamp {
        self.lookup.now()
    }

    fn files(&self) -> &Files {
        &self.files
    }

    fn decisions(&self, query: DecisionQuery, value: &str) -> Option<Result<i64, EvalError>> {
        Some(recall(self.lookup, query, value))
    }

    fn reputation(&self, ip: &str) -> Result<serde_json::Value, EvalError> {
        match self.lookup.reputation(ip) {
            Reputation::Known(answer) => Ok(answer),
            Reputation::Failed(reason) => Err(EvalError::new(reason)),
            Reputation::Awaited => {
                self.awaits.set(true);
                Err(EvalError::new("the answer is not there yet"))
            }
        }
    }
}

/// What `lookup` knows about `value`, as expressions get it.
pub(crate) fn recall(lookup: &dyn Lookup, query: DecisionQuery, value: &str) -> Result<i64, EvalError> {
    let net = model::scope::parse_net(value).map_err(|error| EvalError::new(error.to_string()));
    let now = lookup.now();
    match query {
        DecisionQuery::Count => Ok(net.map_or(0, |net| lookup.ever(net, None))),
        DecisionQuery::CountSince(nanos) => {
            let since = now.checked_sub(jiff::SignedDuration::from_nanos(nanos)).unwrap_or(Timestamp::MIN);
            Ok(net.map_or(0, |net| lookup.ever(net, Some(since))))
        }
        DecisionQuery::Active => net.map(|net| lookup.active(net).0),
        DecisionQuery::TimeLeft => net.map(|net| {
            let left = lookup.active(net).1.map_or(jiff::SignedDuration::ZERO, |end| end.duration_since(now));
            i64::try_from(left.as_nanos()).unwrap_or(i64::MAX)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Past;

    impl Lookup for Past {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn ever(&self, _net: IpNet, since: Option<Timestamp>) -> i64 {
            if since.is_some() { 1 } else { 3 }
        }

        fn active(&self, _net: IpNet) -> (i64, Option<Timestamp>) {
            (2, None)
        }

        fn reputation(&self, ip: &str) -> Reputation {
            match ip {
                "192.0.2.4" => Reputation::Known(serde_json::json!({"scores": {"last_day": {"total": 9}}})),
                "192.0.2.5" => Reputation::Awaited,
                _ => Reputation::Failed("no route".into()),
            }
        }
    }

    fn parse(text: &str) -> Result<Profiles, String> {
        Profiles::parse(&[(Path::new("profiles.yaml"), text)]).map_err(|fault| fault.to_string())
    }

    fn alert(scope: &str, value: &str) -> Alert {
        Alert {
            remediation: true,
            scenario: "acme/ssh".into(),
            events_count: 6,
            source: model::Source { scope: scope.into(), value: value.into(), ..model::Source::default() },
            ..Alert::default()
        }
    }

    /// What is decided, one per decision: remediation, target, duration, origin.
    fn decided(profiles: &str, alert: &Alert) -> Result<Vec<String>, String> {
        let verdict = parse(profiles)?.judge(alert, &Past).map_err(|error| error.to_string())?;
        let line = |d: DecisionBody| {
            let simulated = if d.simulated == Some(true) { " simulated" } else { "" };
            format!("{} {}:{} {} {}{simulated}", d.remediation, d.scope, d.value, d.duration, d.origin)
        };
        let notified = verdict.notifications.into_iter().map(|name| format!("tell {name}"));
        Ok(verdict.decisions.into_iter().map(line).chain(notified).collect())
    }

    #[test]
    fn the_profiles_that_come_along_ban_addresses_and_ranges() {
        // (scope, value, whether the scenario asks for it, decisions)
        let cases: &[(&str, &str, bool, &[&str])] = &[
            ("Ip", "192.0.2.4", true, &["ban Ip:192.0.2.4 4h crowdsec"]),
            ("Range", "192.0.2.0/24", true, &["ban Range:192.0.2.0/24 4h crowdsec"]),
            ("Username", "eve", true, &[]),
            ("Ip", "192.0.2.4", false, &[]),
        ];
        for (scope, value, remediation, decisions) in cases {
            let alert = Alert { remediation: *remediation, ..alert(scope, value) };
            let found = decided(DEFAULT, &alert).expect("they are right");
            assert_eq!(found, *decisions, "{scope} {value}");
        }
    }

    #[test]
    fn profiles_decide_in_order() {
        let yes = "filters: ['true']\n";
        let ban = "decisions: [{type: ban, duration: 1h}]\n";
        let fails = "filters: ['true', 'Alert.Events[7].GetMeta(\"x\") == \"\"']\n";
        let next = "---\nfilters: ['true']\ndecisions: [{type: captcha}]\nnotifications: [mail]\n";
        let captcha = "captcha Ip:192.0.2.4 4h crowdsec";
        let hour = "ban Ip:192.0.2.4 1h crowdsec";
        // (what, profiles, decisions and notifications)
        let cases: Vec<(&str, String, Vec<&str>)> = vec![
            ("the first decides, later ones only tell", format!("{yes}{ban}{next}"), vec![hour, "tell mail"]),
            ("a break ends it", format!("{yes}{ban}on_success: break\n{next}"), vec![hour]),
            ("two true filters decide twice", format!("filters: ['1 == 1', 'true']\n{ban}"), vec![hour, hour]),
            ("no filter never matches", format!("{ban}{next}"), vec![captcha, "tell mail"]),
            ("a profile without decisions leaves them to the next", format!("{yes}{next}"), vec![captcha, "tell mail"]),
            (
                "an error applied",
                format!("{fails}{ban}on_error: apply\nnotifications: [a]\n{next}"),
                vec![captcha, "tell a", "tell mail"],
            ),
            (
                "an error ignored",
                format!("filters: ['Alert.Events[7].GetMeta(\"x\") == \"\"']\n{ban}on_error: ignore\n{next}"),
                vec![captcha, "tell mail"],
            ),
            (
                "an error that breaks after a match",
                format!("{fails}{ban}on_error: break\nnotifications: [a]\n{next}"),
                vec!["tell a"],
            ),
            (
                "scope, origin and simulation of the template",
                format!("{yes}decisions: [{{type: ban, scope: session, origin: shop, simulated: true}}]\n"),
                vec!["ban session:192.0.2.4 4h crowdsec/shop simulated"],
            ),
            (
                "a duration that is computed",
                format!(
                    "{yes}{ban}duration_expr: \"Sprintf('%dm', 30 + 90 * GetDecisionsSinceCount(Alert.GetValue(), '7d'))\"\n"
                ),
                vec!["ban Ip:192.0.2.4 120m crowdsec"],
            ),
            ("a duration that makes no sense", format!("{yes}{ban}duration_expr: '\"soon\"'\n"), vec![hour]),
            (
                "past decisions",
                format!(
                    "filters: ['GetDecisionsCount(Alert.GetValue()) == 3 && GetActiveDecisionsCount(Alert.GetValue()) == 2']\n{ban}"
                ),
                vec![hour],
            ),
        ];
        for (what, profiles, expected) in cases {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(decided(&profiles, &alert("Ip", "192.0.2.4")), Ok(expected), "{what}");
        }
        let error = decided(&format!("name: broken\n{fails}{ban}{next}"), &alert("Ip", "192.0.2.4"));
        assert!(error.is_err_and(|error| error.starts_with("profile `broken`: ")), "an error unhandled fails");
    }

    #[test]
    fn a_profile_that_awaits_a_reputation_is_asked_again() {
        let filter = "filters: ['CrowdsecCTI(Alert.GetValue()).GetMaliciousnessScore() > 0.5']\n";
        let computed = "filters: ['true']\nduration_expr: \"CrowdsecCTI(Alert.GetValue()).GetMaliciousnessScore() > 0.5 ? '9h' : '1h'\"\n";
        let ban = "decisions: [{type: ban, duration: 2h}]\non_error: continue\n";
        let other = "---\nfilters: ['true']\ndecisions: [{type: captcha}]\n";
        let profiles = |first: &str| format!("{first}{ban}{other}");
        let found = |first: &str, value: &str| decided(&profiles(first), &alert("Ip", value));
        assert!(parse(filter).is_ok_and(|profiles| profiles.needs_reputation().is_some()));
        assert!(parse(&profiles(filter)).is_ok_and(|profiles| profiles.needs_reputation().is_none()));
        assert_eq!(found(filter, "192.0.2.4"), Ok(vec!["ban Ip:192.0.2.4 2h crowdsec".into()]));
        assert_eq!(found(filter, "192.0.2.6"), Ok(vec!["captcha Ip:192.0.2.6 4h crowdsec".into()]));
        assert_eq!(found(computed, "192.0.2.4"), Ok(vec!["ban Ip:192.0.2.4 9h crowdsec".into()]));
        assert_eq!(found(computed, "192.0.2.6"), Ok(vec!["ban Ip:192.0.2.6 2h crowdsec".into()]));
        for first in [filter, computed] {
            let error = found(first, "192.0.2.5").expect_err("nothing is decided without the answer");
            assert!(error.contains("the answer is not there yet"), "{error}");
        }
    }

    #[test]
    fn an_alert_that_brings_decisions_keeps_them() {
        let alert = Alert { decisions: Some(vec![DecisionBody::default()]), ..alert("Ip", "192.0.2.4") };
        let profiles = "filters: ['true']\ndecisions: [{type: ban}]\nnotifications: [mail]\n";
        assert_eq!(decided(profiles, &alert), Ok(vec!["tell mail".into()]));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        // (text, beginning of the message)
        let cases = [
            ("", "profiles.yaml: there is no profile"),
            (
                "filters: ['true']\nfilter: []\n",
                "profiles.yaml:2: unknown key in a profile: `filter`\nhint: did you mean `filters`?",
            ),
            ("filters:\n  - 'true'\n  - 'Alert.Nope'\n", "profiles.yaml:3: "),
            ("decisions:\n  - duration: 4h\n", "profiles.yaml:2: `type` is missing in a decision"),
            ("decisions:\n  - type: ban\n    duration: soon\n", "profiles.yaml:3: `duration`: "),
            (
                "on_success: maybe\n",
                "profiles.yaml:1: unknown value of `on_success` `maybe`\nhint: expected one of `continue`, `break`",
            ),
        ];
        for (text, message) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }
}
