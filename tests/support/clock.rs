//! A program's clock that a test moves, by Debian's libfaketime.

use std::path::PathBuf;

use tempfile::TempDir;

/// The clock of a program that was started with [`MovedClock::environment`].
#[derive(Debug)]
pub struct MovedClock {
    folder: TempDir,
}

impl MovedClock {
    /// One that goes right.
    pub fn new() -> Self {
        let clock = Self { folder: super::temporary_folder("clock") };
        clock.move_by("+0");
        clock
    }

    /// What the program is to find in its environment.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD", text(library())),
            ("FAKETIME_TIMESTAMP_FILE", text(self.file())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
        ]
    }

    /// From now on the program's clock is so far ahead: `+31m`.
    pub fn move_by(&self, time: &str) {
        std::fs::write(self.file(), time).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }
}

/// The library that moves a process's clocks.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| library.exists()).expect("Debian's libfaketime")
}
