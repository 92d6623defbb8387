//! WebSocket events: `$connect`, `$disconnect`, and every message of a client.

use lambda_runtime::{LambdaEvent, service_fn};
use live_updates::{App, SocketEvent};
use shared::keep_warm::KeepWarm;
use shared::{config, startup, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let telemetry = Telemetry::start(&config::region(source)?)?;
    let app = Arc::new(App::from_config(source).map_err(startup::start_error)?);
    app.open();
    lambda_runtime::run_concurrent(KeepWarm(service_fn(move |event: LambdaEvent<SocketEvent>| {
        let (app, telemetry) = (app.clone(), telemetry.clone());
        async move {
            let answer = live_updates::handle(&app, event.payload).await;
            telemetry.invocation_done();
            Ok::<_, lambda_runtime::Error>(answer)
        }
    })))
    .await
}
