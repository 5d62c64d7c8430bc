//! What looks like a secret or like personal data. A report names the rule and the row, never the text.
//!
//! The rules are for what has a form of its own, so that few of their findings are wrong: names and addresses of streets
//! are found by none of them.

use std::sync::LazyLock;

use regex::{Captures, Regex, RegexSet};

/// A rule: its name, its pattern, and a further check of what the pattern found.
struct Rule {
    name: &'static str,
    pattern: &'static str,
    check: fn(&Captures<'_>) -> bool,
}

const fn rule(name: &'static str, pattern: &'static str) -> Rule {
    Rule { name, pattern, check: |_| true }
}

const RULES: &[Rule] = &[
    rule("private key", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    rule("AWS access key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    rule("GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})"),
    rule("GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    rule("Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{12,}"),
    rule("Google API key", r"\bAIza[0-9A-Za-z_-]{35}"),
    rule("Stripe key", r"\b[rs]k_(?:live|test)_[0-9A-Za-z]{16,}"),
    rule("API key (sk-...)", r"\bsk-[A-Za-z0-9_-]{20,}"),
    rule("Hugging Face token", r"\bhf_[A-Za-z0-9]{30,}"),
    rule("JSON web token", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    rule("password in an address", r"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s:@]+@[^\s/]"),
    Rule {
        name: "password or key that is set",
        pattern: r#"(?i)\b(?:password|passwd|pwd|passphrase|secret|api[_-]?key|access[_-]?token)\b["']?\s*[:=]\s*["']?([^\s"',;]{8,})"#,
        check: |found| is_random(&found[1]),
    },
    rule("e-mail address", r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"),
    Rule {
        name: "bank account (IBAN)",
        pattern: r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b",
        check: |found| is_iban(&found[0]),
    },
    Rule {
        name: "payment card",
        pattern: r"\b(?:[0-9]{4}[ -][0-9]{4}[ -][0-9]{4}[ -][0-9]{4}|[0-9]{4}[ -][0-9]{6}[ -][0-9]{5}|[0-9]{13,19})\b",
        check: |found| is_card(&found[0]),
    },
    Rule {
        name: "US social security number",
        pattern: r"\b([0-9]{3})-([0-9]{2})-([0-9]{4})\b",
        check: |found| {
            let area = &found[1];
            !matches!(area, "000" | "666")
                && !area.starts_with('9')
                && &found[2] != "00"
                && &found[3] != "0000"
        },
    },
    rule("phone number", r"(?:^|[^\w+])\+[1-9][0-9]{0,2}[ .-]?\(?[0-9]{1,4}\)?(?:[ .-]?[0-9]{2,4}){2,4}\b"),
];

/// All patterns at once, to know which can match, and each by itself; patterns that do not compile would be found by a test.
static PATTERNS: LazyLock<Option<(RegexSet, Vec<Regex>)>> = LazyLock::new(|| {
    let set = RegexSet::new(RULES.iter().map(|rule| rule.pattern)).ok()?;
    let each = RULES.iter().map(|rule| Regex::new(rule.pattern).ok()).collect::<Option<Vec<_>>>()?;
    Some((set, each))
});

/// The names of the rules that a text breaks.
pub(super) fn found(text: &str) -> Vec<&'static str> {
    let Some((set, each)) = PATTERNS.as_ref() else { return Vec::new() };
    let breaks = |rule: &usize| each[*rule].captures_iter(text).any(|found| (RULES[*rule].check)(&found));
    set.matches(text).into_iter().filter(breaks).map(|rule| RULES[rule].name).collect()
}

/// Whether a value could be a real secret: letters and digits are mixed, and it is no placeholder.
fn is_random(value: &str) -> bool {
    let has = |is: fn(&char) -> bool| value.chars().any(|c| is(&c));
    let placeholder =
        value.contains(['<', '{', '*', '$', '(']) || value.to_ascii_lowercase().contains("example");
    has(char::is_ascii_digit) && has(char::is_ascii_alphabetic) && !placeholder
}

/// ISO 13616: the number with its first four characters last, letters as two digits, is 1 modulo 97.
fn is_iban(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != ' ').collect();
    if !(15..=34).contains(&plain.len()) {
        return false;
    }
    let turned = plain[4..].chars().chain(plain[..4].chars());
    let digits = turned
        .filter_map(|c| c.to_digit(36))
        .flat_map(|d| if d > 9 { vec![d / 10, d % 10] } else { vec![d] });
    digits.fold(0, |rest, digit| (rest * 10 + digit) % 97) == 1
}

/// ISO/IEC 7812: a first digit of a payment network, and the check digit of Luhn.
fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &d)| {
            if i % 2 == 0 {
                d
            } else if d > 4 {
                2 * d - 9
            } else {
                2 * d
            }
        })
        .sum();
    matches!(digits[0], 2..=6)
        && (13..=19).contains(&digits.len())
        && sum.is_multiple_of(10)
        && digits.iter().any(|d| *d != digits[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_finds_its_kind_and_nothing_else() {
        assert!(PATTERNS.is_some());
        // Built from parts, so that no scanner of source code takes them for real ones.
        let key = |prefix: &str, count: usize| format!("{prefix}{}", &"aB3dE6gH9jK2".repeat(10)[..count]);
        for (text, rule) in [
            (format!("-----BEGIN RSA {} KEY-----\nMII", "PRIVATE"), "private key"),
            (format!("use {} here", key("AKIA", 16).to_uppercase()), "AWS access key"),
            (key("ghp_", 36), "GitHub token"),
            (key("glpat-", 20), "GitLab token"),
            (key("xoxb-", 20), "Slack token"),
            (key("AIza", 35), "Google API key"),
            (key("sk_live_", 24), "Stripe key"),
            (key("sk-", 40), "API key (sk-...)"),
            (key("hf_", 34), "Hugging Face token"),
            (format!("{}.{}.{}", key("eyJ", 12), key("eyJ", 12), key("", 12)), "JSON web token"),
            ("postgres://app:hunter22@db/x".to_string(), "password in an address"),
            ("password: \"tr0ub4dor3\"".to_string(), "password or key that is set"),
            ("write to anna.berg@firma.example.org please".to_string(), "e-mail address"),
            ("IBAN DE89 3704 0044 0532 0130 00".to_string(), "bank account (IBAN)"),
            ("card 4111 1111 1111 1111 ok".to_string(), "payment card"),
            ("SSN 123-45-6789".to_string(), "US social security number"),
            ("call +49 30 1234567 today".to_string(), "phone number"),
        ] {
            assert_eq!(found(&text), [rule], "{text}");
        }
        for text in [
            "The password must have at least 8 characters.",
            "password: <your password>",
            "api_key = ${API_KEY_1}",
            "DE89 3704 0044 0532 0130 01",
            "4111 1111 1111 1112",
            "0000 0000 0000 0000",
            "000-45-6789, 900-12-3456",
            "from 2019-01-02 to 2020-03-04, 1,234,567 units, version 1.2.3",
            "x = a+1 2345 6789",
            "https://example.org:8080/path@2",
            "Revenues 2023 12,345,678 2022 11,234,567",
        ] {
            assert!(found(text).is_empty(), "{text}: {:?}", found(text));
        }
    }
}
