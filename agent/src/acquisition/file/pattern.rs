//! Paths with wildcards, and where to listen for what they will match.

use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// A path with wildcards: `*` and `?` stay within one component.
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: String,
    components: Vec<Pattern>,
}

impl PathPattern {
    /// Reads a pattern; relative ones count from the working directory.
    pub fn new(text: &str) -> Result<Self, glob::PatternError> {
        let path = std::path::absolute(text).unwrap_or_else(|_| PathBuf::from(text));
        let components = names(&path).map(Pattern::new).collect::<Result<_, _>>()?;
        Ok(Self { text: path.to_string_lossy().into_owned(), components })
    }

    /// The pattern as an absolute path.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The paths that match now, sorted.
    pub fn expand(&self) -> Vec<PathBuf> {
        if !self.has_wildcard() {
            return vec![PathBuf::from(&self.text)];
        }
        glob::glob_with(&self.text, OPTIONS).map(|paths| paths.filter_map(Result::ok).collect()).unwrap_or_default()
    }

    /// Whether it can match more than one path.
    pub fn has_wildcard(&self) -> bool {
        self.text.contains(['*', '?', '['])
    }

    /// Whether something that happens to `path` can change what matches: it matches, or a folder on the way does.
    pub fn concerns(&self, path: &Path) -> bool {
        self.components.iter().zip(names(path)).all(|(pattern, name)| pattern.matches_with(name, OPTIONS))
    }

    /// The folders in which matches can appear: the one of the files, and where that one can appear.
    pub fn folders(&self) -> Vec<PathBuf> {
        let path = Path::new(&self.text);
        let Some(parent) = path.parent() else { return Vec::new() };
        let mut folders: Vec<PathBuf> = match Self::new(&parent.to_string_lossy()) {
            Ok(pattern) => pattern.expand(),
            Err(_) => Vec::new(),
        };
        folders.retain(|folder| folder.is_dir());
        // Up to the first wildcard, or to what exists.
        let fixed = |folder: &&Path| !folder.to_string_lossy().contains(['*', '?', '[']) && folder.is_dir();
        folders.extend(parent.ancestors().find(fixed).map(Path::to_path_buf));
        folders.sort();
        folders.dedup();
        folders
    }
}

const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

fn names(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_str().unwrap_or("\u{fffd}")),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_on_the_way_to_a_match_concerns() {
        // (pattern, path, whether it concerns)
        let cases = [
            ("/var/log/auth.log", "/var/log/auth.log", true),
            ("/var/log/auth.log", "/var/log/auth.log.1", false),
            ("/var/log/*/access.log", "/var/log/nginx", true),
            ("/var/log/*/access.log", "/var/log/nginx/access.log", true),
            ("/var/log/*/access.log", "/var/log/nginx/error.log", false),
            ("/var/log/*.log", "/var/log/a/b.log", false),
            ("/var/log/[ab].log", "/var/log/a.log", true),
        ];
        for (pattern, path, concerns) in cases {
            let parsed = PathPattern::new(pattern).expect("a valid pattern");
            assert_eq!(parsed.concerns(Path::new(path)), concerns, "{pattern} {path}");
        }
    }
}
