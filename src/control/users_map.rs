//! Users maps from the command line.

use std::path::{Path, PathBuf};

use crate::config::{Canonical, Config, ConfigErrors};
use crate::routing::maps::{self, BuildError, Built, InputFormat, Order, Rules};

/// Why no users map was built.
#[derive(Debug, thiserror::Error)]
pub enum UsersMapError {
    /// The configuration that it is for.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The users, or the map.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl UsersMapError {
    /// Whether a file that an operator wrote is at fault (exit code 64), not the machine.
    pub const fn is_input(&self) -> bool {
        match self {
            Self::Config(_) => true,
            Self::Build(error) => error.is_input(),
        }
    }
}

/// Builds a users map for a configuration, or for one with the default rules for names; says
/// what it built, in words or as JSON. Without `csv` the input's name decides. Blocks.
pub fn build_users_map(
    input: PathBuf,
    output: PathBuf,
    csv: Option<bool>,
    config: Option<&Path>,
    json: bool,
) -> Result<String, UsersMapError> {
    let (rules, shards) = match config {
        Some(path) => {
            let config = Config::load(path)?;
            let shards = config.shards.iter().map(|shard| shard.name.clone()).collect();
            (Rules::from(&config.routing), Some(shards))
        }
        None => (Rules { canonical: Canonical::Lowercase, default_domain: None }, None),
    };
    let named_csv = input.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    let format = if csv.unwrap_or(named_csv) { InputFormat::Csv } else { InputFormat::Text };
    let map = output.display().to_string();
    let Built { names, shards, bytes } =
        maps::build(&Order { input, format, output, rules, shards })?;
    Ok(if json {
        serde_json::json!({ "map": map, "users": names, "shards": shards, "bytes": bytes })
            .to_string()
    } else {
        format!("{map}: {names} users, {shards} shards, {bytes} bytes")
    })
}
