//! Fetches the issuer's public keys, in the main region and in the standby. Started every minute, runs for 75 s.

use shared::{config, schedule, startup, telemetry::Telemetry};
use std::sync::Arc;
use token_keys::{App, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let region = config::region(source)?;
    let telemetry = Telemetry::start(&region)?;
    let app = Arc::new(App::from_config(source, &region, telemetry).map_err(startup::start_error)?);
    schedule::serve(app.longest_run(), move |time| {
        let app = app.clone();
        async move { run(&app, time).await }
    })
    .await
}
