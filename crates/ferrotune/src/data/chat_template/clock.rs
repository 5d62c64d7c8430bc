//! The clock of `strftime_now`: some templates write today's date into the system message.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A point in time, in UTC. A run takes one when it starts, so that its rows do not change at midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub unix_seconds: i64,
}

impl Clock {
    /// The time now.
    pub fn now() -> Self {
        Clock { unix_seconds: Timestamp::now().as_second() }
    }

    /// Python's `strftime` for the directives that do not depend on a locale; unknown ones are copied.
    pub fn format(&self, pattern: &str) -> String {
        let time =
            Timestamp::from_second(self.unix_seconds).unwrap_or_default().to_zoned_datetime(TimeZone::UTC);
        let mut out = String::new();
        let mut rest = pattern;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let directive = &rest[at..];
            // `%-d` drops the padding.
            let flag = if directive[1..].starts_with('-') { 2 } else { 1 };
            let letter = directive[flag..].chars().next();
            let (directive, after) = directive.split_at(flag + letter.map_or(0, char::len_utf8));
            rest = after;
            match letter {
                Some('%') => out.push('%'),
                // Those of Python's C locale; a naive time has no zone there.
                Some('x') => out.push_str(&time.strftime("%m/%d/%y").to_string()),
                Some('c') => out.push_str(&time.strftime("%a %b %e %H:%M:%S %Y").to_string()),
                Some('r') => out.push_str(&time.strftime("%I:%M:%S %p").to_string()),
                Some('X') => out.push_str(&time.strftime("%H:%M:%S").to_string()),
                Some('f') => out.push_str("000000"),
                Some('Z' | 'z') => {}
                // jiff has more directives than Python.
                Some(letter) if "aAbBCdDeFgGhHIjklmMnpPRsStTuUVwWyY".contains(letter) => {
                    out.push_str(&time.strftime(directive).to_string());
                }
                _ => out.push_str(directive),
            }
        }
        out.push_str(rest);
        out
    }
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
    fn every_directive_is_pythons() {
        // `datetime.datetime(2025, 3, 4, 15, 6, 7).strftime` of Python 3.12.
        let clock = Clock { unix_seconds: 1_741_100_767 };
        for (pattern, text) in [
            ("%Y %y %m %-m %d %-d %e", "2025 25 03 3 04 4  4"),
            ("%H %-H %I %-I %M %S %f %p", "15 15 03 3 06 07 000000 PM"),
            ("%A %a %B %b %h %w %u %j %-j", "Tuesday Tue March Mar Mar 2 2 063 63"),
            ("%F %D %x %T %X %R", "2025-03-04 03/04/25 03/04/25 15:06:07 15:06:07 15:06"),
            ("%s|%Z|%z|%n|%t|%%|%Q|%-", "1741100767|||\n|\t|%|%Q|%-"),
            ("%d. %B %Y, Ünïcode %ü %", "04. March 2025, Ünïcode %ü %"),
        ] {
            assert_eq!(clock.format(pattern), text, "{pattern}");
        }
    }
}
