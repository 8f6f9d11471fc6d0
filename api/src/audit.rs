//! The audit trail: who changed what, when, from where, and how he proved who he is.
//!
//! Records form a chain: each hash covers the one before and all that the record says, so that a record that was altered,
//! left out or moved breaks it. What a record says about people is covered through a salted hash, its seal: it can be
//! forgotten later without breaking the chain. Pure: a store keeps the records, [`Verifier`] walks them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::decisions::to_micros;
use crate::server::service::{Author, FORGIVEN};
use crate::store::{NewAlert, Write};

/// The hash before the first record.
pub const ROOT: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Up to how many things one record names.
const NAMED: usize = 20;
/// Longest subject in bytes.
const MAX_SUBJECT: usize = 2000;

/// What happened, before it has its place in the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// An address, `socket`, or `inside`.
    pub origin: String,
    /// How he proved who he is: `socket`, `key`, `certificate`, `token`, `none`.
    pub proof: String,
    /// What was done, such as `decisions.add`.
    pub action: &'static str,
    /// To what or whom.
    pub subject: String,
}

/// One record of the trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place, from 1.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// An address, `socket`, or `inside`.
    pub origin: String,
    /// How he proved who he is.
    pub proof: String,
    /// What was done.
    pub action: String,
    /// To what or whom; `None` once it is forgotten.
    pub subject: Option<String>,
    /// What makes the seal unguessable, as hex; forgotten with the subject.
    pub salt: Option<String>,
    /// SHA-256 over salt and subject, as hex.
    pub seal: String,
    /// SHA-256 over the hash before and everything above but salt and subject, as hex.
    pub hash: String,
}

/// The end of the trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Place of the last record; 0 for an empty trail.
    pub seq: i64,
    /// Its hash.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, hash: ROOT.into() }
    }
}

/// Which records are wanted, the oldest first. Everything that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Written at or after.
    pub since: Option<Timestamp>,
    /// By this one.
    pub actor: Option<String>,
    /// Exactly this action, or all that begin with it and a dot.
    pub action: Option<String>,
    /// Behind this place.
    pub after: Option<i64>,
    /// At most so many: the newest; with `after`, the oldest.
    pub limit: usize,
}

impl AuditQuery {
    /// Whether `record` is wanted, as far as it depends on nothing else.
    pub(crate) fn wants(&self, record: &Record) -> bool {
        let begins = |action: &String| {
            record.action.strip_prefix(action.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        record.seq > self.after.unwrap_or(0)
            && self.since.is_none_or(|since| record.at >= since)
            && self.actor.as_ref().is_none_or(|actor| *actor == record.actor)
            && self.action.as_ref().is_none_or(begins)
    }
}

/// Where a chain breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[error("the audit trail is broken at record {seq}: {reason}")]
pub struct Break {
    /// The first record that does not fit.
    pub seq: i64,
    /// What does not fit.
    pub reason: String,
}

impl Record {
    /// The record that follows `head`.
    pub fn follow(head: &Head, entry: &Entry, salt: [u8; 16]) -> Self {
        let salt = hex(&salt);
        let mut record = Self {
            seq: head.seq + 1,
            at: entry.at,
            actor: entry.actor.clone(),
            origin: entry.origin.clone(),
            proof: entry.proof.clone(),
            action: entry.action.into(),
            seal: seal(&salt, &entry.subject),
            subject: Some(entry.subject.clone()),
            salt: Some(salt),
            hash: String::new(),
        };
        record.hash = record.hash_after(&head.hash);
        record
    }

    /// Its place and hash.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }

    fn hash_after(&self, before: &str) -> String {
        let (seq, at) = (self.seq.to_string(), to_micros(self.at).to_string());
        digest([before, &seq, &at, &self.actor, &self.origin, &self.proof, &self.action, &self.seal])
    }
}

/// Walks a trail from its first record to its head.
#[derive(Debug, Default)]
pub struct Verifier {
    head: Head,
    forgotten: u64,
}

impl Verifier {
    /// Takes the next record.
    pub fn take(&mut self, record: &Record) -> Result<(), Break> {
        let seq = self.head.seq + 1;
        let broken = |reason: &str| Err(Break { seq, reason: reason.into() });
        if record.seq != seq {
            return broken("it is missing");
        }
        if record.hash_after(&self.head.hash) != record.hash {
            return broken("it was altered or moved, or the one before is another");
        }
        match (&record.salt, &record.subject) {
            (Some(salt), Some(subject)) if seal(salt, subject) != record.seal => {
                return broken("its subject was altered");
            }
            (Some(_), Some(_)) => {}
            (None, None) => self.forgotten += 1,
            _ => return broken("half of its subject is gone"),
        }
        self.head = record.head();
        Ok(())
    }

    /// How far it came.
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Goes on behind records that are not there, of which only the end is known.
    pub(crate) fn skip(&mut self, end: Head) {
        self.head = end;
    }

    /// Compares the end with `kept`, the head that is kept beside the records. Answers how many subjects are forgotten.
    pub fn finish(self, kept: &Head) -> Result<u64, Break> {
        if self.head == *kept {
            return Ok(self.forgotten);
        }
        let reason = format!("the trail should end with record {} and hash {}", kept.seq, kept.hash);
        Err(Break { seq: self.head.seq.min(kept.seq) + 1, reason })
    }
}

/// What `writes` are to the trail. The author's own housekeeping (ends, touches, retention) is nothing.
pub(crate) fn entries(author: &Author, writes: &[Write], now: Timestamp) -> Vec<Entry> {
    let inside = author.is_inside();
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let mut items = Items::default();
    for write in writes {
        match write {
            Write::Alert(new) if new.supplied => found.push(("decisions.add", made(new))),
            Write::Lift { lifted, .. } => {
                for lift in lifted {
                    items.add("decisions.delete", || format!("{} {}", lift.id, lift.target));
                }
            }
            Write::EraseAlerts { ids, .. } => {
                for id in ids {
                    items.add("alerts.delete", || id.to_string());
                }
            }
            Write::PutMachine(machine) if machine.created_at == now => {
                let state = if machine.validated { "validated" } else { "pending" };
                found.push(("machines.add", format!("{} ({}, {state})", machine.name, machine.auth_type)));
            }
            Write::PutMachine(machine) if machine.updated_at == now && !inside => {
                found.push(("machines.change", machine.name.clone()));
            }
            Write::DeleteMachine(name) => found.push(("machines.delete", name.clone())),
            Write::PutBouncer(bouncer) if bouncer.created_at == now => {
                found.push(("bouncers.add", format!("{} ({}) {:?}", bouncer.name, bouncer.auth_type, bouncer.rights)));
            }
            Write::PutBouncer(bouncer) if bouncer.updated_at == now && !inside => {
                found.push(("bouncers.rotate", bouncer.name.clone()));
            }
            Write::DeleteBouncer(name) => found.push(("bouncers.delete", name.clone())),
            Write::PutAllowlist(list) if list.created_at == now && list.name != FORGIVEN => {
                found.push(("allowlists.create", format!("{}: {}", list.name, list.description)));
            }
            Write::DeleteAllowlist(name) => found.push(("allowlists.delete", name.clone())),
            Write::PutAllowItem(list, item) => {
                let until = item.expires.map(|end| format!(" until {end:.0}")).unwrap_or_default();
                if list == FORGIVEN {
                    found.push(("forgive", format!("{}{until}", item.value)));
                } else {
                    items.add("allowlists.add", || format!("{list} {}{until} {}", item.value, item.comment));
                }
            }
            Write::DeleteAllowItem(list, value) if !inside => {
                items.add("allowlists.remove", || format!("{list} {value}"));
            }
            Write::Retain(retention) if !inside => {
                let newest = retention.max_alerts.map_or("any number".into(), |max| max.to_string());
                let before = retention.alerts_before.map_or("any age".into(), |at| format!("{at:.0}"));
                found.push(("alerts.flush", format!("all but the newest {newest}, and before {before}")));
            }
            _ => {}
        }
    }
    found.extend(items.texts());
    found.into_iter().map(|(action, subject)| author.did(action, &subject, now)).collect()
}

impl Author {
    /// The entry that says that he did `action` to `subject`.
    pub fn did(&self, action: &'static str, subject: &str, at: Timestamp) -> Entry {
        let subject = crate::server::service::shortened(subject, MAX_SUBJECT);
        let (origin, proof) = (self.from.to_string(), self.proof.to_owned());
        Entry { at, actor: self.name.clone(), origin, proof, action, subject }
    }
}

fn made(new: &NewAlert) -> String {
    let one = |decision: &model::Decision| {
        format!("{} {}:{} until {:.0}", decision.remediation, decision.scope, decision.value, decision.until)
    };
    let mut texts: Vec<String> = new.decisions.iter().take(NAMED).map(|(decision, _)| one(decision)).collect();
    if new.decisions.len() > NAMED {
        texts.push(format!("and {} more", new.decisions.len() - NAMED));
    }
    format!("alert {} ({}): {}", new.alert.id, new.alert.scenario, texts.join(", "))
}

/// Many small things of one change, by action.
#[derive(Default)]
struct Items(Vec<(&'static str, Vec<String>, usize)>);

impl Items {
    fn add(&mut self, action: &'static str, text: impl FnOnce() -> String) {
        let place = self.0.iter().position(|(known, ..)| *known == action).unwrap_or_else(|| {
            self.0.push((action, Vec::new(), 0));
            self.0.len() - 1
        });
        if let Some((_, texts, count)) = self.0.get_mut(place) {
            *count += 1;
            if texts.len() < NAMED {
                texts.push(text());
            }
        }
    }

    fn texts(self) -> impl Iterator<Item = (&'static str, String)> {
        self.0.into_iter().map(|(action, mut texts, count)| {
            if count > texts.len() {
                texts.push(format!("and {} more", count - texts.len()));
            }
            (action, texts.join(", "))
        })
    }
}

/// What stands in the trail for somebody who was forgotten: nobody can tell who it was without `key`.
pub(crate) fn pseudonym(key: &[u8], value: &str) -> String {
    // Two passes, the inner one with the key first and the outer one too: a plain hash could be continued.
    let inner = Sha256::new().chain_update(key).chain_update(value).finalize();
    let outer = Sha256::new().chain_update(key).chain_update(inner).finalize();
    hex(outer.split_at(16).0)
}

fn seal(salt: &str, subject: &str) -> String {
    digest([salt, subject])
}

/// SHA-256 over texts, each after its length, so that none can borrow from its neighbour.
fn digest<const N: usize>(texts: [&str; N]) -> String {
    let digest = texts.iter().fold(Sha256::new(), |hash, text| {
        hash.chain_update((text.len() as u64).to_be_bytes()).chain_update(text.as_bytes())
    });
    hex(&digest.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(len: i64) -> (Vec<Record>, Head) {
        let mut head = Head::default();
        let records = (1..=len).map(|n| {
            let at = Timestamp::from_second(n).expect("a time");
            let record = Record::follow(&head, &Author::default().did("decisions.add", &format!("{n}"), at), [7; 16]);
            head = record.head();
            record
        });
        (records.collect(), head)
    }

    fn verify(records: &[Record], head: &Head) -> Result<u64, i64> {
        let mut verifier = Verifier::default();
        let walk = records.iter().try_for_each(|record| verifier.take(record));
        walk.and_then(|()| verifier.finish(head)).map_err(|broken| broken.seq)
    }

    #[test]
    fn whoever_touches_the_trail_is_found() {
        type Tamper = fn(&mut Vec<Record>);
        // (what is done to five records, the first that does not fit)
        let cases: &[(&str, Tamper, Result<u64, i64>)] = &[
            ("nothing", |_| (), Ok(0)),
            ("another actor", |all| all[2].actor = "other".into(), Err(3)),
            ("another origin", |all| all[0].origin = "192.0.2.1".into(), Err(1)),
            ("another proof", |all| all[0].proof = "key".into(), Err(1)),
            ("another action", |all| all[4].action = "forgive".into(), Err(5)),
            ("another time", |all| all[1].at = Timestamp::UNIX_EPOCH, Err(2)),
            ("another subject", |all| all[3].subject = Some("9".into()), Err(4)),
            ("another seal", |all| all[3].seal = ROOT.into(), Err(4)),
            ("another hash", |all| all[3].hash = ROOT.into(), Err(4)),
            (
                "a text that borrows from its neighbour",
                |all| {
                    all[1].actor = "cord".into();
                    all[1].origin = "oninside".into();
                },
                Err(2),
            ),
            ("one removed", |all| drop(all.remove(2)), Err(3)),
            ("the first removed", |all| drop(all.remove(0)), Err(1)),
            ("two swapped", |all| all.swap(1, 2), Err(2)),
            (
                "two swapped and numbered anew",
                |all| {
                    all.swap(1, 2);
                    all[1].seq = 2;
                    all[2].seq = 3;
                },
                Err(2),
            ),
            ("the tail cut off", |all| all.truncate(3), Err(4)),
            ("everything removed", Vec::clear, Err(1)),
            ("a subject forgotten", |all| (all[2].subject, all[2].salt) = (None, None), Ok(1)),
            ("half of a subject gone", |all| all[2].salt = None, Err(3)),
        ];
        for (what, tamper, expected) in cases {
            let (mut records, head) = trail(5);
            tamper(&mut records);
            assert_eq!(verify(&records, &head), *expected, "{what}");
        }
    }

    #[test]
    fn a_pseudonym_depends_on_key_and_value() {
        let one = pseudonym(b"key", "192.0.2.1");
        assert_eq!((one.len(), pseudonym(b"key", "192.0.2.1") == one), (32, true));
        assert!(one != pseudonym(b"other", "192.0.2.1") && one != pseudonym(b"key", "192.0.2.2"));
    }
}
