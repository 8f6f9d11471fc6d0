//! An `OPNsense`: what is wrong is said with a status that says that all is well.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::server::{Api, Reply, Request};

/// The firewall.
pub(crate) struct OpnSense {
    /// What `Authorization` must say.
    pub(crate) authorization: String,
    /// Names and types of its aliases.
    pub(crate) aliases: Vec<(String, String)>,
    /// What the packet filter holds for our alias.
    pub(crate) table: BTreeSet<String>,
    /// Shows no more rows than this.
    pub(crate) rows: usize,
    alias: String,
    saved: bool,
}

impl OpnSense {
    pub(crate) fn new(authorization: &str, alias: &str) -> Self {
        Self {
            authorization: authorization.to_owned(),
            aliases: vec![("office".to_owned(), "network".to_owned())],
            table: BTreeSet::new(),
            rows: usize::MAX,
            alias: alias.to_owned(),
            saved: true,
        }
    }
}

impl Api for OpnSense {
    fn answer(&mut self, request: &Request) -> Reply {
        if request.header("authorization") != Some(&self.authorization) {
            return self.expired();
        }
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        let body = request.json();
        let known = |name: &str| self.aliases.iter().any(|(known, _)| known == name);
        match (request.method.as_str(), &parts[..]) {
            ("GET", ["api", "firewall", "alias", "get_alias_u_u_i_d", name]) => {
                let nothing = json!([]);
                Reply::json(200, &if known(name) { json!({ "uuid": "7f1c" }) } else { nothing })
            }
            ("POST", ["api", "firewall", "alias", "add_item"]) => {
                let text = |name: &str| body["alias"][name].as_str().unwrap_or_default().to_owned();
                if text("type") != "external" || known(&text("name")) {
                    return Reply::json(200, &json!({ "result": "failed", "validations": {} }));
                }
                self.aliases.push((text("name"), text("type")));
                self.saved = false;
                Reply::json(200, &json!({ "result": "saved", "uuid": "7f1c" }))
            }
            ("POST", ["api", "firewall", "alias", "reconfigure"]) => {
                self.saved = true;
                Reply::json(200, &json!({ "status": "ok" }))
            }
            ("GET", ["api", "firewall", "alias_util", "list", name]) if *name == self.alias => {
                let rows: Vec<Value> = self.table.iter().take(self.rows).map(|ip| json!({ "ip": ip })).collect();
                Reply::json(
                    200,
                    &json!({ "total": self.table.len(), "rowCount": rows.len(), "current": 1, "rows": rows }),
                )
            }
            ("POST", ["api", "firewall", "alias_util", verb @ ("add" | "delete"), name]) if *name == self.alias => {
                let address = body["address"].as_str().unwrap_or_default();
                let allowed = |c: char| c.is_ascii_hexdigit() || ".:/_".contains(c);
                if !address.chars().all(allowed) || !known(name) {
                    return Reply::json(200, &json!({ "status": "not_an_address" }));
                }
                if *verb == "add" {
                    self.table.insert(address.to_owned());
                } else {
                    self.table.remove(address);
                }
                Reply::json(200, &json!({ "status": "done" }))
            }
            ("POST", ["api", "firewall", "alias_util", "flush", name]) if *name == self.alias => {
                self.table.clear();
                Reply::json(200, &json!({ "status": "ok" }))
            }
            _ => Reply::json(404, &json!({ "errorMessage": "Endpoint not found" })),
        }
    }
}
