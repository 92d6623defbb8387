//! API Gateway's `@connections`: each message to each connection, at a pace, with limits on every wait.

use crate::outlet::{Outlet, Round, Sent};
use crate::pace::Pace;
use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_apigatewaymanagement::Client;
use aws_sdk_apigatewaymanagement::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use futures::StreamExt;
use live::connection_id::ConnectionId;
use shared::config::{self, ConfigError, Source};
use shared::item::ItemId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Order messages on their way at once.
const URGENT_AT_ONCE: usize = 64;
/// Item messages of one item on their way at once.
const OTHERS_AT_ONCE: usize = 32;
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// The longest that one call may take. Nothing is tried again here: the next look does.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// The connections of one WebSocket API.
#[derive(Clone, Debug)]
pub struct ApiGateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    pace: Pace,
    urgent: Semaphore,
}

impl ApiGateway {
    /// Reads `FAIRDROP_LIVE_ENDPOINT` and `FAIRDROP_LIVE_SENDS_PER_SECOND`. Nothing is connected yet.
    pub async fn from_config(source: Source<'_>) -> Result<Self, ConfigError> {
        let name = "FAIRDROP_LIVE_ENDPOINT";
        let endpoint = config::required(source, name)?;
        let is_local = endpoint.starts_with("http://127.0.0.1:");
        if !endpoint.starts_with("https://") && !is_local {
            return Err(ConfigError::bad(
                name,
                "it must be https://API.execute-api.REGION.amazonaws.com/STAGE",
            ));
        }
        let per_second = config::number(source, "FAIRDROP_LIVE_SENDS_PER_SECOND", 5_000, 1, 100_000)?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_LIMIT)
            .operation_attempt_timeout(CALL_LIMIT)
            .operation_timeout(CALL_LIMIT)
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .load()
            .await;
        Ok(Self(Arc::new(Inner {
            client: Client::new(&config),
            pace: Pace::new(per_second, Instant::now()),
            urgent: Semaphore::new(URGENT_AT_ONCE),
        })))
    }

    async fn post(&self, to: &ConnectionId, text: &str) -> Sent {
        let slot = self.0.pace.slot(Instant::now());
        tokio::time::sleep_until(slot.into()).await;
        let call = self.0.client.post_to_connection().connection_id(to.as_str());
        self.judge(call.data(Blob::new(text.as_bytes())).send().await.map(drop))
    }

    fn judge<E: ProvideErrorMetadata, R>(&self, outcome: Result<(), SdkError<E, R>>) -> Sent {
        let code = match &outcome {
            Ok(()) => None,
            Err(error) => Some(error.as_service_error().and_then(|error| error.code()).unwrap_or_default()),
        };
        let (sent, outcome) = match code {
            None => (Sent::Delivered, "delivered"),
            Some("GoneException" | "BadRequestException") => (Sent::Gone, "gone"),
            Some("LimitExceededException") => (Sent::NotNow, "throttled"),
            Some(_) => (Sent::NotNow, "failed"),
        };
        if outcome == "failed" {
            tracing::debug!(code, "a message is not sent");
        }
        self.0.pace.note(outcome == "throttled");
        metrics::counter!("live_messages", "Outcome" => outcome).increment(1);
        metrics::gauge!("live_sends_per_second").set(self.0.pace.rate());
        sent
    }
}

impl Outlet for ApiGateway {
    async fn tell(&self, to: &ConnectionId, text: Arc<str>) -> Sent {
        // Never closed.
        let Ok(_turn) = self.0.urgent.acquire().await else { return Sent::NotNow };
        self.post(to, &text).await
    }

    async fn tell_all(&self, _: &ItemId, to: Vec<ConnectionId>, text: Arc<str>) -> Round {
        let outcomes = futures::stream::iter(to).map(|connection| {
            let text = text.clone();
            async move {
                let sent = self.post(&connection, &text).await;
                (connection, sent)
            }
        });
        let outcomes: Vec<(ConnectionId, Sent)> = outcomes.buffer_unordered(OTHERS_AT_ONCE).collect().await;
        let mut round = Round::default();
        for (connection, sent) in outcomes {
            match sent {
                Sent::Delivered => round.delivered.push(connection),
                Sent::Gone => round.gone.push(connection),
                Sent::NotNow => round.missed.push(connection),
            }
        }
        round
    }

    async fn end(&self, connection: &ConnectionId) -> Sent {
        let call = self.0.client.delete_connection().connection_id(connection.as_str());
        self.judge(call.send().await.map(drop))
    }
}
