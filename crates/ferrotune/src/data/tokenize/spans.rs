//! Where in a rendered chat the assistant's messages stand.
//!
//! An answer is trained as the template writes it when it is the last message, since that is how it is written when
//! the model has just given it. Where the template writes it otherwise as soon as more follows (thoughts of earlier
//! turns are left out), the chat as a whole cannot carry it, and the chat up to it becomes a row of its own. Where even
//! that writes what is before the answer otherwise than the prompt does, the row is the prompt and then the answer.

use super::ends::EndOfTurn;
use super::problem::Problem;
use super::reasoning::{self, empty_thought, has_thought_tags, thought};
use crate::data::chat_template::{ChatTemplate, ContentForms, Conversation, RenderOptions, Rendered};
use crate::data::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use std::ops::Range;

type Result<T> = std::result::Result<T, Problem>;

/// A template with what was found out about it.
#[derive(Debug)]
pub(super) struct Style<'a> {
    pub(super) template: &'a ChatTemplate,
    pub(super) ends: EndOfTurn,
    pub(super) forms: ContentForms,
    /// Whether it writes the header of an answer when it is asked for one.
    writes_header: bool,
}

impl<'a> Style<'a> {
    pub(super) fn probe(tokenizer: &Tokenizer, template: &'a ChatTemplate) -> Style<'a> {
        let forms = ContentForms::probe(template);
        let mut question = [json!({"role": "user", "content": "x"})];
        forms.fit(&mut question);
        let render = |header| template.render(&question, None, &RenderOptions::prompt(header)).ok();
        Style {
            template,
            ends: EndOfTurn::probe(tokenizer, template, &forms),
            forms,
            writes_header: render(true) != render(false),
        }
    }
}

/// A chat that can be rendered as a whole and in part.
pub(super) struct Chat<'a> {
    pub(super) style: &'a Style<'a>,
    pub(super) messages: &'a [Value],
    pub(super) tools: Option<&'a [Value]>,
    pub(super) kwargs: &'a Map<String, Value>,
    /// Whether thoughts are not trained.
    masks_thoughts: bool,
    conversation: Conversation<'a>,
}

/// A rendering that becomes a row, with the answers that it trains.
pub(super) struct Carrier {
    /// How many of the messages it has.
    pub(super) upto: usize,
    pub(super) rendered: Rendered,
    /// Whether it is the prompt for its last answer and then that answer, as the template writes the prompt otherwise when
    /// an answer follows.
    pub(super) joined: bool,
    /// What is supervised of it, from its start to its end.
    pub(super) spans: Vec<Range<usize>>,
}

/// An answer in the chat that ends with it.
struct Answer {
    spans: Vec<Range<usize>>,
    /// Where it ends without its end of turn.
    content_end: usize,
    thought_lost: bool,
    /// The text that these are places in, if the rendering itself is not what is served.
    joined: Option<String>,
}

impl<'a> Chat<'a> {
    pub(super) fn new(
        style: &'a Style<'a>,
        messages: &'a [Value],
        tools: Option<&'a [Value]>,
        kwargs: &'a Map<String, Value>,
        masks_thoughts: bool,
    ) -> Result<Self> {
        let conversation = style.template.conversation(messages, tools, kwargs)?;
        Ok(Chat { style, messages, tools, kwargs, masks_thoughts, conversation })
    }

    /// Renders the first messages.
    fn render(&self, upto: usize, add_generation_prompt: bool) -> Result<Rendered> {
        Ok(self.conversation.render(upto, &RenderOptions::prompt(add_generation_prompt))?)
    }

    /// Renders other messages beside the same tools and variables.
    pub(super) fn render_others(
        &self,
        messages: &[Value],
        tools: Option<&[Value]>,
        add_generation_prompt: bool,
    ) -> Result<Rendered> {
        let options =
            RenderOptions { kwargs: self.kwargs.clone(), ..RenderOptions::prompt(add_generation_prompt) };
        Ok(self.style.template.render(messages, tools, &options)?)
    }

    /// The rows that train these answers, and whether the template left out the thought of one.
    pub(super) fn carriers(&self, answers: &[usize]) -> Result<(Vec<Carrier>, bool)> {
        let upto = self.messages.len();
        let whole = Carrier { upto, rendered: self.render(upto, false)?, joined: false, spans: Vec::new() };
        let mut carriers = vec![whole];
        let mut thought_lost = false;
        for &k in answers.iter().rev() {
            let own = match k + 1 == upto {
                true => None,
                false => Some(self.render(k + 1, false)?),
            };
            let rendered = own.as_ref().unwrap_or(&carriers[0].rendered);
            let answer = self.answer(rendered, k)?;
            thought_lost |= answer.thought_lost;
            if answer.spans.is_empty() {
                continue;
            }
            if let Some(text) = answer.joined {
                let rendered = Rendered { text, assistant_spans: Vec::new() };
                carriers.push(Carrier { upto: k + 1, rendered, joined: true, spans: answer.spans });
                continue;
            }
            let ends = &self.style.ends;
            let place = carriers.iter().enumerate().find_map(|(i, carrier)| {
                Some((i, carried(&carrier.rendered.text, &rendered.text, &answer, ends)?))
            });
            match (place, own) {
                (Some((i, spans)), _) => {
                    let carrier = &mut carriers[i];
                    let next = carrier.spans.first().map_or(usize::MAX, |next| next.start);
                    if spans.last().is_some_and(|last| last.end > next) {
                        return Err(unfindable(k));
                    }
                    carrier.spans.splice(0..0, spans);
                }
                (None, Some(rendered)) => {
                    carriers.push(Carrier { upto: k + 1, rendered, joined: false, spans: answer.spans });
                }
                (None, None) => return Err(unfindable(k)),
            }
        }
        if carriers.len() > 1 && carriers[0].spans.is_empty() {
            carriers.remove(0);
        }
        carriers.sort_by_key(|carrier| carrier.upto);
        Ok((carriers, thought_lost))
    }

    /// Where the answer after the first `count` messages starts in the chat that goes on with it: behind the header of
    /// an assistant's turn.
    pub(super) fn prefix(&self, whole: &Rendered, count: usize) -> Result<usize> {
        self.start(whole, count)?.ok_or_else(|| rewritten(count))
    }

    /// Like [`Self::prefix`]; `None` if the template writes the messages before the answer differently when it follows.
    ///
    /// Some templates of reasoning models open a thought in the header that they write for a new answer and another, or
    /// none, before an answer that is there already. Then what both have in common is the header, provided that the
    /// messages before it are written alike.
    fn start(&self, whole: &Rendered, count: usize) -> Result<Option<usize>> {
        if count == 0 {
            return self.header(&self.messages[..1], &whole.text).map(Some);
        }
        let prompt = self.render(count, true)?.text;
        let common = common_prefix(&whole.text, &prompt);
        if common == prompt.len() {
            return match self.style.writes_header || self.messages[count]["role"] != "assistant" {
                true => Ok(Some(common)),
                false => self.unasked_header(&whole.text, count, common).map(Some),
            };
        }
        let history = self.render(count, false)?.text.len();
        let is_header = common > history
            && prompt.is_char_boundary(history)
            && !prompt[history..common].trim().is_empty();
        Ok(is_header.then_some(common))
    }

    /// The prompt for the answer `k` and then the answer, for templates that write the prompt otherwise when an answer
    /// follows (a system text that goes before the last message); the header before the answer must be the same.
    fn served(&self, own: &Rendered, k: usize) -> Result<Option<(String, usize)>> {
        let prompt = self.render(k, true)?.text;
        let end = self.header(&self.messages[..=k], &own.text)?;
        // The first token of an answer may begin with a space, and a thought that is opened belongs to it.
        let before = own.text[..end].trim_end_matches(' ');
        let before = before.trim_end_matches('\n').strip_suffix("<think>").unwrap_or(before);
        let same = before.bytes().rev().zip(prompt.bytes().rev()).take_while(|(a, b)| a == b).count();
        let header = before.as_bytes()[before.len() - same..].trim_ascii();
        Ok((!header.is_empty()).then(|| (format!("{prompt}{}", &own.text[before.len()..]), prompt.len())))
    }

    /// The end of a header that the template does not write when it is asked for one: it is no part of the answer, unlike
    /// the space that the first token of an answer begins with.
    fn unasked_header(&self, text: &str, count: usize, prompt: usize) -> Result<usize> {
        let end = self.header(&self.messages[..=count], text)?;
        let header = text.get(prompt..end).unwrap_or_default();
        // A thought that is opened for every answer belongs to it.
        let header = header.find("<think>").map_or(header, |at| &header[..at]);
        Ok(if header.trim().is_empty() { prompt } else { prompt + header.len() })
    }

    /// The start of a chat up to its last message's own text: what does not change with the content.
    fn header(&self, messages: &[Value], text: &str) -> Result<usize> {
        let mut messages = messages.to_vec();
        if let Some(last) = messages.last_mut() {
            let first = first_letter(&last["content"]);
            // A content that differs from the real one in its first character.
            let other = if first == Some('a') { "b" } else { "a" };
            *last = json!({"role": last["role"], "content": other});
        }
        self.style.forms.fit(&mut messages);
        Ok(common_prefix(text, &self.render_others(&messages, self.tools, false)?.text))
    }

    /// Finds the answer `k` in the chat that ends with it.
    fn answer(&self, own: &Rendered, k: usize) -> Result<Answer> {
        let ends = &self.style.ends;
        let mut joined = None;
        let mut spans = match self.style.template.has_generation() {
            true => self.marked(own, k)?,
            false => {
                let start = match self.start(own, k)? {
                    Some(start) => start,
                    None => match self.served(own, k)? {
                        Some((text, start)) => {
                            joined = Some(text);
                            start
                        }
                        None => return Err(rewritten(k)),
                    },
                };
                let answer = joined.as_deref().unwrap_or(&own.text).get(start..).unwrap_or_default();
                let end = ends.last_in(answer).unwrap_or_else(|| answer.trim_end().len());
                std::iter::once(start..start + end).collect()
            }
        };
        let text = joined.as_deref().unwrap_or(&own.text);
        let lost = thought(&self.messages[k])
            .is_some_and(|thought| !spans.iter().any(|span| text[span.clone()].contains(&thought)));
        if let (true, Some(first)) = (lost, spans.first_mut()) {
            let rest = &text[first.clone()];
            first.start += rest.len() - rest.trim_start_matches(['\n', '\r']).len();
        }
        // A template that marks what is generated has said what is trained.
        if let (false, Some(first)) = (self.style.template.has_generation(), spans.first_mut())
            && !has_thought_tags(&self.messages[k])
        {
            first.start += empty_thought(&text[first.clone()]);
        }
        let content_end = spans.last().map_or(text.len(), |last| {
            let answer = &text[last.clone()];
            let mark = ends.marks.iter().find(|mark| answer.ends_with(&mark.text));
            last.end - mark.map_or(0, |mark| mark.text.len())
        });
        // A call that the template does not write leaves nothing that could be learnt but to say nothing.
        if self.masks_thoughts
            && let Some(place) = self.thought_place(own, k, text.len())?
        {
            spans = reasoning::without(spans, &place);
        }
        let nothing = spans
            .iter()
            .all(|span| text[span.start.min(content_end)..span.end.min(content_end)].trim().is_empty());
        if nothing && says_something(&self.messages[k]) {
            spans.clear();
        }
        Ok(Answer { spans, content_end, thought_lost: lost, joined })
    }

    /// Where the thought of the answer `k` stands in a text of `length` bytes that ends as the chat up to it does.
    fn thought_place(&self, own: &Rendered, k: usize, length: usize) -> Result<Option<Range<usize>>> {
        let Some(other) = reasoning::with_other_thought(&self.messages[k]) else { return Ok(None) };
        let mut messages = self.messages[..=k].to_vec();
        messages[k] = other;
        let other = self.render_others(&messages, self.tools, false)?;
        let place = reasoning::place(&own.text, &other.text);
        // What stands before the answer may have another length than in its own chat.
        let there = |at: usize| (length + at).saturating_sub(own.text.len());
        Ok(place.map(|place| there(place.start)..there(place.end)))
    }

    /// The template's own marks of the last message, with the end-of-turn token.
    fn marked(&self, own: &Rendered, k: usize) -> Result<Vec<Range<usize>>> {
        let answers = self.messages[..=k].iter().filter(|m| m["role"] == "assistant").count();
        let spans = if own.assistant_spans.len() == answers {
            own.assistant_spans.last().cloned().into_iter().collect()
        } else {
            // What the template marks is not each answer once: marks behind what was there before belong to it.
            let before = match k {
                0 => 0,
                _ => common_prefix(&own.text, &self.render(k, false)?.text),
            };
            own.assistant_spans.iter().filter(|span| span.end > before).cloned().collect::<Vec<_>>()
        };
        let ends = &self.style.ends;
        let whole = |span: Range<usize>| {
            // Some blocks close before the token that ends the turn, some after the line break behind it.
            let follows = ends.marks.iter().find(|mark| own.text[span.end..].starts_with(&mark.text));
            match (follows, ends.last_in(&own.text[span.clone()])) {
                (Some(mark), _) => span.start..span.end + mark.text.len(),
                (None, Some(at)) if own.text[span.start + at..span.end].trim().is_empty() => {
                    span.start..span.start + at
                }
                (None, _) => span,
            }
        };
        Ok(spans.into_iter().map(whole).collect())
    }
}

/// The spans of an answer in a text that goes on behind it, if that text has it as it is in its own chat. Only its end
/// of turn may be another one: some templates write another token at the end of a chat than in its middle.
fn carried(text: &str, own: &str, answer: &Answer, ends: &EndOfTurn) -> Option<Vec<Range<usize>>> {
    let mut spans = answer.spans.clone();
    let end = answer.content_end;
    if text.as_bytes().get(..end)? != &own.as_bytes()[..end] {
        return None;
    }
    let Some(last) = spans.last_mut() else { return Some(spans) };
    if text.get(end..last.end) != own.get(end..last.end) {
        let mark = ends.marks.iter().find(|mark| text[end..].starts_with(&mark.text))?;
        last.end = end + mark.text.len();
    }
    Some(spans)
}

fn says_something(message: &Value) -> bool {
    let has_text = match &message["content"] {
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(parts) => !parts.is_empty(),
        _ => false,
    };
    has_text || message.get("tool_calls").is_some() || thought(message).is_some()
}

fn first_letter(content: &Value) -> Option<char> {
    let text = match content {
        Value::Array(parts) => parts.first().and_then(|part| part["text"].as_str()),
        other => other.as_str(),
    };
    text.and_then(|text| text.trim_start().chars().next())
}

/// What helps where an answer cannot be told from the rest of its chat.
const APART: &str = "split the chat into rows that end with each answer, use data.supervise=all, or a template with \
                     {% generation %} blocks";

fn unfindable(k: usize) -> Problem {
    Problem::new(format!("message {k}: its end cannot be found in the rendered chat"), APART)
}

fn rewritten(k: usize) -> Problem {
    let problem = format!(
        "message {k}: the chat template writes the messages before it differently when more follow, so its tokens cannot be \
         told apart"
    );
    Problem::new(problem, APART)
}

/// Bytes that two texts have in common at their start.
fn common_prefix(a: &str, b: &str) -> usize {
    let common = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    (0..=common).rev().find(|&at| a.is_char_boundary(at)).unwrap_or(0)
}
