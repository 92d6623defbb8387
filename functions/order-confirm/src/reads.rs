//! Reads for the shop's backend: one buyer's reservation, and the sales of an item in pages. Both are the ledger's rows,
//! so the shop needs no Redis. A reservation is in the ledger some milliseconds after its buyer sees it.

use crate::App;
use ledger::{LedgerError, Sale, SalePosition, SaleState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::item::ItemId;
use shared::problem::Problem;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use std::collections::HashMap;

/// The most sales of a page, and their number if the query does not say.
pub const MAX_PAGE: u32 = 1_000;

/// A buyer's reservation or sale of an item, as the ledger has it.
#[derive(Serialize, JsonSchema)]
pub struct ShopReservation {
    /// The buyer: the `sub` of their access tokens.
    #[schemars(length(min = 1, max = 255))]
    user_token: String,
    /// `none`: the ledger has no reservation of the buyer. `voided`: an operator has taken the unit back.
    #[schemars(extend("enum" = ["none", "reserved", "sold", "released", "voided"]))]
    status: &'static str,
    /// The stamp of the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    placed_at: Option<Stamp>,
    /// Since when the unit is, or was, reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_at: Option<Stamp>,
    /// The end of the hold, while the unit waits for its payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_until: Option<Stamp>,
    /// The payment that bought the unit, also if it was voided since.
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_reference: Option<String>,
}

/// A page of an item's sales, in the order of their reservations. A buyer whose reservation was released and who was
/// reserved again stands once, at the newer one.
#[derive(Serialize, JsonSchema)]
pub struct SalesPage {
    item_id: ItemId,
    sales: Vec<ShopReservation>,
    /// The `after` of the next page. Absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A read, from a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Read {
    Reservation { item_id: ItemId, user_token: UserToken },
    Sales { item_id: ItemId, after: Option<SalePosition>, limit: u32 },
}

#[derive(Deserialize)]
struct ReadEvent {
    #[serde(rename = "routeKey")]
    route_key: String,
    #[serde(rename = "pathParameters", default)]
    path_parameters: HashMap<String, String>,
    #[serde(rename = "queryStringParameters", default)]
    query: HashMap<String, String>,
}

/// The read in an API Gateway event.
pub(crate) fn read_from_http(event: Value) -> Result<Read, Problem> {
    let event: ReadEvent = serde_json::from_value(event).map_err(|_| Problem::BadQuery)?;
    let item_id = event.path_parameters.get("item_id").and_then(|id| id.parse().ok());
    let item_id = item_id.ok_or(Problem::BadItemId)?;
    let mut query = event.query;
    let read = if event.route_key.ends_with("/sales") {
        let limit = query.remove("limit").map_or(Ok(MAX_PAGE), |text| text.parse());
        let limit = limit.ok().filter(|limit| (1..=MAX_PAGE).contains(limit)).ok_or(Problem::BadQuery)?;
        let after = query.remove("after").map(|text| SalePosition::parse(&text).ok_or(Problem::BadQuery));
        let after = after.transpose()?;
        Read::Sales { item_id, after, limit }
    } else {
        let user_token = query.remove("user_token").ok_or(Problem::BadQuery)?;
        let user_token = UserToken::parse(user_token).map_err(|_| Problem::BadQuery)?;
        Read::Reservation { item_id, user_token }
    };
    if query.is_empty() { Ok(read) } else { Err(Problem::BadQuery) }
}

/// Reads the ledger; returns the body of the answer.
pub(crate) async fn answer_read(app: &App, read: Read) -> Result<Value, Problem> {
    match read {
        Read::Reservation { item_id, user_token } => {
            let sale = app.ledger.sale_of(&item_id, &user_token).await.map_err(unreadable)?;
            if sale.is_none() {
                must_exist(app, &item_id).await?;
            }
            let none = ShopReservation {
                user_token: user_token.as_str().to_owned(),
                status: "none",
                placed_at: None,
                reserved_at: None,
                reserved_until: None,
                payment_reference: None,
            };
            body(&sale.map_or(none, shown))
        }
        Read::Sales { item_id, after, limit } => {
            let sales = app.ledger.sales_after(&item_id, after.as_ref(), limit).await.map_err(unreadable)?;
            if sales.is_empty() {
                must_exist(app, &item_id).await?;
            }
            let last = sales.last().filter(|_| sales.len() == limit as usize);
            let next = last.map(|sale| SalePosition::from(sale).to_text());
            body(&SalesPage { item_id, sales: sales.into_iter().map(shown).collect(), next })
        }
    }
}

async fn must_exist(app: &App, item_id: &ItemId) -> Result<(), Problem> {
    app.ledger.item(item_id).await.map(drop).map_err(unreadable)
}

fn unreadable(error: LedgerError) -> Problem {
    match error {
        LedgerError::NoSuchItem(_) => Problem::NoSuchItem,
        error => {
            tracing::warn!(%error, "could not read sales from the ledger; the shop gets a temporary refusal");
            Problem::StatusUnavailable
        }
    }
}

fn body<T: Serialize>(answer: &T) -> Result<Value, Problem> {
    serde_json::to_value(answer).map_err(|_| Problem::Internal)
}

fn shown(sale: Sale) -> ShopReservation {
    let reserved_until = (sale.state == SaleState::Reserved).then_some(sale.hold_until);
    ShopReservation {
        user_token: sale.user_token.as_str().to_owned(),
        status: sale.state.name(),
        placed_at: Some(sale.placed_at),
        reserved_at: Some(sale.reserved_at),
        reserved_until,
        payment_reference: sale.payment_reference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(path: &str, query: Value) -> Value {
        let key = format!("GET /items/{{item_id}}/{path}");
        json!({ "routeKey": key, "pathParameters": { "item_id": "a" }, "queryStringParameters": query })
    }

    #[test]
    fn a_position_survives_the_way_to_the_shop_and_back() {
        let stamp = |micros| Stamp::from_micros(micros).unwrap();
        let user_token = UserToken::parse("auth0|a.b.c").unwrap();
        let after = SalePosition { reserved_at: stamp(7), placed_at: stamp(5), user_token };
        let read = read_from_http(event("sales", json!({ "after": after.to_text(), "limit": "3" }))).unwrap();
        assert_eq!(read, Read::Sales { item_id: "a".parse().unwrap(), after: Some(after), limit: 3 });
    }

    #[test]
    fn malformed_queries_are_refused() {
        for (path, query) in [
            ("sales", json!({ "limit": "0" })),
            ("sales", json!({ "limit": "1001" })),
            ("sales", json!({ "after": "7" })),
            ("sales", json!({ "after": "7.5." })),
            ("sales", json!({ "after": "x.5.ann" })),
            ("sales", json!({ "user_token": "ann" })),
            ("reservations", json!({})),
            ("reservations", json!({ "user_token": "two words" })),
            ("reservations", json!({ "user_token": "ann", "limit": "1" })),
        ] {
            assert_eq!(read_from_http(event(path, query.clone())), Err(Problem::BadQuery), "{path} {query}");
        }
        let without =
            json!({ "routeKey": "GET /items/{item_id}/sales", "pathParameters": { "item_id": "a" } });
        assert!(read_from_http(without).is_ok());
        let mut bad_item = event("sales", json!({}));
        bad_item["pathParameters"]["item_id"] = json!("a/b");
        assert_eq!(read_from_http(bad_item), Err(Problem::BadItemId));
    }
}
