//! Shortens a published JWKS document (stdin) to what the parameter `TokenJwks` needs (stdout): `make token-jwks`.

use shared::token::key_set::KeySet;
use std::io::Read;
use std::process::ExitCode;

/// The length that the template accepts.
const MAX_CHARACTERS: usize = 2_464;

fn main() -> ExitCode {
    match shortened() {
        Ok(document) => {
            println!("{document}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("token-jwks: could not shorten the document: {why}");
            ExitCode::FAILURE
        }
    }
}

fn shortened() -> Result<String, String> {
    let mut document = String::new();
    std::io::stdin().read_to_string(&mut document).map_err(|error| error.to_string())?;
    let document = KeySet::parse(&document)?.to_json();
    if document.chars().count() > MAX_CHARACTERS {
        return Err(format!(
            "it still has {} characters, and TokenJwks takes {MAX_CHARACTERS}; remove keys that sign no access tokens",
            document.chars().count()
        ));
    }
    Ok(document)
}
