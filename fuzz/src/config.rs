//! The configuration file: any text is taken or refused with a place, never a panic.

use std::path::Path;

use pointsman::config::Config;

/// The file's bytes.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(Path::new("fuzz.yaml"), text) {
        Ok(config) => {
            assert!(!config.listeners.is_empty() && !config.shards.is_empty());
            assert!(!config.routing.lookups.is_empty(), "no lookup");
            assert!(config.shards.iter().all(|shard| !shard.backends.is_empty()));
        }
        Err(errors) => {
            assert!(!errors.faults.is_empty(), "refused without a fault");
            // A lone CR ends a line too (YAML 1.2 section 5.4).
            let lines = text.split(['\n', '\r']).count();
            for fault in &errors.faults {
                let line = fault.line.expect("a fault without a line");
                assert!((1..=lines + 1).contains(&line), "line {line} of {lines}");
                assert!(fault.column.is_some() && !fault.message.is_empty());
            }
            let shown = errors.to_string();
            let acts = |symbol: char| symbol != '\n' && symbol.is_control();
            assert!(!shown.contains(acts), "a control character is shown: {shown:?}");
        }
    }
}
