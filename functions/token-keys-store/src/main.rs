//! Stores the issuer's keys that `token-keys` has fetched. Only `token-keys` may invoke it.

use lambda_runtime::{LambdaEvent, service_fn};
use shared::keep_warm::KeepWarm;
use shared::token_keys::FetchedKeys;
use shared::{config, startup, telemetry::Telemetry};
use std::sync::Arc;
use token_keys_store::App;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let telemetry = Telemetry::start(&config::region(source)?)?;
    let app = Arc::new(App::from_config(source).map_err(startup::start_error)?);
    app.open();
    lambda_runtime::run(KeepWarm(service_fn(move |event: LambdaEvent<FetchedKeys>| {
        let (app, telemetry) = (app.clone(), telemetry.clone());
        async move {
            let answer = token_keys_store::store(&app, &event.payload).await;
            telemetry.invocation_done();
            answer
        }
    })))
    .await
}
