//! How expressions see the nouns: one table a structure (spec: expressions 7 and 10, parsers 1).

use std::sync::LazyLock;

use expr::{At, Class, EvalError, IntKind, List, Map, Member, MemberId, Method, MethodId, Object, Type, Value, Vars};
use jiff::Timestamp;

use crate::alert::{Alert, AlertEvent, DecisionBody, Meta, RuntimeAlert, Source};
use crate::fields;

/// Go's zero time, 1 January of year 1, which an event without a time shows.
pub(crate) const ZERO_TIME: Timestamp = Timestamp::constant(-62_135_596_800, 0);

macro_rules! numbers {
    ($kind:ident: $($name:ident = $number:literal),* $(,)?) => { $(pub(crate) const $name: $kind = $kind($number);)* };
}

numbers!(MemberId: EVENT_TYPE = 0, EVENT_EXPECT_MODE = 1, EVENT_WHITELISTED = 2, EVENT_PROCESS = 3, EVENT_TIME = 4,
    EVENT_UNMARSHALED = 5, EVENT_OVERFLOW = 6, EVENT_APPSEC = 7, EVENT_LINE_TIME = 8, EVENT_LINE_PROCESS = 9);
/// The member of `evt` behind which [`fields::UNMARSHALED`] lies, as [`expr::Facts::members`] reports it.
pub const UNMARSHALED_MEMBER: MemberId = EVENT_UNMARSHALED;

numbers!(MethodId: EVENT_GET_TYPE = 0, EVENT_GET_META = 1, EVENT_SET_META = 2, EVENT_SET_PARSED = 3,
    EVENT_PARSE_IP_SOURCES = 4);

fn string() -> Type {
    Type::String
}
fn bool() -> Type {
    Type::Bool
}
fn int() -> Type {
    Type::Int
}
fn time() -> Type {
    Type::Time
}
fn float() -> Type {
    Type::Float
}
fn no_params() -> Vec<Type> {
    Vec::new()
}
fn one_string() -> Vec<Type> {
    vec![Type::String]
}
fn two_strings() -> Vec<Type> {
    vec![Type::String, Type::String]
}
fn string_map() -> Type {
    Type::Map(Box::new(Type::String))
}
fn any_map() -> Type {
    Type::Map(Box::new(Type::Any))
}
fn string_pointer() -> Type {
    Type::Pointer(Box::new(Type::String))
}
fn bool_pointer() -> Type {
    Type::Pointer(Box::new(Type::Bool))
}
fn i32_pointer() -> Type {
    Type::Pointer(Box::new(Type::Sized(IntKind::I32)))
}
fn list(of: Type) -> Type {
    Type::List(Box::new(of))
}
fn pointer(class: &'static Class) -> Type {
    Type::Pointer(Box::new(Type::Class(class)))
}

const fn at(name: &'static str, ty: fn() -> Type, member: u16) -> Member {
    Member { name, ty, at: At::Member(MemberId(member)) }
}
const fn method(name: &'static str, params: fn() -> Vec<Type>, result: fn() -> Type, id: u16) -> Method {
    Method { name, params, result, id: MethodId(id), effect: false }
}

/// `evt`.
pub static EVENT: Class = Class {
    name: "Event",
    members: &[
        Member { name: "Type", ty: int, at: At::Member(EVENT_TYPE) },
        Member { name: "ExpectMode", ty: int, at: At::Member(EVENT_EXPECT_MODE) },
        Member { name: "Whitelisted", ty: bool, at: At::Member(EVENT_WHITELISTED) },
        Member { name: "WhitelistReason", ty: string, at: At::Slot(fields::WHITELIST_REASON) },
        Member { name: "Stage", ty: string, at: At::Slot(fields::STAGE) },
        Member { name: "Line", ty: || Type::Class(&LINE), at: At::Same },
        Member { name: "Parsed", ty: string_map, at: At::Slots(fields::PARSED) },
        Member { name: "Enriched", ty: string_map, at: At::Slots(fields::ENRICHED) },
        Member { name: "Meta", ty: string_map, at: At::Slots(fields::META) },
        Member { name: "Unmarshaled", ty: any_map, at: At::Member(EVENT_UNMARSHALED) },
        Member { name: "Overflow", ty: || Type::Class(&OVERFLOW), at: At::Member(EVENT_OVERFLOW) },
        Member { name: "Time", ty: time, at: At::Member(EVENT_TIME) },
        Member { name: "StrTime", ty: string, at: At::Slot(fields::STR_TIME) },
        Member { name: "StrTimeFormat", ty: string, at: At::Slot(fields::STR_TIME_FORMAT) },
        Member { name: "MarshaledTime", ty: string, at: At::Slot(fields::MARSHALED_TIME) },
        Member { name: "Process", ty: bool, at: At::Member(EVENT_PROCESS) },
        Member { name: "Appsec", ty: || Type::Class(&APPSEC), at: At::Member(EVENT_APPSEC) },
    ],
    methods: &[
        Method { name: "GetType", params: no_params, result: string, id: EVENT_GET_TYPE, effect: false },
        Method { name: "GetMeta", params: one_string, result: string, id: EVENT_GET_META, effect: false },
        Method { name: "SetMeta", params: two_strings, result: bool, id: EVENT_SET_META, effect: true },
        Method { name: "SetParsed", params: two_strings, result: bool, id: EVENT_SET_PARSED, effect: true },
        Method {
            name: "ParseIPSources",
            params: no_params,
            result: || list(Type::Any),
            id: EVENT_PARSE_IP_SOURCES,
            effect: false,
        },
    ],
};

/// An event held by a bucket: an [`EVENT`] by value, whose methods cannot be called.
pub static QUEUED_EVENT: Class = Class { name: "Event", members: EVENT.members, methods: &[] };

/// `evt.Line`.
pub static LINE: Class = Class {
    name: "Line",
    members: &[
        Member { name: "Raw", ty: string, at: At::Slot(fields::LINE_RAW) },
        Member { name: "Src", ty: string, at: At::Slot(fields::LINE_SRC) },
        Member { name: "Time", ty: time, at: At::Member(EVENT_LINE_TIME) },
        Member { name: "Labels", ty: string_map, at: At::Slots(fields::LABELS) },
        Member { name: "Process", ty: bool, at: At::Member(EVENT_LINE_PROCESS) },
        Member { name: "Module", ty: string, at: At::Slot(fields::LINE_MODULE) },
    ],
    methods: &[],
};

/// `evt.Overflow` and `signal`.
pub static OVERFLOW: Class = Class {
    name: "RuntimeAlert",
    members: &[
        at("Mapkey", string, 0),
        at("BucketId", string, 1),
        at("Whitelisted", bool, 2),
        at("Reprocess", bool, 3),
        at("Sources", || Type::Map(Box::new(Type::Class(&SOURCE))), 4),
        at("Alert", || pointer(&ALERT), 5),
        at("APIAlerts", || list(Type::Class(&ALERT_VALUE)), 6),
    ],
    methods: &[method("GetSources", no_params, || list(Type::String), 0)],
};

const ALERT_MEMBERS: &[Member] = &[
    at("Capacity", i32_pointer, 0),
    at("EventsCount", i32_pointer, 1),
    at("Scenario", string_pointer, 2),
    at("ScenarioHash", string_pointer, 3),
    at("ScenarioVersion", string_pointer, 4),
    at("Message", string_pointer, 5),
    at("Leakspeed", string_pointer, 6),
    at("StartAt", string_pointer, 7),
    at("StopAt", string_pointer, 8),
    at("Simulated", bool_pointer, 9),
    at("Remediation", bool, 10),
    at("Source", || pointer(&SOURCE), 11),
    at("Decisions", || list(pointer(&DECISION)), 12),
    at("Events", || list(pointer(&ALERT_EVENT)), 13),
    at("Meta", || list(pointer(&META_ITEM)), 14),
    at("Labels", || list(Type::String), 15),
    at("Kind", string, 16),
    at("CreatedAt", string, 17),
    at("MachineID", string, 18),
    at("UUID", string, 19),
    at("ID", || Type::Sized(IntKind::I64), 20),
];

/// `Alert` in profiles, `evt.Overflow.Alert`.
pub static ALERT: Class = Class {
    name: "Alert",
    members: ALERT_MEMBERS,
    methods: &[
        method("GetScope", no_params, string, 0),
        method("GetValue", no_params, string, 1),
        method("GetScenario", no_params, string, 2),
        method("GetEventsCount", no_params, || Type::Sized(IntKind::I32), 3),
        method("GetMeta", one_string, string, 4),
    ],
};

/// An element of `evt.Overflow.APIAlerts`: an [`ALERT`] by value, whose methods cannot be called.
pub static ALERT_VALUE: Class = Class { name: "Alert", members: ALERT_MEMBERS, methods: &[] };

/// A source.
pub static SOURCE: Class = Class {
    name: "Source",
    members: &[
        at("IP", string, 0),
        at("Range", string, 1),
        at("AsName", string, 2),
        at("AsNumber", string, 3),
        at("Cn", string, 4),
        at("Latitude", float, 5),
        at("Longitude", float, 6),
        at("Scope", string_pointer, 7),
        at("Value", string_pointer, 8),
    ],
    methods: &[
        method("GetValue", no_params, string, 0),
        method("GetScope", no_params, string, 1),
        method("GetAsNumberName", no_params, string, 2),
        method("String", no_params, string, 3),
    ],
};

/// A decision of an alert.
pub static DECISION: Class = Class {
    name: "Decision",
    members: &[
        at("Duration", string_pointer, 0),
        at("Origin", string_pointer, 1),
        at("Scenario", string_pointer, 2),
        at("Scope", string_pointer, 3),
        at("Type", string_pointer, 4),
        at("Value", string_pointer, 5),
        at("Simulated", bool_pointer, 6),
        at("Until", string, 7),
        at("UUID", string, 8),
        at("ID", || Type::Sized(IntKind::I64), 9),
    ],
    methods: &[],
};

/// An event of an alert.
pub static ALERT_EVENT: Class = Class {
    name: "AlertEvent",
    members: &[at("Meta", || list(pointer(&META_ITEM)), 0), at("Timestamp", string_pointer, 1)],
    methods: &[method("GetMeta", one_string, string, 0)],
};

/// A key and a value.
pub static META_ITEM: Class =
    Class { name: "MetaItem", members: &[at("Key", string, 0), at("Value", string, 1)], methods: &[] };

/// `evt.Appsec`. Findings of a web application firewall are not acquired; the members exist so that rules load, and are empty.
pub static APPSEC: Class = Class {
    name: "AppsecEvent",
    members: &[
        at("HasInBandMatches", bool, 0),
        at("HasOutBandMatches", bool, 1),
        at("MatchedRules", || Type::Any, 2),
        at("Vars", string_map, 3),
        at("HookVars", string_map, 4),
    ],
    methods: &[
        method("GetVar", one_string, string, 0),
        method("GetURI", no_params, string, 1),
        method("GetHash", no_params, string, 1),
        method("GetVersion", no_params, string, 1),
        method("GetName", no_params, string, 1),
        method("GetMethod", no_params, string, 1),
        method("GetNames", no_params, || list(Type::String), 2),
        method("GetMatchedZones", no_params, || list(Type::String), 2),
        method("Kinds", no_params, || list(Type::String), 2),
        method("GetRuleIDs", no_params, || list(Type::Int), 3),
        method("ByID", || vec![Type::Int], || Type::Any, 3),
        method("ByKind", one_string, || Type::Any, 3),
        method("BySeverity", one_string, || Type::Any, 3),
        method("ByAccuracy", one_string, || Type::Any, 3),
        method("ByDisruptiveness", || vec![Type::Bool], || Type::Any, 3),
        method("ByTag", one_string, || Type::Any, 3),
        method("ByTags", || vec![list(Type::String)], || Type::Any, 3),
        method("ByTagRx", one_string, || Type::Any, 3),
        method("GetHighestSeverity", no_params, || Type::Sized(IntKind::Severity), 4),
    ],
};

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> Value<'a> {
    Value::List(List::Text(texts.map(Into::into).collect()))
}

fn objects<'a>(objects: impl Iterator<Item = &'a dyn Object>) -> Value<'a> {
    Value::List(List::Typed(objects.map(Value::Object).collect()))
}

fn meta_value<'a>(meta: &'a [Meta], key: Option<&str>) -> Value<'a> {
    let found = meta.iter().find(|meta| Some(meta.key.as_str()) == key);
    Value::text(found.map_or("", |meta| &meta.value))
}

fn unknown_method<'a>() -> Result<Value<'a>, EvalError> {
    Err(EvalError::new("no such method"))
}

impl Object for RuntimeAlert {
    fn class(&self) -> &'static Class {
        &OVERFLOW
    }

    fn entry(&self, map: expr::MapId, key: &str) -> Option<Value<'_>> {
        if map != fields::SOURCES {
            return None;
        }
        self.sources.get(key).map(|source| Value::Object(source))
    }

    fn entries(&self, map: expr::MapId) -> Vec<&str> {
        if map == fields::SOURCES { self.sources.keys().map(String::as_str).collect() } else { Vec::new() }
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        let has_alert = !self.alert.scenario.is_empty();
        match member.0 {
            0 => Value::text(&self.mapkey),
            1 => Value::text(""),
            2 => Value::Bool(self.whitelisted),
            3 => Value::Bool(self.reprocess),
            4 => Value::Map(Map::Object(self, fields::SOURCES)),
            5 if has_alert => Value::Object(&self.alert),
            6 if has_alert => objects(std::iter::once(&self.alert as &dyn Object)),
            6 => Value::List(List::Typed([].into())),
            _ => Value::Nil,
        }
    }

    fn call<'a>(&'a self, _: MethodId, _: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        Ok(texts(self.sources.keys().map(String::as_str)))
    }
}

impl Object for Alert {
    fn class(&self) -> &'static Class {
        &ALERT
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => Value::Sized(self.capacity.into(), IntKind::I32),
            1 => Value::Sized(self.events_count.into(), IntKind::I32),
            2 => Value::text(&self.scenario),
            3 => Value::text(&self.scenario_hash),
            4 => Value::text(&self.scenario_version),
            5 => Value::text(&self.message),
            6 => Value::text(&self.leakspeed),
            7 => Value::text(&self.start_at),
            8 => Value::text(&self.stop_at),
            9 => Value::Bool(self.simulated),
            10 => Value::Bool(self.remediation),
            11 => Value::Object(&self.source),
            12 => objects(self.decisions.iter().flatten().map(|decision| decision as &dyn Object)),
            13 => objects(self.events.iter().map(|event| event as &dyn Object)),
            14 => objects(self.meta.iter().map(|meta| meta as &dyn Object)),
            15 => texts(self.labels.iter().flatten().map(String::as_str)),
            16 => Value::text(&self.kind),
            17 => Value::text(&self.created_at),
            18 => Value::text(&self.machine_id),
            19 => Value::text(&self.uuid),
            20 => Value::Sized(self.id, IntKind::I64),
            _ => Value::Nil,
        }
    }

    fn call<'a>(&'a self, method: MethodId, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        match method.0 {
            0 => Ok(Value::text(&self.source.scope)),
            1 => Ok(Value::text(&self.source.value)),
            2 => Ok(Value::text(&self.scenario)),
            3 => Ok(Value::Sized(self.events_count.into(), IntKind::I32)),
            4 => Ok(meta_value(&self.meta, args.first().and_then(Value::as_str))),
            _ => unknown_method(),
        }
    }
}

impl Object for Source {
    fn class(&self) -> &'static Class {
        &SOURCE
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => Value::text(&self.ip),
            1 => Value::text(&self.range),
            2 => Value::text(&self.as_name),
            3 => Value::text(&self.as_number),
            4 => Value::text(&self.cn),
            5 => Value::Float(self.latitude.into()),
            6 => Value::Float(self.longitude.into()),
            7 => Value::text(&self.scope),
            8 => Value::text(&self.value),
            _ => Value::Nil,
        }
    }

    fn call<'a>(&'a self, method: MethodId, _: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        match method.0 {
            0 => Ok(Value::text(&self.value)),
            1 => Ok(Value::text(&self.scope)),
            2 => Ok(Value::Str(self.as_number_name().into())),
            3 => Ok(Value::Str(format!("{} {}", self.scope, self.value).into())),
            _ => unknown_method(),
        }
    }
}

impl Object for DecisionBody {
    fn class(&self) -> &'static Class {
        &DECISION
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => Value::text(&self.duration),
            1 => Value::text(&self.origin),
            2 => Value::text(&self.scenario),
            3 => Value::text(&self.scope),
            4 => Value::text(&self.remediation),
            5 => Value::text(&self.value),
            6 => self.simulated.map_or(Value::Nil, Value::Bool),
            7 => Value::text(&self.until),
            8 => Value::text(&self.uuid),
            9 => Value::Sized(self.id, IntKind::I64),
            _ => Value::Nil,
        }
    }
}

impl Object for AlertEvent {
    fn class(&self) -> &'static Class {
        &ALERT_EVENT
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => objects(self.meta.iter().map(|meta| meta as &dyn Object)),
            1 => Value::text(&self.timestamp),
            _ => Value::Nil,
        }
    }

    fn call<'a>(&'a self, _: MethodId, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        Ok(meta_value(&self.meta, args.first().and_then(Value::as_str)))
    }
}

impl Object for Meta {
    fn class(&self) -> &'static Class {
        &META_ITEM
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => Value::text(&self.key),
            _ => Value::text(&self.value),
        }
    }
}

/// The findings of an event that has none.
#[derive(Debug)]
struct NoAppsec;

impl Object for NoAppsec {
    fn class(&self) -> &'static Class {
        &APPSEC
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 | 1 => Value::Bool(false),
            2 => Value::List(List::Any([].into())),
            _ => Value::Map(Map::Pairs(&[])),
        }
    }

    fn call<'a>(&'a self, method: MethodId, _: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        Ok(match method.0 {
            0 | 1 => Value::text(""),
            2 => texts(std::iter::empty()),
            4 => Value::Sized(255, IntKind::Severity),
            _ => Value::List(List::Any([].into())),
        })
    }
}

pub(crate) fn no_overflow() -> &'static RuntimeAlert {
    static NONE: LazyLock<RuntimeAlert> = LazyLock::new(RuntimeAlert::default);
    &NONE
}

pub(crate) fn no_appsec() -> &'static dyn Object {
    static NONE: NoAppsec = NoAppsec;
    &NONE
}

/// The variables of filters, groupby, statics and whitelists: `evt`.
pub fn event_vars() -> Vars {
    Vars { names: vec![("evt", Type::Class(&EVENT))] }
}

/// The variables of profiles: `Alert`.
pub fn alert_vars() -> Vars {
    Vars { names: vec![("Alert", pointer(&ALERT))] }
}
