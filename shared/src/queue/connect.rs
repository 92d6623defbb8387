//! Opening a connection to Redis.
//!
//! redis-rs makes new settings of TLS for each connection, so that it never resumes a session. Here all connections of a
//! [`RedisConfig`] share them. A server that still knows the session then neither sends its certificate nor signs.

use super::MAX_IN_FLIGHT;
use crate::config::RedisConfig;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ErrorKind, RedisResult};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A connection. It ends with its last clone.
#[derive(Clone)]
pub struct Connection {
    pub commands: MultiplexedConnection,
    /// How TLS began; `None` without TLS.
    pub handshake: Option<HandshakeKind>,
    _driver: Arc<Driver>,
}

/// The task that reads and writes. By itself it would wait for the last answers, on a dead network without end.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Opens a connection within the limit of `config`, with TLS and AUTH.
    pub async fn open(config: &RedisConfig) -> RedisResult<Self> {
        let opened = timeout(config.connect_timeout, Self::try_open(config)).await;
        opened.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }

    async fn try_open(config: &RedisConfig) -> RedisResult<Self> {
        let (host, port) = match config.address.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (host, *port),
            _ => return Err((ErrorKind::InvalidClientConfig, "the address has no host and port").into()),
        };
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        // Otherwise a command waits until the server has confirmed the one before: a round trip.
        tcp.set_nodelay(true)?;
        let Some(tls) = &config.tls else { return Self::start(config, tcp, None).await };
        let name = ServerName::try_from(host.as_str())?.to_owned();
        let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await?;
        let handshake = stream.get_ref().1.handshake_kind();
        Self::start(config, stream, handshake).await
    }

    async fn start(
        config: &RedisConfig,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        handshake: Option<HandshakeKind>,
    ) -> RedisResult<Self> {
        let options = AsyncConnectionConfig::new()
            .set_response_timeout(Some(config.response_timeout))
            .set_concurrency_limit(MAX_IN_FLIGHT);
        let (commands, driver) =
            MultiplexedConnection::new_with_config(config.address.redis_settings(), stream, options).await?;
        let driver = Driver(tokio::spawn(driver).abort_handle());
        Ok(Self { commands, handshake, _driver: Arc::new(driver) })
    }
}
