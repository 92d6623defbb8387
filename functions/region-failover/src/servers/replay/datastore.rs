//! ElastiCache's answers about the Global Datastore.

use super::{ReplayedAws, refusal};
use crate::observation::{Obstacle, Role};

fn group(status: &str, info: &str) -> String {
    format!(
        "<DescribeReplicationGroupsResponse><DescribeReplicationGroupsResult><ReplicationGroups>
         <ReplicationGroup><ReplicationGroupId>redis-here</ReplicationGroupId><Status>{status}</Status>{info}
         </ReplicationGroup></ReplicationGroups></DescribeReplicationGroupsResult></DescribeReplicationGroupsResponse>"
    )
}

fn member(role: &str) -> String {
    let id = "<GlobalReplicationGroupId>ldgnf-fairdrop</GlobalReplicationGroupId>";
    format!(
        "<GlobalReplicationGroupInfo>{id}<GlobalReplicationGroupMemberRole>{role}</GlobalReplicationGroupMemberRole></GlobalReplicationGroupInfo>"
    )
}

#[tokio::test]
async fn the_role_is_that_of_this_region_s_group_and_a_group_without_one_has_left_the_datastore() {
    let without_role = "<GlobalReplicationGroupInfo/>".to_owned();
    for (status, info, expected) in [
        ("available", member("SECONDARY"), (Role::Secondary, true)),
        ("modifying", member("SECONDARY"), (Role::Secondary, false)),
        ("available", member("PRIMARY"), (Role::Primary, true)),
        ("modifying", member("PRIMARY"), (Role::Primary, false)),
        ("available", String::new(), (Role::Alone, true)),
        ("available", without_role, (Role::Alone, true)),
        ("modifying", String::new(), (Role::Alone, false)),
    ] {
        let aws = ReplayedAws::start(&[("DescribeReplicationGroups", 200, &group(status, &info))]).await;
        assert_eq!(aws.datastore().observe().await, Ok(expected), "{status} {info}");
        assert!(aws.sent("DescribeReplicationGroups")[0].contains("ReplicationGroupId=redis-here"));
    }
    let aws =
        ReplayedAws::start(&[("DescribeReplicationGroups", 404, &refusal("ReplicationGroupNotFoundFault"))])
            .await;
    assert!(aws.datastore().observe().await.is_err());
}

#[tokio::test]
async fn redis_is_moved_to_this_region_and_a_refusal_is_returned() {
    let done = "<FailoverGlobalReplicationGroupResponse><FailoverGlobalReplicationGroupResult/></FailoverGlobalReplicationGroupResponse>";
    let aws = ReplayedAws::start(&[("FailoverGlobalReplicationGroup", 200, done)]).await;
    aws.datastore().failover().await.unwrap();
    let sent = &aws.sent("FailoverGlobalReplicationGroup")[0];
    for part in [
        "GlobalReplicationGroupId=ldgnf-fairdrop",
        "PrimaryRegion=eu-west-1",
        "PrimaryReplicationGroupId=redis-here",
    ] {
        assert!(sent.contains(part), "{sent}");
    }
    let refused = refusal("InvalidGlobalReplicationGroupState");
    let aws = ReplayedAws::start(&[
        ("FailoverGlobalReplicationGroup", 400, &refused),
        ("DisassociateGlobalReplicationGroup", 400, &refused),
    ])
    .await;
    for obstacle in [aws.datastore().failover().await, aws.datastore().detach().await] {
        let Obstacle(why) = obstacle.unwrap_err();
        assert!(why.contains("InvalidGlobalReplicationGroupState"), "{why}");
    }
}
