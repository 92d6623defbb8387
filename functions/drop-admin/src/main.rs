//! The operator's commands: items, migrations, rebuild, reconcile, audit. Invoked directly
//! by those whom IAM lets; there is no route to it.

use drop_admin::App;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use shared::keep_warm::KeepWarm;
use shared::{config, startup, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let source = &config::process_environment;
    let _telemetry = Telemetry::start(&config::region(source)?)?;
    let app = Arc::new(App::from_config(source).await.map_err(startup::start_error)?);
    lambda_runtime::run(KeepWarm(service_fn(move |event: LambdaEvent<Value>| {
        let app = app.clone();
        async move { Box::pin(drop_admin::handle(&app, event.payload)).await }
    })))
    .await
}
