//! A customer chatbot from a list of questions and answers.

use ferrotune::Result;

use super::measure::Measure;
use super::{Part, Recipe, Settings};
use crate::commands::us_gaap::chat_row;

/// Facts with their wordings: `=` an answer, `+` a wording to learn, `?` a wording of the test.
const FAQ: &str = include_str!("../../../recipes/chatbot/faq.txt");

const TRAIN: &str = "faq-train.jsonl";
const TEST: &str = "faq-test.jsonl";

pub const RECIPE: Recipe = Recipe {
    name: "chatbot",
    about: "a customer chatbot that gives the exact answers of a list of questions, however they are worded",
    train: &[Part {
        path: TRAIN,
        what: "40 answers of a bicycle-lending office, each to five wordings of its question",
    }],
    test: &[Part { path: TEST, what: "two other wordings of each question, never trained on" }],
    measure: Measure::ExactMatch { max_new_tokens: 40 },
    settings: Settings { data: &[], max_length: 256, epochs: 3, batch_rows: 8, lr: "1.0e-3" },
    files,
    origin: "The data is made up for this recipe.",
    own_data: "Write one line for each question and each of its wordings, into the same two files:\n\n```json\n\
               {\"messages\": [{\"role\": \"user\", \"content\": \"When are you open?\"}, {\"role\": \"assistant\", \
               \"content\": \"From 9:00 to 18:00.\"}]}\n```\n\n\
               Five wordings or more for each answer, some of them as customers write (short, polite, with a story). \
               Keep two wordings of each for the test. A table with columns `question` and `answer` works as well.",
};

fn files() -> Result<Vec<(String, String)>> {
    let (mut train, mut test, mut answer) = (String::new(), String::new(), "");
    for line in FAQ.lines() {
        match line.split_at_checked(2) {
            Some(("= ", text)) => answer = text,
            Some(("+ ", question)) => train += &chat_row(question, answer),
            Some(("? ", question)) => test += &chat_row(question, answer),
            _ => {}
        }
    }
    Ok(vec![(TRAIN.into(), train), (TEST.into(), test)])
}
