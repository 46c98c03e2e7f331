//! What the figures were measured on.

use std::fs;
use std::process::Command;
use std::thread;

use crate::report::quoted;

/// The machine, its load before the run, and the programs' versions.
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    load_before: String,
    load_after: Option<String>,
    versions: Vec<(&'static str, String)>,
}

impl Machine {
    /// Looks now.
    pub(crate) fn look() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = cpu.unwrap_or("unknown").trim_start_matches(['\t', ' ', ':']).to_owned();
        Self {
            cpu,
            cores: thread::available_parallelism().map_or(0, usize::from),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            load_before: load(),
            load_after: None,
            versions: vec![("nginx", version("nginx")), ("haproxy", version("haproxy"))],
        }
    }

    /// Notes the load at the end.
    pub(crate) fn finish(&mut self) {
        self.load_after = Some(load());
    }

    /// One line for the table.
    pub(crate) fn line(&self) -> String {
        let versions: Vec<&str> = self.versions.iter().map(|entry| entry.1.as_str()).collect();
        format!(
            "{} × {}, Linux {}; load average {} before, {} after; {}",
            self.cores,
            self.cpu,
            self.kernel,
            self.load_before,
            self.load_after.as_deref().unwrap_or("-"),
            versions.join("; ")
        )
    }

    /// One object.
    pub(crate) fn json(&self) -> String {
        let versions: Vec<String> = self
            .versions
            .iter()
            .map(|(program, version)| format!("{}: {}", quoted(program), quoted(version)))
            .collect();
        format!(
            "{{\"cpu\": {}, \"cores\": {}, \"kernel\": {}, \"load_before\": {}, \"load_after\": {}, \"versions\": {{{}}}}}",
            quoted(&self.cpu),
            self.cores,
            quoted(&self.kernel),
            quoted(&self.load_before),
            quoted(self.load_after.as_deref().unwrap_or("")),
            versions.join(", ")
        )
    }
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// The load averages of 1, 5 and 15 minutes.
fn load() -> String {
    first_line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn version(program: &str) -> String {
    let Ok(output) = Command::new(program).arg("-v").output() else {
        return format!("no {program}");
    };
    // nginx speaks on its error output.
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}
