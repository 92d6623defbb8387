//! One run of a drill: buyers, an accident, a failover, and the old main's return.

use super::buyers::{Buyers, OrderAttempt, now_ms};
use super::failback::fail_back;
use super::findings::{ItemRecords, find};
use super::lost_orders::lost_orders;
use super::outcome::{DrillOutcome, StatedLoss};
use super::sales::{self, Commits, ItemSales};
use super::scenario::{Accident, ITEMS, RUN_LIMIT, ReplicaState, Scenario};
use super::wait::until;
use crate::two_regions::{MAIN, REGION_COUNT, STANDBY, TwoRegions, TwoRegionsSettings};
use anyhow::{Context, Result, bail, ensure};
use local::crowd::OrderAnswer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const NAMES: &[&str] = &[ITEMS[0].0, ITEMS[1].0];
/// How long region-failover waits for the Global Datastore, in seconds: the shortest allowed time.
const REDIS_WAIT_SECONDS: u64 = 10;
const SETTLE_WINDOW_MS: u32 = 1_000;
/// How long RDS works on the replica: a backup or a change.
const RDS_TAKES: Duration = Duration::from_secs(9);
/// How long main stays unavailable after the new main has begun to sell.
const UNAVAILABLE: Duration = Duration::from_secs(3);
/// How long the drill observes the old main after its return.
const OBSERVED: Duration = Duration::from_secs(5);
/// How long orders may take that only a replay brings to the new main: it begins up to 30 s after a region was repointed.
const REPLAYED_AGAIN: Duration = Duration::from_secs(120);
/// How long the last buyers may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The accepted loss is this much more than the plan's, in seconds: an operator needs time to type, and each
/// observation of a silent main waits for its time-out.
const TYPING_SECONDS: u64 = 30;

/// The old main's ledger, read while it exists.
struct OldMainState {
    records: BTreeMap<&'static str, ItemSales>,
    /// All its sales, those after the new main's first sale, and those after its return.
    sales: [Commits; 3],
    new_first_ms: Option<u64>,
    first_lost_ms: Option<u64>,
}

/// Carries out `scenario`, with data and logs in `folder`. `progress` is called with the text of each phase.
pub(super) async fn run_scenario(
    scenario: &Scenario,
    folder: &Path,
    per_second: u32,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<DrillOutcome> {
    progress("starting two regions");
    let settings = TwoRegionsSettings::default();
    let replica_class = if scenario.is_small { "db.m7g.medium" } else { settings.main_class.as_str() };
    let settings = TwoRegionsSettings {
        replica_class: replica_class.into(),
        seed: scenario.seed,
        has_order_logs: scenario.has_order_logs,
        ..settings
    };
    let mut two = TwoRegions::start_in(folder, &settings).await?;
    announce(&two).await?;
    let buyers = Buyers::start(&two, &format!("buyer-{}", scenario.seed), per_second, NAMES)?;
    progress("buyers are ordering");
    until("the first sale", Duration::from_secs(30), async || Ok(buyers.sold() > 0)).await?;
    tokio::time::sleep(scenario.before()).await;

    let began_ms = now_ms();
    let stated = cause_accident(&two, scenario, progress).await?;
    let (report, returned_ms) = fail_over(&two, scenario, (stated.as_ref(), per_second), progress).await?;

    progress("observing the old main");
    two.reopen_main_ledger().await?;
    tokio::time::sleep(OBSERVED).await;
    let compared = two.failover(&json!({ "command": "compare" })).await?;
    let mut left = None;
    let mut back = None;
    if scenario.fails_back {
        left = Some(read_old_main(&two, returned_ms).await?);
        back = Some(fail_back(&mut two, progress).await?);
    }
    progress("waiting for the last buyers");
    let (buyers, answers) = buyers.finish(ANSWER_LIMIT).await?;
    let left = match left {
        Some(left) => left,
        None => read_old_main(&two, returned_ms).await?,
    };
    let [old, beside, after_return] = left.sales;
    let at_old_main = |answer: &&OrderAttempt| {
        answer.region == MAIN && (began_ms..returned_ms.unwrap_or(began_ms)).contains(&answer.at_ms)
    };
    let at_old_main: Vec<OrderAttempt> = answers.iter().filter(at_old_main).cloned().collect();
    let is_late = |answer: &&OrderAttempt| left.new_first_ms.is_some_and(|first| answer.at_ms > first);
    // With an order log an order is only accepted: that says nothing of a place in the old main's queue.
    let late: Vec<OrderAttempt> = match scenario.has_order_logs {
        true => Vec::new(),
        false => at_old_main.iter().filter(is_late).cloned().collect(),
    };
    let new_main = if back.is_some() { MAIN } else { STANDBY };
    let (items, lost) = after_replays(&two, new_main, left.records, stated.as_ref()).await?;
    let mut findings = find(&items, &buyers, &late);
    findings.add_lost_orders(lost);
    Ok(DrillOutcome {
        scenario: scenario.clone(),
        began_ms,
        buyers: buyers.len() as u64,
        old_last_sale_ms: old.last_ms,
        new_first_sale_ms: left.new_first_ms,
        sold_concurrently: beside.sales,
        sold_after_return: after_return.sales,
        first_lost_ms: left.first_lost_ms,
        stated,
        answers_of_old_main: by_answer(&at_old_main),
        findings,
        compared,
        report,
        back,
    })
}

/// The records of the new main, and the lost orders of all regions but those without whose log the operator has gone on. Of a
/// main that is only cut off, the log can be read. The worker replays the items again soon after the last failover's step.
async fn after_replays(
    two: &TwoRegions,
    new_main: usize,
    old: BTreeMap<&'static str, ItemSales>,
    stated: Option<&StatedLoss>,
) -> Result<(BTreeMap<&'static str, ItemRecords>, Vec<String>)> {
    let is_left_out = |region: &usize| {
        let name = two.world_region(*region).name;
        stated.is_some_and(|stated| stated.without_logs.iter().any(|without| without == name))
    };
    let began = Instant::now();
    loop {
        let items = item_records(two, new_main, old.clone()).await?;
        let mut lost = Vec::new();
        for region in (0..REGION_COUNT).filter(|region| !is_left_out(region)) {
            lost.extend(lost_orders(&two.order_log(region)?, &items));
        }
        if lost.is_empty() || began.elapsed() > REPLAYED_AGAIN {
            return Ok((items, lost));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn announce(two: &TwoRegions) -> Result<()> {
    for (item_id, stock) in ITEMS {
        let item = json!({
            "item_id": item_id, "name": item_id, "stock_total": stock, "hold_seconds": 0,
            "opens_at": now_ms() * 1_000 - 60_000_000, "settle_window_ms": SETTLE_WINDOW_MS,
        });
        two.admin(MAIN, &json!({ "command": "create", "item": item })).await?;
        let item_id = item_id.parse()?;
        until("the item is known in every region", Duration::from_secs(10), async || {
            two.is_known_everywhere(&item_id).await
        })
        .await?;
    }
    Ok(())
}

/// Causes the accident. Returns the loss that a plan of the forced failover states.
async fn cause_accident(
    two: &TwoRegions,
    scenario: &Scenario,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Option<StatedLoss>> {
    let account = two.control_plane.account();
    let (region, id) = two.replica();
    if let Some(datastore) = account.datastore() {
        datastore.hang(scenario.redis_hangs);
        if scenario.datastore_modifies_ms > 0 {
            datastore.modify(Duration::from_millis(scenario.datastore_modifies_ms));
        }
    }
    account.databases.set_capacity(&region, !scenario.lacks_capacity);
    match scenario.replica {
        ReplicaState::StorageOptimization => {
            account.databases.work_on(&region, &id, "storage-optimization", RUN_LIMIT);
        }
        ReplicaState::ChangePending => account.databases.leave_pending(&region, &id, "db.m7g.xlarge"),
        // These begin later.
        ReplicaState::Available | ReplicaState::BackingUp | ReplicaState::Modifying => {}
    }
    if scenario.functions_idle {
        let fleet = &two.region(STANDBY)?.fleet;
        ["checkout-drain", "checkout-worker", "order-confirm", "drop-admin"]
            .into_iter()
            .for_each(|function| fleet.make_inactive(function));
    }
    match scenario.accident {
        None => progress("starting a planned failover"),
        Some(Accident::Kill) => {
            progress("killing main");
            two.kill_main().await?;
        }
        Some(Accident::Cut) => {
            progress("partitioning main");
            two.cut_main_off(scenario.cut());
        }
    }
    if scenario.accident.is_none() {
        account.throttle(scenario.throttled);
        return Ok(None);
    }
    tokio::time::sleep(Duration::from_millis(scenario.decides_after_ms)).await;
    let plan = two.failover(&json!({ "command": "plan", "mode": "forced" })).await?;
    account.throttle(scenario.throttled);
    let figure = |name: &str| {
        plan["at_risk"][name]
            .as_u64()
            .with_context(|| format!("the plan does not state at_risk.{name}: {plan}"))
    };
    let unreadable =
        plan["unreadable_order_logs"].as_object().context("the plan does not list the order logs")?;
    Ok(Some(StatedLoss {
        seconds: figure("seconds")?,
        sales: figure("sales_at_most")?,
        without_logs: unreadable.keys().cloned().collect(),
    }))
}

/// Runs the failover to its end, killed and resumed as the scenario says. Main comes back when the new one
/// sells. Returns the report, and when the old main was back.
async fn fail_over(
    two: &TwoRegions,
    scenario: &Scenario,
    (stated, per_second): (Option<&StatedLoss>, u32),
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(Value, Option<u64>)> {
    progress("failing over to the standby");
    let command = match stated {
        None => json!({ "command": "run", "mode": "planned" }),
        Some(StatedLoss { seconds, sales, without_logs }) => {
            let accepted_seconds = seconds + TYPING_SECONDS;
            json!({
                "command": "run", "mode": "forced", "redis_wait_seconds": REDIS_WAIT_SECONDS,
                "withhold": main_can_sell(per_second, accepted_seconds),
                "accept": { "seconds": accepted_seconds, "sales": sales }, "without_logs": without_logs,
            })
        }
    };
    let runs = carried_through(two, scenario, command);
    let works_on = async {
        let status = match scenario.replica {
            ReplicaState::BackingUp => "backing-up",
            ReplicaState::Modifying => "modifying",
            _ => return anyhow::Ok(()),
        };
        // It starts after a planned run has raised the class, and lasts until RDS has refused the promotion.
        until("the lease is closed", RUN_LIMIT, async || Ok(!two.lease_is_open().await?)).await?;
        let (region, id) = two.replica();
        two.control_plane.account().databases.work_on(&region, &id, status, RDS_TAKES);
        Ok(())
    };
    let returns = async {
        until("the new main sells", RUN_LIMIT, async || {
            Ok(sales::commits(two, STANDBY, 2, 0).await.is_ok_and(|commits| commits.sales > 3))
        })
        .await?;
        two.control_plane.account().databases.set_capacity(&two.replica().0, true);
        if scenario.accident.is_none() {
            return Ok(None);
        }
        tokio::time::sleep(UNAVAILABLE).await;
        progress("bringing the old main back");
        let returned_ms = now_ms();
        match scenario.accident {
            Some(Accident::Kill) => two.revive_main().await?,
            _ => two.restore(),
        }
        anyhow::Ok(Some(returned_ms))
    };
    let (mut report, returned_ms, ()) = tokio::try_join!(runs, returns, works_on)?;
    // Steps that were skipped while main was unavailable can be done now.
    for _ in 0..3 {
        if report["run"]["state"] != "degraded" {
            break;
        }
        progress("resuming the skipped steps");
        report = two.failover(&json!({ "command": "resume" })).await?;
    }
    Ok((report, returned_ms))
}

/// The units of one item that a partitioned main can sell to its own buyers in `seconds`. Buyers come from all regions and
/// order all items in turn.
fn main_can_sell(per_second: u32, seconds: u64) -> u64 {
    (u64::from(per_second) * seconds).div_ceil(REGION_COUNT as u64 * ITEMS.len() as u64)
}

async fn carried_through(two: &TwoRegions, scenario: &Scenario, command: Value) -> Result<Value> {
    let started = Instant::now();
    let mut command = command;
    for after_ms in &scenario.kills_after_ms {
        let after = Duration::from_millis(*after_ms);
        match tokio::time::timeout(after, two.failover(&command)).await {
            Ok(report) => return report,
            Err(_) => two.kill_failover()?,
        }
        // If it was killed before it had saved its run, it is started again.
        match two.failover(&json!({ "command": "status" })).await {
            Ok(report) if is_running(&report) => command = json!({ "command": "resume" }),
            Ok(report) if report["run"]["state"] != "aborted" => return Ok(report),
            Ok(report) => bail!("region-failover aborted the failover: {}", report["run"]["why"]),
            Err(error) if format!("{error}").contains("NoActiveRun") => {}
            Err(error) => return Err(error),
        }
    }
    loop {
        let report = tokio::time::timeout(RUN_LIMIT, two.failover(&command))
            .await
            .context("region-failover did not end")??;
        match report["run"]["state"].as_str() {
            Some("aborted") => bail!("region-failover aborted the failover: {}", report["run"]["why"]),
            _ if is_running(&report) => command = json!({ "command": "resume" }),
            _ => return Ok(report),
        }
        ensure!(started.elapsed() < RUN_LIMIT, "the failover did not end within {RUN_LIMIT:?}: {report}");
    }
}

fn is_running(report: &Value) -> bool {
    matches!(report["run"]["state"].as_str(), Some("running" | "aborting"))
}

/// Reads the old main's ledger: its sales, and their times compared with the new main's first sale.
async fn read_old_main(two: &TwoRegions, returned_ms: Option<u64>) -> Result<OldMainState> {
    let [old, new] = [sales::commits(two, MAIN, 1, 0).await?, sales::commits(two, STANDBY, 2, 0).await?];
    let since_new = new.first_ms.unwrap_or(u64::from(u32::MAX));
    let beside = sales::commits(two, MAIN, 1, since_new).await?;
    let after_return = sales::commits(two, MAIN, 1, returned_ms.unwrap_or(since_new)).await?;
    let (of_old, of_new) = (two.ledger(MAIN).await?, two.ledger(STANDBY).await?);
    let (mut all, mut lost) = (BTreeMap::new(), Vec::new());
    for (name, _) in ITEMS {
        let item_id = name.parse()?;
        let [old, new] = [sales::read(&of_old, &item_id).await?, sales::read(&of_new, &item_id).await?];
        lost.extend(old.sold.difference(&new.sold).cloned());
        all.insert(name, old);
    }
    let first_lost_ms = sales::first_commit_of(two, MAIN, &lost).await?;
    Ok(OldMainState {
        records: all,
        sales: [old, beside, after_return],
        new_first_ms: new.first_ms,
        first_lost_ms,
    })
}

/// The records of the current main and of the first main.
async fn item_records(
    two: &TwoRegions,
    region: usize,
    mut left: BTreeMap<&'static str, ItemSales>,
) -> Result<BTreeMap<&'static str, ItemRecords>> {
    let new = two.ledger(region).await?;
    let mut items = BTreeMap::new();
    for (name, stock) in ITEMS {
        let item_id = name.parse()?;
        let records = ItemRecords {
            stock,
            old: left.remove(name).unwrap_or_default(),
            new: sales::read(&new, &item_id).await?,
            in_queue: sales::in_queue(two, region, &item_id).await?,
        };
        items.insert(name, records);
    }
    Ok(items)
}

fn by_answer(answers: &[OrderAttempt]) -> BTreeMap<String, u64> {
    let mut by_answer = BTreeMap::new();
    for answer in answers {
        let what = match &answer.answer {
            OrderAnswer::Queued => format!("{} queued", answer.status),
            OrderAnswer::Refused(why) => format!("{} {why}", answer.status),
            OrderAnswer::None(_) if answer.status == 0 => "no answer".into(),
            OrderAnswer::None(_) => answer.status.to_string(),
        };
        *by_answer.entry(what).or_default() += 1;
    }
    by_answer
}
