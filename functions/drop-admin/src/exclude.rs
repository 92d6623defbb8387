//! Excluding buyers. The ledger decides; Redis follows, at the latest when an excluded buyer is reserved.

use crate::operator::{OperatorName, Reason};
use crate::{AdminError, App, items, void};
use ledger::{ExclusionOrder, MAX_UNPAID_LIMIT};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::user_token::UserToken;

/// The most buyers of a command.
const MAX_BUYERS: usize = 1_000;

/// 1 to 1,000 buyers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<UserToken>")]
pub(crate) struct Buyers(Vec<UserToken>);

impl TryFrom<Vec<UserToken>> for Buyers {
    type Error = &'static str;

    fn try_from(buyers: Vec<UserToken>) -> Result<Self, Self::Error> {
        let is_list = (1..=MAX_BUYERS).contains(&buyers.len());
        if is_list { Ok(Self(buyers)) } else { Err("`buyers` must have 1 to 1,000 buyers") }
    }
}

/// 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
pub(crate) struct UnpaidLimit(u16);

impl UnpaidLimit {
    /// `None`: there is no limit.
    pub(crate) fn get(self) -> Option<u16> {
        (self.0 > 0).then_some(self.0)
    }
}

impl TryFrom<u16> for UnpaidLimit {
    type Error = &'static str;

    fn try_from(limit: u16) -> Result<Self, Self::Error> {
        if limit <= MAX_UNPAID_LIMIT { Ok(Self(limit)) } else { Err("`limit` must be 0 to 100") }
    }
}

/// Excludes buyers. A repetition changes nothing.
pub(crate) async fn exclude(
    app: &App,
    item_id: &ItemId,
    buyers: &Buyers,
    reason: &Reason,
    by: Option<&OperatorName>,
) -> Result<Value, AdminError> {
    items::not_archived(app, item_id).await?;
    let fence = void::fence(app).await?;
    let by = by.map(OperatorName::as_str);
    let order = ExclusionOrder { buyers: &buyers.0, reason: reason.as_str(), by };
    let excluded = app.ledger.exclude(item_id, order, fence).await?;
    let marked = app.queue.exclude(item_id, &buyers.0).await;
    if let Err(error) = &marked {
        tracing::warn!(%error, %item_id, "buyers are excluded in the ledger, and could not be marked in Redis; they keep their places until the ledger refuses their reservations or the command is repeated");
    }
    let with_unit: Vec<&str> = excluded.with_unit.iter().map(UserToken::as_str).collect();
    Ok(json!({
        "item_id": item_id,
        "excluded": buyers.0.len(),
        "new": excluded.new,
        "reason": reason.as_str(),
        "by": by,
        "in_redis": marked.is_ok(),
        "with_unit": with_unit,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_up_to_a_thousand_buyers() {
        let of = |buyers: usize| serde_json::from_value::<Buyers>(json!(vec!["ann"; buyers]));
        assert!(of(0).is_err() && of(1_001).is_err());
        assert!(of(1).is_ok() && of(1_000).is_ok());
        assert!(serde_json::from_value::<Buyers>(json!(["two words"])).is_err());
    }
}
