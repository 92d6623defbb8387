//! The shop's own process: it hears events, charges cards of a provider with books of its own, and reports payments. Here
//! the provider's books and the ledger decide what is true.

use anyhow::{Result, ensure};
use futures::future::join_all;
use local::aws::api_destination::DeliveryFaults;
use local::aws::event_bus::BusFaults;
use local::crowd::cards::CardFaults;
use local::crowd::payments::{Buyers, Habits, PaymentAnswer};
use local::system::System;
use local::system::regions;
use local::system::shop::{Shop, ShopServices};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use shared::item::ItemId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::{Client, announce, drop_of, eventually, insist, quick};

const LIMIT: Duration = Duration::from_secs(30);

fn item_id() -> ItemId {
    "drop".parse().unwrap()
}

struct Street {
    system: System,
    shop: Shop,
    http: reqwest::Client,
}

impl Street {
    async fn open(stock_total: u32, hold_seconds: u32, seed: u64) -> Self {
        let services = ShopServices::start(seed).await.unwrap();
        let mut options = quick(regions::first(1));
        options.event_bus = Some(services.bus.url());
        let system = System::start(&options).await.unwrap();
        let shop = services.open(&system).await.unwrap();
        let with =
            json!({ "stock_total": stock_total, "settle_window_ms": 300, "hold_seconds": hold_seconds });
        announce(&system, "drop", with).await.unwrap();
        Self { system, shop, http: reqwest::Client::new() }
    }

    fn token(&self, buyer: &str) -> String {
        self.system.identity.token(buyer).unwrap()
    }

    async fn checkout(&self, buyer: &str) -> Result<Value> {
        let url = format!("{}/shop/api/items/drop", self.shop.url());
        Ok(self.http.get(url).bearer_auth(self.token(buyer)).send().await?.error_for_status()?.json().await?)
    }

    /// Orders, and waits until the shop would take the money.
    async fn reserve(&self, buyer: &str) {
        let client = Client::of(&self.system, 0).unwrap();
        insist(&client, "drop", &self.token(buyer), LIMIT).await;
        self.until(buyer, "status", "reserved").await;
    }

    async fn until(&self, buyer: &str, member: &str, wanted: &str) -> Value {
        eventually(&format!("{member} is {wanted}"), LIMIT, async || {
            let checkout = self.checkout(buyer).await?;
            let found = checkout.pointer(&format!("/{}", member.replace('.', "/"))).cloned();
            ensure!(found == Some(wanted.into()), "{checkout}");
            Ok(Some(checkout))
        })
        .await
        .unwrap()
    }

    async fn pay(&self, buyer: &str, card: &str) -> Result<(u16, Value)> {
        let url = format!("{}/shop/api/items/drop/payments", self.shop.url());
        let request = self.http.post(url).bearer_auth(self.token(buyer)).json(&json!({ "card": card }));
        let answer = request.timeout(LIMIT).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// How often money was taken and returned, in all payments.
    fn money(&self) -> (u32, u32) {
        let payments = self.shop.services.cards.payments();
        payments.values().fold((0, 0), |sum, one| (sum.0 + one.charges, sum.1 + one.refunds))
    }

    /// The buyers to whom the ledger has sold, with the references of their payments.
    async fn sold(&self) -> Vec<(String, String)> {
        let sales = self.system.ledger().unwrap().sales(&item_id(), None, 5_000).await.unwrap();
        let sold = sales.into_iter().filter(|sale| sale.state == ledger::SaleState::Sold);
        sold.map(|sale| (sale.user_token.as_str().to_owned(), sale.payment_reference.unwrap())).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_paid_once_with_declined_slow_and_repeated_cards() {
    let street = Street::open(10, 60, 1).await;
    for buyer in ["ann", "ben", "cid", "dee"] {
        street.reserve(buyer).await;
    }
    // Declined, and the hold goes on; then another card.
    let (status, declined) = street.pay("ann", "card_declined").await.unwrap();
    assert_eq!(
        (status, &declined["payment"]["status"], &declined["status"]),
        (200, &json!("declined"), &json!("reserved"))
    );
    let (status, sold) = street.pay("ann", "card_ok").await.unwrap();
    assert_eq!(
        (status, &sold["payment"]["status"], &sold["payment"]["attempt"]),
        (200, &json!("sold"), &json!(2)),
        "{sold}"
    );
    assert_eq!(sold["payment"]["reference"], declined["payment"]["reference"]);
    // The same click from ten tabs.
    let clicks = join_all((0..10).map(|_| street.pay("ben", "card_ok"))).await;
    for click in clicks {
        let (status, sold) = click.unwrap();
        assert_eq!(
            (status, &sold["payment"]["status"], &sold["payment"]["attempt"]),
            (200, &json!("sold"), &json!(1))
        );
    }
    // Declined, then the same attempt succeeds by itself, and the provider says so twice.
    let (_, declined) = street.pay("cid", "card_twice").await.unwrap();
    assert_eq!(declined["payment"]["status"], "declined");
    street.until("cid", "payment.status", "sold").await;
    // The bank takes its time: the answer does not wait for it.
    let (_, processing) = street.pay("dee", "card_later_1500").await.unwrap();
    assert_eq!(processing["payment"]["status"], "processing");
    street.until("dee", "payment.status", "sold").await;

    let (status, refused) = street.pay("eve", "card_ok").await.unwrap();
    assert_eq!((status, &refused["problem"]), (409, &json!("not-reserved")));
    assert_eq!(street.money(), (4, 0));
    let sold = street.sold().await;
    assert_eq!(sold.len(), 4);
    let payments = street.shop.services.cards.payments();
    assert!(sold.iter().all(|(_, reference)| payments[reference].charges == 1), "{payments:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_dies_between_charge_and_notice_sells_once_and_charges_once() {
    let mut street = Street::open(10, 60, 2).await;
    for buyer in ["ann", "ben"] {
        street.reserve(buyer).await;
    }
    let confirm = street.system.main_invoke_api().unwrap();
    // The money is taken, fairdrop does not answer, and the shop dies.
    confirm.park("order-confirm", true);
    let url = format!("{}/shop/api/items/drop/payments", street.shop.url());
    let request = street.http.post(url).bearer_auth(street.token("ann")).json(&json!({ "card": "card_ok" }));
    let click = tokio::spawn(request.send());
    let taken = async || Ok((street.money().0 == 1).then_some(()));
    eventually("the money is taken", LIMIT, taken).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    street.shop.kill();
    assert!(click.await.unwrap().is_err());
    confirm.park("order-confirm", false);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(street.sold().await.is_empty());
    street.shop.restart().await.unwrap();
    street.until("ann", "payment.status", "sold").await;

    // The shop dies while the provider works on the charge, which happens while it is down.
    let url = format!("{}/shop/api/items/drop/payments", street.shop.url());
    let request = street.http.post(url).bearer_auth(street.token("ben"));
    let click = tokio::spawn(request.json(&json!({ "card": "card_slow_1500" })).send());
    tokio::time::sleep(Duration::from_millis(700)).await;
    street.shop.kill();
    assert!(click.await.unwrap().is_err());
    let taken = async || Ok((street.money().0 == 2).then_some(()));
    eventually("the money is taken", LIMIT, taken).await.unwrap();
    street.shop.restart().await.unwrap();
    street.until("ben", "payment.status", "sold").await;
    assert_eq!(street.money(), (2, 0));
    assert_eq!(street.sold().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_comes_after_the_reservation_is_returned() {
    let mut street = Street::open(1, 3, 3).await;
    street.reserve("ann").await;
    let (status, refunded) = street.pay("ann", "card_slow_8000").await.unwrap();
    let payment = &refunded["payment"];
    assert_eq!(
        (status, &payment["status"], &payment["refused"]),
        (200, &json!("refunded"), &json!("reservation-ended"))
    );
    assert_eq!(street.money(), (1, 1));
    street.until("ann", "status", "released").await;
    // The next buyer's money comes late, too, and the shop dies before it knows.
    street.reserve("ben").await;
    let url = format!("{}/shop/api/items/drop/payments", street.shop.url());
    let request = street.http.post(url).bearer_auth(street.token("ben"));
    let click = tokio::spawn(request.json(&json!({ "card": "card_slow_8000" })).send());
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    street.shop.kill();
    assert!(click.await.unwrap().is_err());
    let taken = async || Ok((street.money().0 == 2).then_some(()));
    eventually("the money is taken", LIMIT, taken).await.unwrap();
    street.shop.restart().await.unwrap();
    street.until("ben", "payment.status", "refunded").await;
    assert_eq!(street.money(), (2, 2));
    assert!(street.sold().await.is_empty());
}

/// A sold unit, and one whose payment is under way.
#[tokio::test(flavor = "multi_thread")]
async fn the_money_of_a_voided_unit_is_returned() {
    let street = Street::open(2, 60, 8).await;
    for buyer in ["ann", "ben"] {
        street.reserve(buyer).await;
    }
    let (_, sold) = street.pay("ann", "card_ok").await.unwrap();
    assert_eq!(sold["payment"]["status"], "sold");
    let paying = async {
        let (_, refunded) = street.pay("ben", "card_slow_5000").await.unwrap();
        assert_eq!(refunded["payment"]["status"], "refunded", "{refunded}");
    };
    let voiding = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for buyer in ["ann", "ben"] {
            let void = json!({ "command": "void", "item_id": "drop", "buyer": buyer, "reason": "fraud", "by": "Ann" });
            street.system.admin(&void).await.unwrap();
        }
    };
    tokio::join!(paying, voiding);
    let voided = street.until("ann", "payment.status", "refunded").await;
    assert_eq!((&voided["status"], &voided["payment"]["refused"]), (&json!("voided"), &json!("voided")));
    assert_eq!(street.money(), (2, 2));
    assert!(street.sold().await.is_empty());
}

/// Processes die, events come twice and in any order, and the provider's answers are lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_shop_and_its_money_are_as_the_ledger_says_whatever_dies() {
    const HABITS: Habits = Habits { unpaid: 0.3, seed: 5 };
    const HOLD: Duration = Duration::from_secs(4);
    let mut street = Street::open(40, 4, 4).await;
    let services = &street.shop.services;
    services.bus.set_faults(BusFaults { refused: 0.1, entry_fails: 0.2, answer_lost: 0.1, answer_late: 0.0 });
    let late_by = Duration::from_millis(1_500);
    services.destination.set_faults(DeliveryFaults { twice: 0.4, late: 0.4, late_by });
    services.cards.set_faults(CardFaults { answer_lost: 0.2, webhook_twice: 0.3 });
    let buyers =
        Buyers::pay(&street.shop, &street.system.identity, (&item_id(), HOLD), ("", HABITS)).unwrap();
    let selling = AtomicBool::new(true);
    let (system, shop) = (&street.system, &mut street.shop);
    let killing = async {
        let mut random = StdRng::seed_from_u64(6);
        let mut kills = 0;
        while selling.load(Ordering::Relaxed) || kills < 12 {
            tokio::time::sleep(Duration::from_millis(random.random_range(200..700))).await;
            match random.random_range(0..5) {
                0 => system.worker.kill(),
                1 => system.confirm.kill(),
                2 => system.events.iter().for_each(|events| events.kill()),
                _ => {
                    shop.kill();
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
                    shop.restart().await.unwrap();
                }
            }
            kills += 1;
        }
    };
    let dropping = async {
        drop_of(system, 80, 20, "buyer").await.unwrap();
        eventually("the drop is over", Duration::from_secs(60), async || {
            let item = system.admin(&json!({ "command": "describe", "item_id": "drop" })).await?;
            let is_over =
                item["sold"] == 40 || item["orders_waiting"] == 0 && item["sold"] == item["reservations"];
            ensure!(is_over, "{item}");
            Ok(Some(()))
        })
        .await
        .unwrap();
        selling.store(false, Ordering::Relaxed);
    };
    tokio::join!(killing, dropping);

    let sold = street.sold().await;
    eventually("the money of all others is back", Duration::from_secs(40), async || {
        let (charges, refunds) = street.money();
        ensure!(charges - refunds == sold.len() as u32, "{charges} charges, {refunds} refunds");
        Ok(Some(()))
    })
    .await
    .unwrap();
    let payments = street.shop.services.cards.payments();
    for payment in payments.values() {
        assert!(payment.charges <= 1 && payment.refunds <= payment.charges, "{payments:?}");
    }
    for (buyer, reference) in &sold {
        assert_eq!((payments[reference].charges, payments[reference].refunds), (1, 0), "{buyer}");
    }
    assert_eq!(street.shop.services.destination.dropped(), 0);
    // Each buyer reads in the shop what the ledger has, by events alone.
    let sales = street.system.ledger().unwrap().sales(&item_id(), None, 5_000).await.unwrap();
    assert!(sold.len() >= 30 && sales.len() > sold.len(), "{} sold, {} sales", sold.len(), sales.len());
    street.system.main_invoke_api().unwrap().park("order-confirm", true);
    for sale in &sales {
        let state = format!("{:?}", sale.state).to_lowercase();
        street.until(sale.user_token.as_str(), "status", &state).await;
    }
    let answers = buyers.answers();
    let refunded = answers.values().filter(|answer| **answer == PaymentAnswer::Refunded).count();
    println!("{} sold, {:?} charges and refunds, {refunded} buyers refunded", sold.len(), street.money());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_believes_only_tokens_keys_and_signatures() {
    let street = Street::open(1, 60, 7).await;
    street.reserve("ann").await;
    let (http, url) = (&street.http, street.shop.url());
    let api = format!("{url}/shop/api/items/drop");
    let event = json!({ "detail": {
        "id": "drop/1/2", "type": "sold", "item_id": "drop", "sequence": 2, "user_token": "ann", "reserved_at": 1,
    } });
    let webhook = json!({ "reference": "pay_1", "attempt": 1, "status": "succeeded" }).to_string();
    let pay = || http.post(format!("{api}/payments?user_token=ann"));
    let with_token = || pay().bearer_auth(street.token("ann"));
    for (name, request, status) in [
        ("a page", http.get(format!("{url}/shop/?item=drop")), 200),
        ("a foreign host", http.get(format!("{url}/shop/")).header("host", "rebound.example"), 421),
        ("another file", http.get(format!("{url}/shop/..%2fCargo.toml")), 404),
        ("no token", http.get(&api), 401),
        ("a name in the query", http.get(format!("{api}?user_token=ann")), 401),
        ("a wrong token", http.get(&api).bearer_auth("ann"), 401),
        ("a payment without a token", pay().json(&json!({ "card": "card_ok" })), 401),
        ("a foreign form", with_token().body(r#"{"card":"card_ok"}"#), 400),
        ("another member", with_token().json(&json!({ "card": "card_ok", "buyer": "ben" })), 400),
        ("a long body", with_token().body("x".repeat(300_000)), 413),
        ("an event without the key", http.post(format!("{url}/shop/events")).json(&event), 403),
        ("a wrong key", http.post(format!("{url}/shop/events")).header("x-shop-key", "1").json(&event), 403),
        (
            "no event",
            http.post(format!("{url}/shop/events")).header("x-shop-key", street.shop.key()).body("{}"),
            400,
        ),
        ("an unsigned webhook", http.post(format!("{url}/shop/webhooks/cards")).body(webhook), 400),
        ("letters without the key", http.get(format!("{url}/shop/letters/0")), 403),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{name}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert_eq!(answer.headers()["cache-control"], "no-store", "{name}");
    }
    assert_eq!(street.checkout("ann").await.unwrap()["status"], "reserved");
    assert_eq!(street.money(), (0, 0));
}
