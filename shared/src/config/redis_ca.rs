//! The certificate authorities of Redis: the public ones, or those of a file. Certificates and the names in them are
//! always verified.

use super::{ConfigError, Source, optional};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

const VARIABLE: &str = "FAIRDROP_REDIS_CA_FILE";
/// In bytes: the longest file. A certificate has one or two KB.
const MAX_FILE: u64 = 65_536;
/// The most certificates of a file.
const MAX_CERTIFICATES: usize = 16;

/// The address `url`, which the variable `name` holds, and the settings of TLS there.
pub(super) fn address(
    source: Source,
    name: &'static str,
    url: &str,
) -> Result<(ConnectionInfo, Option<Arc<ClientConfig>>), ConfigError> {
    let malformed = || ConfigError::bad(name, "it must be redis://host:port or rediss://host:port");
    let address = url.into_connection_info().map_err(|_| malformed())?;
    let file = optional(source, VARIABLE);
    let tls = match (address.addr(), file) {
        (ConnectionAddr::TcpTls { insecure: true, .. }, _) => {
            return Err(ConfigError::bad(name, "certificates are always verified: remove #insecure"));
        }
        (ConnectionAddr::TcpTls { .. }, file) => {
            let public = || webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
            let roots: RootCertStore = file.map_or_else(|| Ok(public()), |file| authorities(&file))?;
            Some(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
        }
        (ConnectionAddr::Tcp(..), None) => None,
        (ConnectionAddr::Tcp(..), Some(_)) => {
            let why = format!("it must be rediss://host:port, since {VARIABLE} is set");
            return Err(ConfigError::bad(name, why));
        }
        _ => return Err(malformed()),
    };
    Ok((address, tls))
}

/// The certificates of `file`, in PEM form.
fn authorities(file: &str) -> Result<RootCertStore, ConfigError> {
    let bad = |why: String| ConfigError::bad(VARIABLE, why);
    let unreadable = |error: std::io::Error| bad(format!("the file cannot be read: {error}"));
    let mut text = Vec::new();
    File::open(file).map_err(unreadable)?.take(MAX_FILE + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE {
        return Err(bad(format!("the file has more than {MAX_FILE} bytes")));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| bad(format!("the file is no valid PEM: {error}")))?;
        roots.add(certificate).map_err(|error| bad(format!("the file has a wrong certificate: {error}")))?;
    }
    match roots.len() {
        0 => Err(bad("the file has no certificate in PEM form".into())),
        1..=MAX_CERTIFICATES => Ok(roots),
        more => Err(bad(format!("the file has {more} certificates; at most {MAX_CERTIFICATES} are allowed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn opened(url: &str, file: &str) -> Result<bool, String> {
        let source = |name: &str| (name == VARIABLE).then(|| file.to_owned());
        let address = address(&source, "FAIRDROP_MAIN_REDIS_URL", url);
        address.map(|(_, tls)| tls.is_some()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_without_usable_certificates_is_refused_with_its_reason() {
        let folder = std::env::temp_dir().join(format!("fairdrop-redis-ca-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let cases = [
            ("/nowhere/redis-ca.pem".to_owned(), "cannot be read"),
            ("/dev/zero".to_owned(), "more than 65536 bytes"),
            (file("empty", ""), "no certificate"),
            (file("key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "no certificate"),
            (file("no-base64", &pem("%%")), "no valid PEM"),
            (file("no-certificate", &pem("AAAA")), "wrong certificate"),
        ];
        for (path, why) in cases {
            // /dev/zero is not on every machine.
            if path.starts_with("/dev") && !Path::new(&path).exists() {
                continue;
            }
            let error = opened("rediss://host:6379", &path).unwrap_err();
            assert!(error.contains(why) && error.contains(VARIABLE), "{path}: {error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn certificates_are_verified_by_public_authorities_if_no_file_is_set() {
        assert_eq!(opened("rediss://host:6379", ""), Ok(true));
        assert_eq!(opened("redis://host:6379", ""), Ok(false));
        assert!(opened("unix:///redis.socket", "").unwrap_err().contains("must be redis://host:port"));
        let error = opened("rediss://host:6379/#insecure", "").unwrap_err();
        assert!(error.contains("always verified"), "{error}");
    }
}
