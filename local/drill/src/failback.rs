//! The failback: the old main's region becomes the standby, and a planned failover moves main back to it.

use super::sales;
use super::scenario::{ITEMS, RUN_LIMIT};
use super::wait::until;
use crate::two_regions::{MAIN, STANDBY, TwoRegions};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

/// The epochs before and after the failback.
const EPOCHS: [i64; 2] = [2, 3];

/// The result of a failback. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Serialize)]
pub struct Failback {
    /// The last commit of a sale in the ledger of the main before the failback.
    pub old_last_sale_ms: Option<u64>,
    /// The first commit of a sale in the ledger of the main after it.
    pub new_first_sale_ms: Option<u64>,
    /// Sales of the former after the first sale of the latter.
    pub sold_concurrently: u64,
    /// Sales of the former that the latter lacks.
    pub lost: u64,
    /// region-failover's own report.
    pub report: Value,
}

impl Failback {
    /// The broken promises, each as a text.
    pub(super) fn faults(&self) -> Vec<String> {
        let is_in_turn =
            self.old_last_sale_ms.zip(self.new_first_sale_ms).is_some_and(|(old, new)| old < new);
        let state = self.report["run"]["state"].as_str().unwrap_or("nothing");
        let faults = [
            (!is_in_turn).then(|| "failback: both regions sold at the same time, or one did not sell".into()),
            (self.sold_concurrently > 0).then(|| {
                format!(
                    "failback: the previous main committed {} sales after the new one had begun",
                    self.sold_concurrently
                )
            }),
            (self.lost > 0).then(|| format!("failback: {} sales lost", self.lost)),
            (state != "done").then(|| format!("failback: it ended as {state}, not as done")),
        ];
        faults.into_iter().flatten().collect()
    }
}

/// The new standby's function reads the record of the failover that made the other region main. It must not continue
/// that failover with its own configuration.
async fn does_not_continue_the_last_failover(two: &TwoRegions) -> Result<()> {
    let answer = two.failover(&json!({ "command": "resume" })).await;
    let is_refused = answer.as_ref().is_err_and(|error| format!("{error:#}").contains("Elsewhere"));
    ensure!(
        is_refused,
        "region-failover must refuse to resume the other region's failover, and answered {answer:?}"
    );
    let answer = two.failover(&json!({ "command": "resume_pending" })).await?;
    ensure!(answer["resumed"] == json!([]), "the other region's failover is resumed: {answer}");
    Ok(())
}

/// Moves main back to the region that was main at first.
pub(super) async fn fail_back(two: &mut TwoRegions, progress: &(dyn Fn(&str) + Sync)) -> Result<Failback> {
    progress("making the old main's region the standby");
    two.make_old_main_the_standby().await?;
    does_not_continue_the_last_failover(two).await?;
    two.can_move().await?;
    progress("moving main back");
    // The cooldown after the last failover is not over.
    let command = json!({ "command": "run", "mode": "planned", "skip_cooldown": true });
    let run = tokio::time::timeout(RUN_LIMIT, two.failover(&command));
    let sells = until("first sales of the old main's region after the failback", RUN_LIMIT, async || {
        Ok(sales::commits(two, MAIN, EPOCHS[1], 0).await.is_ok_and(|commits| commits.sales > 3))
    });
    let (report, sells) = tokio::join!(run, sells);
    let report = report.context("the failback did not end")??;
    sells.with_context(|| format!("the failback reported: {}", report["means"]))?;

    let left = sales::commits(two, STANDBY, EPOCHS[0], 0).await?;
    let here = sales::commits(two, MAIN, EPOCHS[1], 0).await?;
    let since = here.first_ms.unwrap_or(u64::from(u32::MAX));
    let beside = sales::commits(two, STANDBY, EPOCHS[0], since).await?;
    let (of_left, of_here) = (two.ledger(STANDBY).await?, two.ledger(MAIN).await?);
    let mut lost = 0;
    for (name, _) in ITEMS {
        let item_id = name.parse()?;
        let [left, here] = [sales::read(&of_left, &item_id).await?, sales::read(&of_here, &item_id).await?];
        lost += left.sold.difference(&here.sold).count() as u64;
    }
    Ok(Failback {
        old_last_sale_ms: left.last_ms,
        new_first_sale_ms: here.first_ms,
        sold_concurrently: beside.sales,
        lost,
        report,
    })
}
