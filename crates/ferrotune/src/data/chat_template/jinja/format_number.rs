//! Numbers and texts as Python's format specifications write them.

use super::repr::{float, repr, to_str};
use super::runtime::{MAX_TEXT, Result, fail};
use super::value::{Value, char_count, char_range};

/// A specification such as `>8.2f`, or the flags, width and precision of `%`.
#[derive(Clone, Debug, Default)]
pub(super) struct Spec {
    pub(super) fill: Option<char>,
    pub(super) align: Option<char>,
    pub(super) sign: Option<char>,
    pub(super) alternate: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

/// Widths and precisions stay below ten thousand.
pub(super) fn size(digits: &str) -> Result<usize> {
    match digits.parse::<usize>() {
        Ok(size) if size < 10_000 => Ok(size),
        _ => fail("a width or precision in text formatting is too large"),
    }
}

impl Spec {
    /// Parses what stands behind the colon of a replacement field.
    pub(super) fn parse(text: &str) -> Result<Spec> {
        let letters: Vec<char> = text.chars().collect();
        let mut spec = Spec::default();
        let is_align = |at: usize| letters.get(at).is_some_and(|c| matches!(c, '<' | '>' | '=' | '^'));
        let mut at = 0;
        if is_align(1) {
            (spec.fill, spec.align) = (Some(letters[0]), Some(letters[1]));
            at = 2;
        } else if is_align(0) {
            spec.align = Some(letters[0]);
            at = 1;
        }
        if let Some(sign) = letters.get(at).filter(|c| matches!(c, '+' | '-' | ' ')) {
            spec.sign = Some(*sign);
            at += 1;
        }
        if letters.get(at) == Some(&'#') {
            spec.alternate = true;
            at += 1;
        }
        if letters.get(at) == Some(&'0') && spec.fill.is_none() {
            spec.fill = Some('0');
            spec.align = spec.align.or(Some('='));
            at += 1;
        }
        let digits = |at: &mut usize| -> String {
            let found: String = letters[*at..].iter().take_while(|c| c.is_ascii_digit()).collect();
            *at += found.len();
            found
        };
        let width = digits(&mut at);
        if !width.is_empty() {
            spec.width = size(&width)?;
        }
        if let Some(mark) = letters.get(at).filter(|c| matches!(c, ',' | '_')) {
            spec.grouping = Some(*mark);
            at += 1;
        }
        if letters.get(at) == Some(&'.') {
            at += 1;
            let precision = digits(&mut at);
            if precision.is_empty() {
                return fail("format specifier is missing precision");
            }
            spec.precision = Some(size(&precision)?);
        }
        spec.kind = letters.get(at).copied();
        match letters.len() > at + 1 {
            true => fail("invalid format specifier"),
            false => Ok(spec),
        }
    }

    /// `format(value, spec)`.
    pub(super) fn apply(&self, value: &Value) -> Result<String> {
        match (value, self.kind) {
            (Value::Str(text), None | Some('s')) => {
                if matches!(self.align, Some('=')) && self.fill != Some('0') || self.sign.is_some() {
                    return fail("a sign or '=' alignment is not allowed in a string format specifier");
                }
                let text = self.precision.map_or(&*text.text, |count| char_range(&text.text, 0..count));
                let align = self.align.filter(|align| *align != '=').unwrap_or('<');
                self.padded("", text, align)
            }
            (Value::Bool(_), None) if self.is_plain() => to_str(value),
            (Value::Bool(_) | Value::Int(_), None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X' | 'c')) => {
                self.integer(value.as_int().unwrap_or(0))
            }
            (
                Value::Bool(_) | Value::Int(_) | Value::Float(_),
                None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%'),
            ) => self.floating(value.as_float().unwrap_or(0.0)),
            _ if self.is_plain() && self.kind.is_none() => match value {
                Value::Str(_) | Value::Undefined(_) => to_str(value),
                other => repr(other),
            },
            (Value::Undefined(_), _) => fail("unsupported format string passed to Undefined.__format__"),
            (Value::Str(_) | Value::Bool(_) | Value::Int(_) | Value::Float(_), Some(kind)) => {
                fail(format!("unknown format code '{kind}' for object of type '{}'", value.type_name()))
            }
            _ => fail(format!("unsupported format string passed to {}.__format__", value.type_name())),
        }
    }

    fn is_plain(&self) -> bool {
        self.width == 0
            && self.fill.is_none()
            && self.align.is_none()
            && self.precision.is_none()
            && self.sign.is_none()
            && self.grouping.is_none()
            && !self.alternate
    }

    fn sign_of(&self, is_negative: bool) -> &'static str {
        match (is_negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        }
    }

    fn integer(&self, number: i128) -> Result<String> {
        if self.precision.is_some() {
            return fail("precision not allowed in integer format specifier");
        }
        let digits = number.unsigned_abs();
        let (prefix, text, group) = match self.kind {
            Some('b') => ("0b", format!("{digits:b}"), 4),
            Some('o') => ("0o", format!("{digits:o}"), 4),
            Some('x') => ("0x", format!("{digits:x}"), 4),
            Some('X') => ("0X", format!("{digits:X}"), 4),
            Some('c') => {
                let letter = u32::try_from(number).ok().and_then(char::from_u32);
                let Some(letter) = letter else { return fail("%c arg not in range(0x110000)") };
                return self.padded("", letter.encode_utf8(&mut [0; 4]), self.align.unwrap_or('<'));
            }
            _ => ("", digits.to_string(), 3),
        };
        let sign = self.sign_of(number < 0);
        let prefix = if self.alternate { prefix } else { "" };
        let head = format!("{sign}{prefix}");
        let text = self.grouped(&text, "", group, char_count(&head));
        self.padded(&head, &text, self.align.unwrap_or('>'))
    }

    fn floating(&self, number: f64) -> Result<String> {
        let sign = self.sign_of(number.is_sign_negative() && !number.is_nan());
        let upper = matches!(self.kind, Some('E' | 'F' | 'G'));
        let body = self.float_body(number.abs());
        let body = if upper { body.to_uppercase() } else { body };
        let whole = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
        let text = self.grouped(&body[..whole], &body[whole..], 3, sign.len());
        self.padded(sign, &text, self.align.unwrap_or('>'))
    }

    fn float_body(&self, number: f64) -> String {
        if !number.is_finite() {
            let text = if number.is_nan() { "nan" } else { "inf" };
            return if self.kind == Some('%') { format!("{text}%") } else { text.to_string() };
        }
        let precision = self.precision.unwrap_or(6);
        match self.kind {
            Some('e' | 'E') => exponent(number, precision, self.alternate),
            Some('f' | 'F') => {
                format!("{number:.precision$}") + if self.alternate && precision == 0 { "." } else { "" }
            }
            Some('%') => format!("{:.precision$}%", number * 100.0),
            None if self.precision.is_none() => float(number),
            _ => general(number, precision.max(1), self.alternate, self.kind.is_none()),
        }
    }

    /// Digits with marks between their groups, filled up with zeros where the specification asks for it.
    fn grouped(&self, digits: &str, rest: &str, size: usize, used: usize) -> String {
        let Some(mark) = self.grouping else { return format!("{digits}{rest}") };
        let mut digits = digits.to_string();
        let zeros = self.fill == Some('0') && self.align == Some('=');
        loop {
            let first = digits.len() % size;
            let mut out = digits[..first].to_string();
            for at in (first..digits.len()).step_by(size) {
                if !out.is_empty() {
                    out.push(mark);
                }
                out.push_str(&digits[at..at + size]);
            }
            if !zeros || out.len() + rest.len() + used >= self.width {
                return out + rest;
            }
            digits.insert(0, '0');
        }
    }

    pub(super) fn padded(&self, head: &str, text: &str, align: char) -> Result<String> {
        let count = char_count(head) + char_count(text);
        let missing = self.width.saturating_sub(count);
        if text.len() + missing * 4 > MAX_TEXT {
            return fail("the text becomes too long");
        }
        let fill = |count: usize| self.fill.unwrap_or(' ').to_string().repeat(count);
        Ok(match align {
            '<' => format!("{head}{text}{}", fill(missing)),
            '^' => format!("{}{head}{text}{}", fill(missing / 2), fill(missing - missing / 2)),
            '=' => format!("{head}{}{text}", fill(missing)),
            _ => format!("{}{head}{text}", fill(missing)),
        })
    }
}

/// One digit, a fraction and an exponent of two digits at least.
fn exponent(number: f64, precision: usize, alternate: bool) -> String {
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    let dot = if alternate && precision == 0 { "." } else { "" };
    format!("{mantissa}{dot}e{sign}{:02}", exponent.abs())
}

/// The shorter of both forms for a number of digits. Without a kind at least one digit stands behind the point.
fn general(number: f64, precision: usize, alternate: bool, is_default: bool) -> String {
    let scientific = exponent(number, precision - 1, false);
    let power: i32 = scientific.rsplit_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let limit = i32::try_from(precision).unwrap_or(i32::MAX) - i32::from(is_default);
    let strip = |text: &str| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text.to_string(),
    };
    if power < -4 || power >= limit {
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{exponent}", strip(mantissa));
    }
    let decimals = usize::try_from(i32::try_from(precision).unwrap_or(i32::MAX) - 1 - power).unwrap_or(0);
    let text = strip(&format!("{number:.decimals$}"));
    if is_default && !text.contains('.') { text + ".0" } else { text }
}
