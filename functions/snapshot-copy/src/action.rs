//! What a plan consists of: actions, and notices for the operator.

use serde::Serialize;
use std::collections::BTreeSet;

/// An action that is due, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotAction {
    #[serde(flatten)]
    pub kind: ActionKind,
    pub region: String,
    /// Identifier of the DB instance.
    pub database: String,
    /// Identifier of the snapshot.
    pub id: String,
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum ActionKind {
    Create,
    /// Copy an original to the action's region.
    Copy {
        source_arn: String,
        /// The key of the action's region that encrypts the copy.
        #[serde(skip_serializing_if = "Option::is_none")]
        kms_key_id: Option<String>,
    },
    Delete,
}

impl ActionKind {
    /// Its name in the report and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Copy { .. } => "copy",
            Self::Delete => "delete",
        }
    }
}

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SnapshotNotice {
    /// A stable name, listed in the runbook.
    pub notice: &'static str,
    /// The database, the snapshot or the region.
    pub subject: String,
    pub text: String,
}

impl SnapshotNotice {
    pub(crate) fn new(notice: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { notice, subject: subject.into(), text: text.into() }
    }
}

/// One part of a plan.
#[derive(Debug, Default)]
pub(crate) struct DueActions {
    pub(crate) actions: Vec<SnapshotAction>,
    /// Actions that a limit leaves to the next run.
    pub(crate) deferred: usize,
    pub(crate) notices: BTreeSet<SnapshotNotice>,
}

impl DueActions {
    /// Takes the first `limit` of `actions` and defers the others.
    pub(crate) fn limited(
        actions: impl ExactSizeIterator<Item = SnapshotAction>,
        limit: usize,
        notices: BTreeSet<SnapshotNotice>,
    ) -> Self {
        let deferred = actions.len().saturating_sub(limit);
        Self { actions: actions.take(limit).collect(), deferred, notices }
    }
}
