//! A small event with the shape of the real one, and a world without clocks and files.

use std::cell::RefCell;
use std::net::IpAddr;

use expr::files::{FileKind, Files};
use expr::{
    At, Class, DecisionQuery, Env, EvalError, FieldId, Fields, Geo, Host, HttpAnswer, Map, MapId, Member, MemberId,
    Method, MethodId, Object, Stored, Type, Value, Vars,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Numbers the fields of the test event.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: Vec<(MapId, String)>,
}

impl Names {
    /// The name behind a number.
    pub(crate) fn name(&self, field: FieldId) -> Option<&(MapId, String)> {
        self.names.get((field.0 as usize).checked_sub(100)?)
    }

    /// All names in the order of their numbers.
    pub(crate) fn all(self) -> Vec<(MapId, String)> {
        self.names
    }
}

impl Fields for Names {
    fn intern(&mut self, map: MapId, key: &str) -> FieldId {
        let at = self.names.iter().position(|(known, name)| (*known, name.as_str()) == (map, key));
        let at = at.unwrap_or_else(|| {
            self.names.push((map, key.to_owned()));
            self.names.len() - 1
        });
        FieldId(at as u32 + 100)
    }
}

pub(crate) const PARSED: MapId = MapId(0);
pub(crate) const META: MapId = MapId(1);
const UNMARSHALED: MapId = MapId(2);
const SOURCES: MapId = MapId(3);
const RAW: FieldId = FieldId(1);

/// One event: what a test wants to see, the rest empty.
#[derive(Default)]
pub(crate) struct Event {
    pub raw: String,
    pub parsed: Vec<(String, String)>,
    pub meta: elsa::FrozenVec<Box<(String, String)>>,
    pub unmarshaled: serde_json::Value,
    pub stored: elsa::FrozenVec<Box<(String, StoredValue)>>,
    pub time: Timestamp,
    pub alert: Option<Box<Alert>>,
    pub names: RefCell<Vec<(MapId, String)>>,
}

#[derive(Debug)]
pub(crate) enum StoredValue {
    Json(serde_json::Value),
    Pairs(Vec<(String, String)>),
}

/// An alert behind a pointer.
#[derive(Debug, Default)]
pub(crate) struct Alert {
    pub scenario: Option<String>,
    pub events_count: i64,
    pub source: Option<Box<Source>>,
}

/// The source of an alert.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub ip: String,
}

macro_rules! member {
    ($name:literal, $ty:expr, $at:expr) => {
        Member { name: $name, ty: || $ty, at: $at }
    };
}

fn text() -> Type {
    Type::String
}

pub(crate) static EVENT: Class = Class {
    name: "Event",
    members: &[
        member!("Parsed", Type::Map(Box::new(Type::String)), At::Slots(PARSED)),
        member!("Meta", Type::Map(Box::new(Type::String)), At::Slots(META)),
        member!("Line", Type::Class(&LINE), At::Same),
        member!("Unmarshaled", Type::Map(Box::new(Type::Any)), At::Member(MemberId(0))),
        member!("Time", Type::Time, At::Member(MemberId(1))),
        member!("Overflow", Type::Class(&OVERFLOW), At::Same),
        member!("Type", Type::Int, At::Member(MemberId(4))),
    ],
    methods: &[
        Method { name: "GetMeta", params: || vec![Type::String], result: text, id: MethodId(0), effect: false },
        Method {
            name: "SetMeta",
            params: || vec![Type::String, Type::String],
            result: || Type::Bool,
            id: MethodId(1),
            effect: true,
        },
    ],
};

static LINE: Class = Class { name: "Line", members: &[member!("Raw", Type::String, At::Slot(RAW))], methods: &[] };

static OVERFLOW: Class = Class {
    name: "RuntimeAlert",
    members: &[
        member!("Alert", Type::Pointer(Box::new(Type::Class(&ALERT))), At::Member(MemberId(2))),
        member!("Sources", Type::Map(Box::new(Type::Class(&SOURCE))), At::Member(MemberId(3))),
    ],
    methods: &[],
};

static ALERT: Class = Class {
    name: "Alert",
    members: &[
        member!("Scenario", Type::Pointer(Box::new(Type::String)), At::Member(MemberId(0))),
        member!("EventsCount", Type::Pointer(Box::new(Type::Sized(expr::IntKind::I32))), At::Member(MemberId(1))),
        member!("Source", Type::Pointer(Box::new(Type::Class(&SOURCE))), At::Member(MemberId(2))),
    ],
    methods: &[Method { name: "GetScenario", params: Vec::new, result: text, id: MethodId(0), effect: false }],
};

static SOURCE: Class = Class {
    name: "Source",
    members: &[member!("IP", Type::String, At::Member(MemberId(0)))],
    methods: &[Method { name: "GetScope", params: Vec::new, result: text, id: MethodId(0), effect: false }],
};

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}

impl Event {
    fn find(&self, map: MapId, key: &str) -> Option<&str> {
        let parsed = || self.parsed.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
        let meta = || self.meta.iter().filter(|pair| pair.0 == key).last().map(|pair| pair.1.as_str());
        if map == PARSED { parsed() } else { meta() }
    }
}

impl Object for Event {
    fn class(&self) -> &'static Class {
        &EVENT
    }

    fn slot(&self, field: FieldId) -> Option<&str> {
        if field == RAW {
            return Some(&self.raw);
        }
        let names = self.names.borrow();
        let (map, key) = names.get(field.0 as usize - 100)?;
        self.find(*map, key)
    }

    fn slot_named(&self, map: MapId, key: &str) -> Option<&str> {
        self.find(map, key)
    }

    fn slots(&self, map: MapId) -> Vec<(&str, &str)> {
        let mut all: Vec<(&str, &str)> = if map == PARSED {
            self.parsed.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
        } else {
            self.meta.iter().map(|pair| (pair.0.as_str(), pair.1.as_str())).collect()
        };
        all.sort_unstable();
        all
    }

    fn entry(&self, map: MapId, key: &str) -> Option<Value<'_>> {
        static NOBODY: Source = Source { ip: String::new() };
        if map == SOURCES {
            return Some(Value::Object(&NOBODY));
        }
        let stored = self.stored.iter().filter(|pair| pair.0 == key).last();
        if let Some((_, stored)) = stored {
            return Some(match stored {
                StoredValue::Json(value) => Value::json(value),
                StoredValue::Pairs(pairs) => Value::Map(Map::Text(
                    pairs.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
                )),
            });
        }
        self.unmarshaled.get(key).map(Value::json)
    }

    fn entries(&self, map: MapId) -> Vec<&str> {
        if map == SOURCES {
            return Vec::new();
        }
        self.unmarshaled.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    fn store(&self, _: MapId, key: &str, value: Stored) -> Result<(), EvalError> {
        let value = match value {
            Stored::Json(value) => StoredValue::Json(value),
            Stored::Pairs(pairs) => StoredValue::Pairs(pairs),
        };
        self.stored.push(Box::new((key.to_owned(), value)));
        Ok(())
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => Value::Map(Map::Object(self, UNMARSHALED)),
            1 => Value::Time(self.time, TimeZone::UTC),
            2 => self.alert.as_ref().map_or(Value::Nil, |alert| Value::Object(&**alert)),
            3 => Value::Map(Map::Object(self, SOURCES)),
            _ => Value::Int(0),
        }
    }

    fn call<'a>(&'a self, method: MethodId, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        let text = |at: usize| args[at].as_str().unwrap_or_default().to_owned();
        if method.0 == 0 {
            return Ok(Value::text(self.find(META, &text(0)).unwrap_or("")));
        }
        self.meta.push(Box::new((text(0), text(1))));
        Ok(Value::Bool(true))
    }
}

impl Object for Alert {
    fn class(&self) -> &'static Class {
        &ALERT
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => self.scenario.as_deref().map_or(Value::Nil, Value::text),
            1 => Value::Sized(self.events_count, expr::IntKind::I32),
            _ => self.source.as_ref().map_or(Value::Nil, |source| Value::Object(&**source)),
        }
    }

    fn call<'a>(&'a self, _: MethodId, _: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        Ok(Value::text(self.scenario.as_deref().unwrap_or("")))
    }
}

impl Object for Source {
    fn class(&self) -> &'static Class {
        &SOURCE
    }

    fn member(&self, _: MemberId) -> Value<'_> {
        Value::text(&self.ip)
    }

    fn call<'a>(&'a self, _: MethodId, _: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        Ok(Value::text("Ip"))
    }
}

/// The event of the worked results with an alert in it.
pub(crate) fn sample_alert() -> Event {
    let source = Some(Box::new(Source { ip: "192.0.2.7".into() }));
    let alert = Alert { scenario: Some("team/ssh-bf".into()), events_count: 6, source };
    Event { alert: Some(Box::new(alert)), ..sample() }
}

/// The world of the tests.
#[derive(Debug)]
pub(crate) struct World {
    files: Files,
}

impl Default for World {
    fn default() -> Self {
        let mut files = Files::default();
        let contents: [(&str, FileKind, &str); 4] = [
            ("words", FileKind::Text, "evil\nWorse\n# no\n"),
            ("agents", FileKind::Regex, "(?i)scan\\w+\n^curl/\n"),
            (
                "tags",
                FileKind::Map,
                r#"{"pattern": "/admin", "tag": "admin", "type": "equals"}
{"pattern": "wp-", "tag": "wordpress", "type": "contains", "note": "x"}
{"pattern": "^/x[0-9]+$", "tag": "x", "type": "regex"}"#,
            ),
            (
                "bots",
                FileKind::Bots,
                r#"{"name": "crawler", "user_agent": "crawl", "paths": ["^/robots"], "ips": ["192.0.2.1"], "ranges": ["2001:db8::/32"]}
{"name": "named", "rdns": ["\\.bot\\.example$"]}"#,
            ),
        ];
        for (name, kind, content) in contents {
            assert_eq!(files.add(name, kind, content.as_bytes()), Ok(()), "{name}");
        }
        Self { files }
    }
}

impl Host for World {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap_or_default()
    }

    fn files(&self) -> &Files {
        &self.files
    }

    fn stash(&self, cache: &str, key: &str) -> Option<String> {
        (cache == "users" && key == "k").then(|| "root".to_owned())
    }

    fn geo(&self, kind: Geo, ip: IpAddr) -> Option<serde_json::Value> {
        if ip.to_string() != "203.0.113.9" {
            return None;
        }
        Some(match kind {
            Geo::City => serde_json::json!({
                "country": {"iso_code": "FR", "is_in_european_union": true, "names": {"en": "France"}},
                "location": {"latitude": 48.5},
                "subdivisions": [{"iso_code": "IDF"}],
            }),
            Geo::Asn => {
                serde_json::json!({"autonomous_system_number": 64496, "autonomous_system_organization": "Example"})
            }
            Geo::Range => "203.0.113.0/24".into(),
        })
    }

    fn lookup_host(&self, name: &str) -> Vec<String> {
        if name == "a.bot.example" { vec!["203.0.113.9".to_owned()] } else { Vec::new() }
    }

    fn lookup_addr(&self, ip: IpAddr) -> Vec<String> {
        if ip.is_ipv4() { vec!["x.other.example".to_owned(), "A.bot.example.".to_owned()] } else { Vec::new() }
    }

    fn decisions(&self, query: DecisionQuery, value: &str) -> Option<Result<i64, EvalError>> {
        match (value, query) {
            ("203.0.113.9", DecisionQuery::Count) => Some(Ok(3)),
            ("203.0.113.9", DecisionQuery::CountSince(nanos)) => Some(Ok(nanos / 3_600_000_000_000)),
            ("203.0.113.9", DecisionQuery::Active) => Some(Ok(1)),
            ("203.0.113.9", DecisionQuery::TimeLeft) => Some(Ok(60_000_000_000)),
            ("bad", _) => Some(Err(EvalError::new("not an address"))),
            _ => None,
        }
    }

    fn reputation(&self, ip: &str) -> Result<serde_json::Value, EvalError> {
        if ip != "203.0.113.9" {
            return Err(EvalError::new("no answer"));
        }
        Ok(serde_json::json!({
            "ip": ip,
            "background_noise_score": 4,
            "scores": {"last_day": {"total": 3}, "overall": {"threat": 2}},
            "behaviors": [{"name": "ssh:bruteforce"}],
            "classifications": {"false_positives": [], "classifications": [{"name": "profile:tor"}]},
            "cves": ["CVE-1"],
        }))
    }

    fn http(&self, method: &str, url: &str, headers: &[(String, String)], body: &str) -> Result<HttpAnswer, EvalError> {
        if !url.starts_with("http://known") {
            return Err(EvalError::new("no route"));
        }
        let headers = headers.iter().map(|(name, value)| (name.clone(), vec![value.clone()])).collect();
        Ok(HttpAnswer { status: 200, body: format!("{method} {url} {body}"), headers })
    }
}

/// The one variable of most expressions.
pub(crate) fn vars() -> Vars {
    Vars { names: vec![("evt", Type::Pointer(Box::new(Type::Class(&EVENT))))] }
}

/// The event of the worked results.
pub(crate) fn sample() -> Event {
    Event {
        raw: "hello".into(),
        parsed: vec![("a".into(), "x".into()), ("n".into(), "42".into())],
        unmarshaled: serde_json::json!({"j": {"f": 1.0, "s": "str", "b": true, "arr": ["p", 2.0], "nul": null}}),
        ..Event::default()
    }
}

/// What an expression does: `value`, `load: message` or `run: message`.
pub(crate) fn outcome(source: &str, event: &Event, world: &World) -> String {
    let mut names = Names::default();
    let program = match expr::Compiler::new(&mut names).compile(source, &vars()) {
        Ok(program) => program,
        Err(error) => return format!("load: {error}"),
    };
    event.names.replace(names.all());
    let vars = [Value::Object(event)];
    let env = Env { vars: &vars, host: world, memo: None };
    match program.eval(&env) {
        Ok(value) => show(&value),
        Err(error) => format!("run: {error}"),
    }
}

/// A value as the tables write it.
pub(crate) fn show(value: &Value<'_>) -> String {
    match value {
        Value::Nil => "nil".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) | Value::Sized(value, _) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Str(text) => format!("{text:?}"),
        Value::Bytes(bytes) => format!("b{bytes:?}"),
        Value::List(list) => format!("[{}]", list.iter().map(|item| show(&item)).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            let mut pairs: Vec<String> =
                map.entries().iter().map(|(key, value)| format!("{}: {}", show(key), show(value))).collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Object(object) => object.class().name.into(),
        Value::Made(object) => object.class().name.into(),
        Value::Time(time, _) => time.to_string(),
        Value::Duration(nanos) => format!("{nanos}ns"),
        Value::Zone(_) => "zone".into(),
    }
}
