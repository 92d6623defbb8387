//! EventBridge Scheduler: schedules that invoke a region's functions.

use super::api_error::{ApiError, json_answer};
use super::function_calls::known;
use super::functions::{Fleet, Planned};
use super::{ACCOUNT, Call, ControlledAccount, locked};
use axum::body::Body;
use axum::http::Response;
use local::aws::schedule::{self, Plan, Schedule, Since};
use serde_json::{Value, json};
use std::time::Duration;

impl Fleet {
    /// Creates a schedule that invokes `function` every minute, enabled or not.
    pub fn plan(&self, name: &str, function: &str, is_enabled: bool) -> anyhow::Result<()> {
        let definition = json!({
            "State": if is_enabled { "ENABLED" } else { "DISABLED" },
            "ScheduleExpression": "rate(1 minute)",
            "FlexibleTimeWindow": { "Mode": "OFF" },
            "Target": {
                "Arn": self.arn(function),
                "RoleArn": format!("arn:aws:iam::{ACCOUNT}:role/{name}"),
                "RetryPolicy": { "MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60 },
            },
        });
        let refused = |refusal: ApiError| anyhow::anyhow!("{}", refusal.message);
        self.replace(name, definition, Since::LongAgo).map_err(refused)
    }

    fn replace(&self, name: &str, definition: Value, since: Since) -> Result<(), ApiError> {
        let every = interval(&definition, self.minute)?;
        let arn = definition["Target"]["Arn"].as_str().unwrap_or_default();
        let binary = self.with(arn, |deployed| Ok(deployed.binary()))?;
        let mut schedules = locked(&self.schedules);
        let was_running = schedules.remove(name).and_then(|planned| {
            let is_same = ["ScheduleExpression", "Target"]
                .iter()
                .all(|field| planned.definition.get(*field) == definition.get(*field));
            planned.running.filter(|_| is_same)
        });
        let is_enabled = definition["State"].as_str() != Some("DISABLED");
        let seed = schedule::seed();
        let plan = Plan { function: binary, region: self.region(), interval: every, seed, since };
        let start = || Schedule::start(self.invoke_api().clone(), &plan);
        let running = is_enabled.then(|| was_running.unwrap_or_else(start));
        schedules.insert(name.to_owned(), Planned { definition, running });
        Ok(())
    }
}

/// The interval of `rate(N minutes)`.
fn interval(definition: &Value, minute: Duration) -> Result<Duration, ApiError> {
    let expression = definition["ScheduleExpression"].as_str().unwrap_or_default();
    let inner = expression.strip_prefix("rate(").and_then(|rest| rest.strip_suffix(')'));
    let minutes = inner.and_then(|inner| inner.split_once(' ')).and_then(|(number, unit)| {
        unit.starts_with("minute").then_some(number.parse::<u32>().ok().filter(|n| *n > 0)).flatten()
    });
    let why = format!("the control plane on this machine does not implement the expression {expression}");
    minutes.map(|minutes| minute * minutes).ok_or_else(|| ApiError::new(400, "ValidationException", why))
}

pub(super) async fn answer(account: &ControlledAccount, call: &Call) -> Result<Response<Body>, ApiError> {
    let throttling = ApiError::new(429, "ThrottlingException", "Rate exceeded");
    account.admit(call, throttling).await?;
    let path = call.parts.uri.path();
    let name = path.strip_prefix("/schedules/").filter(|name| !name.contains('/'));
    let unknown = || ApiError::unknown(&format!("Scheduler's {} {path}", call.parts.method));
    let name = name.ok_or_else(unknown)?;
    let missing =
        || ApiError::new(404, "ResourceNotFoundException", format!("Schedule {name} does not exist."));
    let fleet = account.fleet(&call.region).ok_or_else(missing)?;
    let arn = format!("arn:aws:scheduler:{}:{ACCOUNT}:schedule/default/{name}", call.region);
    let definition = locked(&fleet.schedules).get(name).map(|planned| planned.definition.clone());
    let mut definition = definition.ok_or_else(missing)?;
    match call.parts.method.as_str() {
        "GET" => {
            definition["Name"] = name.into();
            definition["Arn"] = arn.into();
            definition["GroupName"] = "default".into();
            Ok(json_answer(200, &definition))
        }
        "PUT" => {
            let mut input: Value = serde_json::from_slice(&call.body)
                .map_err(|error| ApiError::new(400, "ValidationException", error.to_string()))?;
            let fields = ["State", "ScheduleExpression", "Target", "FlexibleTimeWindow"];
            known(
                &input,
                &[
                    &fields[..],
                    &[
                        "GroupName",
                        "ClientToken",
                        "Description",
                        "ScheduleExpressionTimezone",
                        "ActionAfterCompletion",
                    ],
                ]
                .concat(),
            )?;
            // An update replaces all fields, and these three are required.
            for field in ["ScheduleExpression", "Target", "FlexibleTimeWindow"] {
                if input[field].is_null() {
                    return Err(ApiError::new(400, "ValidationException", format!("{field} is missing")));
                }
            }
            if let Some(input) = input.as_object_mut() {
                input.entry("State").or_insert_with(|| "ENABLED".into());
                input.remove("ClientToken");
            }
            fleet.replace(name, input, Since::Now)?;
            Ok(json_answer(200, &json!({ "ScheduleArn": arn })))
        }
        _ => Err(unknown()),
    }
}
