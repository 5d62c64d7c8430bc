//! Paths of a run file: the home folder, and files that lie beside the run file.

use std::path::Path;

use serde_json::Value;

use super::RunConfig;
use crate::error::{Error, Result};
use crate::options::{Key, keys, read};

impl RunConfig {
    /// Puts the home folder in the place of a leading `~`. Another user's home is not known here and refused.
    pub fn expand_home(&mut self, home: Option<&Path>) -> Result<()> {
        self.each_path(|key, path| {
            let Some(rest) = path.strip_prefix('~') else { return Ok(()) };
            if !(rest.is_empty() || rest.starts_with('/')) {
                let user = rest.split('/').next().unwrap_or_default();
                let problem = format!("`{path}`: the home folder of `{user}` is not looked up");
                return Err(Error::config(&key.path, problem).with_hint(format!(
                    "write the whole path, or `./{path}` for a name that starts with `~`"
                )));
            }
            let home = home.ok_or_else(|| {
                Error::config(&key.path, format!("`{path}`: there is no home folder"))
                    .with_hint("set HOME, or write the whole path")
            })?;
            *path = home.join(rest.trim_start_matches('/')).display().to_string();
            Ok(())
        })
    }

    /// Takes files of rows that are not found from the current folder from beside the run file, if they are there; a
    /// sentence for each that was taken so.
    pub fn find_data_beside(&mut self, run_file: &Path) -> Result<Vec<String>> {
        let mut taken = Vec::new();
        let Some(folder) = run_file.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            return Ok(taken);
        };
        self.each_path(|key, path| {
            let beside = folder.join(&*path);
            let missing = Path::new(path).is_relative() && !is_there(Path::new(path));
            if key.path_kind() == Some("rows") && missing && is_there(&beside) {
                let beside = beside.display().to_string();
                taken.push(format!(
                    "{}: {path} is not in the current folder; {beside} is taken, beside the run file",
                    key.path
                ));
                *path = beside;
            }
            Ok(())
        })?;
        Ok(taken)
    }

    /// Lets `change` see the paths of every key that is declared as one.
    fn each_path(&mut self, mut change: impl FnMut(&Key, &mut String) -> Result<()>) -> Result<()> {
        let mut tree = self.tree();
        for key in keys::<RunConfig>().iter().filter(|key| key.path_kind().is_some()) {
            match tree.pointer_mut(&format!("/{}", key.path.replace('.', "/"))) {
                Some(Value::String(path)) => change(key, path)?,
                Some(Value::Array(paths)) => {
                    for path in paths {
                        // A source has its path beside other values.
                        let path = if path.is_object() { &mut path["path"] } else { path };
                        if let Value::String(path) = path {
                            change(key, path)?;
                        }
                    }
                }
                _ => {}
            }
        }
        *self = RunConfig { stated: std::mem::take(&mut self.stated), ..read(tree)? };
        Ok(())
    }
}

/// Whether a path is there, or a file that it matches as a pattern.
fn is_there(path: &Path) -> bool {
    path.exists() || matches(path).is_ok_and(|mut files| files.next().is_some())
}

/// What a pattern matches, as in shells: a wildcard stands neither for a separator nor for the dot of a hidden file.
pub(crate) fn matches(pattern: &Path) -> std::result::Result<glob::Paths, glob::PatternError> {
    let as_shells_do = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    glob::glob_with(&pattern.to_string_lossy(), as_shells_do)
}

#[cfg(test)]
mod tests {
    use super::super::EvalSource;
    use super::*;

    #[test]
    fn the_home_folder_takes_the_place_of_a_tilde() {
        let mut config = RunConfig::default();
        config.model.base = "~/m".to_string();
        config.data.train = vec!["~/a".to_string(), "b~".to_string(), "./~c".to_string()];
        config.data.eval = EvalSource::Files(vec!["~".to_string()]);
        config.train.init_adapter = Some("~//x".to_string());
        config.expand_home(Some(Path::new("/h"))).unwrap();
        assert_eq!(config.model.base, "/h/m");
        assert_eq!(config.data.train, ["/h/a", "b~", "./~c"]);
        assert_eq!(config.data.eval, EvalSource::Files(vec!["/h/".to_string()]));
        assert_eq!(config.train.init_adapter.as_deref(), Some("/h/x"));
        config.output.dir = "~root/x".to_string();
        let error = config.expand_home(Some(Path::new("/h"))).unwrap_err().to_string();
        assert!(error.contains("output.dir") && error.contains("`root`"), "{error}");
        config.output.dir = "~/x".to_string();
        assert!(config.expand_home(None).unwrap_err().to_string().contains("no home folder"));
    }
}
