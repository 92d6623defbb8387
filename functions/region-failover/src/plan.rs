//! What a failover would do now, and what would be lost. Changes nothing.

use crate::app::App;
use crate::command::FailoverKind;
use crate::error::FailoverError;
use crate::observation::{Loss, Observation};
use crate::report::seconds;
use crate::run::{Mode, Run, RunState};
use crate::servers::FailoverServers;
use crate::steps::{Case, FailoverStep, critical_path};
use crate::watch;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The plan accepts any loss: it reports the loss, and does not refuse it.
const ANYTHING: Loss = Loss { ms: u64::MAX, sales: u64::MAX };

pub(crate) async fn plan(
    app: &App,
    kind: FailoverKind,
    redis_endpoint: Option<String>,
) -> Result<Value, FailoverError> {
    let servers: &FailoverServers = &app.servers;
    let status = servers.status().await?;
    let lease = &status.lease;
    let mode = match kind {
        FailoverKind::Planned => Mode::Planned,
        FailoverKind::Forced => Mode::Forced { accepted: ANYTHING },
    };
    let last = app.failovers.store.load().await?.record;
    let mut run = Run::new("plan", mode, (&lease.region, &app.here), lease.epoch, 0);
    run.set_previous(last.as_ref().map(|last| &last.run), app.now_ms());
    run.redis_endpoint = redis_endpoint;
    // The plan reports which log cannot be read, as it reports the loss.
    run.order_logs = servers.log_regions();
    run.without_logs = run.order_logs.clone();
    let most = Loss::from(status.at_risk);
    let precheck = FailoverStep::Precheck.definition();
    let observation = servers.for_run(&run)?.observe(precheck.observes, &run).await;
    let not_ready = watch::reasons(app).await?;
    let unreadable_logs = match &observation {
        Ok(Observation::Ready { unreadable_logs, .. }) => unreadable_logs.clone(),
        _ => BTreeMap::new(),
    };
    let case = Case { run: &run, now: servers.clock.now(), timing: servers.timing };
    let obstacle = match &observation {
        _ if lease.region == app.here => Some("this region is main already".to_owned()),
        Ok(observation) => precheck.decide(&case, observation).refusal(),
        Err(obstacle) => Some(obstacle.0.clone()),
    };
    let drilled = app.drills.store.load().await?.record;
    let took = |step: FailoverStep| {
        let drill = drilled.as_ref().filter(|drill| drill.run.state == RunState::Done).or(last.as_ref())?;
        let log = drill.run.log.iter().find(|log| log.step == step)?;
        Some(seconds(log.ended_ms?.saturating_sub(log.began_ms)))
    };
    let order = FailoverStep::order(mode);
    let steps: Vec<Value> = order
        .iter()
        .map(|step| {
            let definition = step.definition();
            let (limit_ms, then) = definition.limit.of(mode);
            json!({
                "step": step, "precondition": definition.needs, "does": definition.does,
                "took_in_the_last_drill_seconds": took(*step),
                "limit_seconds": limit_ms / 1_000,
                "after_the_limit": then.words(),
                "can_be_aborted": order.iter().take_while(|one| **one != FailoverStep::MoveRedis).any(|one| one == step),
            })
        })
        .collect();
    Ok(json!({
        "from": lease.region, "to": app.here, "epoch": lease.epoch, "mode": kind,
        "can_begin": obstacle.is_none(), "obstacle": obstacle,
        "at_risk": {
            "seconds": most.ms.div_ceil(1_000),
            "sales_at_most": most.sales,
            "sales_likely": status.at_risk.sales_likely,
            "grows": status.loss_grows,
            "basis": status.at_risk.basis,
        },
        "not_ready": not_ready,
        "order_logs": run.order_logs,
        "unreadable_order_logs": unreadable_logs,
        "pending_changes_of_the_replica": servers.pending_changes().await,
        "steps": steps,
        // The time in which no region sells, if every step takes as long as its limit.
        "critical_path": critical_path(mode),
        "to_run": to_run(kind, most, unreadable_logs.keys()),
    }))
}

/// The command to invoke. For a forced failover the operator types in the loss.
fn to_run<'a>(kind: FailoverKind, most: Loss, unreadable: impl Iterator<Item = &'a String>) -> Value {
    let mut command = match kind {
        FailoverKind::Planned => json!({ "command": "run", "mode": "planned" }),
        FailoverKind::Forced => json!({
            "command": "run", "mode": "forced",
            "accept": { "seconds": "<at_risk.seconds, or more>", "sales": "<at_risk.sales_at_most, or more>" },
            "withhold": "<units of each item to withhold, which could otherwise be sold twice>",
            "note": format!(
                "the lag gate compares the loss again after main's lease has ended. Now it is {} s; if it grows, add one \
                 second for each second until the run begins",
                most.ms.div_ceil(1_000)
            ),
        }),
    };
    let without: Vec<&String> = unreadable.collect();
    if let (FailoverKind::Forced, [_, ..], Some(fields)) = (kind, without.as_slice(), command.as_object_mut())
    {
        fields.insert("without_logs".into(), json!(without));
    }
    command
}
