//! Every call of an AWS SDK in a test, and every answer to it, against the service models of AWS's own SDK for Python.
//!
//! A proxy stands between the SDK's client and the stand-in. It passes both sides on as they are, and gives them to
//! `local/wire/check.py`, which knows the models. A call or an answer that a model forbids fails the test at its end.

use crate::system::process::{tool, workspace};
use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Set for everything that cargo starts (`.cargo/config.toml`), and so for tests; `make demo` runs without the proxy.
const SWITCH: &str = "FAIRDROP_CHECK_WIRE";
/// The longest request: Lambda's limit for a payload.
const MAX_BODY_BYTES: usize = 6 * 1024 * 1024;
/// An idle connection to a stand-in is soon closed, so that one that a test has cut is not used later.
const IDLE_LIMIT: Duration = Duration::from_secs(1);
/// Headers that belong to one connection.
const OF_THE_CONNECTION: [axum::http::HeaderName; 4] = [HOST, CONTENT_LENGTH, CONNECTION, TRANSFER_ENCODING];

/// The address at which calls of `caller` to the stand-in at `url` are checked: that of a proxy, which serves until the
/// runtime ends. `caller` is the name of a function, or `None` for a client of the test itself. Outside of tests, `url`.
pub fn checked(caller: Option<&'static str>, url: &str) -> Result<String> {
    if std::env::var_os(SWITCH).is_none() {
        return Ok(url.to_owned());
    }
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let path =
        url.get(after_scheme..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| after_scheme + at);
    let (origin, path) = url.split_at(path);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let client = reqwest::Client::builder().pool_idle_timeout(IDLE_LIMIT).build()?;
    let proxy = Proxy { caller, test: test_name(), origin: origin.to_owned(), client };
    let router = Router::new().fallback(pass).with_state(Arc::new(proxy));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(format!("http://{address}{path}"))
}

/// A function's environment in which the addresses of AWS's services are [`checked`].
pub fn checked_environment(caller: &'static str, environment: &mut [(String, String)]) -> Result<()> {
    let is_address = |name: &str| name.starts_with("AWS_ENDPOINT_URL") || name == "FAIRDROP_LIVE_ENDPOINT";
    for (_, url) in environment.iter_mut().filter(|(name, _)| is_address(name)) {
        *url = checked(Some(caller), url)?;
    }
    Ok(())
}

/// The name of the running test.
fn test_name() -> String {
    // nextest starts a process for each test; otherwise each test has a thread.
    let after_exact = std::env::args().skip_while(|argument| argument != "--exact").nth(1);
    let of_thread = || std::thread::current().name().map(str::to_owned);
    after_exact.or_else(of_thread).unwrap_or_default()
}

struct Proxy {
    caller: Option<&'static str>,
    test: String,
    origin: String,
    client: reqwest::Client,
}

async fn pass(State(proxy): State<Arc<Proxy>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else { cut() };
    let mut headers = parts.headers.clone();
    OF_THE_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    let url = format!("{}{}", proxy.origin, parts.uri);
    let onward = proxy.client.request(parts.method.clone(), url).headers(headers).body(body.clone());
    let Ok(answer) = onward.send().await else { cut() };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    let Ok(answer) = answer.bytes().await else { cut() };
    follow(&json!({
        "function": proxy.caller,
        "test": proxy.test,
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "headers": texts(&parts.headers),
        "body": encoded(&body),
        "status": status.as_u16(),
        "response_headers": texts(&headers),
        "response_body": encoded(&answer),
    }));
    OF_THE_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    let mut response = Response::new(Body::from(answer));
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    response
}

/// Ends the client's connection without an answer, as the stand-in did with the proxy's.
fn cut() -> ! {
    std::panic::resume_unwind(Box::new("the stand-in did not answer"))
}

fn texts(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value).into())).collect()
}

fn encoded(body: &Bytes) -> String {
    STANDARD.encode(body)
}

/// The process that checks this process's calls.
struct Checker {
    child: Child,
    calls: Sender<String>,
    writer: JoinHandle<()>,
}

static CHECKER: Mutex<Option<Checker>> = Mutex::new(None);

impl Checker {
    fn start() -> Result<Self> {
        let mut command = Command::new(tool("python3"));
        command
            .arg("-B")
            .arg(workspace().join("local/wire/check.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .context("could not start local/wire/check.py; `make setup-deploy` installs Python")?;
        let mut input = child.stdin.take().context("local/wire/check.py has no standard input")?;
        let (calls, lines) = channel::<String>();
        let writer = std::thread::spawn(move || {
            // A checker that has ended is reported by its exit code.
            let _ = lines.iter().try_for_each(|line| writeln!(input, "{line}"));
        });
        Ok(Self { child, calls, writer })
    }

    /// What is wrong with the calls, or nothing.
    fn finish(self) -> Result<Option<String>> {
        drop(self.calls);
        let _ = self.writer.join();
        let output = self.child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((!output.status.success()).then_some(text))
    }
}

fn follow(call: &Value) {
    let mut checker = CHECKER.lock().unwrap_or_else(PoisonError::into_inner);
    if checker.is_none() {
        match Checker::start() {
            Ok(started) => *checker = Some(started),
            Err(error) => eprintln!("calls of AWS are not checked: {error:#}"),
        }
    }
    if let Some(checker) = checker.as_ref() {
        let _ = checker.calls.send(call.to_string());
    }
}

/// Waits until all calls so far are checked. Returns what is wrong with them, if something is.
pub fn settle() -> Option<String> {
    let checker = CHECKER.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    checker.finish().unwrap_or_else(|error| Some(format!("{error:#}")))
}

/// Fails the test if something was wrong.
pub fn fail(wrong: Option<String>) {
    match wrong {
        None => {}
        // A second panic would end the process before its servers.
        Some(wrong) if std::thread::panicking() => eprintln!("calls of AWS are wrong, too:\n{wrong}"),
        Some(wrong) => panic!("calls of AWS, or answers to them, are not as its models say:\n{wrong}"),
    }
}
