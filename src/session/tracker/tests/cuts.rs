//! However the network cuts the bytes, output and events are the same.

use proptest::prelude::*;

use super::super::{Settings, TIMED_MAX};
use super::{Pair, Step, c, s};

/// Conversations that between them use every state.
fn transcripts() -> Vec<Vec<Step>> {
    let big = "x".repeat(200);
    vec![
        vec![
            c("a1 SELECT \"IN\\\"BOX\" (CONDSTORE)\r\n"),
            s(
                "* 3 EXISTS\r\n* FLAGS (\\Seen)\r\n* OK [UIDVALIDITY 1] {5}\r\na1 OK [READ-WRITE] x\r\n",
            ),
            c("a2 UID FETCH 1:* (FLAGS)\r\na3 UID SEARCH RETURN (SAVE) ALL\r\nDO"),
            s(
                "* 1 FETCH (BODY[] {12}\r\na2 OK x\r\n{3} BINARY ~{3}\r\n\r\n* X {0}\r\n)\r\na2 OK\r\n",
            ),
            s("* ESEARCH (TAG \"a3\") UID\r\na3 OK x\r\n"),
            c("NE\r\na4 IDLE\r\n"),
            s("+ idling\r\n* 4 EXISTS\r\n"),
            c("DONE\r\n"),
            s("DONE BAD x\r\na4 OK Idle\r\n"),
        ],
        vec![
            c("a APPEND {5}\r\nINBOX (\\Seen) ~{10}\r\n"),
            s("+ go\r\n"),
            s("* 9 EXISTS\r\n+ go\r\n"),
            c("b LOGIN x\r\n\r\nc APPEND x {3}\r\n"),
            s("a OK\r\nc NO full\r\n"),
            c("d NOOP\ne ENABLE CONDSTORE\r\nf NOTIFY NONE\r\ng RENAME {2+}\r\nab x\r\n"),
            s("d OK\ne OK\r\n* ENABLED X\r\n* BYE\r\nf OK\r\ng OK\r\n"),
        ],
        vec![
            c("f FETCH 1 BODY[]\r\n"),
            s("* 1 FETCH (BODY[] {30}\r\nabc"),
            c(
                "a LOGIN {3+}\r\njoe {2+}\r\npw\r\nb STARTTLS\r\nc authenticate PLAIN {4}\r\n* PROXYAUTH x\r\n",
            ),
            s("* CAPABILITY COMPRESS=DEFLATE\r\n"),
            s(")\r\nf OK [CAPABILITY A COMPRESS=DEFLATE UNAUTHENTICATE B] {4}\r\n"),
            s(format!("* CAPABILITY IDLE {big} UNAUTHENTICATE  C \r\n* OK [CAPABILITY A]\r\n")),
        ],
        vec![
            c(
                "a XYZZY {60+}\r\nFrom: x\r\nunauthenticated b\r\n\tq proxyaut \r\nb  PROXYAUTHX\r\nabcdefghij b unauthenticate\r\n",
            ),
            c("c XYZZY {5+}\r\nabc d UNAUTHENTICATE\r\nd X\r\n"),
        ],
        vec![
            c("a APPEND x {4}\r\n"),
            c("b NOOP\r\nlogi"),
            s("* 1 FETCH {5}\n"),
            c("n x\r\nc COMPRESS DEFLATE\r\n"),
        ],
        vec![c("a NOOP\r\nb X \"a\\\\\" {7+}\r\n\"\0\r\n{5}\r\n c\0d\r\n")],
        vec![c("a NOOP\r\nb X \"a\\\" {7+}\r\n\"\0\r\n{5}\r\n c\0d\r\n")],
        vec![c("tag{5}\r\n")],
        vec![c("a X {00000000000000000000000000000000000000000000000000001+}\r\nx\rx\r\n")],
        vec![c(format!("a NOOP\r\n{big} x\r\n"))],
        vec![s(format!("* OK\r\n{big} OK\r\n"))],
        vec![s("* X {4}\r \r\n* X {4} \r\r\n* X\r{2}\n")],
        vec![
            c("a IDLE\r\nb APPEND {3}\r\n"),
            s("+ x\r\na NO\r\n+ x\r\n"),
            c("abc\r\nx y z\r\n"),
            s("b OK\r\nx BAD\r\nx BAD\r\n"),
        ],
        vec![c("a NOOP\r\n".repeat(TIMED_MAX) + "b IDLE\r\nc NOOP\r\n")],
        vec![c("a APPEND x {5}"), s("+ OK\r\n"), c("\r\nhello\r\nb NOOP\r\n")],
        vec![c("a APPEND x {5}\r"), s("+ OK\r\n"), c("\nhello\r\nb NOOP\r\n")],
        vec![c("a APPEND x {5}"), s("+ OK\r\n"), c("x {5}\r\nhello\r\nb NOOP\r\n")],
    ]
}

fn outcome(script: &[Step], recode: bool, cut: &mut dyn FnMut() -> usize) -> Pair {
    let mut pair = Pair::with(Settings { check_literal_lines: true });
    pair.recode = recode;
    pair.play(script, cut);
    pair
}

/// What must not depend on the cuts. Capacity and buffers of the driver may.
fn assert_same(script: &[Step], whole: &Pair, other: &Pair, how: &str) {
    let text = |pair: &Pair| (pair.up_text(), pair.down_text(), pair.events.clone(), pair.error);
    assert_eq!(text(other), text(whole), "{how}: {script:?}");
    if whole.error.is_none() {
        assert_eq!(other.tracker, whole.tracker, "{how}: {script:?}");
        assert_eq!(other.rest, whole.rest, "{how}: {script:?}");
    }
}

#[test]
fn fixed_transcripts_do_not_depend_on_where_reads_split() {
    for script in transcripts() {
        let whole = outcome(&script, false, &mut || usize::MAX);
        for read_bytes in 1..40 {
            let other = outcome(&script, true, &mut || read_bytes);
            assert_same(&script, &whole, &other, &format!("reads of {read_bytes}"));
        }
        let longest =
            script.iter().map(|(Step::Client(bytes) | Step::Server(bytes))| bytes.len()).max();
        for at in 1..longest.unwrap_or(1) {
            let mut first = false;
            let mut cut = || {
                first = !first;
                if first { at } else { usize::MAX }
            };
            assert_same(
                &script,
                &whole,
                &outcome(&script, true, &mut cut),
                &format!("cut at {at}"),
            );
        }
    }
}

/// Pieces that sound conversations and hostile ones are made of.
fn client_piece() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop::sample::select(vec![
        "a1 NOOP\r\n",
        "a2 UID FETCH 1 (FLAGS)\r\n",
        "a3 IDLE\r\n",
        "DONE\r\n",
        "a1 SELECT ",
        "{3}\r\n",
        "{3+}\r\n",
        "~{5+}\r\n",
        "abc",
        "hello",
        "\r\n",
        "\n",
        " ",
        "\"",
        "\\",
        "a4 LOGIN x y\r\n",
        "a5 LOGIN {3}\r\n",
        "b AUTHENTICATE PLAIN\r\n",
        "b UNAUTHENTICATE\r\n",
        "x\r",
        "(SAVE)",
        "a6 SEARCH RETURN ",
        "a7 APPEND INBOX {10}\r\n",
        "a8 NOTIFY SET x\r\n",
        "a9 ENABLE X\r\n",
        "{99999999999999999999}\r\n",
        "a1 DELETE x\r\n",
        "INBOX",
        "{",
        "}",
        "+",
        "\0",
        "\t",
        "* x\r\n",
        "lone\r\n",
        "a10 CLOSE\r\n",
    ]);
    prop_oneof![
        12 => fixed.prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (1_usize..130).prop_map(|len| vec![b'q'; len]),
    ]
}

fn server_piece() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop::sample::select(vec![
        "+ go\r\n",
        "+\r\n",
        "a1 OK x\r\n",
        "a2 NO x {5}\r\n",
        "a3 BAD x\r\n",
        "a7 OK x\r\n",
        "a6 OK x\r\n",
        "* 1 EXISTS\r\n",
        "* 1 FETCH (BODY[] {7}\r\n",
        "~{3}\r\n",
        "abc",
        ")\r\n",
        "\r\n",
        "\n",
        "\r",
        "* CAPABILITY ",
        "COMPRESS=DEFLATE ",
        "UNAUTHENTICATE",
        " IDLE",
        "* OK [CAPABILITY ",
        "] ok\r\n",
        "a1 OK [CAPABILITY A ",
        "* ENABLED X Y\r\n",
        "* BYE\r\n",
        "a9 OK\r\n",
        "lone BAD\r\n",
        "* ",
        "a",
    ]);
    prop_oneof![
        12 => fixed.prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (1_usize..150).prop_map(|len| vec![b'Q'; len]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::vec(client_piece(), 1..6)
            .prop_map(|pieces| Step::Client(pieces.concat())),
        prop::collection::vec(server_piece(), 1..6)
            .prop_map(|pieces| Step::Server(pieces.concat())),
    ]
}

/// One command with all that both sides say for it.
fn exchange() -> impl Strategy<Value = (Vec<Step>, usize)> {
    let body = prop::collection::vec(any::<u8>(), 0..60);
    (0_usize..8, 0_u32..1000, body).prop_map(|(which, number, body)| {
        let tag = format!("T{number}");
        let len = body.len();
        let literal = |head: String, tail: &str| [head.as_bytes(), &body, tail.as_bytes()].concat();
        match which {
            0 => (vec![c(format!("{tag} NOOP\r\n")), s(format!("* 1 EXISTS\r\n{tag} OK x {{9}}\r\n"))], 1),
            1 => (
                vec![
                    c(format!("{tag} FETCH 1 BODY[]\r\n")),
                    s(literal(format!("* 1 FETCH (X {{{len}}}\r\n"), &format!(")\r\n{tag} OK\r\n"))),
                ],
                1,
            ),
            2 => (
                vec![
                    c(format!("{tag} APPEND \"a b\" {{{len}}}\r\n")),
                    s("+ go\r\n"),
                    c(literal(String::new(), "\r\n")),
                    s(format!("{tag} OK [APPENDUID 1 2] x\r\n")),
                ],
                1,
            ),
            3 => (
                vec![
                    c(literal(format!("{tag} APPEND x ~{{{len}+}}\r\n"), " x\n")),
                    s(format!("{tag} NO x\r\n")),
                ],
                1,
            ),
            4 => (vec![c(format!("{tag} APPEND x {{9}}\r\n")), s(format!("{tag} NO x\r\n"))], 1),
            5 => (
                vec![
                    c(format!("{tag} IDLE\r\n")),
                    s("+ idling\r\n* 2 EXPUNGE\r\n"),
                    c("DONE\r\n"),
                    s(format!("{tag} OK\r\n")),
                ],
                1,
            ),
            6 => (
                vec![
                    c(format!("{tag} SELECT x\r\n{tag}b UID SEARCH RETURN (SAVE) ALL\r\n{tag}c STORE 1 +FLAGS x\r\n")),
                    s(format!("* OK [X {{3}}\r\n{tag}c OK\r\n{tag} OK\r\n{tag}b BAD\r\n")),
                ],
                3,
            ),
            _ => (vec![c("\r\n"), s(literal(format!("* X {{{len}}}\r\n"), "\n"))], 0),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_conversation_is_the_same_for_every_way_of_cutting_it(
        script in prop::collection::vec(step(), 1..8),
        lengths in prop::collection::vec(1_usize..30, 1..40),
    ) {
        let whole = outcome(&script, false, &mut || usize::MAX);
        let single = outcome(&script, false, &mut || 1);
        assert_same(&script, &whole, &single, "single bytes");
        let mut next = lengths.iter().cycle();
        let random = outcome(&script, true, &mut || *next.next().unwrap());
        assert_same(&script, &whole, &random, "random cuts, encoded in between");
    }

    #[test]
    fn sound_conversations_pass_unchanged_and_end_at_a_border(
        exchanges in prop::collection::vec(exchange(), 1..12),
        lengths in prop::collection::vec(1_usize..50, 1..40),
    ) {
        let script: Vec<Step> = exchanges.iter().flat_map(|(steps, _)| steps.clone()).collect();
        let commands: usize = exchanges.iter().map(|(_, count)| count).sum();
        let mut pair = Pair::new();
        pair.recode = true;
        let mut next = lengths.iter().cycle();
        pair.play(&script, &mut || *next.next().unwrap());
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for step in &script {
            match step {
                Step::Client(bytes) => up.extend_from_slice(bytes),
                Step::Server(bytes) => down.extend_from_slice(bytes),
            }
        }
        prop_assert_eq!(pair.error, None);
        prop_assert_eq!(pair.up, up);
        prop_assert_eq!(pair.down, down);
        prop_assert!(pair.tracker.at_command_border());
        prop_assert_eq!(pair.tracker.in_flight(), 0);
        prop_assert_eq!(pair.events.iter().filter(|event| matches!(event, super::Event::Finished { .. })).count(), commands);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_come_out_as_they_went_in(
        reads in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..80)), 0..20),
    ) {
        let mut pair = Pair::new();
        let mut down = Vec::new();
        for (from_client, bytes) in reads {
            if from_client {
                if pair.error.is_none() {
                    pair.c(&bytes);
                }
            } else {
                pair.s(&bytes);
                down.extend_from_slice(&bytes);
            }
        }
        // No read this short and this random spells a forbidden command or a capability.
        if !pair.events.contains(&super::Event::NoCommand) {
            prop_assert_eq!(pair.down, down);
        }
    }
}
