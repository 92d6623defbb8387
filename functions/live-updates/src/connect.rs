//! `$connect`: who is it, and may they come in?

use crate::App;
use crate::event::{Answer, SocketEvent};
use live::connection_id::ConnectionId;
use live::message::{BEARER, PROTOCOL};
use live::registry::{Connected, MAX_LIFE_SECONDS};
use shared::problem::Problem;
use shared::stamp::Stamp;

/// API Gateway ends a connection at [`MAX_LIFE_SECONDS`] by itself; only then may we.
const LIFE_MARGIN_SECONDS: u64 = 60;

pub(crate) async fn connect(app: &App, connection: &ConnectionId, event: &SocketEvent) -> Answer {
    match admit(app, connection, event).await {
        Ok(()) => {
            metrics::counter!("live_connects").increment(1);
            Answer::speaks(PROTOCOL)
        }
        Err(problem) => {
            metrics::counter!("live_refused", "Reason" => problem.slug()).increment(1);
            Answer::refusal(&problem)
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
    let proof = app.edge.tokens.prove(token).map_err(Problem::BadToken)?;
    let life = (u64::from(MAX_LIFE_SECONDS) + LIFE_MARGIN_SECONDS) * 1_000_000;
    let latest = Stamp::from_micros(app.edge.clock.now().as_micros() + life).unwrap_or(proof.expires_at);
    let ends_at = proof.expires_at.min(latest);
    match app.registry.connect(connection, &proof.buyer, ends_at).await {
        Ok(Connected::Yes) => Ok(()),
        Ok(Connected::TooOften) => Err(Problem::TooManyConnections),
        Err(error) => {
            tracing::warn!(%error, "the registry takes nobody in");
            Err(Problem::StatusUnavailable)
        }
    }
}
