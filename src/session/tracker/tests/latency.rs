//! Times are exact.

use super::super::{Event, Nanos, Status};
use super::Pair;
use crate::protocol::command_kind::CommandKind;

fn times(pair: &Pair) -> Vec<(CommandKind, Option<Nanos>, Option<Nanos>)> {
    let told = |event: &Event| match event {
        Event::Finished { kind, elapsed, first_byte, .. } => Some((*kind, *elapsed, *first_byte)),
        _ => None,
    };
    pair.events.iter().filter_map(told).collect()
}

#[test]
fn a_command_is_timed_from_its_last_byte_to_the_end_of_its_answer() {
    let mut pair = Pair::new();
    pair.at(10).c("a1 UID FETCH 1 BODY[]").at(100).c("\r\n");
    pair.at(130).s("* 1 FE").at(150).s("TCH (BODY[] {3}\r\nabc)\r\n").at(170).s("a1 O");
    pair.at(190).s("K done\r").at(200).s("\n");
    assert_eq!(times(&pair), [(CommandKind::UidFetch, Some(100), Some(30))]);
}

#[test]
fn an_append_is_timed_from_the_end_of_its_literal() {
    let mut pair = Pair::new();
    pair.at(0).c("a1 APPEND x {5}\r\n").at(40).s("* 1 EXISTS\r\n+ go\r\n").at(50).c("hel");
    pair.at(60).c("lo").at(70).c("\r\n").at(95).s("a1 OK\r\n");
    assert_eq!(times(&pair), [(CommandKind::Append, Some(25), Some(25))]);
}

#[test]
fn a_refused_literal_is_timed_from_its_announcement() {
    let mut pair = Pair::new();
    pair.at(7).c("a1 APPEND x {5}\r\n").at(20).s("a1 NO full\r\n");
    assert_eq!(times(&pair), [(CommandKind::Append, Some(13), Some(13))]);
}

#[test]
fn an_answer_before_the_command_is_complete_gives_no_time() {
    let mut pair = Pair::new();
    pair.c("a1 APPEND x {5+}\r\nhe").at(9).s("a1 NO full\r\n").c("llo\r\na2 NOOP\r\n");
    pair.at(12).s("a2 OK\r\n");
    assert_eq!(
        times(&pair),
        [(CommandKind::Append, None, None), (CommandKind::Noop, Some(3), Some(3))]
    );
}

#[test]
fn untagged_lines_count_for_the_oldest_command() {
    let mut pair = Pair::new();
    pair.at(0).c("a1 FETCH 1 FLAGS\r\n").at(5).c("a2 NOOP\r\na3 STATUS x (MESSAGES)\r\n");
    pair.at(10).s("* 1 FETCH ()\r\n").at(20).s("a1 OK\r\n").at(30).s("* STATUS x ()\r\n");
    pair.at(40).s("a3 OK\r\n").at(50).s("a2 OK\r\n");
    assert_eq!(
        times(&pair),
        [
            (CommandKind::Fetch, Some(20), Some(10)),
            (CommandKind::Status, Some(35), Some(35)),
            (CommandKind::Noop, Some(45), Some(25)),
        ]
    );
}

#[test]
fn an_idle_is_never_timed_and_takes_no_untagged_line_from_others() {
    let mut pair = Pair::new();
    pair.at(0).c("a1 IDLE\r\n").at(1).s("+ idling\r\n").at(2).c("DONE\r\na2 NOOP\r\n");
    pair.at(5).s("* 2 EXISTS\r\n").at(9).s("a1 OK\r\n").at(10).s("a2 OK\r\n");
    assert_eq!(
        times(&pair),
        [(CommandKind::Idle, None, None), (CommandKind::Noop, Some(8), Some(8))]
    );
    assert_eq!(pair.events[..2], [Event::IdleStarted, Event::IdleEnded]);
}

#[test]
fn a_reused_tag_drops_the_samples_and_counts_the_commands() {
    let mut pair = Pair::new();
    pair.at(0).c("a NOOP\r\na FETCH 1 FLAGS\r\nb NOOP\r\n").at(9).s("a OK\r\na OK\r\nb OK\r\n");
    assert_eq!(
        times(&pair),
        [
            (CommandKind::Noop, None, None),
            (CommandKind::Fetch, None, None),
            (CommandKind::Noop, Some(9), Some(9)),
        ]
    );
    pair.at(20).c("a NOOP\r\n").at(25).s("a OK\r\n");
    assert_eq!(times(&pair).last(), Some(&(CommandKind::Noop, Some(5), Some(5))));
}

#[test]
fn beyond_sixty_four_commands_are_counted_and_not_timed() {
    let mut pair = Pair::new();
    let many = 10_000;
    for number in 0..many {
        pair.c(format!("t{number} NOOP\r\n"));
    }
    assert_eq!(pair.tracker.in_flight(), many);
    pair.at(7);
    for number in 0..many {
        pair.s(format!("t{number} OK\r\n"));
    }
    assert_eq!(pair.tracker.in_flight(), 0);
    assert!(!pair.tracker.opaque());
    assert!(pair.tracker.at_command_border());
    assert_eq!(times(&pair).iter().filter(|sample| sample.1 == Some(7)).count(), 64);
    assert_eq!(pair.finished().len(), many);
    assert!(pair.finished().iter().all(|(_, status)| *status == Status::Ok));
    pair.c("x NOOP\r\n").at(9).s("x OK\r\n");
    assert_eq!(times(&pair).last(), Some(&(CommandKind::Noop, Some(2), Some(2))));
    pair.s("t1 OK\r\n");
    assert!(pair.tracker.opaque(), "nothing is in flight that it could answer");
}

#[test]
fn a_literal_of_an_untimed_command_is_followed() {
    let mut pair = Pair::new();
    for number in 0..64 {
        pair.c(format!("t{number} NOOP\r\n"));
    }
    pair.c("u APPEND x {3}\r\n").s("t0 OK\r\nt1 BAD\r\n");
    assert!(pair.tracker.client_blocked());
    // Not yet: an answer to its tag could be another command's.
    assert!(pair.up_text().ends_with("u APPEND x {3}\r"));
    for number in 2..64 {
        pair.s(format!("t{number} OK\r\n"));
    }
    assert!(pair.up_text().ends_with("u APPEND x {3}\r\n"));
    assert!(pair.tracker.client_blocked());
    pair.s("u NO full\r\n");
    assert!(!pair.tracker.client_blocked());
    assert_eq!(pair.tracker.in_flight(), 0);
}

/// The answer to a command that is only counted is not taken for that to a later one with its
/// tag, whose literal waits: the server would read as a literal what is taken for a line.
#[test]
fn a_tag_that_comes_again_behind_sixty_four_commands_deceives_nobody() {
    for answered in [0, 10] {
        let mut pair = Pair::new();
        for number in 0..64 {
            pair.c(format!("t{number} NOOP\r\n"));
        }
        pair.c("a NOOP\r\n");
        for number in 0..answered {
            pair.s(format!("t{number} OK\r\n"));
        }
        pair.c("a APPEND x {19}\r\nb LOGIN bert secret");
        for number in answered..64 {
            pair.s(format!("t{number} OK\r\n"));
        }
        assert!(pair.up_text().ends_with("a APPEND x {19}\r"));
        pair.s("a OK for the NOOP\r\n");
        assert!(pair.up_text().ends_with("a APPEND x {19}\r\n"), "{}", pair.up_text());
        assert!(pair.tracker.client_blocked());
        pair.s("+ go\r\n");
        assert!(pair.up_text().ends_with("b LOGIN bert secret"), "it is the literal");
    }
}

#[test]
fn an_idle_waits_until_it_can_be_known() {
    let mut pair = Pair::new();
    for number in 0..64 {
        pair.c(format!("t{number} NOOP\r\n"));
    }
    pair.c("i ID").c("LE\r\nDO").c("NE\r\n");
    assert!(pair.tracker.client_blocked());
    assert!(!pair.up_text().contains("IDLE"));
    pair.s("t0 OK\r\n");
    assert!(pair.up_text().ends_with("i IDLE\r\nDONE\r\n"));
    assert!(!pair.tracker.client_blocked());
}

#[test]
fn literals_that_look_like_answers_and_commands_change_nothing() {
    let mut pair = Pair::new();
    pair.c("a1 APPEND x {18+}\r\na2 FETCH 1 FLAGS\r\n\r\na2 FETCH 1 BODY[]\r\n");
    pair.at(4).s("* 1 FETCH (BODY[] {23}\r\na1 OK done\r\na2 BAD no\r\n)\r\n");
    assert_eq!(times(&pair), []);
    pair.at(5).s("a1 OK\r\na2 OK\r\n");
    assert_eq!(
        times(&pair),
        [(CommandKind::Append, Some(5), Some(4)), (CommandKind::Fetch, Some(5), Some(5))]
    );
}

#[test]
fn the_first_byte_of_a_tagged_answer_is_the_one_of_its_tag() {
    let mut pair = Pair::new();
    pair.c("abc NOOP\r\n").at(10).s("ab").at(20).s("c").at(30).s(" O").at(40).s("K\r\n");
    assert_eq!(times(&pair), [(CommandKind::Noop, Some(40), Some(10))]);
}

#[test]
fn untagged_lines_count_for_none_while_untimed_commands_are_in_flight() {
    let mut pair = Pair::new();
    for number in 0..65 {
        pair.c(format!("t{number} NOOP\r\n"));
    }
    for number in 0..64 {
        pair.s(format!("t{number} OK\r\n"));
    }
    // Nor is a command timed that begins before those have ended.
    pair.c("a FETCH 1 FLAGS\r\n").at(5).s("* 1 EXISTS\r\n").at(9).s("t64 OK\r\na OK\r\n");
    assert_eq!(times(&pair).last(), Some(&(CommandKind::Other, None, None)));
    pair.c("b FETCH 1 FLAGS\r\n").at(12).s("* 1 FETCH (FLAGS ())\r\n").at(14).s("b OK\r\n");
    assert_eq!(times(&pair).last(), Some(&(CommandKind::Fetch, Some(5), Some(3))));
}

#[test]
fn a_line_that_began_before_the_command_was_complete_is_not_its_answer() {
    let mut pair = Pair::new();
    pair.c("a FETCH 1 FLAGS").at(10).s("* 1 EXI").at(20).c("\r\n").at(30).s("STS\r\n");
    pair.at(40).s("* 1").at(45).s("* FETCH ()\r\n").at(50).s("a OK\r\n");
    assert_eq!(times(&pair), [(CommandKind::Fetch, Some(30), Some(20))]);
    let mut pair = Pair::new();
    pair.c("a FETCH 1 FLAGS").at(10).s("*").at(20).c("\r\n").at(30).s(" 1 EXISTS\r\na OK\r\n");
    assert_eq!(times(&pair), [(CommandKind::Fetch, Some(10), Some(10))]);
}
