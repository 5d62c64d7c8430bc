//! Paths of a run file: the home folder, and files that lie beside the run file.

use super::{EvalSource, RunConfig};
use crate::error::{Error, Result};
use std::path::Path;

impl RunConfig {
    /// Puts the home folder in the place of a leading `~`. Another user's home is not known here and refused.
    pub fn expand_home(&mut self, home: Option<&Path>) -> Result<()> {
        let mut paths = vec![("model.base", &mut self.model.base), ("output.dir", &mut self.output.dir)];
        paths.extend(self.data.train.iter_mut().map(|path| ("data.train", path)));
        if let EvalSource::Files(files) = &mut self.data.eval {
            paths.extend(files.iter_mut().map(|path| ("data.eval", path)));
        }
        paths.extend(self.train.init_adapter.iter_mut().map(|path| ("train.init_adapter", path)));
        for (key, path) in paths {
            let Some(rest) = path.strip_prefix('~') else { continue };
            if !(rest.is_empty() || rest.starts_with('/')) {
                let user = rest.split('/').next().unwrap_or_default();
                return Err(Error::config(
                    key,
                    format!("`{path}`: the home folder of `{user}` is not looked up"),
                )
                .with_hint(format!("write the whole path, or `./{path}` for a name that starts with `~`")));
            }
            let home = home.ok_or_else(|| {
                Error::config(key, format!("`{path}`: there is no home folder"))
                    .with_hint("set HOME, or write the whole path")
            })?;
            *path = home.join(rest.trim_start_matches('/')).display().to_string();
        }
        Ok(())
    }

    /// Takes files of rows that are not found from the current folder from beside the run file, if they are there; a
    /// sentence for each that was taken so.
    pub fn find_data_beside(&mut self, run_file: &Path) -> Vec<String> {
        let mut taken = Vec::new();
        let Some(folder) = run_file.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            return taken;
        };
        let mut find = |key: &str, path: &mut String| {
            let beside = folder.join(&*path);
            if Path::new(path).is_relative() && !Path::new(path).exists() && beside.exists() {
                let beside = beside.display().to_string();
                taken.push(format!(
                    "{key}: {path} is not in the current folder; {beside} is taken, beside the run file"
                ));
                *path = beside;
            }
        };
        self.data.train.iter_mut().for_each(|path| find("data.train", path));
        if let EvalSource::Files(files) = &mut self.data.eval {
            files.iter_mut().for_each(|path| find("data.eval", path));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
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
