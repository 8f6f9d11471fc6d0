//! What of the table is in the kernel, besides elements.

use std::collections::BTreeSet;

use rustix::io::Errno;

use crate::nftables::netlink::{Connection, Kind, NetlinkError, attributes, number32, string};
use crate::nftables::template;

/// One chain in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentChain {
    /// Its name.
    pub name: String,
    /// The interfaces that it hangs at, in order.
    pub devices: Vec<String>,
}

/// One set in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentSet {
    /// Its name.
    pub name: String,
    /// Its flags.
    pub flags: u32,
    /// The number of its type of keys.
    pub key: u32,
}

/// The table as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Table, sets, chains and rules, as far as they must not change; see [`Present::look`].
    pub print: Vec<u8>,
    /// What the chains do that decide about packets from and to blocked addresses: the verdict of each rule.
    pub hits: Vec<Option<i32>>,
    /// Whether a person has disarmed the table.
    pub disarmed: bool,
    /// The table's flags.
    pub flags: u32,
    /// All sets.
    pub sets: Vec<PresentSet>,
    /// The names of those that rules use.
    pub used: BTreeSet<String>,
    /// All chains, in the order in which they were made.
    pub chains: Vec<PresentChain>,
    /// How many rules the first chain has.
    pub rules: usize,
}

impl Present {
    /// Reads the table; `None` when it is not there. The sets and chains that are not `ours` do not count for the
    /// print, and neither do interfaces, which come and go, nor what the last chains decide, which a person may
    /// change.
    pub fn look(
        connection: &mut Connection,
        table: &str,
        ours: impl Fn(&str) -> bool,
    ) -> Result<Option<Self>, NetlinkError> {
        match Self::read(connection, table, ours) {
            Ok(present) => Ok(Some(present)),
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(connection: &mut Connection, table: &str, ours: impl Fn(&str) -> bool) -> Result<Self, NetlinkError> {
        let mut present = Self {
            print: Vec::new(),
            hits: Vec::new(),
            disarmed: false,
            flags: 0,
            sets: Vec::new(),
            used: BTreeSet::new(),
            chains: Vec::new(),
            rules: 0,
        };
        let answers = connection.get(Kind::GetTable, table, None, false)?;
        let answer = answers.first().map(Vec::as_slice).unwrap_or_default();
        present.flags = inside(answer, TABLE_FLAGS).and_then(number32).unwrap_or_default();
        record(&mut present.print, answer, &[TABLE_FLAGS, TABLE_HANDLE]);

        for set in connection.get(Kind::GetSet, table, None, true)? {
            let Some(name) = inside(&set, SET_NAME).map(string) else { continue };
            let number = |kind| inside(&set, kind).and_then(number32).unwrap_or_default();
            if ours(&name) {
                record(&mut present.print, &set, &[SET_NAME, SET_FLAGS, SET_KEY_LENGTH, SET_HANDLE]);
            }
            present.sets.push(PresentSet { name, flags: number(SET_FLAGS), key: number(SET_KEY_TYPE) });
        }
        // the kernel lists the chains of all tables
        let of_table = |answer: &Vec<u8>| inside(answer, TABLE).map(string).as_deref() == Some(table);
        for chain in connection.get(Kind::GetChain, table, None, true)?.into_iter().filter(of_table) {
            let Some(name) = inside(&chain, CHAIN_NAME).map(string) else { continue };
            let hook = inside(&chain, CHAIN_HOOK).unwrap_or_default();
            let named = |(kind, value)| match kind {
                HOOK_DEVICE => vec![string(value)],
                HOOK_DEVICES => attributes(value).map(|(_, name)| string(name)).collect(),
                _ => Vec::new(),
            };
            let devices: BTreeSet<String> = attributes(hook).flat_map(named).collect();
            if ours(&name) {
                record(&mut present.print, &chain, &[CHAIN_NAME, CHAIN_HANDLE, CHAIN_POLICY]);
                record(&mut present.print, hook, &[HOOK_NUMBER, HOOK_PRIORITY]);
            }
            present.disarmed |= name == template::DISARMED;
            present.chains.push(PresentChain { name, devices: devices.into_iter().collect() });
        }
        for rule in connection.get(Kind::GetRule, table, None, true)?.into_iter().filter(of_table) {
            let Some(chain) = inside(&rule, RULE_CHAIN).map(string) else { continue };
            present.rules += usize::from(chain == template::CHAIN);
            let expressions = inside(&rule, RULE_EXPRESSIONS).unwrap_or_default();
            present.used.extend(attributes(expressions).filter_map(|(_, expression)| set_in(expression)));
            if chain == template::HIT || chain == template::HIT_OUT {
                present.hits.push(verdict_in(expressions));
            } else if ours(&chain) {
                record(&mut present.print, &rule, &[RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS]);
            }
        }
        Ok(present)
    }
}

fn inside(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|&(found, _)| found == kind).map(|(_, value)| value)
}

fn record(print: &mut Vec<u8>, answer: &[u8], wanted: &[u16]) {
    for (kind, value) in attributes(answer).filter(|(kind, _)| wanted.contains(kind)) {
        print.extend(kind.to_be_bytes());
        print.extend((value.len() as u32).to_be_bytes());
        print.extend(value);
    }
}

/// The set that an expression looks something up in.
fn set_in(expression: &[u8]) -> Option<String> {
    let data = inside(expression, EXPRESSION_DATA)?;
    let kind = match string(inside(expression, EXPRESSION_NAME)?).as_str() {
        "lookup" => 1,
        "objref" => 4,
        _ => return None,
    };
    inside(data, kind).map(string)
}

/// The code of the verdict among the expressions of a rule: what happens to a packet that reaches its end.
fn verdict_in(expressions: &[u8]) -> Option<i32> {
    attributes(expressions).find_map(|(_, expression)| {
        let immediate = inside(expression, EXPRESSION_DATA)?;
        let verdict = inside(inside(immediate, IMMEDIATE_DATA)?, DATA_VERDICT)?;
        number32(inside(verdict, VERDICT_CODE)?).map(|code| code as i32)
    })
}

const TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_HANDLE: u16 = 4;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_HANDLE: u16 = 16;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
