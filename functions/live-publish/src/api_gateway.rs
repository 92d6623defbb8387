//! API Gateway's `@connections`: one call for each message and connection, at a limited rate, with a limit on
//! every wait.

use crate::send_rate::SendRate;
use crate::transport::{BroadcastResult, Delivery, Transport};
use aws_sdk_apigatewaymanagement::Client;
use aws_sdk_apigatewaymanagement::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use futures::StreamExt;
use live::connection_id::ConnectionId;
use sdk::RetryConfig;
use sdk::TimeLimits;
use shared::config::{self, ConfigError, Source};
use shared::item::ItemId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Order messages in flight.
const MAX_ORDER_MESSAGES_IN_FLIGHT: usize = 64;
/// Messages in flight of one broadcast.
const MAX_BROADCAST_MESSAGES_IN_FLIGHT: usize = 32;
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// The time limit of one call. A failed call is not retried here: the next round sends a newer message.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// The connections of one WebSocket API.
#[derive(Clone, Debug)]
pub struct ApiGateway(Arc<ConnectionsClient>);

#[derive(Debug)]
struct ConnectionsClient {
    client: Client,
    send_rate: SendRate,
    order_messages: Semaphore,
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
                "it must have the form https://API.execute-api.REGION.amazonaws.com/STAGE",
            ));
        }
        let per_second = config::number(source, "FAIRDROP_LIVE_SENDS_PER_SECOND", 5_000, 1, 100_000)?;
        let limits = TimeLimits { connect: CONNECT_LIMIT, attempt: CALL_LIMIT, call: CALL_LIMIT };
        let config =
            sdk::defaults().timeout_config(limits.timeouts()).retry_config(RetryConfig::disabled()).build();
        let config =
            aws_sdk_apigatewaymanagement::config::Builder::from(&config).endpoint_url(endpoint).build();
        Ok(Self(Arc::new(ConnectionsClient {
            client: Client::from_conf(config),
            send_rate: SendRate::new(per_second, Instant::now()),
            order_messages: Semaphore::new(MAX_ORDER_MESSAGES_IN_FLIGHT),
        })))
    }

    async fn post(&self, to: &ConnectionId, text: &str) -> Delivery {
        let slot = self.0.send_rate.slot(Instant::now());
        tokio::time::sleep_until(slot.into()).await;
        let call = self.0.client.post_to_connection().connection_id(to.as_str());
        self.classify(call.data(Blob::new(text.as_bytes())).send().await.map(drop))
    }

    fn classify<E: ProvideErrorMetadata, R>(&self, outcome: Result<(), SdkError<E, R>>) -> Delivery {
        let code = match &outcome {
            Ok(()) => None,
            Err(error) => Some(error.as_service_error().and_then(|error| error.code()).unwrap_or_default()),
        };
        let (sent, outcome) = match code {
            None => (Delivery::Delivered, "delivered"),
            Some("GoneException" | "BadRequestException") => (Delivery::Gone, "gone"),
            Some("LimitExceededException") => (Delivery::Failed, "throttled"),
            Some(_) => (Delivery::Failed, "failed"),
        };
        if outcome == "failed" {
            tracing::debug!(code, "a call to API Gateway's @connections failed; the next round tries again");
        }
        self.0.send_rate.record(outcome == "throttled");
        metrics::counter!("live_messages", "Outcome" => outcome).increment(1);
        metrics::counter!("live_calls").increment(1);
        metrics::counter!("live_unsent").increment(u64::from(sent == Delivery::Failed));
        metrics::gauge!("live_sends_per_second").set(self.0.send_rate.per_second());
        sent
    }
}

impl Transport for ApiGateway {
    async fn deliver(&self, to: &ConnectionId, text: Arc<str>) -> Delivery {
        // `acquire` fails only on a closed semaphore, and this one is never closed.
        let Ok(_permit) = self.0.order_messages.acquire().await else { return Delivery::Failed };
        self.post(to, &text).await
    }

    async fn broadcast(&self, _: &ItemId, to: Vec<ConnectionId>, text: Arc<str>) -> BroadcastResult {
        let outcomes = futures::stream::iter(to).map(|connection| {
            let text = text.clone();
            async move {
                let sent = self.post(&connection, &text).await;
                (connection, sent)
            }
        });
        let outcomes: Vec<(ConnectionId, Delivery)> =
            outcomes.buffer_unordered(MAX_BROADCAST_MESSAGES_IN_FLIGHT).collect().await;
        let mut result = BroadcastResult::default();
        for (connection, sent) in outcomes {
            match sent {
                Delivery::Delivered => result.delivered.push(connection),
                Delivery::Gone => result.gone.push(connection),
                Delivery::Failed => result.failed.push(connection),
            }
        }
        result
    }

    async fn disconnect(&self, connection: &ConnectionId) -> Delivery {
        let call = self.0.client.delete_connection().connection_id(connection.as_str());
        self.classify(call.send().await.map(drop))
    }
}
