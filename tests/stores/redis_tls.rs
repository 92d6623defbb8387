//! TLS between the functions' client and Redis: which certificates it accepts.

use anyhow::{Context, Result};
use local::system::redis_server::{self, Redis};
use rustls::HandshakeKind;
use shared::config::RedisConfig;
use shared::queue::{Connection, Link, LinkError};
use tests::RedisQueue;

/// The Redis at `url`, with the authority in `file`, as a process that starts reads it.
fn config(url: &str, file: Option<&str>) -> RedisConfig {
    let source = |name: &str| match name {
        "FAIRDROP_MAIN_REDIS_URL" => Some(url.to_owned()),
        "FAIRDROP_REDIS_CA_FILE" => file.map(str::to_owned),
        _ => None,
    };
    RedisConfig::main(&source).unwrap()
}

/// The answer to a PING of the Redis at `url`, with the authority in `file`.
async fn ping(url: String, file: Option<String>) -> Result<String, LinkError> {
    let link = Link::new(config(&url, file.as_deref()));
    link.call(async |mut connection| redis::cmd("PING").query_async(&mut connection).await).await
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_and_its_name_only() {
    let server = RedisQueue::start().await.unwrap();
    let authority = server.redis.authority_file().display().to_string();
    let port = server.redis.port();
    let answer = ping(redis_server::url_at(port), Some(authority.clone())).await;
    assert_eq!(answer.unwrap(), "PONG");

    let is_refused = |answer: Result<String, LinkError>| matches!(answer, Err(LinkError::NotSent(_)));
    // Public authorities did not sign the certificate.
    assert!(is_refused(ping(redis_server::url_at(port), None).await));
    // Nor did the authority of another program.
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.pem");
    std::fs::write(&file, other.cert.pem()).unwrap();
    assert!(is_refused(ping(redis_server::url_at(port), Some(file.display().to_string())).await));
    // The certificate names 127.0.0.1.
    assert!(is_refused(ping(format!("rediss://localhost:{port}"), Some(authority)).await));
    // The server speaks no plain text.
    assert!(is_refused(ping(format!("redis://127.0.0.1:{port}"), None).await));
}

#[tokio::test]
async fn an_authority_s_file_forbids_plain_text() {
    let server = RedisQueue::start().await.unwrap();
    let (url, file) = ("redis://127.0.0.1:6379", server.redis.authority_file().display().to_string());
    let source = |name: &str| match name {
        "FAIRDROP_MAIN_REDIS_URL" => Some(url.to_owned()),
        "FAIRDROP_REDIS_CA_FILE" => Some(file.clone()),
        _ => None,
    };
    let error = RedisConfig::main(&source).unwrap_err().to_string();
    assert!(error.contains("FAIRDROP_MAIN_REDIS_URL") && error.contains("rediss://"), "{error}");
}

/// Opens a connection and uses it once, as a process that has `config`.
async fn handshake(config: &RedisConfig) -> Option<HandshakeKind> {
    let mut connection = Connection::open(config).await.unwrap();
    redis::cmd("PING").exec_async(&mut connection.commands).await.unwrap();
    connection.handshake
}

/// The processor time that the server's one thread has used, in milliseconds.
async fn processor_ms(redis: &Redis) -> Result<f64> {
    let mut connection = redis.connect().await?;
    let text: String = redis::cmd("INFO").arg("cpu").query_async(&mut connection).await?;
    let seconds = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        anyhow::Ok(line.context("the figure is missing")?.trim().parse::<f64>()?)
    };
    Ok((seconds("used_cpu_sys_main_thread")? + seconds("used_cpu_user_main_thread")?) * 1_000.0)
}

#[tokio::test]
async fn a_later_connection_of_a_process_resumes_the_session_of_an_earlier_one() {
    let mut server = RedisQueue::start().await.unwrap();
    let (url, file) = (server.redis.url(), server.redis.authority_file().display().to_string());
    let start = || config(&url, Some(&file));
    let process = start();
    assert_eq!(handshake(&process).await, Some(HandshakeKind::Full));
    assert_eq!(handshake(&process).await, Some(HandshakeKind::Resumed));
    assert_eq!(handshake(&process.clone()).await, Some(HandshakeKind::Resumed));
    assert_eq!(handshake(&start()).await, Some(HandshakeKind::Full), "another process has no session");

    const COUNT: u32 = 200;
    let begin = processor_ms(&server.redis).await.unwrap();
    for _ in 0..COUNT {
        assert_eq!(handshake(&start()).await, Some(HandshakeKind::Full));
    }
    let between = processor_ms(&server.redis).await.unwrap();
    for _ in 0..COUNT {
        assert_eq!(handshake(&process).await, Some(HandshakeKind::Resumed));
    }
    let end = processor_ms(&server.redis).await.unwrap();
    let each = |ms: f64| ms / f64::from(COUNT);
    println!(
        "server's processor time: {:.2} ms full, {:.2} ms resumed",
        each(between - begin),
        each(end - between)
    );

    // A server that has started again, as another primary, has no session either.
    server.redis.restart().await.unwrap();
    assert_eq!(handshake(&process).await, Some(HandshakeKind::Full));
    assert_eq!(handshake(&process).await, Some(HandshakeKind::Resumed));
}
