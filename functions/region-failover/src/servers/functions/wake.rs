//! Whether Lambda can invoke the new main's functions, and the invocation that wakes those that were idle for too long.
//!
//! Main's functions in the standby have the reserved concurrency 0, so that no schedule can keep them warm: after about
//! two weeks Lambda makes them inactive.

use super::{Functions, OF_MAIN, alias_of};
use crate::observation::{FunctionState, Obstacle};
use crate::servers::{CALL_LIMIT, call_aws, obstacle};
use aws_sdk_lambda::Client;
use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::State;
use aws_sdk_rds::error::ProvideErrorMetadata;
use futures::future::try_join_all;
use shared::keep_warm::KEEP_WARM_EVENT;
use std::time::Duration;
use tokio::time::timeout;

/// Errors of an invocation that wakes a function, or that finds it waking up. Lambda documents them without saying which
/// one an inactive function returns.
const WAKING: [&str; 4] = [
    "ResourceNotReadyException",
    "CodeArtifactUserPendingException",
    "ResourceConflictException",
    "ENINotReadyException",
];
/// The pause after an invocation that wakes. If Lambda cannot restore a function, it is inactive again.
const WAKE_PAUSE: Duration = Duration::from_secs(2);

/// What Lambda says about a function or a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Active,
    /// Lambda creates or restores it. Until then Lambda refuses invocations and updates.
    Pending,
    /// It was idle for too long. Only an invocation wakes it.
    Inactive,
    /// Lambda cannot invoke it, and an invocation does not help.
    Broken,
}

pub(super) fn readiness(state: Option<&State>) -> Readiness {
    match state {
        // On instances only versions are invoked; the code they are published from is not.
        None | Some(State::Active | State::ActiveNonInvocable) => Readiness::Active,
        Some(State::Pending) => Readiness::Pending,
        Some(State::Inactive) => Readiness::Inactive,
        Some(_) => Readiness::Broken,
    }
}

/// The state in words, with Lambda's reason.
pub(super) fn state_text(name: &str, found: &GetFunctionConfigurationOutput) -> String {
    let state = found.state().map_or("without a state", State::as_str);
    let reason = found.state_reason_code().map(|code| format!(" ({})", code.as_str())).unwrap_or_default();
    match readiness(found.state()) {
        Readiness::Broken => format!("{name} is {state}{reason}: read its StateReason, then deploy it again"),
        _ => format!("{name} is {state}{reason}"),
    }
}

impl Functions {
    /// The functions of this region that Lambda cannot invoke now.
    pub(in crate::servers) async fn not_active(&self) -> Result<Vec<FunctionState>, Obstacle> {
        let client = self.client_here()?;
        let asked = self.of_region(&self.here).map(async |function| {
            let alias = alias_of(function);
            let Some(found) = self.describe(client, function, alias).await? else { return Ok(None) };
            let readiness = readiness(found.state());
            Ok((readiness != Readiness::Active).then(|| FunctionState {
                function: function.to_owned(),
                text: state_text(function, &found),
                is_inactive: readiness == Readiness::Inactive,
            }))
        });
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// Wakes the inactive functions of this region, and returns what it did.
    pub(in crate::servers) async fn wake_here(&self) -> Result<String, Obstacle> {
        let client = self.client_here()?;
        let inactive: Vec<FunctionState> =
            self.not_active().await?.into_iter().filter(|state| state.is_inactive).collect();
        try_join_all(inactive.iter().map(|state| {
            let alias = alias_of(&state.function);
            self.wake(client, &state.function, alias)
        }))
        .await?;
        if inactive.is_empty() {
            return Ok(String::new());
        }
        tokio::time::sleep(WAKE_PAUSE).await;
        let texts: Vec<&str> = inactive.iter().map(|state| state.text.as_str()).collect();
        Ok(format!("invoked, so that Lambda restores them: {}", texts.join("; ")))
    }

    /// Invokes an inactive function, which sets it to pending. The limit 0 would prevent the invocation, and so it is
    /// removed first: without the main lease the function changes nothing.
    pub(super) async fn wake(
        &self,
        client: &Client,
        function: &str,
        alias: Option<&str>,
    ) -> Result<(), Obstacle> {
        let name = self.name(function);
        if OF_MAIN.contains(&function) {
            call_aws(&name, client.delete_function_concurrency().function_name(&name).send()).await?;
        }
        let call = client.invoke().function_name(&name).set_qualifier(alias.map(str::to_owned));
        let call = call.payload(Blob::new(KEEP_WARM_EVENT)).send();
        match timeout(CALL_LIMIT, Box::pin(call)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.code().is_some_and(|code| WAKING.contains(&code)) => Ok(()),
            Ok(Err(error)) => Err(obstacle(format!("{name} cannot be woken: {}", rds::refusal(error)))),
            // Lambda may be restoring the function all the same: its state tells.
            Err(_) => Ok(()),
        }
    }
}
