//! The requests of the query protocol of RDS and ElastiCache: each is a form.

use super::api_error::ApiError;
use percent_encoding::percent_decode_str;

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
    }
}
