//! The units that main can have sold since the newest heartbeat that a standby has.

use super::*;
use ledger::{AtRisk, Basis, at_risk};
use shared::item::ItemChanges;

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
            max_hold_seconds: 0,
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
async fn a_drop_that_opens_later_is_not_at_risk() {
    let (second, hour) = (SECOND.cast_signed(), HOUR.cast_signed());
    let standby = Standby::start().await;
    assert_eq!(standby.at_risk(12).await.sales_at_most, 0);
    standby.item("in-three-months", 1_000, 2_160 * hour, None).await;
    assert_eq!(standby.at_risk(12).await.sales_at_most, 0);

    standby.item("open", 100, -hour, Some(hour)).await;
    assert_eq!(standby.at_risk(12).await.sales_at_most, 100);
    // Its first order can be sold after ten seconds.
    standby.item("opens-soon", 10, 10 * second, None).await;
    assert_eq!(standby.at_risk(10).await.sales_at_most, 100);
    let soon = standby.at_risk(11).await;
    assert_eq!((soon.sales_at_most, soon.sales_likely), (110, 10));
    // An overload can delay its first sale by the longest window.
    standby.item("opened", 20, -5 * second, None).await;
    let overload = standby.at_risk(11).await;
    assert_eq!((overload.sales_at_most, overload.sales_likely), (130, 30));
}

/// Orders from before the closing wait in the queue after a sell-out and while an item is paused. The drain sells them a
/// unit that becomes free, however late.
#[tokio::test]
async fn a_unit_of_a_closed_item_that_becomes_free_is_at_risk() {
    let hour = HOUR.cast_signed();
    let standby = Standby::start().await;
    let ledger = &standby.server.ledger;
    let at_most = async || standby.at_risk(10).await.sales_at_most;
    let closed = async |name: &str, stock| standby.item(name, stock, -72 * hour, Some(-48 * hour)).await;

    let paused = closed("paused", 7).await;
    ledger.pause_item(&paused, true).await.unwrap();
    assert_eq!(at_most().await, 7);
    ledger.pause_item(&paused, false).await.unwrap();
    assert_eq!(at_most().await, 7, "the item is resumed");

    let sold_out = closed("sold-out", 3).await;
    let buyers = [held("x", 0), held("y", 1), sold_at_once("z", 2)];
    ledger.record(&sold_out, &buyers, Permit::Unleased).await.unwrap();
    assert_eq!(at_most().await, 7 + 2);
    let permit = Permit::Unleased.fence(1);
    ledger.release_due(&sold_out, &[due("x", 0, false)], at(NOW + HOLD), permit).await.unwrap();
    ledger.release_due(&sold_out, &[due("y", 1, true)], at(NOW + 2), permit).await.unwrap();
    assert_eq!(at_most().await, 7 + 2, "a hold has ended, and a buyer has cancelled");

    let more = ItemChanges { stock_total: Some(8), ..ItemChanges::default() };
    ledger.change_item(&sold_out, &more).await.unwrap();
    assert_eq!(at_most().await, 7 + 2 + 5, "stock was added");
    // An operator takes the item out of the limit.
    let sold = ItemChanges { stock_total: Some(1), ..ItemChanges::default() };
    ledger.change_item(&sold_out, &sold).await.unwrap();
    assert_eq!(at_most().await, 7);
}

#[tokio::test]
async fn units_of_an_item_that_closed_long_ago_are_not_likely_to_be_sold() {
    let (second, hour) = (SECOND.cast_signed(), HOUR.cast_signed());
    let standby = Standby::start().await;
    // Two are sold in the second of the heartbeat.
    let open = standby.item("open", 5, -hour, None).await;
    let now = |name| Reservation { reserved_at: at(standby.beat_at), ..sold_at_once(name, 0) };
    standby.server.ledger.record(&open, &[now("x"), now("y")], Permit::Unleased).await.unwrap();
    let closed = standby.item("closed", 1_000, -72 * hour, Some(-48 * hour)).await;
    let figures = async || {
        let risk = standby.at_risk(10).await;
        (risk.sales_at_most, risk.sales_likely)
    };
    assert_eq!(figures().await, (1_003, 3));
    standby.server.ledger.pause_item(&closed, true).await.unwrap();
    assert_eq!(figures().await, (1_003, 20), "its queue waits");
    standby.server.ledger.pause_item(&closed, false).await.unwrap();
    standby.item("just-closed", 4, -hour, Some(-second)).await;
    assert_eq!(figures().await, (1_007, 7), "its last orders may wait");
}

#[tokio::test]
async fn a_unit_that_waits_for_payment_is_at_risk_and_a_withheld_one_is_not() {
    let hour = HOUR.cast_signed();
    let standby = Standby::start().await;
    let ledger = &standby.server.ledger;
    let item_id = standby.item("closed", 5, -48 * hour, Some(-24 * hour)).await;
    ledger.record(&item_id, &[held("x", 0), sold_at_once("y", 1)], Permit::Unleased).await.unwrap();
    assert_eq!(standby.at_risk(10).await.sales_at_most, 1 + 3);
    let item_id = standby.item("open", 20, -hour, None).await;
    ledger.raise_epoch(1).await.unwrap();
    ledger.withhold(&item_id, 15, false, 2).await.unwrap();
    assert_eq!(standby.at_risk(10).await.sales_at_most, 1 + 3 + 5);
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
