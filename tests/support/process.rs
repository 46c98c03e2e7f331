//! Child processes that never outlive the test.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

use super::wait_until;

/// How long a server may take to end by itself before its group is killed.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// How long a program that ends by itself may run, on a machine that is busy with others.
const RUN_PATIENCE: Duration = Duration::from_secs(300);

/// A running program in a process group of its own, its output in a file.
///
/// Dropping it kills the whole group and reaps the program (an orderly end of Dovecot
/// would take a second); when the thread is panicking the log's end is printed. A
/// watchdog shell ends the group when the test process is killed.
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
    killed: bool,
}

impl Process {
    /// Starts the command; both outputs are appended to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let watchdog = watch(child.id(), log.parent().unwrap());
        Self {
            name: name.to_owned(),
            child,
            watchdog,
            log: log.to_owned(),
            ended: None,
            killed: false,
        }
    }

    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds the output.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// All output so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the output holds the text.
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log of {}", self.name), || {
            self.log().contains(text).then_some(())
        });
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.id()), signal).unwrap();
    }

    /// Sends a signal to the whole group.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(pid(self.id()), signal).unwrap();
    }

    /// Waits until the address accepts a connection; panics with the log when the
    /// program ends before.
    pub fn wait_for_port(&mut self, address: SocketAddr) {
        let what = format!("{} listens on {address}", self.name);
        wait_until(&what, || {
            if let Some(status) = self.ended() {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(drop)
        });
    }

    /// The exit status, if the program has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits for the end and gives the exit code, or minus the signal's number.
    pub fn wait_for_end(&mut self) -> i32 {
        let what = format!("{} ends", self.name);
        let status = wait_until(&what, || self.ended());
        status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
    }

    /// SIGTERM, a wait of 5 s, then SIGKILL to all that is left of the group.
    pub fn stop(&mut self) {
        if self.ended().is_none() {
            let _ = kill_process(pid(self.id()), Signal::TERM);
            let start = Instant::now();
            while self.ended().is_none() && start.elapsed() < END_PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill();
    }

    /// SIGKILL to the whole group, as after a crash of the machine's mail service.
    pub fn kill(&mut self) {
        // Once is enough: later the group's number may be another one's.
        if std::mem::replace(&mut self.killed, true) {
            return;
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let group = pid(self.id());
        let _ = kill_process_group(group, Signal::KILL);
        if self.ended().is_none() {
            self.ended = self.child.wait().ok();
        }
        // Its children close their connections only when they are gone.
        let start = Instant::now();
        while test_kill_process_group(group).is_ok() && start.elapsed() < END_PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(6_000);
            let end = log.get(start..).unwrap_or(&log);
            eprintln!("---- log of {} ({}) ----\n{end}", self.name, self.log.display());
        }
    }
}

/// Runs a program to its end and gives its standard output; panics unless it exits with 0
/// within [`RUN_PATIENCE`].
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output.stdout
}

/// Runs a program to its end, however that comes; panics where it takes longer than
/// [`RUN_PATIENCE`], so that one program that hangs is one failure with its name.
pub fn output(command: &mut Command) -> Output {
    output_with(command, Stdio::null())
}

/// The same, for a program that reads its input from there.
pub fn output_with(command: &mut Command, input: Stdio) -> Output {
    let child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{} does not start: {error}", command.get_program().display());
        });
    let group = pid(child.id());
    let (ended, end) = mpsc::channel();
    let waiting = std::thread::spawn(move || ended.send(child.wait_with_output().unwrap()));
    if let Ok(output) = end.recv_timeout(RUN_PATIENCE) {
        waiting.join().unwrap().unwrap();
        return output;
    }
    let _ = kill_process_group(group, Signal::KILL);
    let said = end
        .recv_timeout(END_PATIENCE)
        .map_or_else(|_| Vec::new(), |output| [output.stdout, output.stderr].concat());
    let said = String::from_utf8_lossy(&said);
    panic!("{command:?} did not end within {RUN_PATIENCE:?}\n{said}");
}

/// A command line in a terminal of its own that `script` makes; `folder` is its home.
///
/// The shell that `script` starts must become the program: as a program's parent it would
/// have to leave the terminal to it, which not every shell does here.
pub fn in_terminal(command_line: &str, folder: &Path) -> Command {
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &format!("exec {command_line}")])
        .arg(folder.join("terminal"))
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .env("HOME", folder);
    script
}

/// Gives a file or folder, with all below it, to a user and group (`user:group`).
pub fn give_to(owner: &str, path: impl AsRef<OsStr>) {
    run(Command::new("chown").arg("-R").arg(owner).arg(path));
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

/// A shell that waits on a pipe which closes when this process is gone, however it went.
/// Nobody else would then remove the server's folder either, so it does, where that is
/// one of [`super::temporary_folder`].
fn watch(group: u32, folder: &Path) -> Child {
    let script = "read -r _; kill -s TERM -- -\"$1\"; sleep 2; kill -s KILL -- -\"$1\"; \
                  case ${2##*/} in pm-*) rm -rf -- \"$2\" ;; esac";
    Command::new("sh")
        .args(["-c", script, "watchdog", &group.to_string()])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}
