//! RDS's answers about an instance, its class and the fence.

use super::{ReplayedAws, refusal};
use crate::observation::{Answer, Observation, Obstacle};
use crate::servers::instance::DEFINITE;

fn instances(fields: &str) -> String {
    format!(
        "<DescribeDBInstancesResponse><DescribeDBInstancesResult><DBInstances><DBInstance>
         <DBInstanceIdentifier>replica</DBInstanceIdentifier><DBInstanceClass>db.r6g.large</DBInstanceClass>
         <DBInstanceArn>arn:aws:rds:eu-west-1:1:db:replica</DBInstanceArn>{fields}
         </DBInstance></DBInstances></DescribeDBInstancesResult></DescribeDBInstancesResponse>"
    )
}

const SOURCE: &str = "<ReadReplicaSourceDBInstanceIdentifier>arn:aws:rds:us-east-1:1:db:main</ReadReplicaSourceDBInstanceIdentifier>";
const AVAILABLE: &str = "<DBInstanceStatus>available</DBInstanceStatus>";

#[tokio::test]
async fn an_instance_is_settled_unless_rds_changes_it_now_and_promoted_without_a_source() {
    let pending =
        "<PendingModifiedValues><DBInstanceClass>db.r6g.xlarge</DBInstanceClass></PendingModifiedValues>";
    for (fields, follows, is_settled) in [
        (format!("{AVAILABLE}{SOURCE}"), true, true),
        (format!("{AVAILABLE}{SOURCE}<PendingModifiedValues/>"), true, true),
        (format!("{AVAILABLE}{SOURCE}{pending}"), true, true),
        (format!("<DBInstanceStatus>storage-optimization</DBInstanceStatus>{SOURCE}"), true, true),
        (format!("<DBInstanceStatus>backing-up</DBInstanceStatus>{SOURCE}"), true, false),
        ("<DBInstanceStatus>rebooting</DBInstanceStatus>".into(), false, false),
        (AVAILABLE.into(), false, true),
    ] {
        let aws = ReplayedAws::start(&[("DescribeDBInstances", 200, &instances(&fields))]).await;
        let observation = aws.instances().observe(None).await;
        assert_eq!(
            observation,
            Ok(Observation::Instance { follows, is_settled, is_big_enough: Some(true) }),
            "{fields}"
        );
        let waits = aws.instances().pending().await;
        assert_eq!(waits == Ok(vec!["DBInstanceClass"]), fields.contains(pending), "{waits:?}");
    }
}

#[tokio::test]
async fn a_promoted_replica_keeps_its_backups() {
    let promoted = "<PromoteReadReplicaResponse><PromoteReadReplicaResult/></PromoteReadReplicaResponse>";
    let own = "<BackupRetentionPeriod>14</BackupRetentionPeriod><PreferredBackupWindow>03:00-03:30</PreferredBackupWindow>";
    for (fields, expected) in [
        (own, &["BackupRetentionPeriod=14", "PreferredBackupWindow=03%3A00-03%3A30"][..]),
        ("<BackupRetentionPeriod>0</BackupRetentionPeriod>", &[]),
    ] {
        let described = instances(&format!("{AVAILABLE}{SOURCE}{fields}"));
        let answers =
            [("DescribeDBInstances", 200, described.as_str()), ("PromoteReadReplica", 200, promoted)];
        let aws = ReplayedAws::start(&answers).await;
        aws.instances().promote().await.unwrap();
        let sent = &aws.sent("PromoteReadReplica")[0];
        assert!(expected.iter().all(|part| sent.contains(part)), "{sent}");
        // RDS's default of one day, and never none.
        assert_eq!(sent.contains("BackupRetentionPeriod"), !expected.is_empty(), "{sent}");
    }
}

#[tokio::test]
async fn a_refusal_of_rds_is_returned_as_an_obstacle() {
    for (code, status, expected) in [
        ("InvalidDBInstanceState", 400, "does not allow this call"),
        ("DBInstanceNotFound", 404, "does not exist"),
        ("Throttling", 400, "throttled"),
        ("AccessDenied", 403, "access denied"),
        ("InternalFailure", 500, "failed internally"),
        ("InvalidParameterCombination", 400, "InvalidParameterCombination"),
    ] {
        let described = instances(&format!("{AVAILABLE}{SOURCE}"));
        let refused = refusal(code);
        let answers =
            [("DescribeDBInstances", 200, described.as_str()), ("PromoteReadReplica", status, &refused)];
        let aws = ReplayedAws::start(&answers).await;
        let Obstacle(why) = aws.instances().promote().await.unwrap_err();
        assert!(why.contains("promoting the replica") && why.contains(expected), "{code}: {why}");
        assert_eq!(aws.sent("PromoteReadReplica").len(), 1);
    }
    let aws = ReplayedAws::start(&[("DescribeDBInstances", 404, &refusal("DBInstanceNotFound"))]).await;
    assert!(aws.instances().observe(None).await.is_err());
    let aws = ReplayedAws::start(&[("DescribeDBInstances", 200, "<html>busy</html>")]).await;
    assert!(aws.instances().observe(None).await.is_err());
}

#[tokio::test]
async fn the_class_is_raised_to_main_s_and_the_fence_counts_as_the_only_group() {
    let group = |id: &str, status: &str| {
        format!(
            "<VpcSecurityGroupMembership><VpcSecurityGroupId>{id}</VpcSecurityGroupId><Status>{status}</Status></VpcSecurityGroupMembership>"
        )
    };
    let observation = async |groups: String| {
        let groups = format!("{AVAILABLE}<VpcSecurityGroups>{groups}</VpcSecurityGroups>");
        let aws = ReplayedAws::start(&[("DescribeDBInstances", 200, &instances(&groups))]).await;
        let found = aws.instances().observe_old_main().await.unwrap();
        (found.is_closed, found.is_settled)
    };
    for (groups, is_up, is_settled) in [
        (group("sg-0f", "active"), true, true),
        (group("sg-0f", "adding"), false, false),
        (group("sg-0f", "active") + &group("sg-1", "removing"), false, false),
        (group("sg-0f", "active") + &group("sg-1", "active"), false, true),
        (group("sg-1", "active"), false, true),
        (String::new(), false, true),
    ] {
        assert_eq!(observation(groups).await, (is_up, is_settled));
    }

    let modified = "<ModifyDBInstanceResponse><ModifyDBInstanceResult/></ModifyDBInstanceResponse>";
    let described = instances(AVAILABLE);
    let aws =
        ReplayedAws::start(&[("DescribeDBInstances", 200, &described), ("ModifyDBInstance", 200, modified)])
            .await;
    aws.instances().fence().await.unwrap();
    aws.instances().raise(None).await.unwrap();
    let sent = aws.sent("ModifyDBInstance");
    assert!(sent[0].contains("DBInstanceIdentifier=main&"), "{}", sent[0]);
    assert!(sent[0].contains("VpcSecurityGroupIds.VpcSecurityGroupId.1=sg-0f"), "{}", sent[0]);
    assert!(sent[1].contains("DBInstanceIdentifier=replica&"), "{}", sent[1]);
    assert!(sent[1].contains("DBInstanceClass=db.r6g.large"), "{}", sent[1]);
    // The fence applies no other change that is pending on the old main.
    let is_immediate = |sent: &String| sent.contains("ApplyImmediately=true");
    assert_eq!(sent.iter().map(is_immediate).collect::<Vec<_>>(), [false, true], "{sent:?}");
}

#[tokio::test]
async fn the_old_main_s_instance_alone_is_rebooted_and_its_reboot_is_seen() {
    let rebooted = "<RebootDBInstanceResponse><RebootDBInstanceResult/></RebootDBInstanceResponse>";
    let groups =
        "<VpcSecurityGroups><VpcSecurityGroupMembership><VpcSecurityGroupId>sg-0f</VpcSecurityGroupId>
         <Status>active</Status></VpcSecurityGroupMembership></VpcSecurityGroups>";
    let shown = |status: &str| instances(&format!("<DBInstanceStatus>{status}</DBInstanceStatus>{groups}"));
    let (during, after) = (shown("rebooting"), shown("available"));
    let described = "DescribeDBInstances";
    let answers = [("RebootDBInstance", 200, rebooted), (described, 200, &during), (described, 200, &after)];
    let aws = ReplayedAws::start(&answers).await;
    aws.instances().reboot_old_main().await.unwrap();
    let sent = aws.sent("RebootDBInstance");
    assert!(sent.len() == 1 && sent[0].ends_with("DBInstanceIdentifier=main"), "{sent:?}");
    for is_rebooting in [true, false] {
        let found = aws.instances().observe_old_main().await.unwrap();
        assert_eq!((found.is_closed, found.is_rebooting), (true, is_rebooting));
    }
    let refused = refusal("InvalidDBInstanceState");
    let aws = ReplayedAws::start(&[("RebootDBInstance", 400, &refused)]).await;
    let Obstacle(why) = aws.instances().reboot_old_main().await.unwrap_err();
    assert!(why.contains("rebooting the old main") && why.contains("does not allow this call"), "{why}");
}

#[tokio::test]
async fn a_replica_that_has_the_old_main_s_name_is_neither_fenced_nor_rebooted() {
    let replica = instances(&format!("{AVAILABLE}{SOURCE}"));
    let aws = ReplayedAws::start(&[("DescribeDBInstances", 200, &replica)]).await;
    let Obstacle(why) = aws.instances().observe_old_main().await.unwrap_err();
    assert!(why.contains("main: it is a replica now") && why.contains("waive the step"), "{why}");
}

#[tokio::test]
async fn a_definite_refusal_of_a_class_is_told_from_a_state_that_ends() {
    let passing = ["InvalidDBInstanceState", "Throttling", "InternalFailure"];
    for code in DEFINITE.into_iter().chain(passing) {
        let (described, refused) = (instances(&format!("{AVAILABLE}{SOURCE}")), refusal(code));
        let status = match code {
            "DBInstanceNotFound" => 404,
            "InternalFailure" => 500,
            _ => 400,
        };
        let answers =
            [("DescribeDBInstances", 200, described.as_str()), ("ModifyDBInstance", status, &refused)];
        let aws = ReplayedAws::start(&answers).await;
        let answer = aws.instances().raise(None).await;
        assert_eq!(matches!(answer, Ok(Answer::Refused(_))), DEFINITE.contains(&code), "{code}: {answer:?}");
        assert_eq!(answer.is_err(), passing.contains(&code), "{code}: {answer:?}");
    }
}

#[tokio::test]
async fn a_lost_region_s_class_is_the_one_that_was_saved_and_otherwise_unknown() {
    let small = format!("{AVAILABLE}{SOURCE}");
    for (known, expected) in
        [(Some("db.r6g.xlarge"), Some(false)), (Some("db.r6g.large"), Some(true)), (None, None)]
    {
        // The replica is described, and after that main's region does not answer.
        let described = instances(&small);
        let answers = [("DescribeDBInstances", 200, described.as_str()), ("DescribeDBInstances", 503, "")];
        let aws = ReplayedAws::start(&answers).await;
        let observation = aws.instances().observe(known).await;
        assert_eq!(observation, Ok(Observation::instance("available", true, expected)), "{known:?}");
    }
}
