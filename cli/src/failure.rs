//! Why a command did not end well, and its exit code.

use serde_json::{Value, json};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The function's own error. `problem` is what it returned.
    #[error("{function} refused: {}", sentence(.problem))]
    Refused { function: String, problem: Value },
    /// A store did not answer the function, which may have changed another one. Every command can be repeated.
    #[error("{function} did not finish: {}. A part may be done: repeat the command", sentence(.problem))]
    HalfDone { function: String, problem: Value },
    /// AWS did not invoke the function.
    #[error("{function} was not invoked: {why}")]
    NotInvoked {
        function: String,
        why: String,
        /// Whether another try fails, too: credentials, rights, a wrong name.
        is_lasting: bool,
    },
    /// The function answered, and the answer is a negative result.
    #[error("{0}")]
    Negative(String),
    #[error("{0}; nothing was sent")]
    Usage(String),
    /// Whether the command was executed is unknown.
    #[error(
        "no answer from {function}: {why}. The command may have been executed: look at the state before you repeat it"
    )]
    Unknown { function: String, why: String },
    #[error("{0}")]
    Unfinished(String),
}

/// Errors of a function that a store did not answer: it may have written to the store, or to another one before.
const UNAVAILABLE: [&str; 4] =
    ["LedgerUnavailable", "MainUnreachable", "LeaseUnavailable", "StoreUnavailable"];

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::NotInvoked { .. } | Self::Negative(_) => 1,
            Self::Usage(_) => 2,
            Self::HalfDone { .. } | Self::Unknown { .. } | Self::Unfinished(_) => 3,
        }
    }

    /// The function's own error, or that of its process: then the command may have been executed.
    pub(crate) fn of_function(function: String, problem: Value) -> Self {
        let kind = problem["errorType"].as_str().unwrap_or_default();
        if kind.starts_with("Sandbox.") || kind.starts_with("Runtime.") || kind.is_empty() {
            return Self::Unknown { function, why: format!("its process ended: {problem}") };
        }
        if UNAVAILABLE.contains(&kind) {
            return Self::HalfDone { function, problem };
        }
        Self::Refused { function, problem }
    }

    /// The message. With `--json` the function's own error, unchanged, or an error of the same form.
    pub(crate) fn text(&self, json: bool) -> String {
        let kind = match self {
            _ if !json => return format!("fairdrop: {self}"),
            Self::Refused { problem, .. } | Self::HalfDone { problem, .. } => return problem.to_string(),
            Self::NotInvoked { .. } => "Fairdrop.NotInvoked",
            Self::Negative(_) => "Fairdrop.Negative",
            Self::Usage(_) => "Fairdrop.Usage",
            Self::Unknown { .. } => "Fairdrop.Unknown",
            Self::Unfinished(_) => "Fairdrop.Unfinished",
        };
        json!({ "errorType": kind, "errorMessage": self.to_string() }).to_string()
    }
}

/// `NoSuchItem: there is no item ...`
fn sentence(problem: &Value) -> String {
    match (problem["errorType"].as_str(), problem["errorMessage"].as_str()) {
        (Some(kind), Some(message)) => format!("{kind}: {message}"),
        _ => problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_the_function_s_problem_and_json_shows_it_unchanged() {
        let problem = json!({ "errorType": "NoSuchItem", "errorMessage": "there is no item x", "more": 1 });
        let refused = Failure::Refused { function: "fairdrop-drop-admin".into(), problem: problem.clone() };
        assert_eq!(refused.exit_code(), 1);
        assert_eq!(
            refused.text(false),
            "fairdrop: fairdrop-drop-admin refused: NoSuchItem: there is no item x"
        );
        assert_eq!(serde_json::from_str::<Value>(&refused.text(true)).unwrap(), problem);
    }
    #[test]
    fn a_store_that_does_not_answer_leaves_the_command_unknown() {
        for kind in UNAVAILABLE {
            let problem = json!({ "errorType": kind, "errorMessage": "no answer in time" });
            let failure = Failure::of_function("f".into(), problem);
            assert_eq!(failure.exit_code(), 3, "{kind}");
            assert!(failure.to_string().contains("repeat the command"), "{failure}");
        }
    }

    #[test]
    fn every_failure_has_the_form_of_a_function_s_error_with_json() {
        let (function, why) = (String::from("f"), String::from("w"));
        for failure in [
            Failure::NotInvoked { function: function.clone(), why: why.clone(), is_lasting: true },
            Failure::Negative(why.clone()),
            Failure::Usage(why.clone()),
            Failure::Unknown { function, why: why.clone() },
            Failure::Unfinished(why),
        ] {
            let value: Value = serde_json::from_str(&failure.text(true)).unwrap();
            assert!(value["errorType"].as_str().unwrap().starts_with("Fairdrop."), "{value}");
            assert_eq!(value["errorMessage"], failure.to_string());
        }
    }
}
