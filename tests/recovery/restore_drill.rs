//! The restore drill: the built function against moto's RDS, with a real PostgreSQL in place of the restored
//! instance.

use anyhow::{Result, bail};
use local::aws::emulators::{Moto, elements};
use local::aws::functions::{FunctionProcess, Launch};
use local::aws::lambda::{Emulator, Invoked};
use local::system::folder::WorkFolder;
use serde_json::{Value, json};
use shared::item::NewItem;
use shared::permit::Permit;
use shared::queue::{NO_HOLD_MICROS, Reservation};
use shared::stamp::Stamp;
use shared::user_token::UserToken;
use sqlx::{Connection, Executor, PgConnection};
use std::time::Duration;
use tests::{LedgerServer, sample};

const REGION: &str = "eu-west-1";

struct DrillFixture {
    moto: Moto,
    emulator: Emulator,
    function: FunctionProcess,
    _folder: WorkFolder,
}

impl DrillFixture {
    /// A region with a snapshot of the ledger. The restored instance answers at `ledger_url`.
    async fn start(ledger_url: &str) -> Result<Self> {
        Self::start_with_poll(ledger_url, "1").await
    }

    /// The drill observes RDS again after `poll_seconds`.
    async fn start_with_poll(ledger_url: &str, poll_seconds: &str) -> Result<Self> {
        let folder = WorkFolder::new()?;
        let moto = Moto::start(folder.path(), &[]).await?;
        let database = [
            ("DBInstanceIdentifier", "ledger"),
            ("DBInstanceClass", "db.t4g.medium"),
            ("Engine", "postgres"),
        ];
        let mut parameters = database.to_vec();
        parameters.push(("AllocatedStorage", "20"));
        moto.rds(REGION, "CreateDBInstance", &parameters).await?;
        for (id, tag) in [("drops-ledger-1", "drops"), ("drops-ledger-other", "another-stack")] {
            let parameters = [
                ("DBInstanceIdentifier", "ledger"),
                ("DBSnapshotIdentifier", id),
                ("Tags.Tag.1.Key", "fairdrop:snapshots"),
                ("Tags.Tag.1.Value", tag),
            ];
            moto.rds(REGION, "CreateDBSnapshot", &parameters).await?;
        }
        let emulator = Emulator::start().await?;
        let mut environment = Moto::environment_at(&moto.url());
        let own = [
            ("FAIRDROP_SNAPSHOT_PREFIX", "drops"),
            ("FAIRDROP_DRILL_DATABASE", "ledger"),
            ("FAIRDROP_DRILL_POLL_SECONDS", poll_seconds),
            ("FAIRDROP_LEDGER_URL", ledger_url),
        ];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let launch = Launch {
            function: "restore-drill",
            region: REGION.into(),
            concurrency: 1,
            processes: 1,
            environment,
            wrapper: Vec::new(),
            binaries: None,
        };
        let function = FunctionProcess::start(launch, &emulator.invoke_api(), folder.path())?;
        Ok(Self { moto, emulator, function, _folder: folder })
    }

    async fn invoke(&self, event: &Value) -> Result<Value> {
        let limit = Duration::from_secs(100);
        match self.emulator.invoke_api().call_within("restore-drill", event.to_string(), limit).await? {
            Invoked::Answer(report) => Ok(report),
            Invoked::FunctionError(error) => bail!("{error}"),
        }
    }

    async fn instances(&self) -> Result<Vec<String>> {
        let xml = self.moto.rds(REGION, "DescribeDBInstances", &[]).await?;
        Ok(elements(&xml, "DBInstanceIdentifier").into_iter().map(str::to_owned).collect())
    }
}

/// A ledger in which two of three units are sold.
async fn ledger_with_sales() -> Result<LedgerServer> {
    let server = LedgerServer::start().await?;
    let at = |micros| Stamp::from_micros(micros);
    let now = local::system::clock::micros_now();
    let item_id: shared::item::ItemId = "a".parse()?;
    let new = NewItem {
        item_id: item_id.clone(),
        name: "A".into(),
        stock_total: 3,
        opens_at: at(now - 3_600_000_000)?,
        closes_at: None,
        hold_seconds: 0,
        max_hold_seconds: 0,
        settle_window_ms: 500,
    };
    server.ledger.create_item(&new).await?;
    let sales = ["alice", "bob"].map(|buyer| {
        anyhow::Ok(Reservation {
            user_token: UserToken::parse(buyer)?,
            placed_at: at(now - 31_000_000)?,
            reserved_at: at(now - 30_000_000)?,
            hold_until: at(now + NO_HOLD_MICROS)?,
            epoch: 1,
        })
    });
    let sales = sales.into_iter().collect::<Result<Vec<_>>>()?;
    server.ledger.record(&item_id, &sales, Permit::Unleased).await?;
    Ok(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_snapshot_is_restored_checked_and_deleted() {
    let server = ledger_with_sales().await.unwrap();
    let drill = DrillFixture::start(&server.postgres.url()).await.unwrap();
    let planned = drill.invoke(&sample("restore-drill.dry-run.json")).await.unwrap();
    assert_eq!((&planned["state"], &planned["snapshot"]), (&json!("planned"), &json!("drops-ledger-1")));
    assert!(planned["next"].as_str().unwrap().contains("would restore drops-ledger-1 as drops-drill-ledger"));
    assert_eq!(drill.instances().await.unwrap(), ["ledger"]);

    let report = drill.invoke(&sample("restore-drill.run.json")).await.unwrap();
    assert_eq!(report["state"], "done", "{report}");
    let check = &report["check"];
    assert_eq!((&check["passed"], &check["items"], &check["sales"]), (&json!(true), &json!(1), &json!(2)));
    assert_eq!(check["schema_version"], check["expected_version"]);
    let behind = check["newest_sale_seconds_before_recovery_point"].as_i64().unwrap();
    assert!((20..120).contains(&behind), "{report}");
    for figure in ["usable_after_seconds", "total_seconds", "recovery_point_age_seconds"] {
        assert!((0..100).contains(&report[figure].as_i64().unwrap()), "{report}");
    }
    assert_eq!(drill.instances().await.unwrap(), ["ledger"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inconsistent_ledger_does_not_pass_and_is_deleted_too() {
    let server = ledger_with_sales().await.unwrap();
    let mut connection = PgConnection::connect(&server.postgres.url()).await.unwrap();
    let inconsistent = "ALTER TABLE fairdrop.sales DISABLE TRIGGER USER; DELETE FROM fairdrop.sales WHERE user_token = 'bob'";
    connection.execute(inconsistent).await.unwrap();
    let drill = DrillFixture::start(&server.postgres.url()).await.unwrap();
    let report = drill.invoke(&json!({ "run": true })).await.unwrap();
    assert_eq!((&report["state"], &report["check"]["passed"]), (&json!("done"), &json!(false)), "{report}");
    assert!(report["check"]["problems"][0].as_str().unwrap().contains("2 units are taken"), "{report}");
    connection.execute("DROP SCHEMA fairdrop CASCADE").await.unwrap();
    let report = drill.invoke(&json!({ "run": true })).await.unwrap();
    assert!(report["check"]["problems"][0].as_str().unwrap().contains("migration 0"), "{report}");
    assert_eq!(drill.instances().await.unwrap(), ["ledger"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_died_is_continued_and_foreign_instances_are_not_changed() {
    // No server listens at this address: the drill is killed while it waits for the ledger.
    let drill = DrillFixture::start("postgres://fairdrop@127.0.0.1:1/fairdrop").await.unwrap();
    let run = json!({ "run": true });
    let killed = tokio::time::timeout(Duration::from_secs(4), drill.invoke(&run)).await;
    assert!(killed.is_err(), "{killed:?}");
    drill.function.kill();
    assert_eq!(drill.instances().await.unwrap().len(), 2);
    let planned = drill.invoke(&json!({})).await.unwrap();
    assert!(planned["next"].as_str().unwrap().contains("from an earlier drill"), "{planned}");

    // An instance with the name of the drill but without its tag is not the drill's.
    let remove = [("DBInstanceIdentifier", "drops-drill-ledger"), ("SkipFinalSnapshot", "true")];
    drill.moto.rds(REGION, "DeleteDBInstance", &remove).await.unwrap();
    let restore =
        [("DBInstanceIdentifier", "drops-drill-ledger"), ("DBSnapshotIdentifier", "drops-ledger-1")];
    drill.moto.rds(REGION, "RestoreDBInstanceFromDBSnapshot", &restore).await.unwrap();
    let refused = drill.invoke(&run).await.unwrap_err().to_string();
    assert!(refused.contains("ForeignInstance"), "{refused}");
    assert_eq!(drill.instances().await.unwrap().len(), 2);

    for wrong in [json!({ "run": "yes" }), json!({ "runs": true }), json!(null)] {
        assert!(drill.invoke(&wrong).await.unwrap_err().to_string().contains("BadCommand"), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_drill_that_died_after_the_deletion_is_not_lost() {
    let server = ledger_with_sales().await.unwrap();
    let drill = DrillFixture::start_with_poll(&server.postgres.url(), "20").await.unwrap();
    let run = json!({ "run": true });
    // The drill is killed after it has deleted the instance and before it answers.
    let killed = async {
        while drill.instances().await.unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while drill.instances().await.unwrap().len() > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drill.function.kill();
    };
    tokio::select! {
        answered = drill.invoke(&run) => panic!("{answered:?}"),
        () = killed => {}
    }
    let planned = drill.invoke(&json!({})).await.unwrap();
    let last = &planned["last_check"];
    assert_eq!(
        (&last["snapshot"], &last["check"]["passed"]),
        (&json!("drops-ledger-1"), &json!(true)),
        "{planned}"
    );
    assert_eq!((&last["check"]["items"], &last["check"]["sales"]), (&json!(1), &json!(2)), "{planned}");

    // It is killed between saving the result and deleting the instance: the next invocation only deletes it.
    let xml = drill.moto.rds(REGION, "DescribeDBSnapshots", &[]).await.unwrap();
    let value = elements(&xml, "Value").into_iter().find_map(|value| value.strip_prefix("started="));
    let started_at = value.unwrap().split(' ').next().unwrap();
    let tags = [
        ("DBInstanceIdentifier", "drops-drill-ledger"),
        ("DBSnapshotIdentifier", "drops-ledger-1"),
        ("Tags.Tag.1.Key", "fairdrop:restore-drill"),
        ("Tags.Tag.1.Value", "drops"),
        ("Tags.Tag.2.Key", "fairdrop:snapshot"),
        ("Tags.Tag.2.Value", "drops-ledger-1"),
        ("Tags.Tag.3.Key", "fairdrop:started-at"),
        ("Tags.Tag.3.Value", started_at),
    ];
    drill.moto.rds(REGION, "RestoreDBInstanceFromDBSnapshot", &tags).await.unwrap();
    drop(server);
    let report = drill.invoke(&run).await.unwrap();
    assert_eq!((&report["state"], &report["check"]["passed"]), (&json!("done"), &json!(true)), "{report}");
    assert_eq!(drill.instances().await.unwrap(), ["ledger"]);
}
