//! What an RDS call can fail with.

use aws_sdk_rds::error::{ProvideErrorMetadata, SdkError};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RdsError {
    #[error("a snapshot with this identifier exists already")]
    Exists,
    #[error("the database instance or snapshot does not exist")]
    NotFound,
    /// The state of the database instance or snapshot does not allow the call.
    #[error("the database instance or snapshot is in a state that does not allow this call")]
    NotInState,
    /// RDS reports it with the same code as [`RdsError::TooManySnapshots`].
    #[error("too many snapshot copies to the region are in progress")]
    TooManyCopies,
    #[error("the region's quota of manual snapshots is used up")]
    TooManySnapshots,
    /// The client has already retried with backoff.
    #[error("RDS throttled the call, and retries did not help")]
    Throttled,
    #[error("access denied: {0}")]
    Denied(String),
    /// No usable answer: RDS may have carried out the call.
    #[error("no answer from RDS: {0}")]
    Unreachable(String),
    #[error("RDS refused the call: {code}: {message}")]
    Refused { code: String, message: String },
}

/// Translates an error of the SDK.
pub fn refusal<E: ProvideErrorMetadata, R>(error: SdkError<E, R>) -> RdsError {
    match &error {
        SdkError::ServiceError(_) => {
            meaning(error.code().unwrap_or_default(), error.message().unwrap_or_default())
        }
        SdkError::TimeoutError(_) => RdsError::Unreachable("the call timed out".into()),
        SdkError::DispatchFailure(_) => RdsError::Unreachable("the connection failed".into()),
        _ => RdsError::Unreachable("the answer is malformed".into()),
    }
}

/// The codes are those of the RDS API reference. Throttling has several codes.
fn meaning(code: &str, message: &str) -> RdsError {
    match code {
        "DBSnapshotAlreadyExists" => RdsError::Exists,
        "DBSnapshotNotFound"
        | "DBInstanceNotFound"
        | "DBSnapshotNotFoundFault"
        | "DBInstanceNotFoundFault" => RdsError::NotFound,
        "InvalidDBInstanceState" | "InvalidDBSnapshotState" => RdsError::NotInState,
        // "Cannot copy more than 20 snapshots across regions" and "Cannot create more than 100 manual
        // snapshots" have the same code.
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
            RdsError::Unreachable(format!("RDS failed internally ({code:?})"))
        }
        _ => RdsError::Refused { code: code.to_owned(), message: message.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_distinguishes_two_quotas_with_the_same_code() {
        let quota = |message| meaning("SnapshotQuotaExceeded", message);
        assert_eq!(quota("Cannot copy more than 20 snapshots across regions"), RdsError::TooManyCopies);
        assert_eq!(quota("Cannot create more than 100 manual snapshots"), RdsError::TooManySnapshots);
        assert_eq!(quota(""), RdsError::TooManySnapshots);
    }
}
