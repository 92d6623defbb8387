//! Answers to clients' messages.

use crate::App;
use crate::client_message::ClientMessage;
use crate::event::{SocketEvent, SocketResponse};
use live::connection_id::ConnectionId;
use live::message::{ItemMessage, OrderMessage, Reply, Status, text};
use live::registry::{FLOOD, MAX_MESSAGES, SentStatus, Speaker, Subscription};
use order_log::{Accepted, LogRecord, OrderLogError, may_be_accepted};
use shared::item::{Item, ItemId};
use shared::problem::Problem;
use shared::queue::{ItemError, ItemStatus, LinkError, OrderState, ReadFrom};
use shared::stamp::Stamp;
use shared::token::TokenError;
use shared::user_token::UserToken;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::timeout;

/// The longest that main and the order log are asked for a subscription. Lambda stops the function after 10 s, and the client
/// would get no answer; the two calls of the registry around it take the rest.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(5);

pub(crate) async fn answer(app: &App, connection: &ConnectionId, event: &SocketEvent) -> SocketResponse {
    let request = ClientMessage::parse(event.body.as_deref().unwrap_or_default(), event.is_base64_encoded);
    match reply(app, connection, request).await {
        Ok(Some(reply)) => SocketResponse::with_body(text(&reply)),
        Ok(None) => SocketResponse::ok(),
        Err(MessageRefusal { problem, item_id, ends }) => {
            metrics::counter!("live_refused", "Reason" => problem.slug()).increment(1);
            SocketResponse::with_body(text(&Reply::problem(&problem, item_id, ends)))
        }
    }
}

/// Why a message was refused.
struct MessageRefusal {
    problem: Problem,
    item_id: Option<ItemId>,
    /// Whether the connection is closed next.
    ends: bool,
}

impl From<Problem> for MessageRefusal {
    fn from(problem: Problem) -> Self {
        Self { problem, item_id: None, ends: false }
    }
}

fn unavailable(error: LinkError) -> Problem {
    tracing::warn!(%error, "could not answer a message: Redis failed; the client gets status-unavailable");
    Problem::StatusUnavailable
}

async fn reply(
    app: &App,
    connection: &ConnectionId,
    request: Result<ClientMessage, Problem>,
) -> Result<Option<Reply>, MessageRefusal> {
    let (add, take) = match &request {
        Ok(ClientMessage::Subscribe(item_id)) => (Some(item_id), None),
        Ok(ClientMessage::Unsubscribe(item_id)) => (None, Some(item_id)),
        _ => (None, None),
    };
    let ends = |problem| MessageRefusal { problem, item_id: None, ends: true };
    // Malformed messages count against the limit, too.
    let known = app.registry.message(connection, add, take).await.map_err(unavailable)?;
    let Some(speaker) = known else {
        app.registry.end_unknown(connection).await.map_err(unavailable)?;
        return Err(ends(Problem::NotConnected));
    };
    if speaker.ends_at <= app.edge.clock.now() {
        return Err(ends(Problem::BadToken(TokenError::Expired)));
    }
    match speaker.messages {
        FLOOD => return Err(ends(Problem::TooManyMessages)),
        count if count == MAX_MESSAGES + 1 => return Err(Problem::TooManyMessages.into()),
        count if count > MAX_MESSAGES => return Ok(None),
        _ => {}
    }
    match request? {
        ClientMessage::Subscribe(item_id) if speaker.fits => {
            let subscribed = timeout(SUBSCRIBE_LIMIT, subscribe(app, connection, &speaker, &item_id)).await;
            let subscribed = subscribed.unwrap_or(Err(Problem::StatusUnavailable));
            if subscribed.is_err() {
                app.registry.unsubscribe(connection, &item_id).await.map_err(unavailable)?;
            }
            let refused = |problem| MessageRefusal { problem, item_id: Some(item_id), ends: false };
            subscribed.map(Some).map_err(refused)
        }
        ClientMessage::Subscribe(item_id) => Err(MessageRefusal {
            problem: Problem::TooManySubscriptions,
            item_id: Some(item_id),
            ends: false,
        }),
        ClientMessage::Unsubscribe(item_id) => {
            let connections = std::slice::from_ref(connection);
            app.registry.unwatch(&item_id, connections).await.map_err(unavailable)?;
            Ok(Some(Reply::Unsubscribed { item_id }))
        }
        ClientMessage::Ping => Ok(Some(Reply::Pong {
            at: app.edge.clock.now(),
            items: speaker.items,
            expires_at: speaker.ends_at,
        })),
    }
}

type NewestRecord = Result<Option<LogRecord>, OrderLogError>;

/// The buyer's order, if the region has accepted it and main, which has `main` for the buyer, does not have it.
async fn accepted_order(
    app: &App,
    item: &Item,
    buyer: &UserToken,
    (main, released_at): (OrderState, Option<Stamp>),
) -> Result<Option<Accepted>, Problem> {
    let Some(log) = app.log.as_ref().filter(|_| may_be_accepted(main)) else { return Ok(None) };
    // Boxed: the SDK's nested futures exceed the compiler's recursion limit here.
    let reading: Pin<Box<dyn Future<Output = NewestRecord> + Send + '_>> =
        Box::pin(log.latest_of(&item.item_id, buyer));
    let newest = reading.await.map_err(|error| {
        tracing::warn!(%error, item_id = %item.item_id, "could not read a buyer's order from the region's order log; the client gets status-unavailable");
        Problem::StatusUnavailable
    })?;
    let now = app.edge.clock.now();
    Ok(newest.and_then(|record| record.accepted(main, released_at, item.gate(record.placed_at), now)))
}

/// Reads the state first, and stores the watcher with the version that this answer carries: the publisher then
/// sends only what is newer.
async fn subscribe(
    app: &App,
    connection: &ConnectionId,
    speaker: &Speaker,
    item_id: &ItemId,
) -> Result<Reply, Problem> {
    // The edge's cached copy is checked first, so that requests for items that do not exist cost main no read each.
    app.edge.item(item_id, Problem::StatusUnavailable).await?;
    let observed = app.edge.queue.status(ReadFrom::Main, item_id, &[&speaker.buyer]).await;
    let ItemStatus { as_of, heartbeat, item, orders, releases } = observed.map_err(|error| match error {
        ItemError::NoSuchItem(_) => Problem::NoSuchItem,
        ItemError::Link(error) => unavailable(error),
        error => {
            tracing::error!(%error, %item_id, "could not read an item from main's Redis; the client gets an internal error");
            Problem::Internal
        }
    })?;
    if !heartbeat.may_sell(as_of) {
        // The lease has expired: another region may be main by now, and this state may be stale.
        return Err(Problem::StatusUnavailable);
    }
    let state = orders.first().copied().ok_or(Problem::Internal)?;
    let released_at = releases.first().copied().flatten();
    let status = match Status::of(state, &item) {
        Status::Over => Status::Over,
        status => {
            let accepted = accepted_order(app, &item, &speaker.buyer, (state, released_at)).await?;
            accepted.map_or(status, Status::from)
        }
    };
    let sent = SentStatus { version: as_of, status };
    let subscription = Subscription { buyer: speaker.buyer.clone(), ends_at: speaker.ends_at, sent };
    app.registry.watch(item_id, connection, &subscription).await.map_err(unavailable)?;
    let now = app.edge.clock.now();
    Ok(Reply::Subscribed {
        item_id: item_id.clone(),
        item: ItemMessage::new(&item, as_of, now),
        order: OrderMessage::new(item_id, status, as_of, now),
        expires_at: speaker.ends_at,
    })
}
