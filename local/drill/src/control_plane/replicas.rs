//! Read replicas that calls create and delete, such as a drill's temporary copy.

use super::api_error::ApiError;
use super::database::{DatabaseInstance, DatabaseInstances, PendingReplica, ReplicaSource, available};
use super::locked;
use super::query::{Form, QueryResult};
use super::xml::{element, text};
use local::system::postgres::Postgres;
use local::system::wan::WanConnection;
use std::sync::Arc;
use std::time::Duration;

/// How long a new replica is `creating`, and a deleted instance `deleting`, at least.
const TAKES: Duration = Duration::from_millis(800);

impl DatabaseInstances {
    /// The description of a replica that is being created.
    pub(super) fn pending_replica(&self, region: &str, id: &str) -> Option<String> {
        let pending_replica = locked(&self.copies.pending_replica);
        let one = pending_replica.iter().find(|one| one.region == region && one.id == id)?;
        let tags = one
            .tags
            .iter()
            .map(|(key, value)| element("Tag", &[text("Key", key), text("Value", value)].concat()));
        let fields = [
            text("DBInstanceIdentifier", &one.id),
            text("DBInstanceClass", &one.class),
            text("DBInstanceStatus", "creating"),
            text("ReadReplicaSourceDBInstanceIdentifier", &one.source),
            element("TagList", &tags.collect::<String>()),
        ];
        Some(element("DBInstance", &fields.concat()))
    }
}

pub(super) fn create(databases: &Arc<DatabaseInstances>, region: &str, form: &Form) -> QueryResult {
    form.check(&[
        "DBInstanceIdentifier",
        "SourceDBInstanceIdentifier",
        "DBInstanceClass",
        "VpcSecurityGroupIds",
        "PubliclyAccessible",
        "MultiAZ",
        "EnableIAMDatabaseAuthentication",
        "Tags",
    ])?;
    let id = form.required("DBInstanceIdentifier")?;
    let exists = databases.find(region, id).is_ok() || databases.pending_replica(region, id).is_some();
    if exists {
        return Err(ApiError::new(
            400,
            "DBInstanceAlreadyExists",
            format!("DB instance {id} already exists."),
        ));
    }
    let source = databases.find_by_arn(form.required("SourceDBInstanceIdentifier")?)?;
    available(&source)?;
    let keys = form.list("Tags", Some("Key")).into_iter().map(str::to_owned);
    let one = PendingReplica {
        id: id.into(),
        region: region.into(),
        class: form.required("DBInstanceClass")?.into(),
        source: source.arn(),
        groups: form.list("VpcSecurityGroupIds", None).into_iter().map(str::to_owned).collect(),
        tags: keys.zip(form.list("Tags", Some("Value")).into_iter().map(str::to_owned)).collect(),
    };
    let Some(sources) = locked(&databases.copies.sources).get(region).cloned() else {
        return Err(ApiError::unknown("read replicas in this region"));
    };
    locked(&databases.copies.pending_replica).push(one.clone());
    let all = databases.clone();
    tokio::spawn(async move {
        tokio::time::sleep(TAKES).await;
        match start_replica(&one, sources).await {
            Ok(instance) => all.add(instance),
            Err(error) => eprintln!("could not create the replica {}: {error:#}", one.id),
        }
        locked(&all.copies.pending_replica)
            .retain(|other| (&other.region, &other.id) != (&one.region, &one.id));
    });
    databases
        .pending_replica(region, id)
        .ok_or_else(|| ApiError::new(500, "InternalFailure", "the replica does not exist any more"))
}

async fn start_replica(one: &PendingReplica, sources: ReplicaSource) -> anyhow::Result<DatabaseInstance> {
    let slot = format!("rds_{}", one.id.replace('-', "_"));
    let server = Postgres::start_replica(&sources.logs, &slot, sources.source).await?;
    let proxy = WanConnection::open(([127, 0, 0, 1], server.port()).into(), Duration::ZERO).await?;
    Ok(DatabaseInstance {
        id: one.id.clone(),
        region: one.region.clone(),
        class: one.class.clone(),
        status: "available",
        is_stale: false,
        source: Some(one.source.clone()),
        resource_id: one.id.to_uppercase(),
        groups: one.groups.iter().map(|group| (group.clone(), "active")).collect(),
        tags: one.tags.clone(),
        pending_class: None,
        server: Arc::new(tokio::sync::Mutex::new(server)),
        proxy: Arc::new(proxy),
    })
}

pub(super) fn delete(databases: &Arc<DatabaseInstances>, region: &str, form: &Form) -> QueryResult {
    form.check(&["DBInstanceIdentifier", "SkipFinalSnapshot", "DeleteAutomatedBackups"])?;
    let id = form.required("DBInstanceIdentifier")?;
    if databases.pending_replica(region, id).is_some() {
        return Err(ApiError::new(400, "InvalidDBInstanceState", format!("{id} is being created")));
    }
    let instance = databases.find(region, id)?;
    available(&instance)?;
    if !form.is_true("SkipFinalSnapshot") {
        return Err(ApiError::unknown("final snapshots"));
    }
    databases.deleting(&instance);
    let all = databases.clone();
    tokio::spawn(async move {
        tokio::time::sleep(TAKES).await;
        all.forget(&instance);
    });
    Ok(String::new())
}
