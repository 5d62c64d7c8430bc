//! One definition per option.
//!
//! A section of options is a struct whose fields stand with their defaults (`section!`); a choice is an enum whose
//! variants stand with their words (`choice!`). serde reads and writes both. schemars makes a JSON Schema of the
//! declaration, with the doc comments as descriptions, and that schema is all that is known of a key: `fit` reads what
//! users write by it, and [`Key`] tells documents, editors and the command line what a key means.
//!
//! What JSON Schema has no word for stands in extensions of it:
//!
//! | extension | of a | meaning |
//! |---|---|---|
//! | `x-aliases` | key, word | other names that are read |
//! | `x-peft` | key | its name in PEFT's `adapter_config.json`, which is read as an alias; null: it is no key there |
//! | `x-peft-late` | key | `true`: PEFT 0.6 does not know it, so it is written for PEFT only if it is set |
//! | `x-rare` | key | `true`: written only if it is not at its default |
//! | `x-unit` | key | what a number counts |
//! | `x-expected` | key, type | what a message says is expected, where the type alone does not say it |
//! | `x-numbers` | key | `false`: its value changes no number of a run |
//! | `x-path` | key | a path on this machine; `rows`: it may also lie beside the run file |

mod editor;
mod fit;
mod schema;

pub(crate) use editor::for_editors;
pub(crate) use fit::{described, fit, merge, nearest, read};
pub use schema::{Key, Word, keys, schema_of, words};
pub use schemars::JsonSchema;

/// Declares a section: a struct whose fields have their defaults beside them, as in `pub epochs: usize = 1`.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident { $($(#[$about:meta])* pub $field:ident: $type:ty = $default:expr),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default)]
        pub struct $name { $($(#[$about])* pub $field: $type),+ }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default),+ }
            }
        }
    };
}

/// Declares a choice: an enum that users write as a word. The first word of a variant is its own, the others are read too.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal $(| $alias:literal)*),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        pub enum $name {
            $(
                $(#[$about])*
                #[serde(rename = $word)]
                #[schemars(extend("x-aliases" = &[$($alias),*] as &[&str]))]
                $variant
            ),+
        }

        impl $name {
            /// All of them.
            #[allow(dead_code, reason = "not every choice is gone through")]
            pub const ALL: &'static [Self] = &[$($name::$variant),+];

            /// Its word.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> std::result::Result<Self, String> {
                match word {
                    $($word $(| $alias)* => Ok($name::$variant),)+
                    other => Err(format!("`{other}` is not one of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

pub(crate) use {choice, section};

/// A mapping whose order counts, as a list of pairs.
pub(crate) mod pairs {
    use serde::de::{DeserializeOwned, Error};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::{Map, Value};

    pub(crate) fn serialize<S: Serializer, T: Serialize>(
        pairs: &[(String, T)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: DeserializeOwned>(
        deserializer: D,
    ) -> Result<Vec<(String, T)>, D::Error> {
        let pair = |(key, value)| Ok((key, serde_json::from_value(value).map_err(D::Error::custom)?));
        Map::<String, Value>::deserialize(deserializer)?.into_iter().map(pair).collect()
    }
}
