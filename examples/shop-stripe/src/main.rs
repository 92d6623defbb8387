//! The webhook endpoint as a Lambda function behind a function URL.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use shop_stripe::{App, OrderConfirm, Request, StartError, handle};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().json().with_target(false).init();
    let variable = |name: &'static str| std::env::var(name).map_err(|_| StartError::Missing(name));
    let confirm = OrderConfirm::in_region(&variable("AWS_REGION")?, &variable("ORDER_CONFIRM_FUNCTION")?);
    let app = Arc::new(App::new(&variable("STRIPE_WEBHOOK_SECRETS")?, confirm)?);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Request>| {
        let app = app.clone();
        async move {
            let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            Ok::<_, Error>(handle(&app, event.payload, now_seconds).await)
        }
    }))
    .await
}
