//! What a fence does to a ledger's open sessions: a security group leaves them alone, so that region-failover ends them.

use super::database_user::{ledger_as, with_documented_users};
use super::*;
use ledger::OtherWriters;
use local::system::folder::WorkFolder;

const WRITE: &str = "UPDATE fairdrop.sales SET hold_until = hold_until + 1";

fn writers(open: u64, own: u64) -> Result<OtherWriters, LedgerError> {
    Ok(OtherWriters { open, own })
}

async fn session(user: &str, postgres: &Postgres) -> PgConnection {
    PgConnection::connect(&format!("postgres://{user}@127.0.0.1:{}/postgres", postgres.port())).await.unwrap()
}

#[tokio::test]
async fn sessions_that_could_write_are_ended_over_a_connection_that_was_open_before() {
    let folder = WorkFolder::new().unwrap();
    let postgres = Postgres::start(folder.path(), "postgres").await.unwrap();
    let mut superuser = with_documented_users(&postgres).await;
    let owner = ledger_as("shop", &postgres);
    owner.migrate().await.unwrap();
    let item_id = item(&owner, "a", 10).await;
    owner.record(&item_id, &[held("x", 0)], Permit::Unleased).await.unwrap();
    // region-failover's connection, opened before the security group.
    let mut kept = owner.session().await.unwrap();

    let mut worker = session("shop", &postgres).await;
    let mut payments = session("shop_payments", &postgres).await;
    let mut reader = session("shop_drill", &postgres).await;
    // In the middle of a transaction, as a process that is frozen.
    worker.execute("BEGIN").await.unwrap();
    worker.execute(WRITE).await.unwrap();
    payments.execute("SELECT 1").await.unwrap();
    assert_eq!(
        kept.other_writers().await,
        writers(2, 2),
        "restore-drill's user and the superuser do not count"
    );
    assert_eq!(kept.end_other_writers().await, Ok(2));
    for (user, session) in [("shop", &mut worker), ("shop_payments", &mut payments)] {
        assert!(session.execute(WRITE).await.is_err(), "{user} goes on writing");
    }
    // PostgreSQL counts a session until its process has ended.
    let began = std::time::Instant::now();
    while kept.other_writers().await != writers(0, 0) {
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", kept.other_writers().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let hold_until: i64 =
        sqlx::query_scalar("SELECT hold_until FROM fairdrop.sales").fetch_one(&mut superuser).await.unwrap();
    assert_eq!(hold_until.unsigned_abs(), NOW + HOLD, "the open transaction was rolled back");
    reader.execute("SELECT count(*) FROM fairdrop.sales").await.expect("a reader is left alone");
    assert_eq!(kept.end_other_writers().await, Ok(0), "it may be repeated");
}

/// Ledgers whose users were made before region-failover ended sessions lack the grant.
#[tokio::test]
async fn a_session_that_may_not_be_ended_is_still_counted() {
    let folder = WorkFolder::new().unwrap();
    let postgres = Postgres::start(folder.path(), "postgres").await.unwrap();
    let mut superuser = with_documented_users(&postgres).await;
    superuser.execute("REVOKE shop_payments FROM shop GRANTED BY postgres").await.unwrap();
    let owner = ledger_as("shop", &postgres);
    owner.migrate().await.unwrap();
    let mut kept = owner.session().await.unwrap();
    let mut payments = session("shop_payments", &postgres).await;
    assert_eq!((kept.other_writers().await, kept.end_other_writers().await), (writers(1, 0), Ok(0)));
    payments.execute("SELECT 1").await.unwrap();
    assert_eq!(kept.other_writers().await, writers(1, 0));
}
