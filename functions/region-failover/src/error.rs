//! Why a command was not carried out, and what its invocation is told.

use crate::{Step, Trouble, command};
use lambda_runtime::Diagnostic;
use versioned::StoreError;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// One at a time.
    #[error(
        "the failover {0} is under way: `status` says where it stands, `resume` goes on with it, `abort` gives it up"
    )]
    UnderWay(String),
    /// There is nothing to go on with.
    #[error("no failover is under way; `plan` says what one would do")]
    NothingUnderWay,
    /// There is none.
    #[error("there is no failover {0}")]
    NoSuchRun(String),
    /// Something has been moved.
    #[error("it is at {0:?}, past the point of no return: only `resume` leads out")]
    NoWayBack(Step),
    /// Each region carries out its own alone: here everything would be pointed the wrong way.
    #[error("the newest failover moved main to {0}: ask there")]
    Elsewhere(String),
    /// The new main does not sell yet.
    #[error("it is at {0:?}: the old main can be compared once the new one sells")]
    NotOver(Step),
    /// It is done, or was never begun.
    #[error("{0:?} is not outstanding: see `status`")]
    NotOutstanding(Step),
    /// This region is main already.
    #[error("{0} is main already")]
    IsMain(String),
    /// Runs cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that was asked did not answer.
    #[error("{}", .0.0)]
    Trouble(Trouble),
    /// The lease cannot be read.
    #[error(transparent)]
    Lease(#[from] lease::TableError),
    /// How it is to begin makes no sense.
    #[error(transparent)]
    Bad(#[from] command::BadCommand),
    /// A ledger did not answer.
    #[error("a ledger does not answer: {0}; is the old main still fenced?")]
    Ledger(#[from] ledger::LedgerError),
}

impl From<Trouble> for CommandError {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<CommandError> for Diagnostic {
    fn from(error: CommandError) -> Self {
        let error_type = match &error {
            CommandError::UnderWay(_) => "UnderWay",
            CommandError::NothingUnderWay => "NothingUnderWay",
            CommandError::NoSuchRun(_) => "NoSuchRun",
            CommandError::NoWayBack(_) => "NoWayBack",
            CommandError::Elsewhere(_) => "Elsewhere",
            CommandError::NotOver(_) => "NotOver",
            CommandError::NotOutstanding(_) => "NotOutstanding",
            CommandError::IsMain(_) => "IsMain",
            CommandError::Store(_) => "StoreUnavailable",
            CommandError::Trouble(_) => "NoAnswer",
            CommandError::Lease(_) => "LeaseUnavailable",
            CommandError::Bad(_) => "BadCommand",
            CommandError::Ledger(_) => "LedgerUnavailable",
        };
        Diagnostic { error_type: error_type.into(), error_message: error.to_string() }
    }
}
