//! How expressions see an event that was put away: what assertions of hub tests look at.

use expr::{Class, FieldId, MapId, MemberId, MethodId, Object, Value};

use crate::classes;
use crate::event::{EventDump, EventKind, stored_value};
use crate::fields::{self, FieldTable};
use crate::time::EventTime;

/// A dumped event under the numbering of some rule set.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The event.
    pub event: &'a EventDump,
    /// The numbering.
    pub table: &'a FieldTable,
}

impl Shown<'_> {
    fn map(&self, map: MapId) -> Option<&std::collections::BTreeMap<String, String>> {
        match map {
            fields::PARSED => Some(&self.event.parsed),
            fields::META => Some(&self.event.meta),
            fields::ENRICHED => Some(&self.event.enriched),
            fields::LABELS => Some(&self.event.labels),
            _ => None,
        }
    }

    fn text(&self, field: FieldId) -> Option<&str> {
        let event = self.event;
        Some(match field {
            fields::LINE_RAW => &event.raw,
            fields::LINE_SRC => &event.src,
            fields::LINE_MODULE => &event.module,
            fields::STR_TIME => &event.str_time,
            fields::STR_TIME_FORMAT => &event.str_time_format,
            fields::MARSHALED_TIME => &event.marshaled_time,
            fields::STAGE => &event.stage,
            fields::WHITELIST_REASON => &event.whitelist_reason,
            _ => return None,
        })
    }
}

impl Object for Shown<'_> {
    fn class(&self) -> &'static Class {
        &classes::EVENT
    }

    fn slot(&self, field: FieldId) -> Option<&str> {
        match self.table.name(field) {
            (fields::TEXT, _) => self.text(field),
            (map, key) => self.slot_named(map, key),
        }
    }

    fn slot_named(&self, map: MapId, key: &str) -> Option<&str> {
        self.map(map)?.get(key).map(String::as_str)
    }

    fn slots(&self, map: MapId) -> Vec<(&str, &str)> {
        let entries = self.map(map).into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    fn entry(&self, map: MapId, key: &str) -> Option<Value<'_>> {
        match map {
            fields::UNMARSHALED => self.event.unmarshaled.get(key).map(stored_value),
            fields::SOURCES => self.event.overflow.as_ref()?.sources.get(key).map(|source| Value::Object(source)),
            _ => None,
        }
    }

    fn entries(&self, map: MapId) -> Vec<&str> {
        match (map, &self.event.overflow) {
            (fields::UNMARSHALED, _) => self.event.unmarshaled.keys().map(String::as_str).collect(),
            (fields::SOURCES, Some(overflow)) => overflow.sources.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn member(&self, member: MemberId) -> Value<'_> {
        let event = self.event;
        match member {
            classes::EVENT_TYPE => Value::Int(event.kind as i64),
            classes::EVENT_EXPECT_MODE => Value::Int(event.time_machine.into()),
            classes::EVENT_WHITELISTED => Value::Bool(event.whitelisted),
            classes::EVENT_PROCESS => Value::Bool(event.process),
            classes::EVENT_TIME => event.time.unwrap_or(EventTime::utc(classes::ZERO_TIME)).value(),
            classes::EVENT_LINE_TIME => EventTime::utc(classes::ZERO_TIME).value(),
            classes::EVENT_LINE_PROCESS => Value::Bool(true),
            classes::EVENT_UNMARSHALED => Value::Map(expr::Map::Object(self, fields::UNMARSHALED)),
            classes::EVENT_OVERFLOW => match &event.overflow {
                Some(overflow) => Value::Object(overflow),
                None => Value::Object(classes::no_overflow()),
            },
            classes::EVENT_APPSEC => Value::Object(classes::no_appsec()),
            _ => Value::Nil,
        }
    }

    fn call<'a>(&'a self, method: MethodId, args: &[Value<'a>]) -> Result<Value<'a>, expr::EvalError> {
        match method {
            classes::EVENT_GET_TYPE => Ok(Value::text(self.event.kind.name())),
            classes::EVENT_GET_META => {
                let key = args.first().and_then(Value::as_str).unwrap_or("");
                Ok(Value::Str(self.meta(key).to_owned().into()))
            }
            _ => Err(expr::EvalError::new("an event that was put away cannot be written")),
        }
    }
}

impl Shown<'_> {
    fn meta(&self, key: &str) -> &str {
        match (self.event.kind, &self.event.overflow) {
            (EventKind::Log, _) => self.event.meta.get(key).map_or("", String::as_str),
            (EventKind::Overflow, Some(overflow)) => overflow.meta(key),
            _ => "",
        }
    }
}
