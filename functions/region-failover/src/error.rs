//! Why a command failed, and what its invocation returns.

use crate::command::InvalidCommandError;
use crate::observation::Obstacle;
use crate::steps::FailoverStep;
use lambda_runtime::Diagnostic;
use versioned::StoreError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    #[error("the run {0} is active: `status` shows it, `resume` goes on with it, `abort` aborts it")]
    AlreadyActive(String),
    #[error("no run is active; `plan` shows what a failover would do")]
    NoActiveRun,
    #[error("there is no run {0}")]
    NoSuchRun(String),
    /// Redis has been moved.
    #[error("the run is at the step {0:?}, past the point of no return: it cannot be aborted, only resumed")]
    PastNoReturn(FailoverStep),
    /// Each region executes its own runs only: this region's configuration would repoint functions wrongly.
    #[error("the newest failover moved main to {0}: send the command to region-failover in {0}")]
    Elsewhere(String),
    /// The new main does not sell yet.
    #[error("the run is at the step {0:?}: `compare` is possible once the new main sells")]
    NotSellingYet(FailoverStep),
    /// It is done, or was never begun.
    #[error("the step {0:?} is not outstanding: `status` lists the outstanding steps")]
    NotOutstanding(FailoverStep),
    #[error(
        "the run is at the step {0:?}: another Redis can be named from the step MoveRedis on, before the step OpenSales \
         begins; later sales may be open: let the run end, and replace the new main's Redis as \
         docs/runbook/failover.md says"
    )]
    NotAtMoveRedis(FailoverStep),
    #[error("no order log of {0} is configured: FAIRDROP_ORDER_LOGS lists the regions that have one")]
    NoSuchLog(String),
    #[error(
        "the run is at the step {0:?}: an order log can be left out until the step Replay is done; afterwards drop-admin replays it"
    )]
    NotBeforeReplay(FailoverStep),
    #[error("{0} is main already")]
    IsMain(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}", .0.0)]
    Obstacle(Obstacle),
    #[error(transparent)]
    Lease(#[from] lease::LeaseTableError),
    #[error(transparent)]
    Invalid(#[from] InvalidCommandError),
    #[error("could not read a ledger: {0}; is the old main still fenced?")]
    Ledger(#[from] ledger::LedgerError),
}

impl From<Obstacle> for FailoverError {
    fn from(obstacle: Obstacle) -> Self {
        Self::Obstacle(obstacle)
    }
}

impl From<FailoverError> for Diagnostic {
    fn from(error: FailoverError) -> Self {
        let error_type = match &error {
            FailoverError::AlreadyActive(_) => "AlreadyActive",
            FailoverError::NoActiveRun => "NoActiveRun",
            FailoverError::NoSuchRun(_) => "NoSuchRun",
            FailoverError::PastNoReturn(_) => "PastNoReturn",
            FailoverError::Elsewhere(_) => "Elsewhere",
            FailoverError::NotSellingYet(_) => "NotSellingYet",
            FailoverError::NotOutstanding(_) => "NotOutstanding",
            FailoverError::NotAtMoveRedis(_) => "NotAtMoveRedis",
            FailoverError::NoSuchLog(_) => "NoSuchLog",
            FailoverError::NotBeforeReplay(_) => "NotBeforeReplay",
            FailoverError::IsMain(_) => "IsMain",
            FailoverError::Store(_) => "StoreUnavailable",
            FailoverError::Obstacle(_) => "NoAnswer",
            FailoverError::Lease(_) => "LeaseUnavailable",
            FailoverError::Invalid(_) => "InvalidCommand",
            FailoverError::Ledger(_) => "LedgerUnavailable",
        };
        Diagnostic { error_type: error_type.into(), error_message: error.to_string() }
    }
}
