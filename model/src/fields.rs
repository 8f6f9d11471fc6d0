//! Numbers for the text fields of events, given out while rules load.
//!
//! Every `(map, key)` that a rule mentions gets a number; an event keeps its text in slots by that
//! number, so that no name is looked up while lines flow. What nobody mentioned lives in a side list.

use std::collections::HashMap;

use expr::{FieldId, Fields, MapId};

/// `evt.Parsed`.
pub const PARSED: MapId = MapId(0);
/// `evt.Meta`.
pub const META: MapId = MapId(1);
/// `evt.Enriched`.
pub const ENRICHED: MapId = MapId(2);
/// `evt.Line.Labels`.
pub const LABELS: MapId = MapId(3);
/// Single texts of the event: `Line.Raw`, `StrTime`, ...
pub const TEXT: MapId = MapId(4);
/// `evt.Appsec.Vars`.
pub const APPSEC_VARS: MapId = MapId(5);
/// `evt.Appsec.HookVars`.
pub const APPSEC_HOOK_VARS: MapId = MapId(6);
/// `evt.Unmarshaled`: not text; its keys are answered through [`expr::Object::entry`].
pub const UNMARSHALED: MapId = MapId(7);
/// `evt.Overflow.Sources`: likewise.
pub const SOURCES: MapId = MapId(8);
const MAPS: usize = 9;

macro_rules! known {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $map:ident, $key:literal;)*) => {
        $($(#[$doc])* pub const $name: FieldId = FieldId($number);)*
        const KNOWN: &[(FieldId, MapId, &str)] = &[$(($name, $map, $key)),*];
    };
}

known! {
    /// `evt.Line.Raw`.
    LINE_RAW = 0, TEXT, "Line.Raw";
    /// `evt.Line.Src`.
    LINE_SRC = 1, TEXT, "Line.Src";
    /// `evt.Line.Module`.
    LINE_MODULE = 2, TEXT, "Line.Module";
    /// `evt.StrTime`.
    STR_TIME = 3, TEXT, "StrTime";
    /// `evt.StrTimeFormat`.
    STR_TIME_FORMAT = 4, TEXT, "StrTimeFormat";
    /// `evt.MarshaledTime`.
    MARSHALED_TIME = 5, TEXT, "MarshaledTime";
    /// `evt.Stage`.
    STAGE = 6, TEXT, "Stage";
    /// `evt.WhitelistReason`.
    WHITELIST_REASON = 7, TEXT, "WhitelistReason";
    /// `evt.Line.Labels.type`.
    LABEL_TYPE = 8, LABELS, "type";
    /// `evt.Parsed.message`.
    MESSAGE = 9, PARSED, "message";
    /// `evt.Parsed.program`.
    PROGRAM = 10, PARSED, "program";
    /// `evt.Meta.source_ip`: the address that whitelists, allowlists and alerts look at.
    SOURCE_IP = 11, META, "source_ip";
    /// `evt.Meta.log_type`.
    LOG_TYPE = 12, META, "log_type";
    /// `evt.Meta.service`.
    SERVICE = 13, META, "service";
    /// `evt.Meta.SourceRange`.
    SOURCE_RANGE = 14, META, "SourceRange";
    /// `evt.Enriched.ASNumber`.
    AS_NUMBER = 15, ENRICHED, "ASNumber";
    /// `evt.Enriched.ASNNumber`.
    ASN_NUMBER = 16, ENRICHED, "ASNNumber";
    /// `evt.Enriched.ASNOrg`.
    ASN_ORG = 17, ENRICHED, "ASNOrg";
    /// `evt.Enriched.IsoCode`.
    ISO_CODE = 18, ENRICHED, "IsoCode";
    /// `evt.Enriched.IsInEU`.
    IS_IN_EU = 19, ENRICHED, "IsInEU";
    /// `evt.Enriched.Latitude`.
    LATITUDE = 20, ENRICHED, "Latitude";
    /// `evt.Enriched.Longitude`.
    LONGITUDE = 21, ENRICHED, "Longitude";
    /// `evt.Enriched.SourceRange`.
    ENRICHED_SOURCE_RANGE = 22, ENRICHED, "SourceRange";
    /// `evt.Enriched.reverse_dns`.
    REVERSE_DNS = 23, ENRICHED, "reverse_dns";
    /// `evt.Enriched.MarshaledTime`.
    ENRICHED_MARSHALED_TIME = 24, ENRICHED, "MarshaledTime";
}

/// The numbering of one rule set. Grows while rules load, then is frozen behind an `Arc`.
#[derive(Debug)]
pub struct FieldTable {
    numbers: [HashMap<Box<str>, FieldId>; MAPS],
    names: Vec<(MapId, Box<str>)>,
    constants: Vec<Box<str>>,
    constant_numbers: HashMap<Box<str>, u32>,
}

impl Default for FieldTable {
    fn default() -> Self {
        let mut table = Self {
            numbers: Default::default(),
            names: Vec::new(),
            constants: Vec::new(),
            constant_numbers: HashMap::new(),
        };
        for (number, map, key) in KNOWN {
            let given = table.intern(*map, key);
            debug_assert_eq!(given, *number, "known fields are numbered in order");
        }
        table
    }
}

impl Fields for FieldTable {
    fn intern(&mut self, map: MapId, key: &str) -> FieldId {
        let numbers = &mut self.numbers[usize::from(map.0) % MAPS];
        if let Some(number) = numbers.get(key) {
            return *number;
        }
        let number = FieldId(self.names.len() as u32);
        numbers.insert(key.into(), number);
        self.names.push((map, key.into()));
        number
    }
}

impl FieldTable {
    /// The number of `key` in `map`, if anybody mentioned it.
    pub fn number(&self, map: MapId, key: &str) -> Option<FieldId> {
        self.numbers.get(usize::from(map.0))?.get(key).copied()
    }

    /// The map and key of a number.
    pub fn name(&self, field: FieldId) -> (MapId, &str) {
        let (map, key) = &self.names[field.0 as usize];
        (*map, key)
    }

    /// How many numbers are given out.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never: some fields are always known.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Numbers of the fields of one map, in the order in which they were first mentioned.
    pub fn of_map(&self, map: MapId) -> impl Iterator<Item = FieldId> + '_ {
        self.names.iter().enumerate().filter(move |(_, (of, _))| *of == map).map(|(number, _)| FieldId(number as u32))
    }

    /// A number for a text that rules write as it stands, so that writing it copies nothing.
    pub fn constant(&mut self, text: &str) -> Constant {
        if let Some(number) = self.constant_numbers.get(text) {
            return Constant(*number);
        }
        let number = self.constants.len() as u32;
        self.constants.push(text.into());
        self.constant_numbers.insert(text.into(), number);
        Constant(number)
    }

    /// The text of a constant.
    pub fn constant_text(&self, constant: Constant) -> &str {
        &self.constants[constant.0 as usize]
    }
}

/// Number of a constant text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant(pub(crate) u32);
