//! What a failover would do now, and what would be lost. Nothing is changed.

use crate::command::Kind;
use crate::report::seconds;
use crate::seen::{Loss, Seen};
use crate::servers::Servers;
use crate::step::decide;
use crate::{App, CommandError, Mode, Run, State, Step, Verdict};
use serde_json::{Value, json};

/// What is accepted for the plan's own look: it says what would be lost, and does not refuse it.
const ANYTHING: Loss = Loss { ms: u64::MAX, sales: u64::MAX };

/// The plan of a failover of `kind`.
pub(crate) async fn plan(app: &App, kind: Kind) -> Result<Value, CommandError> {
    let servers: &Servers = &app.servers;
    let standing = servers.standing().await?;
    let lease = &standing.lease;
    let mode = match kind {
        Kind::Planned => Mode::Planned,
        Kind::Forced => Mode::Forced { accepted: ANYTHING },
    };
    let last = app.failovers.load().await?.written;
    let mut run = Run::new("plan", mode, (&lease.region, &app.here), lease.epoch, 0);
    run.follow_on(last.as_ref().map(|last| &last.run), app.now_ms());
    let most = Loss::from(standing.at_risk);
    let seen = servers.look(run.step.look(), &run).await;
    let obstacle = match &seen {
        _ if lease.region == app.here => Some("this region is main already".to_owned()),
        Ok(seen @ Seen::Ready { .. }) => {
            match decide(Step::Precheck, &run, seen, servers.clock.now(), servers.timing) {
                Verdict::Done => None,
                Verdict::Halt(why) | Verdict::Wait(why) => Some(why),
                Verdict::Act(_) => Some("the precheck wants to act".into()),
            }
        }
        Ok(_) => Some("another thing was looked at".into()),
        Err(trouble) => Some(trouble.0.clone()),
    };
    let drilled = app.drills.load().await?.written;
    let took = |step: Step| {
        let drill = drilled.as_ref().filter(|drill| drill.run.state == State::Done).or(last.as_ref())?;
        let log = drill.run.log.iter().find(|log| log.step == step)?;
        Some(seconds(log.ended_ms?.saturating_sub(log.began_ms)))
    };
    let steps: Vec<Value> = Step::ALL
        .into_iter()
        .map(|step| {
            let (precondition, does) = step.words();
            json!({
                "step": step, "precondition": precondition, "does": does,
                "took_in_the_last_drill_seconds": took(step),
                "gives_up_or_goes_on_after_seconds": step.limit_ms().map(|ms| ms / 1_000),
                "can_be_aborted": step < Step::MoveRedis,
            })
        })
        .collect();
    Ok(json!({
        "from": lease.region, "to": app.here, "epoch": lease.epoch, "mode": kind_name(kind),
        "can_begin": obstacle.is_none(), "obstacle": obstacle,
        "at_risk": {
            "seconds": most.ms.div_ceil(1_000),
            "sales_at_most": most.sales,
            "sales_likely": standing.at_risk.sales_likely,
            "grows": standing.loss_grows,
            "basis": standing.at_risk.basis,
        },
        "steps": steps,
        "to_run": to_run(kind, most),
    }))
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Planned => "planned",
        Kind::Forced => "forced",
    }
}

/// What to invoke; of a forced one the loss is left for a person to type in.
fn to_run(kind: Kind, most: Loss) -> Value {
    match kind {
        Kind::Planned => json!({ "command": "run", "mode": "planned" }),
        Kind::Forced => json!({
            "command": "run", "mode": "forced",
            "accept": { "seconds": "<at_risk.seconds, or more>", "sales": "<at_risk.sales_at_most, or more>" },
            "withhold": "<units of each item to withhold: what may be sold twice otherwise>",
            "note": format!(
                "the gate compares again, once main's lease has run out; now it would be {} s, and where it grows, a second more \
                 for each that goes by before the run begins",
                most.ms.div_ceil(1_000)
            ),
        }),
    }
}
