//! A buyer's name is removed from the ledger, and everything in it can still be checked.

use crate::finish::EndingItem;
use crate::held_item::Holds;
use ledger::{Erasure, LedgerError};
use serde_json::{Value, json};
use shared::permit::Permit;
use shared::user_token::UserToken;
use sqlx::{Connection, Executor, PgConnection};

const HOLDS: Holds = Holds { hold_seconds: 600, max_hold_seconds: 0 };
const PSEUDONYM: &str = "erased-0123456789abcdef0123456789abcdef";

async fn connect(ending: &EndingItem) -> PgConnection {
    PgConnection::connect(&ending.item.ledger.postgres.url()).await.unwrap()
}

/// All rows of all tables, as text.
async fn dump(ending: &EndingItem) -> String {
    let mut ledger = connect(ending).await;
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'fairdrop' ORDER BY 1")
            .fetch_all(&mut ledger)
            .await
            .unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    let mut text = String::new();
    for table in tables {
        let rows = format!("SELECT row::text FROM fairdrop.{table} AS row");
        let rows: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_all(&mut ledger).await.unwrap();
        text.extend(rows.into_iter().map(|row| format!("{table} {row}\n")));
    }
    text
}

/// Lets a worker finish its tasks.
async fn work(ending: &EndingItem) {
    let mut work = ending.item.worker().await.unwrap();
    while ending.stores.queue.waiting_tasks(&ending.item.item_id).await.unwrap() > 0 {
        let _ = work.round(true).await;
    }
}

fn erase(buyer: &str) -> Value {
    json!({ "command": "erase", "buyer": buyer, "by": "Ann" })
}

/// alice has bought; bob has paid too late, erin's unit was voided, and david's hold ended unpaid.
async fn archived() -> EndingItem {
    let ending = EndingItem::start(HOLDS, &["alice", "bob", "david", "erin"]).await;
    let mut ledger = connect(&ending).await;
    ledger.execute("UPDATE fairdrop.outbox_wanted SET until = 9007199254740991").await.unwrap();
    assert_eq!(ending.item.send(&ending.item.notice("alice", "pay-1", "paid")).await, "sold");
    for buyer in ["bob", "david"] {
        let failed = ending.item.notice(buyer, &format!("pay-{}", buyer.len()), "failed");
        assert_eq!(ending.item.send(&failed).await, "released");
    }
    let late = ending.item.notice("bob", "pay-late", "paid");
    assert_eq!(ending.item.send(&late).await, "reservation-ended");
    let void = json!({ "command": "void", "item_id": "a", "buyer": "erin", "reason": "fraud", "bar": true });
    ending.command(void).await.unwrap();
    ledger
        .execute(
            "INSERT INTO fairdrop.unpaid_holds (item_id, user_token, reserved_at) VALUES ('a', 'david', 1)
                 ON CONFLICT DO NOTHING;
             INSERT INTO fairdrop.attempts (item_id, user_token, notice, hold_until)
             VALUES ('a', 'david', 'Paid pay-6', 1)",
        )
        .await
        .unwrap();
    work(&ending).await;
    assert_eq!(ending.refused(erase("alice")).await.0, "BuyerInItems", "the item is on sale");
    ending.closed_for(11).await;
    ending.finish().await.unwrap();
    ledger.execute("UPDATE fairdrop.items SET closed_event_for = closes_at").await.unwrap();
    ledger.execute("UPDATE fairdrop.outbox SET published_at = 1").await.unwrap();
    let (kind, text) = ending.refused(erase("alice")).await;
    assert_eq!(kind, "BuyerInItems", "it is finished");
    assert!(text.contains("items a that"), "{text}");
    ending.command(json!({ "command": "archive", "item_id": "a" })).await.unwrap();
    ending
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_nowhere_and_audits_still_verify() {
    let ending = archived().await;
    let audit = json!({ "command": "audit", "item_id": "a" });
    let before = ending.command(audit.clone()).await.unwrap();
    // The epoch has risen since the sale: its rows keep theirs.
    ending.stores.ledger.raise_epoch(1).await.unwrap();
    for buyer in ["alice", "bob", "david", "erin", "stranger"] {
        // Each row is a line of the dump.
        let rows = dump(&ending).await.lines().filter(|line| line.contains(buyer)).count();
        assert_eq!(rows >= 2, buyer != "stranger", "{buyer}");
        let erased = ending.command(erase(buyer)).await.unwrap();
        assert_eq!(erased["ledger_rows"], rows, "{buyer}: {erased}");
        let text = dump(&ending).await;
        assert!(!text.contains(buyer), "{buyer} is in {text}");
        let pseudonym = erased["erased_as"].as_str().unwrap();
        assert_eq!(text.contains(pseudonym), rows > 0, "{buyer}");
        assert!(erased["remains"]["log_backups_end_at"].is_u64() && erased["next"].is_null(), "{erased}");
        assert_eq!(ending.command(erase(buyer)).await.unwrap()["ledger_rows"], 0);
    }
    let after = ending.command(audit).await.unwrap();
    let without_hashes = |audit: &Value| {
        let mut sales = audit["sales"].clone();
        sales.as_array_mut().unwrap().iter_mut().for_each(|sale| sale["buyer"] = Value::Null);
        (sales, audit["units_taken"].clone(), audit["in_order"].clone(), audit["unpaid_holds"].clone())
    };
    assert_eq!(without_hashes(&after), without_hashes(&before));
    assert_eq!(after["voids"][0]["reason"], "fraud");
    let export = json!({ "command": "export", "item_id": "a", "by": "Ann" });
    let exported = ending.command(export).await.unwrap();
    assert!(exported["units"] == 1 && exported.to_string().contains("\"erased-"), "{exported}");
    // The payment that bought the unit buys no other one, whichever buyer is named with it.
    assert_eq!(
        ending.item.send(&ending.item.notice("zoe", "pay-1", "paid")).await,
        "payment-used",
        "the reference is still known"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_renames_no_buyer_in_another_way() {
    let ending = archived().await;
    let mut ledger = connect(&ending).await;
    let rename = |table: &str, to: &str| {
        sqlx::AssertSqlSafe(format!("UPDATE fairdrop.{table} SET user_token = '{to}' WHERE item_id = 'a'"))
    };
    let tables = ["sales", "payments", "voids", "exclusions", "unpaid_holds", "attempts", "outbox"];
    for table in tables {
        for to in ["mallory", PSEUDONYM] {
            let refused = ledger.execute(rename(table, to)).await.unwrap_err().to_string();
            assert!(refused.contains("keeps its buyer"), "{table}: {refused}");
        }
    }
    let record = format!(
        "INSERT INTO fairdrop.erasures (pseudonym, erased_by, epoch) VALUES ('{PSEUDONYM}', 'Ann', 1)"
    );
    ledger.execute(sqlx::AssertSqlSafe(record)).await.unwrap();
    let more = format!(
        "UPDATE fairdrop.sales SET user_token = '{PSEUDONYM}', reserved_at = 1 WHERE user_token = 'alice'"
    );
    let refused = ledger.execute(sqlx::AssertSqlSafe(more)).await.unwrap_err().to_string();
    assert!(refused.contains("nothing but the buyer"), "{refused}");
    ledger.execute("UPDATE fairdrop.payments SET answer = 'already-paid'").await.unwrap_err();
    ledger.execute("UPDATE fairdrop.erasures SET erased_by = 'Bob'").await.unwrap_err();
    // The item is on sale again in the ledger's eyes: no erasure.
    ledger.execute("UPDATE fairdrop.items SET archived_at = NULL").await.unwrap();
    let alice = UserToken::parse("alice").unwrap();
    let erasure = Erasure { buyer: &alice, pseudonym: PSEUDONYM, by: "Ann" };
    let refused = ending.stores.ledger.erase(&ending.item.item_id, erasure, Permit::Unleased.fence(1)).await;
    assert!(matches!(refused, Err(LedgerError::Refused(_))), "{refused:?}");
    assert!(dump(&ending).await.contains("alice"));
}

/// An order log has a withdrawal from after the closing.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_logs_of_an_item_are_searched_long_after_its_archiving() {
    let ending = archived().await;
    let mut ledger = connect(&ending).await;
    ledger.execute("UPDATE fairdrop.items SET closes_at = 5, opens_at = 4").await.unwrap();
    let archived_at: i64 =
        sqlx::query_scalar("SELECT archived_at FROM fairdrop.items").fetch_one(&mut ledger).await.unwrap();
    let items = ending.stores.ledger.named_items(None, 10).await.unwrap();
    let ended_at: Vec<_> = items.iter().map(|item| item.ended_at.map(|at| at.as_micros())).collect();
    assert_eq!(ended_at, [Some(archived_at.cast_unsigned())]);
}
