//! The temporary DB instance in RDS.

use crate::platform::Platform;
use crate::saved::SavedCheck;
use crate::step::DrillInstance;
use crate::{App, DRILL_TAG, LedgerCheck, check};
use aws_sdk_rds::types::{DbInstance, Tag};
use rds::{DRILL_TAG_KEY, RdsError, Snapshot, Timestamp, manual_snapshots, refusal};
use std::time::Duration;

/// Tags that carry the drill's state from one invocation to the next.
const SNAPSHOT_TAG: &str = "fairdrop:snapshot";
const RECOVERY_POINT_TAG: &str = "fairdrop:recovery-point";
const STARTED_TAG: &str = "fairdrop:started-at";

impl Platform for App {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn own_snapshots(&self) -> Result<Vec<Snapshot>, RdsError> {
        let all = manual_snapshots(&self.client).await?.into_iter();
        Ok(all.filter(|one| one.database == self.settings.database && one.is_own(&self.prefix)).collect())
    }

    async fn save(&self, snapshot: &Snapshot, saved: &SavedCheck) -> Result<(), RdsError> {
        let tag = Tag::builder().key(DRILL_TAG_KEY).value(saved.tag_value()).build();
        let call = self.client.add_tags_to_resource().resource_name(&snapshot.arn).tags(tag);
        call.send().await.map(drop).map_err(refusal)
    }

    async fn instance(&self) -> Result<Option<DrillInstance>, RdsError> {
        let call = self.client.describe_db_instances().db_instance_identifier(&self.settings.instance_id);
        match call.send().await.map_err(refusal) {
            Ok(found) => Ok(found.db_instances().first().map(|one| self.read(one))),
            Err(RdsError::NotFound) => Ok(None),
            Err(other) => Err(other),
        }
    }

    async fn restore(&self, snapshot: &Snapshot, now: Timestamp) -> Result<(), RdsError> {
        let tag = |key: &str, value: String| Tag::builder().key(key).value(value).build();
        let at = snapshot.recovery_point().unwrap_or(now);
        self.client
            .restore_db_instance_from_db_snapshot()
            .db_instance_identifier(&self.settings.instance_id)
            .db_snapshot_identifier(&snapshot.id)
            .db_instance_class(&self.settings.class)
            .set_db_subnet_group_name(self.subnet_group.clone())
            .set_vpc_security_group_ids(
                Some(self.security_groups.clone()).filter(|groups| !groups.is_empty()),
            )
            .publicly_accessible(false)
            .multi_az(false)
            .deletion_protection(false)
            .auto_minor_version_upgrade(false)
            .enable_iam_database_authentication(true)
            .tags(tag(DRILL_TAG, self.prefix.clone()))
            .tags(tag(SNAPSHOT_TAG, snapshot.id.clone()))
            .tags(tag(RECOVERY_POINT_TAG, at.unix_seconds().to_string()))
            .tags(tag(STARTED_TAG, now.unix_seconds().to_string()))
            .send()
            .await
            .map(drop)
            .map_err(refusal)
    }

    async fn check(
        &self,
        host: &str,
        port: u16,
        recovery_point: Option<Timestamp>,
        limit: Duration,
    ) -> LedgerCheck {
        check::check(self, host, port, recovery_point, limit).await
    }

    async fn delete(&self) -> Result<(), RdsError> {
        let call = self.client.delete_db_instance().db_instance_identifier(&self.settings.instance_id);
        let deleted = call.skip_final_snapshot(true).delete_automated_backups(true).send().await;
        match deleted.map(drop).map_err(refusal) {
            Err(RdsError::NotFound) => Ok(()),
            other => other,
        }
    }
}

impl App {
    fn read(&self, found: &DbInstance) -> DrillInstance {
        let tag = |key: &str| {
            let tag = found.tag_list().iter().find(|tag| tag.key() == Some(key));
            tag.and_then(|tag| tag.value()).unwrap_or_default()
        };
        let timestamp = |key: &str| tag(key).parse().ok().map(Timestamp::from_unix_seconds);
        let endpoint = found.endpoint().and_then(|endpoint| {
            Some((endpoint.address()?.to_owned(), u16::try_from(endpoint.port()?).ok()?))
        });
        DrillInstance {
            status: found.db_instance_status().unwrap_or_default().to_owned(),
            endpoint,
            is_own: tag(DRILL_TAG) == self.prefix,
            snapshot: tag(SNAPSHOT_TAG).to_owned(),
            recovery_point: timestamp(RECOVERY_POINT_TAG),
            started_at: timestamp(STARTED_TAG),
        }
    }
}
