//! The local control plane, called by the real SDKs: its answers, and its effects on the real servers.

use anyhow::Result;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::Environment;
use aws_sdk_rds::error::ProvideErrorMetadata;
use aws_sdk_scheduler::types::ScheduleState;
use drill::control_plane::Reachability;
use drill::two_regions::{MAIN, STANDBY, TwoRegions, TwoRegionsSettings};
use local::aws::wire::checked;
use local::system::folder::WorkFolder;
use sdk::RetryConfig;
use sdk::TimeoutConfig;
use sdk::{Region, SdkConfig};
use shared::clock::Clock;
use sqlx::Connection;
use std::fmt::Debug;
use std::time::Duration;
use tests::eventually;

const A_WHILE: Duration = Duration::from_secs(20);
const HERE: &str = "eu-west-1";
const THERE: &str = "us-east-1";

/// The SDK configuration for `region`, without retries.
pub(crate) async fn aws(two: &TwoRegions, region: &'static str) -> SdkConfig {
    sdk::defaults()
        .region(Region::new(region))
        .endpoint_url(checked(None, &two.control_plane.url()).unwrap())
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "test", "test", None, None, "test",
        )))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(3)).build())
        .build()
}

/// The error code of a refused call.
fn code<T: Debug, E: ProvideErrorMetadata + Debug>(answer: std::result::Result<T, E>) -> String {
    answer.unwrap_err().code().unwrap_or("no code").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_answers_the_sdks_and_acts_on_the_servers() {
    let folder = WorkFolder::new().unwrap();
    let two = TwoRegions::start_in(folder.path(), &TwoRegionsSettings::default()).await.unwrap();
    functions(&two).await.unwrap();
    schedules(&two).await.unwrap();
    regions_that_do_not_answer(&two).await;
    datastore(&two).await.unwrap();
    databases(&two).await.unwrap();
}

async fn databases(two: &TwoRegions) -> Result<()> {
    let here = aws_sdk_rds::Client::new(&aws(two, HERE).await);
    let there = aws_sdk_rds::Client::new(&aws(two, THERE).await);
    let replica = async || -> Result<aws_sdk_rds::types::DbInstance> {
        let found = here.describe_db_instances().db_instance_identifier("standby-ledger").send().await?;
        Ok(found.db_instances.unwrap().remove(0))
    };
    let main = there.describe_db_instances().db_instance_identifier("main-ledger").send().await?;
    let main = &main.db_instances()[0];
    let first = replica().await?;
    assert_eq!(first.read_replica_source_db_instance_identifier(), main.db_instance_arn());
    assert_eq!(main.read_replica_db_instance_identifiers(), [first.db_instance_arn().unwrap()]);
    assert_eq!(first.status_infos()[0].status(), Some("replicating"));

    // Refusals.
    let promote = |id: &str| here.promote_read_replica().db_instance_identifier(id).send();
    assert_eq!(code(promote("unknown").await), "DBInstanceNotFound");
    let of_main = there.promote_read_replica().db_instance_identifier("main-ledger").send().await;
    assert_eq!(code(of_main), "InvalidDBInstanceState");
    let (region, id) = two.replica();
    two.control_plane.account().databases.back_up(&region, &id, Duration::from_secs(1));
    assert_eq!(code(promote(&id).await), "InvalidDBInstanceState");
    two.control_plane.account().throttle(1);
    assert_eq!(code(promote(&id).await), "Throttling");
    assert_eq!(code(here.describe_db_snapshots().send().await), "InvalidAction");

    // The description is stale for a moment; after a restart the class has changed.
    eventually("the instance is available", A_WHILE, async || {
        Ok((replica().await?.db_instance_status() == Some("available")).then_some(()))
    })
    .await?;
    let raise = here.modify_db_instance().db_instance_identifier(&id).db_instance_class("db.m7g.xlarge");
    raise.apply_immediately(true).send().await?;
    let stale = replica().await?;
    assert_eq!(
        (stale.db_instance_status(), stale.db_instance_class()),
        (Some("available"), Some("db.m7g.large"))
    );
    let pending = stale.pending_modified_values().unwrap();
    assert_eq!(pending.db_instance_class(), Some("db.m7g.xlarge"));
    eventually("the class has changed", A_WHILE, async || {
        Ok((replica().await?.db_instance_class() == Some("db.m7g.xlarge")).then_some(()))
    })
    .await?;

    // A promotion: a stale description, then a restart, then the instance is no replica any more.
    promote(&id).await?;
    let stale = replica().await?;
    assert_eq!(stale.db_instance_status(), Some("available"));
    assert!(stale.read_replica_source_db_instance_identifier().is_some());
    assert_eq!(code(promote(&id).await), "InvalidDBInstanceState");
    let promoted = eventually("the replica is promoted", A_WHILE, async || {
        let found = replica().await?;
        Ok(found.read_replica_source_db_instance_identifier().is_none().then_some(found))
    })
    .await?;
    assert_eq!(promoted.db_instance_status(), Some("available"));
    assert!(!two.ledger(STANDBY).await?.replica(Clock::machine().now()).await?.follows);
    assert_eq!(code(promote(&id).await), "InvalidDBInstanceState");

    // A security group that allows no traffic: open connections go on, until the instance is rebooted.
    let url = two.regions[MAIN].servers.as_ref().unwrap().urls.ledger.clone();
    let mut open = sqlx::PgConnection::connect(&url).await?;
    let fence = there.modify_db_instance().db_instance_identifier("main-ledger");
    fence.vpc_security_group_ids("sg-fence").apply_immediately(true).send().await?;
    eventually("no connection can be opened", A_WHILE, async || {
        Ok(sqlx::PgConnection::connect(&url).await.is_err().then_some(()))
    })
    .await?;
    sqlx::query("SELECT 1").execute(&mut open).await?;
    let fenced = there.describe_db_instances().db_instance_identifier("main-ledger").send().await?;
    let group = &fenced.db_instances()[0].vpc_security_groups()[0];
    assert_eq!((group.vpc_security_group_id(), group.status()), (Some("sg-fence"), Some("active")));
    there.reboot_db_instance().db_instance_identifier("main-ledger").send().await?;
    eventually("the open connection ends", A_WHILE, async || {
        Ok(sqlx::query("SELECT 1").execute(&mut open).await.is_err().then_some(()))
    })
    .await?;
    eventually("the instance is available", A_WHILE, async || {
        let found = there.describe_db_instances().db_instance_identifier("main-ledger").send().await?;
        Ok((found.db_instances()[0].db_instance_status() == Some("available")).then_some(()))
    })
    .await?;
    two.ledger(MAIN).await?.ready().await?;
    Ok(())
}

async fn datastore(two: &TwoRegions) -> Result<()> {
    let client = aws_sdk_elasticache::Client::new(&aws(two, HERE).await);
    let there = aws_sdk_elasticache::Client::new(&aws(two, THERE).await);
    let describe = async || -> Result<Vec<(String, String)>> {
        let mut groups = Vec::new();
        for (client, group) in [(&there, "fairdrop-us-east-1"), (&client, "fairdrop-eu-west-1")] {
            let found = client.describe_replication_groups().replication_group_id(group).send().await?;
            let found = &found.replication_groups()[0];
            let role = found
                .global_replication_group_info()
                .and_then(|info| info.global_replication_group_member_role());
            groups.push((found.status().unwrap_or_default().to_owned(), role.unwrap_or_default().to_owned()));
        }
        Ok(groups)
    };
    let both = |status: &str, main: &str, standby: &str| {
        [main, standby].map(|role| (status.into(), role.into())).to_vec()
    };
    assert_eq!(describe().await?, both("available", "PRIMARY", "SECONDARY"));
    let unknown = client.describe_replication_groups().replication_group_id("x").send().await;
    assert_eq!(code(unknown), "ReplicationGroupNotFoundFault");
    let fail_over = |region: &str, group: &str| {
        let call = client.failover_global_replication_group().global_replication_group_id("ldgnf-fairdrop");
        call.primary_region(region).primary_replication_group_id(group).send()
    };
    assert_eq!(code(fail_over(THERE, "fairdrop-us-east-1").await), "InvalidParameterValue");
    fail_over(HERE, "fairdrop-eu-west-1").await?;
    assert_eq!(describe().await?, both("modifying", "PRIMARY", "SECONDARY"));
    let again = fail_over(HERE, "fairdrop-eu-west-1").await;
    assert_eq!(code(again), "InvalidGlobalReplicationGroupState");
    eventually("the primary has moved", A_WHILE, async || {
        Ok((describe().await? == both("available", "SECONDARY", "PRIMARY")).then_some(()))
    })
    .await?;
    let set = async |region: usize| -> Result<()> {
        let mut connection = two.redis(region).await?;
        Ok(redis::cmd("SET").arg("a").arg(1).query_async(&mut connection).await?)
    };
    set(STANDBY).await?;
    let refused = set(MAIN).await.unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("readonly"), "{refused}");
    let group =
        client.describe_replication_groups().replication_group_id("fairdrop-eu-west-1").send().await?;
    let group = &group.replication_groups()[0];
    let role =
        group.global_replication_group_info().and_then(|info| info.global_replication_group_member_role());
    assert_eq!((group.status(), role), (Some("available"), Some("PRIMARY")));
    Ok(())
}

async fn functions(two: &TwoRegions) -> Result<()> {
    let client = aws_sdk_lambda::Client::new(&aws(two, HERE).await);
    let name = "fairdrop-order-intake";
    let variable = async |qualifier: Option<&str>| -> Result<Option<String>> {
        let call = client.get_function_configuration().function_name(name);
        let found = call.set_qualifier(qualifier.map(str::to_owned)).send().await?;
        Ok(found.environment().unwrap().variables().unwrap().get("EXTRA").cloned())
    };
    let found = client.get_function_configuration().function_name(name).send().await?;
    let mut variables = found.environment().unwrap().variables().unwrap().clone();
    variables.insert("EXTRA".into(), "1".into());
    let environment = Environment::builder().set_variables(Some(variables)).build();
    let update = |revision: Option<&str>| {
        let call = client.update_function_configuration().function_name(name);
        call.environment(environment.clone()).set_revision_id(revision.map(str::to_owned)).send()
    };
    assert_eq!(code(update(Some("another")).await), "PreconditionFailedException");
    let updated = update(found.revision_id()).await?;
    assert_eq!(updated.last_update_status().unwrap().as_str(), "InProgress");
    assert_eq!(code(update(None).await), "ResourceConflictException");
    assert_eq!(code(client.publish_version().function_name(name).send().await), "ResourceConflictException");
    // The alias does not use the change before a version is published and the alias is moved.
    let version = eventually("the version is published", A_WHILE, async || {
        Ok(client.publish_version().function_name(name).send().await.ok().and_then(|found| found.version))
    })
    .await?;
    assert_eq!(
        (version.as_str(), variable(None).await?, variable(Some("live")).await?),
        ("2", Some("1".into()), None)
    );
    let again = client.publish_version().function_name(name).send().await?;
    assert_eq!(again.version(), Some("2"));
    let process = two.regions[STANDBY].fleet.process_id("order-intake");
    client.update_alias().function_name(name).name("live").function_version("2").send().await?;
    assert_eq!(variable(Some("live")).await?, Some("1".into()));
    let state = eventually("Lambda has created the version", A_WHILE, async || {
        let found = client.get_function_configuration().function_name(name).qualifier("2").send().await?;
        let state = found.state().map(|state| state.as_str().to_owned());
        Ok(state.filter(|state| state != "Pending"))
    })
    .await?;
    // One version in ten fails, and serves nothing.
    if state == "Active" {
        eventually("a process serves the version", A_WHILE, async || {
            Ok((two.regions[STANDBY].fleet.process_id("order-intake") != process).then_some(()))
        })
        .await?;
    }
    let alias = client.get_alias().function_name(name).name("live").send().await?;
    assert_eq!(alias.function_version(), Some("2"));
    let unknown = client.get_function_configuration().function_name("unknown").send().await;
    assert_eq!(code(unknown), "ResourceNotFoundException");

    // A parked function has no process and cannot be invoked.
    let name = "fairdrop-drop-admin";
    let concurrency = async || -> Result<Option<i32>> {
        let found = client.get_function_concurrency().function_name(name).send().await?;
        Ok(found.reserved_concurrent_executions())
    };
    let invoke = || {
        let payload = Blob::new(r#"{"command":"list"}"#);
        client.invoke().function_name(name).payload(payload).send()
    };
    assert_eq!((concurrency().await?, two.regions[STANDBY].fleet.process_id("drop-admin")), (Some(0), None));
    assert_eq!(code(invoke().await), "TooManyRequestsException");
    client.delete_function_concurrency().function_name(name).send().await?;
    assert_eq!(concurrency().await?, None);
    let answer = invoke().await?;
    let text = String::from_utf8(answer.payload().unwrap().as_ref().to_vec())?;
    assert_eq!((answer.function_error(), text.as_str()), (None, r#"{"items":[]}"#));
    client.put_function_concurrency().function_name(name).reserved_concurrent_executions(0).send().await?;
    assert_eq!(code(invoke().await), "TooManyRequestsException");
    inactive_functions(two, &client).await
}

async fn inactive_functions(two: &TwoRegions, client: &aws_sdk_lambda::Client) -> Result<()> {
    let name = "fairdrop-drop-admin";
    let state = async || -> Result<String> {
        let found = client.get_function_configuration().function_name(name).send().await?;
        Ok(found.state().unwrap().as_str().to_owned())
    };
    let invoke = || {
        let payload = Blob::new(shared::keep_warm::KEEP_WARM_EVENT);
        client.invoke().function_name(name).payload(payload).send()
    };
    two.regions[STANDBY].fleet.make_inactive("drop-admin");
    assert_eq!(code(invoke().await), "TooManyRequestsException");
    assert_eq!(state().await?, "Inactive", "a refused invocation wakes nothing");
    client.delete_function_concurrency().function_name(name).send().await?;
    assert_eq!(state().await?, "Inactive");
    let first = code(invoke().await);
    assert!(first.contains("NotReady") || first.contains("Conflict") || first.contains("Pending"), "{first}");
    assert_eq!(state().await?, "Pending");
    assert_eq!(code(invoke().await), "ResourceConflictException");
    assert_eq!(code(client.publish_version().function_name(name).send().await), "ResourceConflictException");
    let answer = eventually("the function is active", A_WHILE, async || Ok(invoke().await.ok())).await?;
    assert_eq!(answer.payload().unwrap().as_ref(), br#"{"kept_warm":true}"#);
    assert_eq!(state().await?, "Active");
    client.put_function_concurrency().function_name(name).reserved_concurrent_executions(0).send().await?;
    Ok(())
}

async fn schedules(two: &TwoRegions) -> Result<()> {
    let client = aws_sdk_scheduler::Client::new(&aws(two, HERE).await);
    let get = || client.get_schedule().name("fairdrop-drain").send();
    let found = get().await?;
    assert_eq!(found.state(), Some(&ScheduleState::Disabled));
    let update = |state| {
        let call = client.update_schedule().name("fairdrop-drain").state(state);
        call.set_schedule_expression(found.schedule_expression.clone())
            .set_target(found.target.clone())
            .set_flexible_time_window(found.flexible_time_window.clone())
            .set_group_name(found.group_name.clone())
            .send()
    };
    update(ScheduleState::Enabled).await?;
    assert_eq!(get().await?.state(), Some(&ScheduleState::Enabled));
    assert_eq!(get().await?.target().map(|target| target.arn()), found.target().map(|target| target.arn()));
    update(ScheduleState::Disabled).await?;
    assert_eq!(get().await?.state(), Some(&ScheduleState::Disabled));
    let unknown = client.get_schedule().name("unknown").send().await;
    assert_eq!(code(unknown), "ResourceNotFoundException");
    Ok(())
}

async fn regions_that_do_not_answer(two: &TwoRegions) {
    let client = aws_sdk_rds::Client::new(&aws(two, THERE).await);
    let reaches = two.control_plane.account().reachability();
    reaches.set(THERE, Reachability::Silent);
    let silent = client.describe_db_instances().send().await.unwrap_err();
    assert!(silent.as_service_error().is_none(), "{silent:?}");
    reaches.set(THERE, Reachability::Gone);
    assert_eq!(code(client.describe_db_instances().send().await), "ServiceUnavailable");
    reaches.set(THERE, Reachability::Up);
    client.describe_db_instances().send().await.unwrap();
}
