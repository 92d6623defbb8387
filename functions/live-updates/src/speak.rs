//! A client's messages, and their answers.

use crate::App;
use crate::event::{Answer, SocketEvent};
use crate::request::Request;
use live::connection_id::ConnectionId;
use live::message::{ItemMessage, OrderMessage, Reply, Status, text};
use live::registry::{FLOOD, MAX_MESSAGES, Speaker, Told, Watch};
use shared::item::ItemId;
use shared::problem::Problem;
use shared::queue::{ItemError, LinkError, Look, Reader};
use shared::token::TokenError;

pub(crate) async fn answer(app: &App, connection: &ConnectionId, event: &SocketEvent) -> Answer {
    let request = Request::parse(event.body.as_deref().unwrap_or_default(), event.is_base64_encoded);
    match reply(app, connection, request).await {
        Ok(Some(reply)) => Answer::says(text(&reply)),
        Ok(None) => Answer::ok(),
        Err(Refused { problem, item_id, ends }) => {
            metrics::counter!("live_refused", "Reason" => problem.slug()).increment(1);
            Answer::says(text(&Reply::problem(&problem, item_id, ends)))
        }
    }
}

/// What cannot be done.
struct Refused {
    problem: Problem,
    item_id: Option<ItemId>,
    ends: bool,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, item_id: None, ends: false }
    }
}

fn unavailable(error: LinkError) -> Problem {
    tracing::warn!(%error, "a message is not answered");
    Problem::StatusUnavailable
}

async fn reply(
    app: &App,
    connection: &ConnectionId,
    request: Result<Request, Problem>,
) -> Result<Option<Reply>, Refused> {
    let (add, take) = match &request {
        Ok(Request::Subscribe(item_id)) => (Some(item_id), None),
        Ok(Request::Unsubscribe(item_id)) => (None, Some(item_id)),
        _ => (None, None),
    };
    let ends = |problem| Refused { problem, item_id: None, ends: true };
    // Counted whatever it says.
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
        Request::Subscribe(item_id) if speaker.fits => {
            let subscribed = subscribe(app, connection, &speaker, &item_id).await;
            if subscribed.is_err() {
                app.registry.unsubscribe(connection, &item_id).await.map_err(unavailable)?;
            }
            let refused = |problem| Refused { problem, item_id: Some(item_id), ends: false };
            subscribed.map(Some).map_err(refused)
        }
        Request::Subscribe(item_id) => {
            Err(Refused { problem: Problem::TooManySubscriptions, item_id: Some(item_id), ends: false })
        }
        Request::Unsubscribe(item_id) => {
            let connections = std::slice::from_ref(connection);
            app.registry.unwatch(&item_id, connections).await.map_err(unavailable)?;
            Ok(Some(Reply::Unsubscribed { item_id }))
        }
        Request::Ping => Ok(Some(Reply::Pong {
            at: app.edge.clock.now(),
            items: speaker.items,
            expires_at: speaker.ends_at,
        })),
    }
}

/// The state is read first, and the watcher written with what it will have been told: whoever publishes
/// tells it what is newer, and nothing else.
async fn subscribe(
    app: &App,
    connection: &ConnectionId,
    speaker: &Speaker,
    item_id: &ItemId,
) -> Result<Reply, Problem> {
    // From the copy at the edge: main is not asked for what does not exist.
    app.edge.item(item_id, Problem::StatusUnavailable).await?;
    let look = app.edge.queue.look(Reader::Main, item_id, &[&speaker.buyer]).await;
    let Look { as_of, item, orders } = look.map_err(|error| match error {
        ItemError::NoSuchItem(_) => Problem::NoSuchItem,
        ItemError::Link(error) => unavailable(error),
        error => {
            tracing::error!(%error, "an item cannot be used");
            Problem::Internal
        }
    })?;
    if !item.may_be_sold(as_of) {
        // Another region may be main by now: this one's word counts no more.
        return Err(Problem::StatusUnavailable);
    }
    let status: Status = orders.first().copied().ok_or(Problem::Internal)?.into();
    let told = Told { version: as_of, status };
    let watch = Watch { buyer: speaker.buyer.clone(), ends_at: speaker.ends_at, told };
    app.registry.watch(item_id, connection, &watch).await.map_err(unavailable)?;
    let now = app.edge.clock.now();
    Ok(Reply::Subscribed {
        item_id: item_id.clone(),
        item: ItemMessage::new(&item, as_of, now),
        order: OrderMessage::new(item_id, status, as_of, now),
        expires_at: speaker.ends_at,
    })
}
