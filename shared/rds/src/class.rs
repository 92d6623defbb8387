//! Compares the sizes of RDS instance classes.

/// Sizes of a family, smallest first, with their relative capacity: `large` is 8. Twice the number means twice
/// the processors or, below `large`, twice the memory.
const SIZES: [(&str, u32); 13] = [
    ("micro", 1),
    ("small", 2),
    ("medium", 4),
    ("large", 8),
    ("xlarge", 16),
    ("2xlarge", 32),
    ("4xlarge", 64),
    ("8xlarge", 128),
    ("12xlarge", 192),
    ("16xlarge", 256),
    ("24xlarge", 384),
    ("32xlarge", 512),
    ("48xlarge", 768),
];

/// An instance class, such as `db.r6g.xlarge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class<'a> {
    family: &'a str,
    /// Relative capacity: `large` is 8.
    pub size: u32,
}

impl<'a> Class<'a> {
    /// `None` if the size is unknown here.
    pub fn parse(name: &'a str) -> Option<Self> {
        let (family, size) = name.strip_prefix("db.")?.split_once('.')?;
        let (_, size) = SIZES.iter().find(|(known, _)| *known == size)?;
        Some(Self { family, size: *size })
    }
}

/// Whether class `replica` is smaller than class `main`. `None` if one of the two is unknown.
pub fn is_smaller(replica: &str, main: &str) -> Option<bool> {
    Some(Class::parse(replica)?.size < Class::parse(main)?.size)
}

/// The class that a replica of class `replica` should have: `times` as large, but at most as large as main's.
/// A replica that is as large as main already gets the next size. If `replica` is unknown, main's class.
pub fn recommended(replica: &str, main: Option<&str>, times: f64) -> Option<String> {
    let Some(own) = Class::parse(replica) else { return main.map(str::to_owned) };
    let of_main = main.and_then(Class::parse);
    if let (Some(name), Some(of_main)) = (main, of_main)
        && own.size < of_main.size
        && f64::from(own.size) * times >= f64::from(of_main.size)
    {
        return Some(name.to_owned());
    }
    let needed = (f64::from(own.size) * times).max(f64::from(own.size + 1));
    let (name, _) = SIZES.iter().find(|(_, size)| f64::from(*size) >= needed)?;
    Some(format!("db.{}.{name}", own.family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_compared_and_families_are_not() {
        assert_eq!(is_smaller("db.r6g.large", "db.r6g.2xlarge"), Some(true));
        assert_eq!(is_smaller("db.t4g.medium", "db.m7g.large"), Some(true));
        assert_eq!(is_smaller("db.r6g.large", "db.m7i.large"), Some(false));
        for unknown in ["", "db.r6g", "r6g.large", "db.r6g.gigantic", "db.r5b.metal"] {
            assert_eq!(is_smaller(unknown, "db.r6g.large"), None, "{unknown}");
        }
    }

    #[test]
    fn the_smallest_sufficient_class_is_recommended_up_to_the_class_of_main() {
        let of = |replica, main, times| recommended(replica, main, times).unwrap();
        let main = Some("db.r6g.4xlarge");
        assert_eq!(of("db.r6g.large", main, 1.7), "db.r6g.xlarge");
        assert_eq!(of("db.r6g.large", main, 3.0), "db.r6g.2xlarge");
        assert_eq!(of("db.r6g.large", main, 50.0), "db.r6g.4xlarge");
        assert_eq!(of("db.r6g.large", main, 1.0), "db.r6g.xlarge");
        // As large as main already, and still too small.
        assert_eq!(of("db.r6g.4xlarge", main, 1.2), "db.r6g.8xlarge");
        assert_eq!(of("db.x9.gigantic", main, 2.0), "db.r6g.4xlarge");
        assert_eq!(recommended("db.x9.gigantic", None, 2.0), None);
        assert_eq!(recommended("db.r6g.48xlarge", main, 2.0), None);
    }
}
