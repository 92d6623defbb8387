//! Where the memory is kept: one item of a table, written only by who has read the newest version.

use crate::memory::Memory;
use versioned::{Place, StoreError};

/// The memory's place.
#[derive(Debug)]
pub(crate) struct Store(pub(crate) Place);

/// A memory and the version it has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kept {
    /// 0 where nothing has been written yet.
    pub(crate) version: u64,
    /// The memory.
    pub(crate) memory: Memory,
}

impl Store {
    /// Reads the newest memory. One that cannot be understood is begun anew: it is worth less
    /// than a watcher that runs.
    pub(crate) async fn load(&self) -> Result<Kept, StoreError> {
        let kept = self.0.load().await?;
        let memory = kept.text.map_or_else(Memory::default, |text| {
            serde_json::from_str(&text).unwrap_or_else(|error| {
                tracing::error!(%error, "what was remembered cannot be read; the watcher begins anew");
                Memory::default()
            })
        });
        Ok(Kept { version: kept.version, memory })
    }

    /// Writes a memory that came from the version in `kept`, and returns the new one.
    pub(crate) async fn save(&self, kept: Kept) -> Result<Kept, StoreError> {
        let text = serde_json::to_string(&kept.memory)
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let version = self.0.save(kept.version, text).await?;
        Ok(Kept { version, memory: kept.memory })
    }
}
