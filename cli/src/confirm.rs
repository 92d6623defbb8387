//! The question before a command that may be impossible to undo.

use crate::failure::Failure;
use std::io::{BufRead, IsTerminal, Write};

/// Asks the operator whether the function at `place` may do it. Without a terminal the answer is no: a script gives
/// `--yes`.
pub(crate) fn confirm(place: &str, consequence: &str) -> Result<(), Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::Usage(format!(
            "{place}: {consequence} It may be impossible to undo this: repeat the command with --yes"
        )));
    }
    let mut question = std::io::stderr().lock();
    let _ = write!(question, "{place}: {consequence} It may be impossible to undo this. Type yes to go on: ");
    let _ = question.flush();
    let mut answer = String::new();
    let read = input.lock().read_line(&mut answer);
    if read.is_ok() && is_yes(&answer) { Ok(()) } else { Err(Failure::Usage("not confirmed".into())) }
}

fn is_yes(answer: &str) -> bool {
    answer.trim().eq_ignore_ascii_case("yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_confirms() {
        assert!(is_yes("yes\n") && is_yes(" YES "));
        assert!(!is_yes("y\n") && !is_yes("") && !is_yes("yes please"));
    }
}
