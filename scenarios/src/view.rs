//! How expressions see a bucket: `queue`, `leaky`, and the empty `match` and `req` of alert context.

use std::rc::Rc;

use expr::{At, Class, EvalError, List, Map, Member, MemberId, Method, MethodId, Object, Type, Value, Vars};
use jiff::tz::TimeZone;
use model::{Record, classes};

use crate::bucket::{Moment, Tally, timestamp};
use crate::key;
use crate::scenario::Scenario;
use crate::slab::View;

/// The variables of `condition` and of bayesian conditions.
pub(crate) fn queue_vars() -> Vars {
    Vars { names: vec![("evt", Type::Class(&classes::EVENT)), ("queue", pointer(&QUEUE)), ("leaky", pointer(&LEAKY))] }
}

/// The variables of `overflow_filter`; `evt` is nothing at run time.
pub(crate) fn overflow_vars() -> Vars {
    let mut vars = queue_vars();
    vars.names.push(("signal", pointer(&classes::OVERFLOW)));
    vars
}

/// The variables of alert context.
pub(crate) fn context_vars() -> Vars {
    Vars {
        names: vec![
            ("evt", Type::Class(&classes::EVENT)),
            ("match", Type::Map(Box::new(Type::Any))),
            ("req", pointer(&REQUEST)),
        ],
    }
}

fn pointer(class: &'static Class) -> Type {
    Type::Pointer(Box::new(Type::Class(class)))
}
fn string() -> Type {
    Type::String
}
fn int() -> Type {
    Type::Int
}
fn time() -> Type {
    Type::Time
}
fn no_params() -> Vec<Type> {
    Vec::new()
}
fn events() -> Type {
    Type::List(Box::new(Type::Class(&classes::QUEUED_EVENT)))
}

const fn at(name: &'static str, ty: fn() -> Type, member: u16) -> Member {
    Member { name, ty, at: At::Member(MemberId(member)) }
}

const fn method(name: &'static str, params: fn() -> Vec<Type>, result: fn() -> Type, id: u16) -> Method {
    Method { name, params, result, id: MethodId(id), effect: false }
}

/// `queue.Queue`.
const EVENTS: MemberId = MemberId(0);

/// `queue`.
static QUEUE: Class = Class {
    name: "Queue",
    members: &[at("Queue", events, EVENTS.0), at("L", int, 1)],
    methods: &[method("GetQueue", no_params, events, 0)],
};

/// `leaky`.
static LEAKY: Class = Class {
    name: "Leaky",
    members: &[
        at("Mapkey", string, 0),
        at("Uuid", string, 1),
        at("Total_count", int, 2),
        at("First_ts", time, 3),
        at("Last_ts", time, 4),
        at("Ovflw_ts", time, 5),
        at("Duration", || Type::Duration, 6),
        at("Queue", || pointer(&QUEUE), 7),
        at("Mode", int, 8),
    ],
    methods: &[],
};

/// `req`: requests are not acquired; the members exist so that contexts load, and are empty.
static REQUEST: Class = Class {
    name: "Request",
    members: &[
        at("Method", string, 0),
        at("Host", string, 0),
        at("Proto", string, 0),
        at("RemoteAddr", string, 0),
        at("RequestURI", string, 0),
        at("ContentLength", || Type::Sized(expr::IntKind::I64), 1),
        at("Header", || Type::Map(Box::new(Type::List(Box::new(Type::String)))), 2),
        at("URL", || pointer(&URL), 3),
    ],
    methods: &[method("UserAgent", no_params, string, 0), method("Referer", no_params, string, 0)],
};

/// `req.URL`, likewise.
static URL: Class = Class {
    name: "URL",
    members: &[
        at("Path", string, 0),
        at("RawQuery", string, 0),
        at("Host", string, 0),
        at("Scheme", string, 0),
        at("Fragment", string, 0),
    ],
    methods: &[method("String", no_params, string, 0)],
};

/// The events that a bucket holds, oldest first. Conditions ask at each pour, most of them for the last few: nothing is
/// listed.
#[derive(Debug)]
pub(crate) struct QueueView<'a> {
    pub(crate) events: Events<'a>,
    /// What expressions are told about how many it may hold (`queue.L`).
    pub(crate) size: i32,
}

/// Where the events are.
#[derive(Debug)]
pub(crate) enum Events<'a> {
    Held(View<'a>),
    Listed(&'a [&'a Record]),
}

impl Object for QueueView<'_> {
    fn class(&self) -> &'static Class {
        &QUEUE
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => Value::List(List::Object(self, EVENTS)),
            _ => Value::Int(self.size.into()),
        }
    }

    fn count(&self, _: MemberId) -> usize {
        match &self.events {
            Events::Held(view) => view.len(),
            Events::Listed(events) => events.len(),
        }
    }

    fn element(&self, _: MemberId, index: usize) -> Option<Value<'_>> {
        let record = match &self.events {
            Events::Held(view) => view.get(index)?,
            Events::Listed(events) => *events.get(index)?,
        };
        Some(Value::Object(record))
    }

    fn call<'a>(&'a self, _: MethodId, _: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        Ok(Value::List(List::Object(self, EVENTS)))
    }
}

/// A bucket.
#[derive(Debug)]
pub(crate) struct LeakyView<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) group: &'a str,
    pub(crate) tally: Tally,
    pub(crate) overflowed: Option<Moment>,
    pub(crate) queue: &'a QueueView<'a>,
    pub(crate) replay: bool,
}

impl Object for LeakyView<'_> {
    fn class(&self) -> &'static Class {
        &LEAKY
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        let time = |moment: Moment| Value::Time(timestamp(moment.nanos), TimeZone::UTC);
        match member.0 {
            0 => Value::Str(key::mapkey(self.scenario.filter.source(), self.group, &self.scenario.name).into()),
            // The reference names buckets at random; a name that is the same in every run is as good.
            1 => Value::text(self.group),
            2 => Value::Int(self.tally.count.into()),
            3 => time(self.tally.first()),
            4 => time(self.tally.last()),
            5 => time(self.overflowed.unwrap_or_default()),
            6 => Value::Duration(self.scenario.lifetime.map_or(0, |lifetime| lifetime.span)),
            7 => Value::Object(self.queue),
            _ => Value::Int(self.replay.into()),
        }
    }
}

/// The request of an event that has none.
#[derive(Debug)]
pub(crate) struct NoRequest;

/// The address of a request that is none.
#[derive(Debug)]
struct NoUrl;

impl Object for NoRequest {
    fn class(&self) -> &'static Class {
        &REQUEST
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        match member.0 {
            0 => Value::text(""),
            1 => Value::Sized(0, expr::IntKind::I64),
            2 => Value::Map(Map::Texts(Rc::from([]))),
            _ => Value::Object(&NoUrl),
        }
    }

    fn call<'a>(&'a self, _: MethodId, _: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        Ok(Value::text(""))
    }
}

impl Object for NoUrl {
    fn class(&self) -> &'static Class {
        &URL
    }

    fn member(&self, _: MemberId) -> Value<'_> {
        Value::text("")
    }

    fn call<'a>(&'a self, _: MethodId, _: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
        Ok(Value::text(""))
    }
}
