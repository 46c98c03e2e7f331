//! Wrong configurations and files are refused with their place, at start and at reload, and
//! a client's bad bytes are answered and go no further.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::format_collect,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::sync::LazyLock;

use support::backend::Backend;
use support::pointsman::{Places, Pointsman, check, run_binary};
use support::tls::Authority;
use support::wait_until;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A good configuration over several lines; nobody listens at its backend.
fn good(places: &Places) -> String {
    std::fs::write(places.file("users"), "# who is where\nanna north\nbert south\n").unwrap();
    format!(
        "{head}shards:
  north:
    kind: shared
    backends:
      - {{ name: n1, address: \"127.0.0.1:9\", tls: none }}
  south:
    kind: primary
    backends:
      - {{ name: s1, address: \"localhost:9\", tls: implicit, ca: \"{ca}\" }}
routing:
  lookups:
    - users: {{ file: \"{users}\" }}
",
        head = places.head(),
        ca = places.ca.display(),
        users = places.file("users").display(),
    )
}

/// One way to spoil the good configuration: what is replaced by what, and words that the
/// message must have. The fault is on the line of the replacement's `@` mark.
struct Spoiled {
    from: &'static str,
    to: &'static str,
    words: &'static [&'static str],
}

const SPOILED: &[Spoiled] = &[
    Spoiled { from: "tls: starttls", to: "tls: @sometimes", words: &["sometimes", "implicit"] },
    Spoiled { from: "kind: primary", to: "kind: @second", words: &["second", "shared", "primary"] },
    Spoiled { from: "shutdown:", to: "@shutdwon:", words: &["shutdwon"] },
    Spoiled { from: "name: n1,", to: "name: n1, @nmae: n2,", words: &["nmae"] },
    Spoiled { from: "name: n1,", to: "name: n1, @name: n2,", words: &["name"] },
    Spoiled { from: "name: s1,", to: "@name: n1,", words: &["n1"] },
    Spoiled { from: "localhost:9\"", to: "@localhost\"", words: &["localhost", "port"] },
    Spoiled { from: "tls: none }\n  south", to: "@tls: non }\n  south", words: &["non"] },
    Spoiled { from: "lame_duck: 100ms", to: "lame_duck: @fast", words: &["fast"] },
    Spoiled {
        from: "failed_login_delay: 100ms",
        to: "idle: @10m, failed_login_delay: 100ms",
        words: &["idle", "10m"],
    },
    Spoiled { from: "level: debug", to: "level: @loud", words: &["loud"] },
    Spoiled { from: "    - users:", to: "    - shard: @west\n    - users:", words: &["west"] },
    Spoiled {
        from: "tls: none, allow_clear_login: true",
        to: "tls: none, allow_clear_login: true, mechanisms: [@GSSAPI]",
        words: &["GSSAPI"],
    },
    Spoiled {
        from: "tls: none, allow_clear_login: true",
        to: "tls: none, proxy_protocol: @required",
        words: &["trusted"],
    },
    Spoiled { from: "  lookups:\n", to: "  lookups: [\n@", words: &[] },
    Spoiled { from: "store:", to: "\t@store:", words: &[] },
];

impl Spoiled {
    /// The text without the mark, and the line of the mark from 1.
    fn apply(&self, good: &str) -> (String, usize) {
        // No other mark is in the file.
        assert!(!good.contains('@'));
        assert!(good.contains(self.from), "{:?} is not there", self.from);
        let marked = good.replacen(self.from, self.to, 1);
        let before = marked.split('@').next().unwrap();
        (marked.replacen('@', "", 1), before.matches('\n').count() + 1)
    }
}

/// `serve` on a configuration that it must refuse; gives exit code and output.
fn serve(configuration: impl FnOnce(&Places) -> String) -> (i32, String) {
    support::pointsman::run_to_end("serve", &AUTHORITY, configuration)
}

#[test]
fn the_good_configuration_is_good() {
    let (code, text) = check(&AUTHORITY, good);
    assert_eq!(code, 0, "{text}");
}

/// The place `FILE:LINE:COLUMN:` and, below it, a part of that line and a caret.
fn assert_placed(text: &str, line: usize, spoiled: &Spoiled) {
    let place = format!("pointsman.yaml:{line}:");
    let at = text.find(&place).unwrap_or_else(|| panic!("{place} in {text}"));
    let column = text[at + place.len()..].split(':').next().unwrap();
    assert!(column.parse::<usize>().is_ok(), "column {column:?} in {text}");
    let behind_mark = spoiled.to.split('@').nth(1).unwrap().lines().next().unwrap_or("");
    let start: String = behind_mark.chars().take(8).collect();
    let snippet = text.lines().find(|shown| shown.trim().starts_with(&format!("{line} | ")));
    let snippet = snippet.unwrap_or_else(|| panic!("no snippet in {text}"));
    assert!(snippet.contains(&start), "{start:?} in {text}");
    assert!(text.lines().any(|shown| shown.trim_start().starts_with("| ") && shown.ends_with('^')));
}

#[test]
fn check_and_serve_name_the_line_and_column_of_each_fault_and_end_with_64() {
    for spoiled in SPOILED {
        let mut line = 0;
        let (code, text) = check(&AUTHORITY, |places| {
            let (text, at) = spoiled.apply(&good(places));
            line = at;
            text
        });
        assert_eq!(code, 64, "{:?}: {text}", spoiled.to);
        assert_placed(&text, line, spoiled);
        for word in spoiled.words {
            assert!(text.contains(word), "{word:?} in {text}");
        }
        if !spoiled.words.is_empty() {
            assert!(text.contains("expected "), "nothing expected in {text}");
        }
        let (code, served) = serve(|places| spoiled.apply(&good(places)).0);
        assert_eq!(code, 64, "{served}");
        assert_placed(&served, line, spoiled);
    }
}

#[test]
fn every_fault_of_a_file_is_told_at_once() {
    let (code, text) = check(&AUTHORITY, |places| {
        good(places)
            .replace("tls: starttls", "tls: sometimes")
            .replace("kind: primary", "kind: second")
            .replace("lame_duck: 100ms", "lame_duck: fast")
    });
    assert_eq!(code, 64);
    for word in ["sometimes", "second", "fast"] {
        assert!(text.contains(word), "{text}");
    }
}

/// Files that the configuration names: what is written over which, and the words of the
/// message.
type FileFault = (&'static str, fn(&Places), &'static [&'static str]);

const FILE_FAULTS: &[FileFault] = &[
    (
        "a shard that is not there",
        |places| std::fs::write(places.file("users"), "anna north\nbert west\n").unwrap(),
        &["users:2:", "west"],
    ),
    (
        "a user twice",
        |places| std::fs::write(places.file("users"), "anna north\n\nAnna south\n").unwrap(),
        &["users:3:", "anna", "line 1"],
    ),
    (
        "a user without a shard",
        |places| std::fs::write(places.file("users"), "# x\nanna\n").unwrap(),
        &["users:2:", "shard"],
    ),
    (
        "a name that no user may have",
        |places| std::fs::write(places.file("users"), "m\u{fc}ller north\n").unwrap(),
        &["users:1:", "ASCII"],
    ),
    (
        "no users file",
        |places| std::fs::remove_file(places.file("users")).unwrap(),
        &["users", "No such file"],
    ),
    (
        "the key of another certificate",
        |places| {
            let other = AUTHORITY.issue(&["localhost"]);
            std::fs::write(&places.key, &other.key_pem).unwrap();
        },
        &["pointsman.key", "does not belong"],
    ),
    (
        "no certificate",
        |places| std::fs::remove_file(&places.certificate).unwrap(),
        &["pointsman.pem", "No such file"],
    ),
    (
        "a certificate file without a certificate",
        |places| std::fs::write(&places.certificate, "hello\n").unwrap(),
        &["pointsman.pem", "no certificate"],
    ),
    (
        "a folder instead of a key",
        |places| {
            std::fs::remove_file(&places.key).unwrap();
            std::fs::create_dir(&places.key).unwrap();
        },
        &["pointsman.key"],
    ),
    (
        "no authority",
        |places| std::fs::remove_file(&places.ca).unwrap(),
        &["ca.pem", "No such file"],
    ),
];

#[test]
fn faults_of_the_files_that_are_named_are_told_at_start() {
    for (what, spoil, words) in FILE_FAULTS {
        let spoiled = |places: &Places| {
            let text = good(places);
            spoil(places);
            text
        };
        for (code, text) in [check(&AUTHORITY, spoiled), serve(spoiled)] {
            assert_eq!(code, 64, "{what}: {text}");
            for word in *words {
                assert!(text.contains(word), "{what}: {word:?} in {text}");
            }
        }
    }
}

/// All faulty files are opened, whatever is wrong with the others, and each fault has its
/// place: in a users file line, column and text, for a certificate the line that names it.
#[test]
fn every_fault_of_every_named_file_is_told_at_once_by_check_start_and_reload() {
    let spoil = |places: &Places| {
        let text = good(places);
        let users = "anna north\nbert   west\n".to_owned() + &"alone\n".repeat(30);
        std::fs::write(places.file("users"), users).unwrap();
        std::fs::write(&places.certificate, "hello\n").unwrap();
        std::fs::remove_file(&places.ca).unwrap();
        std::fs::write(places.file("other.key"), "no key\n").unwrap();
        let line = format!("{}\" }}", places.key.display());
        let second = format!(
            "{line}\n    - {{ cert: \"{}\", key: \"{}\" }}",
            places.file("other.pem").display(),
            places.file("other.key").display()
        );
        text.replacen(&line, &second, 1)
    };
    let assert_all_told = |text: &str| {
        for words in [
            "users:2:8: there is no shard \"west\"\n",
            "2 | bert   west\n",
            "expected a shard that stands under `shards`",
            "users:21:6: no shard follows",
            "users: and 11 more lines are wrong",
            "pointsman.pem holds no certificate",
            "cannot read",
            "other.pem: No such file",
            "ca.pem: No such file",
        ] {
            assert!(text.contains(words), "{words:?} in {text}");
        }
        let placed = text.lines().filter(|line| {
            line.split_once("pointsman.yaml:")
                .is_some_and(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()))
        });
        assert_eq!(placed.count(), 3, "two certificates and an authority have lines: {text}");
    };
    for (code, text) in [check(&AUTHORITY, spoil), serve(spoil)] {
        assert_eq!(code, 64, "{text}");
        assert_all_told(&text);
    }
    let backend = Backend::ordinary();
    let (proxy, _) = running(&backend);
    proxy.rewrite(spoil);
    proxy.reload();
    proxy.wait_for_log("configuration refused, the former one stays");
    let log = proxy.log();
    let own_lines: Vec<&str> =
        log.lines().filter(|line| line.contains("fault in the configuration")).collect();
    assert_eq!(own_lines.len(), 3 + 20 + 1, "{log}");
    assert_all_told(&own_lines.join("\n").replace("\\n", "\n").replace("\\\"", "\""));
}

/// Four lookups, one a line, each with this file of authorities.
fn lookups_with(ca: &str) -> [String; 4] {
    [
        format!(
            "ldap: {{ urls: [\"ldaps://localhost\"], filter: \"(uid=%u)\", \
             attributes: {{ shard: s }}, ca: {ca} }}"
        ),
        format!(
            "sql: {{ url: \"postgres://localhost/mail\", user: u, query: \"SELECT 1\", ca: {ca} }}"
        ),
        format!("redis: {{ url: \"rediss://localhost\", key: \"%u\", ca: {ca} }}"),
        format!("auth_http: {{ urls: [\"https://localhost/auth\"], ca: {ca} }}"),
    ]
}

/// A lookup reads its authorities when it connects. Whoever checks the file learns of a wrong
/// one before the first login does, at the line that names it.
#[test]
fn authorities_of_directories_that_cannot_be_used_are_told_at_their_line() {
    let line = Cell::new(0);
    let with = |lookups: &[String], places: &Places| {
        std::fs::write(places.file("empty.pem"), "no block\n").unwrap();
        let good = good(places);
        let (head, _) = good.split_once("routing:").unwrap();
        line.set(head.lines().count() + 3);
        let lookups: String = lookups.iter().map(|one| format!("    - {one}\n")).collect();
        format!("{head}routing:\n  lookups:\n{lookups}")
    };
    let (code, text) = check(&AUTHORITY, |places| with(&lookups_with("ca.pem"), places));
    assert_eq!(code, 0, "{text}");
    for (place, lookup) in lookups_with("missing.pem").into_iter().enumerate() {
        let mut lookups = lookups_with("ca.pem");
        lookups[place] = lookup;
        let with = |places: &Places| with(&lookups, places);
        for (code, text) in [check(&AUTHORITY, with), serve(with)] {
            assert_eq!(code, 64, "{text}");
            let line = line.get() + place;
            assert!(text.contains(&format!("pointsman.yaml:{line}:")), "line {line}: {text}");
            assert!(text.contains("missing.pem: No such file"), "{text}");
        }
    }
    let (code, text) = check(&AUTHORITY, |places| with(&lookups_with("empty.pem"), places));
    assert_eq!(code, 64, "{text}");
    assert_eq!(text.matches("empty.pem holds no certificate").count(), 1, "once a file: {text}");
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    for command in [&["check", "/nowhere/x.yaml"][..], &["serve", "--config", "/nowhere/x.yaml"]] {
        let (code, text) = run_binary(command);
        assert_eq!(code, 64, "{text}");
        assert!(text.contains("/nowhere/x.yaml") && text.contains("No such file"), "{text}");
    }
}

#[test]
fn a_port_that_is_taken_is_named_at_start() {
    let taken = TcpListener::bind(("127.0.0.1", support::free_port())).unwrap();
    let address = taken.local_addr().unwrap();
    for what in ["listener", "admin"] {
        let (code, text) = serve(|places| {
            let own = if what == "admin" { places.admin } else { places.imap };
            good(places).replace(&own.to_string(), &address.to_string())
        });
        assert_ne!(code, 0);
        assert!(text.contains(&address.to_string()), "{what}: {text}");
    }
}

const RELOADS: &str = "pointsman_config_reloads_total";

/// A proxy in front of a live backend, with its good configuration.
fn running(backend: &Backend) -> (Pointsman, impl Fn(&Places) -> String) {
    let address = backend.address().to_string();
    let text = move |places: &Places| good(places).replace("127.0.0.1:9", &address);
    let proxy = Pointsman::start(&AUTHORITY, &text);
    (proxy, text)
}

/// All of it stays: the generation, the session, the routing.
fn assert_refused(proxy: &Pointsman, what: &str, refused: f64) {
    let metrics = proxy.metrics();
    let applied = metrics.sum("pointsman_config_generation", &[]);
    assert!((applied - 1.0).abs() < 0.5, "{what}: {}", proxy.log());
    assert!((metrics.sum(RELOADS, &[]) - refused).abs() < 0.5, "{what}");
    proxy.logged_in("anna", "secret").logout();
}

#[test]
fn a_reload_of_a_wrong_configuration_changes_nothing_and_says_why() {
    let backend = Backend::ordinary();
    let (proxy, text) = running(&backend);
    let mut held = proxy.logged_in("anna", "secret");
    let mut refused = 0.0;
    for spoiled in SPOILED {
        let mut line = 0;
        proxy.rewrite(|places| {
            let (text, at) = spoiled.apply(&text(places));
            line = at;
            text
        });
        let before = proxy.log().len();
        proxy.reload();
        refused += 1.0;
        let fresh = wait_until("the refusal is logged", || {
            let fresh = proxy.log().split_off(before);
            fresh.contains("configuration refused").then_some(fresh)
        });
        assert!(fresh.contains("ERROR") && fresh.contains("refused"), "{fresh}");
        assert!(fresh.contains(&format!("pointsman.yaml:{line}:")), "{fresh}");
        for word in spoiled.words {
            assert!(fresh.contains(word), "{word:?} in {fresh}");
        }
        assert_refused(&proxy, spoiled.to, refused);
    }
    held.command_ok("NOOP");
    proxy.rewrite(&text);
    proxy.reload();
    let generation = proxy.metrics().sum("pointsman_config_generation", &[]);
    assert!((generation - 2.0).abs() < 0.5, "{}", proxy.log());
    held.command_ok("NOOP");
}

#[test]
fn a_reload_over_faulty_files_changes_nothing_and_names_them() {
    for (what, spoil, words) in FILE_FAULTS {
        let backend = Backend::ordinary();
        let (proxy, _) = running(&backend);
        let mut held = proxy.logged_in("anna", "secret");
        spoil(proxy.places());
        proxy.reload();
        proxy.wait_for_log("configuration refused");
        let log = proxy.log();
        for word in *words {
            assert!(log.contains(word), "{what}: {word:?} in {log}");
        }
        assert_refused(&proxy, what, 1.0);
        held.command_ok("NOOP");
    }
}

#[test]
fn a_port_that_is_taken_at_a_reload_changes_nothing() {
    let backend = Backend::ordinary();
    let (proxy, text) = running(&backend);
    let mut held = proxy.logged_in("anna", "secret");
    let taken = TcpListener::bind(("127.0.0.1", support::free_port())).unwrap();
    let (free, address) =
        (SocketAddr::from(([127, 0, 0, 1], support::free_port())), taken.local_addr().unwrap());
    let listener = |address: SocketAddr, name: &str| {
        format!("  - {{ name: {name}, address: \"{address}\", tls: starttls }}\n")
    };
    let wider = |places: &Places| {
        let both = listener(free, "more") + &listener(address, "most");
        // The route changes too: it must not be half applied.
        text(places).replace("tls:\n  cert", &(both + "tls:\n  cert")) + "    - shard: south\n"
    };
    proxy.rewrite(wider);
    proxy.reload();
    proxy.wait_for_log(&address.to_string());
    assert!(!proxy.client().try_login("nobody", "secret").is_ok());
    assert_refused(&proxy, "port", 1.0);
    assert!(std::net::TcpStream::connect(free).is_err());
    held.command_ok("NOOP");
    drop(taken);
    // A child that another test starts just now may hold it for a moment.
    support::wait_until("the port is free", || TcpListener::bind(address).ok().map(drop));
    proxy.rewrite(wider);
    proxy.reload();
    for address in [free, address] {
        support::client::Client::clear(address).logout();
    }
}

/// B-16 to B-19, B-25, B-28, B-29, B-37: bad bytes are BAD, counted, and nobody else's matter.
#[test]
fn a_clients_bad_bytes_are_bad_and_counted_and_go_no_further() {
    let backend = Backend::ordinary();
    let (proxy, _) = running(&backend);
    let bad: [(&[u8], &str); 31] = [
        (b"\r\n", "* BAD"),
        (b"a\r\n", "a BAD"),
        (b" a NOOP\r\n", "* BAD"),
        (b"* NOOP\r\n", "* BAD"),
        (b"+ NOOP\r\n", "* BAD"),
        (b"a+b NOOP\r\n", "* BAD"),
        (b"{ NOOP\r\n", "* BAD"),
        (b"a  NOOP\r\n", "a BAD"),
        (b"a\tNOOP\r\n", "* BAD"),
        (b"a NOOP\n", "a BAD"),
        (b"a NO\0OP\r\n", "a BAD"),
        (b"a \xff\xfe\r\n", "a BAD"),
        (b"a XYZZY\r\n", "a BAD"),
        (b"a LOGIN\r\n", "a BAD"),
        (b"a LOGIN anna\r\n", "a BAD"),
        (b"a LOGIN anna \r\n", "a BAD"),
        (b"a LOGIN anna secret more\r\n", "a BAD"),
        (b"a LOGIN \"anna\"\"secret\"\r\n", "a BAD"),
        (b"a LOGIN \"anna\" \"secret\r\n", "a BAD"),
        (b"a LOGIN (anna) secret\r\n", "a BAD"),
        (b"a LOGIN anna\tsecret\r\n", "a BAD"),
        (b"a LOGIN {4+}\r\nannaXX secret\r\n", "a BAD"),
        (b"a LOGIN anna {+10}\r\n", "a BAD"),
        (b"a LOGIN anna {10++}\r\n", "a BAD"),
        (b"a LOGIN anna { 10}\r\n", "a BAD"),
        (b"a LOGIN anna {-1}\r\n", "a BAD"),
        (b"a LOGIN anna {0x10}\r\n", "a BAD"),
        (b"a LOGIN anna {4294967296}\r\n", "a BAD"),
        (b"a LOGIN anna {99999999999999999999}\r\n", "a BAD"),
        (b"a ID (\"name\")\r\n", "a BAD"),
        (b"a ID ((((((((((\r\n", "a BAD"),
    ];
    let errors = || proxy.metrics().sum("pointsman_client_errors_total", &[("reason", "syntax")]);
    for (bytes, answer) in bad {
        let before = errors();
        let mut client = proxy.client();
        client.send(bytes);
        let line = client.read_line();
        assert!(line.starts_with(answer), "{:?}: {line:?}", String::from_utf8_lossy(bytes));
        client.send("ok NOOP\r\n");
        client.expect("ok OK");
        // B-30: what is wrong with an ID costs nothing of the budget.
        let counted = errors() > before;
        let is_id = bytes.starts_with(b"a ID");
        assert_eq!(counted, !is_id, "{:?}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(backend.connections(), 0);
    assert!(!proxy.log().contains("panic"));
    proxy.logged_in("anna", "secret").logout();
}

/// B-17, B-26: what is too big to be read over ends the connection, unread.
#[test]
fn what_is_too_big_before_the_login_ends_the_connection() {
    let backend = Backend::ordinary();
    let (proxy, _) = running(&backend);
    let literal = [b"a LOGIN anna {100000+}\r\n".to_vec(), b"x LOGOUT\r\n".repeat(200)].concat();
    let many = [b"a ID (".to_vec(), b"\"k\" {8000+}\r\n".to_vec(), vec![b'v'; 8_000]].concat();
    for (what, bytes) in [
        ("a line", vec![b'A'; 64 * 1024]),
        ("nesting", [b"a NOOP ".to_vec(), vec![b'('; 9_000]].concat()),
        ("a literal on its way", literal),
        ("literals together", [many.as_slice(), &many[6..], &many[6..]].concat().repeat(4)),
    ] {
        let mut client = proxy.client();
        // The proxy may have closed before all of it went out.
        let _ = client.wire().write(&bytes);
        let said = String::from_utf8_lossy(&client.read_to_end()).into_owned();
        assert!(said.contains("* BYE ") || said.contains("BAD"), "{what}: {said:?}");
        assert!(!said.contains("x OK") && !said.contains("x BAD"), "{what}: {said:?}");
    }
    assert_eq!(backend.connections(), 0);
    assert!(!proxy.log().contains("panic"));
}
