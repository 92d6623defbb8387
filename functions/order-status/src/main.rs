//! `GET /items/{item_id}` and `GET`, `DELETE /items/{item_id}/orders/me`.

use shared::{config, edge::Edge, http, startup, telemetry::Telemetry};
use std::sync::Arc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let source = &config::process_environment;
    let telemetry = Telemetry::start(&config::region(source)?)?;
    let edge = Arc::new(Edge::from_config(source).map_err(startup::start_error)?);
    edge.open();
    http::serve(telemetry, move |request| {
        let edge = edge.clone();
        async move { order_status::handle(&edge, &request).await }
    })
    .await
}
