//! The query protocol of RDS and ElastiCache: a request is a form, an answer is XML.

use super::api_error::{ApiError, respond};
use super::{Call, ControlledAccount, database_calls, datastore_calls};
use axum::body::Body;
use axum::http::Response;
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// The result of an action: the XML inside its result element.
pub(super) type QueryResult = Result<String, ApiError>;

/// The form of a request.
#[derive(Debug)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) fn parse(body: &[u8]) -> Self {
        let decode =
            |part: &str| percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
        let body = String::from_utf8_lossy(body);
        let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (decode(name), decode(value))).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, ApiError> {
        let missing = || ApiError::new(400, "MissingParameter", format!("{name} is missing"));
        self.get(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// The entries of a list such as `Name.Member.1`, in order; `field` selects a part of each entry.
    pub(super) fn list(&self, name: &str, field: Option<&str>) -> Vec<&str> {
        let entry = |known: &str| {
            let rest = known.strip_prefix(name)?.strip_prefix('.')?;
            let mut steps = rest.split('.').skip(1);
            let index: u32 = steps.next()?.parse().ok()?;
            (steps.next() == field).then_some(index)
        };
        let mut found: Vec<(u32, &str)> =
            self.0.iter().filter_map(|(known, value)| Some((entry(known)?, value.as_str()))).collect();
        found.sort_unstable_by_key(|(index, _)| *index);
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// Refuses a parameter that would be ignored.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), ApiError> {
        let is_known = |name: &str| {
            let first = name.split('.').next().unwrap_or(name);
            ["Action", "Version"].contains(&first) || known.contains(&first)
        };
        match self.0.iter().find(|(name, _)| !is_known(name)) {
            None => Ok(()),
            Some((name, _)) => Err(ApiError {
                code: "InvalidParameterValue",
                ..ApiError::unknown(&format!("the parameter {name}"))
            }),
        }
    }
}

/// Answers a call of RDS or ElastiCache.
pub(super) async fn answer(account: &Arc<ControlledAccount>, call: &Call) -> Response<Body> {
    let form = Form::parse(&call.body);
    let throttling = ApiError::new(400, "Throttling", "Rate exceeded");
    if let Err(refusal) = account.admit(call, throttling).await {
        return refusal.as_xml();
    }
    let action = form.get("Action").unwrap_or_default();
    let answer = match call.service.as_str() {
        "rds" => database_calls::answer(account, &call.region, action, &form),
        _ => datastore_calls::answer(account, &call.region, action, &form),
    };
    match answer {
        Err(refusal) => refusal.as_xml(),
        Ok(result) => {
            let result = element(&format!("{action}Result"), &result);
            let metadata = element("ResponseMetadata", &text("RequestId", "local"));
            let body = element(&format!("{action}Response"), &[result, metadata].concat());
            respond(200, "text/xml", body)
        }
    }
}

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
    fn a_form_is_parsed_with_its_lists_and_unknown_parameters_are_refused() {
        let form = Form::parse(
            b"Action=X&Tags.Tag.2.Key=b&Tags.Tag.1.Key=a%20c&Tags.Tag.1.Value=1+2&Groups.Id.1=g&On=true",
        );
        assert_eq!(form.list("Tags", Some("Key")), ["a c", "b"]);
        assert_eq!(form.list("Tags", Some("Value")), ["1 2"]);
        assert_eq!(form.list("Groups", None), ["g"]);
        assert!(form.is_true("On") && !form.is_true("Off"));
        assert_eq!(form.required("Off").unwrap_err().code, "MissingParameter");
        assert!(form.check(&["Tags", "Groups", "On"]).is_ok());
        assert!(form.check(&["Tags", "On"]).unwrap_err().message.contains("Groups.Id.1"));
        assert_eq!(text("a", "<&>"), "<a>&lt;&amp;&gt;</a>");
    }
}
