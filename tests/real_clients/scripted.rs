//! Client libraries, each run by a script of its own: login, list, append, fetch, search,
//! flags, move, IDLE. The scripts check what they got; here it is asked of the server.

use std::process::Command;

use super::service::{
    Resident, difficult_mails, files, installed, on_dovecot_and_cyrus, resident, wake_up,
};
use super::support::authorization::node_modules;
use super::support::process::Process;
use super::support::programs::Account;
use super::support::temporary_folder;

/// `Entwürfe & mehr` in modified UTF-7 (RFC 3501 section 5.1.3), as a server stores it.
const DRAFTS: &str = "Entw&APw-rfe &- mehr";

/// Runs the script, wakes it from IDLE, and asks the server what it has done: the first
/// mail lies in `archive`, flagged; the second is answered.
fn assert_works(user: &Resident, way: &Account<'_>, mut script: Command, archive: &str) {
    let folder = temporary_folder("script");
    let mails = difficult_mails();
    script.args(["localhost", &way.address.port().to_string(), way.security.name()]);
    script.arg(way.security.ca().unwrap()).args([way.user, way.password]);
    script.args(files(folder.path(), &mails)).env("HOME", folder.path());
    let mut script = Process::start("script", &mut script, &folder.path().join("log"));
    user.wake(&mut script, "idling");
    assert_eq!(script.wait_for_end(), 0, "{}", script.log());
    let steps: Vec<String> = script.log().lines().map(str::to_owned).collect();
    assert_eq!(
        steps,
        ["login", "list", "append", "fetch", "search", "flags", "move", "idling", "idle"],
    );

    user.assert_holds(archive, &[(&mails[0], "\\Flagged")]);
    let woken = wake_up();
    let mut left: Vec<(&[u8], &str)> = mails[1..].iter().map(|text| (&text[..], "")).collect();
    left[0].1 = "\\Answered";
    left.push((&woken, ""));
    user.assert_holds("INBOX", &left);
}

fn python(script: &str) -> Command {
    let mut command = Command::new(installed("python").join("bin/python"));
    command.args(["-u", "-c", script]);
    command
}

#[test]
fn imapclient_does_all_that_it_can() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "imapclient");
        let way = if shard == "north" { user.starttls() } else { user.implicit() };
        let script = python(include_str!("imapclient_session.py"));
        assert_works(&user, &way, script, DRAFTS);
    });
}

/// It has no STARTTLS.
#[test]
fn aioimaplib_does_all_that_it_can() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "aioimaplib");
        let script = python(include_str!("aioimaplib_session.py"));
        assert_works(&user, &user.implicit(), script, "Archive");
    });
}

#[test]
fn imapflow_does_all_that_it_can() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "imapflow");
        let way = if shard == "north" { user.implicit() } else { user.starttls() };
        let mut script = Command::new("node");
        script.env("NODE_PATH", node_modules());
        script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_clients/imapflow_session.cjs"));
        assert_works(&user, &way, script, DRAFTS);
    });
}
