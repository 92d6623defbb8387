//! Moves main to this region when an operator asks for it, and resumes the run every minute until it is done.

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use region_failover::command::Command;
use region_failover::{App, RUN_LIMIT, handle};
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
            let command = Command::parse(event.payload)?;
            let time = run_time(&event.context, RUN_LIMIT);
            let answer = Box::pin(handle(&app, command, &event.context.request_id, time)).await;
            telemetry.invocation_done();
            answer.map_err(Diagnostic::from)
        }
    })))
    .await
}
