//! Whether a failover could run is known before one is needed.

use crate::control_plane::aws;
use drill::two_regions::{TwoRegions, TwoRegionsSettings};
use local::system::folder::WorkFolder;
use serde_json::{Value, json};
use std::time::Duration;
use tests::eventually;

const A_WHILE: Duration = Duration::from_secs(30);

async fn readiness(two: &TwoRegions) -> anyhow::Result<Value> {
    two.failover(&json!({ "command": "readiness" })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_with_a_detached_redis_is_refused_before_it_stops_sales() {
    let folder = WorkFolder::new().unwrap();
    let two = TwoRegions::start_in(folder.path(), &TwoRegionsSettings::default()).await.unwrap();
    let newest = std::sync::Mutex::new(Value::Null);
    let ready = eventually("a failover could run", A_WHILE, async || {
        let found = readiness(&two).await?;
        *newest.lock().unwrap() = found.clone();
        Ok((found["is_ready"] == true).then_some(found))
    });
    let ready = ready.await.unwrap_or_else(|error| panic!("{error}: {}", newest.lock().unwrap()));
    assert_eq!(ready["reasons"], json!([]));

    let client = aws_sdk_elasticache::Client::new(&aws(&two, "eu-west-1").await);
    let detach = client.disassociate_global_replication_group().global_replication_group_id("ldgnf-fairdrop");
    let detach = detach.replication_group_id("fairdrop-eu-west-1").replication_group_region("eu-west-1");
    detach.send().await.unwrap();
    let reason = "this region's Redis has left the Global Datastore";
    eventually("it could not run", A_WHILE, async || {
        let found = readiness(&two).await?;
        Ok((found["reasons"][0]["reason"] == reason).then_some(()))
    })
    .await
    .unwrap();
    let plan = two.failover(&json!({ "command": "plan", "mode": "planned" })).await.unwrap();
    assert_eq!(
        (&plan["can_begin"], &plan["not_ready"][0]["reason"]),
        (&json!(false), &json!(reason)),
        "{plan}"
    );
    let forced = two.failover(&json!({ "command": "plan", "mode": "forced" })).await.unwrap();
    assert_eq!((&forced["can_begin"], &forced["obstacle"]), (&json!(true), &Value::Null), "{forced}");

    let report = two.failover(&json!({ "command": "run", "mode": "planned" })).await.unwrap();
    let state = (&report["run"]["state"], &report["run"]["why"]);
    assert_eq!(state, (&json!("aborted"), &json!(reason)), "{report}");
    assert_eq!(report["steps"].as_array().unwrap().len(), 1, "only the precheck: {report}");
    assert!(two.lease_is_open().await.unwrap(), "main goes on selling");
}
