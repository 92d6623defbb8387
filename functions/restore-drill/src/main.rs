//! Restores the newest snapshot of the ledger in this region, checks the restored ledger and deletes it.

use lambda_runtime::{LambdaEvent, service_fn};
use restore_drill::{App, RUN_LIMIT};
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
            let time = run_time(&event.context, RUN_LIMIT);
            let report = Box::pin(restore_drill::handle(&app, event.payload, time)).await;
            telemetry.invocation_done();
            report
        }
    })))
    .await
}
