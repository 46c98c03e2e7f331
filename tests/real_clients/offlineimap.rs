//! offlineimap: both ways between the server and a Maildir, and waiting in IDLE.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::service::{
    as_kept, contents, difficult_mails, on_dovecot_and_cyrus, resident, wake_up,
    with_bare_line_ends,
};
use super::support::process::{Process, output};
use super::support::programs::{Account, Security};
use super::support::{mail, temporary_folder, wait_until};

/// INBOX of the account and of the Maildir `folder/mail`.
fn settings(way: &Account<'_>, folder: &Path, account: &str, far: &str) -> String {
    let implicit = matches!(way.security, Security::Implicit { .. });
    format!(
        "\
[general]
metadata = {folder}/state
accounts = test
ui = basic
socktimeout = 60

[Account test]
localrepository = near
remoterepository = far
{account}

[Repository near]
type = Maildir
localfolders = {folder}/mail

[Repository far]
type = IMAP
remotehost = localhost
remoteport = {port}
ssl = {ssl}
starttls = {starttls}
sslcacertfile = {ca}
remoteuser = {user}
remotepass = {password}
folderfilter = lambda name: name in ('INBOX', 'Archive')
{far}
",
        port = way.address.port(),
        ssl = if implicit { "yes" } else { "no" },
        starttls = if implicit { "no" } else { "yes" },
        ca = way.security.ca().unwrap().display(),
        user = way.user,
        password = way.password,
        folder = folder.display(),
    )
}

fn offlineimap(folder: &Path) -> Command {
    let mut command = Command::new("offlineimap");
    command.arg("-c").arg(folder.join("rc")).env("HOME", folder).env("PYTHONUNBUFFERED", "1");
    command
}

/// One run. By implicit TLS: behind STARTTLS its library reads and writes one TLS connection
/// from two threads without a lock and may lose its first command on the way.
fn synchronise(folder: &Path) {
    let output = output(offlineimap(folder).arg("-o"));
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ended with {}\n{told}", output.status);
}

/// The file of the mail with that UID, which nobody has read yet.
fn unread(uid: u32, mailbox: &Path) -> PathBuf {
    let entries = std::fs::read_dir(mailbox.join("new")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| path.to_string_lossy().contains(&format!(",U={uid},"))).unwrap()
}

#[test]
fn offlineimap_syncs_mails_flags_moves_and_folders_both_ways() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "offlineimap");
        let mails = difficult_mails();
        user.create("Archive");
        user.put(&mails);
        let way = user.implicit();
        let folder = temporary_folder("offlineimap");
        let at = folder.path();
        std::fs::write(at.join("rc"), settings(&way, at, "", "")).unwrap();
        synchronise(at);
        let (inbox, archive) = (at.join("mail/INBOX"), at.join("mail/Archive"));
        assert!(contents(&inbox.join("new")) == as_kept(&mails), "the mails differ");

        // One is read and put elsewhere, one is answered, one is new.
        let moved = archive.join("cur/1000000000.1_1.here:2,S");
        std::fs::rename(unread(1, &inbox), moved).unwrap();
        let second = unread(2, &inbox);
        let name = second.file_name().unwrap().to_str().unwrap();
        let (name, _) = name.split_once(":2,").unwrap_or((name, ""));
        std::fs::rename(&second, inbox.join(format!("cur/{name}:2,RS"))).unwrap();
        let written = mail("written here");
        let text = with_bare_line_ends(&written);
        std::fs::write(inbox.join("cur/1000000000.2_1.here:2,FS"), text).unwrap();
        synchronise(at);

        user.assert_holds("Archive", &[(&mails[0], "\\Seen")]);
        let mut left: Vec<(&[u8], &str)> = mails[1..].iter().map(|text| (&text[..], "")).collect();
        left[0].1 = "\\Answered \\Seen";
        left.push((&written, "\\Flagged \\Seen"));
        user.assert_holds("INBOX", &left);
    });
}

#[test]
fn offlineimap_wakes_from_idle() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "offlineimap-idle");
        let folder = temporary_folder("offlineimap");
        let at = folder.path();
        let rc = settings(
            &user.implicit(),
            at,
            "autorefresh = 60",
            "idlefolders = ['INBOX']\nholdconnectionopen = yes\nkeepalive = 60",
        );
        std::fs::write(at.join("rc"), rc).unwrap();
        let mut command = offlineimap(at);
        command.args(["-d", "imap"]);
        let mut program = Process::start("offlineimap", &mut command, &at.join("log"));
        user.wake(&mut program, "server IDLE started");
        let inbox = at.join("mail/INBOX/new");
        wait_until("the mail is there", || {
            (contents(&inbox) == as_kept(&[wake_up()])).then_some(())
        });
    });
}
