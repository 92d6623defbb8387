//! Closes connections: reports the reason, disconnects, and removes the connection from the registry.

use crate::PublisherContext;
use crate::transport::{Delivery, Transport};
use futures::StreamExt;
use live::message::{Reply, text};
use live::registry::{Ending, Why};
use shared::item_runs;
use shared::problem::Problem;
use shared::token::TokenError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The pause between two reads of the connections to close.
const PAUSE: Duration = Duration::from_millis(500);
/// Connections that are closed at the same time.
const CONCURRENCY: usize = 16;

/// Closes what the registry lists as to be closed, until `until`.
pub(crate) async fn run<T: Transport>(context: &PublisherContext<T>, until: Instant) {
    while Instant::now() < until {
        if context.is_publisher.load(Ordering::Relaxed) {
            match context.registry.ending(context.clock.now()).await {
                Ok(due) => {
                    futures::stream::iter(due)
                        .for_each_concurrent(CONCURRENCY, |ending| close_one(context, ending))
                        .await;
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "could not read the connections to close from the registry; the next round tries again"
                    );
                }
            }
        }
        item_runs::pause(PAUSE, until).await;
    }
}

async fn close_one<T: Transport>(context: &PublisherContext<T>, Ending { connection, why }: Ending) {
    let problem = match why {
        Why::Over => Problem::BadToken(TokenError::Expired),
        Why::TooManyConnections => Problem::TooManyConnections,
        Why::TooManyMessages => Problem::TooManyMessages,
        Why::Unknown => Problem::NotConnected,
    };
    let reply = text(&Reply::problem(&problem, None, true));
    // The connection is closed even if the reason could not be delivered.
    let delivery = context.transport.deliver(&connection, reply.into()).await;
    let closed =
        if delivery == Delivery::Gone { delivery } else { context.transport.disconnect(&connection).await };
    if closed == Delivery::Failed {
        return;
    }
    metrics::counter!("live_ended", "Reason" => problem.slug()).increment(1);
    if let Err(error) = context.registry.forget(&connection).await {
        tracing::warn!(
            %error,
            %connection,
            "could not remove a closed connection from the registry; the next round tries again"
        );
    }
}
