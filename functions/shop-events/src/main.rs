//! Publishes the outbox to the shop's event bus. Started every minute; runs for three minutes, so that runs overlap.

use shared::{config, schedule, startup, telemetry::Telemetry};
use shop_events::{App, run};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let region = config::region(source)?;
    let telemetry = Telemetry::start(&region)?;
    let app = App::from_config(source, &region, telemetry).await.map_err(startup::start_error)?;
    let app = Arc::new(app);
    schedule::serve(app.longest_run(), move |time| {
        let app = app.clone();
        async move { run(&app, time).await }
    })
    .await
}
