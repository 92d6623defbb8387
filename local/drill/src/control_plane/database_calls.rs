//! The actions of RDS.

use super::ControlledAccount;
use super::api_error::ApiError;
use super::database::{DatabaseInstance, DatabaseInstances};
use super::query::{Form, QueryResult};
use super::replicas;
use super::xml::{element, text};
use std::sync::Arc;

pub(super) fn answer(account: &ControlledAccount, region: &str, action: &str, form: &Form) -> QueryResult {
    let databases = &account.databases;
    match action {
        "DescribeDBInstances" => describe(databases, region, form),
        "PromoteReadReplica" => {
            form.check(&["DBInstanceIdentifier", "BackupRetentionPeriod", "PreferredBackupWindow"])?;
            let id = form.required("DBInstanceIdentifier")?;
            databases.promote(region, id)?;
            described(databases, region, id)
        }
        "ModifyDBInstance" => modify(databases, region, form),
        "RebootDBInstance" => {
            form.check(&["DBInstanceIdentifier"])?;
            let id = form.required("DBInstanceIdentifier")?;
            let instance = databases.find(region, id)?;
            databases.may_be_modified(&instance)?;
            databases.reboot(&instance);
            described(databases, region, id)
        }
        "CreateDBInstanceReadReplica" => replicas::create(databases, region, form),
        "DeleteDBInstance" => replicas::delete(databases, region, form),
        other => Err(ApiError::unknown(&format!("RDS's action {other}"))),
    }
}

fn describe(databases: &DatabaseInstances, region: &str, form: &Form) -> QueryResult {
    form.check(&["DBInstanceIdentifier", "MaxRecords"])?;
    // AWS accepts an ARN, too.
    let instances = match form.get("DBInstanceIdentifier") {
        Some(arn) if arn.starts_with("arn:") => vec![databases.find_by_arn(arn)?],
        Some(id) => match databases.pending_replica(region, id) {
            Some(pending_replica) => return Ok(element("DBInstances", &pending_replica)),
            None => vec![databases.find(region, id)?],
        },
        None => databases.of_region(region),
    };
    let instances = instances.iter().map(|one| element("DBInstance", &instance(databases, one)));
    Ok(element("DBInstances", &instances.collect::<String>()))
}

fn modify(databases: &Arc<DatabaseInstances>, region: &str, form: &Form) -> QueryResult {
    form.check(&["DBInstanceIdentifier", "DBInstanceClass", "ApplyImmediately", "VpcSecurityGroupIds"])?;
    let id = form.required("DBInstanceIdentifier")?;
    let instance = databases.find(region, id)?;
    databases.may_be_modified(&instance)?;
    let class = form.get("DBInstanceClass").filter(|class| *class != instance.class);
    if class.is_some() && !databases.has_capacity(region) {
        let why = format!("RDS has no instance of the class in the Availability Zone of {id}.");
        return Err(ApiError::new(400, "InsufficientDBInstanceCapacity", why));
    }
    let groups = form.list("VpcSecurityGroupIds", None);
    if !groups.is_empty() {
        databases.regroup(&instance, &groups);
    }
    if let Some(class) = class {
        databases.resize(&instance, class, form.is_true("ApplyImmediately"));
    }
    described(databases, region, id)
}

fn described(databases: &DatabaseInstances, region: &str, id: &str) -> QueryResult {
    Ok(element("DBInstance", &instance(databases, &databases.find(region, id)?)))
}

fn instance(databases: &DatabaseInstances, one: &DatabaseInstance) -> String {
    let pending = one.pending_class.iter().map(|class| text("DBInstanceClass", class));
    let group = |(id, status): &(String, &'static str)| {
        let group = [text("VpcSecurityGroupId", id), text("Status", status)].concat();
        element("VpcSecurityGroupMembership", &group)
    };
    let endpoint = [text("Address", "127.0.0.1"), text("Port", &one.proxy.port().to_string())].concat();
    let followers = databases.followers(&one.arn());
    let follower = |arn: &String| text("ReadReplicaDBInstanceIdentifier", arn);
    let mut fields = vec![
        text("DBInstanceIdentifier", &one.id),
        text("DBInstanceClass", &one.class),
        text("Engine", "postgres"),
        text("DBInstanceStatus", one.status),
        text("DBInstanceArn", &one.arn()),
        text("BackupRetentionPeriod", "7"),
        text("PreferredBackupWindow", "03:00-03:30"),
        text("DbiResourceId", &one.resource_id),
        element("Endpoint", &endpoint),
        element("PendingModifiedValues", &pending.collect::<String>()),
        element("VpcSecurityGroups", &one.groups.iter().map(group).collect::<String>()),
        element("ReadReplicaDBInstanceIdentifiers", &followers.iter().map(follower).collect::<String>()),
        tags(one),
    ];
    if let Some(source) = &one.source {
        let replicates =
            [text("StatusType", "read replication"), text("Normal", "true"), text("Status", "replicating")];
        fields.push(text("ReadReplicaSourceDBInstanceIdentifier", source));
        fields.push(element("StatusInfos", &element("DBInstanceStatusInfo", &replicates.concat())));
    }
    fields.concat()
}

fn tags(one: &DatabaseInstance) -> String {
    let tag =
        |(key, value): (&String, &String)| element("Tag", &[text("Key", key), text("Value", value)].concat());
    element("TagList", &one.tags.iter().map(tag).collect::<String>())
}
