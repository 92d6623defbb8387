//! A temporary folder for servers' files and logs, which stays if a test fails.

use crate::aws::wire;
use anyhow::Result;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The folder: removed when dropped, unless its test panics.
#[derive(Debug)]
pub struct WorkFolder(Option<TempDir>);

impl WorkFolder {
    /// Makes one below the system's folder for temporary files.
    pub fn new() -> Result<Self> {
        Ok(Self(Some(tempfile::Builder::new().prefix("fairdrop-").tempdir()?)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }
}

/// Empties `folder` for data and logs, and returns its absolute path.
pub fn fresh(folder: &Path) -> Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl Drop for WorkFolder {
    /// The end of a test: its calls of AWS must have been right, too.
    fn drop(&mut self) {
        let Some(folder) = self.0.take() else { return };
        let wrong = wire::settle();
        if wrong.is_none() && !std::thread::panicking() {
            return;
        }
        eprintln!("the logs of this test's servers are in {}", folder.keep().display());
        wire::fail(wrong);
    }
}
