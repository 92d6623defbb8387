//! Moments on the command line and in tables.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Reads a moment as microseconds since the Unix epoch: RFC 3339 (`2026-11-24T06:00:00Z`), or the number itself.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return text.parse().map_err(|_| "the number of microseconds is too large".into());
    }
    let moment = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "give RFC 3339 with a zone, like 2026-11-24T06:00:00Z, or microseconds since 1970")?;
    u64::try_from(moment.unix_timestamp_nanos() / 1_000).map_err(|_| "it is before 1970".into())
}

/// The moment after so many seconds from now, in microseconds since the Unix epoch, by this machine's clock.
pub(crate) fn in_seconds(seconds: u64) -> u64 {
    let later = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000 + i128::from(seconds) * 1_000_000;
    u64::try_from(later).unwrap_or(0)
}

/// `2026-11-24 06:00:00 UTC`, with the fraction of the second if there is one. A number that is no moment stays a number.
pub(crate) fn text(micros: u64) -> String {
    let Ok(moment) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000) else {
        return micros.to_string();
    };
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second, micro) = moment.to_hms_micro();
    let fraction = match micro {
        0 => String::new(),
        whole if whole % 1_000 == 0 => format!(".{:03}", whole / 1_000),
        other => format!(".{other:06}"),
    };
    format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} UTC", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_date_with_a_zone_or_microseconds() {
        assert_eq!(parse("2026-11-24T06:00:00Z"), Ok(1_795_500_000_000_000));
        assert_eq!(parse("2026-11-24T07:00:00.5+01:00"), Ok(1_795_500_000_500_000));
        assert_eq!(parse("1795500000000000"), Ok(1_795_500_000_000_000));
        for wrong in ["", "tomorrow", "2026-11-24", "2026-11-24T06:00:00", "-1", "99999999999999999999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_shown_with_the_digits_that_it_has() {
        assert_eq!(text(1_795_500_000_000_000), "2026-11-24 06:00:00 UTC");
        assert_eq!(text(1_795_500_000_250_000), "2026-11-24 06:00:00.250 UTC");
        assert_eq!(text(1_795_500_000_000_042), "2026-11-24 06:00:00.000042 UTC");
        assert_eq!(text(u64::MAX), u64::MAX.to_string());
    }
}
