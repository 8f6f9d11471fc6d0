//! `UnmarshalJSON` as a method: the line's members become top-level keys of `evt.Unmarshaled`.

use expr::Stored;
use model::Event;
use model::fields;
use serde_json::Value;

/// Parses the line, which must be a JSON object.
pub(super) fn enrich(event: &Event) -> Result<(), String> {
    let line = event.get(fields::LINE_RAW).unwrap_or("");
    match expr::json::read(line) {
        Ok(Value::Object(members)) => {
            for (key, value) in members {
                event.unmarshal(&key, Stored::Json(value)).map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        Ok(_) => Err("the line is not a JSON object".into()),
        Err(error) => Err(format!("the line is not JSON: {error}")),
    }
}
