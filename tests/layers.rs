//! Keeps the module table of `ARCHITECTURE.md` true: a module names only the modules
//! of its own row, and all rows point upward.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The table's rows: module -> what it may name. `all` stands for every module.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_, table) = text.split_once("<!-- layers -->").expect("the table's beginning");
    let (table, _) = table.split_once("<!-- /layers -->").expect("the table's end");
    let mut rows = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let module = cells.next().expect("a module").trim_matches('`').to_owned();
        let names = cells.next().expect("what it may name");
        let names = names
            .split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
            .filter(|name| !name.is_empty() && name != "nothing")
            .collect();
        rows.insert(module, names);
    }
    rows
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The top module of a source file, e.g. `proxy` for `src/proxy/relay/lane.rs`.
fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("a file of src");
    let first = inside.components().next().expect("a first part");
    let first = Path::new(first.as_os_str());
    first.file_stem().expect("a name").to_string_lossy().into_owned()
}

/// The modules that a source names through `crate::`, outside comments.
fn named(source: &str) -> BTreeSet<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut names = BTreeSet::new();
    for line in code {
        for rest in line.split("crate::").skip(1) {
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            names.insert(if name.is_empty() { rest.chars().take(8).collect() } else { name });
        }
    }
    names
}

#[test]
fn every_module_names_only_what_its_row_allows() {
    let table = table();
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    assert!(files.len() > 20, "the sources were not found");
    let mut faults = Vec::new();
    for path in files {
        let module = module_of(&path);
        if ["main", "lib", "names", "allocator"].contains(&module.as_str()) {
            continue;
        }
        let Some(allowed) = table.get(&module) else {
            faults.push(format!("{module} has no row in the table"));
            continue;
        };
        let source = fs::read_to_string(&path).expect("a readable source");
        for name in named(&source) {
            let free = name == module || name == "names" || allowed.contains("all");
            if !free && !allowed.contains(&name) {
                faults.push(format!("{} names {name}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_table_has_no_cycle() {
    let table = table();
    let mut settled: BTreeSet<&str> = BTreeSet::from(["names"]);
    while settled.len() <= table.len() {
        let next = table.iter().find(|(module, names)| {
            !settled.contains(module.as_str())
                && names.iter().all(|name| name == "all" || settled.contains(name.as_str()))
        });
        let Some((module, _)) = next else { break };
        settled.insert(module);
    }
    let stuck: Vec<&String> =
        table.keys().filter(|module| !settled.contains(module.as_str())).collect();
    assert!(stuck.is_empty(), "a cycle among {stuck:?}");
}
