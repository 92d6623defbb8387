//! Payment notices from a shop, over HTTP or by direct invocation.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::item::ItemId;
use shared::problem::Problem;
use shared::stamp::Stamp;
use shared::user_token::UserToken;

/// The methods of the path.
const ALLOW: &str = "POST";
/// The longest notice, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 4_096;
/// The longest payment reference, in bytes.
const MAX_REFERENCE_LEN: usize = 255;

/// The result of a payment.
#[derive(Clone, Debug)]
pub(crate) struct PaymentNotice {
    pub(crate) item_id: ItemId,
    pub(crate) user_token: UserToken,
    /// The idempotency key: 1 to 255 visible ASCII characters.
    pub(crate) payment_reference: String,
    pub(crate) outcome: PaymentOutcome,
    /// When a pending payment is decided at the latest.
    pub(crate) until: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PaymentOutcome {
    /// Paid: sell the unit.
    Paid,
    /// The payment is in progress: extend the hold, once or to `until`.
    Pending,
    /// This attempt failed, and the same payment may still succeed: the hold goes on to its end.
    Declined,
    /// The payment failed and cannot succeed any more: release the unit.
    Failed,
    /// The buyer or the shop has given the payment up: release the unit.
    Cancelled,
}

impl PaymentOutcome {
    /// Whether the shop has the buyer's money, or may get it.
    pub(crate) fn may_have_money(self) -> bool {
        matches!(self, Self::Paid | Self::Pending)
    }
}

/// The result of a payment, as the shop sends it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Payment")]
pub struct PaymentBody {
    /// The buyer: the `sub` of their access tokens.
    #[schemars(length(min = 1, max = 255))]
    user_token: String,
    /// The idempotency key.
    #[schemars(length(min = 1, max = 255))]
    payment_reference: String,
    outcome: PaymentOutcome,
    /// With `pending`: the new end of the hold. Each notice of the payment can name a later one, up to the item's
    /// `max_hold_seconds` from the reservation on.
    #[serde(default)]
    until: Option<Stamp>,
}

#[derive(Deserialize)]
struct HttpEvent {
    #[serde(rename = "pathParameters", default)]
    path_parameters: std::collections::HashMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(rename = "isBase64Encoded", default)]
    is_base64_encoded: bool,
    #[serde(rename = "requestContext")]
    request_context: RequestContext,
}

#[derive(Deserialize)]
struct RequestContext {
    http: HttpMethod,
}

#[derive(Deserialize)]
struct HttpMethod {
    method: String,
}

/// The notice in an API Gateway event.
pub(crate) fn from_http(event: Value) -> Result<PaymentNotice, Problem> {
    let event: HttpEvent = serde_json::from_value(event).map_err(|_| Problem::BadPayment)?;
    if event.request_context.http.method != ALLOW {
        return Err(Problem::MethodNotAllowed { allow: ALLOW });
    }
    let item_id =
        event.path_parameters.get("item_id").and_then(|id| id.parse().ok()).ok_or(Problem::BadItemId)?;
    let text = event.body.unwrap_or_default();
    let text = if event.is_base64_encoded {
        STANDARD.decode(text).map_err(|_| Problem::BadPayment)?
    } else {
        text.into_bytes()
    };
    if text.len() > MAX_BODY_BYTES {
        return Err(Problem::BodyTooLarge { limit_bytes: MAX_BODY_BYTES });
    }
    notice(item_id, serde_json::from_slice(&text).map_err(|_| Problem::BadPayment)?)
}

/// The notice in a direct invocation: the same members, and `item_id`.
pub(crate) fn from_invocation(mut event: Value) -> Result<PaymentNotice, Problem> {
    let item_id =
        event.as_object_mut().and_then(|event| event.remove("item_id")).ok_or(Problem::BadPayment)?;
    let item_id = serde_json::from_value(item_id).map_err(|_| Problem::BadItemId)?;
    notice(item_id, serde_json::from_value(event).map_err(|_| Problem::BadPayment)?)
}

fn notice(item_id: ItemId, body: PaymentBody) -> Result<PaymentNotice, Problem> {
    let reference = body.payment_reference;
    let well_formed = (1..=MAX_REFERENCE_LEN).contains(&reference.len())
        && reference.bytes().all(|byte| byte.is_ascii_graphic());
    let may_name_an_end = body.outcome == PaymentOutcome::Pending;
    if !well_formed || body.until.is_some() && !may_name_an_end {
        return Err(Problem::BadPayment);
    }
    Ok(PaymentNotice {
        item_id,
        user_token: UserToken::parse(body.user_token).map_err(|_| Problem::BadPayment)?,
        payment_reference: reference,
        outcome: body.outcome,
        until: body.until,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn malformed_notices_are_refused() {
        let good =
            json!({ "item_id": "a", "user_token": "alice", "payment_reference": "pi_1", "outcome": "paid" });
        assert_eq!(from_invocation(good.clone()).unwrap().outcome, PaymentOutcome::Paid);
        let long = "x".repeat(256);
        for (field, value, problem) in [
            ("item_id", json!("a/b"), Problem::BadItemId),
            ("item_id", json!(7), Problem::BadItemId),
            ("user_token", json!(""), Problem::BadPayment),
            ("user_token", json!("two words"), Problem::BadPayment),
            ("payment_reference", json!(""), Problem::BadPayment),
            ("payment_reference", json!(long), Problem::BadPayment),
            ("payment_reference", json!("pi\u{0}"), Problem::BadPayment),
            ("outcome", json!("perhaps"), Problem::BadPayment),
            ("amount", json!(7), Problem::BadPayment),
            // Only a pending payment extends a hold.
            ("until", json!(1_795_000_000_000_000u64), Problem::BadPayment),
            ("until", json!(-1), Problem::BadPayment),
            ("until", json!("tomorrow"), Problem::BadPayment),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(from_invocation(bad.clone()).unwrap_err(), problem, "{bad}");
        }
        for event in [json!(null), json!([1]), json!({}), json!("paid"), json!({ "Records": [] })] {
            assert_eq!(from_invocation(event).unwrap_err(), Problem::BadPayment);
        }
    }
}
