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
    with_documented_users(&postgres).await;
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
        ledger.extend(&item_id, &buyer("y"), "pay-2", WantedHold::once(later), OrderState::None, today).await,
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
    let seen = ledger.replica(at(NOW)).await.unwrap();
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
    assert_eq!(ledger.withhold(&item_id, 2, true, 2).await, Ok(2));
    assert_eq!(ledger.raise_epoch(1).await, Ok(2));
}

/// A superuser's connection to a server on which the documented statements were run, as RDS's `postgres` runs them: by a
/// role that is no superuser.
pub(super) async fn with_documented_users(postgres: &Postgres) -> PgConnection {
    let mut superuser = PgConnection::connect(&postgres.url()).await.unwrap();
    for statement in [
        "CREATE ROLE rds_iam",
        "CREATE ROLE postgres CREATEROLE",
        "GRANT rds_iam, pg_monitor TO postgres WITH ADMIN OPTION",
        "GRANT ALL ON DATABASE postgres TO postgres WITH GRANT OPTION",
        "SET ROLE postgres",
    ] {
        superuser.execute(statement).await.unwrap();
    }
    for statement in documented() {
        superuser.execute(sqlx::AssertSqlSafe(statement.clone())).await.expect(&statement);
    }
    superuser.execute("RESET ROLE").await.unwrap();
    superuser
}

pub(super) fn ledger_as(user: &str, postgres: &Postgres) -> Ledger {
    let url = format!("postgres://{user}@127.0.0.1:{}/postgres?sslmode=disable", postgres.port());
    let source = |name: &str| match name {
        "FAIRDROP_LEDGER_URL" => Some(url.clone()),
        // As the template sets it for order-confirm.
        "FAIRDROP_LEDGER_CONNECTIONS" => Some("1".to_owned()),
        _ => None,
    };
    Ledger::from_config(&source).unwrap()
}

async fn sessions_of(user: &str, superuser: &mut PgConnection) -> i64 {
    let counted = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE usename = $1").bind(user);
    counted.fetch_one(superuser).await.unwrap()
}

/// A single thread: while it sleeps, the process is frozen, as Lambda freezes it between two notices.
#[tokio::test]
async fn a_frozen_process_keeps_no_connection_and_pays_at_its_next_notice() {
    let folder = WorkFolder::new().unwrap();
    let postgres = Postgres::start(folder.path(), "postgres").await.unwrap();
    let mut superuser = with_documented_users(&postgres).await;
    // The documented minute would make this test long.
    superuser.execute("ALTER ROLE shop_payments SET idle_session_timeout = '500ms'").await.unwrap();
    let owner = ledger_as("shop", &postgres);
    owner.migrate().await.unwrap();
    let item_id = item(&owner, "a", 10).await;
    let names: Vec<String> = (0..4).map(|n| format!("buyer-{n}")).collect();
    let batch: Vec<Reservation> = (0..).zip(&names).map(|(n, name)| held(name, n)).collect();
    owner.record(&item_id, &batch, Permit::Unleased).await.unwrap();

    let payments = ledger_as("shop_payments", &postgres);
    for name in &names {
        let paid =
            payments.pay(&item_id, &buyer(name), &format!("pay-{name}"), Permit::Unleased.fence(1)).await;
        assert!(matches!(paid, Ok(Payment::Sold { .. })), "{name}: {paid:?}");
        assert_eq!(sessions_of("shop_payments", &mut superuser).await, 1);
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(sessions_of("shop_payments", &mut superuser).await, 0, "after a freeze");
    }
}

#[tokio::test]
async fn the_documented_users_have_enough_rights_and_no_more() {
    let folder = WorkFolder::new().unwrap();
    let postgres = Postgres::start(folder.path(), "postgres").await.unwrap();
    let mut superuser = with_documented_users(&postgres).await;
    let owner = ledger_as("shop", &postgres);
    owner.migrate().await.unwrap();
    let item_id = item(&owner, "a", 10).await;
    let batch = [held("x", 0), held("y", 1), held("z", 2)];
    owner.record(&item_id, &batch, Permit::Unleased).await.unwrap();
    let sees_replication: bool = sqlx::query_scalar("SELECT pg_has_role('shop', 'pg_monitor', 'USAGE')")
        .fetch_one(&mut superuser)
        .await
        .unwrap();
    assert!(sees_replication, "without pg_monitor the state of the WAL receiver is NULL");

    // What order-confirm does.
    let payments = ledger_as("shop_payments", &postgres);
    let today = Permit::Unleased.fence(1);
    let later = at(NOW + 2 * HOLD);
    assert_eq!(
        payments
            .extend(&item_id, &buyer("y"), "pay-2", WantedHold::once(later), OrderState::None, today)
            .await,
        Ok(Extension::Until(later))
    );
    let redis = OrderState::Reserved(Hold::Until(later));
    assert_eq!(payments.give_up(&item_id, &buyer("y"), "pay-2", redis, today).await, Ok(Payment::Released));
    let refused = payments.refuse(&item_id, &buyer("w"), "pay-3", OrderState::None, today).await;
    assert_eq!(refused, Ok(Payment::NoReservation));
    let mut session =
        PgConnection::connect(&format!("postgres://shop_payments@127.0.0.1:{}/postgres", postgres.port()))
            .await
            .unwrap();
    for forbidden in ["DELETE FROM fairdrop.sales", "DROP TABLE fairdrop.sales", "CREATE TABLE fairdrop.x ()"]
    {
        let refused = session.execute(forbidden).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "42501", "{forbidden}");
    }
    session.close().await.unwrap();

    // What the drills do: restore-drill reads, and a drill of region-failover writes.
    let drill = ledger_as("shop_drill", &postgres);
    assert_eq!(drill.vitals().await.unwrap().sales, 3);
    assert!(drill.raise_epoch(1).await.is_err(), "restore-drill's user may only read");
    let failover_drill = ledger_as("shop_failover_drill", &postgres);
    assert_eq!(failover_drill.raise_epoch(1).await, Ok(2));
    item(&failover_drill, "canary", 1).await;

    // Each has its own limit of connections.
    let limits: Vec<(String, i32)> = sqlx::query_as(
        "SELECT rolname::text, rolconnlimit FROM pg_roles WHERE rolname LIKE 'shop%' ORDER BY rolname",
    )
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    let limits: Vec<(&str, i32)> = limits.iter().map(|(name, limit)| (name.as_str(), *limit)).collect();
    let expected = [("shop", -1), ("shop_drill", 4), ("shop_failover_drill", 8), ("shop_payments", 100)];
    assert_eq!(limits, expected);
    superuser.execute("ALTER ROLE shop_payments CONNECTION LIMIT 1").await.unwrap();
    let second = ledger_as("shop_payments", &postgres).ready().await;
    assert!(matches!(second, Err(LedgerError::Unavailable(_))), "{second:?}");
    assert_eq!(owner.ready().await, Ok(()), "the limit of one user is not another's");
}
