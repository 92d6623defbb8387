//! The files of `pages/`, by plain names alone.

use crate::system::process::workspace;

/// A file's type and content; `None` if it does not exist or its name is not plain.
pub(super) async fn read(path: &str) -> Option<(&'static str, Vec<u8>)> {
    let path = if path.ends_with('/') { format!("{path}index.html") } else { path.to_owned() };
    let kind = kind(&path)?;
    let content = tokio::fs::read(workspace().join("pages").join(path)).await.ok()?;
    Some((kind, content))
}

/// The type of a file with a plain name: lower-case letters and hyphens, in at most one folder.
fn kind(path: &str) -> Option<&'static str> {
    let (stem, extension) = path.rsplit_once('.')?;
    let is_plain =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    if stem.split('/').count() > 2 || !stem.split('/').all(is_plain) {
        return None;
    }
    match extension {
        "html" => Some("text/html; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_pages_are_served() {
        for (path, kind) in [("buyer/", "text/html"), ("operator/", "text/html"), ("look.css", "text/css")] {
            assert!(read(path).await.unwrap().0.starts_with(kind), "{path}");
        }
        for path in [
            "",
            "/",
            "buyer",
            "../Cargo.toml",
            "buyer/../look.css",
            "buyer//page.js",
            "/etc/passwd",
            "buyer/.env",
            "README.md",
            "buyer/page.js/x.js",
            "buyer/%2e%2e/look.css",
            "buyer\\page.js",
        ] {
            assert_eq!(read(path).await, None, "{path}");
        }
    }
}
