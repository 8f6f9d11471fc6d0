//! Requests held against the description of an API: `OpenAPI` 3 or Swagger 2, as much of them as the descriptions use.
//!
//! Stricter than the descriptions are: what they do not mention must not be sent.

use std::path::Path;

use serde_json::{Map, Value};

use super::server::Request;

/// The description of an API.
pub(crate) struct Schema {
    document: Value,
    base: String,
}

/// Where descriptions lie.
fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/spec/data")
}

impl Schema {
    /// The description in the file `name`, whose paths begin with `base`. Where the descriptions are not there, says so
    /// loudly: nothing is validated then.
    pub(crate) fn load(name: &str, base: &str) -> Option<Self> {
        let path = folder().join(name);
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("NOT VALIDATED: there is no description of the API at {}", path.display());
            return None;
        };
        let options = serde_saphyr::options! { budget: None };
        let document = serde_saphyr::from_str_with_options(&text, options).expect("a description is YAML");
        Some(Self { document, base: base.to_owned() })
    }

    /// What is wrong with `request`.
    pub(crate) fn faults(&self, request: &Request) -> Vec<String> {
        let mut faults = Vec::new();
        let place = format!("{} {}", request.method, request.path);
        let Some(path) = request.path.strip_prefix(&self.base) else {
            return vec![format!("{place}: not below `{}`", self.base)];
        };
        let Some((item, captured)) = self.find(path) else {
            return vec![format!("{place}: no such path")];
        };
        let Some(operation) = item.get(request.method.to_lowercase()) else {
            return vec![format!("{place}: no such method")];
        };
        let parameters: Vec<&Value> = [item.get("parameters"), operation.get("parameters")]
            .into_iter()
            .flatten()
            .filter_map(Value::as_array)
            .flatten()
            .map(|parameter| self.resolve(parameter))
            .collect();
        let of = |place: &'static str| parameters.iter().filter(move |parameter| parameter["in"] == place);
        for (name, value) in &captured {
            if let Some(parameter) = of("path").find(|parameter| parameter["name"] == name.as_str()) {
                self.text(parameter, value, &format!("{place}: `{name}`"), &mut faults);
            }
        }
        for (name, value) in &request.query {
            match of("query").find(|parameter| parameter["name"] == name.as_str()) {
                Some(parameter) => self.text(parameter, value, &format!("{place}: `{name}`"), &mut faults),
                None => faults.push(format!("{place}: unknown parameter `{name}`")),
            }
        }
        for parameter in of("query").filter(|parameter| parameter["required"] == true) {
            let name = parameter["name"].as_str().unwrap_or_default();
            if request.query(name).is_none() {
                faults.push(format!("{place}: parameter `{name}` is missing"));
            }
        }
        self.body(operation, &parameters, request, &place, &mut faults);
        faults
    }

    fn body(&self, operation: &Value, parameters: &[&Value], request: &Request, place: &str, faults: &mut Vec<String>) {
        let content = request.header("content-type").unwrap_or_default();
        let kind = content.split(';').next().unwrap_or_default().trim();
        let described = operation.get("requestBody").map(|body| self.resolve(body));
        let in_body = parameters.iter().find(|parameter| parameter["in"] == "body");
        let (schema, required) = match (described, in_body) {
            (Some(body), _) => {
                let required = body["required"] == true;
                let Some(content) = body["content"].get(kind).filter(|_| !request.body.is_empty()) else {
                    if required || !request.body.is_empty() {
                        faults.push(format!("{place}: a body of `{kind}` is not what it takes"));
                    }
                    return;
                };
                (&content["schema"], required)
            }
            (None, Some(parameter)) => (&parameter["schema"], parameter["required"] == true),
            (None, None) => {
                if !request.body.is_empty() && request.body != b"{}" {
                    faults.push(format!("{place}: it takes no body"));
                }
                return;
            }
        };
        if request.body.is_empty() {
            if required {
                faults.push(format!("{place}: the body is missing"));
            }
            return;
        }
        if kind == "application/x-www-form-urlencoded" {
            let fields = request.form().into_iter().map(|(name, value)| (name, Value::String(value))).collect();
            self.value(schema, &Value::Object(fields), true, place, faults);
            return;
        }
        match serde_json::from_slice(&request.body) {
            Ok(value) => self.value(schema, &value, false, place, faults),
            Err(error) => faults.push(format!("{place}: the body is no JSON: {error}")),
        }
    }

    /// The description of a path, and what stands in its gaps.
    fn find(&self, path: &str) -> Option<(&Value, Vec<(String, String)>)> {
        let parts: Vec<&str> = path.split('/').collect();
        let mut found: Option<(&Value, Vec<(String, String)>)> = None;
        for (template, item) in self.document["paths"].as_object()? {
            let wanted: Vec<&str> = template.split('/').collect();
            if wanted.len() != parts.len() {
                continue;
            }
            let mut captured = Vec::new();
            let fits = wanted.iter().zip(&parts).all(|(wanted, part)| {
                match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                    Some(name) => {
                        captured.push((name.to_owned(), super::server::decode(part)));
                        !part.is_empty()
                    }
                    None => wanted == part,
                }
            });
            // the fewer gaps the better
            if fits && found.as_ref().is_none_or(|(_, other)| captured.len() < other.len()) {
                found = Some((item, captured));
            }
        }
        found
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix('#')) {
            Some(pointer) => self.resolve(self.document.pointer(pointer).expect("a reference leads somewhere")),
            None => value,
        }
    }

    /// A parameter, whose value is text. Swagger 2 describes it in the parameter itself.
    fn text(&self, parameter: &Value, value: &str, place: &str, faults: &mut Vec<String>) {
        let schema = parameter.get("schema").unwrap_or(parameter);
        self.value(schema, &Value::String(value.to_owned()), true, place, faults);
    }

    /// `as_text` is for values whose type is lost on the wire.
    fn value(&self, schema: &Value, value: &Value, as_text: bool, place: &str, faults: &mut Vec<String>) {
        let (mut properties, mut required, mut open) = (Map::new(), Vec::new(), false);
        self.gather(schema, &mut properties, &mut required, &mut open);
        let schema = self.resolve(schema);
        if value.is_null() && (schema["nullable"] == true || schema["x-nullable"] == true) {
            return;
        }
        let kind = schema["type"].as_str().unwrap_or(if properties.is_empty() { "" } else { "object" });
        let fits = match (kind, value) {
            ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("array", Value::Array(_)) | ("", _) => true,
            ("object", Value::Object(_)) => true,
            ("integer", Value::Number(number)) => number.is_i64() || number.is_u64(),
            ("number", Value::Number(_)) => true,
            ("integer" | "number", Value::String(text)) if as_text => text.parse::<i64>().is_ok(),
            ("boolean", Value::String(text)) if as_text => ["true", "false", "0", "1"].contains(&text.as_str()),
            _ => false,
        };
        if !fits {
            faults.push(format!("{place}: `{value}` is no {kind}"));
            return;
        }
        if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
            faults.push(format!("{place}: `{value}` is none of {allowed:?}"));
        }
        match value {
            Value::String(text) => check_text(schema, text, place, faults),
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.value(&schema["items"], item, as_text, &format!("{place}[{at}]"), faults);
                }
            }
            Value::Object(fields) => {
                for name in required.iter().filter(|name| !fields.contains_key(*name)) {
                    faults.push(format!("{place}: `{name}` is missing"));
                }
                for (name, field) in fields {
                    match properties.get(name) {
                        Some(schema) => self.value(schema, field, as_text, &format!("{place}.{name}"), faults),
                        None if open => {}
                        None => faults.push(format!("{place}: unknown field `{name}`")),
                    }
                }
            }
            _ => {}
        }
    }

    /// What an object may have, put together from all its parts.
    fn gather(&self, schema: &Value, properties: &mut Map<String, Value>, required: &mut Vec<String>, open: &mut bool) {
        let schema = self.resolve(schema);
        if let Some(more) = schema["properties"].as_object() {
            properties.extend(more.clone());
        }
        let names = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        required.extend(names.map(ToOwned::to_owned));
        *open |= schema.get("additionalProperties").is_some_and(|more| *more != false);
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.gather(part, properties, required, open);
        }
    }
}

fn check_text(schema: &Value, text: &str, place: &str, faults: &mut Vec<String>) {
    let length = text.chars().count() as u64;
    if schema["maxLength"].as_u64().is_some_and(|most| length > most)
        || schema["minLength"].as_u64().is_some_and(|least| length < least)
    {
        faults.push(format!("{place}: `{text}` has {length} characters"));
    }
    let Some(pattern) = schema["pattern"].as_str() else { return };
    // what must not occur is written with a look-ahead, which `regex` does not know
    let without = pattern.strip_prefix("^(?!.*").and_then(|rest| rest.strip_suffix(").*$"));
    let fits = match without {
        Some(unwanted) => !regex::Regex::new(unwanted).expect("a pattern of a description").is_match(text),
        None => regex::Regex::new(pattern).expect("a pattern of a description").is_match(text),
    };
    if !fits {
        faults.push(format!("{place}: `{text}` does not match `{pattern}`"));
    }
}
