//! A dry run of the rights that a failover needs of Lambda: calls that Lambda authorises and that change nothing.
//!
//! RDS and ElastiCache offer no such calls for what a failover does with them.

use super::{Functions, alias_of};
use crate::observation::Obstacle;
use crate::servers::{call_aws, obstacle};
use aws_sdk_lambda::Client;
use aws_sdk_lambda::types::InvocationType;
use aws_sdk_rds::error::{ProvideErrorMetadata, SdkError};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::timeout;

/// No function has this revision: Lambda refuses the change.
const NO_REVISION: &str = "none-dry-run";
/// Limit of the dry run in one region. A region that does not answer in time shows nothing.
const DRY_RUN_LIMIT: Duration = Duration::from_secs(15);

/// Region, function and action.
pub(in crate::servers) type MissingRight = (String, &'static str, &'static str);

impl Functions {
    /// The rights that this function lacks, as far as Lambda shows it.
    pub(in crate::servers) async fn missing_rights(&self) -> Vec<MissingRight> {
        let all = self.regions.iter().map(async |(region, client)| {
            let denied = timeout(DRY_RUN_LIMIT, Box::pin(self.denied_in(region, client))).await;
            denied.unwrap_or_default()
        });
        join_all(all).await.into_iter().flatten().collect()
    }

    async fn denied_in(&self, region: &str, client: &Client) -> Vec<MissingRight> {
        let mut denied = Vec::new();
        // One after the other: Lambda limits these calls to 15 a second.
        for function in self.of_region(region) {
            let (name, revision) = (self.name(function), NO_REVISION);
            let alias = alias_of(function);
            let mut note = |action, is_denied| {
                if is_denied {
                    denied.push((region.to_owned(), function, action));
                }
            };
            let update = client.update_function_configuration().function_name(&name).revision_id(revision);
            note("lambda:UpdateFunctionConfiguration", is_denied(update.send()).await);
            let invoke = client.invoke().function_name(&name).invocation_type(InvocationType::DryRun);
            let invoke = invoke.set_qualifier(alias.map(str::to_owned));
            note("lambda:InvokeFunction", is_denied(invoke.send()).await);
            if let Some(alias) = alias {
                let publish = client.publish_version().function_name(&name).revision_id(revision);
                note("lambda:PublishVersion", is_denied(publish.send()).await);
                let update = client.update_alias().function_name(&name).name(alias).revision_id(revision);
                note("lambda:UpdateAlias", is_denied(update.send()).await);
            }
        }
        denied
    }

    /// Executions of this region's quota that no function has reserved, and those that a failover would reserve.
    pub(in crate::servers) async fn unreserved(&self) -> Result<(i32, i32), Obstacle> {
        let call = self.client_here()?.get_account_settings();
        let found = call_aws("reading Lambda's quota", call.send()).await?;
        let unreserved = found.account_limit().and_then(|limit| limit.unreserved_concurrent_executions());
        let unreserved = unreserved.ok_or_else(|| obstacle("Lambda returned no quota"))?;
        Ok((unreserved, self.reserved.values().sum()))
    }
}

/// Whether AWS denies the call. Every other answer comes after the check of the rights, or shows nothing.
async fn is_denied<T, E: ProvideErrorMetadata, R>(
    call: impl Future<Output = Result<T, SdkError<E, R>>>,
) -> bool {
    let answer = Box::pin(call).await;
    answer.is_err_and(|error| error.code().is_some_and(|code| code.starts_with("AccessDenied")))
}
