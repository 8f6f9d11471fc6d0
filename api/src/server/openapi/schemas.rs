//! The shapes of bodies. A test reads and writes each with the type that it describes.

use serde_json::{Value, json};

use super::reference;
use crate::wire::{REQUIRED, REQUIRED_IN_DECISION};

/// All of them by name.
pub(super) fn all() -> Value {
    let text = json!({ "type": "string" });
    let short = json!({ "type": "string", "maxLength": 255 });
    let time = json!({ "type": "string", "format": "date-time" });
    let flag = json!({ "type": "boolean" });
    let number = json!({ "type": "integer", "format": "int64" });
    let count = json!({ "type": "integer", "format": "int32" });
    let duration = json!({ "type": "string", "pattern": "^[0-9]{1,4}(s|m|h|d)$", "examples": ["4h", "7d"] });
    let many = |items: Value| json!({ "type": "array", "items": items });
    let maybe = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let address = json!({ "anyOf": [{ "type": "string", "format": "ipv4" }, { "type": "string", "format": "ipv6" }] });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties });
    let decision = json!({
        "id": number, "uuid": text, "origin": short, "type": short, "scope": short, "value": short,
        "duration": duration, "scenario": short, "simulated": flag, "until": text,
    });
    let mut told = decision.clone();
    told["duration"] = json!({ "type": "string", "pattern": "^-?([0-9]+h)?([0-9]+m)?[0-9]+s$" });
    let mut alert = json!({
        "id": number, "uuid": text, "machine_id": text, "created_at": text, "kind": text, "scenario": text,
        "scenario_hash": text, "scenario_version": text, "message": text, "events_count": count, "start_at": text,
        "stop_at": text, "capacity": count, "leakspeed": text, "simulated": flag, "remediation": flag,
        "labels": maybe(many(text.clone())), "source": reference("Source"), "meta": many(reference("Meta")),
        "events": maybe(many(reference("Event"))), "decisions": maybe(many(reference("Decision"))),
        "cordon": { "type": "object", "description": "Evidence that Cordon keeps beside what the field knows" },
    });
    let told_alert = object(REQUIRED, alert.clone());
    if let Some(properties) = alert.as_object_mut() {
        // evidence comes from Cordon's own agents alone
        properties.remove("cordon");
        properties.insert("start_at".into(), time.clone());
        properties.insert("stop_at".into(), time);
        properties.insert("decisions".into(), maybe(many(reference("NewDecision"))));
        properties.insert("events".into(), maybe(many(reference("NewEvent"))));
    }
    let component = json!({
        "version": short, "utc_startup_timestamp": number, "type": short, "name": short,
        "os": object(&["name", "version"], json!({ "name": short, "family": short, "version": short })),
        "feature_flags": many(short.clone()),
        "metrics": many(object(&["meta", "items"], json!({
            "meta": object(&["window_size_seconds", "utc_now_timestamp"],
                json!({ "window_size_seconds": number, "utc_now_timestamp": number })),
            "items": many(object(&["name", "value", "unit"], json!({
                "name": short, "value": { "type": "number" }, "unit": short,
                "labels": { "type": "object", "additionalProperties": short },
            }))),
        }))),
        "hub_items": { "type": "object" }, "datasources": { "type": "object" },
    });
    let record = object(
        &["seq", "at", "actor", "origin", "proof", "action", "subject", "salt", "seal", "hash"],
        json!({
            "seq": number, "at": text, "actor": text, "origin": text, "proof": text, "action": text,
            "subject": maybe(text.clone()), "salt": maybe(text.clone()), "seal": text, "hash": text,
        }),
    );
    let done = json!({ "enum": [
        "enforcement.arm", "enforcement.disarm", "enforcement.acknowledge", "backup", "pki.init", "pki.issue", "pki.renew",
        "pki.revoke",
    ] });
    let note = object(&["action"], json!({ "action": done, "subject": short }));
    let forget = object(&["value"], json!({ "value": { "type": "string", "minLength": 1, "maxLength": 255 } }));
    let forgotten = json!({ "erased": number, "redacted": number, "ended": number });
    let forgotten = object(&["erased", "redacted", "ended"], forgotten);
    let head = object(&["seq", "hash"], json!({ "seq": number, "hash": text }));
    let verified = json!({ "head": head, "forgotten": number, "archived": number, "elsewhere": number });
    let verified = object(&["head", "forgotten", "archived", "elsewhere"], verified);
    let own = [
        ("AuditRecords", many(record)),
        ("AuditNote", note),
        ("AuditVerified", verified),
        ("Forget", forget),
        ("Forgotten", forgotten),
    ];
    let mut all = json!({
        "Health": object(&["status"], json!({ "status": { "const": "up" } })),
        "Message": object(&["message"], json!({ "message": text })),
        "CodedMessage": object(&["message"], json!({ "code": count, "message": text })),
        "Registration": object(&["machine_id", "password"], json!({
            "machine_id": { "type": "string", "minLength": 1, "maxLength": 255 },
            "password": { "type": "string", "minLength": 1, "maxLength": 72 },
            "registration_token": { "type": "string", "minLength": 32, "maxLength": 255 },
        })),
        "Login": object(&[], json!({ "machine_id": text, "password": text, "scenarios": many(text.clone()) })),
        "Token": object(&["code", "expire", "token"], json!({ "code": count, "expire": text, "token": text })),
        "Numbers": many(text.clone()),
        "Deleted": object(&["nbDeleted"], json!({ "nbDeleted": text })),
        "Source": object(&["scope", "value"], json!({
            "scope": text, "value": text, "ip": text, "range": text, "as_name": text, "as_number": text,
            "cn": text, "latitude": { "type": "number" }, "longitude": { "type": "number" },
        })),
        "Meta": object(&[], json!({ "key": text, "value": text })),
        "Event": object(&["meta", "timestamp"], json!({
            "meta": maybe(many(reference("Meta"))), "timestamp": text,
            "cordon": { "type": "object", "description": "The line that the event was read from" },
        })),
        "NewEvent": object(&["meta", "timestamp"], json!({ "meta": maybe(many(reference("Meta"))), "timestamp": text })),
        "Decision": object(REQUIRED_IN_DECISION, told.clone()),
        "NewDecision": object(REQUIRED_IN_DECISION, decision),
        "Alert": told_alert,
        "Alerts": maybe(many(reference("Alert"))),
        "NewAlerts": many(object(REQUIRED, alert)),
        "Decisions": maybe(many(reference("Decision"))),
        "Stream": object(&["new", "deleted"], json!({
            "new": many(reference("Decision")), "deleted": many(reference("Decision")),
        })),
        "UsageMetrics": object(&[], json!({
            "log_processors": maybe(many(object(
                &["version", "utc_startup_timestamp", "hub_items", "datasources"], component.clone()))),
            "remediation_components": maybe(many(object(&["version", "utc_startup_timestamp"], component))),
        })),
        "Allowlist": object(&["created_at", "updated_at", "items"], json!({
            "name": text, "description": text, "created_at": text, "updated_at": text,
            "items": many(object(&["value", "created_at", "expiration"], json!({
                "value": text, "description": text, "created_at": text, "expiration": text,
            }))),
        })),
        "Allowlists": many(reference("Allowlist")),
        "NewAllowlist": object(&["name"], json!({
            "name": { "type": "string", "minLength": 1, "maxLength": 255 }, "description": short,
        })),
        "NewItems": object(&["values"], json!({ "values": many(address.clone()), "comment": short, "expiration": duration })),
        "Items": object(&["values"], json!({ "values": many(address.clone()) })),
        "Targets": object(&["targets"], json!({ "targets": many(address.clone()) })),
        "Check": object(&[], json!({ "allowlisted": flag, "reason": text })),
        "Checked": object(&["results"], json!({
            "results": many(object(&["target", "allowlists"], json!({ "target": text, "allowlists": many(text.clone()) }))),
        })),
        "NewBouncer": object(&["name"], json!({
            "name": { "type": "string", "minLength": 1, "maxLength": 255 },
            "key": { "type": "string", "minLength": 1, "maxLength": 1024 },
            "rights": many(json!({ "enum": ["read", "push", "admin"] })),
            "ranges": many(json!({ "type": "string", "examples": ["192.0.2.0/24"] })),
        })),
        "Rotation": object(&["grace"], json!({
            "key": { "type": "string", "minLength": 1, "maxLength": 1024 }, "grace": duration,
        })),
        "Key": object(&["name", "key"], json!({ "name": text, "key": text })),
        "NewMachine": object(&["name", "password"], json!({
            "name": { "type": "string", "minLength": 1, "maxLength": 255 },
            "password": { "type": "string", "minLength": 1, "maxLength": 72 }, "force": flag,
        })),
        "Forgiveness": object(&["value", "duration"], json!({ "value": address, "duration": duration })),
        "Flush": object(&[], json!({
            "max_items": { "type": "integer", "minimum": 0, "maximum": 1_000_000_000 }, "max_age": duration,
        })),
        "Silent": object(&["silent"], json!({ "silent": duration, "only_pending": flag })),
        "Removed": object(&["removed"], json!({ "removed": many(text) })),
    });
    for (name, schema) in own {
        all[name] = schema;
    }
    all
}

#[cfg(test)]
mod tests {
    use model::Alert;
    use model::alert::{AlertEvent, AlertEvidence, DecisionBody, Meta, Source};

    use super::*;
    use crate::wire::{
        AllowItemBody, AllowlistBody, CheckBody, CheckResult, CheckResults, Deleted, Message, Targets, TokenBody,
    };

    /// Says what `value` has that the schema does not know, and what the schema demands that it lacks.
    fn differences(schema: &Value, value: &Value, place: &str, schemas: &Value, found: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().expect("a name");
            return differences(&schemas[name], value, place, schemas, found);
        }
        if let Some(variants) = schema["anyOf"].as_array() {
            return differences(&variants[0], value, place, schemas, found);
        }
        if let Some(items) = value.as_array() {
            return items.iter().for_each(|item| differences(&schema["items"], item, place, schemas, found));
        }
        let (Some(object), Some(known)) = (value.as_object(), schema["properties"].as_object()) else { return };
        for (key, value) in object {
            match known.get(key) {
                Some(schema) => differences(schema, value, &format!("{place}.{key}"), schemas, found),
                None => found.push(format!("{place}.{key} is not described")),
            }
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(key) {
                found.push(format!("{place}.{key} is missing"));
            }
        }
    }

    #[test]
    fn schemas_know_what_the_types_write() {
        let text = || "x".to_owned();
        let meta = Meta { key: text(), value: text() };
        let alert = Alert {
            id: 1,
            uuid: text(),
            machine_id: text(),
            created_at: text(),
            kind: text(),
            labels: Some(vec![text()]),
            remediation: true,
            source: Source {
                ip: text(),
                range: text(),
                as_name: text(),
                as_number: text(),
                cn: text(),
                latitude: 1.0,
                longitude: 1.0,
                ..Source::default()
            },
            meta: vec![meta.clone()],
            events: vec![AlertEvent { meta: vec![meta], timestamp: text(), ..AlertEvent::default() }],
            decisions: Some(vec![DecisionBody {
                id: 1,
                uuid: text(),
                simulated: Some(true),
                until: text(),
                ..DecisionBody::default()
            }]),
            cordon: Some(AlertEvidence::default()),
            ..Alert::default()
        };
        let item = AllowItemBody { value: text(), description: text(), created_at: text(), expiration: text() };
        let list = AllowlistBody {
            name: text(),
            description: text(),
            created_at: text(),
            updated_at: text(),
            items: vec![item],
        };
        let result = CheckResult { target: text(), allowlists: vec![text()] };
        let written = [
            ("Alert", serde_json::to_value(&alert)),
            ("Allowlist", serde_json::to_value(list)),
            ("Check", serde_json::to_value(CheckBody { allowlisted: true, reason: text() })),
            ("Checked", serde_json::to_value(CheckResults { results: vec![result] })),
            ("Deleted", serde_json::to_value(Deleted { count: text() })),
            ("Message", serde_json::to_value(Message { message: text() })),
            ("Targets", serde_json::to_value(Targets { targets: vec![text()] })),
            ("Token", serde_json::to_value(TokenBody { code: 200, expire: text(), token: text() })),
        ];
        let schemas = all();
        let mut found = Vec::new();
        for (name, value) in written {
            differences(&schemas[name], &value.expect("JSON"), name, &schemas, &mut found);
        }
        assert!(found.is_empty(), "{found:#?}");
    }

    /// A body with everything that a schema knows, made from it alone.
    fn example(schema: &Value, schemas: &Value) -> Value {
        if let Some(name) = schema["$ref"].as_str() {
            return example(&schemas[name.rsplit('/').next().expect("a name")], schemas);
        }
        if let Some(variants) = schema["anyOf"].as_array() {
            return example(&variants[0], schemas);
        }
        if let Some(first) = schema["enum"].get(0).or_else(|| schema["examples"].get(0)) {
            return first.clone();
        }
        match schema["type"].as_str() {
            Some("array") => json!([example(&schema["items"], schemas)]),
            Some("integer" | "number") => json!(1),
            Some("boolean") => json!(true),
            Some("object") => {
                let properties = schema["properties"].as_object().into_iter().flatten();
                properties.map(|(key, schema)| (key.clone(), example(schema, schemas))).collect()
            }
            _ if schema["format"] == "date-time" => json!("2031-04-05T09:00:00Z"),
            _ if schema["format"] == "ipv4" => json!("192.0.2.4"),
            _ => json!("x"),
        }
    }

    #[test]
    fn types_read_what_schemas_describe() {
        let schemas = all();
        let body = |name: &str| example(&schemas[name], &schemas);
        let read = [
            ("NewAlerts", serde_json::from_value::<Vec<Alert>>(body("NewAlerts")).err()),
            ("Login", serde_json::from_value::<crate::wire::LoginBody>(body("Login")).err()),
            ("Registration", serde_json::from_value::<crate::wire::RegisterBody>(body("Registration")).err()),
            ("Targets", serde_json::from_value::<Targets>(body("Targets")).err()),
        ];
        for (name, error) in read {
            assert!(error.is_none(), "{name}: {error:?}");
        }
        let alerts = body("NewAlerts");
        assert_eq!(crate::wire::missing_fields(&alerts), None);
    }
}
