//! Machines over HTTP: registration, login, signs of life (spec: local-api 5 and 15), and their accounts.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::alerts::{acting, durable};
use super::ask::{Administered, Sent};
use super::auth::{self, BouncerId, Client, MachineId};
use super::bouncers::{flags, os, read_duration};
use super::error::ApiError;
use super::limits::{LARGE_BODY, SMALL_BODY};
use super::service::{AccountError, Login, NewMachine};
use super::{App, json};
use crate::store::{Report, Right};
use crate::wire::{LoginBody, RegisterBody};

pub(crate) async fn register(
    State(app): State<Arc<App>>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let local = client.socket || client.ip.is_loopback();
    if app.config.local_registration_only && !local {
        return Err(ApiError::forbidden());
    }
    limit(&app, &client)?;
    let body = app.limits.body(&headers, body, SMALL_BODY).await?;
    let body: RegisterBody = serde_json::from_slice(&body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let mut wrong = Vec::new();
    let (name, password) = credentials(body.machine_id, body.password, &mut wrong);
    let token = body.registration_token.filter(|token| !token.expose_secret().is_empty());
    match token.as_ref().map(|token| token.expose_secret().len()) {
        Some(0..32) => wrong.push("registration_token in body should be at least 32 chars long"),
        Some(256..) => wrong.push("registration_token in body should be at most 255 chars long"),
        _ => {}
    }
    if !wrong.is_empty() {
        let message = format!("validation failure list:\n{}", wrong.join("\n"));
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let mut validated = false;
    if let (Some(token), Some(auto)) = (&token, &app.config.auto_registration) {
        if !auto.token.is(token.expose_secret()) {
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid token for auto registration"));
        }
        if !auto.ranges.iter().any(|net| net.contains(&client.ip)) {
            let message = "IP not in allowed range for auto registration";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, message));
        }
        validated = true;
    }
    let author = name.clone();
    let new = NewMachine { name, password, validated, force: false, ip: client.ip.to_string() };
    durable(acting(&app, &author, &client).add_machine(new).await?).await?;
    Ok(if validated { StatusCode::ACCEPTED } else { StatusCode::CREATED }.into_response())
}

pub(crate) async fn login(
    State(app): State<Arc<App>>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let accepted = client
        .certificate
        .as_ref()
        .map(|certificate| app.accepts(certificate, Right::Push).map_err(|reason| auth::refused(certificate, &reason)));
    // whoever has proven who he is guesses nothing
    if !matches!(accepted, Some(Ok(()))) {
        limit(&app, &client)?;
    }
    let missing = |what: String| ApiError::Token(format!("missing: {what}"));
    let body = match app.limits.body(&headers, body, SMALL_BODY).await {
        Ok(body) => body,
        Err(ApiError::Status(_, message)) => return Err(missing(message)),
        Err(other) => return Err(other),
    };
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    if let (Some(certificate), Some(accepted)) = (&client.certificate, accepted) {
        if body.is_empty() {
            return Err(ApiError::Token("missing scenarios list in login request for TLS auth: EOF".into()));
        }
        let body: LoginBody = serde_json::from_slice(&body).map_err(|error| missing(error.to_string()))?;
        accepted.map_err(ApiError::Token)?;
        let name = format!("{}@{}", certificate.name, client.ip);
        let scenarios = body.scenarios.unwrap_or_default();
        let (password, ip) = (SecretString::default(), client.ip.to_string());
        let login = Login { name: &name, password, ip, agent, scenarios: &scenarios };
        app.service.log_in_certificate(login).await.map_err(|error| match error {
            AccountError::Store(error) => error.into(),
            refused => ApiError::Token(refused.to_string()),
        })?;
        return Ok(json(&app.tokens.issue(&name, Timestamp::now())?));
    }
    let body: LoginBody = serde_json::from_slice(&body).map_err(|error| missing(error.to_string()))?;
    let mut wrong = Vec::new();
    let (name, password) = credentials(body.machine_id, body.password, &mut wrong);
    if !wrong.is_empty() {
        return Err(ApiError::Token(format!("validation failure list:\n{}", wrong.join("\n"))));
    }
    let scenarios = body.scenarios.unwrap_or_default();
    let login = Login { name: &name, password, ip: client.ip.to_string(), agent, scenarios: &scenarios };
    app.service.log_in(login).await.map_err(|error| match error {
        AccountError::Store(error) => error.into(),
        refused => ApiError::Token(refused.to_string()),
    })?;
    Ok(json(&app.tokens.issue(&name, Timestamp::now())?))
}

pub(crate) async fn refresh(
    State(app): State<Arc<App>>,
    client: Client,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let now = Timestamp::now();
    let machine = app.tokens.renewable(&headers, now)?;
    app.still_good(&machine, client.certificate.as_deref())?;
    Ok(json(&app.tokens.issue(&machine, now)?))
}

pub(crate) async fn remove_self(
    State(app): State<Arc<App>>,
    MachineId(machine): MachineId,
    client: Client,
) -> Result<Response, ApiError> {
    match acting(&app, &machine, &client).delete_machine(&machine).await {
        Ok(receipt) => durable(receipt).await?,
        Err(AccountError::NoMachine) => return Err(ApiError::internal(format!("'{machine}' does not exist"))),
        Err(error) => return Err(error.into()),
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn heartbeat(State(app): State<Arc<App>>, MachineId(machine): MachineId) -> StatusCode {
    app.service.heartbeat(&machine);
    StatusCode::OK
}

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let rows: Vec<_> = app
        .service
        .machines()
        .into_iter()
        .map(|row| {
            json!({
                "created_at": row.created_at,
                "updated_at": row.updated_at,
                "last_push": row.last_push,
                "last_heartbeat": row.last_heartbeat,
                "machineId": row.name,
                "ipAddress": row.ip,
                "version": row.version,
                "isValidated": row.validated,
                "auth_type": row.auth_type,
                "os": os(&row.report),
                "featureflags": flags(&row.report),
                "datasources": row.report.datasources,
            })
        })
        .collect();
    json(&rows)
}

/// A machine to be made.
#[derive(Deserialize)]
pub(crate) struct NewBody {
    name: String,
    password: SecretString,
    #[serde(default)]
    force: bool,
}

pub(crate) async fn add(
    Administered(service): Administered,
    Sent(NewBody { name, password, force }): Sent<NewBody>,
) -> Result<Response, ApiError> {
    let new = NewMachine { name, password, validated: true, force, ip: String::new() };
    durable(service.add_machine(new).await?).await?;
    Ok(StatusCode::CREATED.into_response())
}

pub(crate) async fn remove(
    Administered(service): Administered,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    durable(service.delete_machine(&name).await?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn validate(
    Administered(service): Administered,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    durable(service.validate_machine(&name).await?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Which machines are removed.
#[derive(Deserialize)]
pub(crate) struct PruneBody {
    /// Those without a sign of life for so long, as `10m`.
    silent: String,
    /// Only those that were never validated.
    #[serde(default)]
    only_pending: bool,
}

pub(crate) async fn prune(
    Administered(service): Administered,
    Sent(PruneBody { silent, only_pending }): Sent<PruneBody>,
) -> Result<Response, ApiError> {
    let (names, receipt) = service.prune_machines(read_duration(&silent)?, only_pending).await?;
    durable(receipt).await?;
    Ok(json(&json!({ "removed": names })))
}

/// Who sends usage metrics.
enum Sender {
    Bouncer(Option<String>),
    Machine(String),
}

pub(crate) async fn usage_metrics(
    State(app): State<Arc<App>>,
    request: axum::extract::Request,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let has = |name: &str| parts.headers.contains_key(name);
    let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let as_machine = !has("x-api-key") && (has("authorization") || agent.starts_with("crowdsec/"));
    let sender = if as_machine {
        Sender::Machine(extract::<MachineId>(&mut parts, &app).await?.0)
    } else {
        Sender::Bouncer(extract::<BouncerId>(&mut parts, &app).await?.0)
    };
    let body = app.limits.body(&parts.headers, body, LARGE_BODY).await?;
    let body: AllMetrics = serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let wrong = body.wrong();
    if !wrong.is_empty() {
        let message = format!("validation failure list:\n{}", wrong.join("\n"));
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let (items, what, missing) = match sender {
        Sender::Bouncer(_) => {
            (body.remediation_components, "remediation component", "Missing remediation component data")
        }
        Sender::Machine(_) => (body.log_processors, "log processor", "Missing log processor data"),
    };
    let mut items = items.unwrap_or_default();
    let (Some(item), true) = (items.pop(), items.is_empty()) else {
        let many = format!("Payload has more than one {what}");
        return Err(ApiError::bad_request(if items.is_empty() { missing.to_owned() } else { many }));
    };
    let (bouncer, name) = match sender {
        Sender::Bouncer(name) => (true, name.unwrap_or_default()),
        Sender::Machine(name) => (false, name),
    };
    let mut payload = json!({ "metrics": item.metrics });
    if bouncer {
        payload["type"] = json!(item.kind);
    }
    let os = item.os.unwrap_or_default();
    let report = Report {
        os_name: os.name.unwrap_or_default(),
        os_family: os.family.unwrap_or_default(),
        os_version: os.version.unwrap_or_default(),
        feature_flags: item.feature_flags.unwrap_or_default().join(","),
        datasources: item.datasources,
        hub_items: item.hub_items,
    };
    let version = item.version.unwrap_or_default();
    let enforced = item.metrics.as_deref().and_then(active_decisions);
    durable(app.service.report(bouncer, &name, &version, report, payload.to_string(), enforced).await?).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// How many decisions a bouncer says that it enforces.
fn active_decisions(metrics: &[Value]) -> Option<i64> {
    let items = metrics.iter().filter_map(|metric| metric.get("items")?.as_array()).flatten();
    let counts = items.filter(|item| item.get("name").and_then(Value::as_str) == Some("active_decisions"));
    let counts = counts.filter_map(|item| Some(item.get("value")?.as_f64()? as i64));
    counts.fold(None, |sum: Option<i64>, count| Some(sum.unwrap_or(0).saturating_add(count)))
}

async fn extract<T>(parts: &mut axum::http::request::Parts, app: &Arc<App>) -> Result<T, ApiError>
where
    T: axum::extract::FromRequestParts<Arc<App>, Rejection = ApiError>,
{
    T::from_request_parts(parts, app).await
}

/// The body of `/v1/usage-metrics`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AllMetrics {
    log_processors: Option<Vec<Component>>,
    remediation_components: Option<Vec<Component>>,
}

/// What one component reports.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Component {
    version: Option<String>,
    utc_startup_timestamp: Option<i64>,
    os: Option<Os>,
    feature_flags: Option<Vec<String>>,
    metrics: Option<Vec<Value>>,
    #[serde(rename = "type")]
    kind: Option<String>,
    hub_items: Option<Value>,
    datasources: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Os {
    name: Option<String>,
    family: Option<String>,
    version: Option<String>,
}

impl AllMetrics {
    /// What is missing, or too long.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let kinds =
            [("log_processors", &self.log_processors), ("remediation_components", &self.remediation_components)];
        for (kind, items) in kinds {
            for (index, item) in items.iter().flatten().enumerate() {
                let mut require = |name: &str, there: bool| {
                    if !there {
                        wrong.push(format!("{kind}.{index}.{name} in body is required"));
                    }
                };
                require("version", item.version.is_some());
                require("utc_startup_timestamp", item.utc_startup_timestamp.is_some());
                if let Some(os) = &item.os {
                    require("os.name", os.name.is_some());
                    require("os.version", os.version.is_some());
                }
                if kind == "log_processors" {
                    require("datasources", item.datasources.as_ref().is_some_and(|value| !value.is_null()));
                    require("hub_items", item.hub_items.as_ref().is_some_and(|value| !value.is_null()));
                }
                for (at, detail) in item.metrics.iter().flatten().enumerate() {
                    require(&format!("metrics.{at}.meta"), detail.get("meta").is_some_and(Value::is_object));
                    require(&format!("metrics.{at}.items"), detail.get("items").is_some_and(Value::is_array));
                    let entries = detail.get("items").and_then(Value::as_array);
                    for (number, entry) in entries.into_iter().flatten().enumerate() {
                        for name in ["name", "value", "unit"] {
                            let there = entry.get(name).is_some_and(|value| !value.is_null());
                            require(&format!("metrics.{at}.items.{number}.{name}"), there);
                        }
                    }
                }
                let texts = [("version", &item.version), ("type", &item.kind)];
                let long = texts.iter().filter(|(_, text)| text.as_ref().is_some_and(|text| text.len() > 255));
                let long: Vec<_> = long
                    .map(|(name, _)| format!("{kind}.{index}.{name} in body should be at most 255 chars long"))
                    .collect();
                wrong.extend(long);
            }
        }
        wrong
    }
}

fn limit(app: &App, client: &Client) -> Result<(), ApiError> {
    if client.socket { Ok(()) } else { app.limits.check_login(client.ip) }
}

/// Name and password of a machine; says in `wrong` which is missing.
fn credentials(
    machine_id: Option<String>,
    password: Option<SecretString>,
    wrong: &mut Vec<&'static str>,
) -> (String, SecretString) {
    let (name, password) = (machine_id.unwrap_or_default(), password.unwrap_or_default());
    if name.is_empty() {
        wrong.push("machine_id in body is required");
    }
    if password.expose_secret().is_empty() {
        wrong.push("password in body is required");
    }
    (name, password)
}
