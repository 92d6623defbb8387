//! `POST /items/{item_id}/orders`: stamps an order and sends it to main.

use order_intake::App;
use shared::{config, http, startup, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let source = &config::process_environment;
    let telemetry = Telemetry::start(&config::region(source)?)?;
    let app = Arc::new(App::from_config(source).map_err(startup::start_error)?);
    app.open();
    http::serve(telemetry, move |request| {
        let app = app.clone();
        async move { order_intake::handle(&app, &request).await }
    })
    .await
}
