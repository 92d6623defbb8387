//! Why a command was not carried out, and what its invocation is told.

use crate::{FailoverStep, Obstacle, command};
use lambda_runtime::Diagnostic;
use versioned::StoreError;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// One at a time.
    #[error(
        "the failover {0} is under way: `status` says where it stands, `resume` goes on with it, `abort` gives it up"
    )]
    AlreadyActive(String),
    /// There is nothing to go on with.
    #[error("no failover is under way; `plan` says what one would do")]
    NoActiveRun,
    /// There is none.
    #[error("there is no failover {0}")]
    NoSuchRun(String),
    /// Something has been moved.
    #[error("it is at {0:?}, past the point of no return: only `resume` leads out")]
    PastNoReturn(FailoverStep),
    /// Each region carries out its own alone: here everything would be pointed the wrong way.
    #[error("the newest failover moved main to {0}: ask there")]
    Elsewhere(String),
    /// The new main does not sell yet.
    #[error("it is at {0:?}: the old main can be compared once the new one sells")]
    NotSellingYet(FailoverStep),
    /// It is done, or was never begun.
    #[error("{0:?} is not outstanding: see `status`")]
    NotOutstanding(FailoverStep),
    /// This region is main already.
    #[error("{0} is main already")]
    IsMain(String),
    /// Runs cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that was asked did not answer.
    #[error("{}", .0.0)]
    Obstacle(Obstacle),
    /// The lease cannot be read.
    #[error(transparent)]
    Lease(#[from] lease::LeaseTableError),
    /// How it is to begin makes no sense.
    #[error(transparent)]
    Bad(#[from] command::InvalidCommandError),
    /// A ledger did not answer.
    #[error("a ledger does not answer: {0}; is the old main still fenced?")]
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
            FailoverError::IsMain(_) => "IsMain",
            FailoverError::Store(_) => "StoreUnavailable",
            FailoverError::Obstacle(_) => "NoAnswer",
            FailoverError::Lease(_) => "LeaseUnavailable",
            FailoverError::Bad(_) => "InvalidCommand",
            FailoverError::Ledger(_) => "LedgerUnavailable",
        };
        Diagnostic { error_type: error_type.into(), error_message: error.to_string() }
    }
}
