//! mutt and neomutt.

use super::service::{
    assert_same_lines, difficult_mails, on_dovecot_and_cyrus, on_each_shard, resident,
};
use super::support::process::{Process, in_terminal};
use super::support::{mail, temporary_folder, wait_until};

/// An mbox file without mutt's notes about what was read.
fn without_status(mbox: &[u8]) -> String {
    let text = String::from_utf8_lossy(mbox);
    text.split_inclusive('\n').filter(|line| !line.starts_with("Status: ")).collect()
}

#[test]
fn mutt_copies_the_same_mails() {
    on_each_shard(|shard| {
        let user = resident(shard, "mutt");
        user.put(&difficult_mails());
        let ways = [user.direct(), user.implicit(), user.starttls()];
        let [direct, implicit, starttls] = ways.map(|way| {
            let folder = temporary_folder("mutt");
            without_status(&way.mutt_copy(folder.path()))
        });
        assert_eq!(direct.matches("\nFrom: sender@example.test\n").count(), 6, "{direct}");
        assert_same_lines(&direct, &implicit);
        assert_same_lines(&direct, &starttls);
    });
}

/// Flags the second mail, marks the third as answered, moves the first to `Archive`.
const MOVES: &str = "<jump>2<enter><set-flag>!<jump>3<enter><set-flag>r\
                     <jump>1<enter><save-message>=Archive<enter><sync-mailbox><quit>";

fn assert_flags_and_moves(program: &str, purpose: &str) {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, purpose);
        let mails = difficult_mails();
        user.create("Archive");
        user.put(&mails);
        let way = if shard == "north" { user.starttls() } else { user.implicit() };
        way.mutt(program, temporary_folder("mutt").path(), MOVES);
        user.assert_holds("Archive", &[(&mails[0], "")]);
        let mut left: Vec<(&[u8], &str)> = mails[1..].iter().map(|text| (&text[..], "")).collect();
        left[0].1 = "\\Flagged";
        left[1].1 = "\\Answered";
        user.assert_holds("INBOX", &left);
    });
}

#[test]
fn mutt_flags_and_moves() {
    assert_flags_and_moves("mutt", "mutt-moves");
}

#[test]
fn neomutt_flags_and_moves() {
    assert_flags_and_moves("neomutt", "neomutt-moves");
}

/// `log` turns on a log of the protocol in the file `.muttdebug0` of the given folder.
fn assert_wakes_from_idle(program: &str, purpose: &str, log: impl Fn(&str) -> String + Sync) {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, purpose);
        user.put(&[mail("first")]);
        let way = if shard == "north" { user.implicit() } else { user.starttls() };
        let folder = temporary_folder("mutt");
        let at = folder.path();
        let waits = "set imap_idle=yes\nset timeout=1\nset mail_check=1\n";
        let rc = way.mutt_settings(at, waits);
        let log = log(&at.to_string_lossy());
        let command = format!("{program} {log} -n -F {}", rc.display());
        let _running = Process::start(program, &mut in_terminal(&command, at), &at.join("log"));

        let logged = |so: &dyn Fn(&str) -> bool| {
            let log = std::fs::read(at.join(".muttdebug0")).unwrap_or_default();
            String::from_utf8_lossy(&log).lines().any(so).then_some(())
        };
        wait_until("it waits", || {
            logged(&|line| line.contains("> a") && line.trim_end().ends_with(" IDLE"))
        });
        user.put(&[mail("wake up")]);
        wait_until("it fetches the mail", || logged(&|line| line.contains("FETCH 2:2 (")));
    });
}

#[test]
fn mutt_wakes_from_idle() {
    assert_wakes_from_idle("mutt", "mutt-waits", |_| "-d 3".to_owned());
}

#[test]
fn neomutt_wakes_from_idle() {
    assert_wakes_from_idle("neomutt", "neomutt-waits", |at| format!("-d 3 -l {at}/.muttdebug"));
}
