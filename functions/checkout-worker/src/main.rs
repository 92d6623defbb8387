//! Records reservations in the ledger. Started every minute; runs for three minutes, so that runs overlap.

use checkout_worker::{App, run};
use shared::{config, schedule, startup, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let telemetry = Telemetry::start(&config::region(source)?)?;
    let app = Arc::new(App::from_config(source, telemetry).await.map_err(startup::start_error)?);
    app.open();
    schedule::serve(app.longest_run(), move |time| {
        let app = app.clone();
        async move { run(&app, time).await }
    })
    .await
}
