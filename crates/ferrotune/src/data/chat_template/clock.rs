//! The clock of `strftime_now`: some templates write today's date into the system message.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time, in UTC. A run takes one when it starts, so that its rows do not change at midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub unix_seconds: i64,
}

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl Clock {
    /// The time now.
    pub fn now() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Clock { unix_seconds: i64::try_from(seconds).unwrap_or(i64::MAX) }
    }

    /// Python's `strftime` for the directives that do not depend on a locale; unknown ones are copied.
    pub fn format(&self, pattern: &str) -> String {
        let days = self.unix_seconds.div_euclid(86_400);
        let of_day = self.unix_seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let (year, month, day) = civil(days);
        let weekday = (days + 3).rem_euclid(7) as usize;
        let day_of_year = days - days_from_civil(year, 1, 1) + 1;
        let hour12 = (hour + 11) % 12 + 1;
        let mut out = String::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            // `%-d` drops the padding.
            let bare = chars.next_if_eq(&'-').is_some();
            let width = |w: usize| if bare { 0 } else { w };
            let _ = match chars.next() {
                Some('Y') => write!(out, "{year}"),
                Some('y') => write!(out, "{:0w$}", year.rem_euclid(100), w = width(2)),
                Some('m') => write!(out, "{month:0w$}", w = width(2)),
                Some('d') => write!(out, "{day:0w$}", w = width(2)),
                Some('e') => write!(out, "{day:w$}", w = width(2)),
                Some('H') => write!(out, "{hour:0w$}", w = width(2)),
                Some('I') => write!(out, "{hour12:0w$}", w = width(2)),
                Some('M') => write!(out, "{minute:0w$}", w = width(2)),
                Some('S') => write!(out, "{second:0w$}", w = width(2)),
                Some('j') => write!(out, "{day_of_year:0w$}", w = width(3)),
                Some('f') => write!(out, "000000"),
                Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
                Some('A') => write!(out, "{}", DAYS[weekday]),
                Some('a') => write!(out, "{}", &DAYS[weekday][..3]),
                Some('B') => write!(out, "{}", MONTHS[month as usize - 1]),
                Some('b' | 'h') => write!(out, "{}", &MONTHS[month as usize - 1][..3]),
                Some('w') => write!(out, "{}", (weekday + 1) % 7),
                Some('u') => write!(out, "{}", weekday + 1),
                Some('s') => write!(out, "{}", self.unix_seconds),
                Some('F') => write!(out, "{year}-{month:02}-{day:02}"),
                Some('D' | 'x') => write!(out, "{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
                Some('T' | 'X') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
                Some('R') => write!(out, "{hour:02}:{minute:02}"),
                // A naive time has no zone in Python either.
                Some('Z' | 'z') => Ok(()),
                Some('n') => writeln!(out),
                Some('t') => write!(out, "\t"),
                Some('%') => write!(out, "%"),
                Some(other) => write!(out, "%{}{other}", if bare { "-" } else { "" }),
                None => write!(out, "%"),
            };
        }
        out
    }
}

/// Year, month and day of a day number (days since 1970-01-01), Gregorian.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years start in March here, so that the leap day is the last day.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Day number of a date; the inverse of [`civil`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_on_leap_days_and_before_the_epoch() {
        for (seconds, text) in [
            (0, "1970-01-01 Thu 001 12 AM"),
            (951_782_400, "2000-02-29 Tue 060 12 AM"),
            (1_741_100_767, "2025-03-04 Tue 063 03 PM"),
            (-1, "1969-12-31 Wed 365 11 PM"),
        ] {
            assert_eq!(Clock { unix_seconds: seconds }.format("%F %a %j %I %p"), text);
        }
        assert_eq!(Clock { unix_seconds: 0 }.format("%-d %e %q 100%"), "1  1 %q 100%");
    }

    #[test]
    fn civil_is_the_inverse_of_days() {
        for days in (-800_000..800_000).step_by(37) {
            let (year, month, day) = civil(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
