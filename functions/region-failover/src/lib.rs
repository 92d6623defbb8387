//! The standby takes over: step by step, each step looked at before and after, and every decision
//! written down before it is acted on, so that whoever is killed can be followed by another.
//!
//! What decides is here and asks nobody: a [`Run`] is told what a [`Look`] has [`Seen`], and says
//! what is [`Next`]. It is told the same whether it is the first time or after a kill, and decides
//! the same. Each step is one function in [`step`], and reads like the runbook.

pub mod run;
pub mod seen;
pub mod step;

pub use run::{Mode, Next, Run, State};
pub use seen::{Act, Look, Loss, Role, Seen, Trouble};
pub use step::{Step, Verdict};
