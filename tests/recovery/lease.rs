//! The main lease: against a real table's protocol, a real Redis and a real PostgreSQL.

use anyhow::Result;
use lease::{Lease, LeaseError, LeaseRecord, LeaseTable, LeaseTableError, LeaseTiming};
use ledger::LedgerError;
use local::aws::emulators::Moto;
use local::system::clock::micros_now;
use local::system::folder::WorkFolder;
use local::system::wan::{ConnectionState, WanConnection};
use redis::AsyncCommands;
use shared::item::{ItemId, NewItem};
use shared::permit::Permit;
use shared::queue::{Keys, LinkError, Reservation};
use shared::stamp::Stamp;
use sqlx::{Connection, Executor, PgConnection};
use std::time::{Duration, Instant};
use tests::{LedgerServer, RedisQueue, lease_table, order};

const HERE: &str = "us-east-1";
const TIMING: LeaseTiming =
    LeaseTiming { lasts: Duration::from_secs(4), tolerance: Duration::from_millis(100) };

fn at(micros: u64) -> Stamp {
    Stamp::from_micros(micros).unwrap()
}

fn now() -> Stamp {
    at(micros_now())
}

fn leased(epoch: u64, until: u64) -> Permit {
    Permit::Leased { epoch, until: at(until) }
}

/// A table behind a connection that can be cut.
struct LeaseFixture {
    _moto: Moto,
    connection: WanConnection,
    table: LeaseTable,
    _folder: WorkFolder,
}

impl LeaseFixture {
    async fn start() -> Result<Self> {
        let folder = WorkFolder::new()?;
        let moto = Moto::start(folder.path(), &[]).await?;
        moto.make_table(HERE, "lease").await?;
        let connection = WanConnection::open(([127, 0, 0, 1], moto.port()).into(), Duration::ZERO).await?;
        let table = lease_table(&format!("http://127.0.0.1:{}", connection.port()), HERE).await;
        Ok(Self { _moto: moto, connection, table, _folder: folder })
    }
}

#[tokio::test]
async fn one_writer_wins_and_a_closed_lease_cannot_be_renewed() {
    let fixture = LeaseFixture::start().await.unwrap();
    let table = &fixture.table;
    assert_eq!(table.load().await, Err(LeaseTableError::Missing));
    let first = table.write_first(&LeaseRecord::first(HERE, 7)).await.unwrap();
    // The second writer reads the first record.
    assert_eq!(table.write_first(&LeaseRecord::first("eu-west-1", 9)).await.unwrap(), first);

    let renewed = table.renew(HERE, now(), TIMING).await.unwrap();
    assert!(renewed.expires_at > now() && renewed.version == 2 && renewed.epoch == 7, "{renewed:?}");
    let elsewhere = table.renew("eu-west-1", now(), TIMING).await.unwrap();
    assert_eq!(elsewhere, renewed, "another region only reads");

    let (one, other) = (renewed.closed("run-1"), renewed.closed("run-2"));
    let (one, other) = tokio::join!(table.change(&one), table.change(&other));
    assert_eq!([one.is_ok(), other.is_ok()].iter().filter(|won| **won).count(), 1, "{one:?} {other:?}");
    let closed = table.load().await.unwrap();
    assert!(!closed.is_open);
    assert_eq!(table.renew(HERE, now(), TIMING).await.unwrap(), closed);

    let run = closed.run.clone().unwrap();
    assert_eq!(closed.taken("eu-west-1", &run, now(), TIMING), None, "the lease has not ended");
    let late = at(closed.expires_at.as_micros() + 200_000);
    let taken = closed.taken("eu-west-1", &run, late, TIMING).unwrap();
    table.change(&taken).await.unwrap();
    assert_eq!(table.load().await.unwrap(), taken);
    assert_eq!(table.change(&taken).await, Err(LeaseTableError::Conflict));
}

#[tokio::test]
async fn the_epoch_of_main_s_open_lease_rises_while_main_renews_it() {
    let fixture = LeaseFixture::start().await.unwrap();
    let table = &fixture.table;
    table.write_first(&LeaseRecord::first(HERE, 1)).await.unwrap();
    let of = |region| Lease::over(table.clone(), region, TIMING);
    let (here, worker) = (of(HERE), of(HERE));
    let renewals = async {
        for _ in 0..10 {
            worker.renew().await.unwrap();
        }
    };
    let (raised, ()) = tokio::join!(here.raise_epoch(2), renewals);
    raised.unwrap();
    worker.renew().await.unwrap();
    assert_eq!(worker.permit().unwrap().fence(0).epoch, 2);
    here.raise_epoch(2).await.unwrap();
    let elsewhere = LeaseError::Elsewhere { region: HERE.into(), epoch: 2 };
    assert_eq!(of("eu-west-1").raise_epoch(3).await, Err(elsewhere.clone()));
    table.change(&table.load().await.unwrap().closed("failover")).await.unwrap();
    assert_eq!(here.raise_epoch(3).await, Err(elsewhere));
    assert_eq!(table.load().await.unwrap().epoch, 2);
}

#[tokio::test]
async fn a_process_without_the_table_stops_by_itself() {
    let fixture = LeaseFixture::start().await.unwrap();
    let lease = Lease::over(fixture.table.clone(), HERE, TIMING);
    lease.create(1).await.unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let keeping = lease.clone();
    let keeper = tokio::spawn(async move { keeping.keep_until(until).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(lease.permit().is_ok(), "renewals keep the lease: {:?}", lease.permit());
    fixture.connection.set(ConnectionState::Silent);
    let cut = Instant::now();
    while lease.permit().is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(cut.elapsed() < TIMING.lasts, "it sells by a lease that has ended");
    }
    println!("without the table it stopped after {:.1} s", cut.elapsed().as_secs_f64());
    fixture.connection.set(ConnectionState::Up);
    let back = Instant::now();
    while lease.permit().is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(back.elapsed() < Duration::from_secs(15), "{:?}", lease.permit());
    }
    keeper.abort();
}

/// Drain and worker each have three to four runs at a time.
#[tokio::test]
async fn many_processes_renew_the_lease_hardly_more_often_than_one() {
    let fixture = LeaseFixture::start().await.unwrap();
    let first = fixture.table.write_first(&LeaseRecord::first(HERE, 1)).await.unwrap();
    let lasting = 3 * TIMING.lasts;
    let until = Instant::now() + lasting;
    let keepers = (0..7).map(|number| {
        let lease = Lease::over(fixture.table.clone(), HERE, TIMING);
        async move {
            tokio::time::sleep(TIMING.renewed_every() * number / 7).await;
            lease.begin().await;
            lease.keep_until(until).await;
            lease.permit()
        }
    });
    let permits = futures::future::join_all(keepers).await;
    assert!(permits.iter().all(Result::is_ok), "{permits:?}");
    let renewals = fixture.table.load().await.unwrap().version - first.version;
    let of_one = lasting.as_millis() / TIMING.renewed_every().as_millis();
    println!("{renewals} renewals by seven processes in {lasting:?}; one makes {of_one}");
    assert!(u128::from(renewals) <= 2 * of_one, "{renewals} renewals; one process makes {of_one}");
}

#[tokio::test]
async fn redis_checks_the_lease_by_its_own_clock_and_epoch() {
    let server = RedisQueue::start().await.unwrap();
    let item_id = server.item("a", 10, 50).await.unwrap();
    let redis = &mut server.redis.connect().await.unwrap();
    let key = Keys::of(&item_id);
    let waiting = [(micros_now() - 5_000_000, "alice"), (micros_now() - 4_000_000, "bob")];
    let _: () = redis.zadd_multiple(&key.orders, &waiting).await.unwrap();
    let refused = |code: &str, outcome: Result<shared::queue::DrainBatch, LinkError>| {
        assert!(matches!(&outcome, Err(LinkError::Refused(why)) if why == code), "{outcome:?}");
    };
    let soon = micros_now() + 60_000_000;
    refused("LEASE", server.queue.drain(&item_id, 500, leased(1, micros_now() - 1)).await);
    refused("EPOCH", server.queue.drain(&item_id, 500, leased(2, soon)).await);
    assert_eq!(server.queue.drain(&item_id, 1, leased(1, soon)).await.unwrap().reserved, 1);
    // An item that was sold by a lease is not sold without one.
    refused("LEASE", server.queue.drain(&item_id, 500, Permit::Unleased).await);
    let left: u64 = redis.zcard(&key.orders).await.unwrap();
    assert_eq!(left, 1, "a refused drain takes nothing");
}

fn reservation(buyer: &str, epoch: u64) -> Reservation {
    let token = order(&"a".parse().unwrap(), buyer, 1).unwrap().user_token;
    Reservation { user_token: token, placed_at: at(1), reserved_at: at(2), hold_until: at(3), epoch }
}

async fn ledger_with_item() -> (LedgerServer, ItemId) {
    let server = LedgerServer::start().await.unwrap();
    let item_id: ItemId = "a".parse().unwrap();
    let new = NewItem {
        item_id: item_id.clone(),
        name: "A".into(),
        stock_total: 10,
        opens_at: at(0),
        closes_at: None,
        hold_seconds: 0,
        max_hold_seconds: 0,
        settle_window_ms: 2_000,
    };
    server.ledger.create_item(&new).await.unwrap();
    (server, item_id)
}

#[tokio::test]
async fn the_ledger_checks_the_lease_by_its_own_clock_at_the_commit() {
    let (server, item_id) = ledger_with_item().await;
    let ledger = &server.ledger;
    let soon = micros_now() + 60_000_000;
    let over = leased(1, micros_now());
    assert_eq!(
        ledger.record(&item_id, &[reservation("x", 1)], over).await.map(drop),
        Err(LedgerError::LeaseOver)
    );
    ledger.record(&item_id, &[reservation("x", 1)], leased(1, soon)).await.unwrap();
    let x = reservation("x", 1).user_token;
    assert_eq!(ledger.pay(&item_id, &x, "pay", over.fence(1)).await.map(drop), Err(LedgerError::LeaseOver));

    // Frozen between its last statement and the commit.
    let mut slow = PgConnection::connect(&server.postgres.url()).await.unwrap();
    let until = micros_now() + 700_000;
    slow.execute("BEGIN").await.unwrap();
    slow.execute(sqlx::AssertSqlSafe(format!("SELECT set_config('fairdrop.until', '{until}', true)")))
        .await
        .unwrap();
    slow.execute(
        "INSERT INTO fairdrop.sales (item_id, user_token, state, placed_at, reserved_at, hold_until, epoch)
         VALUES ('a', 'y', 'sold', 1, 2, 3, 1)",
    )
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    let commit = slow.execute("COMMIT").await.map(drop).unwrap_err();
    assert_eq!(commit.as_database_error().and_then(|error| error.code()).as_deref(), Some("FD003"));
    assert_eq!(ledger.item(&item_id).await.unwrap().units_taken, 1);

    // From the first lease on nothing is sold without one, not even by hand.
    let unleased = Permit::Unleased;
    ledger.record(&item_id, &[reservation("y", 1)], unleased).await.unwrap();
    ledger.sell_by_lease().await.unwrap();
    ledger.sell_by_lease().await.unwrap();
    assert_eq!(
        ledger.record(&item_id, &[reservation("z", 1)], unleased).await.map(drop),
        Err(LedgerError::LeaseOver)
    );
    assert!(slow.execute("UPDATE fairdrop.current_epoch SET leased = false").await.is_err());
    assert_eq!(ledger.epoch().await, Ok(1));
}

#[tokio::test]
async fn a_new_epoch_keeps_promises_and_refuses_the_old_epoch() {
    let (server, item_id) = ledger_with_item().await;
    let ledger = &server.ledger;
    ledger.sell_by_lease().await.unwrap();
    let soon = micros_now() + 60_000_000;
    assert_eq!(ledger.raise_epoch(1).await, Ok(2));
    assert_eq!(ledger.raise_epoch(1).await, Ok(2), "repeating has no effect");
    assert_eq!(ledger.raise_epoch(3).await, Err(LedgerError::StaleEpoch));
    let promised = [reservation("x", 1)];
    assert_eq!(
        ledger.record(&item_id, &promised, leased(1, soon)).await.map(drop),
        Err(LedgerError::StaleEpoch)
    );
    ledger.record(&item_id, &promised, leased(2, soon)).await.unwrap();
    assert_eq!(ledger.sales(&item_id, None, 9).await.unwrap()[0].epoch, 2);

    // The database's own constraint refuses sales of withheld units.
    assert_eq!(ledger.withhold(&item_id, 8, false, 2).await, Ok(8));
    let (y, z) = (reservation("y", 2), reservation("z", 2));
    let states = ledger.record(&item_id, &[y, z], leased(2, soon)).await.unwrap();
    assert_eq!(states.iter().filter(|one| **one == ledger::BuyerState::None).count(), 1);
    assert_eq!(ledger.withhold(&item_id, 99, false, 3).await, Ok(8), "no more than are free");
    assert_eq!(ledger.withhold_at_most(&item_id, 0).await, Ok(0));
}
