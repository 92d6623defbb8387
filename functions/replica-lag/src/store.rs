//! The saved state: one item of a DynamoDB table. A run that writes it must have read its newest version.

use crate::state::LagState;
use versioned::{StoreError, TableItem};

#[derive(Debug)]
pub(crate) struct StateStore(pub(crate) TableItem);

impl StateStore {
    /// Reads the newest state and its version. A state that cannot be parsed is replaced by an empty one: the history is
    /// worth less than a monitor that runs.
    pub(crate) async fn load(&self) -> Result<(u64, LagState), StoreError> {
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
        Ok((stored.version, state))
    }

    /// Writes a state if `known` is still the newest version.
    pub(crate) async fn save(&self, known: u64, state: &LagState) -> Result<(), StoreError> {
        self.0.save(known, serde_json::to_string(state)?).await.map(drop)
    }
}
