//! A bounded GET: HTTPS alone, no redirects, at most 64 KiB, no proxy. The caller limits the time.

use crate::address::{PublicAddresses, names_public_host};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use shared::token::key_set::MAX_DOCUMENT_BYTES;
use shared::token_keys::{is_accepted, is_local};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Longer than the pause between two fetches, so that a run uses one connection.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

type Body = Empty<&'static [u8]>;

/// Why a document could not be fetched. The texts contain nothing of the document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the URL must be https, with a public host")]
    Url,
    #[error("the server could not be reached: {0}")]
    Unreachable(String),
    #[error("the server answered {0}, not 200; redirects are not followed")]
    Status(StatusCode),
    #[error("the answer has more than {MAX_DOCUMENT_BYTES} bytes, or ended early")]
    Body,
    #[error("the answer is not UTF-8")]
    NotText,
}

/// The client of an issuer.
#[derive(Clone, Debug)]
pub(crate) struct HttpsClient {
    client: Client<HttpsConnector<HttpConnector<PublicAddresses>>, Body>,
    allow_local: bool,
}

impl HttpsClient {
    /// With `allow_local`, an issuer on this machine may be called, also without TLS.
    pub(crate) fn new(allow_local: bool) -> Result<Self, rustls::Error> {
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        Self::with_roots(roots, allow_local)
    }

    pub(crate) fn with_roots(roots: RootCertStore, allow_local: bool) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new_with_resolver(PublicAddresses { allow_local });
        connector.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = if allow_local { builder.https_or_http() } else { builder.https_only() };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(builder.enable_http1().wrap_connector(connector));
        Ok(Self { client, allow_local })
    }

    /// The text at `url`.
    pub(crate) async fn get(&self, url: &str) -> Result<String, FetchError> {
        let uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
        let is_allowed = is_accepted(url) && (self.allow_local || !is_local(url));
        if !is_allowed || !names_public_host(&uri, self.allow_local) {
            return Err(FetchError::Url);
        }
        let request = Request::get(uri).header(header::ACCEPT, "application/json").body(Body::new());
        let request = request.map_err(|_| FetchError::Url)?;
        let response =
            self.client.request(request).await.map_err(|error| FetchError::Unreachable(causes(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await;
        let bytes = body.map_err(|_| FetchError::Body)?.to_bytes();
        String::from_utf8(bytes.into()).map_err(|_| FetchError::NotText)
    }
}

/// An error with its causes: the outermost one says only that a connection failed.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::generate_simple_self_signed;
    use rustls::ServerConfig;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// Serves `answer` to every request over TLS at `https://localhost:PORT`, and the roots that trust it.
    async fn server(answer: &'static str) -> (String, RootCertStore) {
        let certified = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
        let url = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let Ok(mut connection) = acceptor.accept(connection).await else { continue };
                let _ = connection.read(&mut [0; 2_048]).await;
                let _ = connection.write_all(answer.as_bytes()).await;
                let _ = connection.shutdown().await;
            }
        });
        (url, roots)
    }

    const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";

    #[tokio::test]
    async fn the_certificate_must_be_trusted_and_the_host_public() {
        let (url, roots) = server(GOOD).await;
        let trusting = HttpsClient::with_roots(roots.clone(), true).unwrap();
        assert_eq!(trusting.get(&url).await.unwrap(), "{}");
        let error = HttpsClient::new(true).unwrap().get(&url).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
        // The name is resolved to an address of this machine.
        let error = HttpsClient::with_roots(roots, false).unwrap().get(&url).await.unwrap_err().to_string();
        assert!(error.contains("public"), "{error}");
        let by_address = url.replace("localhost", "127.0.0.1");
        let plain = "http://127.0.0.1:9/keys";
        for wrong in [by_address.as_str(), plain, "http://id.example/keys", "file:///etc/passwd", "keys", ""]
        {
            let refused = HttpsClient::new(false).unwrap().get(wrong).await;
            assert!(matches!(refused, Err(FetchError::Url)), "{wrong}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn redirects_errors_and_cut_answers_are_refused() {
        let moved = "HTTP/1.1 302 Found\r\nlocation: https://localhost/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (url, roots) = server(moved).await;
        let refused = HttpsClient::with_roots(roots, true).unwrap().get(&url).await;
        assert!(matches!(refused, Err(FetchError::Status(StatusCode::FOUND))), "{refused:?}");
        let (url, roots) =
            server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{}").await;
        let refused = HttpsClient::with_roots(roots, true).unwrap().get(&url).await;
        assert!(matches!(refused, Err(FetchError::Body)), "{refused:?}");
    }
}
