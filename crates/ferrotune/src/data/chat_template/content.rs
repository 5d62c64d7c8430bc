//! Whether a template takes the content of a message as text or as a list of parts.
//!
//! Rows have either, and so have templates: some print a list as Python would, some go through the letters of a text
//! and print none. What a template does is found out by giving it both.

use super::{ChatTemplate, RenderOptions};
use serde_json::{Value, json};

/// What a template takes for a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Either,
    Text,
    Parts,
}

/// What a template takes, by role.
#[derive(Clone, Debug)]
pub struct ContentForms {
    roles: Vec<(&'static str, Form)>,
}

const PROBE: &str = "Qprobe7";

impl ContentForms {
    /// Finds out what a template takes.
    pub(crate) fn probe(template: &ChatTemplate) -> ContentForms {
        let user = form(template, "user").unwrap_or(Form::Text);
        let others = ["system", "assistant", "tool"];
        let roles = others.map(|role| (role, form(template, role).unwrap_or(user)));
        ContentForms { roles: roles.into_iter().chain([("user", user)]).collect() }
    }

    /// Brings messages into the form that the template takes.
    pub fn fit(&self, messages: &mut [Value]) {
        for message in messages {
            let role = message["role"].as_str().unwrap_or_default();
            let form =
                self.roles.iter().find(|(name, _)| *name == role).map_or(Form::Text, |(_, form)| *form);
            let fitted = match (form, &message["content"]) {
                (Form::Text, Value::Array(parts)) => joined(parts),
                (Form::Parts, Value::String(text)) => Some(json!([{"type": "text", "text": text}])),
                _ => None,
            };
            if let Some(fitted) = fitted {
                message["content"] = fitted;
            }
        }
    }
}

/// The text of parts, one behind the other; none if one of them is no text.
fn joined(parts: &[Value]) -> Option<Value> {
    parts.iter().map(|part| part["text"].as_str()).collect::<Option<String>>().map(Value::String)
}

fn form(template: &ChatTemplate, role: &str) -> Option<Form> {
    let render = |content: Value| {
        let mut messages = match role {
            "system" => vec![json!({"role": "system"}), json!({"role": "user", "content": "x"})],
            "user" => vec![json!({"role": "user"})],
            "assistant" => vec![json!({"role": "user", "content": "x"}), json!({"role": "assistant"})],
            _ => {
                let function = json!({"name": "f", "arguments": {}});
                let calls = json!([{"id": "abcdefghi", "type": "function", "function": function}]);
                vec![
                    json!({"role": "user", "content": "x"}),
                    json!({"role": "assistant", "content": "", "tool_calls": calls}),
                    json!({"role": "tool", "name": "f", "tool_call_id": "abcdefghi"}),
                ]
            }
        };
        let at = messages.iter().position(|m| m["role"] == role)?;
        messages[at]["content"] = content;
        let text = template.render(&messages, None, &RenderOptions::default()).ok()?.text;
        text.contains(PROBE).then_some(text)
    };
    let text = render(json!(PROBE));
    let parts = render(json!([{"type": "text", "text": PROBE}]));
    match (text, parts) {
        (Some(text), Some(parts)) if text == parts => Some(Form::Either),
        (Some(_), _) => Some(Form::Text),
        (None, Some(parts)) if !["'type'", "\"type\""].iter().any(|key| parts.contains(key)) => {
            Some(Form::Parts)
        }
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    #[test]
    fn contents_become_what_the_template_takes() {
        let text = json!({"role": "user", "content": "ab"});
        let parts = json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        let fitted = |source: &str, message: &Value| {
            let template = ChatTemplate::parse(source, Map::new()).unwrap();
            let mut messages = vec![message.clone()];
            ContentForms::probe(&template).fit(&mut messages);
            messages.remove(0)
        };
        let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
        let strict = "{% for m in messages %}{{ m.role + m.content + '\n' }}{% endfor %}";
        for source in [plain, strict] {
            assert_eq!(fitted(source, &text), text);
            assert_eq!(fitted(source, &parts), text);
        }
        let iterates = "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ p.text }}{% endfor %}\n{% endfor %}";
        assert_eq!(fitted(iterates, &parts), parts);
        assert_eq!(
            fitted(iterates, &text),
            json!({"role": "user", "content": [{"type": "text", "text": "ab"}]})
        );
        let both = "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}\
                    {% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}\n{% endfor %}";
        assert_eq!(fitted(both, &parts), parts);
        assert_eq!(fitted(both, &text), text);
    }
}
