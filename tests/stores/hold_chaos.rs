//! Workers die, and order-confirm does not reach the ledger: a buyer whose payment was reported before the end of the hold
//! gets the unit, and no unit is sold twice.

use crate::held_item::{HeldItem, Holds, status_of, work_for};
use futures::future::join_all;
use ledger::SaleState;
use local::system::clock::micros_now;
use order_confirm::App;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shared::item::ItemChanges;
use shared::permit::Permit;
use shared::queue::{Hold, OrderState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::source;

const STOCK: u32 = 9;
const BUYERS: usize = 27;
/// Every third buyer pays, the others let their holds end.
const PAYS: usize = 3;
const LIMIT: Duration = Duration::from_secs(100);
/// The longest pause of the shop between two reports, well below the grace of 6 s.
const REPEAT: Duration = Duration::from_millis(400);

/// A report that is sent this long before the end arrives before it, also on a busy machine.
const ARRIVES_WITHIN_MICROS: u64 = 400_000;

struct DropRun {
    item: HeldItem,
    cut_off: App,
    /// Whether order-confirm reaches the ledger.
    is_reached: AtomicBool,
    is_over: AtomicBool,
}

impl DropRun {
    async fn start(buyers: &[String]) -> Self {
        let item = HeldItem::start(Holds { hold_seconds: 2, max_hold_seconds: 0 }, &[]).await.unwrap();
        let stock = ItemChanges { stock_total: Some(STOCK), ..ItemChanges::default() };
        item.redis.queue.update_item(&item.item_id, &stock).await.unwrap();
        item.ledger.ledger.change_item(&item.item_id, &stock).await.unwrap();
        let stores = source(&item.redis, &item.ledger);
        let no_ledger = |name: &str| match name {
            "FAIRDROP_LEDGER_URL" => Some("postgres://fairdrop@127.0.0.1:1/fairdrop".to_owned()),
            _ => stores(name),
        };
        let cut_off = App::from_config(&no_ledger).await.unwrap();
        item.reserve(&buyers.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
        Self { item, cut_off, is_reached: AtomicBool::new(true), is_over: AtomicBool::new(false) }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// A last worker finishes what the dead ones have left; then Redis has exactly what the ledger has.
    async fn agrees_in_both_stores(&self, seed: u64) {
        let (item, item_id) = (&self.item, &self.item.item_id);
        let mut work = item.worker_with(Some("6")).await.unwrap();
        let began = Instant::now();
        loop {
            work_for(&mut work, Duration::from_secs(1)).await;
            if item.redis.queue.waiting_tasks(item_id).await.unwrap() == 0 {
                break;
            }
            assert!(began.elapsed() < LIMIT, "seed {seed}: tasks wait");
        }
        let found = reconcile::reconcile(&item.stores(), item_id, false).await.unwrap();
        let none = std::collections::BTreeMap::new();
        assert_eq!((&found.differences, found.stock_left), (&none, found.stock_counted), "seed {seed}");
        let units_taken = item.ledger.ledger.item(item_id).await.unwrap().units_taken;
        assert_eq!(found.stock_left, i64::from(STOCK) - i64::from(units_taken), "seed {seed}");
    }

    async fn drain(&self) {
        while self.goes_on() {
            self.item.redis.queue.drain(&self.item.item_id, 500, Permit::Unleased).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Workers that live for a while and die; in every second pause order-confirm does not reach the ledger either.
    async fn workers(&self, random: &mut StdRng) {
        while self.goes_on() {
            let lives = Duration::from_millis(random.random_range(500..3_000));
            let mut work = self.item.worker_with(Some("6")).await.unwrap();
            let _ = tokio::time::timeout(lives, async {
                loop {
                    let _ = work.round(true).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
            self.is_reached.store(random.random_bool(0.5), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(random.random_range(0..8_000))).await;
            self.is_reached.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for a unit, and pays it at some moment of its hold. Returns whether that was in time, and the answer that
    /// decided.
    async fn pay(&self, buyer: &str, after: Duration) -> (bool, String) {
        let held_until = loop {
            match self.item.state(buyer).await.unwrap() {
                OrderState::Reserved(Hold::Until(until)) => break until,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        tokio::time::sleep(after).await;
        let notice = self.item.notice(buyer, &format!("pi_{buyer}"), "paid");
        let said_at = micros_now();
        loop {
            let confirm =
                if self.is_reached.load(Ordering::Relaxed) { &self.item.confirm } else { &self.cut_off };
            if let Ok(answer) = order_confirm::answer(confirm, notice.clone()).await {
                return (said_at + ARRIVES_WITHIN_MICROS < held_until.as_micros(), status_of(&answer));
            }
            tokio::time::sleep(REPEAT).await;
        }
    }
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let buyers: Vec<String> = (0..BUYERS).map(|number| format!("buyer-{number:02}")).collect();
    let drop = DropRun::start(&buyers).await;
    let started = Instant::now();
    let payers: Vec<&String> = buyers.iter().step_by(PAYS).collect();
    let paying = join_all(payers.iter().map(|buyer| {
        let after = Duration::from_millis(random.random_range(0..1_800));
        drop.pay(buyer, after)
    }));
    let all_paid = async {
        let answers = tokio::time::timeout(LIMIT, paying).await.expect("the drop does not end");
        drop.is_over.store(true, Ordering::Relaxed);
        answers
    };
    let (answers, (), ()) = tokio::join!(all_paid, drop.drain(), drop.workers(&mut random));

    let sales = drop.item.ledger.ledger.sales(&drop.item.item_id, None, 100).await.unwrap();
    let sold = |buyer: &str| {
        sales.iter().any(|sale| sale.user_token.as_str() == buyer && sale.state == SaleState::Sold)
    };
    let mut in_time = 0;
    for (buyer, (was_in_time, answer)) in payers.iter().zip(&answers) {
        in_time += u32::from(*was_in_time);
        match (was_in_time, answer.as_str()) {
            (_, "sold") => assert!(sold(buyer), "seed {seed}: {buyer}"),
            (false, "reservation-ended") => assert!(!sold(buyer), "seed {seed}: {buyer}"),
            lost => panic!("seed {seed}: {buyer}: {lost:?}"),
        }
    }
    drop.agrees_in_both_stores(seed).await;
    println!(
        "seed {seed}: {} s, {in_time} paid in time, {} outages",
        started.elapsed().as_secs(),
        drop.item.query("SELECT count(*) FROM fairdrop.outages").await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_pays_in_time_gets_the_unit_through_outages() {
    tokio::join!(run(1), run(2), run(3));
}
