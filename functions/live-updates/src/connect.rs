//! `$connect`: verifies the token and registers the connection.

use crate::App;
use crate::event::{SocketEvent, SocketResponse};
use live::connection_id::ConnectionId;
use live::message::{BEARER, PROTOCOL};
use live::registry::{Connected, MAX_LIFE_SECONDS};
use shared::problem::Problem;
use std::time::Duration;

/// API Gateway closes a connection at [`MAX_LIFE_SECONDS`]. fairdrop closes it later than that, in case API
/// Gateway did not.
const LIFE_MARGIN_SECONDS: u64 = 60;

pub(crate) async fn connect(app: &App, connection: &ConnectionId, event: &SocketEvent) -> SocketResponse {
    match admit(app, connection, event).await {
        Ok(()) => {
            metrics::counter!("live_connects").increment(1);
            SocketResponse::accepted(PROTOCOL)
        }
        Err(problem) => {
            metrics::counter!("live_refused", "Reason" => problem.slug()).increment(1);
            SocketResponse::refusal(&problem)
        }
    }
}

async fn admit(app: &App, connection: &ConnectionId, event: &SocketEvent) -> Result<(), Problem> {
    let protocols = event.protocols();
    if !protocols.contains(&PROTOCOL) {
        return Err(Problem::BadSubprotocol);
    }
    let mut tokens = protocols.iter().filter_map(|offered| offered.strip_prefix(BEARER));
    let (Some(token), None) = (tokens.next(), tokens.next()) else { return Err(Problem::NoToken) };
    let proof = app.edge.prove(token, Problem::StatusUnavailable).await?;
    let life = Duration::from_secs(u64::from(MAX_LIFE_SECONDS) + LIFE_MARGIN_SECONDS);
    let latest = app.edge.clock.now().saturating_add(life);
    let ends_at = proof.expires_at.min(latest);
    match app.registry.connect(connection, &proof.buyer, ends_at).await {
        Ok(Connected::Yes) => Ok(()),
        Ok(Connected::TooOften) => Err(Problem::TooManyConnections),
        Err(error) => {
            tracing::warn!(%error, %connection, "could not register a connection; the client gets status-unavailable");
            Err(Problem::StatusUnavailable)
        }
    }
}
