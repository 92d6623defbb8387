//! `POST /items/{item_id}/payments`: the result of a buyer's payment. Called by the shop's
//! backend, through the API's IAM-protected route or by direct invocation.

use lambda_runtime::{LambdaEvent, service_fn};
use order_confirm::App;
use serde_json::Value;
use shared::keep_warm::KeepWarm;
use shared::{config, startup, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let telemetry = Telemetry::start(&config::region(source)?)?;
    let app = Arc::new(App::from_config(source).await.map_err(startup::start_error)?);
    app.open();
    lambda_runtime::run_concurrent(KeepWarm(service_fn(move |event: LambdaEvent<Value>| {
        let (app, telemetry) = (app.clone(), telemetry.clone());
        async move {
            // Boxed, since this future is too deeply nested for the compiler.
            let answer = Box::pin(order_confirm::answer(&app, event.payload)).await;
            telemetry.invocation_done();
            answer
        }
    })))
    .await
}
