//! The units that main can have sold since the newest heartbeat that a standby has: by the gates of the items.

use super::*;
use ledger::{AtRisk, Basis, at_risk};

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600 * SECOND;

/// The newest heartbeat is a second old. Gates are in microseconds before or after it.
struct Standby {
    server: LedgerServer,
    beat_at: u64,
}

impl Standby {
    async fn start() -> Self {
        let server = LedgerServer::start().await.unwrap();
        server.ledger.write_heartbeat().await.unwrap();
        let beat_at = server.ledger.replica(at(NOW)).await.unwrap().beat_at.unwrap().as_micros();
        Self { server, beat_at }
    }

    async fn item(&self, name: &str, stock_total: u32, opens: i64, closes: Option<i64>) -> ItemId {
        let gate = |after: i64| at(self.beat_at.saturating_add_signed(after));
        let new = NewItem {
            item_id: name.parse().unwrap(),
            name: name.into(),
            stock_total,
            opens_at: gate(opens),
            closes_at: closes.map(gate),
            hold_seconds: 600,
            settle_window_ms: 2_000,
        };
        assert!(self.server.ledger.create_item(&new).await.unwrap());
        new.item_id
    }

    /// What is at risk if main may sell for `seconds` after the heartbeat.
    async fn at_risk(&self, seconds: u64) -> AtRisk {
        let until = at(self.beat_at + seconds * SECOND);
        let replica = self.server.ledger.replica(until).await.unwrap();
        let risk = at_risk(&replica, None, until);
        assert_eq!((risk.basis, risk.micros), (Basis::Replica, seconds * SECOND));
        risk
    }
}

#[tokio::test]
async fn a_drop_that_opens_later_or_has_closed_is_not_at_risk() {
    let (second, hour) = (SECOND.cast_signed(), HOUR.cast_signed());
    let standby = Standby::start().await;
    let ledger = &standby.server.ledger;
    assert_eq!(standby.at_risk(12).await.sales_at_most, 0);
    standby.item("in-three-months", 1_000, 2_160 * hour, None).await;
    standby.item("last-month", 1_000, -720 * hour, Some(-719 * hour)).await;
    assert_eq!(standby.at_risk(12).await.sales_at_most, 0);

    standby.item("open", 100, -hour, Some(hour)).await;
    assert_eq!(standby.at_risk(12).await.sales_at_most, 100);
    // Its first order can be sold after ten seconds.
    standby.item("opens-soon", 10, 10 * second, None).await;
    assert_eq!(standby.at_risk(10).await.sales_at_most, 100);
    let soon = standby.at_risk(11).await;
    assert_eq!((soon.sales_at_most, soon.sales_likely), (110, 10));
    // Orders from before the closing may wait in the queue.
    standby.item("just-closed", 1, -2 * hour, Some(-second)).await;
    assert_eq!(standby.at_risk(10).await.sales_at_most, 101);

    // The queue of a paused item waits, however long ago the item closed.
    let paused = standby.item("paused", 7, -72 * hour, Some(-48 * hour)).await;
    assert_eq!(standby.at_risk(10).await.sales_at_most, 101);
    ledger.pause_item(&paused, true).await.unwrap();
    assert_eq!(standby.at_risk(10).await.sales_at_most, 108);
}

#[tokio::test]
async fn a_unit_that_waits_for_payment_is_at_risk_and_a_withheld_one_is_not() {
    let hour = HOUR.cast_signed();
    let standby = Standby::start().await;
    let ledger = &standby.server.ledger;
    let item_id = standby.item("closed", 5, -48 * hour, Some(-24 * hour)).await;
    ledger.record(&item_id, &[held("x", 0), sold_at_once("y", 1)], Permit::Unleased).await.unwrap();
    assert_eq!(standby.at_risk(10).await.sales_at_most, 1);
    let item_id = standby.item("open", 20, -hour, None).await;
    ledger.raise_epoch(1).await.unwrap();
    ledger.withhold(&item_id, 15, false, 2).await.unwrap();
    assert_eq!(standby.at_risk(10).await.sales_at_most, 1 + 5);
}

#[tokio::test]
async fn without_a_heartbeat_every_item_that_may_have_opened_is_at_risk() {
    let server = LedgerServer::start().await.unwrap();
    by_hand(&server, "DELETE FROM fairdrop.heartbeats").await.unwrap();
    item(&server.ledger, "a", 100).await;
    let of = async |until: u64| at_risk(&server.ledger.replica(at(until)).await.unwrap(), None, at(until));
    assert_eq!(of(NOW).await.sales_at_most, 0);
    let risk = of(NOW + 1).await;
    assert!(!risk.is_bounded() && risk.sales_at_most == 100, "{risk:?}");
}
