//! Maps built of text, opened, replaced and refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::build::published;
use super::*;
use crate::config::Canonical;
use crate::names::UserName;
use crate::routing::sources::UsersError;
use crate::routing::sources::line::LineProblem;

fn rules() -> Rules {
    Rules { canonical: Canonical::Lowercase, default_domain: Some("example.org".to_owned()) }
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn order(&self, text: impl AsRef<[u8]>) -> Order {
        let input = self.path("users");
        fs::write(&input, text).unwrap();
        let output = self.path("users.map");
        Order { input, format: InputFormat::Text, output, rules: rules(), shards: None }
    }

    fn build(&self, text: impl AsRef<[u8]>) -> Result<Built, BuildError> {
        build(&self.order(text))
    }

    /// The proxy's maps, with a store.
    fn maps(&self) -> Maps {
        Maps::new(&self.path("state"), Metrics::register().unwrap())
    }

    fn open(&self, maps: &Maps) -> Arc<MapFile> {
        maps.open(&self.path("users.map"), &rules()).unwrap()
    }

    /// The files of the folder, without the store.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.contains("map")).collect();
        names.sort();
        names
    }
}

fn shard_of(map: &MapFile, name: &str) -> Option<String> {
    map.lookup(name).unwrap().map(|shard| shard.to_string())
}

fn wrong_lines(result: Result<Built, BuildError>) -> Vec<(u32, LineProblem)> {
    match result {
        Err(BuildError::Users(UsersError::Lines { faults, .. })) => {
            faults.into_iter().map(|fault| (fault.line, fault.problem)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_stored_canonical_and_found() {
    let scene = Scene::new();
    let built = scene.build("# who\nBOB north\neve@Other.NET. south # moved\n").unwrap();
    assert_eq!((built.names, built.shards), (2, 2));
    let map = scene.open(&scene.maps());
    assert_eq!(shard_of(&map, "bob@example.org").as_deref(), Some("north"));
    assert_eq!(shard_of(&map, "eve@other.net").as_deref(), Some("south"));
    for absent in ["bob", "BOB@example.org", "bob@example.or", "bob@example.orgx"] {
        assert_eq!(shard_of(&map, absent), None, "{absent:?}");
    }
    assert_eq!(map.len(), 2);
}

#[test]
fn a_csv_file_may_name_its_columns() {
    let scene = Scene::new();
    let csv = |text: &str| build(&Order { format: InputFormat::Csv, ..scene.order(text) });
    assert_eq!(csv("user,shard\r\nbob,north\r\n\"Eve\",south\r\n").unwrap().names, 2);
    assert_eq!(csv("bob,north\n").unwrap().names, 1);
    let faults = wrong_lines(csv("bob,north\nuser,shard\nbob;north\na,b,c\n"));
    assert_eq!(faults, [(3, LineProblem::NoShard), (4, LineProblem::MoreWords)]);
}

#[test]
fn bad_lines_and_doubled_users_are_named_and_nothing_is_written() {
    let scene = Scene::new();
    let text = "bob north\nalone\neve no/shard\nBob@example.org south\nb*b north\nbob south\n";
    let faults = wrong_lines(scene.build(text));
    let bob = || UserName::new("bob@example.org");
    let expected = [
        (2, LineProblem::NoShard),
        (3, LineProblem::ShardName("no/shard".to_owned())),
        (4, LineProblem::Doubled { user: bob(), line: 1 }),
        (5, LineProblem::Name(crate::routing::name::NameError::Forbidden('*'))),
        (6, LineProblem::Doubled { user: bob(), line: 1 }),
    ];
    assert_eq!(faults, expected);
    assert!(scene.files().is_empty(), "{:?}", scene.files());
    let error = scene.build(text).unwrap_err();
    assert!(error.is_input());
    let said = error.to_string();
    assert!(said.contains("users:4:1:") && said.contains("4 | Bob@example.org south"), "{said}");
    let known = Some(vec![ShardId::new("north")]);
    let order = Order { shards: known, ..scene.order("bob north\neve south\n") };
    let unknown = LineProblem::UnknownShard("south".to_owned());
    assert_eq!(wrong_lines(build(&order)), [(2, unknown)]);
    let many = "twice north\n".repeat(5000);
    match scene.build(many).unwrap_err() {
        BuildError::Users(UsersError::Lines { faults, more, .. }) => {
            let lines: Vec<u32> = faults.iter().map(|fault| fault.line).collect();
            assert_eq!(lines, (2..22).collect::<Vec<u32>>());
            assert_eq!(more, 4999 - 20);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_name_that_stands_for_something_else_is_not_overwritten() {
    let scene = Scene::new();
    let order = scene.order("bob north\n");
    let onto = |output: PathBuf| build(&Order { output, ..order.clone() });
    assert!(matches!(onto(order.input.clone()), Err(BuildError::NoMap { .. })));
    assert!(matches!(onto(scene.folder.path().to_owned()), Err(BuildError::NoMap { .. })));
    std::os::unix::fs::symlink(&order.input, scene.path("link")).unwrap();
    assert!(matches!(onto(scene.path("link")), Err(BuildError::NoMap { .. })));
    let nowhere = onto(scene.path("absent/users.map")).unwrap_err();
    assert!(matches!(nowhere, BuildError::Unwritable { .. }) && !nowhere.is_input());
    assert_eq!(fs::read_to_string(order.input).unwrap(), "bob north\n");
}

#[test]
fn each_generation_has_a_name_of_its_own_and_the_former_is_kept() {
    let scene = Scene::new();
    let maps = scene.maps();
    scene.build("bob north\n").unwrap();
    let map = scene.open(&maps);
    let first = published(&scene.path("users.map")).unwrap().unwrap();
    scene.build("bob south\n").unwrap();
    assert_eq!(shard_of(&map, "bob@example.org").as_deref(), Some("north"), "not yet");
    maps.look_at(&map);
    assert_eq!(shard_of(&map, "bob@example.org").as_deref(), Some("south"));
    assert!(first.exists());
    scene.build("bob west\n").unwrap();
    assert!(!first.exists(), "older ones go");
    assert_eq!(scene.files().len(), 3, "{:?}", scene.files());
    let again = scene.open(&maps);
    assert!(Arc::ptr_eq(&map, &again), "no file is opened twice");
    assert_eq!(shard_of(&map, "bob@example.org").as_deref(), Some("west"));
}

/// Whoever still looks up in the former generation can go on with it.
#[test]
fn a_generation_in_use_outlives_its_file() {
    let scene = Scene::new();
    let maps = scene.maps();
    scene.build("bob north\n").unwrap();
    let map = scene.open(&maps);
    let held = map.current.load_full();
    for _ in 0..3 {
        scene.build("bob south\n").unwrap();
        maps.look_at(&map);
    }
    assert_eq!(held.lookup("bob@example.org").unwrap(), Some(ShardId::new("north")));
}

/// A map that was brought here by other means is no file of this process: whoever writes over
/// it harms no lookup.
#[test]
fn a_copied_map_is_copied_again_before_it_is_used() {
    let scene = Scene::new();
    let maps = scene.maps();
    scene.build("bob north\n").unwrap();
    let first = fs::read(scene.path("users.map")).unwrap();
    scene.build("bob south\n").unwrap();
    let second = fs::read(scene.path("users.map")).unwrap();
    let plain = scene.path("plain.map");
    fs::write(&plain, &first).unwrap();
    let map = maps.open(&plain, &rules()).unwrap();
    fs::write(&plain, &second[..second.len() / 2]).unwrap();
    maps.look_at(&map);
    assert_eq!(shard_of(&map, "bob@example.org").as_deref(), Some("north"), "cut off");
    fs::write(&plain, &second).unwrap();
    maps.look_at(&map);
    assert_eq!(shard_of(&map, "bob@example.org").as_deref(), Some("south"));
    assert_eq!(fs::read_dir(scene.path("state/users")).unwrap().count(), 0, "no copy is left");
}

#[test]
fn a_damaged_map_is_refused_at_any_byte_and_the_former_one_serves() {
    let scene = Scene::new();
    scene
        .build((0..300).fold(String::new(), |mut text, number| {
            writeln!(text, "user{number} north").unwrap();
            text
        }))
        .unwrap();
    let whole = fs::read(scene.path("users.map")).unwrap();
    let place = scene.path("damaged.map");
    let maps = scene.maps();
    let open = |bytes: &[u8]| {
        fs::write(&place, bytes).unwrap();
        maps.open(&place, &rules())
    };
    assert!(open(&whole).is_ok());
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        let error = open(&bytes).expect_err("a changed byte");
        assert!(matches!(error, MapError::Damaged { .. }), "byte {at}: {error}");
    }
    for length in (0..whole.len()).step_by(1001) {
        let error = open(&whole[..length]).expect_err("a map that is cut off");
        assert!(matches!(error, MapError::Damaged { .. }), "{length} bytes: {error}");
    }
}

#[test]
fn a_map_for_other_rules_is_refused() {
    let scene = Scene::new();
    scene.build("bob north\n").unwrap();
    let other = Rules { canonical: Canonical::Lowercase, default_domain: None };
    let error = scene.maps().open(&scene.path("users.map"), &other).unwrap_err();
    assert_eq!(error.reason(), "users_other_rules");
    assert!(error.to_string().contains("`default_domain: example.org`"), "{error}");
}

/// A map as Postfix writes it, with or without NUL.
fn postfix_map(path: &Path, entries: &[(&str, &str)]) {
    use heed::{EnvFlags, EnvOpenOptions, types::Bytes};
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(1 << 20);
    // SAFETY: only this test uses the file.
    #[allow(unsafe_code)]
    let environment =
        unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK).open(path).unwrap() };
    let mut txn = environment.write_txn().unwrap();
    let names = environment.create_database::<Bytes, Bytes>(&mut txn, None).unwrap();
    for (key, value) in entries {
        names.put(&mut txn, key.as_bytes(), value.as_bytes()).unwrap();
    }
    txn.commit().unwrap();
}

#[test]
fn maps_of_postfix_are_read_and_their_entries_checked() {
    let scene = Scene::new();
    let maps = scene.maps();
    for (nul, name) in [("\0", "with.lmdb"), ("", "without.lmdb")] {
        let (bob, north) = (format!("bob@example.org{nul}"), format!("north{nul}"));
        postfix_map(&scene.path(name), &[(&bob, &north)]);
        let map = maps.open(&scene.path(name), &rules()).unwrap();
        assert_eq!(shard_of(&map, "bob@example.org").as_deref(), Some("north"));
        assert_eq!(shard_of(&map, "eve@example.org"), None);
        assert_eq!(map.len(), 1);
    }
    let wrong =
        [("Bob@example.org", "north"), ("eve", "south"), ("x@y.org", "a b"), ("@z.org", "n")];
    postfix_map(&scene.path("wrong.lmdb"), &wrong);
    let error = maps.open(&scene.path("wrong.lmdb"), &rules()).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("4 wrong entries"), "{said}");
    assert!(said.contains("\"eve\": the user is to be written \"eve@example.org\""), "{said}");
    assert!(said.contains("\"a b\" is no shard"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_map_is_a_map(users in prop::collection::btree_map("[a-z0-9.]{1,40}", "n|s", 0..200)) {
        let scene = Scene::new();
        let mut text = String::new();
        for (user, shard) in &users {
            writeln!(text, "{user}@x.org {shard}").unwrap();
        }
        let built = scene.build(text).unwrap();
        let known: BTreeMap<_, _> =
            users.into_iter().map(|(user, shard)| (format!("{user}@x.org"), shard)).collect();
        prop_assert_eq!(built.names, u64::try_from(known.len()).unwrap());
        let map = scene.open(&scene.maps());
        for (user, shard) in &known {
            prop_assert_eq!(shard_of(&map, user), Some(shard.clone()));
            let other = format!("{user}x");
            prop_assert_eq!(shard_of(&map, &other), known.get(&other).cloned());
        }
    }
}
