//! mutt and neomutt.

use std::path::Path;

use super::service::{
    assert_same_lines, difficult_mails, on_dovecot_and_cyrus, on_each_shard, resident,
    with_bare_line_ends,
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

/// Has the server find a word and flags the mail that holds it, marks the third mail as
/// answered, moves the first to `Archive`, has `Listed` completed by the list of folders and flags
/// its mail, and copies the mail of a local file to `Archive`.
fn orders(local: &Path) -> String {
    [
        "<tag-pattern>=b t1<enter><tag-prefix><set-flag>!<tag-pattern>~A<enter>",
        "<jump>3<enter><set-flag>r",
        "<jump>1<enter><save-message>=Archive<enter><sync-mailbox>",
        "<change-folder>=List<complete><enter>",
        "<jump>1<enter><set-flag>!<sync-mailbox>",
        &format!("<change-folder>{}<enter>", local.display()),
        "<copy-message>=Archive<enter><quit>",
    ]
    .concat()
}

/// As both programs store a mail of their own: with the length of its body as they count it.
fn with_length(mail: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(mail).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let length = body.len() - body.matches('\r').count();
    format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn assert_does_all(program: &str, purpose: &str) {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, purpose);
        let mails = difficult_mails();
        user.create("Archive");
        user.put(&mails);
        let listed = mail("listed");
        user.put_into("Listed", std::slice::from_ref(&listed));
        let way = if shard == "north" { user.starttls() } else { user.implicit() };
        let folder = temporary_folder("mutt");
        let letter = mail("written here");
        let local = folder.path().join("letters");
        for part in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(local.join(part)).unwrap();
        }
        std::fs::write(local.join("new/1.test"), with_bare_line_ends(&letter)).unwrap();
        way.mutt(program, folder.path(), &orders(&local));
        user.assert_holds("Listed", &[(&listed, "\\Flagged")]);
        user.assert_holds("Archive", &[(&mails[0], ""), (&with_length(letter), "")]);
        let mut left: Vec<(&[u8], &str)> = mails[1..].iter().map(|text| (&text[..], "")).collect();
        left[0].1 = "\\Flagged";
        left[1].1 = "\\Answered";
        user.assert_holds("INBOX", &left);
    });
}

#[test]
fn mutt_finds_flags_moves_lists_and_appends() {
    assert_does_all("mutt", "mutt-moves");
}

#[test]
fn neomutt_finds_flags_moves_lists_and_appends() {
    assert_does_all("neomutt", "neomutt-moves");
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
