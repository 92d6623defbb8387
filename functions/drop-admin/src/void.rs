//! Taking a unit back. The ledger decides; Redis follows, at the latest by the worker.

use crate::operator::{OperatorName, Reason};
use crate::{AdminError, App};
use ledger::VoidOrder;
use serde_json::{Value, json};
use shared::item::ItemId;
use shared::permit::Fence;
use shared::user_token::UserToken;

pub(crate) fn order<'a>(
    buyer: &'a UserToken,
    reason: &'a Reason,
    by: Option<&'a OperatorName>,
    bars: bool,
) -> VoidOrder<'a> {
    VoidOrder { buyer, reason: reason.as_str(), by: by.map(OperatorName::as_str), bars }
}

/// Takes a unit back. A repetition returns the same answer.
pub(crate) async fn void(app: &App, item_id: &ItemId, order: VoidOrder<'_>) -> Result<Value, AdminError> {
    let fence = fence(app).await?;
    let void =
        app.ledger.void(item_id, order, fence).await?.ok_or_else(|| AdminError::NoUnit(item_id.clone()))?;
    let settled = reconcile::settle_void(&app.queue, &app.ledger, &void).await;
    if let Err(error) = &settled {
        tracing::warn!(%error, %item_id, "a unit is voided in the ledger, and could not be written to Redis; the checkout worker does it");
    }
    let mut in_redis = settled.is_ok();
    if order.bars {
        let marked = app.queue.exclude(item_id, std::slice::from_ref(&void.user_token)).await;
        if let Err(error) = &marked {
            tracing::warn!(%error, %item_id, "a buyer is excluded in the ledger, and could not be marked in Redis; the ledger refuses the buyer's next reservation");
        }
        in_redis &= marked.is_ok();
    }
    Ok(json!({
        "item_id": item_id,
        "buyer": void.user_token.as_str(),
        "was": void.was.name(),
        "placed_at": void.placed_at,
        "reserved_at": void.reserved_at,
        "payment_reference": void.payment_reference,
        "reason": void.reason,
        "by": void.by,
        "voided_at": void.voided_at,
        "barred": order.bars,
        "in_redis": in_redis,
    }))
}

/// The epoch under which the ledger may be written now, with the end of the lease.
pub(crate) async fn fence(app: &App) -> Result<Fence, AdminError> {
    let permit = app.lease.permit_by_table().await.map_err(AdminError::MayNotSell)?;
    Ok(permit.fence(app.ledger.epoch().await?))
}
