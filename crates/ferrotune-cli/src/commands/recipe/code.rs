//! A code assistant for a code base with a strong style of its own.
//!
//! The code base is made here: three files for each thing that a stock room knows, after the same patterns.

use ferrotune::Result;

use super::measure::Measure;
use super::{Part, Recipe, Settings};

/// Folders whose last one is the repository's name, which stands in the rows: it is the same in both.
const TRAIN: &str = "code-train/stock";
const TEST: &str = "code-test/stock";

/// Things of the test, from the end of [`THINGS`]; each has three files.
const HELD_OUT: usize = 2;

/// The three files of a thing, with `@words@` that stand for its own.
const FILES: [(&str, &str); 3] = [
    ("record.py", include_str!("../../../recipes/code/record.py")),
    ("store.py", include_str!("../../../recipes/code/store.py")),
    ("service.py", include_str!("../../../recipes/code/service.py")),
];

pub const RECIPE: Recipe = Recipe {
    name: "code",
    about: "a code assistant that knows the style of your code base",
    train: &[Part {
        path: TRAIN,
        what: "24 source files of a Python code base for a stock room, a folder for each thing that it keeps",
    }],
    test: &[Part {
        path: TEST,
        what: "six other files of it (two other things that it keeps), never trained on",
    }],
    measure: Measure::Loss,
    settings: Settings { data: &[FORMAT, FIM], max_length: 1024, epochs: 3, batch_rows: 2, lr: "3.0e-4" },
    files,
    origin: "The data is made up for this recipe.",
    own_data: "Name your own source folders in `data.train` and `data.eval` of `run.yaml`, or put their files into the two \
               folders. What `.gitignore` names, dependencies, lock files and generated files are left out. Keep whole \
               features for the test, not single files of features that are trained on, and no copies: they make the figure \
               look better than the model is. For files longer than `data.max_length` set `data.overlong: split`.\n\n\
               `data.fim_rate` needs a base model with tokens for fill-in-the-middle; the starter model has none. It is \
               what completion in an editor asks for: \
               `ferrotune recipe code --run --model Qwen/Qwen2.5-Coder-0.5B --set data.fim_rate=0.5`.",
};

/// Lines of `data` in the run file.
const FORMAT: &str = "format: code   # folders of source files; a row has the place of its file";
const FIM: &str =
    "# fim_rate: 0.5   # fill-in-the-middle, with a base that has tokens for it, such as Qwen2.5-Coder";

/// Kind of a field: its type, and the rule that `record.py` holds it to.
enum Kind {
    /// A text of so many characters at most.
    Text(u32),
    /// A whole number in a range.
    Count(u32, u32),
    /// Money.
    Cents,
    /// The key of another thing.
    Key,
    /// A flag.
    Flag,
    /// A date.
    Day,
}
use Kind::{Cents, Count, Day, Flag, Key, Text};

impl Kind {
    fn python(&self) -> &'static str {
        match self {
            Text(_) => "str",
            Count(..) | Cents | Key => "int",
            Flag => "bool",
            Day => "date",
        }
    }

    /// The rule of a field, as lines of `check_*`.
    fn check(&self, one: &str, field: &str) -> String {
        let rule = |condition: String, reason: &str, more: String| {
            format!(
                "    if {condition}:\n        return refuse(\"{one}.{field}.{reason}\", found=record.{field}{more})\n"
            )
        };
        let value = format!("record.{field}");
        match self {
            Text(most) => {
                let empty = rule(format!("not {value}.strip()"), "empty", String::new());
                empty + &rule(format!("len({value}) > {most}"), "long", format!(", most={most}"))
            }
            Count(least, most) => rule(
                format!("not {least} <= {value} <= {most}"),
                "range",
                format!(", least={least}, most={most}"),
            ),
            Cents => rule(format!("{value} < 0"), "negative", String::new()),
            Key => rule(format!("{value} <= 0"), "unset", String::new()),
            Flag | Day => String::new(),
        }
    }
}

/// A thing that the stock room knows.
struct Thing {
    /// Its word in code, and the plural.
    one: &'static str,
    many: &'static str,
    about: &'static str,
    fields: &'static [(&'static str, Kind)],
    /// The field by which they are listed, and how many at most.
    by: &'static str,
    most: u32,
    /// What is done with it: verb, past, changed field, what for.
    action: [&'static str; 4],
    /// When that is refused, and the reason.
    refusal: [&'static str; 2],
}

#[rustfmt::skip]
const THINGS: &[Thing] = &[
    Thing { one: "item", many: "items", about: "something that lies on a shelf",
        fields: &[("name", Text(80)), ("shelf_id", Key), ("on_hand", Count(0, 100_000)), ("price_cents", Cents)],
        by: "shelf_id", most: 200, action: ["count", "counted", "on_hand", "Replaces the number on hand by what was counted"],
        refusal: ["on_hand < 0", "negative"] },
    Thing { one: "supplier", many: "suppliers", about: "an organisation that sells to us",
        fields: &[("name", Text(120)), ("country_code", Text(2)), ("lead_days", Count(0, 180)), ("is_trusted", Flag)],
        by: "country_code", most: 50, action: ["trust", "trusted", "is_trusted", "Marks a supplier as one whose goods are not inspected"],
        refusal: ["found.value.is_trusted == is_trusted", "unchanged"] },
    Thing { one: "shelf", many: "shelves", about: "a place with a number and a limit of weight",
        fields: &[("aisle", Text(4)), ("level", Count(1, 9)), ("most_kilograms", Count(1, 2_000))],
        by: "aisle", most: 90, action: ["relabel", "relabelled", "aisle", "Gives a shelf the letters of another aisle"],
        refusal: ["aisle == found.value.aisle", "unchanged"] },
    Thing { one: "purchase", many: "purchases", about: "an order to a supplier",
        fields: &[("supplier_id", Key), ("ordered_on", Day), ("due_on", Day), ("total_cents", Cents), ("is_open", Flag)],
        by: "supplier_id", most: 100, action: ["postpone", "postponed", "due_on", "Moves the day on which the goods are due"],
        refusal: ["due_on <= found.value.due_on", "earlier"] },
    Thing { one: "delivery", many: "deliveries", about: "goods that came in at the gate",
        fields: &[("purchase_id", Key), ("gate", Count(1, 12)), ("arrived_on", Day), ("pallets", Count(1, 60))],
        by: "purchase_id", most: 30, action: ["redirect", "redirected", "gate", "Sends a delivery to another gate"],
        refusal: ["gate == found.value.gate", "unchanged"] },
    Thing { one: "damage", many: "damages", about: "a report of goods that cannot be used",
        fields: &[("item_id", Key), ("pieces", Count(1, 5_000)), ("cause", Text(200)), ("loss_cents", Cents)],
        by: "item_id", most: 40, action: ["appraise", "appraised", "loss_cents", "Sets what the damage costs"],
        refusal: ["loss_cents > 5_000_000", "large"] },
    Thing { one: "count_sheet", many: "count_sheets", about: "a sheet that is filled in while an aisle is counted",
        fields: &[("aisle", Text(4)), ("counted_on", Day), ("lines", Count(0, 400)), ("is_closed", Flag)],
        by: "aisle", most: 25, action: ["close", "closed", "is_closed", "Closes a sheet, after which no line is added"],
        refusal: ["found.value.lines == 0", "empty"] },
    Thing { one: "label", many: "labels", about: "a printed code on a box",
        fields: &[("item_id", Key), ("code", Text(24)), ("copies", Count(1, 50))],
        by: "code", most: 10, action: ["reprint", "reprinted", "copies", "Prints a label again"],
        refusal: ["copies > 20", "many"] },
    Thing { one: "transfer", many: "transfers", about: "goods on their way from one shelf to another",
        fields: &[("item_id", Key), ("from_shelf_id", Key), ("to_shelf_id", Key), ("pieces", Count(1, 10_000)), ("is_done", Flag)],
        by: "item_id", most: 75, action: ["reroute", "rerouted", "to_shelf_id", "Sends goods on their way to another shelf"],
        refusal: ["to_shelf_id == found.value.from_shelf_id", "circle"] },
    Thing { one: "reservation", many: "reservations", about: "pieces that are kept for somebody",
        fields: &[("item_id", Key), ("pieces", Count(1, 1_000)), ("kept_until", Day), ("purpose", Text(160))],
        by: "item_id", most: 60, action: ["extend", "extended", "kept_until", "Keeps the pieces for longer"],
        refusal: ["kept_until <= found.value.kept_until", "earlier"] },
];

impl Thing {
    /// The type of a field in Python.
    fn python(&self, field: &str) -> &'static str {
        self.fields.iter().find(|(name, _)| *name == field).map_or("int", |(_, kind)| kind.python())
    }

    /// A pattern with its words.
    fn fill(&self, pattern: &str) -> String {
        let Thing { one, many, about, fields, by, most, action, refusal } = self;
        let lines = |line: &dyn Fn(&str, &Kind) -> String| -> String {
            let all: String = fields.iter().map(|(name, kind)| line(name, kind)).collect();
            all.trim_end_matches('\n').to_string()
        };
        let words = one.replace('_', " ");
        let vowel = words.starts_with(['a', 'e', 'i', 'o', 'u']);
        let article = format!("{} {words}", if vowel { "an" } else { "a" });
        let with: [(&str, String); 20] = [
            ("one", one.to_string()),
            ("many", many.to_string()),
            ("MANY", many.to_uppercase()),
            ("many_words", many.replace('_', " ")),
            ("about", about.to_string()),
            ("Title", format!("A{}", &article[1..])),
            ("article", article),
            ("Type", words.split(' ').map(capital).collect()),
            ("fields", lines(&|name, kind| format!("    {name}: {}\n", kind.python()))),
            ("checks", lines(&|name, kind| kind.check(one, name))),
            ("columns", lines(&|name, _| format!("    \"{name}\",\n"))),
            ("by", by.to_string()),
            ("by_type", self.python(by).to_string()),
            ("most", most.to_string()),
            ("verb", action[0].to_string()),
            ("past", action[1].to_string()),
            ("changed", action[2].to_string()),
            ("changed_type", self.python(action[2]).to_string()),
            ("Purpose", action[3].to_string()),
            ("refusal", refusal[0].to_string()),
        ];
        let filled = with
            .iter()
            .fold(pattern.to_string(), |text, (word, value)| text.replace(&format!("@{word}@"), value));
        let filled = filled.replace("@reason@", refusal[1]);
        // A file that speaks of dates imports them.
        let needs_date = filled.contains(": date");
        match (needs_date, filled.contains("from dataclasses")) {
            (false, _) => filled,
            (true, true) => filled.replacen("\n\nfrom stock", "\nfrom datetime import date\n\nfrom stock", 1),
            (true, false) => {
                filled.replacen("\n\nfrom stock", "\n\nfrom datetime import date\n\nfrom stock", 1)
            }
        }
    }
}

fn capital(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

fn files() -> Result<Vec<(String, String)>> {
    let first_of_test = THINGS.len() - HELD_OUT;
    let of = |(i, thing): (usize, &Thing)| {
        let folder = if i < first_of_test { TRAIN } else { TEST };
        FILES.map(|(name, pattern)| (format!("{folder}/{}/{name}", thing.one), thing.fill(pattern)))
    };
    Ok(THINGS.iter().enumerate().flat_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_a_pattern_is_left() {
        for (_, text) in files().unwrap() {
            assert!(text.replace("@dataclass", "").find('@').is_none(), "{text}");
        }
    }
}
