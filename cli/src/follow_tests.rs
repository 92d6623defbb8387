use super::*;
use serde_json::Value;
use std::sync::Mutex;

const FOLLOWING: Following =
    Following { drill: false, begins: true, goal: State::Done, limit: Duration::from_secs(600) };

/// Answers `status` with the next of `states` (the last one repeats), and the command after `takes`.
struct Region {
    states: Mutex<Vec<Value>>,
    takes: Duration,
    ends: Result<Value, &'static str>,
}

fn report(id: &str, state: &str, last: &str) -> Value {
    let step = json!({ "step": "move_redis", "took_ms": 2_000, "is_done": state == "done", "actions": 1, "last": last });
    json!({ "run": { "id": id, "state": state }, "steps": [step], "means": format!("it is {state}"), "to_do": [] })
}

fn answer(value: Value) -> Answer {
    Answer { raw: value.to_string(), value }
}

/// The status, or the failure that stands in its place.
async fn status_or_failure(state: Value) -> Result<Answer, Failure> {
    let function = String::from("f");
    let not_invoked =
        |is_lasting, why: &str| Failure::NotInvoked { function: "f".into(), why: why.into(), is_lasting };
    match state.as_str() {
        None => Ok(answer(state)),
        Some("no run") => Err(Failure::Refused { function, problem: json!({ "errorType": "NoActiveRun" }) }),
        Some("throttled") => Err(not_invoked(false, "TooManyRequestsException")),
        Some("denied") => Err(not_invoked(true, "ExpiredTokenException")),
        Some("no route") => Err(Failure::Unknown { function, why: "dispatch failure".into() }),
        Some(_) => {
            sleep(Duration::from_secs(3_600)).await;
            Ok(answer(json!({})))
        }
    }
}

impl Region {
    fn next_state(&self) -> Value {
        let mut states = self.states.lock().unwrap();
        if states.len() > 1 { states.remove(0) } else { states[0].clone() }
    }
}

impl Invoke for Region {
    async fn invoke(&self, call: &Call) -> Result<Answer, Failure> {
        if call.payload["command"] == "status" {
            return status_or_failure(self.next_state()).await;
        }
        sleep(self.takes).await;
        match &self.ends {
            Ok(value) => Ok(answer(value.clone())),
            Err("unknown") => {
                Err(Failure::Unknown { function: "f".into(), why: "the connection was lost".into() })
            }
            Err(kind) => {
                Err(Failure::Refused { function: "f".into(), problem: json!({ "errorType": kind }) })
            }
        }
    }
}

async fn followed(
    states: &[Value],
    takes_seconds: u64,
    ends: Result<Value, &'static str>,
    following: Following,
) -> Result<Ended, Failure> {
    let takes = Duration::from_secs(takes_seconds);
    let region = Region { states: Mutex::new(states.to_vec()), takes, ends };
    follow(&region, &Call::new(Function::RegionFailover, "run", &json!({})), following).await
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_the_invocation_ends_it() {
    let states = [report("old", "done", ""), report("new", "running", "waits")];
    let ended = followed(&states, 60, Ok(report("new", "done", "")), FOLLOWING).await.unwrap();
    assert_eq!(ended.answer.value["run"]["id"], "new");
    assert!(ended.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_it_at_once() {
    let failure =
        followed(&[report("old", "done", "")], 1, Err("AlreadyActive"), FOLLOWING).await.unwrap_err();
    assert_eq!(failure.exit_code(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_followed_by_the_status_and_the_run_before_is_not_taken_for_this_one() {
    let states = [
        report("old", "done", ""),
        report("old", "done", ""),
        report("new", "running", ""),
        report("new", "done", ""),
    ];
    let ended = followed(&states, 1, Err("unknown"), FOLLOWING).await.unwrap();
    assert_eq!(ended.answer.value["run"]["id"], "new");
}

/// Last month's failover is done, and the first status does not say so.
#[tokio::test(start_paused = true)]
async fn a_run_before_the_command_is_never_taken_for_its_own() {
    let old = report("old", "done", "");
    for failure in ["throttled", "silent", "no route"] {
        let states = [
            json!(failure),
            old.clone(),
            old.clone(),
            report("new", "running", ""),
            report("new", "done", ""),
        ];
        let ended = followed(&states, 1_000, Err("unknown"), FOLLOWING).await.unwrap();
        assert_eq!(ended.answer.value["run"]["id"], "new", "{failure}");
    }
    let states = [json!("no run"), json!("no run"), report("new", "done", "")];
    let ended = followed(&states, 1_000, Err("unknown"), FOLLOWING).await.unwrap();
    assert_eq!(ended.answer.value["run"]["id"], "new");
}

#[tokio::test(start_paused = true)]
async fn without_a_status_nothing_is_begun() {
    for (failure, at_most_seconds) in [("denied", 1), ("throttled", 90), ("silent", 90), ("no route", 90)] {
        let started = Instant::now();
        // The invocation would succeed.
        let refused =
            followed(&[json!(failure)], 1, Ok(report("new", "done", "")), FOLLOWING).await.unwrap_err();
        assert!(matches!(refused, Failure::NotInvoked { .. }), "{failure}: {refused}");
        assert!(started.elapsed().as_secs() <= at_most_seconds, "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_run_was_never_seen_is_unknown_within_minutes() {
    let old = report("old", "done", "");
    let lost = [old.clone(), json!("no route")];
    let expired = [old.clone(), json!("denied")];
    // The status answers, and no run appears.
    let absent = [old.clone(), old];
    for (states, cause) in
        [(&lost, "dispatch failure"), (&expired, "ExpiredToken"), (&absent, "no run of this command")]
    {
        let started = Instant::now();
        let failure = followed(states, 1, Err("unknown"), FOLLOWING).await.unwrap_err();
        assert!(matches!(failure, Failure::Unknown { .. }), "{failure}");
        let text = failure.to_string();
        assert!(text.contains(cause) && !text.contains("goes on"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(120), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_seen_goes_on_although_its_status_cannot_be_read() {
    let states = [report("old", "done", ""), report("new", "running", ""), json!("denied")];
    let failure = followed(&states, 1, Err("unknown"), FOLLOWING).await.unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    let text = failure.to_string();
    assert!(
        text.contains("the run new") && text.contains("goes on") && text.contains("ExpiredToken"),
        "{text}"
    );
    // The invocation answers although the credentials have expired.
    let ended = followed(&states, 60, Ok(report("new", "done", "")), FOLLOWING).await.unwrap();
    assert!(ended.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_outlasts_its_invocation_is_followed_until_the_limit() {
    let active = report("new", "running", "waits for RDS");
    let states = [report("old", "done", ""), active.clone()];
    let started = Instant::now();
    let failure = followed(&states, 60, Ok(active), FOLLOWING).await.unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert!(failure.to_string().contains("10 minutes"), "{failure}");
    assert!((600..620).contains(&started.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn the_final_state_decides_the_exit_code() {
    let code = async |state: &str, goal: State| {
        let following = Following { begins: false, goal, ..FOLLOWING };
        let ended =
            followed(&[report("r", "running", "")], 1, Ok(report("r", state, "")), following).await.unwrap();
        ended.result.map_or_else(|failure| failure.exit_code(), |()| 0)
    };
    assert_eq!(code("done", State::Done).await, 0);
    assert_eq!(code("degraded", State::Done).await, 3);
    assert_eq!(code("aborted", State::Done).await, 1);
    assert_eq!(code("aborted", State::Aborted).await, 0);
}

#[test]
fn a_step_is_printed_when_it_begins_waits_for_something_else_and_ends() {
    let mut progress = Progress::default();
    let mut lines = |state: &str, last: &str| progress.lines(&Report::of(&report("r", state, last)).unwrap());
    assert_eq!(lines("running", ""), ["move_redis"]);
    assert!(lines("running", "").is_empty());
    assert_eq!(lines("running", "modifying"), ["move_redis: modifying"]);
    assert!(lines("running", "modifying").is_empty());
    assert_eq!(lines("done", "modifying"), ["move_redis: done in 2.0 s"]);
}
