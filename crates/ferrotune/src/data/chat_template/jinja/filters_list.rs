//! Filters of lists and other things that can be gone through.

use super::access;
use super::arguments::{Given, text};
use super::arithmetic::binary;
use super::ast::Binary;
use super::compare::order;
use super::filters::{flag, folded, generator, positive, sort_by_keys};
use super::object::Object;
use super::render::Renderer;
use super::repr::{to_str, write_str};
use super::runtime::{MAX_ITEMS, Result, fail, push};
use super::value::{Dict, Value, hashable};
use super::{filters, tests};

pub(super) fn filter(renderer: &Renderer<'_>, name: &str, value: Value, given: Given) -> Result<Value> {
    match name {
        "batch" => batch(&value, given).map(generator),
        "slice" => slices(&value, given).map(generator),
        "dictsort" => dictsort(&value, given),
        "first" => {
            given.plain::<0>(name, 0)?;
            let first = match &value {
                Value::Object(object) => match object.as_ref() {
                    // An iterator loses only what is taken.
                    Object::Iterator(_, items) => items.borrow_mut().pop_front(),
                    _ => value.items()?.into_iter().next(),
                },
                _ => value.items()?.into_iter().next(),
            };
            Ok(first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
        }
        "last" => {
            given.plain::<0>(name, 0)?;
            if !is_reversible(&value) {
                return fail(format!("'{}' object is not reversible", value.type_name()));
            }
            let last = value.items()?.pop();
            Ok(last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
        }
        "groupby" => groupby(&value, given),
        "items" => match &value {
            Value::Undefined(_) => Ok(generator(Vec::new())),
            Value::Dict(dict) => {
                let pair = |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
                Ok(generator(dict.iter().map(pair).collect()))
            }
            _ => fail("Can only get item pairs from a mapping."),
        },
        "join" => join(&value, given),
        "list" => {
            given.plain::<0>(name, 0)?;
            value.items().map(Value::list)
        }
        "map" => map(renderer, &value, given).map(generator),
        "max" | "min" => extreme(&value, given, name == "max"),
        "select" => select(renderer, &value, given, false, true).map(generator),
        "reject" => select(renderer, &value, given, false, false).map(generator),
        "selectattr" => select(renderer, &value, given, true, true).map(generator),
        "rejectattr" => select(renderer, &value, given, true, false).map(generator),
        "reverse" => {
            given.plain::<0>(name, 0)?;
            let kind = match &value {
                Value::Str(text) => return Ok(Value::str(text.text.chars().rev().collect::<String>())),
                Value::List(_) => "list_reverseiterator",
                Value::Dict(_) => "dict_reversekeyiterator",
                _ => "reversed",
            };
            let mut items = value.items()?;
            items.reverse();
            Ok(if is_reversible(&value) { Object::iterator(kind, items) } else { Value::list(items) })
        }
        "sort" => {
            let [reverse, case_sensitive, attribute] =
                given.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
            let getter = Getter::many(attribute.as_ref())?;
            let mut keyed = keyed(&value.items()?, &getter, flag(case_sensitive.as_ref()))?;
            sort_by_keys(&mut keyed, flag(reverse.as_ref()))?;
            Ok(Value::list(keyed.into_iter().map(|(_, item)| item).collect()))
        }
        "sum" => {
            let [attribute, start] = given.bind(name, ["attribute", "start"], 0)?;
            let getter = Getter::one(attribute.as_ref(), None)?;
            let start = start.unwrap_or(Value::Int(0));
            if start.as_str().is_some() {
                return fail("sum() can't sum strings");
            }
            value.items()?.iter().try_fold(start, |sum, item| binary(Binary::Add, &sum, &getter.get(item)?))
        }
        _ => unique(renderer, &value, given).map(generator),
    }
}

fn is_reversible(value: &Value) -> bool {
    match value {
        Value::Object(object) => matches!(object.as_ref(), Object::View(..) | Object::Range { .. }),
        Value::Undefined(_) | Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
        _ => false,
    }
}

/// What the argument `attribute` of a filter asks of an item.
struct Getter {
    paths: Vec<Vec<Value>>,
    default: Option<Value>,
    is_list: bool,
}

impl Getter {
    fn one(attribute: Option<&Value>, default: Option<Value>) -> Result<Getter> {
        Ok(Getter { paths: vec![path(attribute)?], default, is_list: false })
    }

    /// Several attributes with commas between them.
    fn many(attribute: Option<&Value>) -> Result<Getter> {
        match attribute.and_then(Value::as_str) {
            Some(names) => {
                let paths =
                    names.split(',').map(|name| path(Some(&Value::str(name)))).collect::<Result<_>>()?;
                Ok(Getter { paths, default: None, is_list: true })
            }
            None => Getter::one(attribute, None),
        }
    }

    fn along(&self, item: &Value, path: &[Value]) -> Result<Value> {
        path.iter().try_fold(item.clone(), |item, part| {
            let found = access::item(&item, part)?;
            Ok(match &self.default {
                Some(default) if found.is_undefined() && !matches!(default, Value::None) => default.clone(),
                _ => found,
            })
        })
    }

    fn get(&self, item: &Value) -> Result<Value> {
        if !self.is_list {
            return self.along(item, &self.paths[0]);
        }
        let parts: Result<Vec<Value>> = self.paths.iter().map(|path| self.along(item, path)).collect();
        parts.map(Value::list)
    }

    fn key(&self, item: &Value, case_sensitive: bool) -> Result<Value> {
        let found = self.get(item)?;
        Ok(match (&found, case_sensitive) {
            (_, true) => found,
            (Value::List(parts), _) if self.is_list => Value::list(parts.iter().map(folded).collect()),
            _ => folded(&found),
        })
    }
}

fn path(attribute: Option<&Value>) -> Result<Vec<Value>> {
    Ok(match attribute {
        None | Some(Value::None) => Vec::new(),
        Some(Value::Str(text)) => {
            let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let part = |part: &str| match part.parse::<i128>() {
                Ok(index) if is_number(part) => Value::Int(index),
                _ => Value::str(part),
            };
            text.text.split('.').map(part).collect()
        }
        Some(other) if other.as_int().is_some() => vec![other.clone()],
        Some(other) => return fail(format!("an attribute is a name, found '{}'", other.type_name())),
    })
}

fn keyed(items: &[Value], getter: &Getter, case_sensitive: bool) -> Result<Vec<(Value, Value)>> {
    items.iter().map(|item| Ok((getter.key(item, case_sensitive)?, item.clone()))).collect()
}

fn join(value: &Value, given: Given) -> Result<Value> {
    let [separator, attribute] = given.bind("join", ["d", "attribute"], 0)?;
    let separator = separator.as_ref().map_or(Ok(String::new()), to_str)?;
    let getter = Getter::one(attribute.as_ref(), None)?;
    let mut out = String::new();
    for (i, item) in value.items()?.iter().enumerate() {
        push(&mut out, if i > 0 { &separator } else { "" })?;
        write_str(&mut out, &getter.get(item)?)?;
    }
    Ok(Value::str(out))
}

fn map(renderer: &Renderer<'_>, value: &Value, mut given: Given) -> Result<Vec<Value>> {
    if !value.truth() {
        return Ok(Vec::new());
    }
    let items = value.items()?;
    renderer.budget.steps(items.len())?;
    if given.positional.is_empty() && given.named.iter().any(|(name, _)| &**name == "attribute") {
        let [attribute, default] = given.bind("map", ["attribute", "default"], 1)?;
        let getter = Getter::one(attribute.as_ref(), default)?;
        return items.iter().map(|item| getter.get(item)).collect();
    }
    if given.positional.is_empty() {
        return fail("map requires a filter argument");
    }
    let name = given.positional.remove(0);
    let name = text(&name)?;
    let apply = |item: Value| {
        let given = Given { positional: given.positional.clone(), named: given.named.clone() };
        let made = renderer.budget.nested(|| filters::filter(renderer, name, item, given))?;
        if let Some(text) = made.as_str() {
            renderer.budget.bytes(text.len())?;
        }
        Ok(made)
    };
    items.into_iter().map(apply).collect()
}

fn select(
    renderer: &Renderer<'_>,
    value: &Value,
    mut given: Given,
    of_attribute: bool,
    keep: bool,
) -> Result<Vec<Value>> {
    if !value.truth() {
        return Ok(Vec::new());
    }
    let items = value.items()?;
    renderer.budget.steps(items.len())?;
    let mut getter = Getter::one(None, None)?;
    if of_attribute {
        if given.positional.is_empty() {
            return fail("Missing parameter for attribute name");
        }
        getter = Getter::one(Some(&given.positional.remove(0)), None)?;
    }
    let name = if given.positional.is_empty() { None } else { Some(given.positional.remove(0)) };
    let mut kept = Vec::new();
    for item in items {
        let tested = getter.get(&item)?;
        let holds = match &name {
            Some(name) => {
                let given = Given { positional: given.positional.clone(), named: given.named.clone() };
                tests::test(renderer, text(name)?, &tested, given)?
            }
            None => tested.truth(),
        };
        if holds == keep {
            kept.push(item);
        }
    }
    Ok(kept)
}

fn unique(renderer: &Renderer<'_>, value: &Value, given: Given) -> Result<Vec<Value>> {
    let [case_sensitive, attribute] = given.bind("unique", ["case_sensitive", "attribute"], 0)?;
    let getter = Getter::one(attribute.as_ref(), None)?;
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    for item in value.items()? {
        let key = getter.key(&item, flag(case_sensitive.as_ref()))?;
        hashable(&key)?;
        renderer.budget.steps(seen.len() / 8)?;
        if !seen.iter().any(|other| other.equals(&key)) {
            seen.push(key);
            kept.push(item);
        }
    }
    Ok(kept)
}

fn extreme(value: &Value, given: Given, is_max: bool) -> Result<Value> {
    let name = if is_max { "max" } else { "min" };
    let [case_sensitive, attribute] = given.bind(name, ["case_sensitive", "attribute"], 0)?;
    let getter = Getter::one(attribute.as_ref(), None)?;
    let mut best: Option<(Value, Value)> = None;
    for item in value.items()? {
        let key = getter.key(&item, flag(case_sensitive.as_ref()))?;
        let better = match &best {
            None => true,
            Some((other, _)) if is_max => order(&key, other, ">")?.is_some_and(|order| order.is_gt()),
            Some((other, _)) => order(&key, other, "<")?.is_some_and(|order| order.is_lt()),
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

fn batch(value: &Value, given: Given) -> Result<Vec<Value>> {
    let [line, fill] = given.bind("batch", ["linecount", "fill_with"], 1)?;
    let size = positive(line.as_ref(), "linecount")?;
    let items = value.items()?;
    let mut out = Vec::new();
    for chunk in items.chunks(size) {
        let mut chunk = chunk.to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
            if size > MAX_ITEMS {
                return fail("the list becomes too long");
            }
            chunk.resize(size, fill.clone());
        }
        out.push(Value::list(chunk));
    }
    Ok(out)
}

fn slices(value: &Value, given: Given) -> Result<Vec<Value>> {
    let [slices, fill] = given.bind("slice", ["slices", "fill_with"], 1)?;
    let slices = positive(slices.as_ref(), "slices")?;
    if slices > MAX_ITEMS {
        return fail("the list becomes too long");
    }
    let items = value.items()?;
    let (each, extra) = (items.len() / slices, items.len() % slices);
    let mut at = 0;
    let mut out = Vec::new();
    for number in 0..slices {
        let size = each + usize::from(number < extra);
        let mut slice = items[at..at + size].to_vec();
        at += size;
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None) && number >= extra) {
            slice.push(fill.clone());
        }
        out.push(Value::list(slice));
    }
    Ok(out)
}

fn groupby(value: &Value, given: Given) -> Result<Value> {
    let [attribute, default, case_sensitive] =
        given.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let getter = Getter::one(attribute.as_ref(), default)?;
    let mut keyed = keyed(&value.items()?, &getter, flag(case_sensitive.as_ref()))?;
    sort_by_keys(&mut keyed, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in keyed {
        match groups.last_mut() {
            Some((last, items)) if last.equals(&key) => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let group = |(_, items): (Value, Vec<Value>)| {
        let name = getter.get(items.first().unwrap_or(&Value::None))?;
        Ok(Value::tuple(vec![name, Value::list(items)]))
    };
    groups.into_iter().map(group).collect::<Result<_>>().map(Value::list)
}

fn dictsort(value: &Value, given: Given) -> Result<Value> {
    let [case_sensitive, by, reverse] = given.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let at = match by.as_ref().map_or(Ok("key"), text)? {
        "key" => 0,
        "value" => 1,
        _ => return fail("You can only sort by either \"key\" or \"value\""),
    };
    let Value::Dict(dict) = value else {
        return fail(format!("'{}' object has no attribute 'items'", value.type_name()));
    };
    let entry = |(key, value): &(Value, Value)| {
        let by = if at == 0 { key } else { value };
        let by = if flag(case_sensitive.as_ref()) { by.clone() } else { folded(by) };
        (by, Value::tuple(vec![key.clone(), value.clone()]))
    };
    let mut keyed: Vec<(Value, Value)> = dict.iter().map(entry).collect();
    sort_by_keys(&mut keyed, flag(reverse.as_ref()))?;
    Ok(Value::list(keyed.into_iter().map(|(_, pair)| pair).collect()))
}

/// The same value with the keys of its dicts in order, where they have one.
pub(super) fn sorted_keys(value: &Value) -> Result<Value> {
    let all = |items: &[Value]| items.iter().map(sorted_keys).collect::<Result<Vec<_>>>();
    Ok(match value {
        Value::List(items) => Value::list(all(items)?),
        Value::Tuple(items) => Value::tuple(all(items)?),
        Value::Dict(dict) => {
            let mut entries: Vec<(Value, Value)> = dict.iter().cloned().collect();
            sort_by_keys(&mut entries, false)?;
            let mut sorted = Dict::default();
            for (key, value) in entries {
                sorted.set(key, sorted_keys(&value)?)?;
            }
            Value::dict(sorted)
        }
        other => other.clone(),
    })
}
