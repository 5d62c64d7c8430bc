//! Logins of a `.netrc` file.

use ferrotune::fetch::index::Login;

/// The logins of a file, the one for all hosts included; entries without a password are left out.
pub fn parse(text: &str) -> Vec<Login> {
    let mut found = Vec::new();
    let mut words = words(text).into_iter().peekable();
    while let Some(word) = words.next() {
        let host = match word.as_str() {
            "machine" => match words.next() {
                Some(host) => Some(host),
                None => break,
            },
            "default" => None,
            _ => continue,
        };
        let (mut user, mut password) = (String::new(), None);
        while let Some(key) = words.next_if(|w| w != "machine" && w != "default") {
            match key.as_str() {
                "login" | "user" => user = words.next().unwrap_or_default(),
                "password" => password = words.next(),
                "account" => drop(words.next()),
                _ => {}
            }
        }
        if let Some(password) = password {
            found.push(Login { host, user, password });
        }
    }
    found
}

/// Words of the file without comments and macro definitions (which end at an empty line).
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        in_macro = line.starts_with("macdef");
        if !in_macro {
            words.extend(line.split_whitespace().map(|w| w.trim_matches('"').to_string()));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins() {
        let text = "# mine\nmachine a.example login me password \"p#1\"\nmacdef init\n machine no\n\n\
                    machine b.example\n  login you\n  account x\n  password q\nmachine c.example login z\n\
                    default login any password w\nmachine";
        let found: Vec<_> =
            parse(text).into_iter().map(|l| (l.host.unwrap_or_default(), l.user, l.password)).collect();
        let expected = [("a.example", "me", "p#1"), ("b.example", "you", "q"), ("", "any", "w")];
        assert_eq!(found, expected.map(|(h, u, p)| (h.to_string(), u.to_string(), p.to_string())));
    }
}
