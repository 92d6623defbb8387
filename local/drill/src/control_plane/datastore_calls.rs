//! The actions of ElastiCache.

use super::ControlledAccount;
use super::api_error::ApiError;
use super::datastore::{GlobalDatastore, MemberRole};
use super::query::{Form, QueryResult};
use super::xml::{element, text};
use std::sync::Arc;

pub(super) fn answer(account: &ControlledAccount, region: &str, action: &str, form: &Form) -> QueryResult {
    let found = || -> Result<&Arc<GlobalDatastore>, ApiError> {
        let id = form.required("GlobalReplicationGroupId")?;
        account.datastore().filter(|datastore| datastore.id == id).ok_or_else(|| no_datastore(id))
    };
    match action {
        "FailoverGlobalReplicationGroup" => {
            form.check(&["GlobalReplicationGroupId", "PrimaryRegion", "PrimaryReplicationGroupId"])?;
            let datastore = found()?;
            let group = form.required("PrimaryReplicationGroupId")?;
            datastore.fail_over(form.required("PrimaryRegion")?, group)?;
            Ok(element("GlobalReplicationGroup", &describe(datastore, true)))
        }
        "DisassociateGlobalReplicationGroup" => {
            form.check(&["GlobalReplicationGroupId", "ReplicationGroupId", "ReplicationGroupRegion"])?;
            let datastore = found()?;
            let group = form.required("ReplicationGroupId")?;
            datastore.disassociate(form.required("ReplicationGroupRegion")?, group)?;
            Ok(element("GlobalReplicationGroup", &describe(datastore, true)))
        }
        "DescribeReplicationGroups" => groups(account, region, form),
        other => Err(ApiError::unknown(&format!("ElastiCache's action {other}"))),
    }
}

fn no_datastore(id: &str) -> ApiError {
    let why = format!("Global Replication Group {id} does not exist");
    ApiError::new(404, "GlobalReplicationGroupNotFoundFault", why)
}

fn role_name(role: MemberRole) -> &'static str {
    if role == MemberRole::Primary { "PRIMARY" } else { "SECONDARY" }
}

fn describe(datastore: &GlobalDatastore, with_members: bool) -> String {
    let mut fields =
        vec![text("GlobalReplicationGroupId", &datastore.id), text("Status", datastore.status())];
    if with_members {
        let members = datastore.members().into_iter().filter(|(_, role)| *role != MemberRole::Alone);
        let member = |(member, role): (&super::datastore::Member, MemberRole)| {
            let fields = [
                text("ReplicationGroupId", &member.group),
                text("ReplicationGroupRegion", &member.region),
                text("Role", role_name(role)),
                text("Status", "associated"),
            ];
            element("GlobalReplicationGroupMember", &fields.concat())
        };
        fields.push(element("Members", &members.map(member).collect::<String>()));
    }
    fields.concat()
}

fn groups(account: &ControlledAccount, region: &str, form: &Form) -> QueryResult {
    form.check(&["ReplicationGroupId", "MaxRecords"])?;
    let wanted = form.get("ReplicationGroupId");
    let mut groups = String::new();
    if let Some(datastore) = account.datastore() {
        for (member, role) in datastore.members() {
            if member.region != region || wanted.is_some_and(|wanted| wanted != member.group) {
                continue;
            }
            let info = datastore.described_role(role).map(|role| {
                let role = text("GlobalReplicationGroupMemberRole", role_name(role));
                [text("GlobalReplicationGroupId", &datastore.id), role].concat()
            });
            let info = info.unwrap_or_default();
            let is_changing = datastore.status() == "modifying";
            let status = if is_changing { "modifying" } else { "available" };
            let fields = [
                text("ReplicationGroupId", &member.group),
                text("Status", status),
                element("GlobalReplicationGroupInfo", &info),
            ];
            groups.push_str(&element("ReplicationGroup", &fields.concat()));
        }
    }
    match wanted {
        Some(wanted) if groups.is_empty() => {
            let why = format!("Replication group {wanted} not found.");
            Err(ApiError::new(404, "ReplicationGroupNotFoundFault", why))
        }
        _ => Ok(element("ReplicationGroups", &groups)),
    }
}
