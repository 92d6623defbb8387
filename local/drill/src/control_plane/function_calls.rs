//! The operations of Lambda.

use super::api_error::{ApiError, json_answer, respond};
use super::function_state::{LambdaState, may_be_updated};
use super::functions::{Deployed, Environment, Fleet};
use super::{Call, ControlledAccount};
use axum::body::Body;
use axum::http::{HeaderValue, Response};
use local::aws::lambda::Invoked;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Lambda's limit for an invocation.
const INVOKE_LIMIT: Duration = Duration::from_secs(900);

pub(super) async fn answer(account: &ControlledAccount, call: &Call) -> Result<Response<Body>, ApiError> {
    let throttling = ApiError::new(429, "TooManyRequestsException", "Rate exceeded");
    account.admit(call, throttling).await?;
    let fleet = account.fleet(&call.region).ok_or_else(|| {
        ApiError::new(
            404,
            "ResourceNotFoundException",
            format!("the account has no functions in {}", call.region),
        )
    })?;
    let path: Vec<String> = call
        .parts
        .uri
        .path()
        .trim_matches('/')
        .split('/')
        .map(|step| percent_decode_str(step).decode_utf8_lossy().into_owned())
        .collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let unknown = || ApiError::unknown(&format!("Lambda's {} {}", call.parts.method, call.parts.uri.path()));
    if path == ["2016-08-19", "account-settings"] {
        let limit = json!({ "ConcurrentExecutions": 1_000, "UnreservedConcurrentExecutions": 1_000 });
        return Ok(json_answer(200, &json!({ "AccountLimit": limit })));
    }
    let ["2015-03-31" | "2017-10-31" | "2019-09-30", "functions", name, rest @ ..] = path.as_slice() else {
        return Err(unknown());
    };
    match (call.parts.method.as_str(), rest) {
        ("GET", ["configuration"]) => {
            let qualifier = qualifier(call);
            let shown = fleet.with(name, |deployed| show(&fleet, name, deployed, qualifier.as_deref()))?;
            Ok(json_answer(200, &shown))
        }
        ("PUT", ["configuration"]) => update(&fleet, name, &input(call)?),
        ("POST", ["versions"]) => publish(&fleet, name, &input(call)?),
        ("GET", ["aliases", alias]) => {
            Ok(json_answer(200, &fleet.with(name, |deployed| show_alias(&fleet, name, deployed, alias))?))
        }
        ("PUT", ["aliases", alias]) => update_alias(&fleet, name, alias, &input(call)?).await,
        ("GET", ["concurrency"]) => {
            let reserved = fleet.with(name, |deployed| Ok(deployed.reserved))?;
            Ok(json_answer(200, &show_concurrency(reserved)))
        }
        ("PUT", ["concurrency"]) => {
            let input = input(call)?;
            known(&input, &["ReservedConcurrentExecutions"])?;
            let reserved = input["ReservedConcurrentExecutions"].as_u64().and_then(|n| u32::try_from(n).ok());
            let reserved = reserved.ok_or_else(|| bad("ReservedConcurrentExecutions must be a number"))?;
            fleet.reserve(name, Some(reserved))?;
            Ok(json_answer(200, &show_concurrency(Some(reserved))))
        }
        ("DELETE", ["concurrency"]) => {
            fleet.reserve(name, None)?;
            Ok(respond(204, "application/json", String::new()))
        }
        ("POST", ["invocations"]) => invoke(&fleet, name, call).await,
        _ => Err(unknown()),
    }
}

fn input(call: &Call) -> Result<Value, ApiError> {
    if call.body.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(&call.body)
        .map_err(|error| ApiError::new(400, "InvalidRequestContentException", error.to_string()))
}

fn bad(why: &str) -> ApiError {
    ApiError::new(400, "InvalidParameterValueException", why)
}

/// Refuses a field that would be ignored.
pub(super) fn known(input: &Value, fields: &[&str]) -> Result<(), ApiError> {
    let mut names = input.as_object().into_iter().flatten().map(|(name, _)| name);
    match names.find(|name| !fields.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            Err(bad(&format!("the control plane on this machine does not implement the field {name}")))
        }
    }
}

fn qualifier(call: &Call) -> Option<String> {
    let pairs = call.parts.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.into_iter().find(|(name, _)| *name == "Qualifier");
    found.map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
}

fn show(fleet: &Fleet, name: &str, deployed: &Deployed, qualifier: Option<&str>) -> Result<Value, ApiError> {
    let (environment, state, version) = match qualifier {
        None | Some("$LATEST") => (deployed.latest(), deployed.state, "$LATEST".to_owned()),
        Some(qualifier) => {
            let is_alias = deployed.alias() == Some(qualifier);
            let number = if is_alias { Some(deployed.live) } else { qualifier.parse().ok() };
            let found = number.and_then(|number| deployed.versions.get(number.checked_sub(1)?));
            let missing = format!("Function not found: {}:{qualifier}", fleet.arn(name));
            let found = found.ok_or_else(|| ApiError::new(404, "ResourceNotFoundException", missing))?;
            // A function that is idle for long is inactive with all its versions.
            let is_active = deployed.state == LambdaState::Active;
            let state = if is_active { found.state } else { deployed.state };
            (&found.environment, state, number.unwrap_or_default().to_string())
        }
    };
    let is_latest = version == "$LATEST";
    let arn = match qualifier {
        Some(qualifier) => format!("{}:{qualifier}", fleet.arn(name)),
        None => fleet.arn(name),
    };
    let status = if is_latest && deployed.is_updating { "InProgress" } else { "Successful" };
    let revision = if is_latest { format!("r-{}", deployed.revision) } else { format!("v-{version}") };
    Ok(json!({
        "FunctionName": name.rsplit(':').next(),
        "FunctionArn": arn,
        "Runtime": "provided.al2023",
        "Version": version,
        "State": state.name(),
        "StateReasonCode": state.reason(),
        "LastUpdateStatus": status,
        "RevisionId": revision,
        "Environment": { "Variables": environment },
    }))
}

/// Refuses a change of another revision, and a change during an update.
fn may_change(
    fleet: &Fleet,
    deployed: &Deployed,
    revision: Option<&str>,
    input: &Value,
) -> Result<(), ApiError> {
    may_be_updated(fleet, deployed)?;
    if deployed.is_updating {
        let why = "The operation cannot be performed at this time. An update is in progress.";
        return Err(ApiError::new(409, "ResourceConflictException", why));
    }
    match (input["RevisionId"].as_str(), revision) {
        (Some(named), Some(is)) if named != is => {
            let why = "The Revision Id provided does not match the latest Revision Id.";
            Err(ApiError::new(412, "PreconditionFailedException", why))
        }
        _ => Ok(()),
    }
}

fn update(fleet: &Arc<Fleet>, name: &str, input: &Value) -> Result<Response<Body>, ApiError> {
    known(input, &["Environment", "RevisionId"])?;
    fleet.with(name, |deployed| {
        may_change(fleet, deployed, Some(&format!("r-{}", deployed.revision)), input)
    })?;
    let variables = input["Environment"]["Variables"].clone();
    let environment: Environment = serde_json::from_value(variables)
        .map_err(|_| bad("Environment.Variables must be an object of strings"))?;
    fleet.configure(name, environment)?;
    Ok(json_answer(200, &fleet.with(name, |deployed| show(fleet, name, deployed, None))?))
}

/// As on AWS, no version is published if nothing has changed since the last one.
fn publish(fleet: &Arc<Fleet>, name: &str, input: &Value) -> Result<Response<Body>, ApiError> {
    known(input, &["RevisionId", "Description"])?;
    let shown = fleet.with(name, |deployed| {
        may_change(fleet, deployed, Some(&format!("r-{}", deployed.revision)), input)?;
        fleet.publish(name, deployed);
        let version = deployed.versions.len().to_string();
        show(fleet, name, deployed, Some(&version))
    })?;
    Ok(json_answer(201, &shown))
}

fn show_alias(fleet: &Fleet, name: &str, deployed: &Deployed, alias: &str) -> Result<Value, ApiError> {
    if deployed.alias() != Some(alias) {
        let why = format!("Cannot find alias arn: {}:{alias}", fleet.arn(name));
        return Err(ApiError::new(404, "ResourceNotFoundException", why));
    }
    Ok(json!({
        "AliasArn": format!("{}:{alias}", fleet.arn(name)),
        "Name": alias,
        "FunctionVersion": deployed.live.to_string(),
        "RevisionId": format!("a-{}", deployed.alias_revision),
    }))
}

async fn update_alias(
    fleet: &Fleet,
    name: &str,
    alias: &str,
    input: &Value,
) -> Result<Response<Body>, ApiError> {
    known(input, &["FunctionVersion", "RevisionId", "Description"])?;
    let is_changed = fleet.with(name, |deployed| {
        show_alias(fleet, name, deployed, alias)?;
        may_change(fleet, deployed, Some(&format!("a-{}", deployed.alias_revision)), input)?;
        let Some(version) = input["FunctionVersion"].as_str() else { return Ok(false) };
        let number = version.parse::<usize>().ok().filter(|n| (1..=deployed.versions.len()).contains(n));
        let why = format!("Function not found: {}:{version}", fleet.arn(name));
        let number = number.ok_or_else(|| ApiError::new(404, "ResourceNotFoundException", why))?;
        let is_changed = deployed.live != number;
        let could_be_invoked = deployed.can_be_invoked();
        (deployed.live, deployed.alias_revision) = (number, deployed.alias_revision + 1);
        // A version that is not active serves no request.
        fleet.apply(deployed, could_be_invoked)?;
        Ok(is_changed)
    })?;
    if is_changed {
        fleet.restart(name).await;
    }
    Ok(json_answer(200, &fleet.with(name, |deployed| show_alias(fleet, name, deployed, alias))?))
}

fn show_concurrency(reserved: Option<u32>) -> Value {
    reserved.map_or_else(|| json!({}), |reserved| json!({ "ReservedConcurrentExecutions": reserved }))
}

/// Invokes a function. A function behind an alias has one process here, which serves the alias.
async fn invoke(fleet: &Arc<Fleet>, name: &str, call: &Call) -> Result<Response<Body>, ApiError> {
    let (name, named) = match name.split(':').collect::<Vec<_>>().as_slice() {
        ["arn", .., function, qualifier] if *function != "function" => (*function, Some(*qualifier)),
        [function, qualifier] => (*function, Some(*qualifier)),
        _ => (name, None),
    };
    let qualifier = named.map(str::to_owned).or_else(|| qualifier(call));
    let binary = fleet.with(name, |deployed| match (deployed.alias(), qualifier.as_deref()) {
        (alias, qualifier) if alias == qualifier => Ok(deployed.binary()),
        (None, Some("$LATEST")) => Ok(deployed.binary()),
        (alias, _) => {
            Err(ApiError::unknown(&format!("invocations of {name} by another qualifier than {alias:?}")))
        }
    })?;
    fleet.may_be_invoked(name)?;
    let payload = if call.body.is_empty() { "{}".into() } else { call.body.to_vec() };
    let payload = String::from_utf8(payload)
        .map_err(|error| ApiError::new(400, "InvalidRequestContentException", error.to_string()))?;
    let invoke = fleet.invoke_api().clone();
    let kind = call.parts.headers.get("x-amz-invocation-type").and_then(|kind| kind.to_str().ok());
    match kind {
        Some("DryRun") => Ok(respond(204, "application/json", String::new())),
        Some("Event") => {
            tokio::spawn(async move { invoke.call_within(binary, payload, INVOKE_LIMIT).await });
            Ok(respond(202, "application/json", String::new()))
        }
        None | Some("RequestResponse") => match invoke.call_within(binary, payload, INVOKE_LIMIT).await {
            Ok(Invoked::Answer(answer)) => Ok(json_answer(200, &answer)),
            Ok(Invoked::FunctionError(error)) => {
                let mut response = json_answer(200, &error);
                response.headers_mut().insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
                Ok(response)
            }
            Err(error) => Err(ApiError::new(500, "ServiceException", format!("{error:#}"))),
        },
        Some(other) => Err(ApiError::unknown(&format!("the invocation type {other}"))),
    }
}
