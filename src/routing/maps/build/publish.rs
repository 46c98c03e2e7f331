//! A generation's file under a name of its own, and the map's name pointing there.
//!
//! `users.map` is a symbolic link to `users.map.g<number>` beside it. A new generation is
//! written whole before the link is replaced, in one step; a proxy that has the former one
//! open goes on with it. The former file is kept until the next build, older ones go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::BuildError;
use crate::routing::maps::format::{is_lmdb, seal};

/// Generations that are kept, the new one included.
const KEPT: usize = 2;

/// The file that a map's name points at, where it was published by a build. None for any
/// other file.
pub(in super::super) fn published(map: &Path) -> io::Result<Option<PathBuf>> {
    if !fs::symlink_metadata(map)?.is_symlink() {
        return Ok(None);
    }
    // The name of the link itself may be reached by another link's way.
    let target = map.canonicalize()?;
    let file = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(map), Some(name)) = (file(map), file(&target)) else { return Ok(None) };
    Ok(generation_number(&map, &name).is_some().then_some(target))
}

/// Refuses a name that stands for something that no build made.
pub(super) fn check_output(output: &Path) -> Result<(), BuildError> {
    let no_map = || BuildError::NoMap { output: output.to_owned() };
    match fs::symlink_metadata(output) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.is_symlink() => match published(output) {
            Ok(Some(_)) => Ok(()),
            // What it pointed at is gone.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            _ => Err(no_map()),
        },
        Ok(metadata) if metadata.is_file() && is_lmdb(output).is_ok_and(|is| is) => Ok(()),
        Ok(_) => Err(no_map()),
        Err(error) => {
            Err(BuildError::Unwritable { output: output.to_owned(), detail: error.to_string() })
        }
    }
}

/// A generation that is being written. Dropped unpublished, it leaves nothing.
#[derive(Debug)]
pub(super) struct Draft {
    folder: PathBuf,
    map: String,
    number: u128,
    path: PathBuf,
}

impl Draft {
    /// Makes an empty file beside the map.
    pub(super) fn new(output: &Path) -> io::Result<Self> {
        let name = output.file_name().and_then(|name| name.to_str());
        let map = name.ok_or_else(|| io::Error::other("it has no file name in UTF-8"))?;
        let folder = match output.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let number =
            SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_nanos();
        let path = folder.join(format!("{map}.g{number}.new"));
        // The proxy may run as another user.
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        Ok(Self { folder, map: map.to_owned(), number, path })
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Seals it, brings it to the disk, and points the map's name at it. Gives its size.
    pub(super) fn publish(self) -> io::Result<u64> {
        seal(&self.path)?;
        let bytes = fs::metadata(&self.path)?.len();
        let generation = format!("{}.g{}", self.map, self.number);
        fs::rename(&self.path, self.folder.join(&generation))?;
        let link = self.folder.join(format!("{generation}.link"));
        symlink(&generation, &link)?;
        if let Err(error) = fs::rename(&link, self.folder.join(&self.map)) {
            // Nothing points there: it would only take room.
            let _ = fs::remove_file(&link);
            let _ = fs::remove_file(self.folder.join(&generation));
            return Err(error);
        }
        File::open(&self.folder)?.sync_all()?;
        self.remove_older()?;
        Ok(bytes)
    }

    fn remove_older(&self) -> io::Result<()> {
        let mut generations = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let number = generation_number(&self.map, &name);
            generations.extend(number.map(|number| (number, name)));
        }
        generations.sort_unstable();
        let older = generations.len().saturating_sub(KEPT);
        for (_, name) in generations.into_iter().take(older) {
            // Another build may have done it.
            let _ = fs::remove_file(self.folder.join(name));
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After publishing it has another name.
        let _ = fs::remove_file(&self.path);
    }
}

/// The number of a generation of that map, by its file's name.
fn generation_number(map: &str, file: &str) -> Option<u128> {
    let number = file.strip_prefix(map)?.strip_prefix(".g")?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}
