//! Clocks that are wrong (fault 14): one that runs at another rate than the others, wall clocks that a test sets.

use std::{
    path::PathBuf,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use dc_core::{Clock, SystemClock};
use tempfile::TempDir;

use crate::launch::Launch;

/// The machine's monotonic clock, faster or slower.
#[derive(Clone, Copy, Debug)]
pub struct RateClock {
    start: Instant,
    rate: f64,
}

impl RateClock {
    /// A clock that begins right and gains `rate` seconds in a true second.
    ///
    /// # Panics
    ///
    /// The rate is not above zero, or not below 10.
    pub fn new(rate: f64) -> Self {
        assert!(rate > 0.0 && rate < 10.0, "a clock of rate {rate}");
        Self { start: SystemClock.now(), rate }
    }
}

impl Clock for RateClock {
    fn now(&self) -> Instant {
        self.start + (SystemClock.now() - self.start).mul_f64(self.rate)
    }
}

/// This process's wall clock, for tests that make it wrong to see that it is.
#[expect(clippy::disallowed_methods, reason = "this is a clock module")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// A wall clock that a test sets while processes go by it: libfaketime, which leaves monotonic clocks alone here.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    dir: TempDir,
}

impl WallClock {
    /// A clock that is right.
    ///
    /// # Errors
    ///
    /// There is no libfaketime; says how to get it.
    pub fn new() -> anyhow::Result<Self> {
        let clock = Self { library: library()?, dir: tempfile::tempdir()? };
        clock.set(0)?;
        Ok(clock)
    }

    /// How a process is started that goes by this clock.
    pub fn launch(&self, launch: Launch) -> Launch {
        launch
            .variable("LD_PRELOAD", self.library.to_string_lossy())
            .variable("FAKETIME_TIMESTAMP_FILE", self.file("now").to_string_lossy())
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    /// From now on it is off by so many seconds.
    ///
    /// # Errors
    ///
    /// The file that it is told by cannot be written.
    pub fn set(&self, seconds: i64) -> anyhow::Result<()> {
        // By its name at once: it is read at each look at the clock.
        std::fs::write(self.file("next"), format!("{seconds:+}\n"))?;
        std::fs::rename(self.file("next"), self.file("now"))?;
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Where libfaketime is: `LIBFAKETIME`, else where distributions put it.
fn library() -> anyhow::Result<PathBuf> {
    const NAME: &str = "faketime/libfaketimeMT.so.1";
    if let Some(path) = std::env::var_os("LIBFAKETIME") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "LIBFAKETIME={} is no file", path.display());
        return Ok(path);
    }
    // Debian puts it below a directory for the architecture.
    let below = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let dirs = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let found = dirs.into_iter().chain(below).map(|dir| dir.join(NAME)).find(|path| path.is_file());
    found.context(
        "wall clocks are made to jump with libfaketime: `apt-get install faketime`, or set LIBFAKETIME to the path of \
         libfaketimeMT.so.1",
    )
}
