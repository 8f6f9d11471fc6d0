//! Where a secret is found. What it says is read when it is needed, and never shown.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Serialize;
use serde_saphyr::Spanned;

use crate::config::Fault;
use crate::error::BouncerError;

/// A secret's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// A file that holds nothing else; white space around it does not count.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
}

impl Secret {
    /// What it says.
    pub fn read(&self) -> Result<SecretString, BouncerError> {
        let (text, place) = match self {
            Self::File(path) => (
                std::fs::read_to_string(path)
                    .map_err(|error| BouncerError::Setup(format!("cannot read `{}`: {error}", path.display())))?,
                format!("`{}`", path.display()),
            ),
            Self::Env(name) => (
                std::env::var(name)
                    .map_err(|_| BouncerError::Setup(format!("the environment has no variable `{name}`")))?,
                format!("the variable `{name}`"),
            ),
        };
        match text.trim() {
            "" => Err(BouncerError::Setup(format!("{place} is empty, expected a secret"))),
            secret => Ok(SecretString::from(secret.to_owned())),
        }
    }

    /// The place that the keys `NAME_file` and `NAME_env` say. Exactly one of them must be there; `line` is where their
    /// section begins.
    pub fn check(
        name: &str,
        file: Option<PathBuf>,
        env: Option<Spanned<String>>,
        line: u64,
        faults: &mut Vec<Fault>,
    ) -> Option<Self> {
        match (file, env) {
            (Some(file), None) => Some(Self::File(file)),
            (None, Some(env)) => Some(Self::Env(env.value)),
            _ => {
                let message = format!("expected either `{name}_file` or `{name}_env`, which say where the secret is");
                faults.push(Fault { line, message });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_is_read_and_never_shown() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("key");
        let secret = Secret::File(path.clone());
        assert!(secret.read().is_err(), "there is no file");
        std::fs::write(&path, " \n").expect("a temporary folder");
        assert!(secret.read().is_err_and(|error| error.to_string().ends_with("is empty, expected a secret")));
        std::fs::write(&path, "s3cret\n").expect("a temporary folder");
        let read = secret.read().expect("it is there");
        assert_eq!(read.expose_secret(), "s3cret");
        assert!(!format!("{secret:?} {read:?}").contains("s3cret"));
        assert!(Secret::Env("CORDON_TEST_NO_SUCH_VARIABLE".into()).read().is_err());
    }
}
