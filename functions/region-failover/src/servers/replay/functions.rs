//! Lambda's answers about functions, and Scheduler's about schedules.

mod rights;
mod states;

use super::{ALIAS, HERE, ReplayedAws, VERSIONS, function};
use crate::observation::Obstacle;
use crate::servers::functions::StillNewest;

fn configuration(redis: &str, status: &str) -> String {
    format!(
        r#"{{"RevisionId":"rev-1","LastUpdateStatus":"{status}","Version":"$LATEST","Environment":{{"Variables":
        {{"FAIRDROP_MAIN_REDIS_URL":"{redis}","FAIRDROP_REPLICA_REDIS_URL":"rediss://copy:6379","FAIRDROP_TOKEN_JWKS":"keys"}}}}}}"#
    )
}

/// All functions but `name` are repointed already.
async fn repointing(name: &str, own: (u16, &str), more: &[(&str, u16, &str)]) -> ReplayedAws {
    let pointed = configuration("rediss://here:6379", "Successful");
    let aws = ReplayedAws::start(more).await;
    for other in HERE {
        let (status, answer) = if other == name { own } else { (200, pointed.as_str()) };
        aws.answer(&format!("GET {}", function(other)), status, answer);
    }
    aws.answer(&of_alias(), 200, &pointed);
    aws
}

/// The question about the version that serves orders.
fn of_alias() -> String {
    format!("GET {}?Qualifier=live", function("order-intake"))
}

#[tokio::test]
async fn repointing_changes_one_variable_and_keeps_the_others() {
    let put = format!("PUT {}", function("order-status"));
    let old = configuration("rediss://there:6379", "Successful");
    let aws = repointing("order-status", (200, &old), &[(&put, 200, "{}")]).await;
    assert_eq!(aws.functions().not_repointed(None).await, ["eu-west-1"]);
    aws.repoint().await.unwrap();
    let sent = aws.sent(&put);
    assert_eq!(sent.len(), 1, "the others are pointed");
    for part in ["rediss://here:6379", "rediss://copy:6379", "keys", r#""RevisionId":"rev-1""#] {
        assert!(sent[0].contains(part), "{part}: {}", sent[0]);
    }
    assert!(!sent[0].contains("there"), "{}", sent[0]);
    let aws = repointing("none", (200, ""), &[]).await;
    assert_eq!(aws.functions().not_repointed(None).await, Vec::<String>::new());
    aws.repoint().await.unwrap();
}

#[tokio::test]
async fn with_another_redis_this_region_s_functions_do_not_read_the_old_copy() {
    let put = format!("PUT {}", function("order-status"));
    // The orders go there already; the copy is of the datastore's member.
    let reads_copy = configuration("rediss://spare:6379", "Successful");
    let aws = repointing("order-status", (200, &reads_copy), &[(&put, 200, "{}")]).await;
    let mut functions = aws.functions();
    functions.send_orders_to("rediss://spare:6379".into());
    assert_eq!(functions.not_repointed(None).await, ["eu-west-1"]);
    // The other functions have no answer to their update.
    drop(functions.repoint(false, None, &|| Box::pin(async { Ok(()) })).await);
    let sent = aws.sent(&put);
    assert!(sent.len() == 1 && sent[0].contains(r#""FAIRDROP_REPLICA_REDIS_URL":"""#), "{sent:?}");
    assert!(sent[0].contains("rediss://spare:6379") && sent[0].contains("keys"), "{sent:?}");
}

#[tokio::test]
async fn unreadable_variables_are_not_written_and_a_change_in_progress_is_waited_for() {
    let denied = r#"{"RevisionId":"rev-1","Environment":{"Error":{"ErrorCode":"AccessDeniedException","Message":"kms"}}}"#;
    let aws = repointing("order-status", (200, denied), &[]).await;
    let Obstacle(why) = aws.repoint().await.unwrap_err();
    assert!(why.contains("cannot be read"), "{why}");
    let busy = configuration("rediss://there:6379", "InProgress");
    let aws = repointing("order-status", (200, &busy), &[]).await;
    aws.repoint().await.unwrap();
    assert_eq!(aws.functions().not_repointed(None).await, ["eu-west-1"]);
    let put = format!("PUT {}", function("order-status"));
    let old = configuration("rediss://there:6379", "Successful");
    let conflict = r#"{"__type":"ResourceConflictException","message":"an update is in progress"}"#;
    let aws = repointing("order-status", (200, &old), &[(&put, 409, conflict)]).await;
    let Obstacle(why) = aws.repoint().await.unwrap_err();
    assert!(why.contains("fairdrop-order-status"), "{why}");
}

#[tokio::test]
async fn an_execution_that_was_overtaken_sends_no_orders_back() {
    let old = configuration("rediss://there:6379", "Successful");
    let (put, publish) = (format!("PUT {}", function("order-status")), format!("POST {VERSIONS}"));
    let update = format!("PUT {ALIAS}");
    for (is_behind, change) in [("order-status", &put), ("the alias", &update)] {
        let more = [(change.as_str(), 200, "{}"), (publish.as_str(), 201, r#"{"Version":"7"}"#)];
        let aws = repointing(is_behind, (200, &old), &more).await;
        if is_behind == "the alias" {
            aws.answer(&of_alias(), 200, &old);
        }
        let overtaken: &StillNewest<'_> = &|| Box::pin(async { Err(Obstacle("overtaken".into())) });
        let refused = aws.functions().repoint(true, None, overtaken).await;
        assert_eq!((refused, aws.sent(change).len()), (Err(Obstacle("overtaken".into())), 0), "{is_behind}");
        aws.repoint().await.unwrap();
        assert_eq!(aws.sent(change).len(), 1, "{is_behind}");
    }
}

#[tokio::test]
async fn a_failed_update_is_repeated() {
    // Lambda keeps the old variables, also if the update failed.
    for redis in ["rediss://there:6379", "rediss://here:6379"] {
        let put = format!("PUT {}", function("order-status"));
        let failed = configuration(redis, "Failed");
        let aws = repointing("order-status", (200, &failed), &[(&put, 200, "{}")]).await;
        assert_eq!(aws.functions().not_repointed(None).await, ["eu-west-1"]);
        aws.repoint().await.unwrap();
        assert!(aws.sent(&put)[0].contains("rediss://here:6379"), "{redis}");
    }
}

#[tokio::test]
async fn intake_is_repointed_by_a_version_and_its_alias() {
    let (publish, update) = (format!("POST {VERSIONS}"), format!("PUT {ALIAS}"));
    let more = [
        (publish.as_str(), 201, r#"{"Version":"7"}"#),
        (update.as_str(), 200, r#"{"Name":"live","FunctionVersion":"7"}"#),
    ];
    let aws = repointing("none", (200, ""), &more).await;
    aws.answer(&of_alias(), 200, &configuration("rediss://there:6379", "Successful"));
    aws.repoint().await.unwrap();
    assert!(aws.sent(&publish)[0].contains("rev-1"));
    assert!(aws.sent(&update)[0].contains(r#""FunctionVersion":"7""#));
}

#[tokio::test]
async fn a_schedule_is_enabled_with_all_its_fields() {
    let schedule = |state: &str| {
        format!(
            r#"{{"Name":"x","GroupName":"default","State":"{state}","ScheduleExpression":"rate(1 minute)","Description":"d",
            "FlexibleTimeWindow":{{"Mode":"OFF"}},"Target":{{"Arn":"arn:aws:lambda:eu-west-1:123456789012:function:fairdrop-checkout-drain","RoleArn":"arn:aws:iam::123456789012:role/fairdrop-drain",
            "RetryPolicy":{{"MaximumRetryAttempts":0,"MaximumEventAgeInSeconds":60}}}}}}"#
        )
    };
    let concurrency = |name: &str| format!("GET /2019-09-30/functions/fairdrop-{name}/concurrency");
    let of_old_api =
        |method: &str, name: &str| format!("{method} /2017-10-31/functions/fairdrop-{name}/concurrency");
    let updated =
        r#"{"ScheduleArn":"arn:aws:scheduler:eu-west-1:123456789012:schedule/default/fairdrop-drain"}"#;
    let aws = ReplayedAws::start(&[("PUT /schedules/fairdrop-drain", 200, updated)]).await;
    aws.answer("GET /schedules/fairdrop-drain", 200, &schedule("DISABLED"));
    aws.answer("GET /schedules/fairdrop-worker", 200, &schedule("ENABLED"));
    for name in ["checkout-drain", "checkout-worker", "order-confirm", "drop-admin"] {
        aws.answer(&concurrency(name), 200, "{}");
        aws.answer(&of_old_api("DELETE", name), 204, "");
    }
    aws.answer(&of_old_api("PUT", "checkout-drain"), 200, r#"{"ReservedConcurrentExecutions":6}"#);
    // The quota does not suffice for order-confirm.
    let too_small =
        r#"{"__type":"InvalidParameterValueException","message":"UnreservedConcurrentExecution"}"#;
    aws.answer(&of_old_api("PUT", "order-confirm"), 400, too_small);
    assert_eq!(aws.functions().may_run().await, Ok(false));
    aws.functions().enable_main().await.unwrap();
    let reserved = aws.sent(&of_old_api("PUT", "checkout-drain"));
    assert_eq!(reserved, [r#"{"ReservedConcurrentExecutions":6}"#]);
    assert_eq!(aws.sent(&of_old_api("DELETE", "order-confirm")).len(), 1);
    let sent = &aws.sent("PUT /schedules/fairdrop-drain")[0];
    for part in [
        "ENABLED",
        "rate(1 minute)",
        "arn:aws:iam::123456789012:role/fairdrop-drain",
        "MaximumEventAgeInSeconds",
        r#""GroupName":"default""#,
    ] {
        assert!(sent.contains(part), "{part}: {sent}");
    }
    aws.answer(&concurrency("checkout-drain"), 200, r#"{"ReservedConcurrentExecutions":0}"#);
    assert_eq!(aws.functions().may_run().await, Ok(false));
}
