//! AWS's answers, replayed to the real SDKs: what each of them means, and what is sent.

use super::datastore::Datastore;
use super::functions::Functions;
use super::instance::Instances;
use crate::seen::{Role, Seen, Trouble};
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Answers by what is asked (`Action` of the query protocol, otherwise method and path); the last of a list
/// stays.
struct Aws {
    config: SdkConfig,
    /// What was asked and sent, in order.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

type Answers = HashMap<String, Vec<(u16, String)>>;

impl Aws {
    async fn start(answers: &[(&str, u16, &str)]) -> Self {
        let mut by_question: Answers = HashMap::new();
        // What is not deployed everywhere is not deployed here.
        let not_found = r#"{"__type":"ResourceNotFoundException","Message":"Function not found"}"#;
        for name in ["order-intake-managed", "live-updates", "live-publish"] {
            for alias in ["", "?Qualifier=live"] {
                by_question.insert(format!("GET {}{alias}", function(name)), vec![(404, not_found.into())]);
            }
        }
        for (question, status, answer) in answers {
            by_question.entry((*question).to_owned()).or_default().push((*status, (*answer).to_owned()));
        }
        let (answers, asked) = (Arc::new(Mutex::new(by_question)), Arc::new(Mutex::new(Vec::new())));
        let log = asked.clone();
        let app = axum::Router::new().fallback(move |request: Request| {
            let (answers, log) = (answers.clone(), log.clone());
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                let action = body.split('&').find_map(|pair| pair.strip_prefix("Action=").map(str::to_owned));
                let question = action.unwrap_or(line);
                log.lock().unwrap().push((question.clone(), body));
                let mut answers = answers.lock().unwrap();
                let Some(list) = answers.get_mut(&question) else {
                    return (StatusCode::NOT_IMPLEMENTED, format!("no answer to {question}")).into_response();
                };
                let (status, answer) = if list.len() > 1 { list.remove(0) } else { list[0].clone() };
                (StatusCode::from_u16(status).unwrap(), answer).into_response()
            }
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let credentials = aws_credential_types::Credentials::new("test", "test", None, None, "test");
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .endpoint_url(url)
            .credentials_provider(credentials)
            .retry_config(RetryConfig::disabled())
            .load()
            .await;
        Self { config, asked }
    }

    fn source(name: &str) -> Option<String> {
        let value = match name {
            "FAIRDROP_REPLICA_INSTANCE" => "replica",
            "FAIRDROP_MAIN_INSTANCE" => "main",
            "FAIRDROP_FENCE_GROUP" => "sg-0f",
            "FAIRDROP_REDIS_DATASTORE" => "ldgnf-fairdrop",
            "FAIRDROP_REDIS_GROUP" => "redis-here",
            "FAIRDROP_REGIONS" => "eu-west-1",
            "FAIRDROP_STACK" => "fairdrop",
            "FAIRDROP_STANDBY_REDIS_URL" => "rediss://here:6379",
            "FAIRDROP_DRAIN_SCHEDULE" => "drain-every-minute",
            "FAIRDROP_WORKER_SCHEDULE" => "worker-every-minute",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn instances(&self) -> Instances {
        Instances::from_config(&Self::source, &self.config, "eu-west-1", "us-east-1").unwrap()
    }

    fn datastore(&self) -> Datastore {
        Datastore::from_config(&Self::source, &self.config, "eu-west-1").unwrap()
    }

    fn functions(&self) -> Functions {
        Functions::from_config(&Self::source, &self.config, "eu-west-1").unwrap()
    }

    /// What was sent with each `question`.
    fn sent(&self, question: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(asked, _)| asked == question).map(|(_, body)| body.clone()).collect()
    }
}

fn instances(fields: &str) -> String {
    format!(
        "<DescribeDBInstancesResponse><DescribeDBInstancesResult><DBInstances><DBInstance>
         <DBInstanceIdentifier>replica</DBInstanceIdentifier><DBInstanceClass>db.r6g.large</DBInstanceClass>
         <DBInstanceArn>arn:aws:rds:eu-west-1:1:db:replica</DBInstanceArn>{fields}
         </DBInstance></DBInstances></DescribeDBInstancesResult></DescribeDBInstancesResponse>"
    )
}

fn refusal(code: &str) -> String {
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
    )
}

const SOURCE: &str = "<ReadReplicaSourceDBInstanceIdentifier>arn:aws:rds:us-east-1:1:db:main</ReadReplicaSourceDBInstanceIdentifier>";
const AVAILABLE: &str = "<DBInstanceStatus>available</DBInstanceStatus>";

#[tokio::test]
async fn an_instance_is_settled_once_nothing_is_done_to_it_and_promoted_once_it_has_no_source() {
    let pending =
        "<PendingModifiedValues><DBInstanceClass>db.r6g.xlarge</DBInstanceClass></PendingModifiedValues>";
    for (fields, follows, is_settled) in [
        (format!("{AVAILABLE}{SOURCE}"), true, true),
        (format!("{AVAILABLE}{SOURCE}<PendingModifiedValues/>"), true, true),
        (format!("{AVAILABLE}{SOURCE}{pending}"), true, false),
        (format!("<DBInstanceStatus>backing-up</DBInstanceStatus>{SOURCE}"), true, false),
        ("<DBInstanceStatus>rebooting</DBInstanceStatus>".into(), false, false),
        (AVAILABLE.into(), false, true),
    ] {
        let aws = Aws::start(&[("DescribeDBInstances", 200, &instances(&fields))]).await;
        let seen = aws.instances().look().await;
        assert_eq!(seen, Ok(Seen::Instance { follows, is_settled, is_big_enough: true }), "{fields}");
    }
}

#[tokio::test]
async fn what_rds_refuses_is_told_and_waited_for() {
    for (code, status, expected) in [
        ("InvalidDBInstanceState", 400, "not in a state"),
        ("DBInstanceNotFound", 404, "does not exist"),
        ("Throttling", 400, "throttling"),
        ("AccessDenied", 403, "access denied"),
        ("InternalFailure", 500, "not well"),
        ("InvalidParameterCombination", 400, "InvalidParameterCombination"),
    ] {
        let aws = Aws::start(&[("PromoteReadReplica", status, &refusal(code))]).await;
        let Trouble(why) = aws.instances().promote().await.unwrap_err();
        assert!(why.contains("promoting the replica") && why.contains(expected), "{code}: {why}");
        assert_eq!(aws.sent("PromoteReadReplica").len(), 1);
    }
    let aws = Aws::start(&[("DescribeDBInstances", 404, &refusal("DBInstanceNotFound"))]).await;
    assert!(aws.instances().look().await.is_err());
    let aws = Aws::start(&[("DescribeDBInstances", 200, "<html>busy</html>")]).await;
    assert!(aws.instances().look().await.is_err());
}

#[tokio::test]
async fn the_class_is_raised_to_main_s_and_the_fence_counts_once_it_is_the_only_group() {
    let group = |id: &str, status: &str| {
        format!(
            "<VpcSecurityGroupMembership><VpcSecurityGroupId>{id}</VpcSecurityGroupId><Status>{status}</Status></VpcSecurityGroupMembership>"
        )
    };
    let seen = async |groups: String| {
        let groups = format!("{AVAILABLE}<VpcSecurityGroups>{groups}</VpcSecurityGroups>");
        let aws = Aws::start(&[("DescribeDBInstances", 200, &instances(&groups))]).await;
        aws.instances().look_at_fence().await
    };
    for (groups, is_up, is_settled) in [
        (group("sg-0f", "active"), true, true),
        (group("sg-0f", "adding"), false, false),
        (group("sg-0f", "active") + &group("sg-1", "removing"), false, false),
        (group("sg-0f", "active") + &group("sg-1", "active"), false, true),
        (group("sg-1", "active"), false, true),
        (String::new(), false, true),
    ] {
        assert_eq!(seen(groups).await, Ok(Seen::Fence { is_up, is_settled }));
    }

    let modified = "<ModifyDBInstanceResponse><ModifyDBInstanceResult/></ModifyDBInstanceResponse>";
    let described = instances(AVAILABLE);
    let aws =
        Aws::start(&[("DescribeDBInstances", 200, &described), ("ModifyDBInstance", 200, modified)]).await;
    aws.instances().fence().await.unwrap();
    aws.instances().raise().await.unwrap();
    let sent = aws.sent("ModifyDBInstance");
    assert!(sent[0].contains("DBInstanceIdentifier=main&"), "{}", sent[0]);
    assert!(sent[0].contains("VpcSecurityGroupIds.VpcSecurityGroupId.1=sg-0f"), "{}", sent[0]);
    assert!(sent[1].contains("DBInstanceIdentifier=replica&"), "{}", sent[1]);
    assert!(sent[1].contains("DBInstanceClass=db.r6g.large"), "{}", sent[1]);
    assert!(sent.iter().all(|sent| sent.contains("ApplyImmediately=true")), "{sent:?}");
}

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
async fn redis_is_what_the_datastore_says_of_this_region_s_group() {
    for (status, role, expected) in [
        ("available", "SECONDARY", (Role::Secondary, true)),
        ("modifying", "SECONDARY", (Role::Secondary, false)),
        ("available", "PRIMARY", (Role::Primary, true)),
        ("modifying", "PRIMARY", (Role::Primary, false)),
    ] {
        let answer = datastore(status, role, "redis-here");
        let aws = Aws::start(&[("DescribeGlobalReplicationGroups", 200, &answer)]).await;
        assert_eq!(aws.datastore().look().await, Ok(expected), "{status} {role}");
        assert!(aws.sent("DescribeGlobalReplicationGroups")[0].contains("ShowMemberInfo=true"));
    }
    // It is no member any more: detached.
    let group = "<DescribeReplicationGroupsResponse><DescribeReplicationGroupsResult><ReplicationGroups>
        <ReplicationGroup><ReplicationGroupId>redis-here</ReplicationGroupId><Status>available</Status>
        </ReplicationGroup></ReplicationGroups></DescribeReplicationGroupsResult></DescribeReplicationGroupsResponse>";
    let aws = Aws::start(&[
        ("DescribeGlobalReplicationGroups", 200, &datastore("available", "SECONDARY", "another")),
        ("DescribeReplicationGroups", 200, group),
    ])
    .await;
    assert_eq!(aws.datastore().look().await, Ok((Role::Alone, true)));
}

#[tokio::test]
async fn redis_is_moved_to_this_region_and_a_refusal_is_told() {
    let done = "<FailoverGlobalReplicationGroupResponse><FailoverGlobalReplicationGroupResult/></FailoverGlobalReplicationGroupResponse>";
    let aws = Aws::start(&[("FailoverGlobalReplicationGroup", 200, done)]).await;
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
    let aws = Aws::start(&[
        ("FailoverGlobalReplicationGroup", 400, &refused),
        ("DisassociateGlobalReplicationGroup", 400, &refused),
    ])
    .await;
    for trouble in [aws.datastore().failover().await, aws.datastore().detach().await] {
        let Trouble(why) = trouble.unwrap_err();
        assert!(why.contains("InvalidGlobalReplicationGroupState"), "{why}");
    }
}

fn function(name: &str) -> String {
    format!("/2015-03-31/functions/fairdrop-{name}/configuration")
}

fn configuration(redis: &str, status: &str) -> String {
    format!(
        r#"{{"RevisionId":"rev-1","LastUpdateStatus":"{status}","Version":"$LATEST","Environment":{{"Variables":
        {{"FAIRDROP_MAIN_REDIS_URL":"{redis}","FAIRDROP_REPLICA_REDIS_URL":"rediss://copy:6379","FAIRDROP_TOKEN_JWKS":"keys"}}}}}}"#
    )
}

/// Only `name` is asked about: the others are pointed already.
async fn pointing(name: &str, own: (u16, &str), more: &[(&str, u16, &str)]) -> Aws {
    let pointed = configuration("rediss://here:6379", "Successful");
    let all =
        ["order-intake", "order-status", "checkout-drain", "checkout-worker", "order-confirm", "drop-admin"];
    let mut questions: Vec<(String, u16, String)> = all
        .into_iter()
        .map(|other| {
            let (status, answer) = if other == name { own } else { (200, pointed.as_str()) };
            (format!("GET {}", function(other)), status, answer.to_owned())
        })
        .collect();
    questions.push((format!("GET {}?Qualifier=live", function("order-intake")), 200, pointed.clone()));
    questions.extend(
        more.iter().map(|(question, status, answer)| ((*question).into(), *status, (*answer).into())),
    );
    let borrowed: Vec<(&str, u16, &str)> = questions
        .iter()
        .map(|(question, status, answer)| (question.as_str(), *status, answer.as_str()))
        .collect();
    Aws::start(&borrowed).await
}

#[tokio::test]
async fn a_function_is_pointed_by_the_one_variable_and_keeps_the_others() {
    let put = format!("PUT {}", function("order-status"));
    let old = configuration("rediss://there:6379", "Successful");
    let aws = pointing("order-status", (200, &old), &[(&put, 200, "{}")]).await;
    assert_eq!(aws.functions().not_pointed(None).await, ["eu-west-1"]);
    aws.functions().point(true, None).await.unwrap();
    let sent = aws.sent(&put);
    assert_eq!(sent.len(), 1, "the others are pointed");
    for part in ["rediss://here:6379", "rediss://copy:6379", "keys", r#""RevisionId":"rev-1""#] {
        assert!(sent[0].contains(part), "{part}: {}", sent[0]);
    }
    assert!(!sent[0].contains("there"), "{}", sent[0]);
    let aws = pointing("none", (200, ""), &[]).await;
    assert_eq!(aws.functions().not_pointed(None).await, Vec::<String>::new());
    aws.functions().point(true, None).await.unwrap();
}

#[tokio::test]
async fn variables_that_cannot_be_read_are_not_written_and_a_change_under_way_is_waited_for() {
    let denied = r#"{"RevisionId":"rev-1","Environment":{"Error":{"ErrorCode":"AccessDeniedException","Message":"kms"}}}"#;
    let aws = pointing("order-status", (200, denied), &[]).await;
    let Trouble(why) = aws.functions().point(true, None).await.unwrap_err();
    assert!(why.contains("cannot be read"), "{why}");
    let busy = configuration("rediss://there:6379", "InProgress");
    let aws = pointing("order-status", (200, &busy), &[]).await;
    aws.functions().point(true, None).await.unwrap();
    assert_eq!(aws.functions().not_pointed(None).await, ["eu-west-1"]);
    let put = format!("PUT {}", function("order-status"));
    let old = configuration("rediss://there:6379", "Successful");
    let conflict = r#"{"__type":"ResourceConflictException","message":"an update is in progress"}"#;
    let aws = pointing("order-status", (200, &old), &[(&put, 409, conflict)]).await;
    let Trouble(why) = aws.functions().point(true, None).await.unwrap_err();
    assert!(why.contains("fairdrop-order-status"), "{why}");
}

#[tokio::test]
async fn intake_is_pointed_by_a_version_and_its_alias() {
    let pointed = configuration("rediss://here:6379", "Successful");
    let alias = format!("GET {}?Qualifier=live", function("order-intake"));
    let publish = "POST /2015-03-31/functions/fairdrop-order-intake/versions";
    let update = "PUT /2015-03-31/functions/fairdrop-order-intake/aliases/live";
    let old = configuration("rediss://there:6379", "Successful");
    let mut answers = vec![
        (alias.as_str(), 200, old.as_str()),
        (publish, 201, r#"{"Version":"7"}"#),
        (update, 200, r#"{"Name":"live","FunctionVersion":"7"}"#),
    ];
    let questions: Vec<String> =
        ["order-intake", "order-status", "checkout-drain", "checkout-worker", "order-confirm", "drop-admin"]
            .iter()
            .map(|name| format!("GET {}", function(name)))
            .collect();
    answers.extend(questions.iter().map(|question| (question.as_str(), 200, pointed.as_str())));
    let aws = Aws::start(&answers).await;
    aws.functions().point(true, None).await.unwrap();
    assert!(aws.sent(publish)[0].contains("rev-1"));
    assert!(aws.sent(update)[0].contains(r#""FunctionVersion":"7""#));
}

#[tokio::test]
async fn a_schedule_is_put_on_with_all_that_it_was() {
    let schedule = |state: &str| {
        format!(
            r#"{{"Name":"x","GroupName":"default","State":"{state}","ScheduleExpression":"rate(1 minute)","Description":"d",
            "FlexibleTimeWindow":{{"Mode":"OFF"}},"Target":{{"Arn":"arn:aws:lambda:x","RoleArn":"arn:aws:iam::1:role/r",
            "RetryPolicy":{{"MaximumRetryAttempts":0,"MaximumEventAgeInSeconds":60}}}}}}"#
        )
    };
    let (on, off) = (schedule("ENABLED"), schedule("DISABLED"));
    let concurrency = |name: &str| format!("/2019-09-30/functions/fairdrop-{name}/concurrency");
    let names = ["checkout-drain", "checkout-worker", "order-confirm", "drop-admin"];
    let lifted: Vec<String> = names
        .iter()
        .map(|name| format!("DELETE /2017-10-31/functions/fairdrop-{name}/concurrency"))
        .collect();
    let asked: Vec<String> = names.iter().map(|name| format!("GET {}", concurrency(name))).collect();
    let mut answers = vec![
        ("GET /schedules/drain-every-minute", 200, off.as_str()),
        ("GET /schedules/worker-every-minute", 200, on.as_str()),
        ("PUT /schedules/drain-every-minute", 200, r#"{"ScheduleArn":"arn"}"#),
    ];
    answers.extend(lifted.iter().map(|question| (question.as_str(), 204, "")));
    answers.extend(asked.iter().map(|question| (question.as_str(), 200, "{}")));
    let aws = Aws::start(&answers).await;
    assert_eq!(aws.functions().may_run().await, Ok(false));
    aws.functions().let_run().await.unwrap();
    let sent = &aws.sent("PUT /schedules/drain-every-minute")[0];
    for part in [
        "ENABLED",
        "rate(1 minute)",
        "arn:aws:iam::1:role/r",
        "MaximumEventAgeInSeconds",
        r#""GroupName":"default""#,
    ] {
        assert!(sent.contains(part), "{part}: {sent}");
    }
    let mut parked = answers.clone();
    parked.retain(|(question, ..)| *question != asked[0].as_str());
    parked.push((asked[0].as_str(), 200, r#"{"ReservedConcurrentExecutions":0}"#));
    let aws = Aws::start(&parked).await;
    assert_eq!(aws.functions().may_run().await, Ok(false));
}
