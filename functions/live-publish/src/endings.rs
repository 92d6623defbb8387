//! Connections that are to end: told why, closed, forgotten.

use crate::Desk;
use crate::outlet::{Outlet, Sent};
use futures::StreamExt;
use live::message::{Reply, text};
use live::registry::{Ending, Why};
use shared::problem::Problem;
use shared::token::TokenError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between two looks at whose time is over.
const PAUSE: Duration = Duration::from_millis(500);
/// Connections that are ended at once.
const AT_ONCE: usize = 16;

/// Ends what is to end, until `until`.
pub(crate) async fn run<O: Outlet>(desk: &Desk<O>, until: Instant) {
    while Instant::now() < until {
        if desk.is_on.load(Ordering::Relaxed) {
            match desk.registry.ending(desk.clock.now()).await {
                Ok(due) => {
                    futures::stream::iter(due).for_each_concurrent(AT_ONCE, |one| end(desk, one)).await;
                }
                Err(error) => tracing::warn!(%error, "nobody's connection is ended"),
            }
        }
        tokio::time::sleep(PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

async fn end<O: Outlet>(desk: &Desk<O>, Ending { connection, why }: Ending) {
    let problem = match why {
        Why::Over => Problem::BadToken(TokenError::Expired),
        Why::TooManyConnections => Problem::TooManyConnections,
        Why::TooManyMessages => Problem::TooManyMessages,
        Why::Unknown => Problem::NotConnected,
    };
    let reply = text(&Reply::problem(&problem, None, true));
    // A client that cannot be told why is closed all the same.
    let told = desk.outlet.tell(&connection, reply.into()).await;
    let ended = if told == Sent::Gone { told } else { desk.outlet.end(&connection).await };
    if ended == Sent::NotNow {
        return;
    }
    metrics::counter!("live_ended", "Reason" => problem.slug()).increment(1);
    if let Err(error) = desk.registry.forget(&connection).await {
        tracing::warn!(%error, "a connection that was ended is not forgotten yet");
    }
}
