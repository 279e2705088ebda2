//! Child processes, deadlines and Ctrl-C.
//!
//! Every child that may take long runs in a process group of its own and is stopped, with
//! everything it started, when its [`Group`] is dropped: on success, on an error and on Ctrl-C
//! alike. Ctrl-C only raises a flag; whoever waits sees it, returns an error, and the drops on
//! the way out do the cleaning. A net below that for the day xtask itself is killed: where
//! `setpriv` exists, children die with their parent (`PR_SET_PDEATHSIG`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often a waiting xtask looks at its child and at the Ctrl-C flag.
const POLL: Duration = Duration::from_millis(25);
/// What a child gets between SIGINT and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on SIGINT, SIGTERM and SIGHUP raise a flag instead of ending the process; a second
/// one, while the first is being handled, ends it at once.
pub(crate) fn watch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Order matters: the first checks the flag, the second raises it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))?;
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Whether Ctrl-C was pressed.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// The current time, for deadlines of tools and times that people read.
#[expect(
    clippy::disallowed_methods,
    reason = "xtask uses no crate of ours, so it has no dc_core::Clock; nothing but its own patience hangs on this"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Time since `start`.
pub(crate) fn since(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

/// Tries until it succeeds, or Ctrl-C, or `patience` is over; then the last error is returned.
pub(crate) fn retry<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = now();
    loop {
        if interrupted() {
            bail!("interrupted");
        }
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if since(start) >= patience => {
                return Err(error.context(format!("not within {patience:?}")));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// A command whose process dies with us where the system offers that.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    match SETPRIV.get_or_init(|| on_path("setpriv")) {
        None => Command::new(program),
        Some(setpriv) => {
            let mut wrapped = Command::new(setpriv);
            wrapped.args(["--pdeathsig", "KILL", "--"]).arg(program);
            wrapped
        }
    }
}

/// The first executable of that name on `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    on_this_path(name, &std::env::var_os("PATH")?)
}

/// The first executable of that name on `path`.
pub(crate) fn on_this_path(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    if words[0].ends_with("/setpriv") {
        let end = words.iter().position(|word| word == "--");
        words.drain(..end.map_or(0, |end| end + 1));
    }
    if words[0].ends_with("/cargo") {
        words[0] = "cargo".into();
    }
    words.join(" ")
}

/// A running child, leader of its own process group; dropping it stops the whole group.
pub(crate) struct Group {
    child: Child,
    shown: String,
    ended: bool,
}

impl Group {
    /// Starts `command` in a process group of its own, without standard input.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let shown = shown(command);
        let child =
            command.process_group(0).stdin(Stdio::null()).spawn().with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Self { child, shown, ended: false })
    }

    /// Its exit status, if it has ended by itself.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().with_context(|| format!("waiting for `{}`", self.shown))?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// Waits until it ends; an error on Ctrl-C or when `limit` is over (the drop then stops it).
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let start = now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if interrupted() {
                bail!("interrupted: stopping `{}`", self.shown);
            }
            if let Some(limit) = limit.filter(|limit| since(start) >= *limit) {
                bail!("`{}` did not end within {limit:?}", self.shown);
            }
            std::thread::sleep(POLL);
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It fails when nobody of the group is left, which is what we want.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            // What Ctrl-C would have sent it, had it been in our group: programs clean up on that.
            self.signal(Signal::INT);
            let start = now();
            while since(start) < GRACE && !matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                std::thread::sleep(POLL);
            }
        }
        // Also what the child left behind in its group.
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Runs a command to its end, saying so first; a failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command to its end, saying so first.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    eprintln!("$ {}", shown(command));
    Group::spawn(command)?.wait(None)
}

/// Runs a command quietly within `limit`; what it printed is the answer, or part of the error.
pub(crate) fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let stdout = tempfile::tempfile().context("creating a temporary file")?;
    let stderr = tempfile::tempfile().context("creating a temporary file")?;
    let result = Group::spawn(command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?))?.wait(Some(limit));
    let status = result?;
    if !status.success() {
        let told = read_back(stderr)?;
        bail!("`{}` failed: {status}: {}", shown(command), told.trim());
    }
    read_back(stdout)
}

fn read_back(mut file: std::fs::File) -> Result<String> {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_group_takes_its_grandchildren_along() {
        let dir = tempfile::tempdir().expect("temp dir");
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", pid_file.display());
        let group = Group::spawn(command("sh").args(["-c", &script])).expect("sh starts");
        let pid = retry(Duration::from_secs(10), || Ok(std::fs::read_to_string(&pid_file)?)).expect("pid written");

        drop(group);

        let stat = format!("/proc/{}/stat", pid.trim());
        retry(Duration::from_secs(10), || match std::fs::read_to_string(&stat) {
            Ok(stat) if !stat.contains(") Z ") => bail!("still there: {stat}"),
            _ => Ok(()),
        })
        .expect("the grandchild is gone");
    }

    #[test]
    fn a_command_is_shown_as_a_person_would_type_it() {
        let mut wrapped = Command::new("/usr/bin/setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--", "/home/me/.cargo/bin/cargo", "test", "--", "p2_"]);
        assert_eq!(shown(&wrapped), "cargo test -- p2_");
        assert_eq!(shown(Command::new("etcd").args(["--", "x"])), "etcd -- x");
    }

    #[test]
    fn a_failing_command_is_an_error_that_carries_what_it_said() {
        let error = output(command("sh").args(["-c", "echo why >&2; exit 3"]), Duration::from_secs(10))
            .expect_err("exit 3 is a failure");
        assert!(error.to_string().contains("why"), "{error}");
        assert!(error.to_string().contains("`sh -c"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_stopped() {
        let error = output(command("sleep").arg("600"), Duration::from_millis(50)).expect_err("it hangs");
        assert!(error.to_string().contains("did not end within 50ms"), "{error}");
    }
}
