//! B-37: LOGIN, AUTHENTICATE and ID are read as imap-codec reads them, which was written
//! by others from the same RFCs. The differences that are meant are listed in `oracle`.

mod oracle;

use oracle::Difference;
use proptest::prelude::*;

fn compared(wire: impl AsRef<[u8]>) -> Option<Difference> {
    oracle::compare(wire.as_ref()).unwrap_or_else(|differs| panic!("{differs}"))
}

fn is_read(wire: &[u8]) -> bool {
    oracle::ours(wire).is_some()
}

#[test]
fn b37_what_one_reads_the_other_reads_alike() {
    for wire in [
        &b"a LOGIN bob pw\r\n"[..],
        b"a login \"bo\\\"b\" \"p\\\\w\"\r\n",
        b"a LOGIN {3}\r\nbob {2+}\r\npw\r\n",
        b"a LOGIN {0}\r\n {0}\r\n\r\n",
        b"a LOGIN \"\" \"\"\r\n",
        b"a LOGIN {003}\r\nb\"b p]}w\r\n",
        b"a LOGIN {4}\r\n{5+} \"x {5}\"\r\n",
        b"a.1 AUTHENTICATE PLAIN\r\n",
        b"a AUTHENTICATE plain AGEAYg==\r\n",
        b"a AUTHENTICATE PLAIN =\r\n",
        b"a AUTHENTICATE X-OWN YQ==\r\n",
        b"a AUTHENTICATE SCRAM-SHA-256 biwsbj11c2VyLHI9eA==\r\n",
        b"a ID NIL\r\n",
        b"a id ()\r\n",
        b"a ID (\"name\" \"x\" \"v\" nil {2}\r\nos {1+}\r\n\x01)\r\n",
    ] {
        assert!(is_read(wire), "{:?}", wire.escape_ascii());
        assert_eq!(compared(wire), None);
    }
}

#[test]
fn b37_what_one_refuses_the_other_refuses() {
    for wire in [
        &b"a LOGIN \"a\" \"b\" \"c\"\r\n"[..],
        b"a LOGIN a\r\n",
        b"a LOGIN a b \r\n",
        b"a LOGIN  a b\r\n",
        b"a LOGIN a  b\r\n",
        b"a LOGIN\ta b\r\n",
        b"a LOGIN a\tb\r\n",
        b"a LOGIN \"a\"\"b\"\r\n",
        b"a LOGIN \"a b\r\n",
        b"a LOGIN a\\ b\r\n",
        b"a LOGIN a* b\r\n",
        b"a LOGIN (a) b\r\n",
        b"a LOGIN \"a\\x\" b\r\n",
        b"a LOGIN {3}\r\nab c\r\n",
        b"a LOGIN {1}\r\nab c\r\n",
        b"a LOGIN {1}a b\r\n",
        b"a LOGIN {+1}\r\na b\r\n",
        b"a LOGIN {1++}\r\na b\r\n",
        b"a LOGIN ~{1}\r\na b\r\n",
        b"a LOGIN {1}\na b\r\n",
        b"a LOGIN x{1}\r\na b\r\n",
        b"a LOGIN {2}\r\n\0a b\r\n",
        b"a+ LOGIN a b\r\n",
        b" LOGIN a b\r\n",
        b"a  LOGIN a b\r\n",
        b"a AUTHENTICATE\r\n",
        b"a AUTHENTICATE PLAIN AGEAYg\r\n",
        b"a AUTHENTICATE PLAIN AGEAYh==\r\n",
        b"a AUTHENTICATE PLAIN AGEAYg== x\r\n",
        b"a AUTHENTICATE \"PLAIN\"\r\n",
        b"a ID\r\n",
        b"a ID (\"k\")\r\n",
        b"a ID (\"k\" \"v\" )\r\n",
        b"a ID (k v)\r\n",
        b"a ID ((\"k\" \"v\"))\r\n",
        b"a ID (\"k\"  \"v\")\r\n",
        b"a ID (\"k\" {2}\r\n\0v)\r\n",
    ] {
        assert!(!is_read(wire), "{:?}", wire.escape_ascii());
        assert_eq!(compared(wire), None);
    }
}

#[test]
fn b37_the_differences_are_the_listed_ones() {
    let large = |fields: usize| format!("a ID ({})\r\n", vec!["\"k\" \"v\""; fields].join(" "));
    let long = |key: usize, text: usize| {
        format!("a ID (\"{}\" \"{}\")\r\n", "k".repeat(key), "v".repeat(text))
    };
    let tag = "t".repeat(65);
    let cases = [
        ("a LOGIN \"b\u{f6}b\" \"p\u{e9}w\"\r\n".to_owned(), Difference::EightBitInQuotes),
        ("a LOGIN {4}\r\nb\r\nb pw\r\n".to_owned(), Difference::LineEndInCredential),
        ("a LOGIN bob {2}\r\np\n\r\n".to_owned(), Difference::LineEndInCredential),
        ("a AUTHENTICATE PLAIN \r\n".to_owned(), Difference::BlankInitialResponse),
        (format!("{tag} LOGIN bob pw\r\n"), Difference::TagTooLong),
        (large(31), Difference::IdTooLarge),
        (long(31, 1), Difference::IdTooLarge),
        (long(1, 1025), Difference::IdTooLarge),
    ];
    for (wire, difference) in cases {
        assert_eq!(compared(&wire), Some(difference), "{wire:?}");
    }
    assert_eq!(compared(large(30)), None);
    assert_eq!(compared(long(30, 1024)), None);
}

/// Pieces of which commands are made, sound and broken.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop::sample::select(vec![
        " ",
        "a",
        "bob",
        "\"",
        "\"\"",
        "\"x y\"",
        "\\\"",
        "\\\\",
        "\\",
        "(",
        ")",
        "{0}\r\n",
        "{1}\r\n",
        "{3+}\r\nabc",
        "{2}\r\nab",
        "{",
        "}",
        "+",
        "=",
        "NIL",
        "nil",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "\t",
        "]",
        "[",
        "%",
        "*",
        "AGEAYg==",
        "YQ==",
        "YR==",
        "\u{e9}",
        "\u{7f}",
        "\"k\" \"v\"",
        "\"k\" NIL",
    ]);
    prop_oneof![
        15 => fixed.prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

fn head() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![
        &b"a LOGIN "[..],
        b"a LOGIN bob ",
        b"a login \"",
        b"a AUTHENTICATE PLAIN",
        b"a AUTHENTICATE ",
        b"a ID ",
        b"a ID (",
        b"a ID (\"k\" ",
        b"a ",
        b"",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn b37_commands_of_all_kinds_of_pieces_are_read_alike(
        head in head(),
        pieces in prop::collection::vec(piece(), 0..8),
        tail in prop::sample::select(vec![&b"\r\n"[..], b")\r\n", b"\"\r\n", b""]),
    ) {
        let wire = [head, &pieces.concat(), tail].concat();
        if let Err(differs) = oracle::compare(&wire) {
            prop_assert!(false, "{}", differs);
        }
    }
}
