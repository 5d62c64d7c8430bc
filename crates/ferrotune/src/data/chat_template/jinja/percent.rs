//! `'...' % values` and `'...'.format(values)`.

use super::access;
use super::format_number::{Spec, size};
use super::object::Object;
use super::repr::{quoted, repr, to_str};
use super::runtime::{Result, fail, push};
use super::value::{Value, char_range};

/// `pattern % values`.
pub(super) fn percent(pattern: &str, values: &Value) -> Result<Value> {
    let single = std::slice::from_ref(values);
    let items = if let Value::Tuple(items) = values { items.as_slice() } else { single };
    let mut left = items.iter();
    let mut out = String::new();
    let mut letters = pattern.chars().peekable();
    let mut named = false;
    while let Some(c) = letters.next() {
        if c != '%' {
            push(&mut out, c.encode_utf8(&mut [0; 4]))?;
            continue;
        }
        let mut key = None;
        if letters.next_if_eq(&'(').is_some() {
            let name: String = std::iter::from_fn(|| letters.next_if(|c| *c != ')')).collect();
            if letters.next().is_none() {
                return fail("incomplete format key");
            }
            key = Some(name);
        }
        let mut spec = Spec::default();
        while let Some(flag) = letters.next_if(|c| matches!(c, '-' | '+' | ' ' | '0' | '#')) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '#' => spec.alternate = true,
                _ => spec.fill = Some('0'),
            }
        }
        let mut number = |star: &mut dyn FnMut() -> Result<Value>| -> Result<Option<i128>> {
            if letters.next_if_eq(&'*').is_some() {
                let given = star()?;
                return given.as_int().map(Some).ok_or(()).or_else(|()| fail("* wants int"));
            }
            let digits: String = std::iter::from_fn(|| letters.next_if(char::is_ascii_digit)).collect();
            if digits.is_empty() { Ok(None) } else { size(&digits).map(|size| Some(size as i128)) }
        };
        let mut next = || match left.next() {
            Some(value) => Ok(value.clone()),
            None => fail("not enough arguments for format string"),
        };
        if let Some(width) = number(&mut next)? {
            if width < 0 {
                spec.align = Some('<');
            }
            spec.width = size(&width.unsigned_abs().to_string())?;
        }
        if letters.next_if_eq(&'.').is_some() {
            let mut number = |star: &mut dyn FnMut() -> Result<Value>| -> Result<i128> {
                if letters.next_if_eq(&'*').is_some() {
                    return star()?.as_int().ok_or(()).or_else(|()| fail("* wants int"));
                }
                let digits: String = std::iter::from_fn(|| letters.next_if(char::is_ascii_digit)).collect();
                if digits.is_empty() { Ok(0) } else { size(&digits).map(|size| size as i128) }
            };
            spec.precision = Some(size(&number(&mut next)?.max(0).to_string())?);
        }
        let _ = letters.next_if(|c| matches!(c, 'h' | 'l' | 'L'));
        let Some(kind) = letters.next() else { return fail("incomplete format") };
        if kind == '%' {
            push(&mut out, "%")?;
            continue;
        }
        let value = match key {
            Some(name) => {
                named = true;
                let Value::Dict(dict) = values else { return fail("format requires a mapping") };
                match dict.field(&name) {
                    Some(value) => value.clone(),
                    None => return fail(format!("the key {} is missing", quoted(&name))),
                }
            }
            None => next()?,
        };
        push(&mut out, &converted(&value, kind, spec)?)?;
    }
    // What has items by name or number may have more of them than are written.
    let may_have_more = match values {
        Value::Dict(_) | Value::List(_) | Value::Undefined(_) => true,
        Value::Object(object) => matches!(object.as_ref(), Object::Range { .. }),
        _ => named,
    };
    if left.next().is_some() && !may_have_more {
        return fail("not all arguments converted during string formatting");
    }
    Ok(Value::str(out))
}

fn converted(value: &Value, kind: char, mut spec: Spec) -> Result<String> {
    let text = match kind {
        's' => Some(to_str(value)?),
        'r' => Some(repr(value)?),
        'a' => Some(ascii(&repr(value)?)),
        'c' => match (value, value.as_int()) {
            (Value::Str(text), _) if text.text.chars().count() == 1 => Some(text.text.to_string()),
            (_, Some(code)) => match u32::try_from(code).ok().and_then(char::from_u32) {
                Some(c) => Some(c.to_string()),
                None => return fail("%c arg not in range(0x110000)"),
            },
            _ => return fail("%c requires int or char"),
        },
        _ => None,
    };
    if let Some(text) = text {
        let precision = spec.precision.filter(|_| kind != 'c');
        let text = precision.map_or(text.as_str(), |count| char_range(&text, 0..count));
        spec.fill = None;
        return spec.padded("", text, spec.align.unwrap_or('>'));
    }
    if spec.align == Some('<') {
        spec.fill = None;
    } else if spec.fill.is_some() {
        spec.align = Some('=');
    }
    match kind {
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let number = match value {
                Value::Float(number) if matches!(kind, 'd' | 'i' | 'u') => truncated(*number)?,
                other => match other.as_int() {
                    Some(number) => number,
                    None => {
                        let found = other.type_name();
                        return fail(format!("%{kind} format: a real number is required, not {found}"));
                    }
                },
            };
            integer(number, kind, spec)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_float() {
            Some(number) => Spec { kind: Some(kind), ..spec }.apply(&Value::Float(number)),
            None => fail(format!("must be real number, not {}", value.type_name())),
        },
        other => fail(format!("unsupported format character '{other}'")),
    }
}

/// What `ascii()` makes of a `repr`.
fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c as u32 {
            code if code < 0x80 => out.push(c),
            code if code < 0x100 => out.push_str(&format!("\\x{code:02x}")),
            code if code < 0x10000 => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out
}

/// `int(number)`.
pub(super) fn truncated(number: f64) -> Result<i128> {
    if number.is_nan() {
        return fail("cannot convert float NaN to integer");
    }
    if number.abs() >= 1e38 {
        return fail("cannot convert so large a float to integer");
    }
    Ok(number.trunc() as i128)
}

/// With a precision, which is the least number of digits here.
fn integer(number: i128, kind: char, spec: Spec) -> Result<String> {
    let kind = if matches!(kind, 'i' | 'u') { 'd' } else { kind };
    let digits = spec.precision.unwrap_or(0);
    let plain = Spec { kind: Some(kind), ..Spec::default() }.apply(&Value::Int(number))?;
    let bare = plain.trim_start_matches('-');
    let prefix = match (spec.alternate, kind) {
        (true, 'x') => "0x",
        (true, 'X') => "0X",
        (true, 'o') => "0o",
        _ => "",
    };
    let sign = match (number < 0, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let zeros = "0".repeat(digits.saturating_sub(bare.len()));
    spec.padded(&format!("{sign}{prefix}"), &format!("{zeros}{bare}"), spec.align.unwrap_or('>'))
}

/// `pattern.format(*positional, **named)`.
pub(super) fn format(
    pattern: &str,
    positional: &[Value],
    named: &[(std::rc::Rc<str>, Value)],
) -> Result<Value> {
    let mut fields = Fields { positional, named, next: Some(0), by_number: false };
    fields.format(pattern, 2).map(Value::str)
}

struct Fields<'a> {
    positional: &'a [Value],
    named: &'a [(std::rc::Rc<str>, Value)],
    /// The number of the next field without one.
    next: Option<usize>,
    by_number: bool,
}

impl Fields<'_> {
    fn format(&mut self, pattern: &str, depth: usize) -> Result<String> {
        let mut out = String::new();
        let mut rest = pattern;
        while let Some(at) = rest.find(['{', '}']) {
            push(&mut out, &rest[..at])?;
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                push(&mut out, brace)?;
                rest = after;
                continue;
            }
            if brace == "}" {
                return fail("Single '}' encountered in format string");
            }
            let Some(end) = closing(rest) else { return fail("expected '}' before end of string") };
            if depth == 0 {
                return fail("Max string recursion exceeded");
            }
            let field = &rest[..end];
            rest = &rest[end + 1..];
            push(&mut out, &self.field(field, depth)?)?;
        }
        push(&mut out, rest)?;
        Ok(out)
    }

    fn field(&mut self, field: &str, depth: usize) -> Result<String> {
        let stop = field.find([':', '!']).unwrap_or(field.len());
        let value = self.value(&field[..stop])?;
        let mut rest = &field[stop..];
        let value = match rest.strip_prefix('!') {
            None => value,
            Some(after) => {
                rest = &after[after.chars().next().map_or(0, char::len_utf8)..];
                match after.chars().next() {
                    Some('s') => Value::str(to_str(&value)?),
                    Some('r') => Value::str(repr(&value)?),
                    Some('a') => Value::str(ascii(&repr(&value)?)),
                    _ => return fail("unknown conversion specifier"),
                }
            }
        };
        let spec = match rest.strip_prefix(':') {
            Some(spec) => self.format(spec, depth - 1)?,
            None if rest.is_empty() => String::new(),
            None => return fail("expected ':' after conversion specifier"),
        };
        Spec::parse(&spec)?.apply(&value)
    }

    fn value(&mut self, path: &str) -> Result<Value> {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (first, mut rest) = path.split_at(end);
        let index = match first {
            "" => {
                let Some(next) = self.next.filter(|_| !self.by_number) else {
                    return fail(
                        "cannot switch from manual field specification to automatic field numbering",
                    );
                };
                self.next = Some(next + 1);
                Some(next)
            }
            _ => first.parse::<usize>().ok(),
        };
        if index.is_some() && !first.is_empty() {
            if self.next.is_some_and(|next| next > 0) {
                return fail("cannot switch from automatic field numbering to manual field specification");
            }
            self.by_number = true;
        }
        let found = match index {
            Some(index) => self.positional.get(index),
            None => self.named.iter().find(|(name, _)| **name == *first).map(|(_, value)| value),
        };
        let Some(mut value) = found.cloned() else {
            return fail(format!("no value for the replacement field '{first}'"));
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = access::attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else {
                let Some(end) = rest.find(']') else { return fail("missing ']' in format string") };
                let key = &rest[1..end];
                let key = key.parse::<i128>().map_or_else(|_| Value::str(key), Value::Int);
                value = access::item(&value, &key)?;
                rest = &rest[end + 1..];
            }
        }
        Ok(value)
    }
}

/// Where the brace that was opened closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}
