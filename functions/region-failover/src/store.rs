//! Where runs are stored: the newest run in one item of the lease table, and each ended run in an item of its own.

use crate::compare::Comparison;
use crate::run::Run;
use aws_sdk_dynamodb::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use versioned::{StoreError, TableItem};

/// The key of the newest failover, and the prefix of the keys of ended ones.
pub const FAILOVERS: &str = "failover";
/// The same for drills.
pub const DRILLS: &str = "failover-drill";

/// A run, and the execution that holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub run: Run,
    /// The request id of the execution.
    pub holder: String,
    /// The schedule does not take the run over before this time, in milliseconds since the Unix epoch.
    pub held_until_ms: u64,
    /// The comparison with the old main, once it was made.
    pub compared: Option<Comparison>,
}

/// The newest run, and its version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredRun {
    /// 0 if nothing was written yet.
    pub version: u64,
    pub record: Option<RunRecord>,
}

/// Main's instance class, as RDS reported it when main's region last answered: a forced failover needs it when the region
/// is lost.
#[derive(Debug)]
pub struct MainClass {
    item: TableItem,
    /// What this process has saved or loaded.
    known: Mutex<Option<String>>,
}

impl MainClass {
    pub fn new(client: Client, table: &str) -> Self {
        let item = TableItem { client, table: table.into(), id: "failover-main-class".into() };
        Self { item, known: Mutex::default() }
    }

    /// Saves `class`, if it has changed.
    pub async fn save(&self, class: &str) -> Result<(), StoreError> {
        let mut known = self.known.lock().await;
        if known.as_deref() != Some(class) {
            let stored = self.item.load().await?;
            if stored.text.as_deref() != Some(class) {
                self.item.save(stored.version, class.into()).await?;
            }
            *known = Some(class.into());
        }
        Ok(())
    }

    /// The saved class; `None` if main's region has never answered.
    pub async fn load(&self) -> Result<Option<String>, StoreError> {
        Ok(self.item.load().await?.text)
    }
}

#[derive(Clone, Debug)]
pub struct RunStore {
    newest: TableItem,
}

impl RunStore {
    /// The runs of a kind, [`FAILOVERS`] or [`DRILLS`], in `table`.
    pub fn new(client: Client, table: &str, kind: &str) -> Self {
        Self { newest: TableItem { client, table: table.into(), id: kind.into() } }
    }

    /// Reads the newest run.
    pub async fn load(&self) -> Result<StoredRun, StoreError> {
        let stored = self.newest.load().await?;
        let record = stored.text.map(|text| read(&text)).transpose()?;
        Ok(StoredRun { version: stored.version, record })
    }

    /// Writes `record`, which is based on `version`, and returns it with its new version.
    pub async fn save(&self, version: u64, record: RunRecord) -> Result<StoredRun, StoreError> {
        let version = self.newest.save(version, write(&record)?).await?;
        Ok(StoredRun { version, record: Some(record) })
    }

    /// Archives an ended run under its own key.
    pub async fn archive(&self, record: &RunRecord) -> Result<(), StoreError> {
        let item = self.table_item(&record.run.id);
        let version = item.load().await?.version;
        item.save(version, write(record)?).await.map(drop)
    }

    /// Reads an archived run.
    pub async fn archived(&self, id: &str) -> Result<Option<RunRecord>, StoreError> {
        self.table_item(id).load().await?.text.map(|text| read(&text)).transpose()
    }

    fn table_item(&self, id: &str) -> TableItem {
        TableItem { id: format!("{}/{id}", self.newest.id), ..self.newest.clone() }
    }
}

fn write(record: &RunRecord) -> Result<String, StoreError> {
    Ok(serde_json::to_string(record)?)
}

/// A run that cannot be read is an error, never "no run": it may be past the point of no return.
fn read(text: &str) -> Result<RunRecord, StoreError> {
    Ok(serde_json::from_str(text)?)
}
