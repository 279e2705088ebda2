//! What may come to be printed: logs, errors, `Debug`. dc-nats uses it too.

use std::{
    error::Error as StdError,
    fmt::Debug,
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use tracing_subscriber::fmt::MakeWriter;

/// All that was logged on this thread, at every level, by whomever.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

/// Everything that someone may come to print.
#[derive(Default)]
pub(crate) struct Shown(Vec<(String, String)>);

impl Shown {
    pub(crate) fn debug(&mut self, what: &str, value: &impl Debug) {
        self.0.push((what.to_owned(), format!("{value:?} {value:#?}")));
    }

    pub(crate) fn error(&mut self, what: &str, err: &(dyn StdError + 'static)) {
        self.debug(what, &err);
        let mut next = Some(err);
        while let Some(err) = next {
            self.0.push((format!("{what}, in its chain"), format!("{err} {err:?}")));
            next = err.source();
        }
    }

    pub(crate) fn log(&mut self, log: &Log) {
        self.0.push(("the log".to_owned(), log.text()));
    }

    pub(crate) fn has_none_of(&self, secrets: &[String]) {
        assert!(!secrets.is_empty());
        for (what, text) in &self.0 {
            for secret in secrets {
                assert!(!text.contains(secret.as_str()), "{what} shows {secret}: {text}");
            }
        }
    }
}

/// Each line of a key file that says something of the key.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("made by the test");
    text.lines().filter(|line| !line.starts_with('-') && line.len() > 8).map(str::to_owned).collect()
}
