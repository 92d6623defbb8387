//! TLS between the functions' client and Redis: which certificates it accepts.

use local::system::redis_server;
use shared::config::RedisConfig;
use shared::queue::{Link, LinkError};
use tests::RedisQueue;

/// The answer to a PING of the Redis at `url`, with the authority in `file`.
async fn ping(url: String, file: Option<String>) -> Result<String, LinkError> {
    let source = |name: &str| match name {
        "FAIRDROP_MAIN_REDIS_URL" => Some(url.clone()),
        "FAIRDROP_REDIS_CA_FILE" => file.clone(),
        _ => None,
    };
    let link = Link::new(RedisConfig::main(&source).unwrap());
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
