//! Snapshot-copy over the wire: the built function and the real SDK against moto, straight
//! and through a line that pages, throttles and fails.

mod line;

use anyhow::{Context, Result, bail};
use line::{Line, NONE, Trouble};
use local::aws::emulators::{Moto, elements};
use local::aws::functions::{FunctionProcess, Launch};
use local::aws::lambda::{Emulator, Invoked};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::sample;

const HERE: &str = "us-east-1";
const FAR: [&str; 2] = ["eu-west-1", "ap-southeast-2"];
const FUNCTION: &str = "snapshot-copy";

/// AWS, as far as moto has it, and the function that works on it.
struct Account {
    moto: Arc<Moto>,
    line: Arc<Line>,
    emulator: Emulator,
    clock: std::path::PathBuf,
    _functions: Vec<FunctionProcess>,
    _folder: tempfile::TempDir,
}

/// What an account is started with.
struct Setup<'a> {
    databases: &'a [&'a str],
    retention: Value,
    trouble: Trouble,
    /// Processes of the function, each for one invocation at a time.
    processes: usize,
    /// Whether the clock can be set, which makes every look at it dear.
    moves_clock: bool,
}

impl<'a> Setup<'a> {
    fn of(databases: &'a [&'a str], retention: Value) -> Self {
        Self { databases, retention, trouble: NONE, processes: 1, moves_clock: true }
    }
}

impl Account {
    async fn start(setup: Setup<'_>) -> Result<Self> {
        let Setup { databases, retention, trouble, processes, moves_clock } = setup;
        let folder = tempfile::tempdir()?;
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
            moto.rds(HERE, "CreateDBInstance", &parameters).await?;
        }
        let line = Line::start(moto.clone(), trouble).await?;
        let targets = FAR.map(|region| json!({ "region": region, "kms_key_id": "alias/aws/rds" }));
        let policy = json!({
            "databases": { "ids": databases },
            "interval_minutes": 15,
            "retention": retention,
            "targets": targets,
        });
        let emulator = Emulator::start(folder.path(), HERE).await?;
        let mut function_environment = Moto::environment_at(&line.url);
        function_environment.push(("FAIRDROP_SNAPSHOT_POLICY".into(), policy.to_string()));
        function_environment.push(("FAIRDROP_SNAPSHOT_PREFIX".into(), "drops".into()));
        // No time zone may matter: this one is fourteen hours ahead.
        function_environment.push(("TZ".into(), "Pacific/Kiritimati".into()));
        let wrapper: Vec<String> = std::iter::once("env".to_owned())
            .chain(clock_environment.iter().map(|(name, value)| format!("{name}={value}")))
            .collect();
        let launch = Launch {
            function: FUNCTION,
            region: HERE.into(),
            concurrency: 1,
            environment: function_environment,
            wrapper,
            binaries: None,
        };
        let invoke = emulator.invoke_api();
        let start = |_| FunctionProcess::start(launch.clone(), &invoke, folder.path());
        let functions = (0..processes).map(start).collect::<Result<Vec<_>>>()?;
        Ok(Self { moto, line, emulator, clock, _functions: functions, _folder: folder })
    }

    /// Sets the clock of account and function.
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

/// The environment in which a program's calendar is as far ahead as the file says; its
/// timers stay true.
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

/// How far into a slot of 15 minutes a moment such as `2026-11-23T14:35:10Z` is, in seconds.
fn seconds_into_the_slot(moment: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| moment[range].parse::<u64>().unwrap();
    number(14..16) % 15 * 60 + number(17..19)
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_copies_tags_and_prunes_in_three_regions() {
    let account = Account::start(Setup::of(&["ledger"], json!({ "hourly": 2 }))).await.unwrap();
    let foreign = [("DBInstanceIdentifier", "ledger"), ("DBSnapshotIdentifier", "drops-ledger-by-hand")];
    account.moto.rds(HERE, "CreateDBSnapshot", &foreign).await.unwrap();
    // A dry run shows the plan and changes nothing.
    let planned = account.run(&sample("snapshot-copy.dry-run.json")).await.unwrap();
    assert_eq!(outcomes(&planned), ["create us-east-1 planned"], "{planned}");
    assert_eq!(planned["regions"]["eu-west-1"]["quota_left"], 88, "{planned}");
    assert_eq!(account.snapshots(HERE).await.unwrap().len(), 1);

    // From five seconds into a slot on.
    let into_the_slot = seconds_into_the_slot(planned["now"].as_str().unwrap());
    let beginning = 905 - into_the_slot;
    let mut report = Value::Null;
    for hour in 0..5_u64 {
        let slot = beginning + hour * 3_600;
        account.later(slot).unwrap();
        let report_of_slot = account.run(&scheduled()).await.unwrap();
        assert!(outcomes(&report_of_slot).contains(&"create us-east-1 done".to_owned()), "{report_of_slot}");
        // A minute later it is there and is copied.
        account.later(slot + 60).unwrap();
        let copying = account.run(&scheduled()).await.unwrap();
        for region in FAR {
            assert!(outcomes(&copying).contains(&format!("copy {region} done")), "{copying}");
        }
        // The originals are pruned once nobody can be copying them any more.
        account.later(slot + 700).unwrap();
        account.run(&scheduled()).await.unwrap();
        // And again: there is nothing left to do.
        report = account.run(&scheduled()).await.unwrap();
        assert_eq!(outcomes(&report), [""; 0], "{report}");
    }
    let here = account.snapshots(HERE).await.unwrap();
    assert!(here.contains_key("drops-ledger-by-hand"));
    for region in [HERE].into_iter().chain(FAR) {
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
    // The recovery point is as old as the data, and not as the copy.
    let points = report["recovery_points"].as_array().unwrap();
    assert!(
        points
            .iter()
            .all(|point| point["is_known"] == true && point["age_seconds"].as_i64().unwrap() < 1_800),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_make_one_snapshot() {
    let account =
        Account::start(Setup { processes: 2, ..Setup::of(&["a", "b", "c"], json!({ "hourly": 3 })) })
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
    let here = account.snapshots(HERE).await.unwrap();
    assert!(here.len() >= 3 && here.len() <= 12, "{here:?}");
    for region in FAR {
        let there = account.snapshots(region).await.unwrap();
        assert!(there.len() >= 3, "{there:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_pages_throttles_and_fails_delays_and_loses_nothing() {
    let trouble = Trouble { page: 3, throttled: 0.15, failing: 0.05 };
    let databases: Vec<String> = (0..4).map(|n| format!("db{n}")).collect();
    let databases: Vec<&str> = databases.iter().map(String::as_str).collect();
    let account =
        Account::start(Setup { trouble, ..Setup::of(&databases, json!({ "hourly": 1, "daily": 1 })) })
            .await
            .unwrap();
    let mut complete = 0;
    for round in 0..8_u64 {
        account.later(round * 900).unwrap();
        // Whoever is throttled for too long says so, and the next run goes on.
        if let Ok(report) = account.run(&scheduled()).await {
            complete += u32::from(
                report["regions"].as_object().unwrap().values().all(|region| region["answers"] == true),
            );
            assert!(!outcomes(&report).iter().any(|outcome| outcome.ends_with("failed")), "{report}");
        }
    }
    assert!(complete >= 4, "{complete} runs saw all regions");
    *account.line.trouble.lock().unwrap() = NONE;
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
async fn calls_grow_with_pages_and_not_with_snapshots() {
    let databases: Vec<String> = (0..10).map(|n| format!("db{n}")).collect();
    let names: Vec<&str> = databases.iter().map(String::as_str).collect();
    let account =
        Account::start(Setup { moves_clock: false, ..Setup::of(&names, json!({ "hourly": 1000 })) })
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
            account.moto.rds(HERE, "CreateDBSnapshot", &parameters).await.unwrap();
            known += 1;
        }
        account.line.calls();
        let started = Instant::now();
        let report = account.run(&sample("snapshot-copy.dry-run.json")).await.unwrap();
        let (took, calls) = (started.elapsed(), account.line.calls());
        println!(
            "{snapshots} snapshots of 10 databases: {} calls, {:.2} s",
            calls.values().sum::<u64>(),
            took.as_secs_f64()
        );
        assert_eq!(report["regions"][HERE]["snapshots"], snapshots);
        let expected = [
            ("DescribeAccountAttributes", 3),
            ("DescribeDBInstances", 1),
            // Two regions are empty: a page each.
            ("DescribeDBSnapshots", snapshots / 100 + 2),
        ];
        assert_eq!(calls, expected.map(|(action, count)| (action.to_owned(), count)).into());
    }
}
