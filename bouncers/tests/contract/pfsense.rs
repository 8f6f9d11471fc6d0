//! A pfSense with the REST API package, with everything about it that surprises.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::server::{Api, Reply, Request};

/// One alias as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) address: Vec<String>,
    pub(crate) detail: Vec<String>,
}

/// The firewall.
pub(crate) struct PfSense {
    pub(crate) aliases: Vec<Alias>,
    /// What the packet filter really holds for our alias; `None` while no rule uses it.
    pub(crate) table: Option<BTreeSet<String>>,
    pub(crate) key: String,
    /// How often the state of loading is asked before it is done.
    pub(crate) loading: usize,
    pending: usize,
    /// Requests with a wrong key.
    pub(crate) failed_logins: usize,
    /// Removes this alias of somebody else's right after the next list of aliases was asked for.
    pub(crate) removes_next: Option<String>,
    /// Addresses that the firewall refuses, whatever they are.
    pub(crate) refuses: Vec<String>,
    pub(crate) killed: Vec<String>,
    alias: String,
}

impl PfSense {
    pub(crate) fn new(key: &str, alias: &str) -> Self {
        let other = |name: &str, kind: &str, address: &str| Alias {
            name: name.to_owned(),
            kind: kind.to_owned(),
            address: vec![address.to_owned()],
            detail: vec!["by hand".to_owned()],
        };
        Self {
            aliases: vec![
                other("office", "network", "192.0.2.0/28"),
                other("web", "port", "443"),
                other("mail", "host", "192.0.2.25"),
            ],
            table: Some(BTreeSet::new()),
            key: key.to_owned(),
            loading: 1,
            pending: 0,
            failed_logins: 0,
            removes_next: None,
            refuses: Vec::new(),
            killed: Vec::new(),
            alias: alias.to_owned(),
        }
    }

    /// Everything that is not ours.
    pub(crate) fn others(&self) -> Vec<Alias> {
        self.aliases.iter().filter(|alias| alias.name != self.alias).cloned().collect()
    }

    /// What is configured as ours.
    pub(crate) fn ours(&self) -> BTreeSet<String> {
        let ours = self.aliases.iter().find(|alias| alias.name == self.alias);
        ours.map(|alias| alias.address.iter().cloned().collect()).unwrap_or_default()
    }

    /// Loads what is configured, as a filter reload does.
    pub(crate) fn reload(&mut self) {
        let ours = self.ours();
        // the packet filter shows single addresses without their length
        let shown = |text: &String| text.strip_suffix("/32").or(text.strip_suffix("/128")).unwrap_or(text).to_owned();
        if let Some(table) = &mut self.table {
            *table = ours.iter().map(shown).collect();
        }
    }

    fn check(&self, kind: &str, address: &[String], detail: &[String]) -> Result<(), (&'static str, String)> {
        if detail.len() > address.len() {
            return Err(("ALIAS_DETAIL_TOO_LONG", "more details than addresses".to_owned()));
        }
        for text in address {
            let is_subnet = text.contains('/') && model::scope::parse_net(text).is_ok();
            if (kind == "network" && !is_subnet) || self.refuses.contains(text) {
                return Err(("INVALID_NETWORK_ALIAS_ADDRESS", format!("`{text}` is not a subnet")));
            }
        }
        Ok(())
    }

    fn write(&mut self, request: &Request) -> Reply {
        let body = request.json();
        let texts = |name: &str| -> Option<Vec<String>> {
            let texts = body.get(name)?.as_array()?;
            Some(texts.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect())
        };
        let name = body["name"].as_str().map(ToOwned::to_owned);
        if request.method == "POST" {
            let alias = Alias {
                name: name.unwrap_or_default(),
                kind: body["type"].as_str().unwrap_or_default().to_owned(),
                address: texts("address").unwrap_or_default(),
                detail: texts("detail").unwrap_or_default(),
            };
            if let Err((id, message)) = self.check(&alias.kind, &alias.address, &alias.detail) {
                return refusal(400, id, &message);
            }
            if self.aliases.iter().any(|other| other.name == alias.name) {
                return refusal(400, "FIELD_MUST_BE_UNIQUE", "name");
            }
            if body["dry_run"] == true {
                return success(&json!({ "name": alias.name }));
            }
            self.aliases.push(alias.clone());
            if body["apply"] == true {
                self.reload();
            }
            return success(&json!({ "id": self.aliases.len() - 1, "name": alias.name }));
        }
        let Some(at) = body["id"].as_u64().map(|id| id as usize).filter(|id| *id < self.aliases.len()) else {
            return refusal(404, "MODEL_OBJECT_NOT_FOUND", "no such alias");
        };
        let mut alias = self.aliases[at].clone();
        if name.is_some_and(|name| name != alias.name) {
            return refusal(400, "FIELD_NOT_EDITABLE", "name");
        }
        let remove = body["remove"] == true;
        for (field, new) in [(&mut alias.address, texts("address")), (&mut alias.detail, texts("detail"))] {
            let Some(new) = new else { continue };
            match (body["append"] == true, remove) {
                (true, _) => field.extend(new),
                // asked for exactly what is there, nothing happens
                (_, true) if new == *field => {}
                (_, true) => field.retain(|text| !new.contains(text)),
                _ => *field = new,
            }
        }
        if let Err((id, message)) = self.check(&alias.kind, &alias.address, &alias.detail) {
            return refusal(400, id, &message);
        }
        if alias.address.is_empty() {
            return refusal(400, "ALIAS_EMPTY", "an alias needs an address");
        }
        let name = alias.name.clone();
        if body["dry_run"] != true {
            self.aliases[at] = alias;
        }
        success(&json!({ "id": at, "name": name }))
    }
}

fn success(data: &Value) -> Reply {
    let body = json!({ "code": 200, "status": "ok", "response_id": "SUCCESS", "message": "", "data": data });
    Reply::json(200, &body)
}

fn refusal(status: u16, id: &str, message: &str) -> Reply {
    let body = json!({ "code": status, "status": "error", "response_id": id, "message": message, "data": [] });
    Reply::json(status, &body)
}

impl Api for PfSense {
    fn answer(&mut self, request: &Request) -> Reply {
        if request.header("x-api-key") != Some(&self.key) {
            self.failed_logins += 1;
            return self.expired();
        }
        let path = request.path.strip_prefix("/api/v2/").unwrap_or_default();
        match (request.method.as_str(), path) {
            ("GET", "firewall/aliases") => {
                let wanted = request.query("name");
                let found: Vec<Value> = self
                    .aliases
                    .iter()
                    .enumerate()
                    .filter(|(_, alias)| wanted.is_none_or(|name| name == alias.name))
                    .map(|(id, alias)| {
                        json!({ "id": id, "name": alias.name, "type": alias.kind, "address": alias.address, "detail": alias.detail })
                    })
                    .collect();
                if let Some(name) = self.removes_next.take() {
                    self.aliases.retain(|alias| alias.name != name);
                }
                success(&json!(found))
            }
            ("POST" | "PATCH", "firewall/alias") => self.write(request),
            ("POST", "firewall/apply") => {
                self.reload();
                self.pending = self.loading;
                success(&json!({ "applied": false, "pending_subsystems": ["aliases", "filter"] }))
            }
            ("GET", "firewall/apply") => {
                let applied = self.pending == 0;
                self.pending = self.pending.saturating_sub(1);
                let pending: &[&str] = if applied { &[] } else { &["filter"] };
                success(&json!({ "applied": applied, "pending_subsystems": pending }))
            }
            ("GET", "diagnostics/table") => match &self.table {
                Some(table) if request.query("id") == Some(&self.alias) => {
                    success(&json!({ "id": self.alias, "name": self.alias, "entries": table }))
                }
                _ => refusal(404, "TABLE_NOT_FOUND", "no such table"),
            },
            ("DELETE", "firewall/states") => {
                self.killed.extend(request.query("source__startswith").map(ToOwned::to_owned));
                success(&json!([]))
            }
            _ => refusal(404, "ENDPOINT_NOT_FOUND", "no such page"),
        }
    }
}
