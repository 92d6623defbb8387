//! Places the orders of the region's order log in main's queue. An event source mapping invokes it with batches of the
//! log's stream.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use order_place::event::StreamEvent;
use order_place::{App, RUN_LIMIT, handle};
use shared::keep_warm::KeepWarm;
use shared::{config, schedule, startup, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let source = &config::process_environment;
    let telemetry = Telemetry::start(&config::region(source)?)?;
    let app = Arc::new(App::from_config(source).map_err(startup::start_error)?);
    app.open();
    lambda_runtime::run(KeepWarm(service_fn(move |event: LambdaEvent<StreamEvent>| {
        let (app, telemetry) = (app.clone(), telemetry.clone());
        let time = schedule::run_time(&event.context, RUN_LIMIT);
        async move {
            let response = handle(&app, &event.payload, time).await;
            telemetry.invocation_done();
            Ok::<_, Error>(response)
        }
    })))
    .await
}
