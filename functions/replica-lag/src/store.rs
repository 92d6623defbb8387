//! The saved state: one item of a DynamoDB table, and its copy in this process's memory. A run that writes the item must
//! have read its newest version.

use crate::state::LagState;
use std::sync::{Mutex, MutexGuard, PoisonError};
use versioned::{StoreError, TableItem};

/// How often a run tries to write the state while other runs write it, too.
const TRIES: u32 = 5;

#[derive(Debug)]
pub(crate) struct StateStore {
    table: TableItem,
    last: Mutex<LastState>,
}

/// The state that this process saw last.
#[derive(Clone, Debug, Default)]
struct LastState {
    state: LagState,
    /// The item's version that the state began from, or became. Absent if this process has never read the item.
    version: Option<u64>,
    /// Whether the item lacks this state, because a call to the table failed.
    is_unsaved: bool,
}

impl LastState {
    /// The state to start from, if the item has this content. If it could not be written, and no other run has written it
    /// since, the state in memory is newer: with the item's content, each sample would be the first one after it, and
    /// would send its notices again.
    fn newest(&self, version: u64, content: LagState) -> LagState {
        if self.is_unsaved && self.version == Some(version) { self.state.clone() } else { content }
    }
}

impl StateStore {
    pub(crate) fn new(table: TableItem) -> Self {
        Self { table, last: Mutex::default() }
    }

    /// The newest state.
    pub(crate) async fn newest(&self) -> LagState {
        self.load().await.1
    }

    /// Changes the newest state, and returns it. If other runs write at the same time, the change is made again on what
    /// they wrote. While the table cannot be read or written, the state in this process's memory stands in: another
    /// process may then send the same notices, which is better than none.
    pub(crate) async fn update<T>(&self, change: impl Fn(&mut LagState) -> T) -> (LagState, T) {
        let mut tries = 0;
        let (last, result) = loop {
            tries += 1;
            let (version, mut state) = self.load().await;
            let result = change(&mut state);
            let Some(version) = version else {
                let version = self.last().version;
                break (LastState { state, version, is_unsaved: true }, result);
            };
            match self.save(version, &state).await {
                Ok(version) => {
                    break (LastState { state, version: Some(version), is_unsaved: false }, result);
                }
                Err(StoreError::Conflict) if tries < TRIES => {}
                Err(error) => {
                    tracing::error!(
                        %error,
                        "could not save the state; this process keeps it in memory, and another process may send the \
                         same notices"
                    );
                    break (LastState { state, version: Some(version), is_unsaved: true }, result);
                }
            }
        };
        let state = last.state.clone();
        *self.last() = last;
        (state, result)
    }

    /// The newest state with the item's version, or the one in memory without.
    async fn load(&self) -> (Option<u64>, LagState) {
        match self.read().await {
            Ok((version, content)) => (Some(version), self.last().newest(version, content)),
            Err(error) => {
                tracing::error!(%error, "could not read the saved state; using the state in this process's memory");
                (None, self.last().state.clone())
            }
        }
    }

    /// Reads the item. A content that cannot be parsed is replaced by an empty state: the history is worth less than a
    /// monitor that runs.
    async fn read(&self) -> Result<(u64, LagState), StoreError> {
        let stored = self.table.load().await?;
        let state = stored.text.map_or_else(LagState::default, |text| {
            serde_json::from_str(&text).unwrap_or_else(|error| {
                tracing::error!(
                    item = self.table.id, version = stored.version, %error,
                    "could not parse the saved state; starting with an empty one"
                );
                LagState::default()
            })
        });
        Ok((stored.version, state))
    }

    /// Writes the item if `known` is still its newest version; returns its new version.
    async fn save(&self, known: u64, state: &LagState) -> Result<u64, StoreError> {
        self.table.save(known, serde_json::to_string(state)?).await
    }

    fn last(&self) -> MutexGuard<'_, LastState> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
