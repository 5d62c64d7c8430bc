//! What a row says, in the one form that every shape of rows is brought into.

use serde_json::{Map, Value, json};

/// What a row says.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// Plain text.
    Text(String),
    /// A prompt and what should follow it.
    Completion {
        /// The prompt.
        prompt: String,
        /// What should follow.
        completion: String,
    },
    /// Messages for the chat template.
    Chat(Chat),
    /// A file of a repository.
    Code(CodeFile),
    /// Ready-made token ids.
    Tokens {
        /// The ids.
        input_ids: Vec<u32>,
        /// One label for each of `input_ids`, not shifted; -100 is not supervised.
        labels: Vec<i32>,
    },
}

/// A source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeFile {
    /// Name of the repository that it is in.
    pub repository: String,
    /// Its path there, with `/`.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// Messages for the chat template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The messages, objects with `role` and usually `content`.
    pub messages: Vec<Value>,
    /// How many of them are only context: assistant messages before are not supervised.
    pub prompt_messages: usize,
    /// Further messages that the row asks not to be supervised, by their number.
    pub untrained: Vec<usize>,
    /// Functions that the model may call.
    pub tools: Option<Vec<Value>>,
    /// Further variables for the template (`chat_template_kwargs` of the row).
    pub extra: Map<String, Value>,
}

impl Chat {
    /// Puts a system message first.
    pub(crate) fn insert_system(&mut self, system: &str) {
        self.messages.insert(0, json!({"role": "system", "content": system}));
        self.prompt_messages += usize::from(self.prompt_messages > 0);
        self.untrained.iter_mut().for_each(|i| *i += 1);
    }
}
