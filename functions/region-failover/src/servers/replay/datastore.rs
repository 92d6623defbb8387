//! ElastiCache's answers about the Global Datastore.

use super::{ReplayedAws, refusal};
use crate::observation::{Obstacle, Role};

fn datastore(status: &str, role: &str, member: &str) -> String {
    format!(
        "<DescribeGlobalReplicationGroupsResponse><DescribeGlobalReplicationGroupsResult>
         <GlobalReplicationGroups><GlobalReplicationGroup>
         <GlobalReplicationGroupId>ldgnf-fairdrop</GlobalReplicationGroupId><Status>{status}</Status><Members>
         <GlobalReplicationGroupMember><ReplicationGroupId>redis-there</ReplicationGroupId>
         <ReplicationGroupRegion>us-east-1</ReplicationGroupRegion><Role>PRIMARY</Role><Status>associated</Status>
         </GlobalReplicationGroupMember>
         <GlobalReplicationGroupMember><ReplicationGroupId>{member}</ReplicationGroupId>
         <ReplicationGroupRegion>eu-west-1</ReplicationGroupRegion><Role>{role}</Role><Status>associated</Status>
         </GlobalReplicationGroupMember></Members></GlobalReplicationGroup></GlobalReplicationGroups>
         </DescribeGlobalReplicationGroupsResult></DescribeGlobalReplicationGroupsResponse>"
    )
}

#[tokio::test]
async fn the_role_is_that_of_this_region_s_group() {
    for (status, role, expected) in [
        ("available", "SECONDARY", (Role::Secondary, true)),
        ("modifying", "SECONDARY", (Role::Secondary, false)),
        ("available", "PRIMARY", (Role::Primary, true)),
        ("modifying", "PRIMARY", (Role::Primary, false)),
    ] {
        let answer = datastore(status, role, "redis-here");
        let aws = ReplayedAws::start(&[("DescribeGlobalReplicationGroups", 200, &answer)]).await;
        assert_eq!(aws.datastore().observe().await, Ok(expected), "{status} {role}");
        assert!(aws.sent("DescribeGlobalReplicationGroups")[0].contains("ShowMemberInfo=true"));
    }
    // No member any more: detached.
    let group = "<DescribeReplicationGroupsResponse><DescribeReplicationGroupsResult><ReplicationGroups>
        <ReplicationGroup><ReplicationGroupId>redis-here</ReplicationGroupId><Status>available</Status>
        </ReplicationGroup></ReplicationGroups></DescribeReplicationGroupsResult></DescribeReplicationGroupsResponse>";
    let aws = ReplayedAws::start(&[
        ("DescribeGlobalReplicationGroups", 200, &datastore("available", "SECONDARY", "another")),
        ("DescribeReplicationGroups", 200, group),
    ])
    .await;
    assert_eq!(aws.datastore().observe().await, Ok((Role::Alone, true)));
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
