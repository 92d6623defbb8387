//! One run of a drill: buyers, an accident, a failover, and the old main's return.

use super::books::{self, Commits};
use super::buyers::{Answer, Buyers, now_ms};
use super::course::{Accident, Course};
use super::findings::{Findings, ItemBooks, find};
use crate::crowd::Told;
use crate::two_regions::{MAIN, STANDBY, Settings, TwoRegions};
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is on sale, and how many units: more than there are buyers, and so few that they sell out.
const ITEMS: [(&str, u64); 2] = [("plenty", 100_000), ("scarce", 150)];
const NAMES: &[&str] = &[ITEMS[0].0, ITEMS[1].0];
/// Units of each item that are kept back in a forced failover: what a main that is cut off can sell to its
/// own buyers before its lease ends, several times over.
const HOLDBACK: u32 = 40;
const SETTLE_WINDOW_MS: u32 = 1_000;
/// The longest that a failover may take.
const RUN_LIMIT: Duration = Duration::from_secs(420);
/// How long region-failover may take to say where it stands, and how often it is asked.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
const STATUS_TRIES: u32 = 8;
/// How long a backup of the replica takes.
const BACKUP_TAKES: Duration = Duration::from_secs(9);
/// How long main stays away after the new one has begun to sell.
const AWAY: Duration = Duration::from_secs(3);
/// How long the old main is watched after its return.
const WATCHED: Duration = Duration::from_secs(5);
/// How long buyers still wait in the end.
const PATIENCE: Duration = Duration::from_secs(20);
/// An accepted loss is this much more than the plan's, in seconds: main may sell while a person types.
const TYPING_SECONDS: u64 = 8;

/// What came of one run. Moments are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was to happen.
    pub course: Course,
    /// When main was killed or cut off, or the failover was begun.
    pub began_ms: u64,
    /// Buyers who came.
    pub buyers: u64,
    /// The old main's last commit of a sale, by its ledger.
    pub old_last_sale_ms: Option<u64>,
    /// The new main's first, by its own.
    pub new_first_sale_ms: Option<u64>,
    /// Sales that the old main took after the new one had begun.
    pub sold_beside: u64,
    /// Sales that the old main took after its return.
    pub sold_after_return: u64,
    /// What a plan had stated; nothing in a planned failover.
    pub stated: Option<Stated>,
    /// What buyers at the old main were told from the accident until it was back, by answer.
    pub told_by_old_main: BTreeMap<String, u64>,
    /// Findings.
    pub findings: Findings,
    /// What region-failover found when the old main was back.
    pub compared: Value,
    /// region-failover's own report.
    pub report: Value,
}

/// What a forced failover would lose, by its plan.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stated {
    /// Seconds of main's time.
    pub seconds: u64,
    /// Sales at most.
    pub sales: u64,
}

impl Outcome {
    /// How long nobody sold.
    pub fn pause_ms(&self) -> Option<i64> {
        let between = |new: u64, old: u64| i64::try_from(new).ok()?.checked_sub(i64::try_from(old).ok()?);
        between(self.new_first_sale_ms?, self.old_last_sale_ms?)
    }

    /// What was promised and not kept, in words.
    pub fn faults(&self) -> Vec<String> {
        let Findings { oversold, lost_sales, untrue, lost_places, .. } = self.findings;
        let mut faults = Vec::new();
        let mut must = |is_so: bool, what: String| faults.extend((!is_so).then_some(what));
        must(oversold == 0, format!("{oversold} units oversold"));
        must(self.sold_beside == 0, format!("{} sales of the old main beside the new one", self.sold_beside));
        must(self.pause_ms().is_some_and(|ms| ms > 0), "two sellers at once, or none".into());
        must(self.sold_after_return == 0, format!("{} sales after the return", self.sold_after_return));
        must(untrue == 0, format!("{untrue} untrue answers"));
        let may_lose = self.stated.map_or(0, |stated| stated.sales);
        must(lost_sales <= may_lose, format!("{lost_sales} sales lost, {may_lose} stated"));
        must(self.stated.is_some() || lost_places == 0, format!("{lost_places} places lost"));
        let listed = self.compared["compared"]["sales_lost"].as_u64();
        let only_in_old = self.findings.only_in_old;
        must(
            listed == Some(only_in_old),
            format!("{only_in_old} sales are in the old ledger alone, and {listed:?} listed"),
        );
        let state = self.report["run"]["state"].as_str().unwrap_or("nothing");
        must(state == "done", format!("the failover ended as {state}"));
        faults
    }
}

/// Carries `course` out, with data and logs in `folder`; `says` is told what is done now.
pub(super) async fn carry_out(
    course: &Course,
    folder: &Path,
    per_second: u32,
    says: &(dyn Fn(&str) + Sync),
) -> Result<Outcome> {
    says("two regions are started");
    let settings = Settings::default();
    let replica_class = if course.is_small { "db.m7g.medium" } else { settings.main_class.as_str() };
    let settings = Settings { replica_class: replica_class.into(), ..settings };
    let two = TwoRegions::start_in(folder, &settings).await?;
    announce(&two).await?;
    let buyers = Buyers::come(&two, &format!("buyer-{}", course.seed), per_second, NAMES)?;
    says("buyers order");
    until("the first sale", Duration::from_secs(30), async || Ok(buyers.sold() > 0)).await?;
    tokio::time::sleep(course.before()).await;

    let began_ms = now_ms();
    let stated = befall(&two, course, says).await?;
    let (report, returned_ms) = fail_over(&two, course, stated, says).await?;

    says("the old main is watched");
    two.reopen_main_ledger().await?;
    tokio::time::sleep(WATCHED).await;
    let compared = two.failover(&json!({ "command": "compare" })).await?;
    says("the last buyers are served");
    let (buyers, answers) = buyers.leave(PATIENCE).await?;
    let [old, new, beside, after_return] = sales(&two, returned_ms).await?;
    let at_old_main = |answer: &&Answer| {
        answer.site == MAIN && (began_ms..returned_ms.unwrap_or(began_ms)).contains(&answer.at_ms)
    };
    let at_old_main: Vec<Answer> = answers.iter().filter(at_old_main).cloned().collect();
    let is_late = |answer: &&Answer| new.first_ms.is_some_and(|first| answer.at_ms > first);
    let late: Vec<Answer> = at_old_main.iter().filter(is_late).cloned().collect();
    Ok(Outcome {
        course: course.clone(),
        began_ms,
        buyers: buyers.len() as u64,
        old_last_sale_ms: old.last_ms,
        new_first_sale_ms: new.first_ms,
        sold_beside: beside.sales,
        sold_after_return: after_return.sales,
        stated,
        told_by_old_main: by_answer(&at_old_main),
        findings: find(&item_books(&two).await?, &buyers, &late),
        compared,
        report,
    })
}

async fn announce(two: &TwoRegions) -> Result<()> {
    for (item_id, stock) in ITEMS {
        let item = json!({
            "item_id": item_id, "name": item_id, "stock_total": stock, "hold_seconds": 0,
            "opens_at": now_ms() * 1_000 - 60_000_000, "settle_window_ms": SETTLE_WINDOW_MS,
        });
        two.admin(MAIN, &json!({ "command": "create", "item": item })).await?;
        let item_id = item_id.parse()?;
        until("every region knows the item", Duration::from_secs(10), async || {
            two.is_known_everywhere(&item_id).await
        })
        .await?;
    }
    Ok(())
}

/// What happens to main, and what a plan says of it.
async fn befall(two: &TwoRegions, course: &Course, says: &(dyn Fn(&str) + Sync)) -> Result<Option<Stated>> {
    let account = two.control_plane.account();
    match course.accident {
        None => says("a planned failover is begun"),
        Some(Accident::Kill) => {
            says("main is killed");
            two.kill_main().await?;
        }
        Some(Accident::Cut) => {
            says("main is cut off");
            two.cut_main_off(course.cut());
        }
    }
    if course.accident.is_none() {
        account.throttle(course.throttled);
        return Ok(None);
    }
    tokio::time::sleep(Duration::from_millis(course.decides_after_ms)).await;
    let plan = two.failover(&json!({ "command": "plan", "mode": "forced" })).await?;
    account.throttle(course.throttled);
    let figure = |name: &str| plan["at_risk"][name].as_u64().with_context(|| format!("no {name} in {plan}"));
    Ok(Some(Stated { seconds: figure("seconds")?, sales: figure("sales_at_most")? }))
}

/// Runs the failover to its end, killed and resumed where that is the course; main comes back once the new one
/// sells. Returns the report, and when the old main was back.
async fn fail_over(
    two: &TwoRegions,
    course: &Course,
    stated: Option<Stated>,
    says: &(dyn Fn(&str) + Sync),
) -> Result<(Value, Option<u64>)> {
    says("the standby takes over");
    let command = match stated {
        None => json!({ "command": "run", "mode": "planned" }),
        Some(Stated { seconds, sales }) => json!({
            "command": "run", "mode": "forced", "holdback": HOLDBACK,
            "accept": { "seconds": seconds + TYPING_SECONDS, "sales": sales },
        }),
    };
    let runs = carried_through(two, course, command);
    let backs_up = async {
        if course.backs_up {
            // After the precheck, which would refuse, and until the promotion has been refused for a while.
            until("the lease is closed", RUN_LIMIT, async || Ok(!two.lease_is_open().await?)).await?;
            let (region, id) = two.replica();
            two.control_plane.account().databases.back_up(&region, &id, BACKUP_TAKES);
        }
        anyhow::Ok(())
    };
    let returns = async {
        until("the new main sells", RUN_LIMIT, async || {
            Ok(books::commits(two, STANDBY, 2, 0).await.is_ok_and(|commits| commits.sales > 3))
        })
        .await?;
        if course.accident.is_none() {
            return Ok(None);
        }
        tokio::time::sleep(AWAY).await;
        says("the old main comes back");
        let returned_ms = now_ms();
        match course.accident {
            Some(Accident::Kill) => two.revive_main().await?,
            _ => two.restore(),
        }
        anyhow::Ok(Some(returned_ms))
    };
    let (mut report, returned_ms, ()) = tokio::try_join!(runs, returns, backs_up)?;
    // What was left out while main was away can be done now.
    for _ in 0..3 {
        if report["run"]["state"] != "degraded" {
            break;
        }
        says("what was left out is made up for");
        report = two.failover(&json!({ "command": "resume" })).await?;
    }
    Ok((report, returned_ms))
}

async fn carried_through(two: &TwoRegions, course: &Course, command: Value) -> Result<Value> {
    let started = Instant::now();
    let mut command = command;
    for after_ms in &course.kills_after_ms {
        let after = Duration::from_millis(*after_ms);
        match tokio::time::timeout(after, two.failover(&command)).await {
            Ok(report) => return report,
            Err(_) => two.kill_failover()?,
        }
        // Killed before it had written anything, it is begun again.
        match status(two).await {
            Ok(report) if is_under_way(&report) => command = json!({ "command": "resume" }),
            Ok(report) if report["run"]["state"] != "aborted" => return Ok(report),
            Ok(report) => bail!("the failover was given up: {}", report["run"]["why"]),
            Err(error) if format!("{error}").contains("NothingUnderWay") => {}
            Err(error) => return Err(error),
        }
    }
    loop {
        let report = tokio::time::timeout(RUN_LIMIT, two.failover(&command)).await.context("no end")??;
        match report["run"]["state"].as_str() {
            Some("aborted") => bail!("the failover was given up: {}", report["run"]["why"]),
            _ if is_under_way(&report) => command = json!({ "command": "resume" }),
            _ => return Ok(report),
        }
        ensure!(started.elapsed() < RUN_LIMIT, "the failover has no end: {report}");
    }
}

fn is_under_way(report: &Value) -> bool {
    matches!(report["run"]["state"].as_str(), Some("running" | "aborting"))
}

/// Asks where it stands until there is an answer: the emulator may give an invocation to the process that was
/// killed, and nobody answers that.
async fn status(two: &TwoRegions) -> Result<Value> {
    let command = json!({ "command": "status" });
    for _ in 0..STATUS_TRIES {
        let asked = two.failover(&command);
        if let Ok(answer) = tokio::time::timeout(STATUS_LIMIT, asked).await {
            return answer;
        }
    }
    bail!("region-failover does not answer after it was killed")
}

/// The old main's sales, the new one's, the old one's after the new one's first, and after its return.
async fn sales(two: &TwoRegions, returned_ms: Option<u64>) -> Result<[Commits; 4]> {
    let [old, new] = [books::commits(two, MAIN, 1, 0).await?, books::commits(two, STANDBY, 2, 0).await?];
    let since_new = new.first_ms.unwrap_or(u64::from(u32::MAX));
    let beside = books::commits(two, MAIN, 1, since_new).await?;
    let after_return = books::commits(two, MAIN, 1, returned_ms.unwrap_or(since_new)).await?;
    Ok([old, new, beside, after_return])
}

async fn item_books(two: &TwoRegions) -> Result<BTreeMap<&'static str, ItemBooks>> {
    let (old, new) = (two.ledger(MAIN).await?, two.ledger(STANDBY).await?);
    let mut items = BTreeMap::new();
    for (name, stock) in ITEMS {
        let item_id = name.parse()?;
        let books = ItemBooks {
            stock,
            old: books::read(&old, &item_id).await?,
            new: books::read(&new, &item_id).await?,
            in_queue: books::in_queue(two, &item_id).await?,
        };
        items.insert(name, books);
    }
    Ok(items)
}

fn by_answer(answers: &[Answer]) -> BTreeMap<String, u64> {
    let mut by_answer = BTreeMap::new();
    for answer in answers {
        let what = match &answer.told {
            Told::Queued => format!("{} queued", answer.status),
            Told::Refused(why) => format!("{} {why}", answer.status),
            Told::Nothing(_) if answer.status == 0 => "no answer".into(),
            Told::Nothing(_) => answer.status.to_string(),
        };
        *by_answer.entry(what).or_default() += 1;
    }
    by_answer
}

async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> F,
) -> Result<()> {
    let started = Instant::now();
    while !is_so().await.unwrap_or(false) {
        ensure!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
