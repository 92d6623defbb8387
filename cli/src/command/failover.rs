//! `fairdrop failover ...`: region-failover. One struct for each command.

use super::{Call, Command, Function};
use crate::follow::{self, Following};
use crate::report::{self, State};
use crate::table;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Main answers; nothing is lost
    Planned,
    /// Main is lost
    Forced,
}

fn call(name: &str, fields: &impl Serialize) -> Call {
    Call::new(Function::RegionFailover, name, fields)
}

/// How long a command follows its run.
#[derive(Clone, Copy, Debug, Args)]
struct Wait {
    /// Minutes to follow the run; 0 returns with the invocation, after a quarter of an hour at most
    ///
    /// The run goes on without this program: its schedule resumes it.
    #[arg(long = "wait-minutes", value_name = "MINUTES", default_value_t = 45, value_parser = clap::value_parser!(u32).range(0..=720))]
    minutes: u32,
}

impl Wait {
    fn following(self, drill: bool, begins: bool, goal: State) -> Option<Following> {
        (self.minutes > 0).then(|| Following { drill, begins, goal, limit: follow::minutes(self.minutes) })
    }
}

/// Show what a failover would do now, and what would be lost; changes nothing
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop --region us-west-2 failover plan --mode forced")]
pub(crate) struct Plan {
    /// Whether main answers
    #[arg(long, value_enum)]
    mode: Mode,
    /// Forced: another Redis of this region, if the standby has lost its own
    #[arg(long, value_name = "HOST:PORT")]
    redis_endpoint: Option<String>,
}

impl Command for Plan {
    fn call(&self) -> Call {
        call("plan", self)
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        const FIRST: [&str; 10] = [
            "from",
            "to",
            "mode",
            "epoch",
            "can_begin",
            "obstacle",
            "at_risk",
            "not_ready",
            "unreadable_order_logs",
            "pending_changes_of_the_replica",
        ];
        const STEPS: [&str; 5] =
            ["step", "limit_seconds", "took_in_the_last_drill_seconds", "can_be_aborted", "after_the_limit"];
        let mut head = answer.clone();
        let Some(fields) = head.as_object_mut() else { return table::fields(answer, &[]) };
        let steps = fields.remove("steps").unwrap_or_default();
        fields.remove("to_run");
        let rows: Vec<Value> =
            steps.as_array().into_iter().flatten().map(|step| only(step, &STEPS)).collect();
        table::join(&table::fields(&head, &FIRST), &table::rows(&rows, &STEPS))
    }
}

/// The columns that fit a line; `--json` has the others, what a step needs and does.
fn only(row: &Value, columns: &[&str]) -> Value {
    Value::Object(columns.iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect())
}

/// Observe now whether a failover could run, and list the reasons why not; changes nothing
#[derive(Debug, Args, Serialize)]
pub(crate) struct Readiness {}

impl Command for Readiness {
    fn call(&self) -> Call {
        call("readiness", self)
    }
}

/// Begin a failover to this region, and follow it until it is over
///
/// Progress goes to standard error. Exit code 0: done; 3: it goes on, or a step is outstanding, which the schedule
/// retries; 1: refused, or aborted, and the old main sells.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fairdrop --region us-west-2 failover run --mode planned
  fairdrop --region us-west-2 failover run --mode forced --accept-seconds 30 --accept-sales 12 --withhold 12")]
pub(crate) struct Run {
    /// Whether main answers
    #[arg(long, value_enum)]
    mode: Mode,
    /// Forced: the loss that you accept, in seconds of main's time; `plan` shows how much it would be
    #[arg(long, value_name = "SECONDS", requires = "accept_sales")]
    accept_seconds: Option<u64>,
    /// Forced: the loss that you accept, in sales
    #[arg(long, value_name = "SALES", requires = "accept_seconds")]
    accept_sales: Option<u64>,
    /// Forced: units of each item that stay unsold until you have compared
    #[arg(long, value_name = "UNITS")]
    withhold: Option<u32>,
    /// Begin although the last failover was less than an hour ago
    #[arg(long)]
    skip_cooldown: bool,
    /// Forced: seconds to wait for the Global Datastore before Redis is detached, 10 to 900 [default: 300]
    #[arg(long, value_name = "SECONDS")]
    redis_wait_seconds: Option<u64>,
    /// Forced: another Redis of this region, if the standby has lost its own
    #[arg(long, value_name = "HOST:PORT")]
    redis_endpoint: Option<String>,
    /// Forced: regions whose order log the run may leave out, separated by commas; `plan` lists those that cannot be read
    #[arg(long, value_name = "REGIONS", value_delimiter = ',')]
    without_logs: Vec<String>,
    #[command(flatten)]
    wait: Wait,
}

impl Command for Run {
    fn call(&self) -> Call {
        let accept = self.accept_seconds.zip(self.accept_sales);
        let accept = accept.map(|(seconds, sales)| json!({ "seconds": seconds, "sales": sales }));
        call(
            "run",
            &json!({
                "mode": self.mode, "accept": accept, "withhold": self.withhold,
                "skip_cooldown": self.skip_cooldown.then_some(true),
                "redis_wait_seconds": self.redis_wait_seconds, "redis_endpoint": self.redis_endpoint,
                "without_logs": (!self.without_logs.is_empty()).then_some(&self.without_logs),
            }),
        )
    }

    fn cannot_be_undone(&self) -> Option<String> {
        let Self { accept_seconds, accept_sales, withhold, skip_cooldown, without_logs, .. } = self;
        let details = [
            Some(match self.mode {
                Mode::Planned => "planned, without a loss".to_owned(),
                Mode::Forced => "forced".to_owned(),
            }),
            accept_seconds
                .zip(*accept_sales)
                .map(|(seconds, sales)| format!("you accept a loss of {seconds} s and {sales} sales")),
            withhold.map(|units| format!("{units} units of each item are withheld")),
            skip_cooldown.then(|| "the cooldown is skipped".to_owned()),
            (!without_logs.is_empty())
                .then(|| format!("without the order logs of {}", without_logs.join(", "))),
            self.redis_endpoint.as_ref().map(|redis| format!("with the Redis {redis}")),
        ];
        let details: Vec<String> = details.into_iter().flatten().collect();
        let details = details.join("; ");
        Some(format!(
            "Main moves to this region: {details}. From the step move_redis on the run can only go forward."
        ))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        report::show(answer)
    }

    fn following(&self) -> Option<Following> {
        self.wait.following(false, true, State::Done)
    }
}

macro_rules! run_commands {
    ($($(#[$about:meta])* $name:ident = $command:literal $(, follows $wait:ident $begins:literal $goal:ident)?;)*) => {
        $(
            #[derive(Debug, Args)]
            $(#[$about])*
            pub(crate) struct $name {
                /// The newest drill instead of the newest failover
                #[arg(long)]
                drill: bool,
                $(#[command(flatten)]
                $wait: Wait,)?
            }

            impl Command for $name {
                fn call(&self) -> Call {
                    call($command, &json!({ "drill": self.drill.then_some(true) }))
                }

                fn show(&self, answer: &Value, _page: u32) -> String {
                    report::show(answer)
                }

                $(fn following(&self) -> Option<Following> {
                    self.$wait.following(self.drill, $begins, State::$goal)
                })?
            }
        )*
    };
}

run_commands! {
    /// Show the newest run: its steps, what it waits for, what to do next
    Status = "status";
    /// Go on with a run that stopped, or retry its outstanding steps, and follow it
    Resume = "resume", follows wait false Done;
    /// Abort a run as long as nothing has been moved; the old main gets its lease back
    Abort = "abort", follows wait false Aborted;
}

/// Show the report of a run: durations, and what was lost
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Id of the run; the newest one without it
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// A drill instead of a failover
    #[arg(long)]
    drill: bool,
}

impl Command for Report {
    fn call(&self) -> Call {
        call("report", &json!({ "run": self.run, "drill": self.drill.then_some(true) }))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        report::show(answer)
    }
}

/// List what the old main has committed and the new main does not have
///
/// Fetches all pages (1,000 entries each). Run it to its end before you decide about any entry.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Compare {
    /// Entries to skip
    #[arg(long, value_name = "ENTRIES")]
    skip: Option<u64>,
}

impl Command for Compare {
    fn call(&self) -> Call {
        call("compare", self)
    }

    fn show(&self, answer: &Value, page: u32) -> String {
        const LOST: [&str; 7] =
            ["item_id", "user_token", "there", "here", "placed_at", "reserved_at", "payment_reference"];
        let list = |name: &str| {
            let rows = answer[name].as_array().map_or(&[][..], Vec::as_slice);
            if rows.is_empty() { String::new() } else { format!("{name}:\n{}", table::rows(rows, &LOST)) }
        };
        let above = if page == 0 { table::fields(&answer["compared"], &[]) } else { String::new() };
        table::join(&table::join(&above, &list("lost")), &list("lost_orders"))
    }

    fn next(&self, answer: &Value) -> Option<Value> {
        answer["more"].is_object().then(|| answer["more"].clone())
    }
}

/// Go on with another, empty Redis of this region, while a failover waits for the Global Datastore
#[derive(Debug, Args)]
pub(crate) struct UseRedis {
    /// Its address, with TLS and without a password
    #[arg(value_name = "HOST:PORT")]
    endpoint: String,
    #[command(flatten)]
    wait: Wait,
}

impl Command for UseRedis {
    fn call(&self) -> Call {
        call("use_redis", &json!({ "endpoint": self.endpoint }))
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some(
            "Orders that wait are lost, except those in the order logs of `OrderLogs`. Reservations that only Redis has \
             are lost."
                .into(),
        )
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        report::show(answer)
    }

    fn following(&self) -> Option<Following> {
        self.wait.following(false, false, State::Done)
    }
}

/// Go on without the order log of a region, while a failover cannot read it
#[derive(Debug, Args)]
pub(crate) struct WithoutLog {
    /// The region, as `status` names it
    region: String,
    #[command(flatten)]
    wait: Wait,
}

impl Command for WithoutLog {
    fn call(&self) -> Call {
        call("without_log", &json!({ "region": self.region }))
    }

    fn cannot_be_undone(&self) -> Option<String> {
        let region = &self.region;
        Some(format!(
            "Accepted orders that only the order log of {region} has are left out. `replay` can put them back later, behind \
             what was served."
        ))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        report::show(answer)
    }

    fn following(&self) -> Option<Following> {
        self.wait.following(false, false, State::Done)
    }
}

/// Give up an outstanding step permanently
#[derive(Debug, Args, Serialize)]
#[command(after_help = "Example: fairdrop failover waive fence_old_main --why 'the instance was deleted'")]
pub(crate) struct Waive {
    /// As `status` lists it, for example fence_old_main
    step: String,
    /// The reason, for the report: 1 to 500 bytes
    #[arg(long)]
    why: String,
}

impl Command for Waive {
    fn call(&self) -> Call {
        call("waive", self)
    }

    fn cannot_be_undone(&self) -> Option<String> {
        Some(format!("The step {} is not tried again.", self.step))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        report::show(answer)
    }
}

/// Run the steps on a temporary copy of the ledger, and measure them; main goes on selling
///
/// Takes as long as RDS needs for a replica: from a quarter of an hour to hours. Costs one instance for that time.
#[derive(Debug, Args)]
pub(crate) struct Drill {
    #[command(flatten)]
    wait: Wait,
}

impl Command for Drill {
    fn call(&self) -> Call {
        call("drill", &json!({}))
    }

    fn show(&self, answer: &Value, _page: u32) -> String {
        report::show(answer)
    }

    fn following(&self) -> Option<Following> {
        self.wait.following(true, true, State::Done)
    }
}
