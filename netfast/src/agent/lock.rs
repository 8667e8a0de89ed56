//! One agent at a time: `<run dir>/agent.lock`, locked by flock(2) and holding the process id.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::AgentError;

/// Held for as long as the agent runs; the kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

/// Where the lock is.
fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.lock")
}

impl Lock {
    /// Takes the lock; makes `run_dir`.
    pub(super) fn take(run_dir: &Path) -> Result<Self, AgentError> {
        let failed = |what: &'static str, path: PathBuf| move |error| AgentError::Io { what, path, error };
        fs::create_dir_all(run_dir).map_err(failed("make the folder", run_dir.to_owned()))?;
        let path = path(run_dir);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed("open", path.clone()))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(AgentError::Running(pid.trim().to_owned()));
            }
            Err((_, error)) => return Err(failed("lock", path)(error.into())),
        };
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .and_then(|()| file.flush());
        written.map_err(|error: io::Error| AgentError::Io { what: "write", path, error })?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_the_first_ones_pid() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("run");
        let lock = Lock::take(&run_dir).unwrap();
        let error = Lock::take(&run_dir).unwrap_err();
        assert_eq!(format!("already running (pid {})", std::process::id()), error.to_string());
        drop(lock);
        Lock::take(&run_dir).unwrap();
    }
}
