//! The functions' database user, as docs/DEPLOYING.md creates it, has enough rights and no more.

use super::*;
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use std::path::Path;

/// The statements of docs/DEPLOYING.md, with which a user called `shop` is made here: `fairdrop` is the
/// superuser, and the database `postgres`.
fn documented() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/DEPLOYING.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut blocks = page.split("```sql").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.trim_start().starts_with("CREATE USER fairdrop;"));
    let statements = block
        .expect("docs/DEPLOYING.md makes the user")
        .split(';')
        .map(str::trim)
        .filter(|one| !one.is_empty());
    let here = |one: &str| one.replace("DATABASE fairdrop", "DATABASE postgres").replace("fairdrop", "shop");
    statements.map(here).collect()
}

#[tokio::test]
async fn the_documented_user_is_enough() {
    let folder = WorkFolder::new().unwrap();
    let postgres = Postgres::start(folder.path(), "postgres").await.unwrap();
    let mut superuser = PgConnection::connect(&postgres.url()).await.unwrap();
    // RDS has it.
    superuser.execute("CREATE ROLE rds_iam").await.unwrap();
    for statement in documented() {
        superuser.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
    let url = format!("postgres://shop@127.0.0.1:{}/postgres?sslmode=disable", postgres.port());
    let ledger =
        Ledger::from_config(&|name: &str| (name == "FAIRDROP_LEDGER_URL").then(|| url.clone())).unwrap();

    assert_eq!(ledger.migrate().await.unwrap().version, ledger::LATEST_MIGRATION);
    let item_id = item(&ledger, "a", 10).await;
    let (today, unleased) = (Permit::Unleased.fence(1), Permit::Unleased);
    let batch = [held("x", 0), held("y", 1), held("z", 2), sold_at_once("s", 3)];
    let standings = ledger.record(&item_id, &batch, unleased).await.unwrap();
    assert_eq!(standings[3], BuyerState::Sold);
    assert!(matches!(ledger.pay(&item_id, &buyer("x"), "pay-1", today).await, Ok(Payment::Sold { .. })));
    let later = at(NOW + 2 * HOLD);
    assert_eq!(
        ledger.extend(&item_id, &buyer("y"), "pay-2", later, OrderState::None, today).await,
        Ok(Extension::Until(later))
    );
    let redis = OrderState::Reserved(Hold::Until(later));
    assert_eq!(ledger.give_up(&item_id, &buyer("y"), "pay-2", redis, today).await, Ok(Payment::Released));
    assert_eq!(
        ledger.refuse(&item_id, &buyer("w"), "pay-3", OrderState::None, today).await,
        Ok(Payment::NoReservation)
    );
    let released = ledger.release_due(&item_id, &[due("z", 2, true)], at(NOW), today).await.unwrap();
    assert_eq!(released, [BuyerState::Released]);
    assert_eq!(ledger.item(&item_id).await.unwrap().units_taken, 2);

    ledger.write_heartbeat().await.unwrap();
    let seen = ledger.replica().await.unwrap();
    assert!(!seen.follows && seen.beat_at.is_some(), "{seen:?}");
    let main = ledger.main(None, "db-ABC").await.unwrap();
    assert!(main.beat_at.is_some() && main.written > 0 && main.slot.is_none(), "{main:?}");
    assert_eq!(ledger.vitals().await.unwrap().units_counted, 2);
    assert_eq!(ledger.audit_key().await.unwrap().len(), 32);

    ledger.sell_by_lease().await.unwrap();
    assert_eq!(
        ledger.record(&item_id, &[held("v", 4)], unleased).await.map(drop),
        Err(LedgerError::LeaseOver)
    );
    let leased = Permit::Leased { epoch: 1, until: at(micros_now() + 60_000_000) };
    ledger.record(&item_id, &[held("v", 4)], leased).await.unwrap();
    assert_eq!(ledger.withhold(&item_id, 2, true, 1).await, Ok(2));
    assert_eq!(ledger.raise_epoch(1).await, Ok(2));
}
