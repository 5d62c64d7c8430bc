//! `+`, `-`, `*` and the other operators as Python has them.

use super::ast::Binary;
use super::runtime::{MAX_ITEMS, MAX_TEXT, Result, fail};
use super::value::{Text, Value};
use std::rc::Rc;

/// Two operands as integers or as floats.
enum Numbers {
    Ints(i128, i128),
    Floats(f64, f64),
}

pub(super) fn binary(operator: Binary, left: &Value, right: &Value) -> Result<Value> {
    let symbol = match operator {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "**",
    };
    match (operator, left, right) {
        (Binary::Mod, Value::Str(pattern), _) => return super::percent::percent(&pattern.text, right),
        (_, Value::Undefined(what), _) | (_, _, Value::Undefined(what)) => return fail(what.as_ref()),
        (Binary::Add, Value::Str(a), Value::Str(b)) => return joined(&[a, b]).map(Value::Str),
        (Binary::Add, Value::List(a), Value::List(b)) => return Ok(Value::list(chained(a, b)?)),
        (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => return Ok(Value::tuple(chained(a, b)?)),
        (Binary::Mul, a, count) | (Binary::Mul, count, a)
            if count.as_int().is_some() && matches!(a, Value::Str(_) | Value::List(_) | Value::Tuple(_)) =>
        {
            return repeated(a, count.as_int().unwrap_or(0));
        }
        _ => {}
    }
    let numbers = match (left.as_int(), right.as_int(), left.as_float(), right.as_float()) {
        (Some(a), Some(b), ..) => Numbers::Ints(a, b),
        (_, _, Some(a), Some(b)) => Numbers::Floats(a, b),
        _ => {
            let (a, b) = (left.type_name(), right.type_name());
            return fail(format!("unsupported operand type(s) for {symbol}: '{a}' and '{b}'"));
        }
    };
    match numbers {
        Numbers::Ints(a, b) => ints(operator, a, b),
        Numbers::Floats(a, b) => floats(operator, a, b).map(Value::Float),
    }
}

/// Texts one behind the other, with the marks of generation blocks.
pub(super) fn joined(parts: &[&Text]) -> Result<Text> {
    let length: usize = parts.iter().map(|part| part.text.len()).sum();
    if length > MAX_TEXT {
        return fail("the text becomes too long");
    }
    let mut text = String::with_capacity(length);
    let mut spans = Vec::new();
    for part in parts {
        let moved = part.spans.iter().flat_map(|spans| spans.iter());
        spans.extend(moved.map(|span| span.start + text.len()..span.end + text.len()));
        text.push_str(&part.text);
    }
    Ok(Text { text: text.into(), spans: (!spans.is_empty()).then(|| spans.into()) })
}

fn chained(a: &Rc<Vec<Value>>, b: &Rc<Vec<Value>>) -> Result<Vec<Value>> {
    if a.len() + b.len() > MAX_ITEMS {
        return fail("the list becomes too long");
    }
    Ok(a.iter().chain(b.iter()).cloned().collect())
}

fn repeated(value: &Value, count: i128) -> Result<Value> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    let fits = |length: usize, limit: usize| length.checked_mul(count).is_some_and(|length| length <= limit);
    match value {
        Value::Str(text) if fits(text.text.len(), MAX_TEXT) => Ok(Value::str(text.text.repeat(count))),
        Value::List(items) if fits(items.len(), MAX_ITEMS) => {
            Ok(Value::list(items.iter().cloned().cycle().take(items.len() * count).collect()))
        }
        Value::Tuple(items) if fits(items.len(), MAX_ITEMS) => {
            Ok(Value::tuple(items.iter().cloned().cycle().take(items.len() * count).collect()))
        }
        _ => fail("the repeated value becomes too long"),
    }
}

fn ints(operator: Binary, a: i128, b: i128) -> Result<Value> {
    let checked = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div if b == 0 => return fail("division by zero"),
        Binary::Div => return Ok(Value::Float(a as f64 / b as f64)),
        Binary::FloorDiv | Binary::Mod if b == 0 => return fail("integer division or modulo by zero"),
        Binary::FloorDiv => {
            a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
        }
        Binary::Mod => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        Binary::Pow if b < 0 => return floats(operator, a as f64, b as f64).map(Value::Float),
        Binary::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    checked.map(Value::Int).ok_or(()).or_else(|()| fail("the number becomes too large"))
}

fn floats(operator: Binary, a: f64, b: f64) -> Result<f64> {
    Ok(match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::FloorDiv | Binary::Mod if b == 0.0 => return fail("float division by zero"),
        Binary::Div => a / b,
        Binary::FloorDiv => floor_division(a, b),
        Binary::Mod => modulo(a, b),
        Binary::Pow if a == 0.0 && b < 0.0 => return fail("0.0 cannot be raised to a negative power"),
        Binary::Pow if a < 0.0 && b.fract() != 0.0 => return fail("complex numbers have no place in a chat"),
        Binary::Pow => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return fail("Numerical result out of range");
            }
            power
        }
    })
}

/// The whole number of times that `b` fits into `a`; the division by itself may be off by a rounding.
fn floor_division(a: f64, b: f64) -> f64 {
    let quotient = (a - modulo(a, b)) / b;
    if quotient == 0.0 {
        return 0.0_f64.copysign(a / b);
    }
    let whole = quotient.floor();
    if quotient - whole > 0.5 { whole + 1.0 } else { whole }
}

/// The remainder with the sign of the divisor.
fn modulo(a: f64, b: f64) -> f64 {
    let remainder = a % b;
    match remainder == 0.0 {
        true => remainder.copysign(b),
        false if (remainder < 0.0) != (b < 0.0) => remainder + b,
        false => remainder,
    }
}

/// `-value` and `+value`.
pub(super) fn signed(value: &Value, negative: bool) -> Result<Value> {
    match (value, value.as_int()) {
        (Value::Undefined(what), _) => fail(what.as_ref()),
        (Value::Float(n), _) => Ok(Value::Float(if negative { -n } else { *n })),
        (_, Some(n)) => Ok(Value::Int(if negative { n.wrapping_neg() } else { n })),
        _ => fail(format!("bad operand type for unary sign: '{}'", value.type_name())),
    }
}
