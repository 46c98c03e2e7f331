//! Running a program that the configuration names: without a shell, without arguments, with
//! an environment of its own and for a bounded time.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::time::timeout;

/// Where a hook looks for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    /// It cannot be run.
    #[error("it cannot be run: {0}")]
    Start(#[source] io::Error),
    /// It took too long and was killed, with all that it had started.
    #[error("it was killed after {0:?}")]
    Timeout(Duration),
    /// It ended with another code than 0, or by a signal.
    #[error("it ended with {0}")]
    Failed(std::process::ExitStatus),
}

impl HookError {
    /// The metric's `result`.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Timeout(_) => "timeout",
            Self::Failed(_) => "failed",
        }
    }
}

/// Runs a program to its end; 0 is success. Its output is thrown away.
pub(super) async fn run(
    program: &Path,
    environment: &[(&str, String)],
    time_max: Duration,
) -> Result<(), HookError> {
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", PATH)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(HookError::Start)?;
    let group = child.id();
    match timeout(time_max, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(HookError::Failed(status)),
        Ok(Err(error)) => Err(HookError::Start(error)),
        Err(_) => {
            end_group(group);
            let _ = child.wait().await;
            Err(HookError::Timeout(time_max))
        }
    }
}

/// Kills the program and what it started. It was not waited for: the number is its own still.
fn end_group(leader: Option<u32>) {
    let leader = leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(leader) = leader {
        let _ = kill_process_group(leader, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(folder: &Path, text: &str) -> std::path::PathBuf {
        let path = folder.join(format!("hook{}", fastrand::u64(..)));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_hook_sees_its_own_environment_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let program = script(
            folder.path(),
            "env | sort > \"$OUT\"; echo \"$#\" >> \"$OUT\"; pwd >> \"$OUT\"",
        );
        let environment =
            [("OUT", out.display().to_string()), ("NAME", "a b; $(touch x) 'q'".to_owned())];
        run(&program, &environment, Duration::from_secs(10)).await.unwrap();
        let seen = std::fs::read_to_string(out).unwrap();
        assert!(seen.contains("NAME=a b; $(touch x) 'q'\n"), "{seen}");
        let names: Vec<&str> =
            seen.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(
            names
                .iter()
                .all(|name| ["NAME", "OUT", "PATH", "PWD", "_", "SHLVL", "OLDPWD"].contains(name)),
            "{seen}"
        );
        assert!(seen.ends_with("0\n/\n"), "{seen}");
    }

    #[tokio::test]
    async fn a_hook_that_fails_hangs_or_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let second = Duration::from_secs(10);
        let failed = run(&script(folder.path(), "exit 3"), &[], second).await.unwrap_err();
        assert_eq!(
            (failed.reason(), failed.to_string()),
            ("failed", "it ended with exit status: 3".to_owned())
        );
        let gone = run(&folder.path().join("none"), &[], second).await.unwrap_err();
        assert_eq!(gone.reason(), "start");
        // What it started goes with it.
        let started = folder.path().join("started");
        let text = format!("sleep 600 & echo $! > {}; wait", started.display());
        let hangs = run(&script(folder.path(), &text), &[], Duration::from_secs(1)).await;
        assert_eq!(hangs.unwrap_err().reason(), "timeout");
        let id = std::fs::read_to_string(started).unwrap();
        let words = Path::new("/proc").join(id.trim()).join("cmdline");
        // Of one that nobody has collected yet there are no words.
        let over = || std::fs::read(&words).map_or(true, |words| words.is_empty());
        for _ in 0..1000 {
            if over() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} runs still");
    }
}
