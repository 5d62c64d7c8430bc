//! Content in the voice of a brand, from a folder of its articles.

use ferrotune::Result;

use super::measure::Measure;
use super::{Part, Recipe, Settings};

/// All articles; each begins with `--- ` and its name.
const ARTICLES: &str = include_str!("../../../recipes/voice/articles.md");

const TRAIN: &str = "articles";
const TEST: &str = "articles-test";

pub const RECIPE: Recipe = Recipe {
    name: "voice",
    about: "texts in the voice of a brand, from a folder of its articles",
    train: &[Part { path: TRAIN, what: "18 short articles of a shop that repairs lamps, all in one voice" }],
    test: &[Part { path: TEST, what: "six other articles, never trained on" }],
    measure: Measure::Loss,
    settings: Settings { data: &[], max_length: 512, epochs: 4, batch_rows: 2, lr: "3.0e-4" },
    files,
    origin: "The data is made up for this recipe.",
    own_data: "Put your articles into the two folders, a .txt or .md file each, about a quarter of them into the test. \
               Twenty articles show the voice; two hundred teach it. With few texts watch the held-out loss that each \
               epoch ends with: when it rises, take fewer epochs. For articles longer than `data.max_length` set \
               `data.overlong: split`.",
};

/// Every fourth article is one of the test.
fn files() -> Result<Vec<(String, String)>> {
    let file = |(i, article): (usize, &str)| {
        let (name, text) = article.split_once('\n').unwrap_or((article, ""));
        let folder = if i % 4 == 3 { TEST } else { TRAIN };
        (format!("{folder}/{name}.md"), format!("{}\n", text.trim()))
    };
    Ok(ARTICLES.split("--- ").filter(|article| !article.is_empty()).enumerate().map(file).collect())
}
