//! The saved state: one item of a DynamoDB table. A run that writes it must have read its newest version.

use crate::state::LagState;
use versioned::{StoreError, TableItem};

#[derive(Debug)]
pub(crate) struct StateStore(pub(crate) TableItem);

/// A state and the version that it was read from or written as; 0 if nothing has been written yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LoadedState {
    pub(crate) version: u64,
    pub(crate) state: LagState,
}

impl StateStore {
    /// Reads the newest state. A state that cannot be parsed is replaced by an empty one: the history is worth less
    /// than a monitor that runs.
    pub(crate) async fn load(&self) -> Result<LoadedState, StoreError> {
        let stored = self.0.load().await?;
        let state = stored.text.map_or_else(LagState::default, |text| {
            serde_json::from_str(&text).unwrap_or_else(|error| {
                tracing::error!(
                    item = self.0.id, version = stored.version, %error,
                    "could not parse the saved state; starting with an empty one"
                );
                LagState::default()
            })
        });
        Ok(LoadedState { version: stored.version, state })
    }

    /// Writes a state if `loaded.version` is still the newest, and returns it with its new version.
    pub(crate) async fn save(&self, loaded: LoadedState) -> Result<LoadedState, StoreError> {
        let text = serde_json::to_string(&loaded.state)?;
        let version = self.0.save(loaded.version, text).await?;
        Ok(LoadedState { version, state: loaded.state })
    }
}
