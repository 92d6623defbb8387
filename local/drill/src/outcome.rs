//! The result of one run, and its broken promises.

use super::failback::Failback;
use super::findings::DrillFindings;
use super::scenario::Scenario;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// How much older than the newest replicated heartbeat a lost sale may be: a commit takes time to reach the WAL.
const COMMIT_TAKES_MS: u64 = 500;

/// The result of one run. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Serialize)]
pub struct DrillOutcome {
    pub scenario: Scenario,
    /// When main was killed or partitioned, or the planned failover was started.
    pub began_ms: u64,
    /// Number of buyers.
    pub buyers: u64,
    /// The last commit of a sale in the old main's ledger.
    pub old_last_sale_ms: Option<u64>,
    /// The first commit of a sale in the new main's ledger.
    pub new_first_sale_ms: Option<u64>,
    /// Sales that the old main committed after the new main's first.
    pub sold_concurrently: u64,
    /// Sales that the old main committed after its return.
    pub sold_after_return: u64,
    /// The first commit of a sale that only the old main's ledger has.
    pub first_lost_ms: Option<u64>,
    /// The loss that the plan stated; `None` in a planned failover.
    pub stated: Option<StatedLoss>,
    /// The old main's answers to orders from the accident until its return: answer and number.
    pub answers_of_old_main: BTreeMap<String, u64>,
    pub findings: DrillFindings,
    /// The result of region-failover's `compare` after the old main's return.
    pub compared: Value,
    /// region-failover's own report.
    pub report: Value,
    /// The failback, if the run had one.
    pub back: Option<Failback>,
}

/// The loss of a forced failover that its plan states.
#[derive(Clone, Debug, Serialize)]
pub struct StatedLoss {
    /// Seconds of sales.
    pub seconds: u64,
    /// The highest number of sales.
    pub sales: u64,
    /// Regions whose order log cannot be read.
    pub without_logs: Vec<String>,
}

impl DrillOutcome {
    /// How long neither region sold, in milliseconds.
    pub fn pause_ms(&self) -> Option<i64> {
        let between = |new: u64, old: u64| i64::try_from(new).ok()?.checked_sub(i64::try_from(old).ok()?);
        between(self.new_first_sale_ms?, self.old_last_sale_ms?)
    }

    /// The broken promises, each as a text.
    pub fn faults(&self) -> Vec<String> {
        let DrillFindings { oversold, lost_sales, untrue, lost_places, lost_orders, .. } = self.findings;
        let mut faults = Vec::new();
        let mut must = |is_so: bool, what: String| faults.extend((!is_so).then_some(what));
        must(oversold == 0, format!("{oversold} units oversold"));
        must(
            self.sold_concurrently == 0,
            format!("the old main committed {} sales after the new main had begun", self.sold_concurrently),
        );
        must(
            self.pause_ms().is_some_and(|ms| ms > 0),
            "both regions sold at the same time, or one did not sell".into(),
        );
        must(
            self.sold_after_return == 0,
            format!("the old main committed {} sales after its return", self.sold_after_return),
        );
        must(untrue == 0, format!("{untrue} untrue answers"));
        must(lost_orders == 0, format!("{lost_orders} accepted orders lost"));
        let may_lose = self.stated.as_ref().map_or(0, |stated| stated.sales);
        must(
            lost_sales <= may_lose,
            format!("{lost_sales} sales lost, and the plan stated {may_lose} at most"),
        );
        faults.extend(self.faults_in_time());
        let mut must = |is_so: bool, what: String| faults.extend((!is_so).then_some(what));
        // An order in a log is accepted, also while no main answers, and its buyer may read `none` until it is replayed.
        let may_lose_places = self.stated.is_some() || self.scenario.has_order_logs;
        must(may_lose_places || lost_places == 0, format!("{lost_places} places in the queue lost"));
        let listed = self.compared["compared"]["sales_lost"].as_u64();
        let only_in_old = self.findings.only_in_old;
        must(
            listed == Some(only_in_old),
            format!("only the old ledger has {only_in_old} sales, and region-failover lists {listed:?}"),
        );
        // A Redis that was detached still has its own orders; one that follows the new primary has lost them.
        let are_known = self.compared["compared"]["orders_lost"].is_u64();
        must(
            are_known == self.scenario.redis_hangs,
            format!(
                "whether region-failover knows the lost orders is {are_known}, and should be the opposite"
            ),
        );
        let state = self.report["run"]["state"].as_str().unwrap_or("nothing");
        must(state == "done", format!("the failover ended as {state}, not as done"));
        faults.extend(self.back.iter().flat_map(Failback::faults));
        faults
    }

    /// Checks against region-failover's own record: no sale is later than the lease that it waited for, and no lost
    /// sale is older than the last replicated heartbeat. So the lost time is at most the accepted one.
    fn faults_in_time(&self) -> Vec<String> {
        let run = &self.report["run"];
        let stopped = run["stopped_ms"].as_u64().unwrap_or(0);
        let heard = run["inherited"]["heartbeat_ms"].as_u64().unwrap_or(u64::MAX);
        let accepted = run["stated"]["ms"].as_u64().unwrap_or(0);
        let last = self.old_last_sale_ms.unwrap_or(0);
        let first_lost = self.first_lost_ms.unwrap_or(u64::MAX);
        let lost_ms = last.saturating_sub(first_lost);
        let faults = [
            (last > stopped)
                .then(|| format!("the old main sold {} ms after the end of its lease", last - stopped)),
            (first_lost.saturating_add(COMMIT_TAKES_MS) < heard).then(|| {
                format!("a lost sale is {} ms older than the last replicated heartbeat", heard - first_lost)
            }),
            (lost_ms > accepted + COMMIT_TAKES_MS)
                .then(|| format!("{lost_ms} ms of sales are lost, and {accepted} ms were accepted")),
        ];
        faults.into_iter().flatten().collect()
    }
}
