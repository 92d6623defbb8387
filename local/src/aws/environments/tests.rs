use super::*;
use crate::aws::gateway::HttpGateway;
use crate::aws::lambda::Emulator;
use serde_json::Value;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// A process that answers each invocation with its own process id after 200 ms. It ends at `exit`, and does not answer
/// `never`.
const PROGRAM: &str = r#"
import json, os, sys, time, urllib.request
base = sys.argv[1] + "/2018-06-01/runtime/invocation/"
while True:
    work = urllib.request.urlopen(base + "next")
    time.sleep(0.2)
    payload = work.read()
    if payload == b'"exit"':
        os._exit(1)
    if payload == b'"never"':
        time.sleep(3600)
    answer = json.dumps(os.getpid()).encode()
    urllib.request.urlopen(base + work.headers["lambda-runtime-aws-request-id"] + "/response", answer).read()
"#;

fn pool(scaling: Scaling) -> ServedPool {
    pool_of(scaling, || Ok(()))
}

/// A pool that calls `starting` before it starts a process, and starts none if that fails.
fn pool_of(scaling: Scaling, starting: impl Fn() -> Result<()> + Send + Sync + 'static) -> ServedPool {
    pool_with(scaling, move || starting().map(|()| PROGRAM))
}

/// A pool that asks `program` what each process runs.
fn pool_with(
    scaling: Scaling,
    program: impl Fn() -> Result<&'static str> + Send + Sync + 'static,
) -> ServedPool {
    let log = std::env::temp_dir().join("fairdrop-environments-test.log");
    let spawn = move |address: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", program()?, address]);
        Process::start("a test process", &mut command, &log)
    };
    ServedPool::start("test", scaling, Box::new(spawn)).unwrap()
}

async fn call(pool: &Arc<Pool>, payload: &str) -> Invoked {
    pool.invoke(payload.into(), Duration::from_secs(30)).await.unwrap()
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..3_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not happen within 30 s");
}

/// The state of a process, as the kernel names it.
fn state_of(process: u64) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_serves_one_invocation_and_is_frozen_after_it() {
    let served = pool(Scaling::Classic(ClassicLimits::waiting(2, 10)));
    let answers = futures::future::join_all((0..6).map(|_| call(&served.pool, "{}"))).await;
    let processes: Vec<u64> = answers
        .iter()
        .map(|answer| match answer {
            Invoked::Answer(Value::Number(process)) => process.as_u64().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    let mut different = processes.clone();
    different.sort_unstable();
    different.dedup();
    // Two at once, and one more after each 5 s.
    assert!((2..=4).contains(&different.len()), "{processes:?}");
    let figures = served.pool.figures();
    assert_eq!((figures.invocations, figures.started), (6, different.len() as u64));
    assert!(figures.waited >= 3, "{figures:?}");
    until(|| different.iter().all(|process| state_of(*process) == "T")).await;

    // One that ends fails its invocation at once, and another one takes its place.
    let failed = call(&served.pool, "\"exit\"").await;
    assert!(matches!(failed, Invoked::FunctionError(_)), "{failed:?}");
    assert!(matches!(call(&served.pool, "{}").await, Invoked::Answer(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_meets_no_process_has_one_for_each_of_its_invocations() {
    let (starting, most_starting) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (now, most) = (starting.clone(), most_starting.clone());
    let limits = ClassicLimits { cold: Some(2), ..ClassicLimits::waiting(100, 100) };
    let served = pool_of(Scaling::Classic(limits), move || {
        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        now.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    });
    let answers = futures::future::join_all((0..12).map(|_| call(&served.pool, "{}"))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Invoked::Answer(_))), "{answers:?}");
    assert_eq!(served.pool.process_ids().len(), 12);
    assert!(most_starting.load(Ordering::Relaxed) <= 2, "{most_starting:?}");
    // The next one meets only processes that have served, and gets a new one.
    assert!(matches!(call(&served.pool, "{}").await, Invoked::Answer(_)));
    assert_eq!(served.pool.figures().started, 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_comes_late_costs_no_process() {
    let served = pool(Scaling::Classic(ClassicLimits::waiting(1, 1)));
    let mut late = std::pin::pin!(call(&served.pool, "{}"));
    assert!(futures::poll!(late.as_mut()).is_pending());
    // The process has started and answered meanwhile.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(matches!(late.await, Invoked::Answer(_)));
    assert_eq!(served.pool.figures().started, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_process_is_there_again_after_its_death_and_more_start_while_it_is_busy() {
    let served = pool(Scaling::Kept { concurrency: 1, most: 2 });
    let first = served.pool.process_ids();
    assert_eq!(first.len(), 1);
    let answers = futures::future::join_all((0..4).map(|_| call(&served.pool, "{}"))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Invoked::Answer(_))), "{answers:?}");
    assert_eq!(served.pool.process_ids().len(), 2);
    assert!(served.pool.process_ids().into_iter().all(|process| state_of(process.into()) != "T"));

    // A process serves an invocation when all are killed; one that comes later waits for the new process.
    let pool = served.pool.clone();
    let in_flight = tokio::spawn(async move { call(&pool, "\"never\"").await });
    until(|| lock(&served.pool.state).environments.values().any(|one| !one.serving.is_empty())).await;
    served.pool.kill();
    assert!(matches!(in_flight.await.unwrap(), Invoked::FunctionError(_)));
    assert_eq!(served.pool.process_ids().len(), 1);
    assert!(matches!(call(&served.pool, "{}").await, Invoked::Answer(_)));
    assert_ne!(served.pool.process_ids(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_give_up_leave_nothing_behind() {
    let served = pool(Scaling::Kept { concurrency: 1, most: 1 });
    for _ in 0..200 {
        assert!(served.pool.invoke("{}".into(), Duration::from_millis(1)).await.is_err());
    }
    assert!(matches!(call(&served.pool, "{}").await, Invoked::Answer(_)));
}

#[tokio::test]
async fn an_invocation_does_not_wait_until_the_process_for_another_one_has_started() {
    // The first process starts at once; the others when the test allows it.
    let (allow, allowed) = std::sync::mpsc::channel::<()>();
    let (allowed, starts) = (Mutex::new(allowed), AtomicU64::new(0));
    let served = pool_of(Scaling::Kept { concurrency: 1, most: 2 }, move || {
        if starts.fetch_add(1, Ordering::Relaxed) > 0 {
            let _ = lock(&allowed).recv_timeout(Duration::from_secs(30));
        }
        Ok(())
    });
    // Two callers: one is served by the first process, and the other one starts a second process.
    let answers = futures::future::join_all((0..2).map(|_| call(&served.pool, "{}"))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Invoked::Answer(_))), "{answers:?}");
    assert_eq!((served.pool.process_ids().len(), served.pool.figures().started), (1, 1));
    drop(allow);
    until(|| served.pool.process_ids().len() == 2).await;
    assert_eq!(served.pool.figures().started, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_could_not_be_started_does_not_count() {
    let starts = AtomicU64::new(0);
    let served = pool_of(Scaling::Classic(ClassicLimits::waiting(1, 1)), move || {
        anyhow::ensure!(starts.fetch_add(1, Ordering::Relaxed) > 0, "the first start fails");
        Ok(())
    });
    assert!(matches!(call(&served.pool, "{}").await, Invoked::Answer(_)));
    assert_eq!(served.pool.figures().started, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_limits_a_function_is_throttled_and_the_gateway_has_no_problem_for_it() {
    let served = pool(Scaling::Classic(ClassicLimits::strict(1, 1)));
    let emulator = Emulator::start().await.unwrap();
    let invoke = emulator.invoke_api();
    invoke.serve("order-intake", &served.pool);
    let busy = tokio::spawn({
        let pool = served.pool.clone();
        async move { call(&pool, "\"never\"").await }
    });
    until(|| served.pool.figures().invocations == 1).await;
    let refused = invoke.call("order-intake", &Value::Null).await.unwrap_err();
    assert!(refused.is::<Throttled>(), "{refused:#}");

    let client = reqwest::Client::new();
    let answer = client.post(invoke.invoke_url("order-intake")).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["x-amzn-errortype"], "TooManyRequestsException");

    let gateway = HttpGateway::open("eu-west-1", true, invoke, 0, Duration::from_secs(5), Vec::new());
    let gateway = gateway.await.unwrap();
    let url = format!("{}/items/a/orders", gateway.url());
    let mut statuses = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let answer = client.post(&url).send().await.unwrap();
        statuses.insert(answer.status().as_u16());
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["message"], "{body}");
    }
    assert_eq!(statuses, [500, 503].into());
    assert_eq!((served.pool.figures().invocations, served.pool.figures().throttled), (1, 66));
    drop(served);
    assert!(matches!(busy.await.unwrap(), Invoked::FunctionError(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_killed_at_the_functions_time_limit_and_the_next_one_starts_cold() {
    let served = pool(Scaling::Classic(ClassicLimits::strict(10, 10)));
    assert!(matches!(call(&served.pool, "{}").await, Invoked::Answer(_)));
    // It has the next invocation, and no second one is started.
    until(|| !lock(&served.pool.state).idle.is_empty()).await;
    let first = served.pool.process_ids();
    let ended = served.pool.invoke("\"never\"".into(), Duration::from_secs(1)).await.unwrap();
    let Invoked::FunctionError(error) = ended else { panic!("{ended:?}") };
    assert_eq!(error["errorType"], "Sandbox.Timedout");
    assert!(served.pool.process_ids().is_empty());
    assert!(matches!(call(&served.pool, "{}").await, Invoked::Answer(_)));
    assert_ne!(served.pool.process_ids(), first);
    let figures = served.pool.figures();
    assert_eq!((figures.timed_out, figures.started), (1, 2));
}

/// A pool whose first `hanging` processes never ask for an invocation.
fn hanging_pool(hanging: u64) -> ServedPool {
    let starts = AtomicU64::new(0);
    let limits = ClassicLimits { init: Some(Duration::from_millis(300)), ..ClassicLimits::strict(10, 10) };
    pool_with(Scaling::Classic(limits), move || {
        let hangs = starts.fetch_add(1, Ordering::Relaxed) < hanging;
        Ok(if hangs { "import time; time.sleep(3600)" } else { PROGRAM })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_takes_too_long_is_repeated_in_the_time_of_the_invocation() {
    let served = hanging_pool(1);
    assert!(matches!(call(&served.pool, "{}").await, Invoked::Answer(_)));
    assert_eq!((served.pool.figures().init_again, served.pool.figures().started), (1, 2));

    let served = hanging_pool(u64::MAX);
    let ended = served.pool.invoke("{}".into(), Duration::from_secs(1)).await.unwrap();
    let Invoked::FunctionError(error) = ended else { panic!("{ended:?}") };
    assert_eq!(error["errorType"], "Sandbox.Timedout");
    assert_eq!((served.pool.figures().init_again, served.pool.figures().timed_out), (1, 1));
}
