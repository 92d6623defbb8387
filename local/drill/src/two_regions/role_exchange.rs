//! The way back, by the runbook: the old region becomes the new main's standby.

use super::{MAIN, Roles, STANDBY, TwoRegions, deployment};
use crate::control_plane::database::DatabaseInstance;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long a change of the databases may take, and how often it is looked at.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

impl TwoRegions {
    /// Makes the region that was main at first the standby of the one that is main now: its ledger is deleted and
    /// made anew as a replica, and both regions are deployed with their roles exchanged. Its Redis follows already, or,
    /// where the new main's was detached, as soon as the datastore is made anew.
    pub async fn make_old_main_the_standby(&mut self) -> Result<()> {
        let [old, new] = [deployment::instance(MAIN), deployment::instance(STANDBY)];
        ensure!(self.roles.main == MAIN, "{} is the standby already", self.region(MAIN).name);
        let deleted = [("DBInstanceIdentifier", old), ("SkipFinalSnapshot", "true")];
        self.rds(MAIN, "DeleteDBInstance", &deleted).await?;
        self.until("the old ledger is deleted", |two| two.instance(MAIN, old).is_none()).await?;
        let source = self.instance(STANDBY, new).context("the new main has no ledger")?.arn();
        let replica = [
            ("DBInstanceIdentifier", old),
            ("SourceDBInstanceIdentifier", source.as_str()),
            ("DBInstanceClass", self.settings.main_class.as_str()),
            ("VpcSecurityGroupIds.VpcSecurityGroupId.1", deployment::LEDGER_GROUP),
        ];
        self.rds(MAIN, "CreateDBInstanceReadReplica", &replica).await?;
        self.until("the new replica is made", |two| two.instance(MAIN, old).is_some()).await?;
        let made = self.instance(MAIN, old).context("the new replica is gone")?;

        if let Some(datastore) = self.control_plane.account().datastore() {
            datastore.recreate().await?;
        }
        let servers = self.sites.get_mut(MAIN).and_then(|site| site.servers.as_mut());
        servers.context("the old main has no servers")?.take_ledger(made.server, made.proxy);
        self.roles = Roles { main: STANDBY, standby: MAIN };
        self.deploy_again()?;
        self.site(MAIN)?.answers("region-failover").await
    }

    /// Deploys what differs once the roles are exchanged. Whatever takes orders is pointed to the new main already,
    /// and so are the new main's own functions.
    fn deploy_again(&self) -> Result<()> {
        let [old, new] = [self.site(MAIN)?, self.site(STANDBY)?];
        let (Some(of_old), Some(of_new)) = (&old.servers, &new.servers) else {
            bail!("a region has no servers");
        };
        let plan = deployment::DeploymentPlan {
            settings: &self.settings,
            connections: &self.connections,
            identity: &self.identity,
            folder: &self.folder,
            aws: self.control_plane.url(),
            roles: self.roles,
            servers: [of_old, of_new],
        };
        for deployment in plan.of_main(MAIN).into_iter().chain(plan.of_standby(MAIN)) {
            old.fleet.deploy(deployment)?;
        }
        old.plan_schedules(false)?;
        new.fleet.remove("region-failover");
        Ok(())
    }

    /// Waits until a planned failover can begin, by its own plan.
    pub async fn can_move(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let plan = self.failover(&json!({ "command": "plan", "mode": "planned" })).await?;
            // That the last one ended within the hour is what `skip_cooldown` is for.
            let obstacle = plan["obstacle"].as_str().unwrap_or_default().to_owned();
            if plan["can_begin"] == true || obstacle.contains("less than an hour ago") {
                return Ok(());
            }
            ensure!(started.elapsed() < LIMIT, "it cannot begin: {obstacle}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let started = Instant::now();
        while !is_so(self) {
            ensure!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    fn instance(&self, index: usize, id: &str) -> Option<DatabaseInstance> {
        let all = self.control_plane.account().databases.of_region(self.region(index).name);
        all.into_iter().find(|one| one.id == id)
    }
}
