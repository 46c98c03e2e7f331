//! The users file: any bytes load or are refused with the lines at fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use pointsman::config::Config;
use pointsman::routing::maps::Maps;
use pointsman::routing::{RoutingError, SlotTable, Table, UsersError};

/// Faults that are listed at most.
const FAULTS_MAX: usize = 20;

/// The file that each run writes; in memory where the system has a place for that.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    folder.join(format!("pointsman-fuzz-users-{}", std::process::id()))
});

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = format!(
        "listeners:\n  - {{ name: imap, address: \"127.0.0.1:143\", tls: none }}\n\
         shards:\n  north: {{ kind: primary, backends: [{{ name: n, address: \"127.0.0.1:1\", tls: none }}] }}\n  \
         south: {{ kind: primary, backends: [{{ name: s, address: \"127.0.0.1:2\", tls: none }}] }}\n\
         routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
        FILE.display()
    );
    Config::parse(Path::new("fuzz.yaml"), &text).expect("a sound configuration")
});

/// The file's bytes.
pub fn run(data: &[u8]) {
    fs::write(&*FILE, data).expect("a place for the file");
    let fault =
        Table::faults(&CONFIG, &SlotTable::unassigned(), &Maps::default()).into_iter().next();
    fs::remove_file(&*FILE).expect("the file is there");
    let lines: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    match fault {
        None => assert!(lines.iter().all(|line| is_plausible(line)), "an odd line was taken"),
        Some(RoutingError::Users(UsersError::Lines { faults, more, .. })) => {
            assert!(!faults.is_empty() && faults.len() <= FAULTS_MAX);
            assert!(more == 0 || faults.len() == FAULTS_MAX);
            for fault in &faults {
                let line = usize::try_from(fault.line).expect("a small number");
                assert!((1..=lines.len()).contains(&line), "a line that is not there");
                assert!(!fault.problem.to_string().chars().any(char::is_control));
            }
            assert!(faults.windows(2).all(|two| two[0].line < two[1].line), "lines in order");
        }
        Some(other) => panic!("{other}"),
    }
}

/// Nothing, a comment, or a name of printable ASCII and a shard.
fn is_plausible(line: &[u8]) -> bool {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    match words.next() {
        None => true,
        Some(user) if user.starts_with(b"#") => true,
        Some(user) => {
            user.iter().all(u8::is_ascii_graphic)
                && matches!(words.next(), Some(b"north" | b"south"))
                && words.next().is_none_or(|word| word.starts_with(b"#"))
        }
    }
}
