//! Monitors the replica that a failover would promote: once a minute, and when an alarm changes its state.

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use replica_lag::trigger::LagTrigger;
use replica_lag::{App, RUN_LIMIT, run};
use serde_json::Value;
use shared::keep_warm::KeepWarm;
use shared::schedule::run_time;
use shared::{config, startup, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let region = config::region(source)?;
    let telemetry = Telemetry::start(&region)?;
    let app = Arc::new(App::from_config(source, &region).await.map_err(startup::start_error)?);
    lambda_runtime::run(KeepWarm(service_fn(move |event: LambdaEvent<Value>| {
        let (app, telemetry) = (app.clone(), telemetry.clone());
        async move {
            let trigger = LagTrigger::parse(event.payload, app.alarm_arn_prefix()).map_err(|error| {
                Diagnostic { error_type: "BadEvent".into(), error_message: error.to_string() }
            })?;
            let report = Box::pin(run::run(&app, &trigger, run_time(&event.context, RUN_LIMIT))).await;
            telemetry.invocation_done();
            Ok::<_, Diagnostic>(report)
        }
    })))
    .await
}
