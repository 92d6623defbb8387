//! Single decisions of the plan, one for each pitfall of RDS and of other tools.

use rds::{Snapshot, SnapshotState, Timestamp};
use serde_json::{Value, json};
use snapshot_copy::action::ActionKind;
use snapshot_copy::plan::{SnapshotPlan, plan};
use snapshot_copy::policy::Policy;
use snapshot_copy::snapshot::{Database, Inventory, RegionInventory, SnapshotQuota};
use std::collections::BTreeMap;

const HOUR: i64 = 3_600;
/// 2026-11-23T14:05:00Z.
const NOW: i64 = 1_795_442_700;
const TARGET: &str = "eu-west-1";

fn policy(change: Value) -> Policy {
    let mut policy = json!({
        "databases": { "ids": ["ledger"] },
        "retention": { "hourly": 1 },
        "floor": 1,
        "targets": [{ "region": TARGET, "kms_key_id": "alias/drops" }],
    });
    for (name, value) in change.as_object().unwrap() {
        policy[name] = value.clone();
    }
    let policy = Policy { id_prefix: "fairdrop".into(), ..serde_json::from_value(policy).unwrap() };
    policy.check("us-east-1").unwrap();
    policy
}

/// A snapshot that fairdrop took `seconds_ago`. Its identifier does not contain the time.
fn taken(id: &str, seconds_ago: i64) -> Snapshot {
    let at = Timestamp::from_unix_seconds(NOW - seconds_ago);
    Snapshot {
        id: format!("fairdrop-{id}"),
        arn: format!("arn:aws:rds:us-east-1:111122223333:snapshot:fairdrop-{id}"),
        database: "ledger".into(),
        state: SnapshotState::Available,
        taken_at: Some(at),
        created_at: Some(at),
        database_time: None,
        is_encrypted: true,
        is_copy: false,
        tag: Some("fairdrop".into()),
        last_drill: None,
    }
}

fn copied(id: &str, seconds_ago: i64) -> Snapshot {
    Snapshot { is_copy: true, ..taken(id, seconds_ago) }
}

fn in_state(snapshot: Snapshot, state: SnapshotState) -> Snapshot {
    Snapshot { state, taken_at: None, created_at: None, ..snapshot }
}

fn database(id: &str) -> Database {
    Database { id: id.into(), status: "available".into(), ..Database::default() }
}

fn inventory(originals: Vec<Snapshot>, copies: Vec<Snapshot>) -> Inventory {
    let view = |snapshots| RegionInventory { snapshots, quota: Some(SnapshotQuota { used: 10, max: 100 }) };
    Inventory {
        now: Timestamp::from_unix_seconds(NOW),
        source_region: "us-east-1".into(),
        databases: vec![database("ledger")],
        source: view(originals),
        targets: BTreeMap::from([(TARGET.to_owned(), Some(view(copies)))]),
    }
}

/// The steps as text, without the regions' codes.
fn steps(plan: &SnapshotPlan) -> Vec<String> {
    let steps = plan.actions.iter().map(|action| {
        let place = if action.region == TARGET { "in-target" } else { "in-source" };
        format!("{} {} {place}", action.kind.name(), action.id.trim_start_matches("fairdrop-"))
    });
    steps.collect()
}

fn notices(plan: &SnapshotPlan) -> Vec<&str> {
    plan.notices.iter().map(|notice| notice.notice).collect()
}

fn due(inventory: &Inventory) -> Vec<String> {
    steps(&plan(&policy(json!({})), inventory))
}

const SLOT: &str = "create ledger-20261123-1400 in-source";

#[test]
fn a_slot_is_filled_once() {
    assert_eq!(due(&inventory(vec![], vec![])), [SLOT]);
    let slot = || taken("ledger-20261123-1400", 60);
    assert_eq!(due(&inventory(vec![in_state(slot(), SnapshotState::InProgress)], vec![])), [""; 0]);
    // A failed snapshot is deleted first, and the next run takes it again.
    let failed = due(&inventory(vec![in_state(slot(), SnapshotState::Failed)], vec![]));
    assert_eq!(failed, ["delete ledger-20261123-1400 in-source"]);
    // RDS takes one at a time of a database.
    let earlier = in_state(taken("x", 60), SnapshotState::InProgress);
    assert_eq!(due(&inventory(vec![earlier], vec![])), [""; 0]);
}

#[test]
fn only_available_snapshots_are_copied_counted_or_deleted() {
    for state in [SnapshotState::InProgress, SnapshotState::Failed, SnapshotState::Other] {
        let inventory = inventory(
            vec![in_state(taken("new", 60), state), taken("old", 2 * HOUR)],
            vec![copied("old", 2 * HOUR)],
        );
        let plan = plan(&policy(json!({})), &inventory);
        let actions = steps(&plan);
        assert!(
            actions.iter().all(|step| step == SLOT || step == "delete new in-source"),
            "{state:?}: {actions:?}"
        );
        assert_eq!(
            actions.contains(&"delete new in-source".to_owned()),
            state == SnapshotState::Failed,
            "{state:?}"
        );
        assert_eq!(plan.recovery_points[0].age_seconds, Some(2 * HOUR), "{state:?}");
    }
}

#[test]
fn the_age_is_that_of_the_data_not_of_the_name_or_the_copy() {
    // Copied a minute ago, taken three hours ago, with a name from a year ago.
    let copy = Snapshot {
        created_at: Some(Timestamp::from_unix_seconds(NOW - 60)),
        ..copied("ledger-20251123-1400", 3 * HOUR)
    };
    let points = plan(&policy(json!({})), &inventory(vec![], vec![copy])).recovery_points;
    assert_eq!(points[1].age_seconds, Some(3 * HOUR));
    // Taken from a replica that lagged by ten minutes.
    let behind = Snapshot { database_time: Some(Timestamp::from_unix_seconds(NOW - 660)), ..taken("a", 60) };
    assert_eq!(
        plan(&policy(json!({})), &inventory(vec![behind], vec![])).recovery_points[0].age_seconds,
        Some(660)
    );
}

#[test]
fn an_original_stays_while_it_is_or_may_be_copied() {
    let originals = || vec![taken("new", 60), taken("old", 120)];
    // Being copied.
    let copying = in_state(copied("old", 0), SnapshotState::InProgress);
    assert!(!due(&inventory(originals(), vec![copying])).contains(&"delete old in-source".to_owned()));
    // No copy is listed, but a concurrent run that has not listed the new original may be copying the old one.
    let before = || copied("before", 3 * HOUR);
    assert!(!due(&inventory(originals(), vec![before()])).contains(&"delete old in-source".to_owned()));
    let just_now = Snapshot { created_at: Some(Timestamp::from_unix_seconds(NOW - 30)), ..copied("new", 60) };
    assert!(
        !due(&inventory(originals(), vec![before(), just_now])).contains(&"delete old in-source".to_owned())
    );
    // The new copy is old enough: no such run exists any more.
    let originals = vec![taken("new", 1_200), taken("old", 1_260)];
    let copies =
        Snapshot { created_at: Some(Timestamp::from_unix_seconds(NOW - 900)), ..copied("new", 1_200) };
    assert!(due(&inventory(originals, vec![before(), copies])).contains(&"delete old in-source".to_owned()));
}

#[test]
fn a_region_that_is_down_is_skipped_and_the_originals_it_may_need_stay() {
    let originals = || {
        vec![
            taken("new", HOUR),
            taken("old", 30 * HOUR),
            taken("older", 40 * HOUR),
            taken("oldest", 50 * HOUR),
        ]
    };
    let mut inventory = inventory(originals(), vec![]);
    inventory.targets.insert("ap-southeast-2".into(), None);
    let two =
        json!({ "targets": [{ "region": TARGET, "kms_key_id": "alias/a" }, { "region": "ap-southeast-2" }] });
    let planned = plan(&policy(two.clone()), &inventory);
    assert_eq!(steps(&planned), [SLOT, "copy new in-target"]);
    assert_eq!(notices(&planned), ["region-unreachable"]);
    let down: Vec<bool> = planned.recovery_points.iter().map(|point| point.is_known).collect();
    assert_eq!(down, [true, false, true]);
    // If the quota runs out, originals stay for a day only.
    inventory.source.quota = Some(SnapshotQuota { used: 81, max: 100 });
    let tight = steps(&plan(&policy(two), &inventory));
    assert!(tight.contains(&"delete oldest in-source".to_owned()), "{tight:?}");
}

#[test]
fn copies_come_from_originals_and_the_newest_copy_stays() {
    // A copy from the time when the other region was main is no original.
    assert_eq!(due(&inventory(vec![copied("earlier", 60)], vec![])), [SLOT]);
    let copies = vec![
        copied("a", 5 * HOUR),
        copied("b", 6 * HOUR),
        in_state(copied("c", 0), SnapshotState::InProgress),
    ];
    assert_eq!(due(&inventory(vec![], copies)), [SLOT, "delete b in-target"]);
}

#[test]
fn snapshots_that_fairdrop_did_not_make_are_not_changed() {
    let foreign = [
        Snapshot { tag: None, ..taken("untagged", 90 * HOUR) },
        Snapshot { tag: Some("fairdrop-eu".into()), ..taken("eu-ledger", 90 * HOUR) },
        Snapshot { id: "kept".into(), ..taken("x", 90 * HOUR) },
        Snapshot { id: "fairdropped".into(), ..taken("x", 90 * HOUR) },
        Snapshot { database: "other".into(), ..taken("other", 90 * HOUR) },
        in_state(Snapshot { tag: None, ..taken("failed", 0) }, SnapshotState::Failed),
    ];
    let inventory = inventory(foreign.to_vec(), foreign.to_vec());
    let planned = plan(&policy(json!({})), &inventory);
    assert_eq!(steps(&planned), [SLOT]);
    assert_eq!(planned.recovery_points[0].age_seconds, None);
    // Not even if one has the identifier of the slot.
    let id = "ledger-20261123-1400";
    let mut taken_id = inventory.clone();
    taken_id.source.snapshots = vec![Snapshot { tag: None, ..taken(id, 60) }];
    let planned = plan(&policy(json!({})), &taken_id);
    assert_eq!((steps(&planned), notices(&planned)), (vec![], vec!["id-taken"]));
}

#[test]
fn originals_of_another_instance_with_the_same_identifier_are_no_copies() {
    // The target was main once, and its instance had the same identifier.
    let there = vec![taken("old", 90 * HOUR), taken("older", 99 * HOUR)];
    let planned = plan(&policy(json!({})), &inventory(vec![taken("a", 60)], there));
    assert_eq!(steps(&planned), [SLOT, "copy a in-target"]);
    let copies = planned.recovery_points.iter().find(|point| point.region == TARGET);
    assert_eq!(copies.map(|point| point.usable), Some(0));
    let same_slot = plan(&policy(json!({})), &inventory(vec![taken("a", 60)], vec![taken("a", 60)]));
    assert_eq!((steps(&same_slot), notices(&same_slot)), (vec![SLOT.to_owned()], vec!["id-taken"]));
}

#[test]
fn an_encrypted_snapshot_needs_a_key_of_the_region() {
    let keyless = policy(json!({ "targets": [{ "region": TARGET }] }));
    let planned = plan(&keyless, &inventory(vec![taken("a", 60)], vec![]));
    assert_eq!((steps(&planned), notices(&planned)), (vec![SLOT.to_owned()], vec!["key-needed"]));
    let open = Snapshot { is_encrypted: false, ..taken("a", 60) };
    assert_eq!(steps(&plan(&keyless, &inventory(vec![open], vec![]))), [SLOT, "copy a in-target"]);
    let planned = plan(&policy(json!({})), &inventory(vec![taken("a", 60)], vec![]));
    let key = planned.actions.iter().find_map(|action| match &action.kind {
        ActionKind::Copy { kms_key_id, .. } => kms_key_id.as_deref(),
        _ => None,
    });
    assert_eq!(key, Some("alias/drops"));
}

#[test]
fn a_database_that_cannot_be_snapshotted_gets_a_notice() {
    let mut inventory = inventory(vec![taken("a", 60)], vec![]);
    // RDS decides in which states it takes a snapshot.
    for (status, expected) in [("storage-optimization", vec![]), ("backing-up", vec!["database-busy"])] {
        inventory.databases[0].status = status.into();
        let planned = plan(&policy(json!({})), &inventory);
        assert!(steps(&planned).contains(&SLOT.to_owned()), "{status}");
        assert_eq!(notices(&planned), expected);
    }
    // An instance of a cluster, and the cluster itself.
    inventory.databases = vec![Database { cluster: Some("shop".into()), ..database("ledger") }];
    let planned = plan(&policy(json!({})), &inventory);
    assert_eq!((steps(&planned), notices(&planned)), (vec![], vec!["cluster-refused"]));
    inventory.databases = vec![Database { cluster: Some("ledger".into()), ..database("shop-1") }];
    assert_eq!(notices(&plan(&policy(json!({})), &inventory)), ["cluster-refused"]);
    // By tag, and no DB instance has it.
    let tagged = policy(json!({ "databases": { "tag": { "key": "drops", "value": "yes" } } }));
    assert_eq!(notices(&plan(&tagged, &inventory)), ["no-databases"]);
    inventory.databases =
        vec![Database { tags: BTreeMap::from([("drops".into(), "yes".into())]), ..database("b") }];
    assert_eq!(steps(&plan(&tagged, &inventory)), ["create b-20261123-1400 in-source"]);
}

#[test]
fn if_no_snapshots_are_taken_any_more_none_are_deleted() {
    // The database is deleted, and only its snapshots exist.
    let originals: Vec<Snapshot> = (0..9).map(|n| taken(&format!("n{n}"), n * HOUR + 60)).collect();
    let mut inventory = inventory(originals, vec![copied("n8", 8 * HOUR + 60), copied("n7", 7 * HOUR + 60)]);
    inventory.databases.clear();
    let planned = plan(&policy(json!({})), &inventory);
    assert_eq!(
        (steps(&planned), notices(&planned)),
        (vec!["copy n0 in-target".to_owned()], vec!["no-such-database"])
    );
    // A year later the same snapshots are kept: the clock alone deletes nothing.
    let keeps_a_day = policy(json!({ "retention": { "hourly": 24 } }));
    inventory.databases = vec![Database { status: "stopped".into(), ..database("ledger") }];
    inventory.now = Timestamp::from_unix_seconds(NOW + 365 * 24 * HOUR);
    let later = steps(&plan(&keeps_a_day, &inventory));
    assert!(!later.iter().any(|step| step.starts_with("delete")), "{later:?}");
}

#[test]
fn a_clock_that_is_behind_stops_all_actions() {
    let mut inventory = inventory(vec![taken("a", 60), taken("b", 10 * HOUR)], vec![copied("a", 60)]);
    inventory.now = Timestamp::from_unix_seconds(NOW - 2 * HOUR);
    let planned = plan(&policy(json!({})), &inventory);
    assert_eq!((steps(&planned), notices(&planned)), (vec![], vec!["clock-off"]));
    assert_eq!(planned.recovery_points[0].age_seconds, Some(0));
}

#[test]
fn limits_hold_and_the_oldest_recovery_point_comes_first() {
    let ids = ["a", "b", "c", "d"];
    let of = |id: &str, age| Snapshot { database: id.into(), ..taken(&format!("{id}-1"), age) };
    let mut all = inventory(vec![of("a", 2 * HOUR), of("b", 9 * HOUR), of("d", 3 * HOUR)], vec![]);
    all.databases = ids.iter().map(|id| database(id)).collect();
    let databases = json!({ "ids": ids });
    let limited = policy(json!({ "databases": databases, "limits": { "creates": 2, "copies": 1 } }));
    let planned = plan(&limited, &all);
    let expected =
        ["create c-20261123-1400 in-source", "create b-20261123-1400 in-source", "copy a-1 in-target"];
    assert_eq!((steps(&planned), planned.deferred), (expected.map(str::to_owned).to_vec(), 2 + 2));
    // RDS allows 20 copies in progress and counts all copies of the account.
    let others = (0..19)
        .map(|n| in_state(Snapshot { tag: None, ..copied(&format!("o{n}"), 0) }, SnapshotState::InProgress));
    all.targets.insert(TARGET.into(), Some(RegionInventory { snapshots: others.collect(), quota: None }));
    let planned = plan(&policy(json!({ "databases": databases })), &all);
    assert_eq!(steps(&planned).iter().filter(|step| step.starts_with("copy")).count(), 1);
}

#[test]
fn one_copy_of_a_database_is_in_progress_unless_it_is_stuck() {
    let originals = || vec![taken("c", 600), taken("b", HOUR), taken("a", 20 * HOUR)];
    let copying = |id, age| vec![Snapshot { state: SnapshotState::InProgress, ..copied(id, age) }];
    assert!(!due(&inventory(originals(), copying("b", HOUR))).contains(&"copy c in-target".to_owned()));
    assert!(due(&inventory(originals(), copying("a", 20 * HOUR))).contains(&"copy c in-target".to_owned()));
}
