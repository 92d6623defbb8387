//! Raising the replica's class: only where that was asked for, in its window, once, never down,
//! and never while anything else is going on.

use crate::sample::Sample;
use crate::verdict::{Assessment, Standing, Verdict};
use rds::Class;
use serde::{Deserialize, Serialize};
use shared::config::{self, ConfigError, Source};

/// The replica must have been too small for so long, in milliseconds.
const STANDS_MS: i64 = 10 * 60_000;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const WEEK_MINUTES: i64 = 7 * 24 * 60;
/// 1970-01-01 was a Thursday.
const EPOCH_DAY: i64 = 3;

/// What may be done without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaisePolicy {
    /// Classes that it may be given.
    classes: Vec<String>,
    /// Minutes of the week from Monday on, in UTC: from when until when.
    window: (i64, i64),
}

/// A class that was raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// What it was.
    pub from: String,
    /// What it is to be.
    pub to: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl RaisePolicy {
    /// Reads `FAIRDROP_RAISE_CLASSES` and `FAIRDROP_RAISE_WINDOW`; nothing where no classes are given.
    pub fn from_config(source: Source<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(classes) = config::optional(source, "FAIRDROP_RAISE_CLASSES") else { return Ok(None) };
        let classes: Vec<String> = classes.split(',').map(|class| class.trim().to_owned()).collect();
        if let Some(unknown) = classes.iter().find(|class| Class::parse(class).is_none()) {
            let why = format!("{unknown:?} is no instance class whose size is known here");
            return Err(ConfigError::bad("FAIRDROP_RAISE_CLASSES", why));
        }
        let name = "FAIRDROP_RAISE_WINDOW";
        let window = config::required(source, name)?;
        let why = "it must be like sun:03:00-sun:05:00, in UTC";
        let window = parse_window(&window).ok_or_else(|| ConfigError::bad(name, why))?;
        Ok(Some(Self { classes, window }))
    }

    /// The class that the replica is to be given now, if it is.
    pub fn due(
        &self,
        assessment: &Assessment,
        standing: Standing,
        sample: &Sample,
        raised: Option<&Raised>,
    ) -> Option<Raised> {
        let instance = sample.instance.as_ref()?;
        let stands = sample.at_ms - standing.since_ms >= STANDS_MS;
        let is_calm = instance.exists
            && instance.status == "available"
            && !instance.is_changing
            && !instance.is_in_failover
            && instance.replica_of.is_some()
            && sample.replica.is_some_and(|replica| replica.follows)
            && sample.main.is_some()
            && sample
                .main_instance
                .as_ref()
                .is_some_and(|main| main.status == "available" && !main.is_in_failover);
        let is_due = assessment.verdict == Verdict::Undersized && standing.verdict == Verdict::Undersized;
        if !is_due || !stands || !is_calm || raised.is_some() || !self.is_open(sample.at_ms) {
            return None;
        }
        let own = Class::parse(&instance.class)?;
        let wanted = assessment.recommendation.as_ref().and_then(|one| Class::parse(&one.class));
        let mut bigger: Vec<(u32, &String)> = self
            .classes
            .iter()
            .filter_map(|name| Some((Class::parse(name)?.size, name)))
            .filter(|(size, _)| *size > own.size)
            .collect();
        bigger.sort_unstable();
        let enough = bigger.iter().find(|(size, _)| wanted.is_none_or(|wanted| *size >= wanted.size));
        let (_, class) = enough.or(bigger.last())?;
        Some(Raised { from: instance.class.clone(), to: (*class).clone(), at_ms: sample.at_ms })
    }

    fn is_open(&self, at_ms: i64) -> bool {
        let minute = (at_ms.div_euclid(60_000) + EPOCH_DAY * 24 * 60).rem_euclid(WEEK_MINUTES);
        let (from, until) = self.window;
        if from <= until { (from..until).contains(&minute) } else { minute >= from || minute < until }
    }
}

fn parse_window(text: &str) -> Option<(i64, i64)> {
    let (from, until) = text.split_once('-')?;
    let (from, until) = (parse_minute(from)?, parse_minute(until)?);
    (from != until).then_some((from, until))
}

fn parse_minute(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (day, hour, minute) = (parts.next()?, parts.next()?, parts.next()?);
    let day = DAYS.iter().position(|known| known.eq_ignore_ascii_case(day))?;
    let number =
        |text: &str, most: i64| text.parse::<i64>().ok().filter(|number| (0..=most).contains(number));
    let (hour, minute) = (number(hour, 23)?, number(minute, 59)?);
    parts.next().is_none().then_some((i64::try_from(day).ok()? * 24 + hour) * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Instance, Main, Replica};
    use crate::verdict::Recommendation;

    /// A Sunday, 04:00 UTC.
    const SUNDAY_4_AM_MS: i64 = 1_795_305_600_000 + 4 * 3_600_000;

    fn policy(classes: &str, window: &str) -> Result<Option<RaisePolicy>, ConfigError> {
        RaisePolicy::from_config(&|name: &str| match name {
            "FAIRDROP_RAISE_CLASSES" => Some(classes.to_owned()),
            "FAIRDROP_RAISE_WINDOW" => Some(window.to_owned()),
            _ => None,
        })
    }

    fn sample() -> Sample {
        let instance = |class: &str| Instance {
            exists: true,
            status: "available".into(),
            class: class.into(),
            ..Instance::default()
        };
        Sample {
            at_ms: SUNDAY_4_AM_MS,
            replica: Some(Replica { follows: true, ..Replica::default() }),
            main: Some(Main::default()),
            instance: Some(Instance { replica_of: Some("main".into()), ..instance("db.r6g.large") }),
            main_instance: Some(instance("db.r6g.2xlarge")),
            figures: None,
            at_risk: None,
        }
    }

    fn due_at(classes: &str, sample: &Sample, recommended: &str, raised: Option<&Raised>) -> Option<String> {
        let recommendation = Recommendation { class: recommended.into(), why: String::new() };
        let assessment = Assessment {
            recommendation: Some(recommendation),
            ..Assessment::of(Verdict::Undersized, "falls-behind-when-busy", "")
        };
        let standing = Standing { verdict: Verdict::Undersized, since_ms: SUNDAY_4_AM_MS - STANDS_MS };
        let policy = policy(classes, "sun:03:00-sun:05:00").unwrap().unwrap();
        policy.due(&assessment, standing, sample, raised).map(|raised| raised.to)
    }

    #[test]
    fn the_smallest_class_of_the_list_that_suffices_and_never_down() {
        let list = "db.r6g.4xlarge, db.r6g.xlarge,db.r6g.2xlarge,db.t4g.micro";
        let of = |recommended| due_at(list, &sample(), recommended, None);
        assert_eq!(of("db.r6g.xlarge").as_deref(), Some("db.r6g.xlarge"));
        assert_eq!(of("db.r6g.2xlarge").as_deref(), Some("db.r6g.2xlarge"));
        // Not enough is more than nothing.
        assert_eq!(of("db.r6g.48xlarge").as_deref(), Some("db.r6g.4xlarge"));
        assert_eq!(due_at("db.t4g.micro,db.r6g.large", &sample(), "db.r6g.xlarge", None), None);
    }

    #[test]
    fn not_twice_not_outside_the_window_and_not_while_anything_goes_on() {
        let raised = Raised { from: "db.r6g.medium".into(), to: "db.r6g.large".into(), at_ms: 1 };
        assert_eq!(due_at("db.r6g.xlarge", &sample(), "db.r6g.xlarge", Some(&raised)), None);
        type Change = fn(&mut Sample);
        let changes: [(&str, Change); 9] = [
            ("an hour late", |sample| sample.at_ms += 3_600_000),
            ("a day early", |sample| sample.at_ms -= 86_400_000),
            ("backing up", |sample| sample.instance.as_mut().unwrap().status = "backing-up".into()),
            ("changing", |sample| sample.instance.as_mut().unwrap().is_changing = true),
            ("failover", |sample| sample.instance.as_mut().unwrap().is_in_failover = true),
            ("failover of main", |sample| sample.main_instance.as_mut().unwrap().is_in_failover = true),
            ("no replica", |sample| sample.instance.as_mut().unwrap().replica_of = None),
            ("promoted", |sample| sample.replica.as_mut().unwrap().follows = false),
            ("main silent", |sample| sample.main = None),
        ];
        for (what, change) in changes {
            let mut sample = sample();
            change(&mut sample);
            assert_eq!(due_at("db.r6g.xlarge", &sample, "db.r6g.xlarge", None), None, "{what}");
        }
        assert!(due_at("db.r6g.xlarge", &sample(), "db.r6g.xlarge", None).is_some());
    }

    #[test]
    fn a_window_may_pass_midnight_and_the_week_s_end() {
        let open = |window: &str, at_ms: i64| policy("db.r6g.large", window).unwrap().unwrap().is_open(at_ms);
        assert!(open("sun:03:59-sun:04:01", SUNDAY_4_AM_MS) && !open("sun:04:01-sun:03:59", SUNDAY_4_AM_MS));
        assert!(open("sat:23:00-mon:01:00", SUNDAY_4_AM_MS) && open("sun:00:00-mon:00:00", SUNDAY_4_AM_MS));
        assert!(!open("mon:00:00-sat:23:59", SUNDAY_4_AM_MS));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(policy("", "sun:03:00-sun:05:00"), Ok(None));
        let name = |error: ConfigError| error.to_string();
        assert!(name(policy("db.r6g.gigantic", "x").unwrap_err()).contains("FAIRDROP_RAISE_CLASSES"));
        for window in [
            "",
            "sun:03:00",
            "sun:03:00-sun:03:00",
            "sun:24:00-mon:01:00",
            "day:01:00-mon:01:00",
            "sun:1-mon:2",
        ] {
            let error = name(policy("db.r6g.large", window).unwrap_err());
            assert!(error.contains("FAIRDROP_RAISE_WINDOW"), "{window}: {error}");
        }
    }
}
