//! Structures over JSON: records of geo databases, reputation items, answers of pages.
//!
//! A class says which members there are; each is found under its name in lower case with
//! underscores, and reads as the zero value of its type when it is missing.

use std::borrow::Cow;
use std::rc::Rc;

use serde_json::Value as Json;

use crate::env::Object;
use crate::error::EvalError;
use crate::program::Outcome;
use crate::types::{At, Class, IntKind, Member, MemberId, Method, MethodId, Type};
use crate::value::{List, Map, Value};

/// A pointer to a structure of this class.
pub(crate) fn pointer(class: &'static Class) -> Type {
    Type::Pointer(Box::new(Type::Class(class)))
}

/// A structure of `class` over `json`.
pub(crate) fn made<'a>(class: &'static Class, json: Json) -> Value<'a> {
    Value::Made(Rc::new(Record { class, json }))
}

#[derive(Debug)]
struct Record {
    class: &'static Class,
    json: Json,
}

macro_rules! members {
    ($($index:literal $name:literal $ty:expr),* $(,)?) => {
        &[$(Member { name: $name, ty: || $ty, at: At::Member(MemberId($index)) }),*]
    };
}

fn texts() -> Type {
    Type::List(Box::new(Type::String))
}

fn names() -> Type {
    Type::Map(Box::new(Type::String))
}

fn wide() -> Type {
    Type::Sized(IntKind::I64)
}

fn list(class: &'static Class) -> Type {
    Type::List(Box::new(Type::Class(class)))
}

/// What a city database says.
pub(crate) static CITY: Class = Class {
    name: "*geoip2.City",
    members: members![
        0 "City" Type::Class(&PLACE),
        1 "Postal" Type::Class(&POSTAL),
        2 "Continent" Type::Class(&PLACE),
        3 "Subdivisions" list(&PLACE),
        4 "Country" Type::Class(&PLACE),
        5 "RegisteredCountry" Type::Class(&PLACE),
        6 "RepresentedCountry" Type::Class(&PLACE),
        7 "Location" Type::Class(&LOCATION),
        8 "Traits" Type::Class(&TRAITS),
    ],
    methods: &[],
};

static PLACE: Class = Class {
    name: "geoip2.Place",
    members: members![
        0 "Names" names(),
        1 "Code" Type::String,
        2 "IsoCode" Type::String,
        3 "Type" Type::String,
        4 "GeoNameID" wide(),
        5 "IsInEuropeanUnion" Type::Bool,
    ],
    methods: &[],
};

static POSTAL: Class = Class { name: "geoip2.Postal", members: members![0 "Code" Type::String], methods: &[] };

static LOCATION: Class = Class {
    name: "geoip2.Location",
    members: members![
        0 "TimeZone" Type::String,
        1 "Latitude" Type::Float,
        2 "Longitude" Type::Float,
        3 "MetroCode" wide(),
        4 "AccuracyRadius" wide(),
    ],
    methods: &[],
};

static TRAITS: Class = Class {
    name: "geoip2.Traits",
    members: members![
        0 "IsAnonymousProxy" Type::Bool,
        1 "IsSatelliteProvider" Type::Bool,
        2 "IsAnycast" Type::Bool,
    ],
    methods: &[],
};

/// What a database of autonomous systems says.
pub(crate) static ASN: Class = Class {
    name: "*geoip2.ASN",
    members: members![0 "AutonomousSystemOrganization" Type::String, 1 "AutonomousSystemNumber" wide()],
    methods: &[],
};

/// The network of a record, a JSON text.
pub(crate) static NETWORK: Class = Class {
    name: "*net.IPNet",
    members: &[],
    methods: &[Method { name: "String", params: Vec::new, result: || Type::String, id: TEXT, effect: false }],
};

/// What the reputation service says of an address.
pub(crate) static REPUTATION: Class = Class {
    name: "*cticlient.SmokeItem",
    members: members![
        0 "Ip" Type::String,
        1 "IpRange" Type::String,
        2 "IpRangeScore" wide(),
        3 "AsName" Type::String,
        4 "AsNum" wide(),
        5 "Reputation" Type::String,
        6 "Confidence" Type::String,
        7 "BackgroundNoise" Type::String,
        8 "BackgroundNoiseScore" wide(),
        9 "ReverseDNS" Type::String,
        10 "Location" Type::Class(&WHEREABOUTS),
        11 "History" Type::Class(&HISTORY),
        12 "Scores" Type::Class(&SCORES),
        13 "Behaviors" list(&LABEL),
        14 "AttackDetails" list(&LABEL),
        15 "Classifications" Type::Class(&CLASSIFICATIONS),
        16 "References" list(&LABEL),
        17 "MitreTechniques" list(&LABEL),
        18 "CVEs" texts(),
        19 "TargetCountries" Type::Map(Box::new(Type::Any)),
    ],
    methods: &[
        Method { name: "GetAttackDetails", params: Vec::new, result: texts, id: ATTACK_DETAILS, effect: false },
        Method { name: "GetBehaviors", params: Vec::new, result: texts, id: BEHAVIORS, effect: false },
        Method { name: "GetClassifications", params: Vec::new, result: texts, id: CLASSES, effect: false },
        Method { name: "GetFalsePositives", params: Vec::new, result: texts, id: FALSE_POSITIVES, effect: false },
        Method { name: "GetMaliciousnessScore", params: Vec::new, result: || Type::Float, id: MALICE, effect: false },
        Method { name: "GetBackgroundNoiseScore", params: Vec::new, result: || Type::Int, id: NOISE, effect: false },
        Method {
            name: "IsPartOfCommunityBlocklist",
            params: Vec::new,
            result: || Type::Bool,
            id: BLOCKLIST,
            effect: false,
        },
        Method {
            name: "IsFalsePositive",
            params: Vec::new,
            result: || Type::Bool,
            id: IS_FALSE_POSITIVE,
            effect: false,
        },
    ],
};

static LABEL: Class = Class {
    name: "cticlient.Label",
    members: members![0 "Name" Type::String, 1 "Label" Type::String, 2 "Description" Type::String],
    methods: &[],
};

static CLASSIFICATIONS: Class = Class {
    name: "cticlient.Classifications",
    members: members![0 "FalsePositives" list(&LABEL), 1 "Classifications" list(&LABEL)],
    methods: &[],
};

static WHEREABOUTS: Class = Class {
    name: "cticlient.Location",
    members: members![
        0 "Country" Type::String,
        1 "City" Type::String,
        2 "Latitude" Type::Float,
        3 "Longitude" Type::Float,
    ],
    methods: &[],
};

static HISTORY: Class = Class {
    name: "cticlient.History",
    members: members![
        0 "FirstSeen" Type::String,
        1 "LastSeen" Type::String,
        2 "FullAge" wide(),
        3 "DaysAge" wide(),
    ],
    methods: &[],
};

static SCORES: Class = Class {
    name: "cticlient.Scores",
    members: members![
        0 "Overall" Type::Class(&SCORE),
        1 "LastDay" Type::Class(&SCORE),
        2 "LastWeek" Type::Class(&SCORE),
        3 "LastMonth" Type::Class(&SCORE),
    ],
    methods: &[],
};

static SCORE: Class = Class {
    name: "cticlient.Score",
    members: members![
        0 "Aggressiveness" wide(),
        1 "Threat" wide(),
        2 "Trust" wide(),
        3 "Anomaly" wide(),
        4 "Total" wide(),
    ],
    methods: &[],
};

/// What a page answered.
pub(crate) static ANSWER: Class = Class {
    name: "*HTTPResponse",
    members: members![
        0 "StatusCode" Type::Int,
        1 "Body" Type::String,
        2 "Headers" Type::Map(Box::new(texts())),
    ],
    methods: &[],
};

const TEXT: MethodId = MethodId(0);
const ATTACK_DETAILS: MethodId = MethodId(1);
const BEHAVIORS: MethodId = MethodId(2);
const CLASSES: MethodId = MethodId(3);
const FALSE_POSITIVES: MethodId = MethodId(4);
const MALICE: MethodId = MethodId(5);
const NOISE: MethodId = MethodId(6);
const BLOCKLIST: MethodId = MethodId(7);
const IS_FALSE_POSITIVE: MethodId = MethodId(8);

/// The key under which the member `name` is found.
fn key(name: &str) -> String {
    match name {
        "GeoNameID" => "geoname_id".to_owned(),
        "ReverseDNS" => "reverse_dns".to_owned(),
        "CVEs" => "cves".to_owned(),
        name => {
            let mut key = String::with_capacity(name.len() + 4);
            for c in name.chars() {
                if c.is_ascii_uppercase() && !key.is_empty() {
                    key.push('_');
                }
                key.push(c.to_ascii_lowercase());
            }
            key
        }
    }
}

impl Record {
    fn labels(&self, path: &[&str]) -> Vec<String> {
        let found = path.iter().try_fold(&self.json, |json, key| json.get(key)).and_then(Json::as_array);
        let name = |label: &Json| label.get("name").and_then(Json::as_str).map(str::to_owned);
        found.map(|labels| labels.iter().filter_map(name).collect()).unwrap_or_default()
    }

    fn in_blocklist(&self) -> bool {
        self.labels(&["classifications", "classifications"]).iter().any(|name| name == "community-blocklist")
    }
}

impl Object for Record {
    fn class(&self) -> &'static Class {
        self.class
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        let Some(member) = self.class.members.get(usize::from(member.0)) else { return Value::Nil };
        convert(&(member.ty)(), self.json.get(key(member.name)))
    }

    fn call<'a>(&'a self, method: MethodId, _: &[Value<'a>]) -> Outcome<Value<'a>> {
        let texts = |path: &[&str]| Ok(Value::texts(self.labels(path).into_iter().map(Cow::Owned)));
        match method {
            TEXT => Ok(Value::text(self.json.as_str().unwrap_or(""))),
            ATTACK_DETAILS => texts(&["attack_details"]),
            BEHAVIORS => texts(&["behaviors"]),
            CLASSES => texts(&["classifications", "classifications"]),
            FALSE_POSITIVES => texts(&["classifications", "false_positives"]),
            MALICE => {
                let total = self.json.pointer("/scores/last_day/total").and_then(Json::as_f64).unwrap_or(0.0);
                Ok(Value::Float(if self.in_blocklist() { 1.0 } else { total.max(0.0) / 10.0 }))
            }
            NOISE => Ok(Value::Int(self.json.get("background_noise_score").and_then(Json::as_i64).unwrap_or(0))),
            BLOCKLIST => Ok(Value::Bool(self.in_blocklist())),
            IS_FALSE_POSITIVE => Ok(Value::Bool(!self.labels(&["classifications", "false_positives"]).is_empty())),
            _ => Err(EvalError::new("no such method")),
        }
    }
}

/// The value of type `ty` that `json` stands for, the zero value if it is missing or another.
fn convert<'a>(ty: &Type, json: Option<&'a Json>) -> Value<'a> {
    match ty {
        Type::String => Value::text(json.and_then(Json::as_str).unwrap_or("")),
        Type::Bool => Value::Bool(json.and_then(Json::as_bool).unwrap_or(false)),
        Type::Int => Value::Int(json.and_then(Json::as_i64).unwrap_or(0)),
        Type::Sized(kind) => Value::Sized(json.and_then(Json::as_i64).unwrap_or(0), *kind),
        Type::Float => Value::Float(json.and_then(Json::as_f64).unwrap_or(0.0)),
        Type::Class(class) => made(class, json.cloned().unwrap_or(Json::Null)),
        Type::List(inner) => {
            let items = json.and_then(Json::as_array).into_iter().flatten();
            let values: Vec<Value<'a>> = items.map(|item| convert(inner, Some(item))).collect();
            if **inner != Type::String {
                return Value::List(List::Typed(values.into()));
            }
            Value::texts(values.into_iter().filter_map(|value| match value {
                Value::Str(text) => Some(text),
                _ => None,
            }))
        }
        Type::Map(inner) => {
            let pairs = json.and_then(Json::as_object).into_iter().flatten();
            match &**inner {
                Type::String => Value::Map(Map::Text(
                    pairs.filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into()))).collect(),
                )),
                Type::List(_) => Value::Map(Map::Texts(
                    pairs
                        .map(|(key, value)| {
                            let values = value.as_array().into_iter().flatten();
                            (key.as_str().into(), values.filter_map(|value| Some(value.as_str()?.into())).collect())
                        })
                        .collect(),
                )),
                _ => {
                    Value::Map(Map::Any(pairs.map(|(key, value)| (key.as_str().into(), Value::json(value))).collect()))
                }
            }
        }
        _ => Value::Nil,
    }
}
