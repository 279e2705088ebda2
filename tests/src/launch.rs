//! What stands before a program that a test starts, and around it: a network namespace, variables.

use std::{path::Path, process::Command};

/// How a program is started. By default as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    before: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Launch {
    /// Behind these words, which must execute what follows them in their own place, so that its number is the child's.
    pub fn behind(words: impl IntoIterator<Item = String>) -> Self {
        Self { before: words.into_iter().collect(), variables: Vec::new() }
    }

    /// With this variable as well.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The command that starts `program`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = match self.before.split_first() {
            None => Command::new(program),
            Some((first, words)) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
        };
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_before_the_program_and_its_own_after() {
        let launch = Launch::behind(["nsenter".to_owned(), "--net=/x".to_owned()]).variable("A", "b");
        let mut command = launch.command(Path::new("/bin/node"));
        command.arg("--listen");
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(command.get_program(), "nsenter");
        assert_eq!(words, ["--net=/x", "/bin/node", "--listen"]);
        assert_eq!(command.get_envs().collect::<Vec<_>>(), [("A".as_ref(), Some("b".as_ref()))]);
        assert_eq!(Launch::default().command(Path::new("/bin/node")).get_program(), "/bin/node");
    }
}
