//! The preparation of a failback, as in the runbook: the old main's region becomes the standby.

use super::{MAIN, Roles, STANDBY, TwoRegions, deployment};
use crate::control_plane::database::DatabaseInstance;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long a change of the databases may take, and the interval of the checks.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

impl TwoRegions {
    /// Makes the old main's region the standby of the current main: its ledger is deleted and recreated as a replica,
    /// and both regions are deployed with exchanged roles. Its Redis is a replica already, or, if the new main's Redis
    /// was detached, becomes one when the datastore is recreated.
    pub async fn make_old_main_the_standby(&mut self) -> Result<()> {
        let [old, new] = [deployment::instance(MAIN), deployment::instance(STANDBY)];
        ensure!(self.roles.main == MAIN, "{} is already the standby", self.world_region(MAIN).name);
        let deleted = [("DBInstanceIdentifier", old), ("SkipFinalSnapshot", "true")];
        self.rds(MAIN, "DeleteDBInstance", &deleted).await?;
        self.until("the deletion of the old ledger", |two| two.instance(MAIN, old).is_none()).await?;
        let source = self
            .instance(STANDBY, new)
            .with_context(|| format!("the new main has no database instance {new}"))?
            .arn();
        let replica = [
            ("DBInstanceIdentifier", old),
            ("SourceDBInstanceIdentifier", source.as_str()),
            ("DBInstanceClass", self.settings.main_class.as_str()),
            ("VpcSecurityGroupIds.VpcSecurityGroupId.1", deployment::LEDGER_GROUP),
        ];
        self.rds(MAIN, "CreateDBInstanceReadReplica", &replica).await?;
        self.until("the creation of the new replica", |two| two.instance(MAIN, old).is_some()).await?;
        let made =
            self.instance(MAIN, old).with_context(|| format!("the new replica {old} does not exist"))?;

        if let Some(datastore) = self.control_plane.account().datastore() {
            datastore.recreate().await?;
        }
        let servers = self.regions.get_mut(MAIN).and_then(|region| region.servers.as_mut());
        servers.context("the old main has no servers")?.take_ledger(made.server, made.proxy);
        self.roles = Roles { main: STANDBY, standby: MAIN };
        self.deploy_again()?;
        self.region(MAIN)?.answers("region-failover").await
    }

    /// Deploys the functions that differ after the exchange. The failover has already repointed the functions that take
    /// orders, and the new main's own functions.
    fn deploy_again(&self) -> Result<()> {
        let [old, new] = [self.region(MAIN)?, self.region(STANDBY)?];
        let (Some(of_old), Some(of_new)) = (&old.servers, &new.servers) else {
            bail!("main or standby has no servers");
        };
        let plan = deployment::DeploymentPlan {
            settings: &self.settings,
            connections: &self.connections,
            identity: &self.identity,
            folder: &self.folder,
            aws: self.control_plane.url(),
            tables: self.tables.url(),
            draws: self.control_plane.account().draws().clone(),
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

    /// Waits until region-failover's plan says that a planned failover can begin.
    pub async fn can_move(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let plan = self.failover(&json!({ "command": "plan", "mode": "planned" })).await?;
            // That the last one ended within the hour is what `skip_cooldown` is for.
            let obstacle = plan["obstacle"].as_str().unwrap_or_default().to_owned();
            if plan["can_begin"] == true || obstacle.contains("less than an hour ago") {
                return Ok(());
            }
            ensure!(
                started.elapsed() < LIMIT,
                "a planned failover could not begin within {LIMIT:?}: {obstacle}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let started = Instant::now();
        while !is_so(self) {
            ensure!(started.elapsed() < LIMIT, "timed out after {LIMIT:?} while waiting for {what}");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    fn instance(&self, index: usize, id: &str) -> Option<DatabaseInstance> {
        let all = self.control_plane.account().databases.of_region(self.world_region(index).name);
        all.into_iter().find(|one| one.id == id)
    }
}
