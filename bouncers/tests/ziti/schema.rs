//! A Swagger 2.0 description, as far as a contract server needs it: is this request one that the API knows?

use std::path::Path;

use serde_json::Value;

/// One described API.
pub(crate) struct Schema {
    document: Value,
    /// In front of every route.
    base: String,
}

impl Schema {
    /// The description in `file`, if it is there.
    pub(crate) fn load(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        let document: Value = serde_saphyr::from_str(&text).expect("a description is YAML");
        let base = document["basePath"].as_str().expect("a description has a base path").to_owned();
        Some(Self { document, base })
    }

    /// Whether this API speaks for `path`.
    pub(crate) fn owns(&self, path: &str) -> bool {
        path.starts_with(&self.base)
    }

    /// What is wrong with a request.
    pub(crate) fn request(&self, method: &str, path: &str, query: &[(String, String)], body: &[u8]) -> Vec<String> {
        let Some((route, operation)) = self.operation(method, path) else {
            return vec![format!("{method} {path} is not described")];
        };
        let parameters: Vec<&Value> = [&route["parameters"], &operation["parameters"]]
            .into_iter()
            .filter_map(Value::as_array)
            .flatten()
            .map(|parameter| self.resolve(parameter))
            .collect();
        let mut faults = Vec::new();
        let in_query = |name: &str| parameters.iter().find(|found| found["in"] == "query" && found["name"] == name);
        for (name, value) in query {
            match in_query(name) {
                None => faults.push(format!("{method} {path} has no parameter `{name}`")),
                Some(found) if found["type"] == "integer" && value.parse::<i64>().is_err() => {
                    faults.push(format!("{method} {path}: `{name}` is `{value}`, no number"));
                }
                Some(found) => {
                    if let Some(words) = found["enum"].as_array()
                        && !words.iter().any(|word| word == value)
                    {
                        faults.push(format!("{method} {path}: `{name}` is `{value}`, not one of the words"));
                    }
                }
            }
        }
        for found in parameters.iter().filter(|found| found["in"] == "query" && found["required"] == true) {
            let name = found["name"].as_str().unwrap_or_default();
            if !query.iter().any(|(key, _)| key == name) {
                faults.push(format!("{method} {path} needs `{name}`"));
            }
        }
        let wanted = parameters.iter().find(|found| found["in"] == "body");
        match (wanted, body.is_empty()) {
            (None, true) => {}
            (None, false) => faults.push(format!("{method} {path} takes no body")),
            (Some(found), true) if found["required"] == true => faults.push(format!("{method} {path} needs a body")),
            (Some(_), true) => {}
            (Some(found), false) => match serde_json::from_slice::<Value>(body) {
                Ok(value) => {
                    self.check(&found["schema"], &value, "body", &mut faults);
                    let known = self.resolve(&found["schema"])["properties"].as_object();
                    let unknown = |name: &&String| known.is_none_or(|known| !known.contains_key(*name));
                    let sent = value.as_object().into_iter().flat_map(|fields| fields.keys());
                    faults.extend(sent.filter(unknown).map(|name| format!("the body has an unknown `{name}`")));
                }
                Err(error) => faults.push(format!("{method} {path}: the body is no JSON: {error}")),
            },
        }
        faults
    }

    /// What is wrong with the body of an answer.
    pub(crate) fn answer(&self, method: &str, path: &str, status: u16, body: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        let Some((_, operation)) = self.operation(method, path) else { return faults };
        let answer = self.resolve(&operation["responses"][status.to_string()]);
        // Some descriptions refer to a definition where a response belongs.
        let schema = if answer["schema"].is_object() { &answer["schema"] } else { answer };
        if answer.is_null() {
            faults.push(format!("{method} {path} never answers {status}"));
        } else {
            self.check(schema, body, &format!("{method} {path} {status}"), &mut faults);
        }
        faults
    }

    /// The route and operation behind a request.
    fn operation(&self, method: &str, path: &str) -> Option<(&Value, &Value)> {
        let route = path.strip_prefix(&self.base)?;
        let parts: Vec<&str> = route.split('/').collect();
        let fits = |template: &str| {
            let wanted: Vec<&str> = template.split('/').collect();
            wanted.len() == parts.len()
                && wanted
                    .iter()
                    .zip(&parts)
                    .all(|(wanted, part)| wanted == part || (wanted.starts_with('{') && !part.is_empty()))
        };
        let routes = self.document["paths"].as_object()?;
        // A route in plain words goes before one with a placeholder.
        let mut fitting: Vec<_> = routes.iter().filter(|(template, _)| fits(template)).collect();
        fitting.sort_by_key(|(template, _)| template.matches('{').count());
        fitting.into_iter().find_map(|(_, route)| {
            let operation = &route[method.to_lowercase()];
            operation.is_object().then_some((route, operation))
        })
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
            Some(pointer) => self.document.pointer(pointer).map_or(&Value::Null, |found| self.resolve(found)),
            None => value,
        }
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let nullable = schema["x-nullable"] == true;
        let schema = self.resolve(schema);
        if value.is_null() && (nullable || schema["x-nullable"] == true) {
            return;
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.check(part, value, at, faults);
        }
        let fits = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            _ => true,
        };
        if !fits {
            faults.push(format!("{at} is no {}: {value}", schema["type"]));
            return;
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            faults.push(format!("{at} is `{value}`, not one of the words"));
        }
        if schema["format"] == "date-time"
            && value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_err())
        {
            faults.push(format!("{at} is `{value}`, no time"));
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // Go leaves out what is null although the description wants it.
            let absent = value.get(name).is_none();
            let may = self.resolve(&schema["properties"][name])["x-nullable"] == true;
            if absent && !may && !schema["properties"][name].is_null() {
                faults.push(format!("{at} has no `{name}`"));
            }
        }
        if let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
            for (name, field) in fields {
                if let Some(schema) = known.get(name) {
                    self.check(schema, field, &format!("{at}.{name}"), faults);
                }
            }
        }
        for item in value.as_array().into_iter().flatten() {
            self.check(&schema["items"], item, &format!("{at}[]"), faults);
        }
    }
}
