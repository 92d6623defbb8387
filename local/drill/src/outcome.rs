//! What came of one run, and what was promised and not kept.

use super::failback::Failback;
use super::findings::DrillFindings;
use super::scenario::Scenario;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// How much older than the newest heartbeat that came over a lost sale may be: a commit takes its time before it
/// is in the log.
const COMMIT_TAKES_MS: u64 = 500;

/// What came of one run. Moments are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Serialize)]
pub struct DrillOutcome {
    /// What was to happen.
    pub scenario: Scenario,
    /// When main was killed or cut off, or the failover was begun.
    pub began_ms: u64,
    /// Buyers who came.
    pub buyers: u64,
    /// The old main's last commit of a sale, by its ledger.
    pub old_last_sale_ms: Option<u64>,
    /// The new main's first, by its own.
    pub new_first_sale_ms: Option<u64>,
    /// Sales that the old main took after the new one had begun.
    pub sold_concurrently: u64,
    /// Sales that the old main took after its return.
    pub sold_after_return: u64,
    /// The first commit of a sale that is in the old main's ledger alone.
    pub first_lost_ms: Option<u64>,
    /// What a plan had stated; nothing in a planned failover.
    pub stated: Option<StatedLoss>,
    /// What buyers at the old main were told from the accident until it was back, by answer.
    pub answers_of_old_main: BTreeMap<String, u64>,
    /// DrillFindings.
    pub findings: DrillFindings,
    /// What region-failover found when the old main was back.
    pub compared: Value,
    /// region-failover's own report.
    pub report: Value,
    /// The way back, where that was gone.
    pub back: Option<Failback>,
}

/// What a forced failover would lose, by its plan.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StatedLoss {
    /// Seconds of main's time.
    pub seconds: u64,
    /// Sales at most.
    pub sales: u64,
}

impl DrillOutcome {
    /// How long nobody sold.
    pub fn pause_ms(&self) -> Option<i64> {
        let between = |new: u64, old: u64| i64::try_from(new).ok()?.checked_sub(i64::try_from(old).ok()?);
        between(self.new_first_sale_ms?, self.old_last_sale_ms?)
    }

    /// What was promised and not kept, in words.
    pub fn faults(&self) -> Vec<String> {
        let DrillFindings { oversold, lost_sales, untrue, lost_places, .. } = self.findings;
        let mut faults = Vec::new();
        let mut must = |is_so: bool, what: String| faults.extend((!is_so).then_some(what));
        must(oversold == 0, format!("{oversold} units oversold"));
        must(
            self.sold_concurrently == 0,
            format!("{} sales of the old main beside the new one", self.sold_concurrently),
        );
        must(self.pause_ms().is_some_and(|ms| ms > 0), "two sellers at once, or none".into());
        must(self.sold_after_return == 0, format!("{} sales after the return", self.sold_after_return));
        must(untrue == 0, format!("{untrue} untrue answers"));
        let may_lose = self.stated.map_or(0, |stated| stated.sales);
        must(lost_sales <= may_lose, format!("{lost_sales} sales lost, {may_lose} stated"));
        faults.extend(self.faults_in_time());
        let mut must = |is_so: bool, what: String| faults.extend((!is_so).then_some(what));
        must(self.stated.is_some() || lost_places == 0, format!("{lost_places} places lost"));
        let listed = self.compared["compared"]["sales_lost"].as_u64();
        let only_in_old = self.findings.only_in_old;
        must(
            listed == Some(only_in_old),
            format!("{only_in_old} sales are in the old ledger alone, and {listed:?} listed"),
        );
        // A Redis that was detached still has what it had taken; one that was moved follows, and does not.
        let are_known = self.compared["compared"]["orders_lost"].is_u64();
        must(are_known == self.scenario.redis_hangs, format!("orders lost are known: {are_known}"));
        let state = self.report["run"]["state"].as_str().unwrap_or("nothing");
        must(state == "done", format!("the failover ended as {state}"));
        faults.extend(self.back.iter().flat_map(Failback::faults));
        faults
    }

    /// By what region-failover itself has written down: nothing is sold after the lease that it waited for, and
    /// nothing is lost from before the last heartbeat that had come over. So no more is lost than the time that
    /// it let pass as lost.
    fn faults_in_time(&self) -> Vec<String> {
        let run = &self.report["run"];
        let stopped = run["stopped_ms"].as_u64().unwrap_or(0);
        let heard = run["inherited"]["heartbeat_ms"].as_u64().unwrap_or(u64::MAX);
        let let_pass = run["stated"]["ms"].as_u64().unwrap_or(0);
        let last = self.old_last_sale_ms.unwrap_or(0);
        let first_lost = self.first_lost_ms.unwrap_or(u64::MAX);
        let lost_ms = last.saturating_sub(first_lost);
        let faults = [
            (last > stopped).then(|| format!("the old main sold {} ms after its lease", last - stopped)),
            (first_lost.saturating_add(COMMIT_TAKES_MS) < heard).then(|| {
                format!("a sale is lost that is {} ms older than what came over", heard - first_lost)
            }),
            (lost_ms > let_pass + COMMIT_TAKES_MS)
                .then(|| format!("{lost_ms} ms of sales are lost, and {let_pass} ms were let pass")),
        ];
        faults.into_iter().flatten().collect()
    }
}
