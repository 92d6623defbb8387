//! The commands. A new one is a file below `command/` and a line in `commands!` here; the samples in `events/` test
//! what it sends.

mod create;
mod erase;
mod exclude;
mod failover;
mod items;
mod lists;
pub(crate) mod raw;
mod recovery;
mod repair;
mod schema;
mod update;
mod void;

use crate::failure::Failure;
use crate::follow::Following;
use crate::table;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// The function that a command is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    DropAdmin,
    RegionFailover,
    ReplicaLag,
    RestoreDrill,
    SnapshotCopy,
    /// Any function, by its name without the stack's.
    Named(String),
}

impl Function {
    /// Its name without the stack's.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::DropAdmin => "drop-admin",
            Self::RegionFailover => "region-failover",
            Self::ReplicaLag => "replica-lag",
            Self::RestoreDrill => "restore-drill",
            Self::SnapshotCopy => "snapshot-copy",
            Self::Named(name) => name,
        }
    }

    /// Its timeout in `template.yaml`; Lambda's maximum for a function that this program does not know.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(match self {
            Self::DropAdmin => 300,
            Self::ReplicaLag => 90,
            Self::SnapshotCopy => 110,
            Self::RegionFailover | Self::RestoreDrill | Self::Named(_) => 900,
        })
    }
}

/// One invocation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) function: Function,
    pub(crate) payload: Value,
}

impl Call {
    /// `{"command": name, ...fields}`; a field that is `None` is left out.
    pub(crate) fn new(function: Function, name: &str, fields: &impl Serialize) -> Self {
        let mut payload = serde_json::to_value(fields).unwrap_or_default();
        if payload.is_null() {
            payload = Value::Object(serde_json::Map::default());
        }
        if let Some(object) = payload.as_object_mut() {
            object.retain(|_, value| !value.is_null());
            object.insert("command".into(), name.into());
        }
        Self { function, payload }
    }
}

/// What a command sends, and how its answer is shown.
pub(crate) trait Command {
    /// The invocation.
    fn call(&self) -> Call;

    /// What happens, if it may be impossible to undo: the operator is asked before.
    fn cannot_be_undone(&self) -> Option<String> {
        None
    }

    /// The answer for people; `page` counts from 0.
    fn show(&self, answer: &Value, _page: u32) -> String {
        table::fields(answer, &[])
    }

    /// The payload of the next page.
    fn next(&self, _answer: &Value) -> Option<Value> {
        None
    }

    /// Whether an answer is a success; each page has a verdict, and the first failure is the command's.
    fn verdict(&self, _answer: &Value) -> Result<(), Failure> {
        Ok(())
    }

    /// How to follow a run that the command begins or continues.
    fn following(&self) -> Option<Following> {
        None
    }
}

/// An enum of commands for clap, in the order in which `--help` lists them.
macro_rules! commands {
    ($(#[$about:meta])* $name:ident: $($module:ident::$command:ident),* $(,)?) => {
        $(#[$about])*
        #[derive(Debug, clap::Subcommand)]
        pub(crate) enum $name { $($command($module::$command)),* }

        impl $name {
            pub(crate) fn command(&self) -> &dyn Command {
                match self { $(Self::$command(command) => command),* }
            }
        }
    };
}

commands! {
    /// Commands of drop-admin.
    DropCommand:
        create::Create, update::Update,
        items::Describe, items::List, items::Pause, items::Resume, items::Close, items::Finish,
        items::Archive, exclude::Exclude, exclude::LimitUnpaid, void::Void, erase::Erase,
        lists::Audit, lists::Export, lists::OrderBook,
        repair::Reconcile, repair::Rebuild, repair::Replay, repair::SellWithheld, repair::Republish,
        schema::Migrate, schema::Lease, schema::LedgerRestored,
}

commands! {
    /// Commands of region-failover.
    FailoverCommand:
        failover::Plan, failover::Readiness, failover::Run, failover::Status, failover::Resume, failover::Abort,
        failover::Report, failover::Compare, failover::UseRedis, failover::WithoutLog, failover::Waive,
        failover::Drill,
}

commands! {
    /// Commands of the other recovery functions.
    RecoveryCommand:
        recovery::Replica, recovery::Snapshots, recovery::RestoreDrill,
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
