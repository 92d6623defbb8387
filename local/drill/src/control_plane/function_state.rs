//! The states of a function in Lambda. docs/AWS_FACTS.md has the sources; what the documents leave open is drawn at
//! random.

use super::api_error::ApiError;
use super::functions::{Deployed, Fleet, Version};
use std::sync::Arc;

/// How long a function is pending, in milliseconds; on AWS up to minutes.
const PENDING_MS: std::ops::Range<u64> = 300..3_000;
/// The share of restorations that fail, after which the function is inactive again.
const FAILED_RESTORATIONS: f64 = 0.15;
/// How long a published version is pending, in milliseconds; on AWS up to minutes.
const VERSION_PENDING_MS: std::ops::Range<u64> = 0..3_000;
/// The share of versions that Lambda cannot make active.
const FAILED_VERSIONS: f64 = 0.1;
/// Errors of an invocation of an inactive function, of which the documents choose none.
const INACTIVE_ERRORS: [(u16, &str); 4] = [
    (502, "ResourceNotReadyException"),
    (409, "CodeArtifactUserPendingException"),
    (409, "ResourceConflictException"),
    (502, "ENINotReadyException"),
];

/// `State` of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LambdaState {
    Active,
    /// Idle for too long. An invocation wakes it, and fails.
    Inactive,
    /// Lambda creates or restores it.
    Pending,
    /// Lambda could not make it active.
    Failed,
}

impl LambdaState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Inactive => "Inactive",
            Self::Pending => "Pending",
            Self::Failed => "Failed",
        }
    }

    pub(super) fn reason(self) -> Option<&'static str> {
        match self {
            Self::Active => None,
            Self::Inactive => Some("Idle"),
            Self::Pending => Some("Restoring"),
            Self::Failed => Some("InternalError"),
        }
    }
}

/// Refuses an update or a publication of a function that is not active.
pub(super) fn may_be_updated(fleet: &Fleet, deployed: &Deployed) -> Result<(), ApiError> {
    let accepts = match deployed.state {
        LambdaState::Active | LambdaState::Failed => true,
        LambdaState::Pending => false,
        // Not documented.
        LambdaState::Inactive => fleet.draws.chance(0.5),
    };
    if accepts { Ok(()) } else { Err(not_now(deployed.state)) }
}

fn not_now(state: LambdaState) -> ApiError {
    let why =
        format!("The operation cannot be performed at this time. The function is in state {}", state.name());
    ApiError::new(409, "ResourceConflictException", why)
}

impl Fleet {
    /// Makes a function inactive, as Lambda does after two weeks without an invocation.
    pub fn make_inactive(&self, binary: &str) {
        let _ = self.with(&self.name_of(binary), |deployed| {
            deployed.state = LambdaState::Inactive;
            self.apply(deployed, true)
        });
    }

    /// Refuses an invocation of a function that is not active. The first one wakes it.
    pub(super) fn may_be_invoked(self: &Arc<Self>, name: &str) -> Result<(), ApiError> {
        let before = self.with(name, |deployed| {
            let before = deployed.state;
            // An invocation that the concurrency 0 refuses does not reach the function.
            if before == LambdaState::Inactive && deployed.reserved != Some(0) {
                deployed.state = LambdaState::Pending;
            }
            match (deployed.reserved, before) {
                (Some(0), _) => Err(ApiError::new(429, "TooManyRequestsException", "Rate Exceeded.")),
                (_, before) => Ok(before),
            }
        })?;
        match before {
            LambdaState::Active => Ok(()),
            LambdaState::Pending | LambdaState::Failed => Err(not_now(before)),
            LambdaState::Inactive => {
                self.restore(name);
                let (status, code) = self.draws.one_of(INACTIVE_ERRORS[0], &INACTIVE_ERRORS[1..]);
                Err(ApiError::new(status, code, "The function is inactive. Wait and try again."))
            }
        }
    }

    fn restore(self: &Arc<Self>, name: &str) {
        let (fleet, name) = (self.clone(), name.to_owned());
        let takes = self.draws.millis(PENDING_MS);
        let fails = self.draws.chance(FAILED_RESTORATIONS);
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            let _ = fleet.with(&name, |deployed| {
                deployed.state = if fails { LambdaState::Inactive } else { LambdaState::Active };
                fleet.apply(deployed, false)
            });
        });
    }

    /// Publishes `$LATEST`, unless nothing has changed since the last version. A new version is pending for a while.
    pub(super) fn publish(self: &Arc<Self>, name: &str, deployed: &mut Deployed) {
        if deployed.versions.last().is_some_and(|last| &last.environment == deployed.latest()) {
            return;
        }
        let (environment, state) = (deployed.latest().clone(), LambdaState::Pending);
        deployed.versions.push(Version { environment, state });
        deployed.revision += 1;
        let (fleet, name, number) = (self.clone(), name.to_owned(), deployed.versions.len());
        let (takes, fails) = (self.draws.millis(VERSION_PENDING_MS), self.draws.chance(FAILED_VERSIONS));
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            let _ = fleet.with(&name, |deployed| {
                let could_be_invoked = deployed.can_be_invoked();
                if let Some(version) = deployed.versions.get_mut(number - 1) {
                    version.state = if fails { LambdaState::Failed } else { LambdaState::Active };
                }
                fleet.apply(deployed, could_be_invoked)
            });
        });
    }
}
