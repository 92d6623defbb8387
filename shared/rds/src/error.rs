//! Why RDS says no.

use aws_sdk_rds::error::{ProvideErrorMetadata, SdkError};

/// Why RDS did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RdsError {
    /// There is a snapshot of this id already.
    #[error("a snapshot of this id exists")]
    Exists,
    /// What the call is about does not exist, or not any more.
    #[error("it does not exist")]
    NotFound,
    /// It cannot be done in the state that the database or snapshot is in.
    #[error("it is not in a state for this")]
    NotInState,
    /// Too many copies are in progress to the region. RDS reports it with the same code as
    /// [`RdsError::TooManySnapshots`].
    #[error("too many copies are in progress to the region")]
    TooManyCopies,
    /// The region holds as many manual snapshots as it may.
    #[error("the region holds as many manual snapshots as its quota allows")]
    TooManySnapshots,
    /// RDS wants fewer calls; the client has waited and tried again before.
    #[error("RDS is throttling")]
    Throttled,
    /// The call may not be made.
    #[error("access denied: {0}")]
    Denied(String),
    /// No answer, or none that counts. It may have been done.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// RDS says no, with its code and words.
    #[error("{code}: {message}")]
    Refused {
        /// The error code.
        code: String,
        /// What RDS says about it.
        message: String,
    },
}

/// What an error of the SDK means here.
pub fn refusal<E: ProvideErrorMetadata, R>(error: SdkError<E, R>) -> RdsError {
    match &error {
        SdkError::ServiceError(_) => {
            meaning(error.code().unwrap_or_default(), error.message().unwrap_or_default())
        }
        SdkError::TimeoutError(_) => RdsError::Unreachable("it took too long".into()),
        SdkError::DispatchFailure(_) => RdsError::Unreachable("no connection".into()),
        _ => RdsError::Unreachable("an answer that makes no sense".into()),
    }
}

/// The codes are those of the RDS API reference; throttling has several names.
fn meaning(code: &str, message: &str) -> RdsError {
    match code {
        "DBSnapshotAlreadyExists" => RdsError::Exists,
        "DBSnapshotNotFound"
        | "DBInstanceNotFound"
        | "DBSnapshotNotFoundFault"
        | "DBInstanceNotFoundFault" => RdsError::NotFound,
        "InvalidDBInstanceState" | "InvalidDBSnapshotState" => RdsError::NotInState,
        // "Cannot copy more than 20 snapshots across regions" and "Cannot create more than
        // 100 manual snapshots" have one code.
        "SnapshotQuotaExceeded" if message.contains("across regions") || message.contains("in progress") => {
            RdsError::TooManyCopies
        }
        "SnapshotQuotaExceeded" => RdsError::TooManySnapshots,
        "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequestsException" => {
            RdsError::Throttled
        }
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            RdsError::Denied(message.to_owned())
        }
        "InternalFailure" | "InternalError" | "ServiceUnavailable" | "" => {
            RdsError::Unreachable(format!("RDS is not well: {code}"))
        }
        _ => RdsError::Refused { code: code.to_owned(), message: message.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_quotas_with_one_code_are_told_apart() {
        let quota = |message| meaning("SnapshotQuotaExceeded", message);
        assert_eq!(quota("Cannot copy more than 20 snapshots across regions"), RdsError::TooManyCopies);
        assert_eq!(quota("Cannot create more than 100 manual snapshots"), RdsError::TooManySnapshots);
        assert_eq!(quota(""), RdsError::TooManySnapshots);
    }
}
