//! What the half-hourly schedule asks: whether a failover could run now. Changes nothing.

use crate::app::App;
use crate::error::FailoverError;
use crate::execute::{OBSERVE_LIMIT, timed_out};
use crate::observation::{Observation, Obstacle};
use crate::readiness::Reason;
use crate::run::{Mode, Run};
use crate::steps::{Case, FailoverStep};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Observes the readiness, and writes it as a metric, with the reasons in the log.
pub(crate) async fn readiness(app: &App) -> Result<Value, FailoverError> {
    let reasons = reasons(app).await?;
    let is_ready = reasons.is_empty();
    metrics::gauge!("failover_ready").set(f64::from(u8::from(is_ready)));
    if is_ready {
        tracing::info!("a failover could run now");
    } else {
        tracing::warn!(reasons = %json!(reasons), "a failover could not run as it should; the runbook has each reason");
    }
    Ok(json!({ "is_ready": is_ready, "reasons": reasons }))
}

/// All reasons why a failover could not run as it should.
pub(crate) async fn reasons(app: &App) -> Result<Vec<Reason>, FailoverError> {
    let lease = app.servers.lease.load().await?;
    let newest = app.failovers.store.load().await?.record;
    if let Some(active) = newest.filter(|newest| newest.run.is_active()) {
        return Ok(vec![Reason::noting("a failover is active").with("run", active.run.id)]);
    }
    if lease.region == app.here {
        return Ok(vec![Reason::noting("this region is main already, and has no standby")]);
    }
    let mut run = Run::new("readiness", Mode::Planned, (&lease.region, &app.here), lease.epoch, 0);
    // The cooldown passes by itself.
    run.skip_cooldown = true;
    let kind = FailoverStep::Precheck.definition().observes;
    let (begins, mut reasons) = tokio::join!(
        timeout(OBSERVE_LIMIT, Box::pin(app.servers.observe(kind, &run))),
        app.servers.further_reasons()
    );
    let begins = begins.unwrap_or_else(|_| Err(timed_out("observation", OBSERVE_LIMIT)));
    reasons.extend(of_precheck(app, &run, begins));
    Ok(reasons)
}

/// What the precheck of a planned failover would refuse or wait for.
fn of_precheck(app: &App, run: &Run, begins: Result<Observation, Obstacle>) -> Vec<Reason> {
    let mut begins = match begins {
        Ok(begins) => begins,
        Err(obstacle) => {
            return vec![Reason::unobserved("a failover could not begin: no answer", obstacle)];
        }
    };
    let mut reasons = Vec::new();
    if let Observation::Ready { reasons: found, .. } = &mut begins {
        reasons.append(found);
    }
    let case = Case { run, now: app.servers.clock.now(), timing: app.servers.timing };
    let refusal = FailoverStep::Precheck.definition().decide(&case, &begins).refusal();
    let refused = |why| Reason::refusing("the precheck refuses a planned failover").with("why", why);
    reasons.extend(refusal.map(refused));
    reasons
}
