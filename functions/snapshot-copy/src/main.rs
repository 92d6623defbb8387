//! Takes, copies and deletes snapshots by the policy. A schedule starts a run every 15 minutes.

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde_json::Value;
use shared::keep_warm::KeepWarm;
use shared::schedule::run_time;
use shared::{config, startup, telemetry::Telemetry};
use snapshot_copy::{App, RUN_LIMIT, RunRequest};
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
            let failure = |error_type: &str, why: String| Diagnostic {
                error_type: error_type.into(),
                error_message: why,
            };
            let request =
                RunRequest::try_from(event.payload).map_err(|why| failure("BadEvent", why.into()))?;
            let report = snapshot_copy::run(&app, request, run_time(&event.context, RUN_LIMIT)).await;
            telemetry.invocation_done();
            report.map_err(|why| failure("RegionUnreachable", why.to_string()))
        }
    })))
    .await
}
