//! `fairdrop invoke`: any payload for any function.

use super::{Call, Command, Function};
use clap::Args;
use serde_json::Value;

/// Send any payload to a function, for what has no command here
#[derive(Debug, Args)]
#[command(after_help = "Example: fairdrop invoke drop-admin \"$(cat events/drop-admin.create.json)\"")]
pub(crate) struct Raw {
    /// Name without the stack's, for example drop-admin
    function: String,
    /// JSON
    #[arg(value_parser = json)]
    payload: Value,
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl Command for Raw {
    fn call(&self) -> Call {
        Call { function: Function::Named(self.function.clone()), payload: self.payload.clone() }
    }

    // This program does not know what the payload does.
    fn cannot_be_undone(&self) -> Option<String> {
        Some(format!("The function executes {}.", self.payload))
    }
}
