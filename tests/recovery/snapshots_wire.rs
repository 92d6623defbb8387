//! Snapshot-copy over the wire: the built function and the real SDK against moto, directly and through a proxy that
//! pages, throttles and fails.

mod faulty_proxy;

use anyhow::{Context, Result, bail};
use faulty_proxy::{FaultyProxy, NO_FAULTS, ProxyFaults};
use local::aws::emulators::{Moto, elements};
use local::aws::functions::{FunctionProcess, Launch};
use local::aws::lambda::{Emulator, Invoked};
use local::system::folder::WorkFolder;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::sample;

const SOURCE: &str = "us-east-1";
const TARGETS: [&str; 2] = ["eu-west-1", "ap-southeast-2"];
const FUNCTION: &str = "snapshot-copy";

/// Moto's account, and the function that works on it.
struct MotoAccount {
    moto: Arc<Moto>,
    proxy: Arc<FaultyProxy>,
    emulator: Emulator,
    clock: std::path::PathBuf,
    _function: FunctionProcess,
    _folder: WorkFolder,
}

struct AccountSetup<'a> {
    databases: &'a [&'a str],
    retention: Value,
    faults: ProxyFaults,
    /// The number of processes of the function. Each serves one invocation at a time.
    processes: u32,
    /// Whether the clock can be set. This makes every reading of the clock slow.
    moves_clock: bool,
}

impl<'a> AccountSetup<'a> {
    fn of(databases: &'a [&'a str], retention: Value) -> Self {
        Self { databases, retention, faults: NO_FAULTS, processes: 1, moves_clock: true }
    }
}

impl MotoAccount {
    async fn start(setup: AccountSetup<'_>) -> Result<Self> {
        let AccountSetup { databases, retention, faults, processes, moves_clock } = setup;
        let folder = WorkFolder::new()?;
        let clock = folder.path().join("clock");
        std::fs::write(&clock, "+0")?;
        let clock_environment = if moves_clock { moved_clock(&clock)? } else { Vec::new() };
        let mut environment = clock_environment.clone();
        environment.push(("MOTO_RDS_SNAPSHOT_LIMIT".into(), "10000".into()));
        let moto = Arc::new(Moto::start(folder.path(), &environment).await?);
        for database in databases {
            let parameters = [
                ("DBInstanceIdentifier", *database),
                ("DBInstanceClass", "db.t4g.medium"),
                ("Engine", "postgres"),
                ("AllocatedStorage", "20"),
                ("StorageEncrypted", "true"),
            ];
            moto.rds(SOURCE, "CreateDBInstance", &parameters).await?;
        }
        let proxy = FaultyProxy::start(moto.clone(), faults).await?;
        let targets = TARGETS.map(|region| json!({ "region": region, "kms_key_id": "alias/aws/rds" }));
        let policy = json!({
            "databases": { "ids": databases },
            "interval_minutes": 15,
            "retention": retention,
            "targets": targets,
        });
        let emulator = Emulator::start().await?;
        let mut function_environment = Moto::environment_at(&proxy.url);
        function_environment.push(("FAIRDROP_SNAPSHOT_POLICY".into(), policy.to_string()));
        function_environment.push(("FAIRDROP_SNAPSHOT_PREFIX".into(), "drops".into()));
        // The time zone must not matter: this one is 14 hours ahead of UTC.
        function_environment.push(("TZ".into(), "Pacific/Kiritimati".into()));
        let wrapper: Vec<String> = std::iter::once("env".to_owned())
            .chain(clock_environment.iter().map(|(name, value)| format!("{name}={value}")))
            .collect();
        let launch = Launch {
            function: FUNCTION,
            region: SOURCE.into(),
            concurrency: 1,
            processes,
            environment: function_environment,
            wrapper,
            binaries: None,
        };
        let function = FunctionProcess::start(launch, &emulator.invoke_api(), folder.path())?;
        Ok(Self { moto, proxy, emulator, clock, _function: function, _folder: folder })
    }

    /// Sets the clock of moto and of the function.
    fn later(&self, seconds: u64) -> Result<()> {
        Ok(std::fs::write(&self.clock, format!("+{seconds}"))?)
    }

    async fn run(&self, event: &Value) -> Result<Value> {
        let answer = self
            .emulator
            .invoke_api()
            .call_within(FUNCTION, event.to_string(), Duration::from_secs(110))
            .await?;
        match answer {
            Invoked::Answer(report) => Ok(report),
            Invoked::FunctionError(error) => bail!("{error}"),
        }
    }

    /// Manual snapshots by id.
    async fn snapshots(&self, region: &str) -> Result<BTreeMap<String, String>> {
        let xml = self.moto.rds(region, "DescribeDBSnapshots", &[("SnapshotType", "manual")]).await?;
        let id = |snapshot: &str| elements(snapshot, "DBSnapshotIdentifier").first().map(ToString::to_string);
        let all = elements(&xml, "DBSnapshot").into_iter();
        all.map(|one| Ok((id(one).context("no id")?, one.to_owned()))).collect()
    }
}

fn scheduled() -> Value {
    sample("snapshot-copy.schedule.json")
}

/// The environment that sets a program's calendar ahead by what the file says. Its timers stay correct.
fn moved_clock(file: &std::path::Path) -> Result<Vec<(String, String)>> {
    let shown = Command::new("faketime").args(["-f", "+0", "env"]).output()?;
    let shown = String::from_utf8(shown.stdout)?;
    let library =
        shown.lines().find_map(|line| line.strip_prefix("LD_PRELOAD=")).context("no libfaketime")?;
    let file = file.to_str().context("no path")?;
    let pairs = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", file),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
}

fn outcomes(report: &Value) -> Vec<String> {
    let actions = report["actions"].as_array().unwrap().iter();
    let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
    actions
        .map(|one| format!("{} {} {}", text(&one["action"]), text(&one["region"]), text(&one["outcome"])))
        .collect()
}

/// The seconds since the beginning of the 15-minute slot, for a time such as `2026-11-23T14:35:10Z`.
fn seconds_into_the_slot(moment: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| moment[range].parse::<u64>().unwrap();
    number(14..16) % 15 * 60 + number(17..19)
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_taken_copied_tagged_and_deleted_in_three_regions() {
    let account = MotoAccount::start(AccountSetup::of(&["ledger"], json!({ "hourly": 2 }))).await.unwrap();
    let foreign = [("DBInstanceIdentifier", "ledger"), ("DBSnapshotIdentifier", "drops-ledger-by-hand")];
    account.moto.rds(SOURCE, "CreateDBSnapshot", &foreign).await.unwrap();
    // A dry run shows the plan and changes nothing.
    let planned = account.run(&sample("snapshot-copy.dry-run.json")).await.unwrap();
    assert_eq!(outcomes(&planned), ["create us-east-1 planned"], "{planned}");
    assert_eq!(planned["regions"]["eu-west-1"]["quota_remaining"], 88, "{planned}");
    assert_eq!(account.snapshots(SOURCE).await.unwrap().len(), 1);

    // The first run is five seconds after the beginning of a slot.
    let into_the_slot = seconds_into_the_slot(planned["now"].as_str().unwrap());
    let beginning = 905 - into_the_slot;
    let mut report = Value::Null;
    for hour in 0..5_u64 {
        let slot = beginning + hour * 3_600;
        account.later(slot).unwrap();
        let report_of_slot = account.run(&scheduled()).await.unwrap();
        assert!(outcomes(&report_of_slot).contains(&"create us-east-1 done".to_owned()), "{report_of_slot}");
        // A minute later the snapshot is available and is copied.
        account.later(slot + 60).unwrap();
        let copying = account.run(&scheduled()).await.unwrap();
        for region in TARGETS {
            assert!(outcomes(&copying).contains(&format!("copy {region} done")), "{copying}");
        }
        // The originals are deleted once no run can be copying them any more.
        account.later(slot + 700).unwrap();
        account.run(&scheduled()).await.unwrap();
        // The next run has nothing to do.
        report = account.run(&scheduled()).await.unwrap();
        assert_eq!(outcomes(&report), [""; 0], "{report}");
    }
    let here = account.snapshots(SOURCE).await.unwrap();
    assert!(here.contains_key("drops-ledger-by-hand"));
    for region in [SOURCE].into_iter().chain(TARGETS) {
        let own: Vec<String> = account
            .snapshots(region)
            .await
            .unwrap()
            .into_iter()
            .filter(|(id, _)| id != "drops-ledger-by-hand")
            .map(|(_, xml)| xml)
            .collect();
        assert_eq!(own.len(), 2, "{region}: {own:?}");
        for one in own {
            assert_eq!(
                (elements(&one, "Key"), elements(&one, "Value")),
                (vec!["fairdrop:snapshots"], vec!["drops"])
            );
            assert_eq!(elements(&one, "Encrypted"), ["true"], "{one}");
        }
    }
    // The age is that of the data, not of the copy.
    let points = report["recovery_points"].as_array().unwrap();
    assert!(
        points
            .iter()
            .all(|point| point["is_known"] == true && point["age_seconds"].as_i64().unwrap() < 1_800),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_runs_make_one_snapshot() {
    let account = MotoAccount::start(AccountSetup {
        processes: 2,
        ..AccountSetup::of(&["a", "b", "c"], json!({ "hourly": 3 }))
    })
    .await
    .unwrap();
    for round in 0..4_u64 {
        account.later(round * 900).unwrap();
        let event = scheduled();
        let (one, other) = tokio::join!(account.run(&event), account.run(&event));
        let mut both = outcomes(&one.unwrap());
        both.extend(outcomes(&other.unwrap()));
        assert!(
            both.iter().all(|outcome| outcome.ends_with("done")
                || outcome.ends_with("existed")
                || outcome.ends_with("deferred")),
            "{both:?}"
        );
    }
    let here = account.snapshots(SOURCE).await.unwrap();
    assert!(here.len() >= 3 && here.len() <= 12, "{here:?}");
    for region in TARGETS {
        let there = account.snapshots(region).await.unwrap();
        assert!(there.len() >= 3, "{there:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_throttling_and_failures_delay_runs_and_lose_no_snapshot() {
    let faults = ProxyFaults { page: 3, throttled: 0.15, failing: 0.05 };
    let databases: Vec<String> = (0..4).map(|n| format!("db{n}")).collect();
    let databases: Vec<&str> = databases.iter().map(String::as_str).collect();
    let account = MotoAccount::start(AccountSetup {
        faults,
        ..AccountSetup::of(&databases, json!({ "hourly": 1, "daily": 1 }))
    })
    .await
    .unwrap();
    let mut complete = 0;
    for round in 0..8_u64 {
        account.later(round * 900).unwrap();
        // A run that is throttled for too long fails, and the next run continues.
        if let Ok(report) = account.run(&scheduled()).await {
            complete += u32::from(
                report["regions"].as_object().unwrap().values().all(|region| region["answers"] == true),
            );
            assert!(!outcomes(&report).iter().any(|outcome| outcome.ends_with("failed")), "{report}");
        }
    }
    assert!(complete >= 4, "{complete} runs listed all regions");
    *account.proxy.faults.lock().unwrap() = NO_FAULTS;
    let mut report = Value::Null;
    for round in 8..11_u64 {
        account.later(round * 900).unwrap();
        report = account.run(&scheduled()).await.unwrap();
    }
    let points = report["recovery_points"].as_array().unwrap();
    assert_eq!(points.len(), 12);
    assert!(
        points.iter().all(|point| point["age_seconds"].as_i64().is_some_and(|age| age <= 1_860)),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_calls_grows_with_pages_not_with_snapshots() {
    let databases: Vec<String> = (0..10).map(|n| format!("db{n}")).collect();
    let names: Vec<&str> = databases.iter().map(String::as_str).collect();
    let account = MotoAccount::start(AccountSetup {
        moves_clock: false,
        ..AccountSetup::of(&names, json!({ "hourly": 1000 }))
    })
    .await
    .unwrap();
    let mut known = 0_u64;
    for snapshots in [500_u64, 5_000] {
        while known < snapshots {
            let (database, id) = (names[(known % 10) as usize], format!("drops-old-{known}"));
            let parameters = [
                ("DBInstanceIdentifier", database),
                ("DBSnapshotIdentifier", &id),
                ("Tags.Tag.1.Key", "fairdrop:snapshots"),
                ("Tags.Tag.1.Value", "drops"),
            ];
            account.moto.rds(SOURCE, "CreateDBSnapshot", &parameters).await.unwrap();
            known += 1;
        }
        account.proxy.calls();
        let started = Instant::now();
        let report = account.run(&sample("snapshot-copy.dry-run.json")).await.unwrap();
        let (took, calls) = (started.elapsed(), account.proxy.calls());
        println!(
            "{snapshots} snapshots of 10 databases: {} calls, {:.2} s",
            calls.values().sum::<u64>(),
            took.as_secs_f64()
        );
        assert_eq!(report["regions"][SOURCE]["snapshots"], snapshots);
        let expected = [
            ("DescribeAccountAttributes", 3),
            ("DescribeDBInstances", 1),
            // Two regions are empty: one page each.
            ("DescribeDBSnapshots", snapshots / 100 + 2),
        ];
        assert_eq!(calls, expected.map(|(action, count)| (action.to_owned(), count)).into());
    }
}
