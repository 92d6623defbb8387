//! Reading sales page by page, for audits and to rebuild Redis.

use crate::items::{moment, stamp};
use crate::{Ledger, LedgerError};
use shared::item::ItemId;
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::HashMap;

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sale {
    pub user_token: UserToken,
    pub state: SaleState,
    pub placed_at: Stamp,
    /// When the unit was reserved, by main's clock.
    pub reserved_at: Stamp,
    /// The end of the hold, also after it has passed.
    pub hold_until: Stamp,
    /// The ends that the hold had before it was extended. Redis may still have one of them.
    pub earlier_ends: Vec<Stamp>,
    /// When the reservation was released, by the ledger's clock.
    pub released_at: Option<Stamp>,
    pub payment_reference: Option<String>,
    /// The epoch under which it was last written.
    pub epoch: u64,
}

impl Sale {
    /// Whether the buyer has no unit by it.
    pub fn is_over(&self) -> bool {
        matches!(self.state, SaleState::Released | SaleState::Voided)
    }
}

/// Where a page of sales ended: the key by which sales are in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalePosition {
    pub reserved_at: Stamp,
    pub placed_at: Stamp,
    pub user_token: UserToken,
}

impl From<&Sale> for SalePosition {
    fn from(sale: &Sale) -> Self {
        let Sale { reserved_at, placed_at, user_token, .. } = sale;
        Self { reserved_at: *reserved_at, placed_at: *placed_at, user_token: user_token.clone() }
    }
}

impl SalePosition {
    /// The position as a caller gets it: `{reserved_at}.{placed_at}.{user_token}`.
    pub fn to_text(&self) -> String {
        let Self { reserved_at, placed_at, user_token } = self;
        format!("{reserved_at}.{placed_at}.{}", user_token.as_str())
    }

    /// The position in a text of [`to_text`](Self::to_text).
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let mut stamp = || Stamp::from_micros(parts.next()?.parse().ok()?).ok();
        let (reserved_at, placed_at) = (stamp()?, stamp()?);
        let user_token = UserToken::parse(parts.next()?).ok()?;
        Some(Self { reserved_at, placed_at, user_token })
    }
}

/// The state of a sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaleState {
    /// It waits for payment.
    Reserved,
    /// Final.
    Sold,
    /// The reservation ended without a sale.
    Released,
    /// An operator has taken the reserved or sold unit back.
    Voided,
}

impl SaleState {
    /// As the ledger and the audit write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Sold => "sold",
            Self::Released => "released",
            Self::Voided => "voided",
        }
    }
}

impl Ledger {
    /// Up to `most` sales of an item in the order of their reservations, after `after`.
    pub async fn sales(
        &self,
        item_id: &ItemId,
        after: Option<&Sale>,
        most: u32,
    ) -> Result<Vec<Sale>, LedgerError> {
        self.sales_after(item_id, after.map(SalePosition::from).as_ref(), most).await
    }

    /// As [`sales`](Self::sales), after a position.
    pub async fn sales_after(
        &self,
        item_id: &ItemId,
        after: Option<&SalePosition>,
        most: u32,
    ) -> Result<Vec<Sale>, LedgerError> {
        let (reserved_at, placed_at, buyer) = after.map_or((-1, -1, ""), |sale| {
            (moment(sale.reserved_at), moment(sale.placed_at), sale.user_token.as_str())
        });
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT user_token, state, placed_at, reserved_at, hold_until, payment_reference, epoch, earlier_ends,
                        released_at
                   FROM fairdrop.sales
                  WHERE item_id = $1 AND (reserved_at, placed_at, user_token) > ($2, $3, $4)
                  ORDER BY reserved_at, placed_at, user_token LIMIT $5",
            )
            .bind(item_id.as_str())
            .bind(reserved_at)
            .bind(placed_at)
            .bind(buyer)
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(read).collect()
        })
        .await
    }
}

impl Ledger {
    /// A buyer's row, if there is one.
    pub async fn sale_of(&self, item_id: &ItemId, buyer: &UserToken) -> Result<Option<Sale>, LedgerError> {
        self.within_limit(async {
            let row = sqlx::query(
                "SELECT user_token, state, placed_at, reserved_at, hold_until, payment_reference, epoch, earlier_ends,
                        released_at
                   FROM fairdrop.sales WHERE item_id = $1 AND user_token = $2",
            )
            .bind(item_id.as_str())
            .bind(buyer.as_str())
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(read).transpose()
        })
        .await
    }
}

impl Ledger {
    /// The states of `buyers`; buyers without a row are left out.
    pub async fn states_of(
        &self,
        item_id: &ItemId,
        buyers: &[UserToken],
    ) -> Result<HashMap<UserToken, SaleState>, LedgerError> {
        let buyers: Vec<&str> = buyers.iter().map(UserToken::as_str).collect();
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT user_token, state FROM fairdrop.sales WHERE item_id = $1 AND user_token = ANY ($2)",
            )
            .bind(item_id.as_str())
            .bind(buyers)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(|row| Ok((buyer(row)?, state(row)?))).collect()
        })
        .await
    }
}

impl Ledger {
    /// The rows of `buyers`, released ones included; buyers without a row are left out.
    pub async fn sales_of(
        &self,
        item_id: &ItemId,
        buyers: &[&UserToken],
    ) -> Result<HashMap<UserToken, Sale>, LedgerError> {
        let buyers: Vec<&str> = buyers.iter().map(|buyer| buyer.as_str()).collect();
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT user_token, state, placed_at, reserved_at, hold_until, payment_reference, epoch, earlier_ends,
                        released_at
                   FROM fairdrop.sales WHERE item_id = $1 AND user_token = ANY ($2)",
            )
            .bind(item_id.as_str())
            .bind(buyers)
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(|row| read(row).map(|sale| (sale.user_token.clone(), sale))).collect()
        })
        .await
    }
}

impl Ledger {
    /// The sales of an item with exactly these moments.
    pub async fn sales_at(
        &self,
        item_id: &ItemId,
        reserved_at: Stamp,
        placed_at: Stamp,
    ) -> Result<Vec<Sale>, LedgerError> {
        self.within_limit(async {
            let rows = sqlx::query(
                "SELECT user_token, state, placed_at, reserved_at, hold_until, payment_reference, epoch, earlier_ends,
                        released_at
                   FROM fairdrop.sales WHERE item_id = $1 AND reserved_at = $2 AND placed_at = $3",
            )
            .bind(item_id.as_str())
            .bind(moment(reserved_at))
            .bind(moment(placed_at))
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(read).collect()
        })
        .await
    }
}

impl Ledger {
    /// The key for the hashes of buyers in audits. A migration has created it.
    pub async fn audit_key(&self) -> Result<Vec<u8>, LedgerError> {
        self.within_limit(async {
            Ok(sqlx::query_scalar("SELECT key FROM fairdrop.audit_key").fetch_one(&self.pool).await?)
        })
        .await
    }
}

impl Ledger {
    /// Up to `most` sales of an item with one state in the order of their reservations, after a position. The same transaction
    /// writes who asked for them, so that drop-admin returns no list of buyers unrecorded.
    pub async fn export(
        &self,
        item_id: &ItemId,
        state: SaleState,
        exported_by: &str,
        after: Option<&SalePosition>,
        most: u32,
    ) -> Result<Vec<Sale>, LedgerError> {
        let (reserved_at, placed_at, buyer) = after.map_or((-1, -1, ""), |sale| {
            (moment(sale.reserved_at), moment(sale.placed_at), sale.user_token.as_str())
        });
        self.within_limit(async {
            let mut transaction = self.pool.begin().await?;
            let rows = sqlx::query(
                "SELECT user_token, state, placed_at, reserved_at, hold_until, payment_reference, epoch, earlier_ends,
                        released_at
                   FROM fairdrop.sales
                  WHERE item_id = $1 AND state = $6 AND (reserved_at, placed_at, user_token) > ($2, $3, $4)
                  ORDER BY reserved_at, placed_at, user_token LIMIT $5",
            )
            .bind(item_id.as_str())
            .bind(reserved_at)
            .bind(placed_at)
            .bind(buyer)
            .bind(i64::from(most))
            .bind(state.name())
            .fetch_all(&mut *transaction)
            .await?;
            let sales: Vec<Sale> = rows.iter().map(read).collect::<Result<_, _>>()?;
            sqlx::query("INSERT INTO fairdrop.exports (item_id, exported_by, units) VALUES ($1, $2, $3)")
                .bind(item_id.as_str())
                .bind(exported_by)
                .bind(i32::try_from(sales.len()).unwrap_or(i32::MAX))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(sales)
        })
        .await
    }
}

fn read(row: &PgRow) -> Result<Sale, LedgerError> {
    Ok(Sale {
        user_token: buyer(row)?,
        state: state(row)?,
        placed_at: stamp(row.try_get("placed_at")?)?,
        reserved_at: stamp(row.try_get("reserved_at")?)?,
        hold_until: stamp(row.try_get("hold_until")?)?,
        earlier_ends: row
            .try_get::<Vec<i64>, _>("earlier_ends")?
            .into_iter()
            .map(stamp)
            .collect::<Result<_, _>>()?,
        released_at: row.try_get::<Option<i64>, _>("released_at")?.map(stamp).transpose()?,
        payment_reference: row.try_get("payment_reference")?,
        epoch: row.try_get::<i64, _>("epoch")?.unsigned_abs(),
    })
}

pub(crate) fn buyer(row: &PgRow) -> Result<UserToken, LedgerError> {
    UserToken::parse(row.try_get::<String, _>("user_token")?).map_err(|_| unreadable())
}

pub(crate) fn state(row: &PgRow) -> Result<SaleState, LedgerError> {
    match row.try_get("state")? {
        "reserved" => Ok(SaleState::Reserved),
        "sold" => Ok(SaleState::Sold),
        "released" => Ok(SaleState::Released),
        "voided" => Ok(SaleState::Voided),
        _ => Err(unreadable()),
    }
}

pub(crate) fn unreadable() -> LedgerError {
    LedgerError::Refused("the row of a sale is malformed".into())
}
