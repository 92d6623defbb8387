//! `GET /items/{item_id}` and `GET`, `DELETE /items/{item_id}/orders/me`.

use order_status::App;
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
        async move { order_status::handle(&app, &request).await }
    })
    .await
}
