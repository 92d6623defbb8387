//! The databases under the policy, each with its snapshots, and how far back a restore of one
//! would throw its shop.

use crate::plan::Plan;
use crate::policy::Policy;
use crate::retention::Dated;
use crate::snapshot::{Database, RegionView, World};
use rds::{Moment, Snapshot, State};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// How far back one would be thrown by a restore of a database in a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecoveryPoint {
    /// The database.
    pub database: String,
    /// Where it would be restored.
    pub region: String,
    /// Whether the region answered.
    pub is_known: bool,
    /// The snapshot that would be restored, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The moment whose data it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Moment>,
    /// How long ago that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
    /// Usable snapshots of the policy's that are there.
    pub usable: usize,
    /// Those being made.
    pub in_progress: usize,
}

/// A database under the policy, with its snapshots.
pub(crate) struct Managed<'a> {
    pub(crate) id: &'a str,
    /// Nothing where a database of this id does not exist any more.
    pub(crate) database: Option<&'a Database>,
    /// Own snapshots in its own region.
    pub(crate) here: Vec<&'a Snapshot>,
    /// Own snapshots in each target region that answers.
    pub(crate) there: BTreeMap<&'a str, Vec<&'a Snapshot>>,
}

impl<'a> Managed<'a> {
    /// Originals that can be copied, the newest first.
    pub(crate) fn originals(&self) -> Vec<Dated<'a>> {
        let originals = self.here.iter().filter(|one| !one.is_copy);
        let mut originals: Vec<Dated<'_>> = originals.filter_map(|one| dated(one)).collect();
        originals.sort_unstable_by(|one, other| other.cmp(one));
        originals
    }
}

/// A usable snapshot, as retention sees it.
pub(crate) fn dated(snapshot: &Snapshot) -> Option<Dated<'_>> {
    snapshot.usable()?;
    Some(Dated { created: snapshot.created?, id: &snapshot.id })
}

/// The databases of the policy; those that cannot be managed are named in notices.
pub(crate) fn managed<'a>(policy: &'a Policy, world: &'a World, plan: &mut Plan) -> Vec<Managed<'a>> {
    let has_tag = |database: &Database| {
        policy.databases.tag.as_ref().is_some_and(|tag| database.tags.get(&tag.key) == Some(&tag.value))
    };
    let tagged =
        world.databases.iter().filter(|database| has_tag(database)).map(|database| database.id.as_str());
    let ids: BTreeSet<&str> = policy.databases.ids.iter().map(String::as_str).chain(tagged).collect();
    if ids.is_empty() {
        plan.notice("no-databases", &world.own_region, "no database has the policy's tag");
    }
    let mut managed = Vec::new();
    for id in ids {
        let database = world.databases.iter().find(|database| database.id == id);
        let member = world.databases.iter().find(|database| database.cluster.as_deref() == Some(id));
        if let Some(cluster) = database.and_then(|database| database.cluster.as_deref()) {
            plan.notice(
                "cluster-refused",
                id,
                format!("it belongs to the cluster {cluster}; cluster snapshots are another API, and are not taken"),
            );
            continue;
        }
        if member.is_some() {
            plan.notice(
                "cluster-refused",
                id,
                "it is a cluster; cluster snapshots are another API, and are not taken",
            );
            continue;
        }
        if database.is_none() {
            plan.notice(
                "no-such-database",
                id,
                "there is no such DB instance; its snapshots go on being copied, and none is deleted",
            );
        }
        let own = |view: &'a RegionView| -> Vec<&'a Snapshot> {
            view.snapshots.iter().filter(|one| one.database == id && one.is_own(&policy.id_prefix)).collect()
        };
        let there = world.targets.iter();
        let there = there.filter_map(|(region, view)| Some((region.as_str(), own(view.as_ref()?)))).collect();
        managed.push(Managed { id, database, here: own(&world.source), there });
    }
    managed
}

/// Of each database in each region.
pub(crate) fn recovery_points(world: &World, managed: &[Managed<'_>]) -> Vec<RecoveryPoint> {
    let point = |database: &str, region: &str, own: Option<&Vec<&Snapshot>>| {
        let snapshots = own.map(Vec::as_slice).unwrap_or_default();
        let newest = snapshots.iter().filter_map(|one| Some((one.usable()?, &one.id))).max();
        RecoveryPoint {
            database: database.to_owned(),
            region: region.to_owned(),
            is_known: own.is_some(),
            id: newest.map(|(_, id)| id.clone()),
            at: newest.map(|(at, _)| at),
            age_seconds: newest.map(|(at, _)| world.now.seconds_since(at).max(0)),
            usable: snapshots.iter().filter(|one| one.usable().is_some()).count(),
            in_progress: snapshots.iter().filter(|one| one.state == State::InProgress).count(),
        }
    };
    let of = |one: &Managed<'_>| -> Vec<RecoveryPoint> {
        let here = point(one.id, &world.own_region, Some(&one.here));
        let there = world.targets.keys().map(|region| point(one.id, region, one.there.get(region.as_str())));
        std::iter::once(here).chain(there).collect()
    };
    managed.iter().flat_map(of).collect()
}
