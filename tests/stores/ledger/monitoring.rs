//! What a standby's monitor asks main every few seconds: right, and bounded by an index however many sales there are.

use super::*;
use ledger::CountedLoss;
use sqlx::AssertSqlSafe;

/// Sales of earlier drops. `FAIRDROP_SALES` sets another number.
const EARLIER_SALES: u64 = 50_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_is_counted_by_an_index_and_not_by_reading_all_sales() {
    let sales = std::env::var("FAIRDROP_SALES").ok().and_then(|text| text.parse().ok());
    let sales: u64 = sales.unwrap_or(EARLIER_SALES);
    let server = LedgerServer::start().await.unwrap();
    let ledger = &server.ledger;
    let item_id = item(ledger, "a", 100).await;
    let mut connection = PgConnection::connect(&server.postgres.url()).await.unwrap();
    // Without triggers, which would take hours at 30 million.
    connection.execute("SET session_replication_role = replica").await.unwrap();
    let earlier = format!(
        "INSERT INTO fairdrop.sales (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
         SELECT 'earlier', 'buyer-' || n, 'sold', n, n, n, 1 FROM generate_series(1, {sales}) AS n"
    );
    connection.execute(AssertSqlSafe(earlier)).await.unwrap();
    connection.execute("VACUUM ANALYZE fairdrop.sales").await.unwrap();

    ledger.record(&item_id, &[held("before", 0), held("paid-later", 1)], Permit::Unleased).await.unwrap();
    ledger.write_heartbeat().await.unwrap();
    let received = ledger.main(None, "").await.unwrap().written;
    ledger.record(&item_id, &[held("new", 2), sold_at_once("newer", 3)], Permit::Unleased).await.unwrap();
    ledger.pay(&item_id, &buyer("paid-later"), "payment", Permit::Unleased.fence(1)).await.unwrap();

    // A session writes its statistics when it ends, or up to ten seconds later: those above end here.
    let end =
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'fairdrop'";
    by_hand(&server, end).await.unwrap();
    let before = scans(&server).await;
    let began = Instant::now();
    let main = ledger.main(Some(received), "").await.unwrap();
    println!("{sales} earlier sales: the loss was counted in {:?}", began.elapsed());
    assert!(matches!(main.counted_loss, Some(CountedLoss { sales: 3, .. })), "{main:?}");
    let began = Instant::now();
    assert_eq!(ledger.replica(at(NOW + 1)).await.unwrap().units_unsold, 100 - 4 + 2);
    ledger.last_signs().await.unwrap();
    println!("{sales} earlier sales: a ledger's state and last signs were read in {:?}", began.elapsed());
    let mut after = scans(&server).await;
    for _ in 0..60 {
        if after.of_the_index > before.of_the_index {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        after = scans(&server).await;
    }
    assert!(after.of_the_index > before.of_the_index, "the index was not used");
    assert_eq!(after.of_all_sales, before.of_all_sales, "a question read all sales");
}

/// How often sales were read.
#[derive(Debug)]
struct Scans {
    of_all_sales: i64,
    of_the_index: i64,
}

async fn scans(server: &LedgerServer) -> Scans {
    let mut connection = PgConnection::connect(&server.postgres.url()).await.unwrap();
    let scans =
        "SELECT seq_scan, (SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'sales_changed')
                   FROM pg_stat_user_tables WHERE relid = 'fairdrop.sales'::regclass";
    let (of_all_sales, of_the_index) = sqlx::query_as(scans).fetch_one(&mut connection).await.unwrap();
    Scans { of_all_sales, of_the_index }
}
