//! Single decisions of the plan, one for each trap that AWS and other tools have set.

use rds::Moment;
use rds::{Snapshot, State};
use serde_json::{Value, json};
use snapshot_copy::plan::{Plan, Step, plan};
use snapshot_copy::policy::Policy;
use snapshot_copy::snapshot::{Database, Quota, RegionView, World};
use std::collections::BTreeMap;

const HOUR: i64 = 3_600;
/// 2026-11-23T14:05:00Z.
const NOW: i64 = 1_795_442_700;
const THERE: &str = "eu-west-1";

fn policy(change: Value) -> Policy {
    let mut policy = json!({
        "databases": { "ids": ["ledger"] },
        "retention": { "hourly": 1 },
        "floor": 1,
        "targets": [{ "region": THERE, "kms_key_id": "alias/drops" }],
    });
    for (name, value) in change.as_object().unwrap() {
        policy[name] = value.clone();
    }
    let policy = Policy { id_prefix: "fairdrop".into(), ..serde_json::from_value(policy).unwrap() };
    policy.check("us-east-1").unwrap();
    policy
}

/// A snapshot of fairdrop's that was taken so many seconds ago, and whose id says nothing of it.
fn taken(id: &str, seconds_ago: i64) -> Snapshot {
    let at = Moment::from_unix_seconds(NOW - seconds_ago);
    Snapshot {
        id: format!("fairdrop-{id}"),
        arn: format!("arn:aws:rds:us-east-1:111122223333:snapshot:fairdrop-{id}"),
        database: "ledger".into(),
        state: State::Available,
        created: Some(at),
        made: Some(at),
        database_time: None,
        is_encrypted: true,
        is_copy: false,
        tag: Some("fairdrop".into()),
    }
}

fn copied(id: &str, seconds_ago: i64) -> Snapshot {
    Snapshot { is_copy: true, ..taken(id, seconds_ago) }
}

fn in_state(snapshot: Snapshot, state: State) -> Snapshot {
    Snapshot { state, created: None, made: None, ..snapshot }
}

fn database(id: &str) -> Database {
    Database { id: id.into(), status: "available".into(), ..Database::default() }
}

fn world(here: Vec<Snapshot>, there: Vec<Snapshot>) -> World {
    let view = |snapshots| RegionView { snapshots, quota: Some(Quota { used: 10, most: 100 }) };
    World {
        now: Moment::from_unix_seconds(NOW),
        own_region: "us-east-1".into(),
        databases: vec![database("ledger")],
        source: view(here),
        targets: BTreeMap::from([(THERE.to_owned(), Some(view(there)))]),
    }
}

/// The steps as text, without the regions' codes.
fn steps(plan: &Plan) -> Vec<String> {
    let steps = plan.actions.iter().map(|action| {
        let place = if action.region == THERE { "there" } else { "here" };
        format!("{} {} {place}", action.step.name(), action.id.trim_start_matches("fairdrop-"))
    });
    steps.collect()
}

fn notices(plan: &Plan) -> Vec<&str> {
    plan.notices.iter().map(|notice| notice.notice).collect()
}

fn due(world: &World) -> Vec<String> {
    steps(&plan(&policy(json!({})), world))
}

const SLOT: &str = "create ledger-20261123-1400 here";

#[test]
fn a_slot_is_filled_once() {
    assert_eq!(due(&world(vec![], vec![])), [SLOT]);
    let slot = || taken("ledger-20261123-1400", 60);
    assert_eq!(due(&world(vec![in_state(slot(), State::InProgress)], vec![])), [""; 0]);
    // One that failed goes first, and the next run takes it again.
    let failed = due(&world(vec![in_state(slot(), State::Failed)], vec![]));
    assert_eq!(failed, ["delete ledger-20261123-1400 here"]);
    // RDS takes one at a time of a database.
    let earlier = in_state(taken("x", 60), State::InProgress);
    assert_eq!(due(&world(vec![earlier], vec![])), [""; 0]);
}

#[test]
fn only_what_is_available_is_copied_counted_or_given_up() {
    for state in [State::InProgress, State::Failed, State::Other] {
        let world = world(
            vec![in_state(taken("new", 60), state), taken("old", 2 * HOUR)],
            vec![copied("old", 2 * HOUR)],
        );
        let plan = plan(&policy(json!({})), &world);
        let actions = steps(&plan);
        assert!(
            actions.iter().all(|step| step == SLOT || step == "delete new here"),
            "{state:?}: {actions:?}"
        );
        assert_eq!(actions.contains(&"delete new here".to_owned()), state == State::Failed, "{state:?}");
        assert_eq!(plan.recovery_points[0].age_seconds, Some(2 * HOUR), "{state:?}");
    }
}

#[test]
fn the_age_is_that_of_the_data_and_not_of_the_name_or_the_copy() {
    // Copied a minute ago, taken three hours ago, and called a year.
    let copy = Snapshot {
        made: Some(Moment::from_unix_seconds(NOW - 60)),
        ..copied("ledger-20251123-1400", 3 * HOUR)
    };
    let points = plan(&policy(json!({})), &world(vec![], vec![copy])).recovery_points;
    assert_eq!(points[1].age_seconds, Some(3 * HOUR));
    // Taken from a replica that was ten minutes behind.
    let behind = Snapshot { database_time: Some(Moment::from_unix_seconds(NOW - 660)), ..taken("a", 60) };
    assert_eq!(
        plan(&policy(json!({})), &world(vec![behind], vec![])).recovery_points[0].age_seconds,
        Some(660)
    );
}

#[test]
fn an_original_stays_while_it_is_copied_or_may_be() {
    let here = || vec![taken("new", 60), taken("old", 120)];
    // Being copied.
    let copying = in_state(copied("old", 0), State::InProgress);
    assert!(!due(&world(here(), vec![copying])).contains(&"delete old here".to_owned()));
    // Not seen to be copied; but a run that has not seen the new one may be at it.
    let before = || copied("before", 3 * HOUR);
    assert!(!due(&world(here(), vec![before()])).contains(&"delete old here".to_owned()));
    let just_now = Snapshot { made: Some(Moment::from_unix_seconds(NOW - 30)), ..copied("new", 60) };
    assert!(!due(&world(here(), vec![before(), just_now])).contains(&"delete old here".to_owned()));
    // The new one has been there for a while: no such run is left.
    let here = vec![taken("new", 1_200), taken("old", 1_260)];
    let there = Snapshot { made: Some(Moment::from_unix_seconds(NOW - 900)), ..copied("new", 1_200) };
    assert!(due(&world(here, vec![before(), there])).contains(&"delete old here".to_owned()));
}

#[test]
fn a_region_that_is_down_is_passed_over_and_nothing_it_may_need_is_lost() {
    let here = || {
        vec![
            taken("new", HOUR),
            taken("old", 30 * HOUR),
            taken("older", 40 * HOUR),
            taken("oldest", 50 * HOUR),
        ]
    };
    let mut world = world(here(), vec![]);
    world.targets.insert("ap-southeast-2".into(), None);
    let two =
        json!({ "targets": [{ "region": THERE, "kms_key_id": "alias/a" }, { "region": "ap-southeast-2" }] });
    let planned = plan(&policy(two.clone()), &world);
    assert_eq!(steps(&planned), [SLOT, "copy new there"]);
    assert_eq!(notices(&planned), ["region-unreachable"]);
    let down: Vec<bool> = planned.recovery_points.iter().map(|point| point.is_known).collect();
    assert_eq!(down, [true, false, true]);
    // Where the quota runs out, a day is all the patience there is.
    world.source.quota = Some(Quota { used: 81, most: 100 });
    let tight = steps(&plan(&policy(two), &world));
    assert!(tight.contains(&"delete oldest here".to_owned()), "{tight:?}");
}

#[test]
fn copies_come_from_originals_and_the_newest_copy_stays() {
    // A copy from the time when the other region was main is no original.
    assert_eq!(due(&world(vec![copied("earlier", 60)], vec![])), [SLOT]);
    let there =
        vec![copied("a", 5 * HOUR), copied("b", 6 * HOUR), in_state(copied("c", 0), State::InProgress)];
    assert_eq!(due(&world(vec![], there)), [SLOT, "delete b there"]);
}

#[test]
fn nothing_of_others_is_touched() {
    let foreign = [
        Snapshot { tag: None, ..taken("untagged", 90 * HOUR) },
        Snapshot { tag: Some("fairdrop-eu".into()), ..taken("eu-ledger", 90 * HOUR) },
        Snapshot { id: "kept".into(), ..taken("x", 90 * HOUR) },
        Snapshot { id: "fairdropped".into(), ..taken("x", 90 * HOUR) },
        Snapshot { database: "other".into(), ..taken("other", 90 * HOUR) },
        in_state(Snapshot { tag: None, ..taken("failed", 0) }, State::Failed),
    ];
    let world = world(foreign.to_vec(), foreign.to_vec());
    let planned = plan(&policy(json!({})), &world);
    assert_eq!(steps(&planned), [SLOT]);
    assert_eq!(planned.recovery_points[0].age_seconds, None);
    // Not even where they have the id that is wanted.
    let id = "ledger-20261123-1400";
    let mut taken_id = world.clone();
    taken_id.source.snapshots = vec![Snapshot { tag: None, ..taken(id, 60) }];
    let planned = plan(&policy(json!({})), &taken_id);
    assert_eq!((steps(&planned), notices(&planned)), (vec![], vec!["id-taken"]));
}

#[test]
fn an_encrypted_snapshot_needs_a_key_of_the_region() {
    let keyless = policy(json!({ "targets": [{ "region": THERE }] }));
    let planned = plan(&keyless, &world(vec![taken("a", 60)], vec![]));
    assert_eq!((steps(&planned), notices(&planned)), (vec![SLOT.to_owned()], vec!["key-needed"]));
    let open = Snapshot { is_encrypted: false, ..taken("a", 60) };
    assert_eq!(steps(&plan(&keyless, &world(vec![open], vec![]))), [SLOT, "copy a there"]);
    let planned = plan(&policy(json!({})), &world(vec![taken("a", 60)], vec![]));
    let key = planned.actions.iter().find_map(|action| match &action.step {
        Step::Copy { kms_key_id, .. } => kms_key_id.as_deref(),
        _ => None,
    });
    assert_eq!(key, Some("alias/drops"));
}

#[test]
fn what_cannot_be_snapshotted_is_named() {
    let mut world = world(vec![taken("a", 60)], vec![]);
    world.databases[0].status = "backing-up".into();
    assert_eq!(notices(&plan(&policy(json!({})), &world)), ["database-busy"]);
    // An instance of a cluster, and the cluster itself.
    world.databases = vec![Database { cluster: Some("shop".into()), ..database("ledger") }];
    let planned = plan(&policy(json!({})), &world);
    assert_eq!((steps(&planned), notices(&planned)), (vec![], vec!["cluster-refused"]));
    world.databases = vec![Database { cluster: Some("ledger".into()), ..database("shop-1") }];
    assert_eq!(notices(&plan(&policy(json!({})), &world)), ["cluster-refused"]);
    // By tag, and nothing has it.
    let tagged = policy(json!({ "databases": { "tag": { "key": "drops", "value": "yes" } } }));
    assert_eq!(notices(&plan(&tagged, &world)), ["no-databases"]);
    world.databases =
        vec![Database { tags: BTreeMap::from([("drops".into(), "yes".into())]), ..database("b") }];
    assert_eq!(steps(&plan(&tagged, &world)), ["create b-20261123-1400 here"]);
}

#[test]
fn where_nothing_is_taken_any_more_nothing_is_given_up() {
    // The database is gone, and its snapshots are all there is.
    let here: Vec<Snapshot> = (0..9).map(|n| taken(&format!("n{n}"), n * HOUR + 60)).collect();
    let mut world = world(here, vec![copied("n8", 8 * HOUR + 60), copied("n7", 7 * HOUR + 60)]);
    world.databases.clear();
    let planned = plan(&policy(json!({})), &world);
    assert_eq!(
        (steps(&planned), notices(&planned)),
        (vec!["copy n0 there".to_owned()], vec!["no-such-database"])
    );
    // A year later the same is kept as today: the clock alone deletes nothing.
    let keeps_a_day = policy(json!({ "retention": { "hourly": 24 } }));
    world.databases = vec![Database { status: "stopped".into(), ..database("ledger") }];
    world.now = Moment::from_unix_seconds(NOW + 365 * 24 * HOUR);
    let later = steps(&plan(&keeps_a_day, &world));
    assert!(later.iter().all(|step| step.starts_with("copy")), "{later:?}");
}

#[test]
fn a_clock_that_is_behind_does_nothing() {
    let mut world = world(vec![taken("a", 60), taken("b", 10 * HOUR)], vec![copied("a", 60)]);
    world.now = Moment::from_unix_seconds(NOW - 2 * HOUR);
    let planned = plan(&policy(json!({})), &world);
    assert_eq!((steps(&planned), notices(&planned)), (vec![], vec!["clock-off"]));
    assert_eq!(planned.recovery_points[0].age_seconds, Some(0));
}

#[test]
fn limits_hold_and_who_waited_longest_comes_first() {
    let ids = ["a", "b", "c", "d"];
    let of = |id: &str, age| Snapshot { database: id.into(), ..taken(&format!("{id}-1"), age) };
    let mut all = world(vec![of("a", 2 * HOUR), of("b", 9 * HOUR), of("d", 3 * HOUR)], vec![]);
    all.databases = ids.iter().map(|id| database(id)).collect();
    let databases = json!({ "ids": ids });
    let limited = policy(json!({ "databases": databases, "limits": { "creates": 2, "copies": 1 } }));
    let planned = plan(&limited, &all);
    let expected = ["create c-20261123-1400 here", "create b-20261123-1400 here", "copy a-1 there"];
    assert_eq!((steps(&planned), planned.deferred), (expected.map(str::to_owned).to_vec(), 2 + 2));
    // RDS lets twenty be in progress, and counts everybody's.
    let others =
        (0..19).map(|n| in_state(Snapshot { tag: None, ..copied(&format!("o{n}"), 0) }, State::InProgress));
    all.targets.insert(THERE.into(), Some(RegionView { snapshots: others.collect(), quota: None }));
    let planned = plan(&policy(json!({ "databases": databases })), &all);
    assert_eq!(steps(&planned).iter().filter(|step| step.starts_with("copy")).count(), 1);
}

#[test]
fn of_one_database_one_copy_is_under_way_unless_it_hangs() {
    let here = || vec![taken("c", 600), taken("b", HOUR), taken("a", 20 * HOUR)];
    let copying = |id, age| vec![Snapshot { state: State::InProgress, ..copied(id, age) }];
    assert!(!due(&world(here(), copying("b", HOUR))).contains(&"copy c there".to_owned()));
    assert!(due(&world(here(), copying("a", 20 * HOUR))).contains(&"copy c there".to_owned()));
}
