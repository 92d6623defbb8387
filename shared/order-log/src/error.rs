//! Why a call of the order log failed, and whether the table may have executed it.

use crate::record::Malformed;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use std::error::Error;
use std::fmt::Debug;

/// Why a call has no result. The texts never contain a buyer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderLogError {
    /// The table refuses calls beyond its throughput. Nothing was written.
    #[error("the order log throttled the call: {0}")]
    Throttled(String),
    /// There was no connection in time. Nothing was written.
    #[error("the call was not sent to the order log: {0}")]
    NotSent(String),
    /// The call was sent, and no usable answer came. The record may be written.
    #[error("the order log did not answer the call, which it may have executed: {0}")]
    Unanswered(String),
    /// The table refused the call. Nothing was written, and a repetition does not help.
    #[error("the order log refused the call: {0}")]
    Refused(String),
    /// A record that was read is malformed.
    #[error("a record of the order log is malformed: {0}")]
    Malformed(#[from] Malformed),
}

/// DynamoDB's error codes for calls beyond the throughput of a table, a partition or the account.
const THROTTLING: [&str; 4] = [
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "LimitExceededException",
];

impl OrderLogError {
    /// What a failed call says.
    pub(crate) fn of<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + Error + Debug + 'static,
    {
        match error {
            SdkError::ConstructionFailure(_) => Self::NotSent(chain(error)),
            SdkError::DispatchFailure(_) if failed_to_connect(error) => Self::NotSent(chain(error)),
            SdkError::ServiceError(answer) => {
                let code = answer.err().code().unwrap_or("no error code").to_owned();
                if THROTTLING.contains(&code.as_str()) {
                    Self::Throttled(code)
                } else if answer.raw().status().is_server_error() {
                    // An internal error of DynamoDB: a write may have succeeded.
                    Self::Unanswered(code)
                } else {
                    Self::Refused(code)
                }
            }
            _ => Self::Unanswered(chain(error)),
        }
    }

    /// Whether the same call may succeed if it is repeated.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Throttled(_) | Self::NotSent(_) | Self::Unanswered(_))
    }

    /// Whether the table may have executed the call.
    pub fn may_be_executed(&self) -> bool {
        matches!(self, Self::Unanswered(_))
    }
}

/// Whether no connection was opened: the request was then never sent.
fn failed_to_connect(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// The error with all its causes: the SDK's own text does not say what failed.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
