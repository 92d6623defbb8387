//! The certificates of this program's Redis servers, made when the first one starts. Clients trust their authority, as
//! functions on AWS trust a public one. Every server and proxy is reached at 127.0.0.1, so one certificate is enough.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

pub(crate) const AUTHORITY_FILE: &str = "redis-ca.pem";

/// In PEM form.
struct Certificates {
    authority: String,
    server: String,
    server_key: String,
}

static CERTIFICATES: LazyLock<Result<Certificates, rcgen::Error>> = LazyLock::new(Certificates::make);
/// Held while the authority's certificate is written.
static WRITING: Mutex<()> = Mutex::new(());
/// Where the authority's certificate was written.
static FILES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

impl Certificates {
    fn make() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.distinguished_name.push(DnType::CommonName, "fairdrop, on this machine");
        let authority = parameters.self_signed(&key)?.pem();
        let issuer = Issuer::new(parameters, key);
        let server_key = KeyPair::generate()?;
        let server =
            CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&server_key, &issuer)?.pem();
        Ok(Self { authority, server, server_key: server_key.serialize_pem() })
    }
}

/// The files of a server.
pub(crate) struct ServerFiles {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Writes the files of a server to `folder`.
pub(crate) fn server_files(folder: &Path) -> Result<ServerFiles> {
    // The server reads them from another folder.
    let folder = std::path::absolute(folder)?;
    let files = ServerFiles {
        authority: authority_in(&folder)?,
        certificate: folder.join("redis.pem"),
        key: folder.join("redis-key.pem"),
    };
    let certificates = certificates()?;
    std::fs::write(&files.certificate, &certificates.server)?;
    std::fs::write(&files.key, &certificates.server_key)?;
    FILES.lock().unwrap_or_else(PoisonError::into_inner).push(files.authority.clone());
    Ok(files)
}

/// Writes the authority's certificate to `folder`, for the functions that have their logs there.
pub(crate) fn authority_in(folder: &Path) -> Result<PathBuf> {
    let file = std::path::absolute(folder)?.join(AUTHORITY_FILE);
    let authority = certificates()?.authority.as_bytes();
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    // A process that starts at this moment may read the file: writing it again would show it an empty one.
    if !std::fs::read(&file).is_ok_and(|found| found == authority) {
        std::fs::write(&file, authority)?;
    }
    Ok(file)
}

/// The authority's certificate, in PEM form.
pub(crate) fn authority() -> Result<Vec<u8>> {
    Ok(certificates()?.authority.clone().into_bytes())
}

/// `FAIRDROP_REDIS_CA_FILE` for clients in this process: the file of a server whose folder still exists.
pub fn authority_file() -> Option<String> {
    let files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    files.iter().find(|file| file.is_file()).map(|file| file.display().to_string())
}

fn certificates() -> Result<&'static Certificates> {
    CERTIFICATES.as_ref().context("could not make the certificates of the Redis servers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_being_read_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = authority_in(folder.path()).unwrap();
        let written = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(authority_in(folder.path()).unwrap(), file);
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);
        std::fs::write(&file, "of an earlier run").unwrap();
        authority_in(folder.path()).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), authority().unwrap());
    }
}
