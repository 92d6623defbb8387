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

/// The next class for a replica of class `replica` that is too small: main's if that is larger, or the next size of
/// its own family. If `replica` is unknown, main's class.
pub fn larger(replica: &str, main: Option<&str>) -> Option<String> {
    let Some(own) = Class::parse(replica) else { return main.map(str::to_owned) };
    if let Some(main) = main.filter(|main| Class::parse(main).is_some_and(|main| main.size > own.size)) {
        return Some(main.to_owned());
    }
    let (name, _) = SIZES.iter().find(|(_, size)| *size > own.size)?;
    Some(format!("db.{}.{name}", own.family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_compared_and_families_are_not() {
        let size = |name| Class::parse(name).map(|class| class.size);
        assert!(
            size("db.r6g.large") < size("db.r6g.2xlarge") && size("db.t4g.medium") < size("db.m7g.large")
        );
        assert_eq!(size("db.r6g.large"), size("db.m7i.large"));
        for unknown in ["", "db.r6g", "r6g.large", "db.r6g.gigantic", "db.r5b.metal"] {
            assert_eq!(size(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_small_replica_gets_the_class_of_main_and_others_the_next_size() {
        let of = |replica, main| larger(replica, main).unwrap();
        let main = Some("db.r6g.4xlarge");
        assert_eq!(of("db.t4g.large", main), "db.r6g.4xlarge");
        assert_eq!(of("db.r6g.4xlarge", main), "db.r6g.8xlarge");
        assert_eq!(of("db.r6g.8xlarge", main), "db.r6g.12xlarge");
        assert_eq!(of("db.r6g.large", None), "db.r6g.xlarge");
        assert_eq!(of("db.x9.gigantic", main), "db.r6g.4xlarge");
        assert_eq!(larger("db.x9.gigantic", None), None);
        assert_eq!(larger("db.r6g.48xlarge", main), None);
    }
}
