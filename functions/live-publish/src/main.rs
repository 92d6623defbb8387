//! Tells those who watch what has changed, every minute for a minute.

use lambda_runtime::{LambdaEvent, service_fn};
use live_publish::App;
use shared::schedule::{ScheduledEvent, run_time};
use shared::{config, http, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let telemetry = Telemetry::start(&config::region(source)?)?;
    let app = Arc::new(App::from_config(source, telemetry).await.map_err(http::start_error)?);
    app.open();
    lambda_runtime::run(service_fn(move |event: LambdaEvent<ScheduledEvent>| {
        let app = app.clone();
        async move {
            let time = run_time(&event.context, app.fallback_run_time());
            Ok::<_, lambda_runtime::Error>(live_publish::run(&app, time).await)
        }
    }))
    .await
}
