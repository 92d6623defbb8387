//! Where runs are kept: the one under way in one item of the lease's table, and each that has ended in
//! one of its own.

use crate::compare::Comparison;
use crate::run::Run;
use aws_sdk_dynamodb::Client;
use serde::{Deserialize, Serialize};
use versioned::{StoreError, TableItem};

/// The key of the newest failover, and what those of ended ones begin with.
pub const FAILOVERS: &str = "failover";
/// The same of drills.
pub const DRILLS: &str = "failover-drill";

/// A run, and who carries it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub run: Run,
    /// The execution that carries it out.
    pub holder: String,
    /// Nobody else takes it up by itself before this, in milliseconds since the Unix epoch.
    pub held_until_ms: u64,
    /// What the old main had committed that is not here, once it could be asked.
    pub compared: Option<Comparison>,
}

/// The newest run, and the version it has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredRun {
    /// 0 where nothing has been written yet.
    pub version: u64,
    /// Nothing where there has been no failover yet.
    pub record: Option<RunRecord>,
}

/// The table.
#[derive(Clone, Debug)]
pub struct RunStore {
    newest: TableItem,
}

impl RunStore {
    /// The runs of a kind, [`FAILOVERS`] or [`DRILLS`], in `table`.
    pub fn new(client: Client, table: &str, kind: &str) -> Self {
        Self { newest: TableItem { client, table: table.into(), id: kind.into() } }
    }

    /// The newest run.
    pub async fn load(&self) -> Result<StoredRun, StoreError> {
        let stored = self.newest.load().await?;
        let record = stored.text.map(|text| read(&text)).transpose()?;
        Ok(StoredRun { version: stored.version, record })
    }

    /// Writes what has become of the version in `kept`, and returns the new one.
    pub async fn save(&self, version: u64, record: RunRecord) -> Result<StoredRun, StoreError> {
        let version = self.newest.save(version, write(&record)?).await?;
        Ok(StoredRun { version, record: Some(record) })
    }

    /// Keeps a run that has ended, beside those before it.
    pub async fn file(&self, record: &RunRecord) -> Result<(), StoreError> {
        let place = self.place(&record.run.id);
        let version = place.load().await?.version;
        place.save(version, write(record)?).await.map(drop)
    }

    /// A run that has ended.
    pub async fn filed(&self, id: &str) -> Result<Option<RunRecord>, StoreError> {
        self.place(id).load().await?.text.map(|text| read(&text)).transpose()
    }

    fn place(&self, id: &str) -> TableItem {
        TableItem { id: format!("{}/{id}", self.newest.id), ..self.newest.clone() }
    }
}

fn write(record: &RunRecord) -> Result<String, StoreError> {
    Ok(serde_json::to_string(record)?)
}

/// One that cannot be read is never begun anew: it may stand past the point of no return.
fn read(text: &str) -> Result<RunRecord, StoreError> {
    Ok(serde_json::from_str(text)?)
}
