//! The XML of answers in the query protocol.

/// An element with its content.
pub(super) fn element(name: &str, content: &str) -> String {
    format!("<{name}>{content}</{name}>")
}

/// An element with a text, escaped.
pub(super) fn text(name: &str, value: &str) -> String {
    let value = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    element(name, &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_escaped() {
        assert_eq!(text("a", "<&>"), "<a>&lt;&amp;&gt;</a>");
    }
}
