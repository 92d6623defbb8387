//! Why a command did not end well, and its exit code.

use serde_json::Value;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The function's own error. `problem` is what it returned.
    #[error("{function} refused: {}", sentence(.problem))]
    Refused { function: String, problem: Value },
    /// AWS did not invoke the function.
    #[error("{function} was not invoked: {why}")]
    NotInvoked { function: String, why: String },
    /// The function answered, and the answer is bad news.
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

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::NotInvoked { .. } | Self::Negative(_) => 1,
            Self::Usage(_) => 2,
            Self::Unknown { .. } | Self::Unfinished(_) => 3,
        }
    }

    /// The message; with `--json` the function's own error, unchanged.
    pub(crate) fn text(&self, json: bool) -> String {
        match self {
            Self::Refused { problem, .. } if json => problem.to_string(),
            other => format!("fairdrop: {other}"),
        }
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
    use serde_json::json;

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
}
