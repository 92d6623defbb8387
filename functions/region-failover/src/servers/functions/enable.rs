//! Whether main's functions may run in this region, and what lets them run: concurrency and schedules.

use super::{Functions, OF_MAIN};
use crate::observation::Obstacle;
use crate::servers::{call_aws, call_unless};
use aws_sdk_lambda::Client;
use aws_sdk_scheduler::types::ScheduleState;

impl Functions {
    /// Whether main's functions may run here, and their schedules are enabled.
    pub(in crate::servers) async fn may_run(&self) -> Result<bool, Obstacle> {
        let client = self.client_here()?;
        for function in OF_MAIN {
            let name = self.name(function);
            let found =
                call_aws(&name, client.get_function_concurrency().function_name(&name).send()).await?;
            if found.reserved_concurrent_executions() == Some(0) {
                return Ok(false);
            }
        }
        for name in &self.schedules {
            let found = call_aws(name, self.scheduler.get_schedule().name(name).send()).await?;
            if found.state() != Some(&ScheduleState::Enabled) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reserves `executions` for a function. Returns whether Lambda has done so: it refuses if the region's quota is too
    /// small. A failover then goes on without the reservation.
    async fn reserve(&self, client: &Client, name: &str, executions: i32) -> Result<bool, Obstacle> {
        let call = client.put_function_concurrency().function_name(name);
        let call = call.reserved_concurrent_executions(executions).send();
        let reserved = call_unless(&["InvalidParameterValueException"], name, call).await?;
        if let Err(why) = &reserved {
            tracing::warn!(
                function = name,
                executions,
                why,
                "Lambda refused to reserve concurrency; the function runs without a reservation: raise the quota"
            );
        }
        Ok(reserved.is_ok())
    }

    /// Lets main's functions run here, and enables their schedules.
    pub(in crate::servers) async fn enable_main(&self) -> Result<(), Obstacle> {
        let client = self.client_here()?;
        for function in OF_MAIN {
            let name = self.name(function);
            let is_reserved = match self.reserved.get(function) {
                Some(executions) => self.reserve(client, &name, *executions).await?,
                None => false,
            };
            if !is_reserved {
                call_aws(&name, client.delete_function_concurrency().function_name(&name).send()).await?;
            }
        }
        for name in &self.schedules {
            let found = call_aws(name, self.scheduler.get_schedule().name(name).send()).await?;
            if found.state() == Some(&ScheduleState::Enabled) {
                continue;
            }
            // UpdateSchedule replaces the whole schedule: a field that is not sent is lost.
            let call = self
                .scheduler
                .update_schedule()
                .name(name)
                .state(ScheduleState::Enabled)
                .set_group_name(found.group_name)
                .set_schedule_expression(found.schedule_expression)
                .set_schedule_expression_timezone(found.schedule_expression_timezone)
                .set_start_date(found.start_date)
                .set_end_date(found.end_date)
                .set_description(found.description)
                .set_kms_key_arn(found.kms_key_arn)
                .set_target(found.target)
                .set_flexible_time_window(found.flexible_time_window)
                .set_action_after_completion(found.action_after_completion);
            call_aws(name, call.send()).await?;
        }
        Ok(())
    }
}
