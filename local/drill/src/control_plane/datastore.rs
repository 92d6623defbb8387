//! ElastiCache's Global Datastore over real Redis servers: a primary, and its replica in another region.

use super::api_error::ApiError;
use super::{Draws, Reachability, RegionReachability, locked};
use anyhow::{Context, Result};
use local::system::redis_server::Redis;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long a failover takes in addition to the servers' own time.
const MOVE_TAKES: Duration = Duration::from_millis(1_200);
/// How long a failover waits for a reachable old primary to stop accepting writes.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// After this time a failover that hangs is given up, and the datastore is available as before.
const GIVES_UP: Duration = Duration::from_secs(2);
/// Pause between two tries to reach a server.
const PAUSE: Duration = Duration::from_millis(100);

/// A replication group of the datastore.
#[derive(Clone, Debug)]
pub struct Member {
    /// The replication group's id.
    pub group: String,
    /// Its region.
    pub region: String,
    /// Its primary node.
    pub server: Arc<tokio::sync::Mutex<Redis>>,
    /// The ports through which the other regions reach it, by region.
    pub ports: BTreeMap<String, u16>,
}

/// The datastore.
#[derive(Debug)]
pub struct GlobalDatastore {
    /// Its id.
    pub id: String,
    members: Vec<Member>,
    reachability: RegionReachability,
    draws: Draws,
    /// Whether a member that has left is still described as a secondary.
    lingers: bool,
    state: Mutex<DatastoreState>,
}

#[derive(Debug)]
struct DatastoreState {
    status: &'static str,
    /// Counts the changes: one that is overtaken by another ends nothing.
    change: u64,
    /// Index of the primary.
    primary: usize,
    /// Whether a failover is in progress.
    is_moving: bool,
    /// Members that were disassociated.
    alone: Vec<usize>,
    hangs: bool,
    /// The task that makes the old primary a replica when it is reachable.
    following: Option<JoinHandle<()>>,
}

impl Drop for GlobalDatastore {
    fn drop(&mut self) {
        if let Some(following) = locked(&self.state).following.take() {
            following.abort();
        }
    }
}

/// The role of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberRole {
    Primary,
    Secondary,
    /// It has left the datastore.
    Alone,
}

impl GlobalDatastore {
    /// A datastore whose first member is the primary of the others.
    pub fn new(id: &str, members: Vec<Member>, reachability: RegionReachability, draws: Draws) -> Self {
        let state = DatastoreState {
            status: "available",
            change: 0,
            primary: 0,
            is_moving: false,
            alone: Vec::new(),
            hangs: false,
            following: None,
        };
        let lingers = draws.chance(0.5);
        Self { id: id.to_owned(), members, reachability, draws, lingers, state: Mutex::new(state) }
    }

    /// An operator's change keeps the datastore `modifying` for a while.
    pub fn modify(self: &Arc<Self>, takes: Duration) {
        let change = self.begin(&mut locked(&self.state));
        let all = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            all.end(change, "available");
        });
    }

    /// Begins a change, and returns its number.
    fn begin(&self, state: &mut DatastoreState) -> u64 {
        (state.status, state.change) = ("modifying", state.change + 1);
        state.change
    }

    /// Ends a change, unless another has begun since.
    fn end(&self, change: u64, status: &'static str) {
        let mut state = locked(&self.state);
        if state.change == change {
            state.status = status;
        }
    }

    /// The role in the group's own description, if it has one.
    pub(super) fn described_role(&self, role: MemberRole) -> Option<MemberRole> {
        match role {
            MemberRole::Alone => self.lingers.then_some(MemberRole::Secondary),
            role => Some(role),
        }
    }

    /// Sets whether failovers hang while the old primary is unreachable.
    pub fn hang(&self, hangs: bool) {
        locked(&self.state).hangs = hangs;
    }

    /// The region whose Redis is the primary.
    pub fn primary_region(&self) -> Option<&str> {
        let primary = locked(&self.state).primary;
        self.members.get(primary).map(|member| member.region.as_str())
    }

    pub(super) fn status(&self) -> &'static str {
        locked(&self.state).status
    }

    pub(super) fn members(&self) -> Vec<(&Member, MemberRole)> {
        let state = locked(&self.state);
        let role = |index: usize| match () {
            () if state.alone.contains(&index) => MemberRole::Alone,
            () if state.primary == index => MemberRole::Primary,
            () => MemberRole::Secondary,
        };
        self.members.iter().enumerate().map(|(index, member)| (member, role(index))).collect()
    }

    /// Makes a secondary the primary. The old primary becomes its replica as soon as it is reachable.
    pub(super) fn fail_over(self: &Arc<Self>, region: &str, group: &str) -> Result<(), ApiError> {
        let (to, role) = self.named(region, group)?;
        let mut state = locked(&self.state);
        // The guide allows it at any time, the service model refuses it unless the datastore is available.
        let is_allowed = state.status == "modifying" && !state.is_moving && self.draws.chance(0.3);
        if !is_allowed {
            self.must_be_available(&state)?;
        }
        if role != MemberRole::Secondary {
            let why = format!("{group} in {region} is not a secondary of {}", self.id);
            return Err(ApiError::new(400, "InvalidParameterValue", why));
        }
        let from = state.primary;
        state.is_moving = true;
        let change = self.begin(&mut state);
        let all = self.clone();
        tokio::spawn(async move {
            all.clone().move_primary(from, to).await;
            locked(&all.state).is_moving = false;
            all.end(change, "available");
        });
        Ok(())
    }

    async fn move_primary(self: Arc<Self>, from: usize, to: usize) {
        let (Some(old), Some(new)) = (self.members.get(from), self.members.get(to)) else { return };
        tokio::time::sleep(MOVE_TAKES).await;
        let began = tokio::time::Instant::now();
        while locked(&self.state).hangs && !self.is_up(old) {
            if began.elapsed() > GIVES_UP {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if locked(&self.state).alone.contains(&to) {
            return;
        }
        promote(new).await;
        let following = self.clone();
        let (old, new) = (old.clone(), new.clone());
        let waits_for_old = self.is_up(&old);
        let follows = tokio::spawn(async move {
            loop {
                if following.is_up(&old)
                    && old.server.lock().await.follow(new.ports.get(&old.region).copied()).await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        locked(&self.state).primary = to;
        if waits_for_old {
            let started = tokio::time::Instant::now();
            while !follows.is_finished() && started.elapsed() < STOP_LIMIT {
                tokio::time::sleep(PAUSE).await;
            }
        }
        locked(&self.state).following = Some(follows);
    }

    /// Removes a secondary from the datastore, as the last resort if a failover hangs. It accepts
    /// writes then, and has no replica in another region.
    pub(super) fn disassociate(self: &Arc<Self>, region: &str, group: &str) -> Result<(), ApiError> {
        let (index, role) = self.named(region, group)?;
        let mut state = locked(&self.state);
        self.must_be_available(&state)?;
        if role != MemberRole::Secondary {
            let why = format!("{group} in {region} is not a secondary of {}", self.id);
            return Err(ApiError::new(400, "InvalidParameterValue", why));
        }
        state.alone.push(index);
        let change = self.begin(&mut state);
        let all = self.clone();
        tokio::spawn(async move {
            if let Some(member) = all.members.get(index) {
                promote(member).await;
            }
            all.end(change, "primary-only");
        });
        Ok(())
    }

    /// What an operator does after the last resort: deletes the datastore and creates it again, with the disassociated
    /// member as the primary and a new member in place of the other. Does nothing if no member was disassociated.
    pub async fn recreate(&self) -> Result<()> {
        let Some(primary) = locked(&self.state).alone.first().copied() else { return Ok(()) };
        let new =
            self.members.get(primary).with_context(|| format!("{} has no member {primary}", self.id))?;
        for (index, member) in self.members.iter().enumerate() {
            if index != primary {
                member.server.lock().await.follow(new.ports.get(&member.region).copied()).await?;
            }
        }
        let mut state = locked(&self.state);
        (state.status, state.primary, state.hangs) = ("available", primary, false);
        state.alone.clear();
        state.following = None;
        Ok(())
    }

    fn named(&self, region: &str, group: &str) -> Result<(usize, MemberRole), ApiError> {
        let members = self.members().into_iter().enumerate();
        let mut found = members.filter(|(_, (member, _))| member.region == region && member.group == group);
        let why = || format!("{group} in {region} is not a member of {}", self.id);
        let (index, (_, role)) =
            found.next().ok_or_else(|| ApiError::new(400, "InvalidParameterValue", why()))?;
        Ok((index, role))
    }

    fn must_be_available(&self, state: &DatastoreState) -> Result<(), ApiError> {
        let why = || format!("Global Replication Group {} is not available: it is {}", self.id, state.status);
        match state.status {
            "available" => Ok(()),
            _ => Err(ApiError::new(400, "InvalidGlobalReplicationGroupState", why())),
        }
    }

    fn is_up(&self, member: &Member) -> bool {
        *self.reachability.watch(&member.region).borrow() == Reachability::Up
    }
}

async fn promote(member: &Member) {
    while let Err(error) = member.server.lock().await.follow(None).await {
        eprintln!("could not make {} a primary, trying again: {error:#}", member.group);
        tokio::time::sleep(PAUSE).await;
    }
}
